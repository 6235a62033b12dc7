"""One model, once forward and once backward, each gradient shown the moment it is made.

Nothing is kept: whoever is shown a gradient measures it, and it goes. So all gradients of a model
are compared without all of them existing at once.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn

from parity.capture import Tap

See = Callable[[str, Tensor], None]
"""Called with the name of a tap or parameter, and its gradient, or a tap's value."""


def backward(
    loss_of: Callable[[Tap], Tensor],
    parameters: Mapping[str, nn.Parameter],
    see: See,
    look: See | None = None,
    scale: float = 1.0,
) -> float:
    """Return the loss, every gradient of it shown to `see`, `scale` times as large.

    Args:
        loss_of: Runs the forward pass, showing its taps, and returns the scalar loss.
        parameters: Those whose gradients are wanted. As they were afterwards, `grad` included.
        see: Is shown the gradient of each tap and parameter, complete, as soon as it is.
        look: Is shown each tap on the way forward.
        scale: What the backward pass begins with; a power of two moves no bit but the exponent.
    """

    def tap(name: str, value: Tensor) -> Tensor:
        if look is not None:
            look(name, value.detach())
        if value.requires_grad:
            hook = functools.partial(see, name)
            value.register_hook(hook)  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad(), _shown(parameters, see):
        loss = loss_of(tap)
        loss.backward(torch.full_like(loss, scale))  # type: ignore[no-untyped-call]
    return float(loss.detach())


@contextlib.contextmanager
def _shown(parameters: Mapping[str, nn.Parameter], see: See) -> Iterator[None]:
    """Show each parameter's gradient and let it go; leave the parameters as they were."""
    before = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in parameters.values()
    ]
    handles = []
    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            parameter.grad = None
            hook = _taking(name, see)
            handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required, gradient in before:
            parameter.grad = gradient
            parameter.requires_grad_(required)


def _taking(name: str, see: See) -> Callable[[Tensor], None]:
    """Return a hook that shows a parameter's gradient, all its paths summed, and drops it."""

    def take(parameter: Tensor) -> None:
        see(name, cast("Tensor", parameter.grad))
        parameter.grad = None

    return take
