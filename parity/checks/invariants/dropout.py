"""Dropout in training mode, by its statistics: what is dropped, how the rest is scaled, how anew.

A dropped tensor is read as a ratio of two taps. Attention's weights are not formed by every kernel:
queries of 0 make them uniform, and values that are unit vectors make the context a copy of them.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial

import torch
from torch import Tensor

from parity.checks.invariants.cases import Calls
from parity.checks.invariants.subject import Run, Subject
from scratch_gpt.kernels.backends import BACKENDS
from scratch_gpt.model import GPT

Measured = tuple[float, float, str, str]
"""A number, its bound, what it is in words, and the tap where it was measured."""

DEVIATIONS = 10.0
"""Largest deviation of a count, in standard deviations.

Right code reaches 6. A shared mask is off by the root of its size.
"""

KINDS = ("embeddings", "attention", "residual")


def why_not(subject: Subject) -> str:
    """Return why dropout cannot be measured; "" if it can."""
    if subject.way is not None:
        return "the model shows no taps; in evaluation mode determinism shows dropout"
    if isinstance(subject.model, GPT) and BACKENDS[subject.model.backend].compiled:
        return "inside a compiled block no tensor can be watched"
    return "" if any(subject.sizes.dropout) else "its probabilities are 0"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropped:
    """A tensor before dropout, and after it.

    Attributes:
        counts: Whether each element is one of the tensor's.
        largest: The largest number that was rounded: of a residual, that of the sum.
    """

    tap: str
    probability: float
    before: Tensor
    after: Tensor
    counts: Tensor
    largest: float

    @property
    def kept(self) -> Tensor:
        """Whether each element was kept."""
        return (self.after - self._scaled).abs() < self.after.abs()

    @property
    def _scaled(self) -> Tensor:
        return self.before / (1.0 - self.probability)

    def off(self) -> float:
        """Return the largest distance from 0 or the scaled value, over the RMS.

        In half precision it is over more, so that the bound allows what rounding does to the
        largest number.
        """
        apart = torch.minimum(self.after.abs(), (self.after - self._scaled).abs())[self.counts]
        rms = float(self.before[self.counts].square().mean().sqrt())
        rounded = 4.0 * math.sqrt(torch.finfo(apart.dtype).eps) * self.largest
        return float(apart.max()) / max(rms, rounded)

    def share(self) -> float:
        """Return by how many standard deviations the share of dropped elements is off."""
        kept = self.kept[self.counts]
        p, n = self.probability, kept.numel()
        return abs(float((~kept).sum()) - n * p) / math.sqrt(n * p * (1.0 - p))

    def mean(self) -> float:
        """Return by how many standard deviations the mean is off, weighted by the tensor."""
        before, after = self.before[self.counts].double(), self.after[self.counts].double()
        squares = before.square()
        deviation = squares.square().sum().sqrt() * math.sqrt(
            self.probability / (1.0 - self.probability)
        )
        return float((before * after - squares).sum().abs() / deviation)

    @property
    def centered(self) -> Tensor:
        """The mask with mean 0 and variance 1; 0 at elements that do not count."""
        p = self.probability
        return (self.kept.double() - (1.0 - p)) / math.sqrt(p * (1.0 - p)) * self.counts


def statistics(
    subject: Subject, calls: Calls
) -> Iterator[tuple[str, Callable[[], Measured | None]]]:
    """Yield the statistics of each kind of dropout that the model has."""
    time = min(65, calls.longest)

    @cache
    def measured(kind: str) -> list[list[Dropped]]:
        made = _residuals if kind != "attention" else _attention
        with torch.random.fork_rng(), _training(subject):
            torch.manual_seed(calls.seed)
            every = made(subject, calls.side(calls.ids(4, time)).run, time)
        prefix = "embeddings" if kind == "embeddings" else "h."
        return [[one for one in call if one.tap.startswith(prefix)] for call in every]

    for kind, probability in zip(KINDS, subject.sizes.dropout, strict=True):
        for name, observe in _CASES.items() if probability else ():
            yield f"{kind}.{name}", partial(_observed, subject, partial(measured, kind), observe)


def _observed(
    subject: Subject,
    measured: Callable[[], Sequence[Sequence[Dropped]]],
    observe: Callable[[Sequence[Sequence[Dropped]]], Measured],
) -> Measured | None:
    """Return a statistic; None for a model of others that drops nothing there."""
    calls = measured()
    every = [one for call in calls for one in call]
    is_ours = isinstance(subject.model, GPT)
    if not every or (not is_ours and all(torch.equal(one.before, one.after) for one in every)):
        return None
    return observe(calls)


@contextlib.contextmanager
def _training(subject: Subject) -> Iterator[None]:
    subject.model.train()
    try:
        yield
    finally:
        subject.model.eval()


def _residuals(subject: Subject, run: Run, _time: int) -> list[list[Dropped]]:
    """Return what is dropped of the embeddings and of the sublayers' outputs, in two calls."""
    every = []
    for _ in range(2):
        seen = _shown(run)
        p_embedding, _, p_residual = subject.sizes.dropout
        found = []
        x: Tensor | None = seen.get("embeddings")
        if x is not None and {"embeddings.tokens", "embeddings.positions"} <= seen.keys():
            before = seen["embeddings.tokens"] + seen["embeddings.positions"]
            found.append(_dropped("embeddings", p_embedding, before, x, x))
        for block in range(subject.sizes.n_layer):
            inputs = ((x, "attn", "ln_1"), (seen.get(f"h.{block}.ln_1"), "mlp", "ln_2"))
            for residual, summand, norm in inputs:
                made, tap = f"h.{block}.{summand}", f"h.{block}.{norm}.input"
                if residual is not None and {made, tap} <= seen.keys():
                    after = seen[tap] - residual
                    found.append(_dropped(tap, p_residual, seen[made], after, seen[tap]))
            x = seen.get(f"h.{block}.ln_2")
        every.append(found)
    return every


