"""The splitting that the released model was trained with: ftfy, the release's repairs, spaCy.

The code is the release's way with today's packages. OpenAI ran spaCy 2.0 in 2018, whose exceptions
for English were others in places; nobody published the ids that it gave, so "original" means the
original steps and not the original bits. Transformers 5 has no such splitting at all.

spaCy's rules for English are all that is used of it: no model is downloaded.

Source: openai/finetune-transformer-lm@a69b5c4, text_utils.py.
"""

import functools
import re
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Protocol, cast

from scratch_gpt.errors import MissingExtraError
from scratch_gpt.tokenizer.pretokenizers import Word

EXTRA = "pip install 'gpt1-parity[original-text]'"
"""What brings ftfy and spaCy."""


def _missing(package: str) -> MissingExtraError:
    return MissingExtraError(package, purpose="the pretokenizer 'original'", fix=EXTRA)


_TYPED = str.maketrans({"—": "-", "–": "-", "―": "-", "…": "...", "\u00b4": "'"})
_RUN = re.compile(r"""([-~!";?+,)(/*[\]}{|_])\1*""")
# The release lists the backslash as well, and pads none: its pattern is no raw string, so that the
# two backslashes written arrive as one, which makes a literal plus of the plus that was to repeat
# it. What touches a backslash stays one word, and the model learned it so.
_BLANK = re.compile(r"\s+")


def standardize(text: str) -> str:
    r"""Return the text as spaCy is given it: repaired, marks padded, spaces single.

    `don\u2019t\t(yet)` becomes `don't (yet)`, with spaces around both brackets. What breaks lines
    becomes a newline with a space on either side, however many of them there were.

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
    """What is used of spaCy's tokens.

    Attributes:
        text: Its characters.
        idx: Where in the text the first of them is.
    """

    text: str
    idx: int


Rules = Callable[[str], Iterable[_Piece]]
"""spaCy's tokenizer, as far as it is used here."""


@functools.cache
def _rules() -> Rules:
    """Return spaCy's rules for English, made once: it takes seconds."""
    try:
        from spacy.lang.en import English  # type: ignore[import-not-found, unused-ignore]
    except ModuleNotFoundError as error:
        raise _missing("spacy") from error
    return cast("Rules", English().tokenizer)


class OriginalPretokenizer:
    """Words as spaCy parts them after `standardized`, in lower case; a newline is a word.

    Places of characters are places in `standardized(text)`: ftfy joins, drops and turns letters
    and tells nobody which.

    Raises:
        MissingExtraError: ftfy or spaCy is not installed.
    """

    keeps_unknown = False

    def __init__(self) -> None:
        standardize("")
        self._split = _rules()

    def standardized(self, text: str) -> str:
        """Return the text that the places of `located` are places in."""
        return standardize(text)

    def words(self, text: str) -> list[str]:
        """Return the words of a text without surrogates, in order."""
        return [_word(piece.text) for piece in self._split(self.standardized(text))]

    def located(self, text: str) -> list[Word]:
        """Return the words, and where in the standardized text each of their characters is."""
        return [_placed(piece.text, piece.idx) for piece in self._split(self.standardized(text))]


def _word(piece: str) -> str:
    """Return spaCy's piece as the release merges it.

    Between two lines spaCy gives a newline with the space that follows it. The release takes the
    space off when it is too late to merge anything, which comes to the same.
    """
    return "\n" if piece == "\n " else piece.lower()


def _placed(piece: str, start: int) -> Word:
    """Return a piece's word and the place of each character; a lower-case one may be two."""
    word = _word(piece)
    sources = chain.from_iterable([at] * len(c.lower()) for at, c in enumerate(piece, start))
    starts = list(sources)[: len(word)]
    return Word(word, starts, [at + 1 for at in starts])
