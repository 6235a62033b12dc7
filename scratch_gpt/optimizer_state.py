"""What an optimizer's state must be before it is taken up: by name, shape, type and value."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from scratch_gpt.files.finite import not_finite
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.shown import shown

STEP = "step"
"""Name of the number of steps made."""

FIRST, SECOND = "first_moment.", "second_moment."
"""What the moments' names begin with; the parameter's name follows."""


class OptimizerStateError(CheckpointError):
    """A state that is not one of this optimizer's."""


def check_state(state: Mapping[str, Tensor | int], mine: Mapping[str, Tensor | int]) -> int:
    """Return the number of steps that a state has made, if it fits in every point.

    Args:
        state: The state to be taken up.
        mine: A state of the optimizer that is to take it up.

    Raises:
        OptimizerStateError: It does not fit; all that is wrong is named, the first few in full.
    """
    wrong = [*_misnamed(state, mine), *_unfit(state, mine)]
    if wrong:
        more = f"; and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise OptimizerStateError(
            "; ".join(wrong[:_SHOWN]) + more,
            where="the optimizer's state",
            fix="take up the state that was saved with this model, its config and its dtype",
        )
    return int(state[STEP])


_SHOWN = 4


def _misnamed(state: Mapping[str, object], mine: Mapping[str, object]) -> Iterator[str]:
    yield from (f"{name} is missing" for name in mine if name not in state)
    yield from (f"{shown(name)} belongs to no parameter" for name in state if name not in mine)


def _unfit(state: Mapping[str, object], mine: Mapping[str, Tensor | int]) -> Iterator[str]:
    """Give what is wrong with the values of the names that both have."""
    for name, expected in mine.items():
        if name not in state:
            continue
        found = state[name]
        if isinstance(expected, Tensor):
            yield from _unfit_tensor(name, found, expected)
        elif not isinstance(found, int) or isinstance(found, bool) or found < 0:
            yield f"{name} must be a whole number, at least 0, and is {shown(found)}"


def _unfit_tensor(name: str, found: object, expected: Tensor) -> Iterator[str]:
    """Give what is wrong with one moment; of another form, its values are not looked at."""
    if not isinstance(found, Tensor):
        yield f"{name} must be a tensor and is {shown(found)}"
    elif found.shape != expected.shape or found.dtype != expected.dtype:
        yield (
            f"{name} is {found.dtype} {list(found.shape)}, "
            f"expected {expected.dtype} {list(expected.shape)}"
        )
    elif count := not_finite(found):
        yield f"{name} has {count} values that are not finite"
    elif name.startswith(SECOND) and found.numel() and float(torch.aminmax(found)[0]) < 0.0:
        yield f"{name} is a mean of squares and has values below 0"
