"""What is generated: prompts, and how many tokens of each."""

import dataclasses
from collections.abc import Sequence

from torch import Tensor

from parity.errors import UsageError

_FEWEST = 2
"""New tokens of which one is made from a cache."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What is generated.

    Attributes:
        prompts: `[1 time]` each, at least one.
        new: Tokens to be made of each; 2 or more, for with one no cache is ever read.
        searched: `[batch time]`, the prompts of the beam searches.
        seed: Of the logits that the rules are tried on.
        plant: A fault for our functions, a key of `GENERATION_FAULTS`, or None.
    """

    prompts: Sequence[Tensor]
    new: int
    searched: Tensor
    seed: int = 0
    plant: str | None = None


def check_room(asked: Asked, longest: int) -> None:
    """Require something to generate, and room for it.

    Args:
        asked: What is generated.
        longest: Positions that the model has.

    Raises:
        UsageError: No prompt, or too few new tokens, or more than there is room for.
    """
    room = longest - max((prompt.shape[1] for prompt in asked.prompts), default=longest)
    if not asked.prompts:
        raise UsageError("there is no prompt", where="--prompts", fix="give one or more")
    if asked.new < _FEWEST:
        raise UsageError(
            f"{asked.new} new tokens: with fewer than {_FEWEST} no cache is ever read",
            where="--max-new-tokens",
            fix=f"use {_FEWEST} or more",
        )
    if asked.new > min(room, longest - asked.searched.shape[1]):
        raise UsageError(
            f"{asked.new} new tokens go past the model's {longest} positions",
            where="--max-new-tokens with the longest prompt",
            fix=f"use at most {max(room, 0)}, or shorter prompts",
        )