def _dropped(
    tap: str, probability: float, before: Tensor, after: Tensor, rounded: Tensor
) -> Dropped:
    return Dropped(
        tap=tap,
        probability=probability,
        before=before,
        after=after,
        counts=before.abs() > _SMALL * before.square().mean().sqrt(),
        largest=float(rounded.abs().max()),
    )


_SMALL = 1e-4
"""Of the RMS: of smaller elements the sum's rounding hides what was dropped."""


def _attention(subject: Subject, run: Run, time: int) -> list[list[Dropped]]:
    """Return what is dropped of attention's weights: twice of the first keys, then of others."""
    width = min(_width(run), time)
    every = []
    blocks = range(subject.sizes.n_layer)
    for starts in ([0] * len(blocks), [0] * len(blocks), [n * width for n in blocks]):
        firsts = [start % (time - width + 1) for start in starts]
        found = []
        subject.model.eval()
        before = _contexts(run, firsts, width)
        subject.model.train()
        after = _contexts(run, firsts, width)
        for block, first in enumerate(firsts):
            tap = f"h.{block}.attn.context"
            if tap in before:
                keys = torch.arange(first, first + width, device=before[tap].device)
                queries = torch.arange(time, device=keys.device)
                found.append(
                    Dropped(
                        tap=tap,
                        probability=subject.sizes.dropout[1],
                        before=before[tap],
                        after=after[tap],
                        counts=(keys <= queries[:, None]).expand_as(before[tap]),
                        largest=float(after[tap].abs().max()),
                    )
                )
        every.append(found)
    return every


def _width(run: Run) -> int:
    """Return the width of a head."""
    return next(
        (value.shape[-1] for name, value in _shown(run).items() if name.endswith("attn.value")), 1
    )


def _contexts(run: Run, firsts: Sequence[int], width: int) -> dict[str, Tensor]:
    """Return each block's weights of some keys, `[batch head time width]`, read as a context."""
    found: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor, /) -> Tensor:
        if name.endswith("attn.query"):
            return torch.zeros_like(value)
        if name.endswith("attn.value"):
            first = firsts[int(name.split(".")[1])]
            unit = torch.zeros_like(value)
            unit[..., range(first, first + width), range(width)] = 1.0
            return unit
        if name.endswith("attn.context"):
            heads = value.view(*value.shape[:-1], -1, head_width).transpose(1, 2)
            found[name] = heads[..., :width].clone()
        return value

    head_width = _width(run)
    run(tap)
    return found


