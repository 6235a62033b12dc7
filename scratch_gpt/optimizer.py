"""Adam with decoupled weight decay: as the 2018 release has it, and as `torch.optim.AdamW` has it.

With gradient g, moments m and v, and decay rates b1 and b2:

    m = b1 m + (1 - b1) g
    v = b2 v + (1 - b2) g^2
    p = kept p - rate m / (sqrt(v) / root + epsilon)

What is kept, the root and the rate are the form's: see `scratch_gpt.adam_forms`.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from scratch_gpt.adam_forms import FORMS, Rates
from scratch_gpt.gradient import gradient_of
from scratch_gpt.optimizer_state import FIRST, SECOND, STEP, check_state
from scratch_gpt.runs import longest_run, runs

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
        gradients = {name: gradient_of(name, p) for name, p in self.parameters.items()}
        rates = self._rates(learning_rate)
        undecayed = dataclasses.replace(rates, kept=1.0)
        for name, parameter in self.parameters.items():
            decays = self.decay_vectors or parameter.ndim > 1
            self._update(name, gradients[name], rates if decays else undecayed)
        self.steps += 1

    def _rates(self, learning_rate: float) -> Rates:
        """Return the numbers of the step about to be made."""
        bias_1, bias_2 = (1.0 - beta ** (self.steps + 1) for beta in self.betas)
        return FORMS[self.form](learning_rate, bias_1, bias_2, self.weight_decay)

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
        f"form must be one of {sorted(FORMS)}, got {form!r}": form in FORMS,
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
