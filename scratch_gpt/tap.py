"""Taps: named forward hooks, at which a caller can read or replace a tensor.

The model calls `tap(name, value)` and continues with the result. `parity` uses this to compare
models tensor by tensor. Without a tap the model runs exactly the same operations.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class Tap(Protocol):
    """A function of a name and a tensor that returns the tensor to continue with."""

    def __call__(self, name: str, value: Tensor, /) -> Tensor:
        """Return `value`, or a replacement of the same shape."""
        ...


def no_tap(_name: str, value: Tensor, /) -> Tensor:
    """Return `value` unchanged."""
    return value


def prefixed(prefix: str, tap: Tap) -> Tap:
    """Return a tap that calls `tap` with `prefix` and a dot before the name.

    `prefixed("h.3", tap)("ln_1", x)` calls `tap("h.3.ln_1", x)`.
    """
    if tap is no_tap:
        return tap
    return lambda name, value: tap(f"{prefix}.{name}", value)
