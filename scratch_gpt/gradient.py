"""The gradient that a parameter must have before a step is made of it."""

from torch import Tensor, nn


class GradientError(ValueError):
    """Gradients that no step can be made of; no parameter was changed.

    Attributes:
        what: What is wrong, in one line.
        where: The parameters concerned.
        fix: What the user can do.
    """

    def __init__(self, what: str, *, where: str, fix: str) -> None:
        super().__init__(f"{what} ({where}; {fix})")
        self.what = what
        self.where = where
        self.fix = fix


class NotFiniteError(GradientError):
    """Gradients that are not finite, or too large for their norm to be."""


def gradient_of(name: str, parameter: nn.Parameter) -> Tensor:
    """Return a parameter's gradient itself, not a copy.

    Raises:
        GradientError: There is none, or a sparse one: a parameter left out of a step without a
            word is a fault that shows as slow learning and nowhere else.
    """
    gradient = parameter.grad
    if gradient is None:
        raise GradientError(
            f"{name} has no gradient",
            where=name,
            fix="call backward before the step, or leave out parameters that the loss does not use",
        )
    if gradient.is_sparse:
        raise GradientError(
            f"the gradient of {name} is sparse",
            where=name,
            fix="look rows up by indexing, whose gradient is dense",
        )
    return gradient


def listed(names: list[str]) -> str:
    """Return names for a message: the first three, and how many more there are."""
    shown, more = ", ".join(names[:_SHOWN]), len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


_SHOWN = 3
