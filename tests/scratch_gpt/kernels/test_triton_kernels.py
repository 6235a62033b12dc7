"""The Triton kernels in Triton's interpreter, against the plain kernel, forward and backward."""

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
MaskOf = Callable[[int], Tensor | None]

KERNELS = Path(scratch_gpt.__path__[0]) / "kernels"


@pytest.fixture
def qkv(draw: Draw) -> Drawn:
    def drawn(time_q: int, time_k: int, width: int = 7, head: int = 1) -> list[Tensor]:
        return [draw(2, head, time, width) for time in (time_q, time_k, time_k, time_q)]

    return drawn


def no_mask(_time: int) -> None:
    return None


def padded(time: int) -> Tensor:
    """Return a mask of one sequence padded on the left and one with every third token padded."""
    left = torch.arange(time) >= time // 3
    return torch.stack([left, torch.arange(time) % 3 > 0])


masks = pytest.mark.parametrize("mask_of", [no_mask, padded])


def by_plain(inputs: list[Tensor], upstream: Tensor, mask: Tensor | None = None) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in inputs]
    context = plain_attention(*inputs, mask)
    return [context.detach(), *torch.autograd.grad(context, inputs, upstream)]


def check_like_plain(drawn: list[Tensor], run: Run, same: Same, **named: Any) -> None:  # noqa: ANN401
    *inputs, upstream = drawn
    answer = run(inputs, upstream, **named)
    actual = [answer["context"], *answer["gradients"]]
    for pair in zip(by_plain(inputs, upstream, named.get("mask")), actual, strict=True):
        same(*pair)


@masks
@pytest.mark.parametrize("past", [0, 11], ids=["square", "11 keys in the past"])
@pytest.mark.parametrize("time", [1, 8, 21])
def test_equals_plain(  # noqa: PLR0913 - the cases and the fixtures
    time: int, past: int, mask_of: MaskOf, qkv: Drawn, interpreted: Run, assert_same: Same
) -> None:
    drawn, mask = qkv(time, time + past, head=3), mask_of(time + past)
    check_like_plain(drawn, interpreted, assert_same, mask=mask)


@pytest.mark.parametrize("width", [1, 21, 64])
def test_any_head_width(width: int, qkv: Drawn, interpreted: Run, assert_same: Same) -> None:
    check_like_plain(qkv(9, 9, width), interpreted, assert_same, mask=padded(9))


def test_equals_plain_with_its_own_tiles(qkv: Drawn, interpreted: Run, assert_same: Same) -> None:
    check_like_plain(qkv(45, 51), interpreted, assert_same, tiles=None)


def rms(x: Tensor) -> float:
    return float(x.detach().double().square().mean().sqrt())


@masks
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_rounds_no_worse_than_plain(
    dtype: str, mask_of: MaskOf, qkv: Drawn, interpreted: Run
) -> None:
    precision = PRECISIONS[dtype]
    drawn, mask = [x.to(precision.dtype) for x in qkv(21, 27, 64)], mask_of(27)
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
    "mask off by one": ("hide", "keys <= own", "keys <= own + 1"),
    "own key hidden": ("hide", " | (keys == own)", ""),
    "padding seen": ("hide", "visible & (real != 0)", "visible"),
    "scale missing": ("load_scaled", "tile.to(exact) * scale", "tile.to(exact)"),
    "context not shrunk": ("_accumulate", "context * shrink[:, None]", "context"),
    "total not shrunk": ("_accumulate", "total * shrink", "total"),
    "first tile of keys skipped": ("forward", "own, 0, near", "own, block_k, near"),
    "diagonal unhidden": ("forward", "start) // block_k", "start + block_k) // block_k"),
    "log-sum without its maximum": ("forward", "largest + tl.log(total)", "tl.log(total)"),
    "delta missing": ("_add_keys", "(to_weights - deltas[:, None])", "to_weights"),
    "delta missing for keys": ("_add_queries", "(to_weights - deltas[None, :])", "to_weights"),
    "gradient not scaled": ("query_gradient", "gradient * scale", "gradient"),
    "a tile of queries skipped": ("key_gradient", "keys, far, end", "keys, far + block_q, end"),
}
"""Faults of a kernel: the function, the right text, and the wrong text."""


def inject(folder: Path, name: str, function: str, right: str, wrong: str) -> str:
    """Write a copy of the kernels with the fault; return the package's name."""
    package = "copy_" + name.replace(" ", "_").replace("-", "_")
    (folder / package).mkdir()
    for path in KERNELS.glob("triton_*.py"):
        source = path.read_text(encoding="utf-8")
        if path.stem == "triton_kernels":
            before, start, rest = source.partition(f"def {function}(")
            body, end, after = rest.partition("\n@triton.jit")
            assert body.count(right) == 1
            source = before + start + body.replace(right, wrong) + end + after
        source = source.replace("scratch_gpt.kernels.triton_", f"{package}.triton_")
        (folder / package / path.name).write_text(source, encoding="utf-8")
    return package


def check_twice(package: str, qkv: Drawn, run: Run, same: Same) -> None:
    """Assert that the package gives plain's numbers, without a mask and with one."""
    for mask in (None, padded(27)):
        check_like_plain(qkv(21, 27), run, same, mask=mask, package=package)


