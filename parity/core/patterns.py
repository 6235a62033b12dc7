"""What the numbers of a wrong tensor show about its cause, in words.

Both sides had the same inputs in float64, so that right elements differ by rounding alone.
"""

import itertools
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from parity.core.taps import Axes

RIGHT = 1e-12
"""Largest difference of a right element, over the RMS of the tensor."""

NARROWER = (torch.bfloat16, torch.float16, torch.float32)
"""From the coarsest; a number of one that is coarser may be one of a finer, too."""

AXES = {
    Axes.ROWS: ("row of the batch", "token", "feature"),
    Axes.POSITIONS: ("row of the batch", "token", "feature"),
    Axes.HEADS: ("row of the batch", "head", "token", "feature"),
    Axes.SCORES: ("row of the batch", "head", "token", "key"),
    Axes.WEIGHTS: ("row of the batch", "head", "token", "key"),
    Axes.LOSS: ("row of the batch", "token"),
}
PARAMETER = ("row", "column")

LEFT_ON = "dropout left on (call model.eval())"
RANDOM = f"two runs on the same ids differ: it draws random numbers, as {LEFT_ON}"


def pattern(  # noqa: PLR0913 - a wrong tensor, and what it is
    value: Tensor,
    right: Tensor,
    *,
    names: Sequence[str],
    visible: Tensor | None = None,
    summands: Sequence[Tensor] = (),
    within: float = 0.0,
    smooth: bool = True,
) -> tuple[str, str]:
    """Return what the numbers show beside the usual causes, and the cause if it is certain.

    Each may be "".

    Args:
        value: The wrong tensor.
        right: The right one, of the same shape, float64.
        names: What an index of each axis is.
        visible: Which entries count, broadcastable to the shape; None where all do.
        summands: Right tensors of which the result may be a sum.
        within: Largest difference of a right tensor, over its RMS.
        smooth: Whether another formula differs smoothly from the right one. In a gradient it does
            not, and looks like rounding unless the differences are small.
    """
    value, right = value.detach().cpu().double(), right.detach().cpu().double()
    counts = torch.ones_like(right, dtype=torch.bool) if visible is None else visible
    counts = counts.expand(right.shape)
    rms = float(right[counts].square().mean().sqrt()) if bool(counts.any()) else 0.0
    gaps = (value - right).masked_fill(~counts, 0.0)
    largest = float(gaps.abs().max()) if gaps.numel() else 0.0
    if not (math.isfinite(largest) and largest > within * rms and rms > 0.0):
        return "", ""
    exact = max(RIGHT, within / 10) * rms
    wrong = gaps.abs() > min(exact, largest / 2)
    places = list(_places(wrong, counts, names))
    for summand in (torch.zeros(()), *summands):
        if _is_dropped((value - summand)[counts], (right - summand)[counts], rms):
            return "", LEFT_ON
    note, cause = _cause(value, right, counts, gaps, exact, smooth=smooth)
    return "; ".join(filter(None, [*places, note])), cause


def _is_dropped(value: Tensor, right: Tensor, rms: float) -> bool:
    """Return whether some elements are 0 and all others scaled up to keep the mean."""
    there = right.abs() > 1e-6 * rms
    ratios = value[there] / right[there]
    kept = ratios[ratios.abs() > 1e-6]  # noqa: PLR2004 - as above
    dropped = 1.0 - len(kept) / max(1, len(ratios))
    if not (0 < len(kept) < len(ratios)):
        return False
    scale = float(kept.median())
    same = float((kept - scale).abs().max()) <= 1e-5 * abs(scale)
    if not (same and scale > 1.0):
        return False
    chance = 5.0 * math.sqrt((scale - 1.0) / scale**2 / len(ratios))  # p is 1 - 1 / scale
    return abs(dropped - (1.0 - 1.0 / scale)) < chance


def _cause(  # noqa: PLR0913 - as `pattern`
    value: Tensor, right: Tensor, counts: Tensor, gaps: Tensor, exact: float, *, smooth: bool
) -> tuple[str, str]:
    ours, truth, gap = value[counts], right[counts], gaps[counts]
    size = float((gap.square().mean() / truth.square().mean()).sqrt())
    for dtype in NARROWER:
        name = str(dtype).removeprefix("torch.")
        are = ours == ours.to(dtype).double()
        were = truth == truth.to(dtype).double()
        if size < 0.1 and bool(are.all()) and float(were.double().mean()) < 0.5:  # noqa: PLR2004
            return "", f"all of its values are numbers of {name}: an operation computes in it"
    factor = float((ours * truth).sum() / truth.square().sum())
    if float((ours - factor * truth).abs().max()) <= exact * max(1.0, abs(factor)):
        if abs(factor - 1.0) < _FEW:
            return f"it is the right one times 1 + {factor - 1.0:.2g}", _DIGITS
        return f"it is the right one times {factor:.6g}", ""
    narrow = rounding_like(gaps.masked_fill(gaps.abs() <= exact, 0.0), right, size)
    if narrow and (smooth or narrow == "float32"):
        return "", f"the differences are the rounding of {narrow}: an operation computes in it"
    return (f"small and even differences, as if {_DIGITS}", "") if size < _FEW else ("", "")


