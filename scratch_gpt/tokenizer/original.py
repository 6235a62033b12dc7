"""The pretokenizer that the released model was trained with: ftfy, the release's repairs, spaCy.

The steps are the release's, with today's packages. OpenAI ran spaCy 2.0 in 2018, which had some
other exceptions for English, and its ids were never published. So "original" means the original
steps, not the original ids. Transformers 5 has no such pretokenizer.

Only spaCy's rules for English are used: no model is downloaded.

Source: openai/finetune-transformer-lm@a69b5c4, text_utils.py.
"""

import functools
import re
from collections.abc import Callable, Iterable
from typing import Protocol, cast

from scratch_gpt.errors import MissingExtraError
from scratch_gpt.tokenizer.pretokenizers import Word

EXTRA = "pip install 'gpt1-parity[original-text]'"
"""Installs ftfy and spaCy."""


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(package, purpose="the pretokenizer 'original'", fix=EXTRA)


_TYPED = str.maketrans({"—": "-", "–": "-", "―": "-", "…": "...", "\u00b4": "'"})
_RUN = re.compile(r"""([-~!";?+,)(/*[\]}{|_])\1*""")
# The release also lists the backslash, but does not pad it. Its pattern is not a raw string: two
# backslashes become one, which makes the plus after it a literal plus. So a word with a backslash
# stays one word, and the model was trained that way.
_BLANK = re.compile(r"\s+")


def standardize(text: str) -> str:
    r"""Return the input of spaCy: the text repaired, marks padded, spaces single.

    `don\u2019t\t(yet)` becomes `don't (yet)`, with spaces around both brackets. White space with a
    newline in it becomes one newline with a space on either side.

    Raises:
        MissingExtraError: ftfy is not installed.
    """
    try:
        from ftfy import fix_text  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise _missing("ftfy") from error
    padded = re.sub(_RUN, r" \g<0> ", fix_text(text).translate(_TYPED))
    return re.sub(_BLANK, lambda blank: " \n " if "\n" in blank[0] else " ", padded).strip()


class _Piece(Protocol):
    """The part of spaCy's tokens that is used: the characters, and the first one's position."""

    text: str
    idx: int


Rules = Callable[[str], Iterable[_Piece]]
"""The type of spaCy's tokenizer."""


@functools.cache
def _rules() -> Rules:
    """Return spaCy's rules for English; making them takes seconds."""
    try:
        from spacy.lang.en import English  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise _missing("spacy") from error
    return cast("Rules", English().tokenizer)


class OriginalPretokenizer:
    """Words as spaCy separates them in `standardized(text)`, in lower case; a newline is a word.

    Positions refer to `standardized(text)`: ftfy does not report which letters it joins, drops and
    replaces.

    Raises:
        MissingExtraError: ftfy or spaCy is not installed.
    """

    keeps_unknown = False

    def __init__(self) -> None:
        standardize("")
        self._split = _rules()

    def standardized(self, text: str) -> str:
        """Return the text to which the positions of `located` refer."""
        return standardize(text)

    def words(self, text: str) -> list[str]:
        """Return the words of a text without surrogates, in order."""
        return [_word(piece.text) for piece in self._split(self.standardized(text))]

    def located(self, text: str) -> list[Word]:
        """Return the words, with each character's position in the standardized text."""
        return [_placed(piece.text, piece.idx) for piece in self._split(self.standardized(text))]


def _word(piece: str) -> str:
    """Return spaCy's piece as a word.

    Between two lines spaCy gives a newline with the space after it. The release strips the space
    after merging, with the same result.
    """
    return "\n" if piece == "\n " else piece.lower()


def _placed(piece: str, start: int) -> Word:
    """Return a piece's word and each character's position; lower case may make two of one."""
    word = _word(piece)
    starts = [at for at, c in enumerate(piece, start) for _ in c.lower()][: len(word)]
    return Word(word, starts, [at + 1 for at in starts])
