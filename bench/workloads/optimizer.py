"""The optimizer alone, on the parameters of the whole model and drawn gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.contest import Contender
from bench.models import Measurement, Models, largest_error, noises
from bench.targets import Task
from bench.training_steps import (
    Optimizer,
    OurAdam,
    Start,
    TorchAdamW,
    changes,
    expected_change,
    initial_state,
    parameters_of,
    restore_parameters,
)
from parity.core.metrics import Reference
from parity.core.tolerances import PRECISIONS

_GRADIENT = 1e-4
"""RMS of the drawn gradients: that of a whole model's whose norm is 1."""

PEER = "torch "
"""How the names of PyTorch's implementations begin: `torch foreach`, `torch fused`."""


def ours(name: str) -> bool:
    """Return whether a contestant is this project's."""
    return not name.startswith(PEER)


def copies(models: Models) -> dict[str, nn.Parameter]:
    """Return the model's parameters once more, with drawn gradients."""
    drawn = torch.Generator().manual_seed(0)
    made = {}
    for name, parameter in parameters_of(models.ours).items():
        made[name] = nn.Parameter(parameter.detach().clone())
        made[name].grad = torch.randn(parameter.shape, generator=drawn).mul_(_GRADIENT)
    return made


def start_of(models: Models) -> Start:
    """Return where all begin: the model's values, and moments as large as the gradients."""
    values = {name: p.detach() for name, p in parameters_of(models.ours).items()}
    return initial_state(values, dict.fromkeys(values, _GRADIENT))


def optimizer_named(name: str, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """Return ours by its variant, or PyTorch's by its implementation."""
    if ours(name):
        return OurAdam(parameters, name)
    return TorchAdamW(parameters, name.removeprefix(PEER))


def stepped(optimizer: Optimizer, start: Start) -> dict[str, Tensor]:
    """Return what one step from the start changes."""
    restore_parameters(optimizer.parameters, start)
    optimizer.begin(start)
    optimizer.step()
    return changes(optimizer.parameters, start)


def verified(models: Models, name: str) -> Contender:
    """Return an optimizer ready to be timed: step after step with the same gradients.

    Raises:
        WrongKernelError: It changes a parameter by something else than rounding explains.
    """
    optimizer = optimizer_named(name, copies(models))
    start: Start = models.cached(("moments", "whole"), lambda: start_of(models))
    variant = name if ours(name) else "adamw"

    def check() -> float:
        found = stepped(optimizer, start)
        return largest_of(found, optimizer.parameters, start, variant)

    check()
    return Contender(optimizer.step, check(), check)  # the second time after a step from elsewhere


def largest_of(
    found: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    start: Start,
    variant: str,
) -> float:
    """Return the largest error, one parameter at a time: all in float64 would be gigabytes.

    The yardstick is the right step rounded to float32 once: what any step must lose.
    """
    errors = []
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        right = expected_change(name, parameter.grad.double(), start, variant=variant)
        value = start.parameters[name]
        rounded = (value.double() + right).float() - value
        held = {name: Reference(right)}
        noise = noises({name: rounded}, held)
        errors.append(largest_error({name: found[name]}, held, noise, PRECISIONS["float32"]))
    return max(errors)


def make(name: str, _task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return an optimizer, proved."""
    return verified(run.models, name)