@pytest.mark.parametrize("fault", FAULTS)
def test_an_injected_fault_is_detected(
    fault: str, copies: Path, qkv: Drawn, interpreted: Run, assert_same: Same
) -> None:
    package = inject(copies, fault, *FAULTS[fault])
    with pytest.raises(AssertionError, match="differs by"):
        check_twice(package, qkv, interpreted, assert_same)


def test_a_copy_is_right(copies: Path, qkv: Drawn, interpreted: Run, assert_same: Same) -> None:
    package = inject(copies, "nothing", "hide", "keys <= own", "keys <= own")
    check_twice(package, qkv, interpreted, assert_same)


def test_the_future_is_never_read(qkv: Drawn, interpreted: Run) -> None:
    query, key, value, upstream = qkv(24, 24)
    before = interpreted([query, key, value], upstream)
    for x in (query, key, value, upstream):
        x[:, :, 16:] = float("nan")
    after = interpreted([query, key, value], upstream)
    assert torch.equal(before["context"][:, :, :16], after["context"][:, :, :16])
    assert torch.equal(before["gradients"][0][:, :, :16], after["gradients"][0][:, :, :16])
    assert bool(after["context"][:, :, 16:].isnan().all())


def test_the_past_receives_no_gradient_of_it(qkv: Drawn, interpreted: Run) -> None:
    query, key, value, upstream = qkv(24, 24)
    before = interpreted([query, key, value], upstream)["gradients"]
    for x in (query, upstream):
        x[:, :, :16] = float("nan")
    after = interpreted([query, key, value], upstream)["gradients"]
    for old, new in zip(before[1:], after[1:], strict=True):
        assert torch.equal(old[:, :, 16:], new[:, :, 16:])
        assert bool(new[:, :, :16].isnan().any())


def test_views_need_no_copies(draw: Draw, interpreted: Run, assert_same: Same) -> None:
    projected = draw(2, 9, 3 * 21)
    inputs = [split_heads(part, 3) for part in projected.chunk(3, dim=-1)]
    upstream = draw(2, 3, 1, 1).expand(2, 3, 9, 7)
    answer = interpreted(inputs, upstream)
    actual = [answer["context"], *answer["gradients"]]
    for expected, ours in zip(by_plain(inputs, upstream), actual, strict=True):
        assert_same(expected, ours)
        merged = merge_heads(ours)
        assert ours.data_ptr() == merged.data_ptr()


def test_saves_its_inputs_and_one_number_a_row(qkv: Drawn, interpreted: Run) -> None:
    *inputs, upstream = qkv(9, 15)
    inside, past = (2, 1, 9, 7), (2, 1, 15, 7)
    expected = [inside, past, past, (2, 15), inside, (2, 1, 9, 1)]
    assert expected == interpreted(inputs, upstream, mask=padded(15))["kept"]


@pytest.mark.parametrize(
    ("dtype", "size"),
    [(torch.float32, 1e19), (torch.float16, 120.0)],
    ids=["scores of 1e38", "unscaled scores overflow"],
)
def test_extreme_scores_stay_finite(
    dtype: torch.dtype, size: float, draw: Draw, interpreted: Run
) -> None:
    signs = torch.where(draw(2, 3, 21) > 0, 1.0, -1.0)
    query = (signs * size)[..., None].expand(2, 3, 21, 7).to(dtype)
    key = (torch.linspace(0.5, 1.0, 21) * size)[None, None, :, None].expand(2, 3, 21, 7).to(dtype)
    value = draw(2, 3, 21, 7).to(dtype)
    answer = interpreted([query, key, value], value)
    assert torch.equal(plain_attention(query, key, value), answer["context"])
    assert all(bool(x.isfinite().all()) for x in answer["gradients"][2:])


def dropped_weights(draw: Draw, run: Run, seed: int, **named: Any) -> tuple[Tensor, Tensor]:  # noqa: ANN401
    """Return weights `[2 2 13 13]` after and before dropout, read with one-hot values."""
    one_hot = torch.eye(13).double().expand(2, 2, 13, 13)
    query, key = draw(2, 2, 13, 13), draw(2, 2, 13, 13)
    answer = run([query, key, one_hot], one_hot, dropout=0.375, seed=seed, **named)
    return answer["context"], plain_attention(query, key, one_hot)


def test_dropout_zeroes_or_scales_weights(draw: Draw, interpreted: Run, assert_same: Same) -> None:
    dropped, weights = dropped_weights(draw, interpreted, seed=3)
    kept = dropped != 0
    assert_same(torch.where(kept, weights / 0.625, 0.0), dropped)
    visible = weights != 0
    share = float(kept[visible].double().mean())
    spread = (0.375 * 0.625 / int(visible.sum())) ** 0.5
    assert abs(share - 0.625) < 4 * spread
    assert not torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[:, 0], kept[:, 1])


def test_the_seed_determines_the_dropout_mask(draw: Draw, interpreted: Run) -> None:
    first, weights = dropped_weights(draw, interpreted, seed=3)
    cut, _ = dropped_weights(draw, interpreted, seed=3, tiles=(4, 16))
    other, _ = dropped_weights(draw, interpreted, seed=4)
    assert torch.equal(first != 0, cut != 0)
    assert not torch.equal(first != 0, other != 0)
    assert bool((weights != 0).any())


def test_gradients_use_the_forwards_dropout_mask(
    draw: Draw, interpreted: Run, assert_same: Same
) -> None:
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
