"""The forward passes of all sides, and what may not be compared: a shadow, or half a copy."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.errors import ExitCode, InconclusiveError, UsageError
from parity.inputs import Inputs
from parity.sources import Weights, build_huggingface, build_ours, load_weights
from parity.subjects import (
    candidate_run,
    check_apart,
    check_candidate,
    check_evaluating,
    huggingface_run,
    in_dtype,
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
    """Return the small weights."""
    return load_weights("tiny")


@pytest.fixture
def ours(weights: Weights) -> GPT:
    """Return our model."""
    return build_ours(weights)


@pytest.fixture
def theirs(weights: Weights) -> OpenAIGPTLMHeadModel:
    """Return Hugging Face's model."""
    return build_huggingface(weights)


def shown(run: Callable[..., object]) -> dict[str, Tensor]:
    """Return every tap of a run."""
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value.detach().clone()
        return value

    with torch.no_grad():
        run(tap)
    return seen


class Given(nn.Module):
    """A model whose logits are known before; it keeps what it is called with."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.calls: list[tuple[Any, ...]] = []

    def forward(self, *arguments: Tensor | None, tap: Callable[..., Tensor]) -> Tensor:
        """Keep the arguments and show the logits."""
        self.calls.append(arguments)
        return tap("logits", self.logits)


def test_a_candidate_is_called_with_ids_positions_and_mask() -> None:
    """In this order, as they are, and `tap` by name."""
    model = Given(torch.zeros(2, 5, 211))
    shown(candidate_run(model, EVERYTHING))
    shown(candidate_run(model, Inputs(token_ids=IDS)))
    assert model.calls == [(IDS, PLACES, PADDED), (IDS, None, None)]


class Returning(Given):
    """A model that shows its logits, and returns what `change` makes of them."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__(torch.arange(2.0 * 5 * 211).reshape(2, 5, 211))
        self.change = change

    def forward(self, *arguments: Tensor | None, tap: Callable[..., Tensor]) -> Tensor:
        """Show the logits and return something."""
        return self.change(super().forward(*arguments, tap=tap))


def test_a_candidate_returns_the_logits_that_it_shows() -> None:
    """What was compared would otherwise not be what a user gets; an equal copy is no other."""
    shown(candidate_run(Returning(torch.clone), EVERYTHING))
    shown(candidate_run(Returning(lambda logits: logits), EVERYTHING))
    with pytest.raises(ValueError, match=r"returned .* than it showed"):
        shown(candidate_run(Returning(lambda logits: logits + 1), EVERYTHING))


def test_what_was_put_in_the_place_of_its_logits_is_what_a_candidate_returns() -> None:
    """And what its loss is taken from."""
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return torch.zeros_like(value)

    candidate_run(Returning(lambda logits: logits), EVERYTHING)(tap)
    uniform = negative_log_likelihood(torch.zeros(2, 5, 211), IDS)
    assert torch.equal(uniform, seen["loss"])


@pytest.mark.parametrize("time", [1, 2, 64, 65, 66, 128, 129, 130, 200])
def test_the_loss_is_the_whole_texts_in_one(time: int) -> None:
    """However long it is, the losses are to the bit what one call gives; at time 1 are none."""
    generator = torch.Generator().manual_seed(time)
    logits = torch.randn(2, time, 37, generator=generator)
    ids = torch.randint(0, 37, (2, time), generator=generator)
    seen = shown(candidate_run(Given(logits), Inputs(token_ids=ids)))
    expected = ["logits"] if time == 1 else ["logits", "loss"]
    assert expected == list(seen)
    assert time == 1 or torch.equal(negative_log_likelihood(logits, ids), seen["loss"])


def test_both_sides_show_the_loss_of_their_own_logits(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, assert_same: Callable[[Tensor, Tensor], None]
) -> None:
    """In the dtype of the model: none of it has gone through float32."""
    models = in_dtype({"ours": ours, "theirs": theirs}, torch.float64)
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
    """Its logits at real positions are those of its own forward pass with both."""
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
    """Arranged by hand, upcast exactly, it shows the same to the bit."""
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
    """As every other run does."""
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        seen[name] = value
        return torch.zeros_like(value) if name.startswith("embeddings.") else value

    oracle_run(theirs, Inputs(token_ids=IDS))(tap)
    assert torch.equal(torch.zeros(2, 5, 21, dtype=torch.float64), seen["embeddings"])


def test_models_in_the_dtype_are_taken_as_they_are(ours: GPT) -> None:
    """No copy is made of what fits."""
    assert in_dtype({"ours": ours}, torch.float32)["ours"] is ours


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_others_are_copied(dtype: torch.dtype, theirs: OpenAIGPTLMHeadModel) -> None:
    """Every parameter and float buffer has the dtype, and the model is what it was."""
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    copied = in_dtype({"theirs": theirs}, dtype)["theirs"]
    tensors = [*copied.parameters(), *copied.buffers()]
    assert {dtype} == {t.dtype for t in tensors if t.dtype.is_floating_point}
    expected = torch.int64
    assert expected is copied.transformer.position_ids.dtype
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(before[name], tensor)
        assert torch.equal(tensor.to(dtype), copied.state_dict()[name])
    check_apart({"copy": copied}, theirs)
    assert not copied.training


