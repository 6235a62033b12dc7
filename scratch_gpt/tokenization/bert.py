"""The splitting of Hugging Face's `OpenAIGPTTokenizer`: BERT's, in lower case.

It is not what the model was trained with; `scratch_gpt.tokenizer_original` is.
"""

import re

from scratch_gpt.tokenization.bert_normalizer import normalized
from scratch_gpt.tokenization.canonical_decomposition import is_order_free
from scratch_gpt.tokenization.character_classes import character_classes
from scratch_gpt.tokenization.words import Word


class _Translation(dict[int, str]):
    """What each character becomes, worked out when it is first met; spaces part the words."""

    def __missing__(self, code: int) -> str:
        made, _ = normalized(chr(code))
        self[code] = _apart(made)
        return self[code]


class BertSplitting:
    """Lower-case words without accents; every punctuation mark and ideograph is a word.

    Source: transformers 5.3 and later, `OpenAIGPTTokenizer`: the tokenizers library's
    `BertNormalizer(lowercase=True)` and `BertPreTokenizer()`.
    """

    keeps_unknown = True

    def __init__(self) -> None:
        self._translation = _Translation()

    def words(self, text: str) -> list[str]:
        """Return the words of a text without surrogates, in order."""
        if is_order_free(text):
            return _words(text.translate(self._translation))
        # No mark trades places across a space: only what stands with a movable one goes slowly.
        return [word for chunk in text.split(" ") for word in self._chunk(chunk)]

    def _chunk(self, chunk: str) -> list[str]:
        return self.words(chunk) if is_order_free(chunk) else _words(_apart(normalized(chunk)[0]))

    def located(self, text: str) -> list[Word]:
        """Return the words, and which character of the text each of theirs was."""
        if is_order_free(text):
            pieces = [self._translation[ord(character)] for character in text]
            places = [place for place, piece in enumerate(pieces) for _ in piece]
        else:
            made, origins = normalized(text)
            pieces = [_apart(character) for character in made]
            places = [place for place, piece in zip(origins, pieces, strict=True) for _ in piece]
        return [_word(found, places) for found in _WORD.finditer("".join(pieces))]


def _words(apart: str) -> list[str]:
    """Return what stands between spaces, which are the only white space that is left."""
    return [word for word in apart.split(" ") if word]


_WORD = re.compile("[^ ]+")


def _word(found: re.Match[str], places: list[int]) -> Word:
    """Return a word of a text whose characters come from these places."""
    starts = places[found.start() : found.end()]
    return Word(found[0], starts, [start + 1 for start in starts])


def _apart(text: str) -> str:
    """Return a normalized text with space around every punctuation mark.

    Source: the tokenizers library, `BertPreTokenizer`: split at white space, then at punctuation.
    """
    punctuation = character_classes().punctuation
    return "".join(f" {mark} " if ord(mark) in punctuation else mark for mark in text)
