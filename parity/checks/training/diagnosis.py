"""The likely cause of the first difference, from which rows differ and by how much.

Each quantity of a step is computed from earlier ones. If one is wrong and all earlier ones are
right, few causes remain; which parameters are wrong often leaves one.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from parity.checks.training.runners import CLIPPED, total_and_warmup
from parity.checks.training.taps import SCHEDULES, VARIANTS, TrainingQuantity, parse_quantity
from parity.core.metrics import Status
from parity.core.results import Row
from reference.training_oracle import learning_rate

TABLE = "tokens_embed.weight"


class Signs(NamedTuple):
    """The evidence around the first difference.

    Attributes:
        place: The first quantity that differs; `row` is its row.
        wrong: The parameters for which this quantity of this step differs.
        right: Those for which it does not.
        quotients: Our value over the reference's at the worst element, of every wrong row.
        rates: (step, our learning rate).
        peak: The largest correct learning rate.
    """

    place: TrainingQuantity
    row: Row
    wrong: frozenset[str]
    right: frozenset[str]
    quotients: tuple[float, ...]
    rates: tuple[tuple[int, float], ...]
    peak: float


def signs_of(row: Row, rows: Sequence[Row], *, peak: float) -> Signs:
    """Return the evidence around the first row that differs."""
    place = parse_quantity(row.tap)
    key = (row.backend, row.mode)
    of_run = [
        r
        for r in rows
        if (r.backend, r.mode) == key and parse_quantity(r.tap).variant == place.variant
    ]
    beside = [
        r
        for r in of_run
        if (parse_quantity(r.tap).step, parse_quantity(r.tap).quantity)
        == (place.step, place.quantity)
    ]
    wrong = [r for r in beside if r.status is not Status.PASS]
    return Signs(
        place=place,
        row=row,
        wrong=frozenset(parse_quantity(r.tap).parameter for r in wrong),
        right=frozenset(parse_quantity(r.tap).parameter for r in beside if r.status is Status.PASS),
        quotients=tuple(_quotient(r) for r in wrong),
        rates=tuple(
            (parse_quantity(r.tap).step, r.value_ours or 0.0)
            for r in of_run
            if parse_quantity(r.tap).quantity == "rate"
        ),
        peak=peak,
    )


def _quotient(row: Row) -> float:
    return row.value_ours / row.value_against if row.value_ours and row.value_against else math.nan


def reason(signs: Signs) -> str:
    """Return the likely cause: the first of the quantity's table whose condition is met."""
    lines = (line for sign, line in _TABLE[signs.place.quantity] if sign(signs))
    return next(lines).format(signs=signs, factor=_factor(signs))


def _always(_signs: Signs) -> bool:
    return True


def _of(*runs: str) -> Callable[[Signs], bool]:
    """Return a condition: the run's name begins with one of these."""
    return lambda signs: signs.place.variant.startswith(runs)


def _rows_missing(signs: Signs) -> bool:
    return signs.row.detail.endswith("rows")


def _later_epoch(signs: Signs) -> bool:
    return _of("windows")(signs) and _later(signs)


def _too_large(signs: Signs) -> bool:
    """Return whether the right id is too large for a signed number of 16 bits."""
    return _of("windows")(signs) and (signs.row.value_against or 0.0) >= 1 << 15


def _all_wrong(signs: Signs) -> bool:
    return not signs.right and signs.wrong != {""}


def _frozen(signs: Signs) -> bool:
    return signs.row.value_ours == 0.0


def _beyond_end(signs: Signs) -> bool:
    known = SCHEDULES.get(signs.place.variant)
    return known is not None and signs.place.step + known[3] > known[1] + 1


def _later(signs: Signs) -> bool:
    return signs.place.step > 1


def _table_alone(signs: Signs) -> bool:
    return signs.wrong == {TABLE}


def _vectors_alone(signs: Signs) -> bool:
    return signs.wrong != {""} and all(map(_is_vector, signs.wrong))


def _matrices_alone(signs: Signs) -> bool:
    return signs.wrong != {""} and not any(map(_is_vector, signs.wrong))


def _is_vector(parameter: str) -> bool:
    return parameter.endswith(".bias") or ".ln_" in parameter


def _multiplied(signs: Signs) -> bool:
    """Return whether all parameters differ by the same whole factor."""
    factor = _factor(signs)
    alike = all(abs(q - factor) < _EXACT * factor for q in signs.quotients)
    return not signs.right and factor > 1.0 and alike


def _factor(signs: Signs) -> float:
    """Return the quotient of ours and theirs, rounded to a whole number."""
    return float(round(signs.quotients[0])) if math.isfinite(signs.quotients[0]) else math.nan


_EXACT = 1e-6
"""How far a quotient of float64 numbers may be from a whole number."""


def _unclipped(signs: Signs) -> bool:
    """Return whether the moment is that of the gradient before clipping."""
    return abs(signs.quotients[0] - CLIPPED) < _EXACT


