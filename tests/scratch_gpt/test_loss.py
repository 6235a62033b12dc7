"""The next-token loss."""

import math
import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from scratch_gpt.loss import log_softmax, negative_log_likelihood, next_token_loss

Draw = Callable[..., Tensor]
Same = Callable[..., None]
VIEWS = {"view", "_unsafe_view", "slice", "detach", "alias", "as_strided", "select", "expand"}
"""Operations that return views."""


def test_log_softmax_and_its_gradient_equal_the_librarys(draw: Draw, assert_same: Same) -> None:
    """The row's largest logit, which is subtracted first, does not change the gradient."""
    logits, upstream = (draw(2, 5, 37) * 5).requires_grad_(), draw(2, 5, 37)
    expected, actual = torch.log_softmax(logits, -1), log_softmax(logits)
    assert_same(expected, actual)
    assert_same(*(torch.autograd.grad(y, logits, upstream)[0] for y in (expected, actual)))


@pytest.mark.parametrize("size", [1e4, 1e38])
def test_the_loss_of_huge_logits_is_their_difference(size: float) -> None:
    """In float32 the loss of the likely token is 0, that of the other the difference."""
    logits = torch.tensor([[[size, -size], [-size, size]]])
    assert negative_log_likelihood(logits, torch.tensor([[1, 0]])).tolist() == [[0.0]]
    likelihood = negative_log_likelihood(logits, torch.tensor([[0, 1]]))
    assert likelihood.tolist() == [[2 * float(logits[0, 0, 0])]]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_each_position_predicts_the_next_token(
    dtype: torch.dtype, draw: Draw, token_ids: Tensor, assert_same: Same
) -> None:
    logits = draw(2, 5, 37)
    expected = functional.cross_entropy(
        logits[:, :4].transpose(1, 2), token_ids[:, 1:], reduction="none"
    )
    assert_same(expected, negative_log_likelihood(logits, token_ids.to(dtype)))


def test_one_token_has_no_next(draw: Draw) -> None:
    assert negative_log_likelihood(draw(2, 1, 37), torch.tensor([[3], [5]])).shape == (2, 0)


def test_equal_logits_lose_the_logarithm_of_the_vocabulary() -> None:
    logits = torch.zeros(1, 2, 37, dtype=torch.float64)
    assert next_token_loss(logits, torch.tensor([[3, 5]])).item() == math.log(37)


def check_like_library(logits: Tensor, ids: Tensor, same: Same, ignore_index: int = -100) -> None:
    """Assert that loss and gradient are those of torch's cross-entropy."""
    logits = logits.requires_grad_()
    library = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), ignore_index=ignore_index
    )
    ours = next_token_loss(logits, ids, ignore_index=ignore_index)
    same(library, ours)
    same(*(torch.autograd.grad(loss, logits)[0] for loss in (library, ours)))


def test_is_the_mean_of_the_library(draw: Draw, token_ids: Tensor, assert_same: Same) -> None:
    check_like_library(draw(2, 5, 37), token_ids, assert_same)


@pytest.mark.parametrize("ignore_index", [-100, 3, -1])
def test_ignored_targets_do_not_count(
    ignore_index: int, draw: Draw, token_ids: Tensor, assert_same: Same
) -> None:
    token_ids[0, 4] = token_ids[1, 0] = token_ids[1, 2] = ignore_index
    check_like_library(draw(2, 5, 37), token_ids, assert_same, ignore_index)


@pytest.mark.parametrize("rows", [15, 16, 17, 35])
def test_any_number_of_rows_is_processed(rows: int, draw: Draw, assert_same: Same) -> None:
    """Fewer, as many and more than are processed at once."""
    check_like_library(draw(1, rows, 37), torch.arange(rows)[None] % 37, assert_same)


def test_gradients_agree_with_differences(draw: Draw) -> None:
    ids = torch.tensor([[3, -100, 0, 4], [1, 2, 2, -100]])
    assert gradcheck(lambda logits: next_token_loss(logits, ids), draw(2, 4, 5).requires_grad_())


def test_an_ignored_row_of_infinities_has_no_effect(draw: Draw, token_ids: Tensor) -> None:
    logits, ids = draw(2, 5, 37), token_ids.clone()
    ids[0, 3] = -100
    expected = next_token_loss(logits, ids)
    logits[0, 2] = float("inf")
    loss = next_token_loss(logits.requires_grad_(), ids)
    loss.backward()
    assert torch.equal(expected, loss)
    assert not bool(logits.grad[0, 2].any())
    assert bool(logits.grad.isfinite().all())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_uses_float32(dtype: torch.dtype, draw: Draw, token_ids: Tensor) -> None:
    """The loss is bitwise that of float32 logits; the gradient is rounded once."""
    narrow = (draw(2, 5, 37) * 5).to(dtype).requires_grad_()
    wide = narrow.detach().float().requires_grad_()
    losses = [next_token_loss(logits, token_ids) for logits in (narrow, wide)]
    assert losses[0].dtype is torch.float32
    assert torch.equal(*losses)
    of_narrow, of_wide = (
        torch.autograd.grad(loss, logits)[0]
        for loss, logits in zip(losses, (narrow, wide), strict=True)
    )
    assert torch.equal(of_narrow, of_wide.to(dtype))


def test_keeps_one_number_a_row(draw: Draw, recorded: Callable[[], TorchDispatchMode]) -> None:
    """The gradient is the only new tensor as large as the logits."""
    logits, ids = draw(2, 40, 37).requires_grad_(), torch.arange(80).view(2, 40) % 37
    with recorded() as operations:
        loss = next_token_loss(logits, ids)
        forward = [math.prod(shape) for name, shape in operations.ran if name not in VIEWS]
        torch.autograd.grad(loss, logits)
    made = [name for name, shape in operations.ran if math.prod(shape) >= logits.numel()]
    assert max(forward) < logits.numel() / 2
    assert [name for name in made if name not in VIEWS] == ["empty"]


@pytest.mark.parametrize(
    "ids", [[[3, -100, -100], [5, -100, -100]], [[3], [5]]], ids=["all ignored", "time 1"]
)
def test_no_target_is_an_error(ids: list[list[int]], draw: Draw) -> None:
    token_ids = torch.tensor(ids)
    message = f"no target to predict in token_ids of shape {list(token_ids.shape)}"
    with pytest.raises(ValueError, match=re.escape(message)):
        next_token_loss(draw(*token_ids.shape, 37), token_ids)
