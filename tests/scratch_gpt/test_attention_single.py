"""Attention of one query, against the plain core."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from scratch_gpt.attention import plain_attention
from scratch_gpt.kernels.tiled_attention import single_query_attention, tiled_attention

Draw = Callable[..., Tensor]
Same = Callable[..., None]


@pytest.fixture(params=[1, 2, 5, 64, 65], ids=lambda time: f"time_k={time}")
def inputs(request: pytest.FixtureRequest, draw: Draw) -> tuple[Tensor, Tensor, Tensor]:
    """Return a query and the keys and values it meets, loud enough to tell keys apart."""
    time_k = request.param
    return 3 * draw(2, 3, 1, 7), draw(2, 3, time_k, 7), draw(2, 3, time_k, 7)


def test_equals_the_plain_core(inputs: tuple[Tensor, Tensor, Tensor], assert_same: Same) -> None:
    """At any number of keys, one included."""
    assert_same(plain_attention(*inputs), single_query_attention(*inputs))


def test_hides_padding_and_never_its_own_key(
    inputs: tuple[Tensor, Tensor, Tensor], assert_same: Same
) -> None:
    """The first row's padding is hidden; the second row is nothing but padding."""
    mask = torch.ones(2, inputs[1].shape[-2], dtype=torch.bool)
    mask[0, ::2] = False
    mask[1] = False
    assert_same(plain_attention(*inputs, mask), single_query_attention(*inputs, mask))


def test_survives_the_largest_scores(draw: Draw) -> None:
    """Scores beyond the exponential's range give weights all the same."""
    query, key, value = 1e3 * draw(2, 3, 1, 7), 1e3 * draw(2, 3, 5, 7), draw(2, 3, 5, 7)
    assert bool(single_query_attention(query, key, value).isfinite().all())


def test_a_key_in_a_room_with_more_is_met_alone(
    inputs: tuple[Tensor, Tensor, Tensor], draw: Draw, assert_same: Same
) -> None:
    """Keys that are a view into a larger room give what they give by themselves."""
    query, key, value = inputs
    rooms = draw(2, 2, 3, 70, 7)
    rooms[0, :, :, : key.shape[2]], rooms[1, :, :, : key.shape[2]] = key, value
    views = (room[:, :, : key.shape[2]] for room in rooms)
    assert_same(single_query_attention(query, key, value), single_query_attention(query, *views))


def test_the_tiled_core_takes_it_where_no_gradient_is_asked(
    inputs: tuple[Tensor, Tensor, Tensor], assert_same: Same
) -> None:
    """The very bits of this core without gradients, and the same values with them."""
    with torch.no_grad():
        assert torch.equal(single_query_attention(*inputs), tiled_attention(*inputs))
    assert_same(single_query_attention(*inputs), tiled_attention(*inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_works_in_float32_where_the_query_is_half(dtype: torch.dtype, draw: Draw) -> None:
    """Scores are not rounded to half: the context is that of float32, rounded once."""
    query, key, value = (
        x.to(dtype) for x in (draw(2, 3, 1, 7), draw(2, 3, 9, 7), draw(2, 3, 9, 7))
    )
    wide = single_query_attention(query.float(), key.float(), value.float())
    assert torch.equal(wide.to(dtype), single_query_attention(query, key, value))
