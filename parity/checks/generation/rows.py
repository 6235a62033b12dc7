"""Rows of generated texts: the criteria of `parity.core.gates`, on tensors and ids."""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from parity.core import gates
from parity.core.gates import RoundingError
from parity.core.metrics import difference
from parity.core.results import Mode, Row
from parity.core.tolerances import Bounds, Precision
from parity.errors import message_of

BACKEND = "fused"
"""The backend of the decoder, whatever the model's own is."""


def float64_row(tap: str, ours: Tensor, other: Tensor, against: str, bounds: Bounds) -> Row:
    """Return the row of two float64 tensors of at least two axes that must agree to rounding."""
    seen = difference(ours, other, dtype=torch.float64)
    row = gates.float64_row(seen, tap=tap, backend=BACKEND, against=against, bound=bounds.float64)
    return gates.explained(row)


def rounding_row(  # noqa: PLR0913 - two tensors, the reference's error and the criterion
    tap: str,
    ours: Tensor,
    truth: Tensor,
    reference: RoundingError,
    precision: Precision,
    bounds: Bounds,
) -> Row:
    """Return the row of a tensor whose rounding error must not exceed the reference's."""
    row = gates.rounding_row(
        difference(ours, truth, dtype=ours.dtype),
        tap=tap,
        backend=BACKEND,
        mode=Mode.END_TO_END,
        reference=reference,
        precision=precision,
        bounds=bounds,
    )
    return gates.explained(row)


def reference_error(tensor: Tensor, truth: Tensor) -> RoundingError:
    """Return a reference's rounding error; 0 where it is not finite, so that it excuses nothing."""
    seen = RoundingError.of(difference(tensor, truth, dtype=tensor.dtype))
    return RoundingError(
        rms=seen.rms if math.isfinite(seen.rms) else 0.0,
        peak=seen.peak if math.isfinite(seen.peak) else 0.0,
    )


ids_row = partial(gates.ids_row, backend=BACKEND)


def broken_row(detail: str, *, tap: str, dtype: str) -> Row:
    """Return the row of a result that our side did not give, or that cannot be compared."""
    row = gates.raised_row(ValueError(), tap=tap, backend=BACKEND, dtype=dtype)
    return dataclasses.replace(row, detail=detail)


Result = TypeVar("Result")


def attempt(
    compute: Callable[[], Result], *, tap: str, dtype: str, place: Callable[[], str]
) -> Result | Row:
    """Return a result of our functions; if they raise an error, its row, which names the place."""
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 - any mistake in the code under check
        detail = f"{place()}: ours raised {type(error).__name__}: {message_of(error)}"
        return broken_row(detail, tap=tap, dtype=dtype)
