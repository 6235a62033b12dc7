"""Tokens as text while they come: what is sure is given out, and a stop string ends it exactly."""

from collections.abc import Callable, Sequence

from scratch_gpt.generation.refusal import SettingError

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
