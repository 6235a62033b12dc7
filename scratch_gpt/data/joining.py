"""The tokens of a whole from those of its pieces."""

from scratch_gpt.tokenization.words import UNKNOWN
from scratch_gpt.tokenizer import Tokenizer

_WORD = "a"


class Joining:
    """Gives the tokens of piece after piece, with those of the line breaks between them.

    Where text is split as the released model had it, a line break between words is a token; at
    the end of a text it is none. Hugging Face's splitting has no token for it anywhere. What it
    costs is asked of the tokenizer: what stands between two words that a line break parts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._unknown = tokenizer.vocabulary.ids[UNKNOWN]
        word = tokenizer.encode(_WORD)
        both = tokenizer.encode(f"{_WORD}\n{_WORD}")
        self._line_break = both[len(word) : len(both) - len(word)]

    def ids(self, text: str, *, on_new_line: bool) -> list[int]:
        """Return the tokens of a piece; none where it holds nothing but white space.

        Args:
            text: The piece.
            on_new_line: Whether a line break parts it from tokens before it.
        """
        ids = self._tokenizer.encode(text)
        return [*self._line_break, *ids] if ids and on_new_line else ids

    def unknown(self, ids: list[int]) -> int:
        """Return how many of the tokens are unknown."""
        return ids.count(self._unknown)
