"""Tiled attention, in strips and in one tile, against the plain kernel."""

import importlib
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from scratch_gpt.attention import plain_attention
from scratch_gpt.kernels import tiled_attention as kernel
from scratch_gpt.kernels.backends import KERNELS
from scratch_gpt.kernels.tiled_attention import TILE, one_tile_attention, tiled_attention

Draw = Callable[..., Tensor]
Same = Callable[..., None]
Recorded = Callable[[], TorchDispatchMode]
MaskOf = Callable[[int], Tensor | None]
Projections = tuple[Tensor, Tensor, Tensor]


def projections(draw: Draw, time: int, past: int = 0) -> list[Tensor]:
    """Return random queries, keys and values; `past` keys come before the first query."""
    return [draw(2, 3, length, 7) for length in (time, time + past, time + past)]


def scores(operations: TorchDispatchMode, head_width: int) -> int:
    """Return how many scores were computed: elements of products not `head_width` wide."""
    products = {"mm", "bmm", "addmm", "baddbmm"}
    return sum(
        math.prod(shape)
        for name, shape in operations.ran
        if name in products and shape[-1] != head_width
    )


def ragged(tile: int) -> list[int]:
    return [1, tile - 1, tile, tile + 1, 3 * tile + 5]


def no_mask(_time: int) -> None:
    return None


def padded(time: int) -> Tensor:
    """Return a mask of one sequence padded on the left and one with every third token padded."""
    left = torch.arange(time) >= time // 3
    return torch.stack([left, torch.arange(time) % 3 > 0])


masks = pytest.mark.parametrize("mask_of", [no_mask, padded])
pasts = pytest.mark.parametrize("past", [0, 6], ids=["square", "6 keys in the past"])


@masks
@pasts
@pytest.mark.parametrize("time", ragged(4))
def test_equals_plain(time: int, past: int, mask_of: MaskOf, draw: Draw, assert_same: Same) -> None:
    qkv, mask = projections(draw, time, past), mask_of(time + past)
    assert_same(plain_attention(*qkv, mask), tiled_attention(*qkv, mask, tile=4))


@pytest.mark.parametrize("time", ragged(TILE))
def test_equals_plain_with_its_own_tile(time: int, draw: Draw, assert_same: Same) -> None:
    qkv = projections(draw, time)
    assert_same(plain_attention(*qkv), tiled_attention(*qkv))


@masks
@pasts
def test_gradients_equal_plains(past: int, mask_of: MaskOf, draw: Draw, assert_same: Same) -> None:
    inputs = [x.requires_grad_() for x in projections(draw, 17, past)]
    upstream, mask = draw(2, 3, 17, 7), mask_of(17 + past)
    expected = torch.autograd.grad(plain_attention(*inputs, mask), inputs, upstream)
    actual = torch.autograd.grad(tiled_attention(*inputs, mask, tile=4), inputs, upstream)
    for pair in zip(expected, actual, strict=True):
        assert_same(*pair)


@masks
def test_gradients_agree_with_differences(mask_of: MaskOf, draw: Draw) -> None:
    inputs = [draw(2, 2, time, 3).requires_grad_() for time in (5, 6, 6)]
    assert gradcheck(lambda *qkv: tiled_attention(*qkv, mask_of(6), tile=2), inputs)


def test_dropout_gradients_agree_with_differences(draw: Draw) -> None:
    inputs = [draw(2, 2, 5, 3).requires_grad_() for _ in range(3)]

    def dropping(*qkv: Tensor) -> Tensor:
        torch.manual_seed(4)
        return tiled_attention(*qkv, dropout_probability=0.25, tile=2)

    assert not torch.equal(dropping(*inputs), tiled_attention(*inputs, tile=2))
    assert gradcheck(dropping, inputs)


