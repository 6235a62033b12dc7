"""Text that the model writes while it learns, always from the same beginning."""

import torch

from scratch_gpt.model import GPT
from scratch_gpt.tokenizer import Tokenizer
from scratch_gpt.training.determinism import any_order
from scratch_gpt.training.evaluation import evaluating
from scratch_gpt.training.recipe import Recipe


def sample(model: GPT, tokenizer: Tokenizer, prompt: list[int], recipe: Recipe) -> str:
    """Return the prompt and what the model goes on with, drawn with the recipe's seed.

    Args:
        model: Any mode; it leaves as it came.
        tokenizer: The run's.
        prompt: Token ids, at least one.
        recipe: Says how many tokens.
    """
    start = prompt[: max(1, model.config.n_positions - recipe.sample_tokens)]
    room = min(recipe.sample_tokens, model.config.n_positions - len(start))
    token_ids = torch.tensor([start], device=model.tokens_embed.weight.device)
    with evaluating(model), any_order():
        ids = model.generate(
            token_ids, max_new_tokens=room, sampled=True, top_p=0.9, seed=recipe.seed
        )
    return tokenizer.decode(ids[0].tolist())
