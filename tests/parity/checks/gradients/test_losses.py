"""The loss whose gradients are compared: the mean over real tokens predicted from real tokens."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients import backward
from parity.core.inputs import Inputs, from_rows
from parity.errors import InconclusiveError
from scratch_gpt import GPT

LEFT = Inputs(
    token_ids=torch.tensor([[0, 0, 5, 9], [3, 8, 1, 2]]),
    positions=torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]]),
    attention_mask=torch.tensor([[False, False, True, True], [True] * 4]),
)
RIGHT = from_rows([[5, 9, 210], [3, 8, 1, 2]])
WHOLE = Inputs(token_ids=torch.tensor([[5, 9, 210, 0], [3, 8, 1, 2]]))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (WHOLE, [[True] * 3] * 2),
        (RIGHT, [[True, True, False], [True] * 3]),
        (LEFT, [[False, False, True], [True] * 3]),
    ],
    ids=["whole", "right", "left"],
)
def test_what_is_predicted(inputs: Inputs, expected: list[list[bool]]) -> None:
    assert expected == backward.predicted(inputs).tolist()


def by_hand(logits: Tensor, inputs: Inputs) -> Tensor:
    each = [
        torch.logsumexp(logits[row, at], -1) - logits[row, at, inputs.token_ids[row, at + 1]]
        for row, at in backward.predicted(inputs).nonzero().tolist()
    ]
    return torch.stack(each).mean()


@pytest.mark.parametrize("inputs", [WHOLE, RIGHT, LEFT], ids=["whole", "right", "left"])
def test_both_sides_take_the_same_mean(
    inputs: Inputs, ours: GPT, theirs: OpenAIGPTLMHeadModel, assert_same: Callable[..., None]
) -> None:
    mine, other = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    for loss_of in (backward.of_candidate(mine, inputs), backward.of_huggingface(other, inputs)):
        shown: dict[str, Tensor] = {}
        loss = loss_of(shown.setdefault)
        assert_same(by_hand(shown["logits"], inputs), loss)


def test_padding_does_not_touch_the_loss(ours: GPT) -> None:
    other = RIGHT.token_ids.clone()
    other[0, 3] = 77
    changed = Inputs(token_ids=other, attention_mask=RIGHT.attention_mask)
    pair = [
        backward.of_candidate(ours, given)(lambda _name, value: value) for given in (RIGHT, changed)
    ]
    assert torch.equal(*pair)


def test_other_logits_than_shown_are_refused(ours: GPT) -> None:
    class Deceiving(torch.nn.Module):
        def forward(self, *given: object, tap: object) -> Tensor:
            return ours(*given, tap=tap) + 1.0  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="something else"):
        backward.of_candidate(Deceiving(), WHOLE)(lambda _name, value: value)


@pytest.mark.parametrize("rows", [[[5]], [[5], [9]]], ids=["one row", "two rows"])
def test_nothing_to_predict_is_refused(rows: list[list[int]]) -> None:
    with pytest.raises(InconclusiveError, match="no next token"):
        backward.check_predicted(from_rows(rows))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (from_rows([[5, 9]]), True),
        (from_rows([[5, 9], [7]]), True),
        (from_rows([[5, 9, 1]]), False),
        (from_rows([[5, 9], [7, 1, 1]]), False),
        (LEFT, False),
        (Inputs(token_ids=LEFT.token_ids[:1], attention_mask=LEFT.attention_mask[:1]), True),  # type: ignore[index]
    ],
)
def test_predictions_from_a_token_that_sees_itself_alone(inputs: Inputs, *, expected: bool) -> None:
    """With two real tokens in a row there is nothing to attend to."""
    assert expected is backward.sees_one_token(inputs)


def test_only_float16_begins_larger() -> None:
    """With a power of two that is at least the number of losses, and that float16 holds."""
    scales = {
        d: backward.scale_for(d, WHOLE) for d in (torch.float64, torch.float32, torch.bfloat16)
    }
    assert {1.0} == set(scales.values())
    long = Inputs(token_ids=torch.zeros(64, 512, dtype=torch.long))
    for inputs, count in ((WHOLE, 6), (long, 64 * 511)):
        scale = backward.scale_for(torch.float16, inputs)
        assert math.log2(scale).is_integer()
        assert scale >= count
        assert math.isfinite(float(torch.tensor(scale, dtype=torch.float16)))
