"""The continuation of a prompt as ids and as text, streamed, and ended by stop strings."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from scratch_gpt.errors import InputRejectedError, SettingError
from scratch_gpt.generation.generate import Request, generate, stream
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer.tokenizer import Tokenizer

_WORD_END = "</w>"

ShowText = Callable[[str], None]
"""Called with each new part of a text."""


class NewText(NamedTuple):
    """The continuation of one prompt."""

    ids: list[int]
    """The new tokens, with those that contain the stop string."""
    text: str
    """Their text, up to the stop string."""
    ended: str
    """What ended it: `"stop"` (a stop string), `"end_id"`, `"max_new_tokens"` or `"positions"`
    (all positions of the model are used)."""


def new_texts(  # noqa: PLR0913 - model, tokenizer, prompt and settings
    model: GPT,
    tokenizer: Tokenizer,
    ids: list[int],
    request: Request,
    *,
    stop: Sequence[str] = (),
    show: ShowText = lambda _part: None,
) -> list[NewText]:
    """Return the continuations of a prompt of at least one token, one for each sample.

    A string in `stop` ends a text just before itself. With one sample `show` is called with each
    part of the text as soon as it is final.

    Raises:
        ValueError: As in `generate`, or a stop string is empty.
        InputRejectedError: The model chose an id without a token.
    """
    shown: ShowText = show if request.samples == 1 else lambda _part: None
    texts = [_Text(tokenizer, stop, shown) for _ in range(request.samples)]
    prompt = torch.tensor([ids], device=model.tokens_embed.weight.device)
    if request.beams > 1:
        columns = iter(generate(model, prompt, request)[:, len(ids) :].T)
    else:
        columns = stream(model, prompt, request)
    for column in columns:
        running = [text.append(token) for text, token in zip(texts, column.tolist(), strict=True)]
        if not any(running):
            break
    return [text.finish(request) for text in texts]


class _Text:
    """A text that takes tokens until a stop string ends it."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], show: ShowText) -> None:
        self._spelling = Spelling(lambda token: _token_of(token, tokenizer), after_text=True)
        self._stops, self._show = Stops(stop), show
        self._ids: list[int] = []
        self._parts: list[str] = []

    def append(self, token: int) -> bool:
        """Add a token; return whether the text continues."""
        if not self._stops.found:
            self._ids.append(token)
            self._emit(self._stops.passed(self._spelling.spelled(token)))
        return not self._stops.found

    def _emit(self, part: str) -> None:
        if part:
            self._parts.append(part)
            self._show(part)

    def finish(self, request: Request) -> NewText:
        """Show the text that was held back; return the result."""
        self._emit(self._stops.rest())
        reasons = {
            "stop": self._stops.found,
            "end_id": request.end_id in self._ids,
            "max_new_tokens": len(self._ids) == request.max_new_tokens,
        }
        ended = next((reason for reason, holds in reasons.items() if holds), "positions")
        return NewText(self._ids, "".join(self._parts), ended)


def _token_of(number: int, tokenizer: Tokenizer) -> str:
    """Return the token of an id that the model chose; the vocabulary may have fewer tokens."""
    if number >= tokenizer.vocab_size:
        raise InputRejectedError(
            f"the model chose the id {number}, which is no token: the vocabulary has "
            f"{tokenizer.vocab_size} tokens",
            where="the vocabulary",
            fix="name the vocabulary of these weights with --vocabulary, or use another --seed",
        )
    return tokenizer.tokens([number])[0]


class Spelling:
    """Converts tokens to text one at a time; joined, the parts equal `Tokenizer.decode`."""

    def __init__(self, token_of: Callable[[int], str], *, after_text: bool) -> None:
        """Start a text; after other text a space comes before the first word.

        `token_of` returns the token of an id, with `</w>` at a word's end.
        """
        self._token_of = token_of
        self._space = " " if after_text else ""

    def spelled(self, token_id: int) -> str:
        """Return the text that a token adds; a space is added only before the next word."""
        token = self._token_of(token_id)
        text = self._space + token.removesuffix(_WORD_END)
        self._space = " " if token.endswith(_WORD_END) else ""
        return text


class Stops:
    """Finds the first of several stop strings in a text that arrives in parts."""

    def __init__(self, strings: Sequence[str]) -> None:
        """Start a text; raise a `SettingError` for an empty string, which would end every text."""
        if not all(strings):
            raise SettingError({"stop": ""}, "any text but an empty one")
        self._strings = strings
        self._held = ""
        self.found = False

    def passed(self, text: str) -> str:
        """Return the text that is final and was not returned before.

        Text that may be the beginning of a stop string is held back. The stop string that begins
        first ends the text just before itself: `found` becomes True and no more text is returned.
        """
        if self.found:
            return ""
        held = self._held + text
        starts = [start for start in map(held.find, self._strings) if start >= 0]
        if starts:
            self.found, self._held = True, ""
            return held[: min(starts)]
        longest = len(held) + 1  # of a long stop string, most beginnings are longer than the text
        beginnings = (s[:n] for s in self._strings for n in range(1, min(len(s), longest)))
        kept = max((len(part) for part in beginnings if held.endswith(part)), default=0)
        self._held = held[len(held) - kept :]
        return held[: len(held) - kept]

    def rest(self) -> str:
        """Return the text that was held back, once no more text comes."""
        held, self._held = self._held, ""
        return held


def visible(text: str) -> str:
    """Return the text with terminal control characters replaced; line ends stay."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
