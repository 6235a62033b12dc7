"""The head: logits from the token embedding, in aligned rows."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from scratch_gpt.aligned import empty_aligned_rows
from scratch_gpt.embeddings import head
from scratch_gpt.kernels.fused_ops import fused_head

Draw = Callable[..., Tensor]
Same = Callable[..., None]

FORMS = {"formula": head, "derived": fused_head}


@pytest.mark.parametrize("form", FORMS)
def test_each_logit_is_a_product_with_a_token(form: str, draw: Draw, assert_same: Same) -> None:
    """Row by row and token by token."""
    x, table = draw(2, 5, 7), draw(37, 7)
    expected = torch.einsum("btw,vw->btv", x, table)
    assert_same(expected, FORMS[form](x, table))


def test_the_derivative_is_that_of_differences(draw: Draw) -> None:
    """Both the rows' and the table's."""
    assert gradcheck(fused_head, (draw(2, 3, 4).requires_grad_(), draw(5, 4).requires_grad_()))


def test_has_the_formulas_gradients(draw: Draw, assert_same: Same) -> None:
    """Whatever layout the gradient of the logits comes in."""
    inputs = draw(2, 5, 7).requires_grad_(), draw(37, 7).requires_grad_()
    upstream = draw(37, 2, 5).permute(1, 2, 0)
    expected = torch.autograd.grad(head(*inputs), inputs, upstream)
    actual = torch.autograd.grad(fused_head(*inputs), inputs, upstream)
    for of_formula, of_derived in zip(expected, actual, strict=True):
        assert_same(of_formula, of_derived)


@pytest.mark.parametrize(
    ("dtype", "columns"),
    [(torch.float64, 8), (torch.float32, 16), (torch.bfloat16, 32)],
    ids=["float64", "float32", "bfloat16"],
)
def test_rows_are_aligned_and_contiguous(dtype: torch.dtype, columns: int) -> None:
    """They begin 64 bytes apart or a multiple of it, and no further than needed."""
    like = torch.empty(0, dtype=dtype)
    rows = empty_aligned_rows((2, 5, columns + 1), like)
    assert rows.shape == (2, 5, columns + 1)
    assert rows.stride() == (5 * 2 * columns, 2 * columns, 1)
    assert empty_aligned_rows((5, columns), like).is_contiguous()


def test_rows_of_a_batch_are_one_view(draw: Draw) -> None:
    """The loss and the products take all rows at once, without a copy."""
    logits = fused_head(draw(2, 5, 7), draw(37, 7))
    assert logits.flatten(0, 1).data_ptr() == logits.data_ptr()
    assert logits.view(-1, 37).shape == (10, 37)
