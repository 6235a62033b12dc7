"""Prompts, ways of choosing, and what our decoder makes of them, step by step."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.checks.generation.rules import expected_logits
from reference import generation_oracle
from scratch_gpt.generation.beam_search import Stepping
from scratch_gpt.generation.sampling import Draws, Rules, choose

SEED = 20_180_611
"""Of what is drawn where tokens are."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way of choosing the next token.

    Attributes:
        name: Its name in a report.
        fields: The rules that are on, under transformers' names, which are ours, and in the order
            in which transformers applies them.
        sampled: Whether tokens are drawn.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampled: bool = False

    @property
    def rules(self) -> Rules:
        """The rules as ours takes them."""
        return Rules(**self.fields, sampled=self.sampled)

    def next(self, logits: Tensor, texts: Tensor, draws: Draws) -> Tensor:
        """Return the next token of each row, as ours chooses it."""
        return choose(self.rules.processed(logits, texts), self.rules, draws)


WAYS = (
    Way(name="greedy"),
    Way(name="ruled", fields={"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}),
    Way(name="sampled", fields={"temperature": 0.8, "top_k": 40, "top_p": 0.9}, sampled=True),
)
"""Every way that is compared; the last draws."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """What a decoder made of one prompt.

    Attributes:
        text: `[1 time]`, prompt and new tokens.
        known: Tokens of the prompt.
        logits: `[new vocab]`, what each new token was chosen from, before any rule.
    """

    text: Tensor
    known: int
    logits: Tensor

    @property
    def new(self) -> list[int]:
        """The new tokens."""
        ids: list[int] = self.text[0, self.known :].tolist()
        return ids


def continuation(decoder: Stepping, prompt: Tensor, way: Way, count: int) -> Continuation:
    """Return a prompt `[1 time]` with `count` new tokens."""
    draws, text = Draws(SEED, len(prompt)), prompt
    steps = [decoder.start(prompt)]
    while True:
        chosen = way.next(steps[-1], text, draws)
        text = torch.cat([text, chosen[:, None]], dim=1)
        if len(steps) == count:
            break
        steps.append(decoder.step(chosen))
    return Continuation(text=text, known=prompt.shape[1], logits=torch.cat(steps))


def rechosen(logits: Tensor, made: Continuation, way: Way) -> list[int]:
    """Return what would have been chosen at each step of a text from others' logits.

    Where that is the text itself, those others would have written it: each step's choice leads to
    the next step. Nothing of ours chooses: the rules are transformers', the rest is the oracle's.

    Args:
        logits: `[new vocab]`, of the tokens before each new one.
        made: The text.
        way: How to choose; the numbers drawn are those of the text's stream.
    """
    numbers = generation_oracle.uniform(SEED, 0, len(logits))
    chosen = []
    for step, row in enumerate(logits):
        left = expected_logits(way.fields, row[None], made.text[:, : made.known + step])[0].numpy()
        drawn = generation_oracle.draw(left, numbers[step])
        chosen.append(drawn if way.sampled else generation_oracle.likeliest(left))
    return chosen


def draw_prompts(count: int, *, longest: int, vocab_size: int, seed: int) -> list[Tensor]:
    """Return prompts `[1 time]` of lengths from 1 to `longest`, evenly spread by their logarithm.

    No two are alike: what one leaves behind in a decoder is wrong for the next.
    """
    lengths = np.geomspace(1, longest, count).round().astype(int) if count > 1 else [longest]
    generator = np.random.Generator(np.random.Philox(seed))
    return [
        torch.from_numpy(generator.integers(0, vocab_size, size=(1, length)))
        for length in map(int, lengths)
    ]


def first_difference(ours: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first step at which two continuations differ; None where they do not."""
    pairs = enumerate(zip(ours, other, strict=True))
    return next((step for step, (mine, its) in pairs if mine != its), None)


MakeDecoder = Callable[[int], Stepping]
"""Of a number of rows, our decoder for that many."""
