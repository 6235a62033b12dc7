"""The direction in all parameters, and the slope of the oracle's loss along it."""

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import rows
from parity.checks.gradients import backward
from parity.checks.gradients.slope import STEP, DirectionalDerivative, along, length, signs
from parity.core.inputs import Inputs, from_rows
from parity.core.tolerances import SLOPE_BOUND

GIVEN = {
    "whole": from_rows([[5, 9, 210, 0, 3]]),
    "padded": from_rows([[5, 9, 210], [3, 8, 1, 2]]),
    "padded on the left": Inputs(
        token_ids=torch.tensor([[7, 0, 5, 9, 5], [3, 8, 1, 2, 210]]),
        positions=torch.tensor([[0, 0, 0, 1, 2], [0, 1, 2, 3, 4]]),
        attention_mask=torch.tensor([[False, False, True, True, True], [True] * 5]),
    ),
}


def test_signs_are_drawn_from_the_name() -> None:
    drawn = signs("h.0.ln_1.weight", 10_001)
    assert {-1.0, 1.0} == set(drawn.tolist())
    assert abs(drawn.mean()) < 0.05
    assert np.array_equal(drawn, signs("h.0.ln_1.weight", 10_001))
    assert abs((drawn * signs("h.1.ln_1.weight", 10_001)).mean()) < 0.05


def test_a_longer_draw_begins_as_a_shorter_one() -> None:
    """So of a tensor's shape only its size matters."""
    assert np.array_equal(signs("x", 1_000)[:77], signs("x", 77))


def test_along_is_the_inner_product(assert_same: Callable[..., None]) -> None:
    gradient = torch.randn(5, 7, generator=torch.Generator().manual_seed(1))
    by_hand = (torch.from_numpy(signs("x", 35)).view(5, 7) * gradient).sum()
    assert_same(by_hand, torch.tensor(along("x", gradient), dtype=torch.float64))


def test_length_is_the_root_mean_square() -> None:
    assert length(np.array([[7.0, 1.0], [5.0, 5.0]], np.float32)) == 5.0


def moved_loss(
    model: OpenAIGPTLMHeadModel, inputs: Inputs, by: float, lengths: dict[str, float]
) -> float:
    moved = copy.deepcopy(model).double()
    own = dict(moved.named_parameters())
    with torch.no_grad():
        for row in rows(moved.config.n_layer):
            tensor: Tensor = own[row.huggingface]
            step = torch.from_numpy(signs(row.ours, tensor.numel())).view(tensor.shape)
            tensor += by * lengths[row.ours] * step
        return float(backward.of_huggingface(moved, inputs)(lambda _name, value: value))


@pytest.mark.parametrize("inputs", GIVEN.values(), ids=GIVEN)
def test_the_slope_is_that_of_the_loss(theirs: OpenAIGPTLMHeadModel, inputs: Inputs) -> None:
    around = DirectionalDerivative(theirs, inputs)
    names = [row.ours for row in rows(12)]
    ahead, behind = (moved_loss(theirs, inputs, by, around.lengths) for by in (STEP, -STEP))
    slope = around.slope(names)
    assert abs(slope - (ahead - behind) / (2 * STEP)) <= SLOPE_BOUND


def test_only_what_is_named_is_moved(theirs: OpenAIGPTLMHeadModel) -> None:
    around = DirectionalDerivative(theirs, GIVEN["whole"])
    names = [row.ours for row in rows(12)]
    halves = [around.slope(part) for part in (names[::2], names[1::2])]
    whole = around.slope(names)
    assert around.slope([]) == 0.0
    assert abs(whole - sum(halves)) <= SLOPE_BOUND


def test_the_reference_is_left_alone(theirs: OpenAIGPTLMHeadModel) -> None:
    before = copy.deepcopy(theirs.state_dict())
    DirectionalDerivative(theirs, GIVEN["whole"]).slope(["tokens_embed.weight"])
    assert all(torch.equal(before[name], tensor) for name, tensor in theirs.state_dict().items())
