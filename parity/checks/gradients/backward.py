"""One model, once forward and once backward, each gradient shown the moment it is made.

Nothing is kept: whoever is shown a gradient measures it, and it goes. So all gradients of a model
are compared without all of them existing at once.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.core.inputs import Inputs
from parity.core.lockstep import Observations, TapFunction
from parity.core.metrics import Difference, Reference, Status
from parity.core.runners import check_returned
from parity.core.taps import Tap
from parity.errors import InconclusiveError
from reference import huggingface
from scratch_gpt.loss import next_token_loss

GradientCallback = Callable[[str, Tensor], None]
"""Called with the name of a tap or parameter, and its gradient, or a tap's value."""


def backward(
    loss_of: Callable[[TapFunction], Tensor],
    parameters: Mapping[str, nn.Parameter],
    see: GradientCallback,
    look: GradientCallback | None = None,
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
def _shown(parameters: Mapping[str, nn.Parameter], see: GradientCallback) -> Iterator[None]:
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


def _taking(name: str, see: GradientCallback) -> Callable[[Tensor], None]:
    """Return a hook that shows a parameter's gradient, all its paths summed, and drops it."""

    def take(parameter: Tensor) -> None:
        see(name, cast("Tensor", parameter.grad))
        parameter.grad = None

    return take


# The loss of both sides as a function of their taps: the mean over all tokens to be predicted.


LossOf = Callable[[TapFunction], Tensor]
"""Runs a forward pass, showing its taps, and returns the scalar loss."""

_IGNORED = -100


def predicted(inputs: Inputs) -> Tensor:
    """Return `[batch time-1]`: whether a token is predicted there, from a real one, a real one."""
    mask = inputs.attention_mask
    if mask is None:
        return torch.ones_like(inputs.token_ids[:, 1:], dtype=torch.bool)
    return mask[:, :-1] & mask[:, 1:]


def check_predicted(inputs: Inputs) -> None:
    """Require something to predict.

    Raises:
        InconclusiveError: Every row is a single token: there is no loss, and no gradient.
    """
    if not bool(predicted(inputs).any()):
        raise InconclusiveError(
            "no next token is predicted, so that there is no loss and no gradient",
            where=f"token_ids of shape {list(inputs.token_ids.shape)}",
            fix="give at least two tokens in a row",
        )


def scale_for(dtype: torch.dtype, inputs: Inputs) -> float:
    """Return what a backward pass in `dtype` begins with.

    1, but for float16: the smallest number that it holds in full is 6e-5, and of the mean of 500
    losses most gradients of a logit are smaller. So training in float16 begins with a power of two,
    and so does this: the one that makes a sum of the mean, and four times as much.

    Source: Micikevicius et al. 2018, "Mixed precision training", section 3.2.
    """
    if dtype != torch.float16:
        return 1.0
    exponent = math.ceil(math.log2(int(predicted(inputs).sum()))) + 2
    return 2.0 ** min(exponent, _LARGEST_EXPONENT)


_LARGEST_EXPONENT = 15
"""Of a power of two in float16."""


def sees_one_token(inputs: Inputs) -> bool:
    """Return whether every prediction is made from a token that sees nothing but itself."""
    real = inputs.attention_mask
    if real is None:
        return inputs.token_ids.shape[1] == 2  # noqa: PLR2004 - the second predicts nothing
    earlier = real[:, :-1].cumsum(-1)
    return not bool((predicted(inputs) & (earlier > 1)).any())


def of_candidate(model: nn.Module, inputs: Inputs) -> LossOf:
    """Return the loss of a candidate: our own, of the logits that it returns."""
    counted = nn.functional.pad(predicted(inputs), (1, 0), value=False)
    targets = inputs.token_ids.masked_fill(~counted, _IGNORED)

    def loss_of(tap: TapFunction) -> Tensor:
        shown: dict[str, Tensor] = {}

        def remembering(name: str, value: Tensor) -> Tensor:
            value = tap(name, value)
            if name == "logits":
                shown[name] = value
            return value

        logits = model(inputs.token_ids, inputs.positions, inputs.attention_mask, tap=remembering)
        check_returned(logits, shown.get("logits"))
        return next_token_loss(logits, targets, ignore_index=_IGNORED)

    return loss_of


def of_huggingface(model: OpenAIGPTLMHeadModel, inputs: Inputs) -> LossOf:
    """Return the loss of Hugging Face's model: PyTorch's cross-entropy of its logits."""
    counted = predicted(inputs)

    def loss_of(tap: TapFunction) -> Tensor:
        logits = huggingface.logits(
            model,
            inputs.token_ids,
            positions=inputs.positions,
            attention_mask=inputs.attention_mask,
            tap=tap,
        )
        return huggingface.loss(logits, inputs.token_ids)[counted].mean()

    return loss_of


# Measures the gradients of one run as they are made, and knows which never were.


REFERENCE = "huggingface"
TRUTH = "oracle"
"""What the judge calls that to which errors are measured; here, the witness's in float64."""


@dataclasses.dataclass(kw_only=True)
class GradientComparator:
    """One run being measured against the witness's float64 gradients.

    Attributes:
        name: What the observations call the run.
        dtype: The dtype that every gradient must have.
        plan: What is to be compared.
        known: Names of every gradient there is; what else is shown is extra.
        truths: The witness's gradients by name.
        found: Where differences and extras are noted.
        look: Called with the name and gradient of whatever is measured.
        scale: How many times too large every gradient is, on purpose.
    """

    name: str
    dtype: torch.dtype
    plan: Sequence[Tap]
    known: frozenset[str]
    truths: Mapping[str, Reference]
    found: Observations
    look: Callable[[str, Tensor], None]
    scale: float = 1.0

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self._wanted = {place.name for place in self.plan}

    def see(self, name: str, gradient: Tensor) -> None:
        """Measure one gradient; an unexpected or repeated one is extra."""
        if name not in self.known or name in self._seen:
            self.found.extras.setdefault(self.name, []).append(name)
            return
        self._seen.add(name)
        if name in self._wanted and name in self.truths:
            self._note(name, self._difference(self.truths[name], gradient.cpu()))
        self.look(name, gradient)

    def _difference(self, truth: Reference, gradient: Tensor) -> Difference:
        if self.scale == 1.0 or gradient.dtype != self.dtype:
            return truth.difference(gradient, dtype=self.dtype)
        # Back to size where it fits: float16 would lose what the scale has saved.
        return truth.difference(gradient.double() / self.scale, dtype=torch.float64)

    def finish(self, absent: Mapping[str, str], broken: str | None) -> None:
        """Note what was planned and never made.

        Args:
            absent: Names that this model does not have, each with what to say of it.
            broken: What the run raised, if it did.
        """
        for name in self._wanted - self._seen:
            if name in absent:
                seen = Difference(status=Status.NOT_RUN, detail=absent[name])
            elif broken is not None:
                seen = Difference(status=Status.NOT_RUN, detail=f"the run broke off: {broken}")
            else:
                seen = Difference(status=Status.MISSING, detail="no gradient ever reached it")
            self._note(name, seen)
        for name in self._seen & self._wanted - set(self.truths):
            detail = "the reference made no gradient to compare with"
            self._note(name, Difference(status=Status.NOT_RUN, detail=detail))

    def _note(self, name: str, seen: Difference) -> None:
        self.found.differences[self.name, name, TRUTH] = seen
        if self.dtype == torch.float64:
            self.found.differences[self.name, name, REFERENCE] = seen
