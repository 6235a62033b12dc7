"""Next-token cross-entropy from a log-softmax that cannot overflow."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import FunctionCtx, once_differentiable

from scratch_gpt.numerics import accumulate_dtype, empty_aligned_rows


def log_softmax(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Return `logits - log(sum(exp(logits)))` over the last axis; safe for any finite logits."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - torch.exp(shifted).sum(-1, keepdim=True).log()


def negative_log_likelihood(
    logits: Float[Tensor, "batch time vocab"], token_ids: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch predicted"]:
    """Return `-log p(next token)` for every position but the last, in nats; empty at time 1.

    Row `t` of the logits predicts token `t + 1` of the tokens that they were computed from. This is
    the definition, differentiated by autograd. `next_token_loss` needs less memory.
    """
    predicted = log_softmax(logits[:, :-1])
    return -predicted.gather(-1, token_ids[:, 1:, None].long()).squeeze(-1)


def next_token_loss(
    logits: Float[Tensor, "batch time vocab"],
    token_ids: Int[Tensor, "batch time"],
    *,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood, in nats per predicted token, float32 or wider.

    Positions that hold `ignore_index` are not predicted, and do not count.

    Raises:
        ValueError: No target counts, so there is no mean.

    Source: Radford et al. 2018, equation 1; train.py `model` (a69b5c4).
    """
    counted = token_ids[:, 1:] != ignore_index
    if not bool(counted.any()):
        raise ValueError(f"no target to predict in token_ids of shape {list(token_ids.shape)}")
    targets = token_ids.masked_fill(token_ids == ignore_index, 0)
    losses: Tensor = _NegativeLogLikelihood.apply(logits, targets, counted)  # type: ignore[no-untyped-call]
    return losses.sum() / counted.sum()


class _NegativeLogLikelihood(Function):
    """`negative_log_likelihood` with a derived gradient; ignored targets have loss 0.

    The gradient of `log(sum(exp(logits))) - logits[target]` is `softmax(logits)`, minus 1 at the
    target. Forward and backward process a few rows at a time and save one number a row, so the
    gradient is the only other tensor of the logits' size. Half-precision logits are summed and
    subtracted in float32.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, token_ids: Tensor, counted: Tensor) -> Tensor:
        rows = logits.flatten(0, 1)
        # `[batch * time, 1]`; the target of a sequence's last row is not used.
        targets = token_ids.roll(-1, dims=1).reshape(-1, 1).long()
        starts = range(0, len(rows), _ROWS)
        log_sums = torch.cat([_log_sum_exp(rows[at : at + _ROWS]) for at in starts])
        losses = (log_sums - rows.gather(-1, targets)).reshape(token_ids.shape)
        ctx.save_for_backward(logits, targets, log_sums, counted)
        return losses[:, :-1].masked_fill(~counted, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, log_sums, counted = ctx.saved_tensors  # type: ignore[attr-defined]
        weights = log_sums.new_zeros(logits.shape[:2])  # the gradient of each row's loss
        weights[:, :-1] = upstream.masked_fill(~counted, 0.0)
        gradient = empty_aligned_rows(logits.shape, like=logits)
        rows, d_rows = logits.flatten(0, 1), gradient.flatten(0, 1)
        for at in range(0, len(rows), _ROWS):
            part = slice(at, at + _ROWS)
            weight, target = weights.view(-1, 1)[part], targets[part]
            d_part = torch.sub(rows[part], log_sums[part]).exp_().mul_(weight)
            d_part.scatter_(-1, target, d_part.gather(-1, target) - weight)
            # A row that does not count may hold infinity, and 0 times infinity is NaN.
            d_rows[part] = d_part.masked_fill_(weight == 0.0, 0.0)
        return gradient, None, None


_ROWS = 16
"""Rows of logits processed at once: few enough for the processor's cache."""


def _log_sum_exp(rows: Tensor) -> Tensor:
    """Return `log(sum(exp(row)))`, `[rows, 1]`, in float32 or wider; safe for finite logits."""
    largest = rows.amax(-1, keepdim=True).to(accumulate_dtype(rows.dtype))
    return torch.sub(rows, largest).exp_().sum(-1, keepdim=True).log_().add_(largest)
