"""The validation loss, which leaves nothing behind."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from scratch_gpt.distributed import Group
from scratch_gpt.loss import next_token_loss
from scratch_gpt.training.step import predicted


def validation_loss(model: nn.Module, micro_batches: list[Tensor], group: Group) -> float:
    """Return the mean negative log-likelihood per predicted token, in nats, without dropout.

    Args:
        model: Gives logits; not what `group.wrapped` returned, whose forward exchanges nothing
            but expects a backward.
        micro_batches: Token ids `[batch time]`, the same in every process: they take turns.
        group: The processes that share the work.
    """
    total = sum(predicted(token_ids) for token_ids in micro_batches)
    loss = 0.0
    with evaluating(model):
        for token_ids in micro_batches[group.rank :: group.processes]:
            mean = next_token_loss(model(token_ids), token_ids)
            loss += float(mean) * (predicted(token_ids) / total)
    return group.summed([loss])[0]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout and gradients off, and back to what they were."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
