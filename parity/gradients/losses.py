"""The loss of both sides as a function of their taps: the mean over all tokens to be predicted."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.capture import Tap
from parity.errors import InconclusiveError
from parity.inputs import Inputs
from parity.subjects import check_returned
from reference import huggingface
from scratch_gpt.loss import next_token_loss

LossOf = Callable[[Tap], Tensor]
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

    def loss_of(tap: Tap) -> Tensor:
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

    def loss_of(tap: Tap) -> Tensor:
        logits = huggingface.logits(
            model,
            inputs.token_ids,
            positions=inputs.positions,
            attention_mask=inputs.attention_mask,
            tap=tap,
        )
        return huggingface.loss(logits, inputs.token_ids)[counted].mean()

    return loss_of
