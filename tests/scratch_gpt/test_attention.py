"""Attention kernels against a loop over rows, the softmax, and the layer."""

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scratch_gpt.attention import Attention, merge_heads, plain_attention, softmax, split_heads
from scratch_gpt.config import GPTConfig
from scratch_gpt.kernels.backends import BACKENDS, KERNELS

Draw = Callable[..., Tensor]
Same = Callable[..., None]

EAGER = ("plain", "tiled")

PADDING = {
    "no mask": None,
    "left padding": [[False, False, True, True, True], [False, True, True, True, True]],
    "right padding": [[True, True, True, False, False], [True, True, True, True, True]],
    "all padding": [[False] * 5, [True] * 5],
}


def row_by_row(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> np.ndarray:
    """Return the context by a loop over every row, in NumPy, from the visible keys."""
    context = np.zeros(query.shape)
    past = key.shape[2] - query.shape[2]
    for batch, head, t in np.ndindex(*query.shape[:3]):
        own = t + past
        visible = [k for k in range(own + 1) if mask is None or k == own or bool(mask[batch, k])]
        keys, values = key[batch, head].numpy()[visible], value[batch, head].numpy()[visible]
        scores = keys @ query[batch, head, t].numpy() / math.sqrt(query.shape[3])
        weights = np.exp(scores - scores.max())
        context[batch, head, t] = weights @ values / weights.sum()
    return context


def projections(draw: Draw, time_q: int = 5, time_k: int = 5) -> list[Tensor]:
    return [draw(2, 3, time_q, 7), draw(2, 3, time_k, 7), draw(2, 3, time_k, 7)]


@pytest.mark.parametrize("time_q", [5, 3, 1])
@pytest.mark.parametrize("padding", PADDING.values(), ids=PADDING.keys())
def test_plain_equals_the_loop_over_rows(
    padding: list[list[bool]] | None, time_q: int, draw: Draw, assert_same: Same
) -> None:
    qkv = projections(draw, time_q=time_q)
    mask = None if padding is None else torch.tensor(padding)
    expected = row_by_row(*qkv, mask)
    assert_same(expected, plain_attention(*qkv, mask))


@pytest.mark.parametrize("kernel", EAGER)
@pytest.mark.parametrize("padding", PADDING.values(), ids=PADDING.keys())
def test_is_finite_and_causal(padding: list[list[bool]] | None, kernel: str, draw: Draw) -> None:
    query, key, value = projections(draw)
    mask = None if padding is None else torch.tensor(padding)
    before = KERNELS[kernel](query, key, value, mask)
    later = [torch.cat([x[:, :, :3], draw(2, 3, 2, 7)], dim=2) for x in (query, key, value)]
    after = KERNELS[kernel](*later, mask)
    assert bool(before.isfinite().all())
    assert torch.equal(before[:, :, :3], after[:, :, :3])
    assert not torch.equal(before[:, :, 3:], after[:, :, 3:])


@pytest.mark.parametrize("kernel", EAGER)
@pytest.mark.parametrize(
    ("dtype", "size_of_query", "size_of_key"),
    [(torch.float32, 1e2, 1e2), (torch.float32, 6.2e18, 6.2e18), (torch.float16, 150.0, 100.0)],
    ids=["scores of 1e4", "scores of 1e38", "unscaled scores overflow"],
)
def test_extreme_scores_stay_finite_and_causal(
    dtype: torch.dtype, size_of_query: float, size_of_key: float, kernel: str, draw: Draw
) -> None:
    """Scores near the limit of the dtype select one visible value each."""
    query_sign, key_sign = (torch.where(draw(2, 3, 5) > 0, 1.0, -1.0) for _ in range(2))
    key_sign *= torch.linspace(0.5, 1.0, 5)  # so that no two scores of a row are equal
    query = (query_sign * size_of_query)[..., None].expand(2, 3, 5, 7).to(dtype)
    key = (key_sign * size_of_key)[..., None].expand(2, 3, 5, 7).to(dtype)
    value = draw(2, 3, 5, 7).to(dtype)
    order = query_sign[..., :, None] * key_sign[..., None, :]
    largest = (order + torch.full((5, 5), float("-inf")).triu(1)).argmax(-1)
    expected = torch.take_along_dim(value, largest[..., None], dim=2)
    assert torch.equal(expected, KERNELS[kernel](query, key, value))


def test_softmax_and_its_gradient_equal_the_librarys(draw: Draw, assert_same: Same) -> None:
    """The row's largest score, which is subtracted first, does not change the gradient."""
    scores, upstream = (draw(2, 3, 5, 7) * 4).requires_grad_(), draw(2, 3, 5, 7)
    expected, actual = torch.softmax(scores, -1), softmax(scores)
    assert_same(expected, actual)
    assert_same(*(torch.autograd.grad(y, scores, upstream)[0] for y in (expected, actual)))


def test_softmax_of_huge_scores_is_finite() -> None:
    assert softmax(torch.tensor([3e38, 1e38, -3e38])).tolist() == [1.0, 0.0, 0.0]


def test_taps_of_plain(draw: Draw, watch: Callable[..., Tensor], assert_same: Same) -> None:
    query, key, value = projections(draw)
    plain_attention(query, key, value, tap=watch)
    # The scores are scaled and not yet masked.
    scores = np.einsum("bhqw,bhkw->bhqk", query.numpy(), key.numpy()) / math.sqrt(7)
    weights = np.tril(np.exp(scores))
    assert list(watch.seen) == ["scores", "weights"]
    assert_same(scores, watch.seen["scores"])
    assert_same(weights / weights.sum(-1, keepdims=True), watch.seen["weights"])


@pytest.mark.parametrize("replaced", ["scores", "weights"])
def test_plain_uses_the_taps_result(replaced: str, draw: Draw, assert_same: Same) -> None:
    """The scores are masked after their tap; the weights are used as they are."""
    query, key, value = projections(draw)
    instead = draw(2, 3, 5, 5)

    def replace(name: str, value: Tensor) -> Tensor:
        return instead if name == replaced else value

    visible = instead.exp().tril()
    weights = visible / visible.sum(-1, keepdim=True) if replaced == "scores" else instead
    assert_same(weights @ value, plain_attention(query, key, value, tap=replace))


@pytest.mark.parametrize("kernel", EAGER)
def test_dropout_falls_on_the_weights(kernel: str, draw: Draw, assert_same: Same) -> None:
    """A weight is dropped or scaled for all features; its row is not renormalized."""
    query, key, one_hot = draw(2, 3, 5, 10), draw(2, 3, 5, 10), torch.eye(5).double()
    value = torch.cat([one_hot, one_hot], dim=-1).expand(2, 3, 5, 10)
    # So a row of the context is its row of weights, twice over.
    weights = torch.from_numpy(row_by_row(query, key, value, None))
    context = KERNELS[kernel](query, key, value, dropout_probability=0.75)
    dropped = context == 0
    visible = torch.ones(5, 5).tril().bool().repeat(1, 2).expand(2, 3, 5, 10)
    assert set(dropped[visible].tolist()) == {True, False}
    assert torch.equal(dropped[..., :5], dropped[..., 5:])
    assert_same(weights.masked_fill(dropped, 0.0) * 4, context)


@pytest.mark.parametrize("kernel", EAGER)
def test_more_queries_than_keys_are_rejected(kernel: str, draw: Draw) -> None:
    query, key, value = projections(draw, time_q=6)
    with pytest.raises(ValueError, match="attention needs 1 <= time_q <= time_k, got 6 and 5"):
        KERNELS[kernel](query, key, value)


def test_a_head_is_a_run_of_consecutive_features(draw: Draw) -> None:
    x = draw(2, 5, 21)
    heads = torch.stack([x[..., :7], x[..., 7:14], x[..., 14:]], dim=1)
    assert torch.equal(heads, split_heads(x, 3))
    assert torch.equal(x, merge_heads(heads))


@pytest.fixture
def layer(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> Attention:
    return loud(Attention(config, BACKENDS["plain"]))


def test_the_layer_equals_the_library(
    layer: Attention, draw: Draw, attention_formula: Callable[..., Tensor], assert_same: Same
) -> None:
    x = draw(2, 5, 21)
    assert_same(attention_formula(x, layer, 3), layer.eval()(x))


def test_taps_of_the_layer(layer: Attention, draw: Draw, watch: Callable[..., Tensor]) -> None:
    output = layer(draw(2, 5, 21), tap=watch)
    heads, square, whole = (2, 3, 5, 7), (2, 3, 5, 5), (2, 5, 21)
    assert [(name, tuple(value.shape)) for name, value in watch.seen.items()] == [
        *(("attn.query", heads), ("attn.key", heads), ("attn.value", heads)),
        *(("attn.scores", square), ("attn.weights", square)),
        *(("attn.context", whole), ("attn", whole)),
    ]
    assert torch.equal(output, watch.seen["attn"])


@pytest.mark.parametrize("probability", [0.375, 0.0], ids=["training", "evaluating"])
def test_the_layer_passes_mask_and_dropout_to_its_kernel(
    probability: float, config: GPTConfig, loud: Callable[[nn.Module], nn.Module], draw: Draw
) -> None:
    given = []

    def kernel(*inputs: object) -> Tensor:
        given.extend(inputs)
        return inputs[2]

    mask = torch.ones(2, 5, dtype=torch.bool)
    layer = loud(Attention(config, replace(BACKENDS["plain"], attention=kernel)))
    layer.train(probability > 0.0)(draw(2, 5, 21), mask)
    _query, _key, _value, actual_mask, _tap, actual = given
    assert mask is actual_mask
    assert probability == actual
