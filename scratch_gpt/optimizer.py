"""Adam with decoupled weight decay: as the 2018 release has it, and as `torch.optim.AdamW` has it.

With gradient g, moments m and v, and decay rates b1 and b2:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    p = kept p - rate m / (sqrt(v) / root + epsilon)

What is kept, the root and the rate are the form's: see `scratch_gpt.optimizer`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from scratch_gpt.checkpoint.safetensors import count_not_finite
from scratch_gpt.errors import CheckpointError, quote
from scratch_gpt.gradient_clipping import checked_gradient
from scratch_gpt.runs import longest_run, runs

# What an optimizer's state must be before it is taken up: by name, shape, type and value.


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
    yield from (f"{quote(name)} belongs to no parameter" for name in state if name not in mine)


def _unfit(state: Mapping[str, object], mine: Mapping[str, Tensor | int]) -> Iterator[str]:
    """Give what is wrong with the values of the names that both have."""
    for name, expected in mine.items():
        if name not in state:
            continue
        found = state[name]
        if isinstance(expected, Tensor):
            yield from _unfit_tensor(name, found, expected)
        elif not isinstance(found, int) or isinstance(found, bool) or found < 0:
            yield f"{name} must be a whole number, at least 0, and is {quote(found)}"


def _unfit_tensor(name: str, found: object, expected: Tensor) -> Iterator[str]:
    """Give what is wrong with one moment; of another form, its values are not looked at."""
    if not isinstance(found, Tensor):
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


# Adam's two forms: the numbers of a step as the 2018 release has them, and as AdamW has them.
#
# With n the number of the step, from 1, and m and v the moments:
#
#     released    rate = learning_rate sqrt(1 - b2^n) / (1 - b1^n)
#                 p = p - rate (m / (sqrt(v) + epsilon) + weight_decay p)
#     adamw       p = p - learning_rate weight_decay p
#                 p = p - learning_rate / (1 - b1^n) m / (sqrt(v) / sqrt(1 - b2^n) + epsilon)
#
# The two differ in what epsilon weighs and in the decay. Beside the release's uncorrected root,
# epsilon is 32 times as heavy in the first step and 14 times in the fifth: a gradient of 1e-6 has
# then gone a quarter less far. The release's decay is corrected like the step, which leaves 0.32 of
# it in the first step.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rates:
    """The numbers of one step: p = kept p - rate m / (sqrt(v) / root + epsilon).

    Attributes:
        kept: What the decay leaves of a parameter.
        root: What the root of the second moment is divided by.
        rate: What the quotient of the moments is multiplied by.
    """

    kept: float
    root: float
    rate: float


def openai_update(learning_rate: float, bias_1: float, bias_2: float, weight_decay: float) -> Rates:
    """Return the rates as the release has them; `bias_1` and `bias_2` are `1 - b^n`.

    Source: finetune-transformer-lm opt.py `adam` (a69b5c4).
    """
    rate = learning_rate * bias_2**0.5 / bias_1
    return Rates(kept=1.0 - rate * weight_decay, root=1.0, rate=rate)


def adamw_update(learning_rate: float, bias_1: float, bias_2: float, weight_decay: float) -> Rates:
    """Return the rates of `torch.optim.AdamW`; `bias_1` and `bias_2` are `1 - b^n`.

    Source: Loshchilov and Hutter 2019, algorithm 2.
    """
    kept = 1.0 - learning_rate * weight_decay
    return Rates(kept=kept, root=bias_2**0.5, rate=learning_rate / bias_1)


VARIANTS: dict[str, Callable[[float, float, float, float], Rates]] = {
    "released": openai_update,
    "adamw": adamw_update,
}
"""Both forms by name."""


_WIDER = {torch.bfloat16: torch.float32, torch.float16: torch.float32}
"""The type of the moments, and of the arithmetic, where it is not the parameter's own."""


@dataclasses.dataclass(frozen=True)
class _Moments:
    """The running means of one parameter's gradient and of its square."""

    first: Tensor
    second: Tensor


