"""What a rule of generation does to logits: five functions, each the formula of one rule.

They mean what they mean in transformers. `scratch_gpt.sampling` says which apply, and in which
order.
"""

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor


def penalised(
    logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"], penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Return logits in which every token of the text so far, the prompt's too, is less likely.

    A logit above 0 is divided by the penalty and one below multiplied, once, however often the
    token stands there. A penalty below 1 makes repetition more likely.

    Source: Keskar et al. 2019, CTRL, section 4.1; the sign is transformers'.
    """
    seen = logits.gather(-1, token_ids)
    return logits.scatter(-1, token_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def without_repeats(
    logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"], size: int
) -> Float[Tensor, "batch vocab"]:
    """Return logits of -inf for tokens that would complete an n-gram that the text has already.

    Args:
        logits: `[batch vocab]`.
        token_ids: `[batch time]`, prompt and continuation.
        size: Tokens of an n-gram; 1 forbids every token of the text.

    Source: Paulus et al. 2017, section 2.5.
    """
    time = token_ids.shape[1]
    if time < size:
        return logits
    windows = token_ids.unfold(1, size, 1)  # [batch window size]
    ending = token_ids[:, None, time - size + 1 :]
    matches = (windows[..., :-1] == ending).all(-1)
    # Two windows may end in one token: a sum, and not the last one written, says whether any fits.
    hits = logits.new_zeros(logits.shape).scatter_add_(-1, windows[..., -1], matches.to(logits))
    return logits.masked_fill(hits > 0, -math.inf)


def tempered(
    logits: Float[Tensor, "batch vocab"], temperature: float
) -> Float[Tensor, "batch vocab"]:
    """Return `logits / temperature`: below 1 the likely grow likelier, above 1 the unlikely."""
    return logits / temperature


def only_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Return -inf for all but the `k` largest logits, and all that equal the smallest of these.

    Source: Fan et al. 2018, section 5.1; keeping ties is transformers'.
    """
    smallest = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def only_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Return -inf for all but the fewest likely tokens that together have the probability `p`.

    The token that crosses `p` is kept, and so is the likeliest at any `p`. Of equal logits the
    lower ids go first. Probabilities are summed in float64, from the least likely up.

    Source: Holtzman et al. 2019, section 3.1; from the least likely up is transformers'.
    """
    ascending, ids = logits.to(torch.float64).sort(dim=-1, stable=True)
    likelihoods = torch.exp(ascending - ascending[:, -1:])
    below = likelihoods.cumsum(-1)
    removed = below <= (1.0 - p) * below[:, -1:]
    removed[:, -1] = False
    return logits.masked_fill(
        removed.new_zeros(removed.shape).scatter_(-1, ids, removed), -math.inf
    )
