"""Dropout in the Triton core, interpreted: what is dropped, and that both ways agree."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from scratch_gpt.attention import plain_attention

pytestmark = pytest.mark.slow  # an interpreter of kernels takes its time

Draw = Callable[..., Tensor]
Same = Callable[..., None]
Run = Callable[..., dict[str, Any]]


def dropped_weights(draw: Draw, run: Run, seed: int, **named: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return weights `[2 2 13 13]` after dropout and before it, shown by one-hot values."""
    one_hot = torch.eye(13).double().expand(2, 2, 13, 13)
    query, key = draw(2, 2, 13, 13), draw(2, 2, 13, 13)
    answer = run([query, key, one_hot], one_hot, dropout=0.375, seed=seed, **named)
    return answer["context"], plain_attention(query, key, one_hot)


def test_dropout_zeroes_or_scales_weights(draw: Draw, interpreted: Run, assert_same: Same) -> None:
    """Each weight is dropped or scaled up on its own, as often as asked for."""
    dropped, weights = dropped_weights(draw, interpreted, seed=3)
    kept = dropped != 0
    assert_same(torch.where(kept, weights / 0.625, 0.0), dropped)
    visible = weights != 0
    share = float(kept[visible].double().mean())
    spread = (0.375 * 0.625 / int(visible.sum())) ** 0.5
    assert abs(share - 0.625) < 4 * spread
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_dropout_is_the_seeds(draw: Draw, interpreted: Run) -> None:
    """The same seed drops the same weights, cut as they may be; another seed drops others."""
    first, weights = dropped_weights(draw, interpreted, seed=3)
    cut, _ = dropped_weights(draw, interpreted, seed=3, tiles=(4, 16))
    other, _ = dropped_weights(draw, interpreted, seed=4)
    assert torch.equal(first != 0, cut != 0)
    assert not torch.equal(first != 0, other != 0)
    assert bool((weights != 0).any())


def test_gradients_drop_what_the_forward_dropped(
    draw: Draw, interpreted: Run, assert_same: Same
) -> None:
    """With dropout the gradients are those of the plain formula under the very same draw."""
    kept = dropped_weights(draw, interpreted, seed=3)[0] != 0
    query, key, value, upstream = (draw(2, 2, 13, 7) for _ in range(4))
    answer = interpreted([query, key, value], upstream, dropout=0.375, seed=3)
    inputs = [x.requires_grad_() for x in (query, key, value)]

    def drop(name: str, x: Tensor) -> Tensor:
        return x * kept / 0.625 if name == "weights" else x

    context = plain_attention(*inputs, tap=drop)
    assert_same(context, answer["context"])
    gradients = torch.autograd.grad(context, inputs, upstream)
    for expected, actual in zip(gradients, answer["gradients"], strict=True):
        assert_same(expected, actual)
