"""What a model shows on its way, and what replacing it does."""

import dataclasses
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig

Loud = Callable[[nn.Module], nn.Module]
Watch = Callable[..., Tensor]


def tap_names(n_layer: int, *, whole_scores: bool) -> list[str]:
    """Return every tap in the order of the network, as the project's design lists them."""
    scores = ["attn.scores", "attn.weights"] if whole_scores else []
    per_block = [
        *("attn.query", "attn.key", "attn.value", *scores, "attn.context", "attn"),
        *("ln_1.input", "ln_1", "mlp.c_fc", "mlp.gelu", "mlp", "ln_2.input", "ln_2"),
    ]
    blocks = [f"h.{index}.{name}" for index in range(n_layer) for name in per_block]
    return ["embeddings.tokens", "embeddings.positions", "embeddings", *blocks, "logits"]


@pytest.mark.parametrize(("backend", "count"), [("plain", 172), ("tiled", 148)])
def test_twelve_layers_show_their_taps_in_network_order(
    backend: str, count: int, config: GPTConfig, token_ids: Tensor, watch: Watch
) -> None:
    """With the loss, which is taken of the logits, that is 173 taps, or 149 without scores."""
    model = GPT(dataclasses.replace(config, n_layer=12), backend=backend)
    model(token_ids, tap=watch)
    expected = tap_names(12, whole_scores=backend == "plain")
    assert expected == list(watch.seen)
    assert count == len(watch.seen)


def test_taps_have_their_shapes(
    config: GPTConfig, loud: Loud, token_ids: Tensor, watch: Watch
) -> None:
    """The axes outside the blocks are batch, time and width, and vocab at the end."""
    logits = loud(GPT(config))(token_ids, tap=watch)
    expected = {
        "embeddings.tokens": (2, 5, 21),
        "embeddings.positions": (1, 5, 21),
        "embeddings": (2, 5, 21),
        "h.0.ln_2": (2, 5, 21),
        "h.1.ln_2": (2, 5, 21),
        "logits": (2, 5, 37),
    }
    assert expected == {name: tuple(watch.seen[name].shape) for name in expected}
    assert torch.equal(logits, watch.seen["logits"])


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluating"])
def test_watching_changes_nothing(
    training: bool,  # noqa: FBT001
    model: GPT,
    token_ids: Tensor,
    watch: Watch,
) -> None:
    """With and without a tap the logits are equal bit for bit."""
    model.train(training).float()
    torch.manual_seed(5)
    expected = model(token_ids)
    torch.manual_seed(5)
    assert torch.equal(expected, model(token_ids, tap=watch))


@pytest.mark.parametrize("replaced", tap_names(2, whole_scores=True))
def test_a_replaced_tap_changes_what_follows(
    replaced: str, config: GPTConfig, loud: Loud, token_ids: Tensor
) -> None:
    """Whatever tap is replaced, the logits change."""
    model = loud(GPT(config)).eval()

    def disturb(name: str, value: Tensor) -> Tensor:
        return value * torch.linspace(0.5, 1.5, value.shape[-1]) if name == replaced else value

    assert not torch.equal(model(token_ids), model(token_ids, tap=disturb))
