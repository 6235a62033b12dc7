"""Greedy continuation by running the whole sequence anew for each token: slow, and plain."""

from collections.abc import Sequence

import torch
from torch import Tensor

from scratch_gpt.model import GPT


def greedy(
    model: GPT, token_ids: Sequence[int], *, total_length: int, no_repeat: bool
) -> tuple[list[int], list[Tensor]]:
    """Return the ids of a prompt and its continuation, and what each new one was chosen from.

    Args:
        model: In evaluation mode.
        token_ids: The prompt.
        total_length: Ids in all.
        no_repeat: Whether an id that is there already, the prompt's included, may not be chosen.

    Returns:
        `total_length` ids, and for each new one the model's own logits `[vocab]`.
    """
    ids = list(token_ids)
    steps = []
    while len(ids) < total_length:
        logits = model(torch.tensor([ids], device=model.tokens_embed.weight.device))[0, -1]
        steps.append(logits)
        allowed = logits.clone()
        if no_repeat:
            allowed[ids] = -torch.inf
        ids.append(int(allowed.argmax()))
    return ids, steps
