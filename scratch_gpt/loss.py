"""Next-token cross-entropy from a log-softmax that cannot overflow."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def log_softmax(logits: Float[Tensor, "*rows vocab"]) -> Float[Tensor, "*rows vocab"]:
    """Return `logits - log(sum(exp(logits)))` over the last axis, shifted to be safe."""
    shifted = logits - logits.detach().amax(-1, keepdim=True)
    return shifted - torch.exp(shifted).sum(-1, keepdim=True).log()


def negative_log_likelihood(
    logits: Float[Tensor, "batch time vocab"], token_ids: Int[Tensor, "batch time"]
) -> Float[Tensor, "batch predicted"]:
    """Return `-log p(next token)` for every position but the last, in nats.

    Args:
        logits: `[batch time vocab]`; row `t` predicts token `t + 1`.
        token_ids: `[batch time]`, the tokens that the logits were computed from.

    Returns:
        `[batch time-1]`, in the dtype of the logits; empty at time 1.
    """
    predicted = log_softmax(logits[:, :-1])
    return -predicted.gather(-1, token_ids[:, 1:, None].long()).squeeze(-1)


def next_token_loss(
    logits: Float[Tensor, "batch time vocab"],
    token_ids: Int[Tensor, "batch time"],
    *,
    ignore_index: int = -100,
) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood, in nats per predicted token.

    Args:
        logits: `[batch time vocab]`.
        token_ids: `[batch time]`; where it holds `ignore_index`, nothing is predicted.
        ignore_index: The id of targets that do not count.

    Raises:
        ValueError: No target is left, so that there is no mean.

    Source: Radford et al. 2018, equation 1; train.py `model` (a69b5c4).
    """
    counted = token_ids[:, 1:] != ignore_index
    if not bool(counted.any()):
        message = f"no target to predict in token_ids of shape {list(token_ids.shape)}"
        raise ValueError(message)
    targets = token_ids.masked_fill(token_ids == ignore_index, 0)
    losses = negative_log_likelihood(logits, targets)
    return losses.masked_fill(~counted, 0.0).sum() / counted.sum()
