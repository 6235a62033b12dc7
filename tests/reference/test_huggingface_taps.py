"""The taps of Hugging Face's model, compared with the oracle's."""

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from reference import huggingface, oracle

Build = Callable[..., nn.Module]
Same = Callable[[Tensor, Tensor], None]
State = dict[str, Tensor]
Tap = Callable[[str, Any], Any]

CAUSAL = torch.ones(5, 5).tril().bool()
PLACES = torch.tensor([[4, 3, 10, 3, 0], [0, 1, 2, 0, 7]])
PADDED = torch.tensor([[True] * 5, [True, True, True, False, False]])


def kept(_name: str, value: Any) -> Any:  # noqa: ANN401 - a tensor, or an array
    return value


def bent(_name: str, value: Any) -> Any:  # noqa: ANN401 - a tensor, or an array
    return 0.75 * value + 0.125


def scaled(_name: str, value: Any) -> Any:  # noqa: ANN401 - as above
    """Keep zero weights: padded rows, which the two models treat differently, stay hidden."""
    return 0.75 * value


class Watch:
    """A tap that keeps a copy of each tensor and returns `reply` of it."""

    def __init__(self, reply: Tap = kept) -> None:
        self.reply = reply
        self.seen: dict[str, Tensor] = {}

    def __call__(self, name: str, value: Tensor) -> Tensor:
        assert name not in self.seen, f"{name} was shown twice"
        self.seen[name] = value.detach().clone()
        return self.reply(name, value)


def oracle_taps(forward: oracle.Taps, reply: Tap) -> dict[str, Tensor]:
    """Return the oracle's taps up to the logits; it continues with `reply` of each."""
    seen: dict[str, Tensor] = {}
    answer = None
    while "logits" not in seen:
        name, value = forward.send(answer)
        seen[name], answer = torch.tensor(value), reply(name, value)
    return seen


@pytest.mark.parametrize(
    ("places", "mask", "reply"),
    [
        pytest.param(None, None, kept, id="plain"),
        pytest.param(None, None, bent, id="replaced"),
        pytest.param(PLACES, None, kept, id="positions given"),
        pytest.param(PLACES, None, bent, id="positions given, replaced"),
        pytest.param(None, PADDED, kept, id="padded"),
        pytest.param(None, PADDED, scaled, id="padded, replaced"),
    ],
)
def test_every_tap_is_the_oracles(  # noqa: PLR0913 - a call and its arguments
    places: Tensor | None,
    mask: Tensor | None,
    reply: Tap,
    state: State,
    token_ids: Tensor,
    build: Build,
    released: Callable[..., list[NDArray[np.floating]]],
    assert_same: Same,
) -> None:
    """All taps are equal, in order; with replaced values, too.

    Rows of padding and masked scores do not count.
    """
    actual = Watch(reply)
    model = build(dtype=torch.float64)
    made = huggingface.logits(model, token_ids, positions=places, attention_mask=mask, tap=actual)
    assert torch.equal(made, reply("logits", actual.seen["logits"]))
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    seen = CAUSAL & real[:, None, None, :]
    arrays = {name.removeprefix("transformer."): x.numpy() for name, x in state.items()}
    weights = oracle.arrange(released(arrays, 2), n_head=3)
    options = {"positions": places, "mask": mask}
    given = {name: value.numpy() for name, value in options.items() if value is not None}
    forward = oracle.forward(weights, token_ids.numpy(), epsilon=0.03, **given)
    expected = oracle_taps(forward, reply)
    assert list(actual.seen) == list(expected)
    for name, value in actual.seen.items():
        counted = torch.ones_like(value, dtype=torch.bool)
        if name.startswith("h.") and value.ndim == 4:
            counted &= real[:, None, :, None] & (seen if name.endswith("scores") else True)
        elif name != "embeddings.positions":
            counted &= real[:, :, None]
        assert_same(expected[name][counted], value[counted])


def test_attentions_and_hidden_states_are_the_librarys_own(token_ids: Tensor, build: Build) -> None:
    model, watch = build(), Watch()
    huggingface.logits(model, token_ids, tap=watch)
    with torch.no_grad():
        out = model(token_ids, output_attentions=True, output_hidden_states=True)
    hidden = [watch.seen[name] for name in ("embeddings", "h.0.ln_2", "h.1.ln_2")]
    attentions = [watch.seen[f"h.{index}.attn.weights"] for index in range(2)]
    pairs = [*zip(out.hidden_states, hidden, strict=True)]
    pairs += zip(out.attentions, attentions, strict=True)
    assert all(torch.equal(theirs, ours) for theirs, ours in pairs)
    assert torch.equal(out.logits, watch.seen["logits"])


@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_watching_changes_nothing(mask: Tensor | None, token_ids: Tensor, build: Build) -> None:
    model = build()
    expected = huggingface.logits(model, token_ids, attention_mask=mask)
    actual = huggingface.logits(model, token_ids, attention_mask=mask, tap=Watch())
    assert torch.equal(expected, actual)


def traces(model: nn.Module) -> list[object]:
    return [
        trace
        for module in model.modules()
        for trace in (
            *module._forward_hooks.values(),
            *module._forward_pre_hooks.values(),
            *(name for name, value in vars(module).items() if callable(value)),
        )
    ]


@pytest.mark.parametrize("breaks", [False, True], ids=["to the end", "broken off"])
def test_nothing_stays_on_the_model(breaks: bool, token_ids: Tensor, build: Build) -> None:  # noqa: FBT001
    model = build()
    before = traces(model)
    shown: list[str] = []

    def tap(name: str, value: Tensor) -> Tensor:
        shown.append(name)
        if breaks and name == "h.1.attn.scores":
            raise RuntimeError(name)
        return value

    expected = huggingface.logits(model, token_ids)
    with pytest.raises(RuntimeError, match="scores") if breaks else contextlib.nullcontext():
        huggingface.logits(model, token_ids, tap=tap)
    count = len(shown)
    assert torch.equal(expected, huggingface.logits(model, token_ids))
    assert count == len(shown)
    assert before == traces(model)


@pytest.mark.parametrize("mask", [None, PADDED], ids=["whole", "padded"])
def test_replaced_scores_stay_masked(mask: Tensor | None, token_ids: Tensor, build: Build) -> None:
    watch = Watch(lambda name, value: torch.zeros_like(value) if "scores" in name else value)
    huggingface.logits(build(), token_ids, attention_mask=mask, tap=watch)
    real = torch.ones(2, 5, dtype=torch.bool) if mask is None else mask
    seen = (CAUSAL & real[:, None, :]).float()
    expected = (seen / seen.sum(-1, keepdim=True))[:, None].expand(2, 3, 5, 5)
    actual = watch.seen["h.0.attn.weights"]
    assert torch.equal(expected.transpose(1, 2)[real], actual.transpose(1, 2)[real])
