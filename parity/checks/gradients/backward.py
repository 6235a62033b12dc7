"""One forward and backward pass of a model, with a callback for each gradient.

The callback compares a gradient when it is complete; then it is freed. So all gradients of a model
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

from parity.checks.gradients.taps import is_parameter
from parity.core import candidates
from parity.core.inputs import Inputs
from parity.core.lockstep import Observations, TapFunction
from parity.core.metrics import Difference, Reference, Status
from parity.core.patterns import AXES, PARAMETER, pattern
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
    """Return the loss; call `see` with every gradient, `scale` times as large.

    Args:
        loss_of: Runs the forward pass with a tap, and returns the scalar loss.
        parameters: Those whose gradients are computed. They are restored, `grad` included.
        see: Called with the gradient of each tap and parameter when it is complete.
        look: Called with each tap of the forward pass.
        scale: The gradient of the loss; a power of two changes only exponents.
    """

    def tap(name: str, value: Tensor) -> Tensor:
        if look is not None:
            look(name, value.detach())
        if value.requires_grad:
            hook = functools.partial(see, name)
            value.register_hook(hook)  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad(), _hooks(parameters, see):
        loss = loss_of(tap)
        loss.backward(torch.full_like(loss, scale))  # type: ignore[no-untyped-call]
    return float(loss.detach())


@contextlib.contextmanager
def _hooks(parameters: Mapping[str, nn.Parameter], see: GradientCallback) -> Iterator[None]:
    """Call `see` with each parameter's gradient and free it; restore the parameters."""
    before = [
        (parameter, parameter.requires_grad, parameter.grad) for parameter in parameters.values()
    ]
    handles = []

    def take(name: str, parameter: Tensor) -> None:
        see(name, cast("Tensor", parameter.grad))  # all its paths summed
        parameter.grad = None

    try:
        for name, parameter in parameters.items():
            parameter.requires_grad_(True)
            parameter.grad = None
            hook = functools.partial(take, name)
            handles.append(parameter.register_post_accumulate_grad_hook(hook))  # type: ignore[no-untyped-call]
        yield
    finally:
        for handle in handles:
            handle.remove()
        for parameter, required, gradient in before:
            parameter.grad = gradient
            parameter.requires_grad_(required)


# The loss of both sides as a function of their taps: the mean over all predicted tokens.


LossOf = Callable[[TapFunction], Tensor]
"""Runs a forward pass with a tap, and returns the scalar loss."""

_IGNORED = -100


def predicted(inputs: Inputs) -> Tensor:
    """Return `[batch time-1]`: whether a real token is predicted from a real one."""
    mask = inputs.attention_mask
    if mask is None:
        return torch.ones_like(inputs.token_ids[:, 1:], dtype=torch.bool)
    return mask[:, :-1] & mask[:, 1:]


def check_predicted(inputs: Inputs) -> None:
    """Require a predicted token.

    Raises:
        InconclusiveError: Every row is a single token, so there is no loss.
    """
    if not bool(predicted(inputs).any()):
        raise InconclusiveError(
            "no next token is predicted, so that there is no loss and no gradient",
            where=f"token_ids of shape {list(inputs.token_ids.shape)}",
            fix="give at least two tokens in a row",
        )


def scale_for(dtype: torch.dtype, inputs: Inputs) -> float:
    """Return the scale of the loss for a backward pass in `dtype`.

    It is 1 except in float16, whose smallest normal number is 6e-5: for the mean of 500 losses most
    gradients of a logit are smaller. There it is a power of two, at least four times the number of
    losses.

    Source: Micikevicius et al. 2018, "Mixed precision training", section 3.2.
    """
    if dtype != torch.float16:
        return 1.0
    exponent = math.ceil(math.log2(int(predicted(inputs).sum()))) + 2
    return 2.0 ** min(exponent, _LARGEST_EXPONENT)


_LARGEST_EXPONENT = 15
"""The largest exponent of a power of two in float16."""


def sees_one_token(inputs: Inputs) -> bool:
    """Return whether every predicting token attends only to itself."""
    real = inputs.attention_mask
    if real is None:
        return inputs.token_ids.shape[1] == 2  # noqa: PLR2004 - the second token predicts none
    earlier = real[:, :-1].cumsum(-1)
    return not bool((predicted(inputs) & (earlier > 1)).any())


def of_candidate(model: nn.Module, inputs: Inputs) -> LossOf:
    """Return the loss of a candidate: our loss of the logits that it returns."""
    counted = nn.functional.pad(predicted(inputs), (1, 0), value=False)
    targets = inputs.token_ids.masked_fill(~counted, _IGNORED)

    def loss_of(tap: TapFunction) -> Tensor:
        tapped: dict[str, Tensor] = {}

        def keep_logits(name: str, value: Tensor) -> Tensor:
            value = tap(name, value)
            if name == "logits":
                tapped[name] = value
            return value

        logits = candidates.call(model, inputs, keep_logits)
        check_returned(logits, tapped.get("logits"))
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


REFERENCE = "huggingface"
TRUTH = "oracle"
"""The criteria's name of the truth; for gradients it is Hugging Face's float64 run."""


_SHOWN = 4
"""Wrong gradients whose numbers are looked at: the later ones follow from the first."""


@dataclasses.dataclass(kw_only=True)
class GradientComparator:
    """Compares the gradients of one run with Hugging Face's float64 gradients.

    Attributes:
        dtype: The dtype that every gradient must have.
        known: Names of all gradients; any other is extra.
        truths: The reference gradients by name.
        found: Receives differences and extras.
        look: Called with the name and gradient of whatever is compared.
        scale: The scale of the loss.
        within: Largest difference of a right gradient in float64, over its RMS.
        shown: Receives what the numbers of wrong gradients in float64 show, by name.
    """

    name: str
    dtype: torch.dtype
    plan: Sequence[Tap]
    known: frozenset[str]
    truths: Mapping[str, Reference]
    found: Observations
    look: Callable[[str, Tensor], None]
    scale: float = 1.0
    within: float = math.inf
    shown: dict[str, tuple[str, str]] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self._wanted = {place.name for place in self.plan}

    def see(self, name: str, gradient: Tensor) -> None:
        """Compare one gradient; an unknown or repeated one is extra."""
        if name not in self.known or name in self._seen:
            self.found.extras.setdefault(self.name, []).append(name)
            return
        self._seen.add(name)
        if name in self._wanted and name in self.truths:
            truth = self.truths[name]
            seen = self._difference(truth, gradient.cpu())
            self._note(name, seen)
            is_wrong = seen.status is Status.PASS and seen.relative_largest > self.within
            if is_wrong and len(self.shown) < _SHOWN and self.dtype == torch.float64:
                axes = next(place.kind.axes for place in self.plan if place.name == name)
                names = PARAMETER if is_parameter(name) else AXES[axes]
                found = pattern(
                    gradient,
                    truth.tensor,
                    names=names,
                    visible=truth.visible,
                    within=self.within,
                    smooth=False,
                )
                self.shown[name] = found
        self.look(name, gradient)

    def _difference(self, truth: Reference, gradient: Tensor) -> Difference:
        if self.scale == 1.0 or gradient.dtype != self.dtype:
            return truth.difference(gradient, dtype=self.dtype)
        # The scale is removed in float64: in float16 small gradients would be lost again.
        return truth.difference(gradient.double() / self.scale, dtype=torch.float64)

    def finish(self, absent: Mapping[str, str], broken: str | None) -> None:
        """Note the planned gradients that never came.

        Args:
            absent: Names that this model does not have, each with the reason.
            broken: The error that the run raised, if any.
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
