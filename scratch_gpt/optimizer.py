"""Adam with decoupled weight decay, in two variants: the 2018 release's and `torch.optim.AdamW`.

With gradient g, moments m and v, decay rates b1 and b2, and the number n of the step, from 1:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2

    released    rate = learning_rate sqrt(1 - b2^n) / (1 - b1^n)
                p = p - rate (m / (sqrt(v) + epsilon) + weight_decay p)
    adamw       p = p - learning_rate weight_decay p
                p = p - learning_rate / (1 - b1^n) m / (sqrt(v) / sqrt(1 - b2^n) + epsilon)

The variants differ in epsilon and in the decay. The release adds epsilon to the uncorrected root,
where it weighs 32 times as much in the first step and 14 times in the fifth: with gradients of
1e-6, five steps move a quarter less far. The release corrects the decay like the step, which
leaves 0.32 of it in the first step.

Source: finetune-transformer-lm opt.py `adam` (a69b5c4); Loshchilov and Hutter 2019, algorithm 2.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from scratch_gpt.checkpoint.safetensors import count_not_finite
from scratch_gpt.errors import CheckpointError, quote
from scratch_gpt.gradient_clipping import checked_gradient
from scratch_gpt.numerics import accumulate_dtype
from scratch_gpt.runs import longest_run, runs

STEP = "step"
"""The state's entry for the number of steps made."""

FIRST, SECOND = "first_moment.", "second_moment."
"""Prefixes of the state's entries for the moments; the parameter's name follows."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The numbers of one step: `p = kept p - rate m / (sqrt(v) / root + epsilon)`."""

    kept: float
    root: float
    rate: float


def openai_update(learning_rate: float, bias_1: float, bias_2: float, weight_decay: float) -> Rates:
    """Return the release's rates; `bias_1` and `bias_2` are `1 - b1^n` and `1 - b2^n`."""
    rate = learning_rate * bias_2**0.5 / bias_1
    return Rates(kept=1.0 - rate * weight_decay, root=1.0, rate=rate)


def adamw_update(learning_rate: float, bias_1: float, bias_2: float, weight_decay: float) -> Rates:
    """Return the rates of `torch.optim.AdamW`; the arguments are those of `openai_update`."""
    kept = 1.0 - learning_rate * weight_decay
    return Rates(kept=kept, root=bias_2**0.5, rate=learning_rate / bias_1)


VARIANTS: dict[str, Callable[[float, float, float, float], Rates]] = {
    "openai": openai_update,
    "adamw": adamw_update,
}
"""The variants by name."""


class Adam:
    """Adam over named parameters. By default only matrices decay, as in the release.

    A step updates each parameter in place, in runs that fit a core's cache, and allocates nothing
    of a parameter's size. It is deterministic, and bitwise the same for any number of threads.
    Parameters in half precision have moments and arithmetic in float32 and are rounded at the end
    of the step; the rounding loses a step much smaller than the weight. `steps` counts the steps
    made.
    """

    def __init__(  # noqa: PLR0913 - the constants of the formula
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        decay_vectors: bool = False,
        variant: str = "openai",
    ) -> None:
        """Start with zero moments.

        Args:
            named_parameters: Each parameter once; contiguous and of a float type.
            betas: Decay rates of the moments, each in [0, 1).
            epsilon: Added to the root of the second moment; above 0.
            weight_decay: At least 0; 0.01 in the paper.
            decay_vectors: Whether biases and gains decay too; the release's `vector_l2`.
            variant: The variant, a key of `VARIANTS`.

        Raises:
            ValueError: A constant is out of range; there is no parameter; a parameter is strided,
                not of a float type, or given twice.
        """
        allowed = {
            f"betas must be in [0, 1), got {betas!r}": all(0.0 <= beta < 1.0 for beta in betas),
            f"epsilon must be finite and above 0, got {epsilon!r}": 0.0 < epsilon < math.inf,
            f"weight_decay must be finite and at least 0, got {weight_decay!r}": (
                0.0 <= weight_decay < math.inf
            ),
            f"variant must be one of {sorted(VARIANTS)}, got {variant!r}": variant in VARIANTS,
        }
        for message, is_right in allowed.items():
            if not is_right:
                raise ValueError(message)
        self.parameters = _checked_parameters(named_parameters)
        self.betas, self.epsilon = betas, epsilon
        self.weight_decay, self.decay_vectors = weight_decay, decay_vectors
        self.variant = variant
        self.steps = 0
        self._first, self._second = (
            {
                name: p.detach().new_zeros(p.shape, dtype=accumulate_dtype(p.dtype))
                for name, p in self.parameters.items()
            }
            for _ in range(2)
        )

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Make one step down the gradients.

        Raises:
            ValueError: The learning rate is negative or not finite.
            GradientError: A gradient is missing or sparse; nothing was changed.
        """
        if not 0.0 <= learning_rate < math.inf:
            raise ValueError(
                f"the learning rate must be finite and at least 0, got {learning_rate!r}"
            )
        gradients = {name: checked_gradient(name, p) for name, p in self.parameters.items()}
        rates = self._rates(learning_rate)
        undecayed = dataclasses.replace(rates, kept=1.0)
        for name, parameter in self.parameters.items():
            decays = self.decay_vectors or parameter.ndim > 1
            self._update(name, gradients[name], rates if decays else undecayed)
        self.steps += 1

    def _rates(self, learning_rate: float) -> Rates:
        """Return the rates of the next step."""
        bias_1, bias_2 = (1.0 - beta ** (self.steps + 1) for beta in self.betas)
        return VARIANTS[self.variant](learning_rate, bias_1, bias_2, self.weight_decay)

    def _update(self, name: str, gradient: Tensor, rates: Rates) -> None:
        """Update one parameter and its moments, run by run."""
        parameter, first, second = self.parameters[name], self._first[name], self._second[name]
        gradient = gradient.contiguous()
        scratch = first.new_empty(min(longest_run(gradient.device), gradient.numel()))
        for p, g, m, v in runs(parameter, gradient, first, second):
            wide = p.to(first.dtype)  # `p` itself, unless it is narrower
            self._update_run(wide, g.to(first.dtype), m, v, scratch[: p.numel()], rates)
            if wide is not p:
                p.copy_(wide)

    def _update_run(  # noqa: PLR0913 - the variables of the formula
        self, p: Tensor, g: Tensor, first: Tensor, second: Tensor, scratch: Tensor, rates: Rates
    ) -> None:
        """Update one run with the operations of `torch.optim.AdamW`, in their order."""
        if rates.kept != 1.0:
            p.mul_(rates.kept)
        first.lerp_(g, 1.0 - self.betas[0])
        second.mul_(self.betas[1]).addcmul_(g, g, value=1.0 - self.betas[1])
        torch.sqrt(second, out=scratch)
        if rates.root != 1.0:
            scratch.div_(rates.root)
        p.addcdiv_(first, scratch.add_(self.epsilon), value=-rates.rate)

    def zero_grad(self) -> None:
        """Free all gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the number of steps and both moments of each parameter, by name.

        The tensors are the optimizer's own; the next step changes them.
        """
        state: dict[str, Tensor | int] = {STEP: self.steps}
        for name in self.parameters:
            state |= {FIRST + name: self._first[name], SECOND + name: self._second[name]}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Resume from a state; its values are copied.

        Raises:
            OptimizerStateError: It is not a state of an optimizer of these parameters; nothing
                was changed.
        """
        own = self.state_dict()
        self.steps = check_state(state, own)
        for name, tensor in own.items():
            if isinstance(tensor, Tensor):
                tensor.copy_(state[name])  # type: ignore[arg-type]


