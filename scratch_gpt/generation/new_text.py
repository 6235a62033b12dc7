"""What follows one prompt, as ids and as text, given out while it comes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from scratch_gpt.generation.continuing import generate, stream
from scratch_gpt.generation.request import Request
from scratch_gpt.generation.text import Spelling, Stops
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer import Tokenizer

Show = Callable[[str], None]


class NewText(NamedTuple):
    """What one text gained.

    Attributes:
        ids: The new tokens, those that a stop string was found in included.
        text: Their text, up to the stop string.
        ended: What ended it: `"stop"`, a stop string; `"end_id"`; `"max_new_tokens"`, it has as
            many as were asked for; `"positions"`, the model has no position for another.
    """

    ids: list[int]
    text: str
    ended: str


class _Growing:
    """A text that takes tokens until a stop string ends it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], show: Show) -> None:
        self._spelling = Spelling(lambda number: tokenizer.tokens([number])[0], after_text=True)
        self._stops, self._show = Stops(stop), show
        self._ids: list[int] = []
        self._parts: list[str] = []

    def grow(self, number: int) -> bool:
        """Take a token; return whether the text goes on."""
        if not self._stops.found:
            self._ids.append(number)
            self._give(self._stops.passed(self._spelling.spelled(number)))
        return not self._stops.found

    def _give(self, part: str) -> None:
        if part:
            self._parts.append(part)
            self._show(part)

    def ended(self, request: Request) -> NewText:
        """Give out what was held back; return the text."""
        self._give(self._stops.rest())
        reasons = {
            "stop": self._stops.found,
            "end_id": request.end_id in self._ids,
            "max_new_tokens": len(self._ids) == request.max_new_tokens,
        }
        ended = next((reason for reason, holds in reasons.items() if holds), "positions")
        return NewText(self._ids, "".join(self._parts), ended)


def new_texts(  # noqa: PLR0913 - model and tokenizer, a prompt and what is asked
    model: GPT,
    tokenizer: Tokenizer,
    ids: list[int],
    request: Request,
    *,
    stop: Sequence[str] = (),
    show: Show = lambda _part: None,
) -> list[NewText]:
    """Return what follows a prompt, once for each sample.

    Args:
        model: Its vocabulary is the tokenizer's.
        tokenizer: Spells the ids.
        ids: The prompt's, at least one.
        request: How to go on.
        stop: Strings that end a text, before themselves.
        show: Is given the parts of a single sample's text as they are sure; of several samples
            nothing is shown.

    Raises:
        ValueError: As `continuing.generate`, or an empty stop string.
    """
    shown: Show = show if request.samples == 1 else lambda _part: None
    growing = [_Growing(tokenizer, stop, shown) for _ in range(request.samples)]
    prompt = torch.tensor([ids], device=model.tokens_embed.weight.device)
    if request.beams > 1:
        columns = iter(generate(model, prompt, request)[:, len(ids) :].T)
    else:
        columns = stream(model, prompt, request)
    for column in columns:
        going = [text.grow(number) for text, number in zip(growing, column.tolist(), strict=True)]
        if not any(going):
            break
    return [text.ended(request) for text in growing]