class Adam:
    """Adam over named parameters. Only matrices decay, as released: no bias and no gain does.

    A step goes through the parameters in runs that stay in the cache, in place: parameter, moments
    and gradient are read once, and nothing of a parameter's size is allocated. It is deterministic
    and the same to the bit for any number of threads. Parameters in half precision have moments
    and arithmetic in float32, and are rounded at the end of the step; a step much smaller than a
    weight is lost in that rounding.

    Attributes:
        steps: How many steps were made.
    """

    def __init__(  # noqa: PLR0913 - the constants of the formula
        self,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        weight_decay: float = 0.01,
        decay_vectors: bool = False,
        form: str = "released",
    ) -> None:
        """Begin with moments of zero.

        Args:
            named_parameters: Each parameter once; contiguous and of a float type.
            betas: Decay rates of the moments, each in [0, 1).
            epsilon: Added to the root of the second moment; above 0.
            weight_decay: At least 0; 0.01 in the paper.
            decay_vectors: Whether biases and gains decay too; the release's `vector_l2`.
            form: `released` or `adamw`; a key of `adam_forms.FORMS`.

        Raises:
            ValueError: A constant outside its range, no parameter, or one that cannot be stepped.
        """
        _check_constants(betas, epsilon, weight_decay, form)
        self.parameters = _checked(named_parameters)
        self.betas = betas
        self.epsilon = epsilon
        self.weight_decay = weight_decay
        self.decay_vectors = decay_vectors
        self.form = form
        self.steps = 0
        self._moments = {name: _zeros(parameter) for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Make one step down the gradients.

        Args:
            learning_rate: At least 0; see `scratch_gpt.schedule`.

        Raises:
            ValueError: The learning rate is negative or not finite.
            GradientError: A parameter has no gradient, or a sparse one; nothing was changed.
        """
        if not 0.0 <= learning_rate < math.inf:
            message = f"the learning rate must be finite and at least 0, got {learning_rate!r}"
            raise ValueError(message)
        gradients = {name: checked_gradient(name, p) for name, p in self.parameters.items()}
        rates = self._rates(learning_rate)
        undecayed = dataclasses.replace(rates, kept=1.0)
        for name, parameter in self.parameters.items():
            decays = self.decay_vectors or parameter.ndim > 1
            self._update(name, gradients[name], rates if decays else undecayed)
        self.steps += 1

    def _rates(self, learning_rate: float) -> Rates:
        """Return the numbers of the step about to be made."""
        bias_1, bias_2 = (1.0 - beta ** (self.steps + 1) for beta in self.betas)
        return VARIANTS[self.form](learning_rate, bias_1, bias_2, self.weight_decay)

    def _update(self, name: str, gradient: Tensor, rates: Rates) -> None:
        """Update one parameter and its moments, run by run."""
        parameter, moments = self.parameters[name], self._moments[name]
        dtype, gradient = moments.first.dtype, gradient.contiguous()
        scratch = moments.first.new_empty(min(longest_run(gradient.device), gradient.numel()))
        for p, g, first, second in runs(parameter, gradient, moments.first, moments.second):
            wide = p.to(dtype)  # itself, unless it is narrower
            self._update_run(wide, g.to(dtype), first, second, scratch[: p.numel()], rates)
            if wide is not p:
                p.copy_(wide)

    def _update_run(  # noqa: PLR0913 - the variables of the formula
        self, p: Tensor, g: Tensor, first: Tensor, second: Tensor, scratch: Tensor, rates: Rates
    ) -> None:
        """Update one run, by the operations and in the order of `torch.optim.AdamW`."""
        if rates.kept != 1.0:
            p.mul_(rates.kept)
        first.lerp_(g, 1.0 - self.betas[0])
        second.mul_(self.betas[1]).addcmul_(g, g, value=1.0 - self.betas[1])
        torch.sqrt(second, out=scratch)
        if rates.root != 1.0:
            scratch.div_(rates.root)
        p.addcdiv_(first, scratch.add_(self.epsilon), value=-rates.rate)

    def zero_grad(self) -> None:
        """Let all gradients go."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return what a later run needs to go on: the steps made, and both moments by name.

        The tensors are the optimizer's own, which the next step changes.
        """
        state: dict[str, Tensor | int] = {STEP: self.steps}
        for name, moments in self._moments.items():
            state |= {FIRST + name: moments.first, SECOND + name: moments.second}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor | int]) -> None:
        """Go on from a state; its values are copied.

        Raises:
            OptimizerStateError: It is not the state of an optimizer of these parameters; nothing
                was changed.
        """
        mine = self.state_dict()
        self.steps = check_state(state, mine)
        for name, tensor in mine.items():
            if isinstance(tensor, Tensor):
                tensor.copy_(state[name])  # type: ignore[arg-type]


def _check_constants(
    betas: tuple[float, float], epsilon: float, weight_decay: float, form: str
) -> None:
    """Refuse constants outside their range, each with what was given."""
    allowed = {
        f"betas must be in [0, 1), got {betas!r}": all(0.0 <= beta < 1.0 for beta in betas),
        f"epsilon must be finite and above 0, got {epsilon!r}": 0.0 < epsilon < math.inf,
        f"weight_decay must be finite and at least 0, got {weight_decay!r}": (
            0.0 <= weight_decay < math.inf
        ),
        f"form must be one of {sorted(VARIANTS)}, got {form!r}": form in VARIANTS,
    }
    for message, right in allowed.items():
        if not right:
            raise ValueError(message)


def _checked(named_parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, nn.Parameter]:
    """Return the parameters by name; refuse what a step would do wrong without a word."""
    pairs = list(named_parameters)
    if not pairs:
        raise ValueError("there is no parameter to step")
    parameters: dict[str, nn.Parameter] = {}
    places: dict[int, str] = {}
    for name, parameter in pairs:
        if not parameter.is_floating_point() or not parameter.is_contiguous():
            message = f"{name} is {parameter.dtype} of strides {parameter.stride()}; "
            raise ValueError(message + "a parameter must be contiguous and of a float type")
        other = name if name in parameters else places.get(parameter.data_ptr())
        if other is not None and parameter.numel():
            message = f"{name} is the same tensor as {other}, and would be stepped twice"
            raise ValueError(message)
        parameters[name] = parameter
        places[parameter.data_ptr()] = name
    return parameters


def _zeros(parameter: nn.Parameter) -> _Moments:
    dtype = _WIDER.get(parameter.dtype, parameter.dtype)
    first, second = (parameter.detach().new_zeros(parameter.shape, dtype=dtype) for _ in range(2))
    return _Moments(first, second)
