"""Taps: named points at which a tensor can be watched, or replaced, from outside.

The model calls `tap(name, value)` and goes on with what comes back. Nothing here knows what a
tap is for; `parity` does. An untapped model runs the very same operations.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Tap(Protocol):
    """A callable that is shown each named tensor and returns the one to go on with."""

    def __call__(self, name: str, value: Tensor, /) -> Tensor:
        """Return `value`, or a tensor of its shape to use in its place."""
        ...


def no_tap(_name: str, value: Tensor, /) -> Tensor:
    """Return `value` as it is: the tap of a model nobody watches."""
    return value


def prefixed(prefix: str, tap: Tap) -> Tap:
    """Return a tap that reports to `tap` under `prefix`, a dot, and the name.

    `within("h.3", tap)("ln_1", x)` calls `tap("h.3.ln_1", x)`.
    """
    if tap is no_tap:
        return tap
    return lambda name, value: tap(f"{prefix}.{name}", value)