_FEW = 1e-5
"""Size of a difference below which a constant is meant, but written with too few digits."""

_DIGITS = "a constant has too few digits"


def size_like(size: float) -> str:
    """Return the narrower dtype whose rounding makes differences of this size; "" if none does.

    `size` is the RMS of the differences over that of the right tensor: usually below a unit
    roundoff, and a few units after several operations.
    """
    units = {str(dtype)[6:]: torch.finfo(dtype).eps / 2 for dtype in NARROWER}
    near = {name: abs(math.log2(2.0 * size / unit)) for name, unit in units.items() if size > 0.0}
    name = min(near, key=lambda one: near[one], default="")
    return name if name and near[name] <= _OCTAVES else ""


_OCTAVES = 4.0


def rounding_like(gaps: Tensor, right: Tensor, size: float) -> str:
    """Return the narrower dtype of which some differences are the rounding; "" if of none.

    Rounding has either sign, reaches almost every element, and hardly depends on the value; that of
    a row's statistic, as of a sum, is alike in the row and has either sign over the rows. A formula
    that is another one differs smoothly.
    """
    name = size_like(size)
    rows, values = (x.reshape(-1, x.shape[-1] if x.ndim > 1 else x.numel()) for x in (gaps, right))
    if not name or float((gaps != 0.0).double().mean()) < _SPARSE:
        return ""
    shares = torch.linalg.vecdot(rows, values)  # of each row in its own direction
    order = values.argsort(-1)
    ordered = rows.gather(-1, order)
    both = (ordered[:, 1:] * ordered[:, :-1]).sum()
    alike = float(both / ordered.square().sum())
    mixed = float((rows > 0.0).double().sum() / max(1, int((rows != 0.0).sum())))
    if abs(alike) < _SMOOTH and abs(mixed - 0.5) < 0.25:  # noqa: PLR2004 - a half have each sign
        return name
    positive = float((shares > 0.0).double().mean())
    varied = len(shares) >= _ROWS and abs(positive - 0.5) < 0.4  # noqa: PLR2004 - as above
    return name if varied and name == "float32" else ""


_SPARSE, _SMOOTH, _ROWS = 0.4, 0.35, 8
"""Least share of elements that differ (of scores nearly half are hidden); largest correlation of
neighbours by value; fewest rows whose signs tell something."""


def _places(wrong: Tensor, counts: Tensor, names: Sequence[str]) -> Iterator[str]:
    """Yield in which part of each axis there are wrong elements, where it is not all of it."""
    for axis, name in enumerate(names[: wrong.ndim]):
        others = [other for other in range(wrong.ndim) if other != axis]
        is_wrong = wrong.sum(others) > 0 if others else wrong
        there = counts.sum(others) > 0 if others else counts
        at = is_wrong.nonzero().flatten().tolist()
        size = int(there.sum())
        # The first token attends to itself alone, and the last one predicts none.
        usual = name == "token" and len(at) == size - 1 and at[-1] - at[0] == size - 2
        if not at or len(at) == size or usual:
            continue
        if len(at) > size // 2 and at[-1] - at[0] >= len(at):
            continue  # some are right by chance
        yield _part(at, len(is_wrong), name) + _meaning(at, len(is_wrong), name)


def _part(at: Sequence[int], size: int, name: str) -> str:
    joined = all(after - before == 1 for before, after in itertools.pairwise(at))
    if len(at) == 1:
        return f"only {name} {at[0]} of {size}"
    if joined and at[-1] == size - 1:
        return f"only from {name} {at[0]} on, of {size}"
    if joined:
        return f"only from {name} {at[0]} to {at[-1]}, of {size}"
    return f"only {len(at)} of {size}: {name} {', '.join(map(str, at[:_LISTED]))}, ..."


_LISTED = 4
_TILE = 16
"""Tiles are at least this long, and a power of two or a multiple of this."""


def _meaning(at: Sequence[int], size: int, name: str) -> str:
    if name == "row of the batch" and at[0] > 0:
        return " (the offset or stride of the batch, or a tile that spans its rows)"
    if name not in ("token", "key") or at[0] < _TILE - 1:
        return ""
    if at[0] % _TILE == 0 and at[-1] == size - 1:
        return " (from the edge of a tile on, or the last, ragged tile)"
    if all((one + 1) % _TILE in (0, 1, 2) for one in at):
        return " (off by one at the edges of tiles)"
    return ""
