"""What may not be compared: a model with its own shadow, half a copy, one that is training."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core.runners import (
    build_huggingface,
    build_ours,
    check_apart,
    check_candidate,
    check_evaluating,
    model_in_dtype,
)
from parity.errors import ExitCode, InconclusiveError, UsageError
from scratch_gpt import GPT

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def weights() -> Weights:
    return load_weights("tiny")


@pytest.fixture
def ours(weights: Weights) -> GPT:
    return build_ours(weights)


@pytest.fixture
def theirs(weights: Weights) -> OpenAIGPTLMHeadModel:
    return build_huggingface(weights)


def test_models_in_the_dtype_are_taken_as_they_are(ours: GPT) -> None:
    assert model_in_dtype({"ours": ours}, torch.float32)["ours"] is ours


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_others_are_copied(dtype: torch.dtype, theirs: OpenAIGPTLMHeadModel) -> None:
    before = {name: tensor.clone() for name, tensor in theirs.state_dict().items()}
    copied = model_in_dtype({"theirs": theirs}, dtype)["theirs"]
    tensors = [*copied.parameters(), *copied.buffers()]
    assert {dtype} == {t.dtype for t in tensors if t.dtype.is_floating_point}
    assert copied.transformer.position_ids.dtype is torch.int64
    for name, tensor in theirs.state_dict().items():
        assert torch.equal(before[name], tensor)
        assert torch.equal(tensor.to(dtype), copied.state_dict()[name])
    check_apart({"copy": copied}, theirs)
    assert not copied.training


def test_what_is_shared_stays_shared(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    copied = model_in_dtype({"theirs": theirs}, torch.float64)["theirs"]
    assert copied.lm_head.weight is copied.transformer.tokens_embed.weight
    twins = model_in_dtype({"plain": ours, "tiled": ours.with_backend("tiled")}, torch.float64)
    for mine, its in zip(twins["plain"].parameters(), twins["tiled"].parameters(), strict=True):
        assert mine is its


class Stubborn(nn.Linear):
    """A layer that returns itself as its copy."""

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
    model = nn.Sequential(nn.Linear(3, 3), layer)
    with pytest.raises(InconclusiveError, match=r"^ours still holds .*float32") as refusal:
        model_in_dtype({"ours": model}, torch.float64)
    assert refusal.value.exit_code is ExitCode.INCONCLUSIVE


def test_a_mixture_is_made_one() -> None:
    model = nn.Sequential(nn.Linear(3, 3).double(), nn.Linear(3, 3))
    copied = model_in_dtype({"ours": model}, torch.float64)["ours"]
    assert copied is not model
    assert {torch.float64} == {parameter.dtype for parameter in copied.parameters()}


def test_a_candidate_has_a_tap(ours: GPT) -> None:
    class Watched(nn.Module):
        def forward(self, *ids: Tensor, tap: Callable[[str, Tensor], Tensor]) -> Tensor:
            return tap("logits", ids[0])

    check_candidate(ours)
    check_candidate(Watched())
    with pytest.raises(UsageError, match=r"no argument named tap \(") as refusal:
        check_candidate(nn.Linear(3, 3))
    assert refusal.value.exit_code == ExitCode.USAGE
    assert refusal.value.where == "its arguments are ['input']"


def test_two_sides_with_storage_of_their_own_are_apart(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    check_apart({"plain": ours, "tiled": ours.with_backend("tiled")}, theirs)
    check_apart({"copy": copy.deepcopy(theirs)}, theirs)


def lent(ours: GPT, tensor: Tensor) -> GPT:
    ours.h[7].mlp.c_fc.bias = nn.Parameter(tensor, requires_grad=False)
    return ours


def lent_whole(theirs: OpenAIGPTLMHeadModel) -> Tensor:
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
    candidate = SHARED[how](ours, theirs)
    with pytest.raises(InconclusiveError, match=r"^mine and the reference share") as refusal:
        check_apart({"other": copy.deepcopy(ours), "mine": candidate}, theirs)
    assert refusal.value.exit_code is ExitCode.INCONCLUSIVE


def test_a_shared_tensor_is_named(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    lent(ours, theirs.transformer.h[7].mlp.c_fc.bias.detach())
    with pytest.raises(InconclusiveError) as refusal:
        check_apart({"mine": ours}, theirs)
    assert refusal.value.where == "1 tensors, the first is h.7.mlp.c_fc.bias"


def test_a_module_in_training_is_refused(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    check_evaluating({"ours": ours, "theirs": theirs})
    ours.h[3].mlp.training = True
    with pytest.raises(InconclusiveError, match=r"^ours is in training mode \(") as refusal:
        check_evaluating({"theirs": theirs, "ours": ours})
    assert refusal.value.where == "1 modules, the first is h.3.mlp"


def test_a_model_that_will_not_evaluate_is_refused() -> None:
    class Always(nn.Linear):
        def train(self, mode: bool = True) -> "Always":  # noqa: ARG002, FBT001, FBT002
            return self

    with pytest.raises(InconclusiveError, match="training mode"):
        check_evaluating({"ours": Always(3, 3).eval()})
