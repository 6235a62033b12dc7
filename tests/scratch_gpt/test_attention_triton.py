"""The Triton core, in Triton's interpreter: the plain core's numbers, forward and backward."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scratch_gpt
from parity.core.tolerances import PRECISIONS
from scratch_gpt.attention import merge_heads, plain_attention, split_heads

pytestmark = pytest.mark.slow  # an interpreter of kernels takes its time

Draw = Callable[..., Tensor]
Same = Callable[..., None]
Run = Callable[..., dict[str, Any]]
Drawn = Callable[..., list[Tensor]]

HOME = Path(scratch_gpt.__path__[0])


@pytest.fixture
def qkv(draw: Draw) -> Drawn:
    """Return a function that draws query, key, value and the context's gradient."""

    def drawn(time_q: int, time_k: int, width: int = 7, head: int = 1) -> list[Tensor]:
        return [draw(2, head, time, width) for time in (time_q, time_k, time_k, time_q)]

    return drawn


def padded(time: int) -> Tensor:
    """Return a mask of one sequence padded on the left and one with every third token padded."""
    left = torch.arange(time) >= time // 3
    return torch.stack([left, torch.arange(time) % 3 > 0])


def by_plain(inputs: list[Tensor], upstream: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    """Return the context of the plain core, and the gradients of its inputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    context = plain_attention(*inputs, mask)
    return [context.detach(), *torch.autograd.grad(context, inputs, upstream)]


def check_like_plain(drawn: list[Tensor], run: Run, same: Same, **named: Any) -> None:  # noqa: ANN401
    """Assert that context and gradients are the plain core's."""
    *inputs, upstream = drawn
    answer = run(inputs, upstream, **named)
    actual = [answer["context"], *answer["gradients"]]
    for pair in zip(by_plain(inputs, upstream, named.get("mask")), actual, strict=True):
        same(*pair)


@pytest.mark.parametrize("with_mask", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("past", [0, 11], ids=["square", "11 keys in the past"])
@pytest.mark.parametrize("time", [1, 8, 21])
def test_equals_plain(  # noqa: PLR0913 - the cases and the means
    time: int,
    past: int,
    with_mask: bool,  # noqa: FBT001
    qkv: Drawn,
    interpreted: Run,
    assert_same: Same,
) -> None:
    """At any length, over tiles that it fits or does not, float64 gives plain's numbers."""
    mask = padded(time + past) if with_mask else None
    check_like_plain(qkv(time, time + past, head=3), interpreted, assert_same, mask=mask)


@pytest.mark.parametrize("width", [1, 21, 64])
def test_equals_plain_at_any_head_width(
    width: int, qkv: Drawn, interpreted: Run, assert_same: Same
) -> None:
    """A head need not be as wide as a power of two."""
    check_like_plain(qkv(9, 9, width), interpreted, assert_same, mask=padded(9))


def test_equals_plain_with_its_own_tiles(qkv: Drawn, interpreted: Run, assert_same: Same) -> None:
    """So it does with the tiles that it chooses by itself."""
    check_like_plain(qkv(45, 51), interpreted, assert_same, tiles=None)


def rms(x: Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.detach().double().square().mean().sqrt())


@pytest.mark.parametrize("with_mask", [False, True], ids=["no mask", "mask"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_rounds_no_worse_than_plain(
    dtype: str,
    with_mask: bool,  # noqa: FBT001
    qkv: Drawn,
    interpreted: Run,
) -> None:
    """Below float64 its error stays within the bound on that of the plain core's own."""
    precision = PRECISIONS[dtype]
    drawn = [x.to(precision.dtype) for x in qkv(21, 27, 64)]
    mask = padded(27) if with_mask else None
    *truth_inputs, truth_upstream = (x.double() for x in drawn)
    truth = by_plain(truth_inputs, truth_upstream, mask)
    reference = by_plain(drawn[:3], drawn[3], mask)
    answer = interpreted(drawn[:3], drawn[3], mask=mask)
    for true, plains, ours in zip(
        truth, reference, [answer["context"], *answer["gradients"]], strict=True
    ):
        assert ours.dtype == precision.dtype
        noise = max(rms(plains - true), precision.unit * rms(true))
        error = rms(ours - true)
        assert error <= precision.quality * noise, f"{error / noise:.3g} times the reference's"


FAULTS = {
    "mask off by one": ("tiles", "keys <= own", "keys <= own + 1"),
    "own key hidden": ("tiles", " | (keys == own)", ""),
    "padding seen": ("tiles", "visible & (real != 0)", "visible"),
    "scale missing": ("tiles", "tile.to(exact) * scale", "tile.to(exact)"),
    "context not shrunk": ("forward", "context * shrink[:, None]", "context"),
    "total not shrunk": ("forward", "total * shrink", "total"),
    "first tile of keys skipped": ("forward", "own, 0, near", "own, block_k, near"),
    "diagonal unhidden": ("forward", "start) // block_k", "start + block_k) // block_k"),
    "log-sum without its maximum": ("forward", "largest + tl.log(total)", "tl.log(total)"),
    "delta missing": ("backward", "(to_weights - deltas[:, None])", "to_weights"),
    "delta missing for keys": ("backward", "(to_weights - deltas[None, :])", "to_weights"),
    "gradient not scaled": ("backward", "gradient * scale", "gradient"),
    "a tile of queries skipped": ("backward", "keys, far, end", "keys, far + block_q, end"),
}
"""What may go wrong in a kernel: the file, what stands there, and what stands there instead."""


def plant(folder: Path, name: str, file: str, right: str, wrong: str) -> str:
    """Write a copy of the core with the fault in it; return the package's name."""
    package = "planted_" + name.replace(" ", "_").replace("-", "_")
    (folder / package).mkdir()
    for path in HOME.glob("attention_triton*.py"):
        source = path.read_text(encoding="utf-8")
        if path.stem == f"attention_triton_{file}":
            assert right in source
            source = source.replace(right, wrong)
        source = source.replace(
            "scratch_gpt.kernels.triton_attention", f"{package}.attention_triton"
        )
        (folder / package / path.name).write_text(source, encoding="utf-8")
    return package


def check_twice(package: str, qkv: Drawn, run: Run, same: Same) -> None:
    """Assert that the package's core gives plain's numbers, without a mask and with one."""
    for mask in (None, padded(27)):
        check_like_plain(qkv(21, 27), run, same, mask=mask, package=package)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(
    fault: str, planted: Path, qkv: Drawn, interpreted: Run, assert_same: Same
) -> None:
    """What makes the tests above say no."""
    package = plant(planted, fault, *FAULTS[fault])
    with pytest.raises(AssertionError, match="differs by"):
        check_twice(package, qkv, interpreted, assert_same)


def test_a_copy_without_a_fault_is_right(
    planted: Path, qkv: Drawn, interpreted: Run, assert_same: Same
) -> None:
    """It is the fault that is seen, and not the copying."""
    package = plant(planted, "nothing", "tiles", "keys <= own", "keys <= own")
    check_twice(package, qkv, interpreted, assert_same)


def test_the_future_is_never_read(qkv: Drawn, interpreted: Run) -> None:
    """No number in a tile wholly in the future reaches a row, not even times zero."""
    query, key, value, upstream = qkv(24, 24)
    before = interpreted([query, key, value], upstream)
    for x in (query, key, value, upstream):
        x[:, :, 16:] = float("nan")
    after = interpreted([query, key, value], upstream)
    assert torch.equal(before["context"][:, :, :16], after["context"][:, :, :16])
    assert torch.equal(before["gradients"][0][:, :, :16], after["gradients"][0][:, :, :16])
    assert bool(after["context"][:, :, 16:].isnan().all())


def test_the_past_receives_no_gradient_of_it(qkv: Drawn, interpreted: Run) -> None:
    """Nor does a query before a tile of keys reach the gradients of these."""
    query, key, value, upstream = qkv(24, 24)
    before = interpreted([query, key, value], upstream)["gradients"]
    for x in (query, upstream):
        x[:, :, :16] = float("nan")
    after = interpreted([query, key, value], upstream)["gradients"]
    for old, new in zip(before[1:], after[1:], strict=True):
        assert torch.equal(old[:, :, 16:], new[:, :, 16:])
        assert bool(new[:, :, :16].isnan().any())


def test_views_are_taken_as_they_lie(draw: Draw, interpreted: Run, assert_same: Same) -> None:
    """Three views of one projection, and a gradient of any strides, need no copies."""
    projected = draw(2, 9, 3 * 21)
    inputs = [split_heads(part, 3) for part in projected.chunk(3, dim=-1)]
    upstream = draw(2, 3, 1, 1).expand(2, 3, 9, 7)
    answer = interpreted(inputs, upstream)
    actual = [answer["context"], *answer["gradients"]]
    for expected, ours in zip(by_plain(inputs, upstream), actual, strict=True):
        assert_same(expected, ours)
        merged = merge_heads(ours)
        assert ours.data_ptr() == merged.data_ptr()


def test_keeps_its_inputs_and_one_number_a_row(qkv: Drawn, interpreted: Run) -> None:
    """Nothing with two axes of time waits for the way back."""
    *inputs, upstream = qkv(9, 15)
    inside, past = (2, 1, 9, 7), (2, 1, 15, 7)
    expected = [inside, past, past, (2, 15), inside, (2, 1, 9, 1)]
    assert expected == interpreted(inputs, upstream, mask=padded(15))["kept"]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [
        pytest.param(torch.float32, 1e19, id="float32, scores of 1e38"),
        pytest.param(torch.float16, 120.0, id="float16, unscaled scores overflow"),
    ],
)
def test_extreme_scores_stay_finite(
    dtype: torch.dtype, size: float, draw: Draw, interpreted: Run
) -> None:
    """Scores near the end of the dtype's range pick one value each, as the plain core's do."""
    signs = torch.where(draw(2, 3, 21) > 0, 1.0, -1.0)
    query = (signs * size)[..., None].expand(2, 3, 21, 7).to(dtype)
    key = (torch.linspace(0.5, 1.0, 21) * size)[None, None, :, None].expand(2, 3, 21, 7).to(dtype)
    value = draw(2, 3, 21, 7).to(dtype)
    answer = interpreted([query, key, value], value)
    assert torch.equal(plain_attention(query, key, value), answer["context"])
    assert all(bool(x.isfinite().all()) for x in answer["gradients"][2:])
