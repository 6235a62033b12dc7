"""Training steps and optimizers: ours, and Hugging Face's model with PyTorch's AdamW.

All start from the same state. With zero moments Adam's first change is only the sign of the
gradient times the rate. So the state is one after a hundred steps, with moments as large as the
gradients.
"""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from bench.models import Model, loss_of, parameters_of
from scratch_gpt.gradient_clipping import clip_global_norm
from scratch_gpt.model import GPT
from scratch_gpt.optimizer import FIRST, SECOND, STEP, Adam

RATE, DECAY, BETAS, EPSILON = 2.5e-4, 0.01, (0.9, 0.999), 1e-8
STEPS_BEFORE = 100

Parameters = Mapping[str, nn.Parameter]


@dataclasses.dataclass(frozen=True)
class InitialState:
    """Parameters, first and positive second moments, and the largest norm of the gradients."""

    parameters: Mapping[str, Tensor]
    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    maximum: float = math.inf


def initial_state(
    parameters: Mapping[str, Tensor], scales: Mapping[str, float], maximum: float = math.inf
) -> InitialState:
    """Return a state with random moments; `scales` has the RMS of each parameter's gradient."""
    drawn = torch.Generator().manual_seed(STEPS_BEFORE)
    first, second = {}, {}
    for name, value in parameters.items():
        first[name] = torch.randn(value.shape, generator=drawn).mul_(scales[name])
        spread = torch.rand(value.shape, generator=drawn).add_(0.5)
        second[name] = spread.mul_(scales[name] ** 2)
    return InitialState(parameters, first, second, maximum)


class OurAdam:
    """Our optimizer, in one of its variants."""

    def __init__(self, parameters: Parameters, variant: str) -> None:
        self.parameters = parameters
        self.optimizer = Adam(
            parameters.items(), betas=BETAS, epsilon=EPSILON, weight_decay=DECAY, variant=variant
        )

    def reset(self, start: InitialState) -> None:
        """Set the moments to those of `start`."""
        state: dict[str, Tensor | int] = {STEP: STEPS_BEFORE}
        state |= {FIRST + name: moment for name, moment in start.first.items()}
        state |= {SECOND + name: moment for name, moment in start.second.items()}
        self.optimizer.load_state_dict(state)

    def clip(self, maximum: float) -> None:
        """Scale the gradients to a global norm."""
        clip_global_norm(self.parameters.items(), maximum)

    def step(self) -> None:
        """Make one step down the gradients."""
        self.optimizer.step(RATE)


class TorchAdamW:
    """PyTorch's AdamW in one of its implementations; only matrices decay, as in ours."""

    def __init__(self, parameters: Parameters, implementation: str) -> None:
        self.parameters = parameters
        groups = [
            {"params": [p for p in parameters.values() if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in parameters.values() if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(
            groups, lr=RATE, betas=BETAS, eps=EPSILON, **{implementation: True}
        )

    @torch.no_grad()
    def reset(self, start: InitialState) -> None:
        """Set the moments to those of `start`."""
        for name, parameter in self.parameters.items():
            state = self.optimizer.state[parameter]
            state["step"] = torch.tensor(float(STEPS_BEFORE))
            for key, moments in (("exp_avg", start.first), ("exp_avg_sq", start.second)):
                state.setdefault(key, torch.empty_like(parameter)).copy_(moments[name])

    def clip(self, maximum: float) -> None:
        """Scale the gradients to a global norm."""
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), maximum, foreach=True)

    def step(self) -> None:
        """Make one step down the gradients."""
        self.optimizer.step()


Optimizer = OurAdam | TorchAdamW


@torch.no_grad()
def restore_parameters(parameters: Parameters, start: InitialState) -> None:
    """Set parameters to the values of `start`."""
    for name, parameter in parameters.items():
        parameter.copy_(start.parameters[name])


@torch.no_grad()
def changes(parameters: Parameters, start: InitialState) -> dict[str, Tensor]:
    """Return each parameter's change: in float32 the values would hide an error of a small step."""
    return {name: p.detach() - start.parameters[name] for name, p in parameters.items()}


def expected_change(
    name: str, gradient: Tensor, start: InitialState, *, variant: str = "adamw"
) -> Tensor:
    """Return the expected change of one parameter, from its clipped gradient, in float64.

    Source: Loshchilov and Hutter 2019, algorithm 2; finetune-transformer-lm opt.py (a69b5c4).
    """
    state = (start.parameters, start.first, start.second)
    value, first, second = (values[name].double() for values in state)
    b1, b2, number = *BETAS, STEPS_BEFORE + 1
    first = b1 * first + (1.0 - b1) * gradient
    second = b2 * second + (1.0 - b2) * gradient**2
    decay = DECAY * value if value.ndim > 1 else torch.zeros_like(value)
    if variant == "openai":
        rate = RATE * math.sqrt(1.0 - b2**number) / (1.0 - b1**number)
        return -rate * (first / (second.sqrt() + EPSILON) + decay)
    corrected = (second / (1.0 - b2**number)).sqrt() + EPSILON
    return -RATE * (first / (1.0 - b1**number) / corrected + decay)


_CLIP = 1.0
"""Largest norm of the gradients before the first reset."""


class Training:
    """A model in training: forward, loss, backward, clipping and an Adam step.

    Ours uses `scratch_gpt` throughout. Hugging Face's computes its loss from `labels=`; PyTorch
    clips its gradients, and `torch.optim.AdamW(foreach=True)` updates it.
    """

    def __init__(self, model: Model) -> None:
        self.model = model.eval()
        self.parameters = parameters_of(model)
        self.optimizer: Optimizer = (
            OurAdam(self.parameters, "adamw")
            if isinstance(model, GPT)
            else TorchAdamW(self.parameters, "foreach")
        )
        self._maximum = _CLIP

    def reset(self, start: InitialState) -> None:
        """Set weights, moments and the largest norm of the gradients to those of `start`."""
        restore_parameters(self.parameters, start)
        self.optimizer.reset(start)
        self._maximum = start.maximum

    def step(self, token_ids: Tensor) -> float:
        """Make one step on token ids `[batch time]`; return the loss before it."""
        for parameter in self.parameters.values():
            parameter.grad = None
        loss = self._loss(token_ids)
        torch.autograd.backward(loss)
        self.optimizer.clip(self._maximum)
        self.optimizer.step()
        return float(loss.detach())

    def _loss(self, token_ids: Tensor) -> Tensor:
        return loss_of(self.model, token_ids)
