"""The forward passes of all sides: what each is called with, and what it shows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core.inputs import Inputs
from parity.core.runners import (
    build_huggingface,
    build_ours,
    candidate_run,
    huggingface_run,
    model_in_dtype,
    oracle_run,
)
from reference import oracle
from scratch_gpt import GPT
from scratch_gpt.loss import negative_log_likelihood

pytestmark = pytest.mark.usefixtures("one_thread")

IDS = torch.tensor([[3, 210, 0, 7, 3], [12, 5, 21, 30, 1]])
PLACES = torch.tensor([[4, 3, 10, 3, 0], [0, 1, 2, 0, 7]])
PADDED = torch.tensor([[True] * 5, [True, True, True, False, False]])
EVERYTHING = Inputs(token_ids=IDS, positions=PLACES, attention_mask=PADDED)


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("tiny")


@pytest.fixture
def ours(weights: Weights) -> GPT:
    return build_ours(weights)


@pytest.fixture
def theirs(weights: Weights) -> OpenAIGPTLMHeadModel:
    return build_huggingface(weights)


def shown(run: Callable[..., object]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value.detach().clone()
        return value

    with torch.no_grad():
        run(tap)
    return seen


class Given(nn.Module):
    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, *arguments: Tensor | None, tap: Callable[..., Tensor]) -> Tensor:
        self.calls.append(arguments)
        return tap("logits", self.logits)


def test_a_candidate_is_called_with_ids_positions_and_mask() -> None:
    model = Given(torch.zeros(2, 5, 211))
    shown(candidate_run(model, EVERYTHING))
    shown(candidate_run(model, Inputs(token_ids=IDS)))
    assert model.calls == [(IDS, PLACES, PADDED), (IDS, None, None)]


class Returning(Given):
    def __init__(self, change: Callable[[Tensor], Any]) -> None:
        super().__init__(torch.arange(2.0 * 5 * 211).reshape(2, 5, 211))
        self.change = change

    def forward(self, *arguments: Tensor | None, tap: Callable[..., Tensor]) -> Tensor:
        return self.change(super().forward(*arguments, tap=tap))


def test_a_candidate_returns_the_logits_that_it_shows() -> None:
    shown(candidate_run(Returning(torch.clone), EVERYTHING))
    shown(candidate_run(Returning(lambda logits: logits), EVERYTHING))
    for change in (lambda logits: logits + 1, lambda logits: (logits,), lambda _logits: None):
        with pytest.raises(ValueError, match=r"returned .* than it showed"):
            shown(candidate_run(Returning(change), EVERYTHING))


def test_what_was_put_in_the_place_of_its_logits_is_what_a_candidate_returns() -> None:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return torch.zeros_like(value)

    candidate_run(Returning(lambda logits: logits), EVERYTHING)(tap)
    uniform = negative_log_likelihood(torch.zeros(2, 5, 211), IDS)
    assert torch.equal(uniform, seen["loss"])


@pytest.mark.parametrize("time", [1, 2, 64, 65, 66, 128, 129, 130, 200])
def test_the_loss_is_the_whole_texts_in_one(time: int) -> None:
    generator = torch.Generator().manual_seed(time)
    logits = torch.randn(2, time, 37, generator=generator)
    ids = torch.randint(0, 37, (2, time), generator=generator)
    seen = shown(candidate_run(Given(logits), Inputs(token_ids=ids)))
    assert list(seen) == (["logits"] if time == 1 else ["logits", "loss"])
    assert time == 1 or torch.equal(negative_log_likelihood(logits, ids), seen["loss"])


def test_both_sides_show_the_loss_of_their_own_logits(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, assert_same: Callable[[Tensor, Tensor], None]
) -> None:
    models = model_in_dtype({"ours": ours, "theirs": theirs}, torch.float64)
    for run in (
        candidate_run(models["ours"], EVERYTHING),
        huggingface_run(models["theirs"], EVERYTHING),
        oracle_run(theirs, EVERYTHING),
    ):
        seen = shown(run)
        chances = torch.log_softmax(seen["logits"][:, :-1], -1)
        assert_same(-chances.gather(-1, IDS[:, 1:, None])[..., 0], seen["loss"])
        assert {torch.float64} == {tensor.dtype for tensor in seen.values()}


def test_huggingface_is_given_positions_and_mask(
    theirs: OpenAIGPTLMHeadModel, weights: Weights
) -> None:
    seen = shown(huggingface_run(theirs, EVERYTHING))
    with torch.no_grad():
        out = theirs(input_ids=IDS, position_ids=PLACES, attention_mask=PADDED)
    assert torch.equal(out.logits, seen["logits"])
    table = torch.from_numpy(weights.tensors["positions_embed.weight"])
    assert torch.equal(table[PLACES], seen["embeddings.positions"])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_the_oracle_runs_on_the_references_weights(
    dtype: torch.dtype, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Arranged by hand and upcast exactly, they give the same bits."""
    theirs = theirs.to(dtype)
    theirs.config.layer_norm_epsilon = 0.03
    order = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    state = {name: tensor.double().numpy() for name, tensor in theirs.state_dict().items()}
    tables = [state[f"transformer.{name}_embed.weight"] for name in ("positions", "tokens")]
    blocks = [state[f"transformer.h.{index}.{name}"] for index in range(12) for name in order]
    listed = [*tables, *(b[None] if b.ndim == 2 else b for b in blocks)]
    expected = dict(
        oracle.forward(
            oracle.arrange(listed, n_head=3),
            IDS.numpy(),
            positions=PLACES.numpy(),
            mask=PADDED.numpy(),
            epsilon=0.03,
        )
    )
    seen = shown(oracle_run(theirs, EVERYTHING))
    assert list(expected) == list(seen)
    assert all(np.array_equal(expected[name], seen[name].numpy()) for name in expected)


LAYERS = ("attn.c_attn", "attn.c_proj", "ln_1", "mlp.c_fc", "mlp.c_proj", "ln_2")


def test_the_oracle_goes_on_with_what_it_is_answered(theirs: OpenAIGPTLMHeadModel) -> None:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return torch.zeros_like(value) if name.startswith("embeddings.") else value

    oracle_run(theirs, Inputs(token_ids=IDS))(tap)
    assert torch.equal(torch.zeros(2, 5, 21, dtype=torch.float64), seen["embeddings"])
