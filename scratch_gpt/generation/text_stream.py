"""What follows one prompt, as ids and as text, given out while it comes."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from scratch_gpt.errors import SettingError
from scratch_gpt.generation.generate import Request, generate, stream
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer.tokenizer import Tokenizer

# Tokens as text while they come: what is sure is given out, and a stop string ends it exactly.


_END = "</w>"


class Spelling:
    """Spells tokens one at a time; together the parts are what `Tokenizer.decode` gives."""

    def __init__(self, token_of: Callable[[int], str], *, after_text: bool) -> None:
        """Begin.

        Args:
            token_of: Gives the token of an id, `</w>` and all.
            after_text: Whether a text stands before, which a space divides from the first word.
        """
        self._token_of = token_of
        self._space = " " if after_text else ""

    def spelled(self, number: int) -> str:
        """Return what a token adds: a space is due only when another word follows."""
        token = self._token_of(number)
        text = self._space + token.removesuffix(_END)
        self._space = " " if token.endswith(_END) else ""
        return text


class Stops:
    """Watches a text for strings that end it, across the borders of tokens."""

    def __init__(self, strings: Sequence[str]) -> None:
        """Begin.

        Raises:
            SettingError: A string is empty, which would end every text before it began.
        """
        if not all(strings):
            raise SettingError({"stop": ""}, "any text but an empty one")
        self._strings = strings
        self._held = ""
        self.found = False

    def passed(self, text: str) -> str:
        """Return what is sure of the text so far and was not returned yet.

        What could be the beginning of a stop string is held back until more is known. The first
        stop string to begin ends the text just before it; then `found` is True and no more comes.
        """
        if self.found:
            return ""
        held = self._held + text
        begun = [place for place in map(held.find, self._strings) if place >= 0]
        if begun:
            self.found, self._held = True, ""
            return held[: min(begun)]
        kept = max((self._overlap(held, stop) for stop in self._strings), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]

    def rest(self) -> str:
        """Return what was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held

    @staticmethod
    def _overlap(text: str, stop: str) -> int:
        """Return how many last characters of the text are the stop string's first ones."""
        longest = min(len(text), len(stop) - 1)
        return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def visible(text: str) -> str:
    """Return a text without characters that a terminal would obey; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


ShowText = Callable[[str], None]


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

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], show: ShowText) -> None:
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
    show: ShowText = lambda _part: None,
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
    shown: ShowText = show if request.samples == 1 else lambda _part: None
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
