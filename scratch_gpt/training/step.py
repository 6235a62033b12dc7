"""A step's gradients: of the mean loss per predicted token, over all micro-batches and processes.

The mean is taken once, over all tokens. A mean of the micro-batches' means would weigh a token by
how few others share its micro-batch.
"""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from scratch_gpt.distributed import Group
from scratch_gpt.loss import next_token_loss

IGNORED = -100
"""The id of targets that do not count."""


def accumulate(
    model: nn.Module,
    micro_batches: Sequence[Tensor],
    group: Group,
    *,
    before: Callable[[int], None] = lambda _: None,
) -> tuple[float, int]:
    """Add the gradients of a step to the parameters'; return the step's loss and its tokens.

    Every process gives its own micro-batches, at least one, and has the same gradients at the
    end. Gradients travel between processes once a step, while the last backward runs.

    Args:
        model: Gives logits; what `group.wrapped` returned.
        micro_batches: Token ids, each `[batch time]`; any sizes, equal in the same process or not.
        group: The processes that share the step.
        before: Is called with the place of each micro-batch before its forward.

    Returns:
        The mean negative log-likelihood per predicted token, in nats, over all processes, and
        the number of predicted tokens.
    """
    counts = [predicted(token_ids) for token_ids in micro_batches]
    total = group.summed([float(sum(counts))])[0]
    loss = 0.0
    for place, (token_ids, count) in enumerate(zip(micro_batches, counts, strict=True)):
        before(place)
        with group.exchanging(model, now=place == len(micro_batches) - 1):
            mean = next_token_loss(model(known(token_ids)), token_ids, ignore_index=IGNORED)
            share = mean * (count / total)
            (share * group.processes).backward()  # type: ignore[no-untyped-call] # the exchange averages
        loss += float(share.detach())
    return group.summed([loss])[0], int(total)


def known(token_ids: Tensor) -> Tensor:
    """Return ids that a model takes: where nothing is predicted, any id will do."""
    return token_ids.masked_fill(token_ids == IGNORED, 0)


def predicted(token_ids: Tensor) -> int:
    """Return how many targets count: every token that has one before it."""
    return int((token_ids[:, 1:] != IGNORED).sum())