def _shown(run: Run) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor, /) -> Tensor:
        seen[name] = value.detach().clone()
        return value

    run(tap)
    return seen


# What must hold.


def _worst(
    calls: Sequence[Sequence[Dropped]], number: Callable[[Dropped], float], bound: float, words: str
) -> Measured:
    """Return the first number beyond the bound, in network order, or the largest."""
    every = [(number(one), one.tap) for call in calls for one in call]
    beyond = next((one for one in every if not one[0] <= bound), None)
    value, tap = beyond or max(every)
    return value, bound, f"{words.format(value)}, at {tap}", tap


def _scale(calls: Sequence[Sequence[Dropped]]) -> Measured:
    bound = math.sqrt(torch.finfo(calls[0][0].before.dtype).eps)
    words = "an element is neither 0 nor divided by 1 - p: off by {:.2g} of the RMS"
    return _worst(calls, Dropped.off, bound, words)


def _share(calls: Sequence[Sequence[Dropped]]) -> Measured:
    words = "the share of dropped elements is off by {:.3g} standard deviations"
    return _worst(calls, Dropped.share, DEVIATIONS, words)


def _mean(calls: Sequence[Sequence[Dropped]]) -> Measured:
    words = "the mean is not kept: off by {:.3g} standard deviations"
    return _worst(calls, Dropped.mean, DEVIATIONS, words)


def _deviations(products: Tensor, count: Tensor, probability: float) -> Tensor:
    """Return by how many standard deviations sums of two masks' products are off.

    Two that are dropped together are a large product. Few elements may have several: there a
    deviation is longer, so that right code is beyond the bound once in 1e8.

    Source: Bernstein's inequality.
    """
    largest = (1.0 - probability) / probability
    count = count.double().clamp(min=1.0)
    bound = torch.maximum(DEVIATIONS * count.sqrt(), (40.0 * count).sqrt() + 20.0 / 3.0 * largest)
    return DEVIATIONS * products.abs() / bound


def _anew(calls: Sequence[Sequence[Dropped]]) -> Measured:
    """Compare the masks of all places and of two calls with each other."""
    every = [one for call in calls[:2] for one in call]
    masks = torch.stack([one.centered.flatten() for one in every])
    counts = torch.stack([one.counts.flatten() for one in every]).double()
    apart = _deviations(masks @ masks.T, counts @ counts.T, every[0].probability).tril(-1)
    later, earlier = divmod(int(apart.argmax()), len(every))
    beyond = (apart > DEVIATIONS).nonzero()
    if len(beyond):
        later, earlier = beyond[0].tolist()
    value = float(apart[later, earlier])
    tap, other = every[later].tap, every[earlier].tap
    place = "of the call before" if later >= len(calls[0]) else f"at {other}"
    return value, DEVIATIONS, f"the mask at {tap} is like the one {place}: {value:.3g}", tap


def _elements(calls: Sequence[Sequence[Dropped]]) -> Measured:
    """Compare each mask with itself, moved by one along each axis."""

    def number(one: Dropped) -> float:
        largest = 0.0
        for axis, size in enumerate(one.before.shape):
            if size > 1:
                both = (one.counts & one.counts.roll(1, axis)).sum()
                moved = (one.centered * one.centered.roll(1, axis)).sum()
                largest = max(largest, float(_deviations(moved, both, one.probability)))
        return largest

    return _worst(calls, number, DEVIATIONS, "neighbours are dropped together: {:.3g} deviations")


_CASES: Mapping[str, Callable[[Sequence[Sequence[Dropped]]], Measured]] = {
    "scale": _scale,
    "share": _share,
    "mean": _mean,
    "elements": _elements,
    "drawn_anew": _anew,
}