def test_what_is_shared_stays_shared(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """Within a model, and among models that are copied together."""
    copied = in_dtype({"theirs": theirs}, torch.float64)["theirs"]
    assert copied.lm_head.weight is copied.transformer.tokens_embed.weight
    twins = in_dtype({"plain": ours, "tiled": ours.with_attention("tiled")}, torch.float64)
    for mine, its in zip(twins["plain"].parameters(), twins["tiled"].parameters(), strict=True):
        assert mine is its


class Stubborn(nn.Linear):
    """A layer that will not be copied."""

    def __deepcopy__(self, memo: object) -> "Stubborn":
        return self


class HalfMade(nn.Module):
    """A layer whose copies draw one of their tensors anew, in the default dtype."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.kind = kind
        if kind == "buffer":
            self.register_buffer("mask", torch.ones(3), persistent=False)
        else:
            self.mask = nn.Parameter(torch.ones(3))

    def __deepcopy__(self, memo: dict[int, Any]) -> "HalfMade":
        made = HalfMade(self.kind)
        made.weight = copy.deepcopy(self.weight, memo)
        return made


@pytest.mark.parametrize(
    "layer",
    [
        pytest.param(Stubborn(3, 3), id="not copied at all"),
        pytest.param(HalfMade("buffer"), id="a buffer"),
        pytest.param(HalfMade("parameter"), id="a parameter"),
    ],
)
def test_half_a_copy_is_refused(layer: nn.Module) -> None:
    """Nothing may survive in float32 where float64 is to be judged."""
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(InconclusiveError, match=r"^ours still holds .*float32") as refusal:
        in_dtype({"ours": model}, torch.float64)
    expected = ExitCode.INCONCLUSIVE
    assert expected is refusal.value.code


def test_a_mixture_is_made_one() -> None:
    """A model that is float64 but for one layer is copied too."""
    model = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 3))
    copied = in_dtype({"ours": model}, torch.float64)["ours"]
    assert copied is not model
    assert {torch.float64} == {parameter.dtype for parameter in copied.parameters()}


def test_a_candidate_has_a_tap(ours: GPT) -> None:
    """Ours has; one without is refused with what it has instead."""
    check_candidate(ours)
    check_candidate(Given(torch.zeros(1)))
    with pytest.raises(UsageError, match=r"^Linear\.forward has no argument named tap$") as refusal:
        check_candidate(nn.Linear(3, 3))
    expected = (ExitCode.USAGE, "its arguments are ['input']")
    assert expected == (refusal.value.code, refusal.value.where)


def test_two_sides_with_storage_of_their_own_are_apart(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Equal values are no matter, nor what candidates share with each other."""
    check_apart({"plain": ours, "tiled": ours.with_attention("tiled")}, theirs)
    check_apart({"copy": copy.deepcopy(theirs)}, theirs)


def lent(ours: GPT, tensor: Tensor) -> GPT:
    """Return our model with that tensor as the bias of one layer."""
    ours.h[7].mlp.c_fc.bias = nn.Parameter(tensor, requires_grad=False)
    return ours


def lent_whole(theirs: OpenAIGPTLMHeadModel) -> Tensor:
    """Return a tensor whose middle becomes one of Hugging Face's."""
    whole = torch.randn(100)
    theirs.transformer.h[7].mlp.c_fc.bias = nn.Parameter(whole[8:92], requires_grad=False)
    return whole


SHARED: dict[str, Callable[[GPT, OpenAIGPTLMHeadModel], nn.Module]] = {
    "the reference itself": lambda _ours, theirs: theirs,
    "the reference inside": lambda _ours, theirs: nn.ModuleList([theirs]),
    "one tensor": lambda ours, theirs: lent(ours, theirs.transformer.h[7].mlp.c_fc.bias.detach()),
    "a view of one": lambda ours, theirs: lent(
        ours, theirs.transformer.tokens_embed.weight[:4].view(-1).detach()
    ),
    "a view of its middle": lambda ours, theirs: lent(
        ours, theirs.transformer.tokens_embed.weight[5:9].view(-1).detach()
    ),
    "all of which theirs is a view": lambda ours, theirs: lent(ours, lent_whole(theirs)),
    "a buffer": lambda ours, theirs: (
        ours.register_buffer("kept", theirs.lm_head.weight.detach()) or ours
    ),
}


@pytest.mark.parametrize("how", SHARED)
def test_two_sides_that_share_storage_are_refused(
    how: str, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Whatever happens to it happens to both, so that agreement would prove nothing."""
    candidate = SHARED[how](ours, theirs)
    with pytest.raises(InconclusiveError, match=r"^mine and the reference share") as refusal:
        check_apart({"other": copy.deepcopy(ours), "mine": candidate}, theirs)
    expected = ExitCode.INCONCLUSIVE
    assert expected is refusal.value.code


def test_a_shared_tensor_is_named(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """By its name on the candidate's side, with how many there are."""
    lent(ours, theirs.transformer.h[7].mlp.c_fc.bias.detach())
    with pytest.raises(InconclusiveError) as refusal:
        check_apart({"mine": ours}, theirs)
    expected = "1 tensors, the first is h.7.mlp.c_fc.bias"
    assert expected == refusal.value.where


def test_a_module_in_training_is_refused(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """However deep it is, it is named, with the model it belongs to."""
    check_evaluating({"ours": ours, "theirs": theirs})
    ours.h[3].mlp.training = True
    with pytest.raises(InconclusiveError, match=r"^ours is in training mode$") as refusal:
        check_evaluating({"theirs": theirs, "ours": ours})
    expected = "1 modules, the first is h.3.mlp"
    assert expected == refusal.value.where


def test_a_model_that_will_not_evaluate_is_refused() -> None:
    """One that overrides `train` stays in training whatever it is told."""

    class Always(nn.Linear):
        def train(self, mode: bool = True) -> "Always":  # noqa: ARG002, FBT001, FBT002
            return self

    with pytest.raises(InconclusiveError, match="training mode"):
        check_evaluating({"ours": Always(3, 3).eval()})
