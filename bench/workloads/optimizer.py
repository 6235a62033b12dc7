"""The optimizer alone, on the whole model's parameters and random gradients."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.contest import Contender
from bench.models import Measurement, Models, largest_error, parameters_of, reference_errors
from bench.targets import Task
from bench.training_steps import (
    InitialState,
    Optimizer,
    OurAdam,
    TorchAdamW,
    changes,
    expected_change,
    initial_state,
    restore_parameters,
)
from parity.core.metrics import Reference
from parity.core.tolerances import PRECISIONS

_GRADIENT = 1e-4
"""RMS of the random gradients: that of a whole model whose gradient norm is 1."""

PEER = "torch "
"""Prefix of PyTorch's implementations: `torch foreach`, `torch fused`."""


def ours(name: str) -> bool:
    """Return whether an optimizer is this project's."""
    return not name.startswith(PEER)


def copies(models: Models) -> dict[str, nn.Parameter]:
    """Return copies of the model's parameters, with random gradients."""
    drawn = torch.Generator().manual_seed(0)
    made = {}
    for name, parameter in parameters_of(models.ours).items():
        made[name] = nn.Parameter(parameter.detach().clone())
        made[name].grad = torch.randn(parameter.shape, generator=drawn).mul_(_GRADIENT)
    return made


def optimizer_named(name: str, parameters: Mapping[str, nn.Parameter]) -> Optimizer:
    """Return our optimizer by variant, or PyTorch's by implementation."""
    if ours(name):
        return OurAdam(parameters, name)
    return TorchAdamW(parameters, name.removeprefix(PEER))


def stepped(optimizer: Optimizer, start: InitialState) -> dict[str, Tensor]:
    """Return the changes of one step from `start`."""
    restore_parameters(optimizer.parameters, start)
    optimizer.reset(start)
    optimizer.step()
    return changes(optimizer.parameters, start)


def make(name: str, _task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a verified optimizer; timed steps go on from its state, with the same gradients.

    Raises:
        WrongKernelError: An error of a change is larger than rounding explains.
    """
    models = run.models
    optimizer = optimizer_named(name, copies(models))
    values = {name: p.detach() for name, p in parameters_of(models.ours).items()}
    scales = dict.fromkeys(values, _GRADIENT)  # moments as large as the gradients
    start: InitialState = models.cached(("moments", "whole"), lambda: initial_state(values, scales))
    variant = name if ours(name) else "adamw"

    def check() -> float:
        found = stepped(optimizer, start)
        return largest_of(found, optimizer.parameters, start, variant)

    check()
    # The second check follows a step from another state.
    return Contender(optimizer.step, check(), check)


def largest_of(
    found: Mapping[str, Tensor],
    parameters: Mapping[str, nn.Parameter],
    start: InitialState,
    variant: str,
) -> float:
    """Return the largest error of the changes.

    Parameters are compared one by one, because all of them in float64 would take gigabytes. The
    yardstick is the expected change rounded to float32 once.
    """
    errors = []
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        right = expected_change(name, parameter.grad.double(), start, variant=variant)
        value = start.parameters[name]
        rounded = (value.double() + right).float() - value
        reference = {name: Reference(right)}
        noise = reference_errors({name: rounded}, reference)
        errors.append(largest_error({name: found[name]}, reference, noise, PRECISIONS["float32"]))
    return max(errors)
