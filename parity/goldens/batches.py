"""The logits after many prompts of unequal length, in batches padded on the right.

Attention is causal, so that no position sees the padding behind it: a batch changes a prompt's
logits by rounding alone.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from scratch_gpt.model import GPT

Prompt = tuple[int, ...]

TOKENS = 512
"""Positions in a batch, padding included: above it a batch gains no more time, and at the
released size its logits take 83 MB."""


def last_logits(
    model: GPT,
    prompts: Iterable[Prompt],
    on_batch: Callable[[int, int], None] = lambda _done, _total: None,
) -> dict[Prompt, Tensor]:
    """Return the logits `[vocab]` at each prompt's last token.

    Args:
        model: In evaluation mode.
        prompts: Token ids that the model can take, none empty. Each is run once.
        on_batch: Called with (prompts done, prompts in all).
    """
    wanted = sorted(set(prompts), key=len)
    found: dict[Prompt, Tensor] = {}
    for batch in _batches(wanted):
        found |= dict(zip(batch, _last(model, batch), strict=True))
        on_batch(len(found), len(wanted))
    return found


def _batches(prompts: Sequence[Prompt]) -> Iterator[list[Prompt]]:
    """Yield runs of prompts, sorted by length, of at most `TOKENS` padded positions each."""
    batch: list[Prompt] = []
    for prompt in prompts:
        if batch and (len(batch) + 1) * len(prompt) > TOKENS:
            yield batch
            batch = []
        batch.append(prompt)
    if batch:
        yield batch


def _last(model: GPT, batch: Sequence[Prompt]) -> Tensor:
    """Return the logits `[batch vocab]` at the last token of each prompt."""
    device = model.tokens_embed.weight.device
    longest = max(map(len, batch))
    lengths = torch.tensor([len(prompt) for prompt in batch], device=device)
    padded = [[*prompt, *[0] * (longest - len(prompt))] for prompt in batch]
    mask = torch.arange(longest, device=device) < lengths[:, None]
    logits = model(torch.tensor(padded, device=device), attention_mask=mask)
    last: Tensor = logits[torch.arange(len(batch), device=device), lengths - 1]
    return last
