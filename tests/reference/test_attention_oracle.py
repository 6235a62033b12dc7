"""The attention oracle against formulas written out, finite differences, and faults."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reference import attention_oracle as oracle

Array = NDArray[np.float64]
Same = Callable[[Array, Tensor], None]

STEP = 1e-5
"""Step of the finite differences, whose own error is its square."""


@pytest.fixture
def inputs() -> list[Array]:
    """Return query, key, value and upstream: 3 queries at the end of 5 keys."""
    draw = np.random.default_rng(7)
    return [draw.normal(size=(2, 3, time, 7)) for time in (3, 5, 5, 3)]


def whole(query: Array, key: Array, value: Array) -> Array:
    scores = query @ key.swapaxes(-2, -1) / 7**0.5
    past = key.shape[2] - query.shape[2]
    hidden = np.triu(np.ones(scores.shape[-2:], bool), 1 + past)
    grown = np.where(hidden, 0.0, np.exp(scores))
    result: Array = grown / grown.sum(-1, keepdims=True) @ value
    return result


def test_context_is_the_formula(inputs: list[Array], assert_same: Same) -> None:
    assert_same(whole(*inputs[:3]), torch.from_numpy(oracle.context(*inputs[:3])))


def test_some_rows_are_those_of_all(inputs: list[Array]) -> None:
    everything = oracle.context(*inputs[:3])
    assert np.array_equal(everything[:, :, [2, 0]], oracle.context(*inputs[:3], rows=[2, 0]))


def test_a_query_sees_no_later_key(inputs: list[Array]) -> None:
    query, key, value, _ = inputs
    before = oracle.context(query, key, value)
    key[:, :, -1], value[:, :, -1] = 100.0, -100.0
    after = oracle.context(query, key, value)
    assert np.array_equal(before[:, :, :-1], after[:, :, :-1])
    assert not np.array_equal(before[:, :, -1], after[:, :, -1])


@pytest.mark.parametrize(
    ("function", "gradients"),
    [(oracle.context, oracle.gradients), (oracle.products, oracle.products_gradients)],
)
def test_gradients_are_those_of_the_function(
    function: Callable[..., Array], gradients: Callable[..., list[Array]], inputs: list[Array]
) -> None:
    *triple, upstream = inputs
    for found, tensor in zip(gradients(*triple, upstream), triple, strict=True):
        for index in np.ndindex(tensor.shape):
            ends = []
            for step in (STEP, -STEP):
                tensor[index] += step
                ends.append((function(*triple) * upstream).sum())
                tensor[index] -= step
            np.testing.assert_allclose(found[index], (ends[0] - ends[1]) / 2 / STEP, atol=STEP)


def test_scores_of_any_size_stay_finite(inputs: list[Array]) -> None:
    query, key, value, upstream = inputs
    assert np.isfinite(oracle.context(query * 1e4, key, value)).all()
    assert all(np.isfinite(x).all() for x in oracle.gradients(query * 1e4, key, value, upstream))


def test_products_are_two_products(inputs: list[Array], assert_same: Same) -> None:
    query, key, value, _ = inputs
    expected = query @ key.swapaxes(-2, -1) @ value
    assert_same(expected, torch.from_numpy(oracle.products(query, key, value)))
    some = oracle.products(query, key, value, rows=[1])
    assert_same(expected[:, :, [1]], torch.from_numpy(some))


@pytest.mark.parametrize("time", [513, 1024, 1025, 8192])
def test_a_sample_has_the_ends_and_tile_edges(time: int) -> None:
    rows = oracle.sampled_rows(time, tile=128)
    last_edge = (time - 1) // 128 * 128
    assert rows == sorted(set(rows))
    assert len(rows) == 64
    assert {0, time - 1, 127, last_edge} <= set(rows)
    assert time > rows[-1]


def test_every_row_of_a_short_text_is_sampled() -> None:
    assert list(range(64)) == oracle.sampled_rows(64, tile=16)
    assert oracle.sampled_rows(65, tile=16) != oracle.sampled_rows(65, tile=16, seed=1)