def _checked_parameters(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
) -> dict[str, nn.Parameter]:
    """Return the parameters by name; raise where a step would go wrong silently."""
    parameters: dict[str, nn.Parameter] = {}
    names: dict[int, str] = {}
    for name, parameter in named_parameters:
        if not parameter.is_floating_point() or not parameter.is_contiguous():
            raise ValueError(
                f"{name} is {parameter.dtype} of strides {parameter.stride()}; a parameter must be "
                "contiguous and of a float type"
            )
        other = name if name in parameters else names.get(parameter.data_ptr())
        if other is not None and parameter.numel():
            raise ValueError(f"{name} is the same tensor as {other}, and would be stepped twice")
        parameters[name] = parameter
        names[parameter.data_ptr()] = name
    if not parameters:
        raise ValueError("there is no parameter to step")
    return parameters


class OptimizerStateError(CheckpointError):
    """A state that does not belong to this optimizer."""


def check_state(state: Mapping[str, Tensor | int], own: Mapping[str, Tensor | int]) -> int:
    """Return the number of steps of a state whose names, shapes, types and values all fit `own`.

    Raises:
        OptimizerStateError: It does not fit; the message lists the first problems and counts the
            others.
    """
    problems = [
        *(f"{name} is missing" for name in own if name not in state),
        *(f"{quote(name)} belongs to no parameter" for name in state if name not in own),
        *(text for name in own if name in state for text in _problems(name, state[name], own)),
    ]
    if problems:
        more = len(problems) - _LISTED
        raise OptimizerStateError(
            "; ".join(problems[:_LISTED]) + (f"; and {more} more" if more > 0 else ""),
            where="the optimizer's state",
            fix="load the state that was saved with this model, its config and its dtype",
        )
    return int(state[STEP])


_LISTED = 4


def _problems(name: str, found: object, own: Mapping[str, Tensor | int]) -> Iterator[str]:
    """Yield the problems of one entry; the values are read only if shape and dtype fit."""
    expected = own[name]
    if not isinstance(expected, Tensor):
        if not isinstance(found, int) or isinstance(found, bool) or found < 0:
            yield f"{name} must be a whole number, at least 0, and is {quote(found)}"
    elif not isinstance(found, Tensor):
        yield f"{name} must be a tensor and is {quote(found)}"
    elif found.shape != expected.shape or found.dtype != expected.dtype:
        yield (
            f"{name} is {found.dtype} {list(found.shape)}, "
            f"expected {expected.dtype} {list(expected.shape)}"
        )
    elif count := count_not_finite(found):
        yield f"{name} has {count} values that are not finite"
    elif name.startswith(SECOND) and found.numel() and float(torch.aminmax(found)[0]) < 0.0:
        yield f"{name} is a mean of squares and has values below 0"