@pytest.mark.parametrize("cached", [1, 1 << 30], ids=["one by one", "all together"])
def test_the_group_size_changes_nothing(
    cached: int, draw: Draw, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scratch_gpt.kernels.tiled_attention._CACHED", cached)
    inputs, upstream = [draw(3, 2, 9, 7).requires_grad_() for _ in range(3)], draw(3, 2, 9, 7)
    mask = torch.cat([padded(9), torch.ones(1, 9, dtype=torch.bool)])
    contexts = plain_attention(*inputs, mask), tiled_attention(*inputs, mask, tile=4)
    assert_same(*contexts)
    gradients = (torch.autograd.grad(context, inputs, upstream) for context in contexts)
    for pair in zip(*gradients, strict=True):
        assert_same(*pair)


def test_merging_its_heads_is_a_view(draw: Draw) -> None:
    context = tiled_attention(*projections(draw, 9))
    assert context.transpose(1, 2).is_contiguous()


def test_does_not_modify_its_inputs(draw: Draw) -> None:
    inputs = [*(x.requires_grad_() for x in projections(draw, 9)), draw(2, 3, 9, 7)]
    expected = [x.detach().clone() for x in inputs]
    tiled_attention(*inputs[:3], padded(9), tile=4).backward(inputs[3])
    assert all(torch.equal(*pair) for pair in zip(expected, inputs, strict=True))


def test_never_calls_plain(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    """The two kernels that are compared share no code, not even the softmax."""
    module = importlib.import_module("scratch_gpt.attention")

    def forbidden(*_inputs: object, **_named: object) -> None:
        pytest.fail("the tiled kernel called the plain one")

    monkeypatch.setattr(module, "plain_attention", forbidden)
    monkeypatch.setattr(module, "softmax", forbidden)
    monkeypatch.setitem(KERNELS, "plain", forbidden)
    tiled_attention(*projections(draw, 9), tile=4)


def test_calls_no_tap(draw: Draw, watch: Callable[..., Tensor]) -> None:
    tiled_attention(*projections(draw, 9), tap=watch, tile=4)
    assert not watch.seen


@pytest.fixture
def largest_at(recorded: Recorded, draw: Draw) -> Callable[..., int]:
    """Return a function of a kernel and a length that returns the size of its largest tensor."""

    def measure(
        kernel: Callable[..., Tensor], time: int, mask_of: MaskOf, *, backward: bool, **named: int
    ) -> int:
        inputs = [x.requires_grad_(backward) for x in projections(draw, time)]
        mask = mask_of(time)
        with recorded() as operations:
            context = kernel(*inputs, mask, **named)
            if backward:
                context.sum().backward()
        return max(math.prod(shape) for _, shape in operations.ran)

    return measure


@masks
@pytest.mark.parametrize("direction", ["forward", "and backward"])
@pytest.mark.parametrize("time", [32, 64, 128])
def test_its_largest_tensor_grows_with_time(
    time: int, direction: str, mask_of: MaskOf, largest_at: Callable[..., int]
) -> None:
    """Twice the time makes the largest tensor at most twice as large, for a tile of fixed size."""
    backward = direction == "and backward"
    once, twice = (
        largest_at(tiled_attention, size, mask_of, backward=backward, tile=8)
        for size in (time, 2 * time)
    )
    assert twice <= 2 * once


@masks
def test_plains_largest_tensor_grows_with_the_square(
    mask_of: MaskOf, largest_at: Callable[..., int]
) -> None:
    once, twice = (largest_at(plain_attention, size, mask_of, backward=False) for size in (64, 128))
    assert twice == 4 * once


@pasts
def test_future_scores_are_never_computed(past: int, draw: Draw, recorded: Recorded) -> None:
    """Each tile of queries is multiplied with the keys up to its own end, and with no others."""
    time, tile = 17, 4
    qkv = projections(draw, time, past)
    with recorded() as operations:
        tiled_attention(*qkv, tile=tile)
    rows_and_seen = [(4, 4), (4, 8), (4, 12), (4, 16), (1, 17)]
    expected = 2 * 3 * sum(rows * (past + seen) for rows, seen in rows_and_seen)
    assert expected == scores(operations, head_width=7)
    assert expected < 2 * 3 * time * (time + past)


def test_its_own_tile_skips_the_future_too(draw: Draw, recorded: Recorded) -> None:
    with recorded() as operations:
        tiled_attention(draw(1, 1, 261, 7), draw(1, 1, 261, 7), draw(1, 1, 261, 7))
    assert scores(operations, head_width=7) == 64 * (64 + 128 + 192 + 256) + 5 * 261


def test_plain_computes_the_whole_square(draw: Draw, recorded: Recorded) -> None:
    with recorded() as operations:
        plain_attention(*projections(draw, 17))
    assert scores(operations, head_width=7) == 2 * 3 * 17 * 17


@pytest.fixture(
    params=[(1, 1), (1, 2), (1, 65), (2, 2), (3, 9), (17, 17), (64, 64), (64, 70)],
    ids=lambda times: f"time_q={times[0]}-time_k={times[1]}",
)
def short(request: pytest.FixtureRequest, draw: Draw) -> Projections:
    """Queries that fit one tile, some of them behind cached keys."""
    time_q, time_k = request.param
    return 3 * draw(2, 3, time_q, 7), draw(2, 3, time_k, 7), draw(2, 3, time_k, 7)


def test_one_tile_equals_plain(short: Projections, assert_same: Same) -> None:
    assert_same(plain_attention(*short), one_tile_attention(*short))


def test_one_tile_hides_other_padding(short: Projections, assert_same: Same) -> None:
    """Half of the first row is padding, the second row nothing but padding."""
    mask = torch.ones(2, short[1].shape[-2], dtype=torch.bool)
    mask[0, ::2] = False
    mask[1] = False
    assert_same(plain_attention(*short, mask), one_tile_attention(*short, mask))


def test_one_tile_survives_the_largest_scores(draw: Draw) -> None:
    query, key, value = 1e3 * draw(2, 3, 4, 7), 1e3 * draw(2, 3, 5, 7), draw(2, 3, 5, 7)
    assert bool(one_tile_attention(query, key, value).isfinite().all())


def test_one_tile_reads_views(short: Projections, draw: Draw, assert_same: Same) -> None:
    query, key, value = short
    buffers = draw(2, 2, 3, 90, 7)
    buffers[0, :, :, : key.shape[2]], buffers[1, :, :, : key.shape[2]] = key, value
    views = (room[:, :, : key.shape[2]] for room in buffers)
    assert_same(one_tile_attention(query, key, value), one_tile_attention(query, *views))


@pytest.fixture
def one_tile_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of queries of each call of `one_tile_attention`."""
    calls = []

    def recording(query: Tensor, *rest: Tensor | None) -> Tensor:
        calls.append(query.shape[-2])
        return one_tile_attention(query, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(kernel, "one_tile_attention", recording)
    return calls


def test_short_queries_without_gradients_take_one_tile(
    draw: Draw, one_tile_calls: list[int]
) -> None:
    for time in (1, 2, TILE, TILE + 1):
        tiled_attention(*projections(draw, time))
    assert one_tile_calls == [1, 2, TILE]
    with torch.no_grad():
        tiled_attention(*(x.requires_grad_() for x in projections(draw, 5)))
    assert one_tile_calls == [1, 2, TILE, 5]


def test_gradients_dropout_and_large_batches_take_strips(
    draw: Draw, one_tile_calls: list[int]
) -> None:
    tiled_attention(*(x.requires_grad_() for x in projections(draw, 5)))
    tiled_attention(*projections(draw, 5), dropout_probability=0.1)
    batch = kernel._CACHED // (2 * TILE * TILE) + 1
    tiled_attention(*(draw(batch, 2, TILE, 3) for _ in range(3)))
    assert one_tile_calls == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_one_tile_of_half_precision_uses_float32(dtype: torch.dtype, draw: Draw) -> None:
    """Scores are not rounded to half: the context is that of float32, rounded once."""
    query, key, value = (
        x.to(dtype) for x in (draw(2, 3, 4, 7), draw(2, 3, 9, 7), draw(2, 3, 9, 7))
    )
    wide = one_tile_attention(query.float(), key.float(), value.float())
    assert torch.equal(wide.to(dtype), one_tile_attention(query, key, value))
