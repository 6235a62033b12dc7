"""All rules at once, as Hugging Face's own `generate` applies them: in its order, to its logits."""

from collections.abc import Iterator

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.generation.faults import planted
from parity.generation.measures import noise_of, quality_row
from parity.generation.rules import TOGETHER, expected, support_row
from parity.results import Row
from parity.tolerances import PRECISIONS, Bounds
from reference import huggingface_generation
from scratch_gpt.sampling import Rules

STEPS = 3


def order_rows(
    reference: OpenAIGPTLMHeadModel, prompt: Tensor, bounds: Bounds, plant: str | None
) -> Iterator[Row]:
    """Yield two rows: the tokens left by all rules, and their logits, float32 as `generate` has it.

    Args:
        reference: Hugging Face's model.
        prompt: `[1 time]`; it is drawn a few tokens further.
        bounds: Of the run.
        plant: A fault for our functions, or None.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = huggingface_generation.continued(
            reference, prompt, max_new_tokens=STEPS, sampled=True, rules=TOGETHER
        )
    rules = Rules(sampled=True, **TOGETHER)
    texts = [made.token_ids[:, : prompt.shape[1] + step] for step in range(STEPS)]
    steps = list(zip(made.logits, texts, strict=True))
    with planted(plant):
        ours = torch.cat([rules.processed(logits, text) for logits, text in steps])
    truth = torch.cat([expected(TOGETHER, logits.double(), text) for logits, text in steps])
    theirs = made.processed[:, 0]
    yield _left(ours, theirs, truth)
    left = torch.isfinite(ours) & torch.isfinite(theirs) & torch.isfinite(truth)
    mine, its, right = (x[left][None] for x in (ours, theirs, truth))
    precision = PRECISIONS["float32"]
    yield quality_row("rules.order", mine, right, noise_of(its, right), precision, bounds)


def _left(ours: Tensor, theirs: Tensor, truth: Tensor) -> Row:
    """Return the row of the tokens left.

    Where Hugging Face's sums, which are float32, cross `top_p` a token too early or too late, its
    processors in float64 say who is right.
    """
    mine, its, right = (torch.isfinite(x) for x in (ours, theirs, truth))
    rounded = torch.equal(mine, right) and not torch.equal(mine, its)
    excused = "Hugging Face's float32 sums cross top_p at another token" if rounded else ""
    return support_row("rules.order", mine, its, dtype="float32", excused=excused)