def _off_by_one(signs: Signs) -> bool:
    """Return whether each of our rates is the right one of the previous or the next step."""
    if signs.place.variant not in VARIANTS:
        return False
    total, warmup = total_and_warmup(max(step for step, _ in signs.rates))
    return any(
        all(
            abs(rate - learning_rate(max(step - 1 + shift, 0), total, warmup, signs.peak, "cosine"))
            < _EXACT * signs.peak
            for step, rate in signs.rates
        )
        for shift in (-1, 1)
    )


_TABLE: dict[str, list[tuple[Callable[[Signs], bool], str]]] = {
    "ids": [
        (_rows_missing, "a micro-batch is left out, or comes twice: {signs.row.detail}"),
        (_of("resume"), "the position in the data is not restored"),
        (_later_epoch, "from the second epoch on the windows are others: {signs.row.detail}"),
        (_too_large, "ids that do not fit their type: {signs.row.detail}"),
        (_always, "windows overlap, begin elsewhere, or come in another order: {signs.row.detail}"),
    ],
    "seeds": [(_always, "the seed of the masks is no function of step and micro-batch")],
    "dropout": [(_always, "dropout at other places: {signs.row.detail}")],
    "dtype": [
        (_of("optimizer"), "the moments are in half precision, or in another dtype"),
        (_of("loss"), "the loss of half-precision logits is not widened to float32"),
        (_always, "the gradients of rounded weights are not in the weights' dtype"),
    ],
    "loss": [
        (_of("uneven"), "a mean of means: each row or micro-batch weighs the same"),
        (_of("loss"), "the loss of half-precision logits is not widened to float32"),
        (_of("resume"), "weights or masks are not restored as they were"),
        (
            _of("dropout-tiled", "dropout-fused"),
            "dropout in the tiled kernel: kept elements not scaled, or others kept than drawn",
        ),
        (
            _always,
            (
                "the loss: targets not shifted by one, a mean over other tokens; with dropout, "
                "applied to something else (a norm's output), or kept with the probability of "
                "being dropped"
            ),
        ),
    ],
    "gradient": [
        (_table_alone, "the tied embedding alone: one of its two paths, lookup and head, is cut"),
        (
            _of("dropout-tiled", "dropout-fused"),
            "the tiles' dropout masks on the way back: their order, or their scale",
        ),
        (_of("weights-rounded"), "the derivative through rounded weights"),
        (_of("uneven"), "a mean of means: each row or micro-batch weighs the same"),
        (_frozen, "some parameters are not trained: their gradients are zero or cut off"),
        (_later, "the gradients of the step before were not cleared (zero_grad)"),
        (
            _multiplied,
            (
                "every gradient is {factor:.0f} times the reference's: parts of the batch are "
                "added up and not averaged"
            ),
        ),
        (
            _all_wrong,
            (
                "all gradients: of some micro-batches alone, or weighed wrongly; or the backward "
                "pass (python -m parity.check gradients names the operation)"
            ),
        ),
        (_always, "the backward pass: python -m parity.check gradients names the operation"),
    ],
    "norm": [(_always, "the norm: it is not of all gradients together, or of clipped ones")],
    "rate": [
        (_off_by_one, "the schedule counts its steps off by one"),
        (_beyond_end, "the schedule behind its end: {signs.row.detail}"),
        (_always, "the schedule: its warm-up, its shape, or its length: {signs.row.detail}"),
    ],
    "first_moment": [
        (_of("resume"), "the moments are not restored"),
        (
            _of("course", "dropout"),
            "gradients below the largest norm are scaled, or others are not",
        ),
        (_later, "the first moment was not carried over from the step before"),
        (
            _unclipped,
            (
                "the gradients were not clipped all together before the step: after it, never, or "
                "clipped one parameter at a time"
            ),
        ),
        (
            _always,
            (
                "what the moment is made of: gradients clipped one parameter at a time, weight "
                "decay added to them, or another beta1"
            ),
        ),
    ],
    "second_moment": [
        (_of("resume"), "the moments are not restored"),
        (_always, "the second moment: another beta2, or it is not of the gradient's square"),
    ],
    "weight": [
        (_of("resume"), "weights or moments are not restored as they were"),
        (
            _of("optimizer"),
            "the step from step {signs.place.step} on: its bias correction, decay or epsilon",
        ),
        (_table_alone, "the tied embedding alone: it is stepped twice"),
        (_vectors_alone, "biases and gains alone: weight decay on them"),
        (_matrices_alone, "matrices alone: their weight decay is missing, or another"),
        (_always, "the step: bias correction missing, or epsilon inside the root"),
    ],
    "validation": [
        (_always, "the validation loss: dropout is left on, other windows, or a mean of means")
    ],
    "tied": [(_always, "{signs.row.detail}: a deep copy, a load or a resize untied them")],
}
"""For each quantity its likely causes, the most general last; the first that applies is named."""
