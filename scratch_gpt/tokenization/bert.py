"""The splitting of Hugging Face's `OpenAIGPTTokenizer`: BERT's, in lower case.

It is not what the model was trained with; `scratch_gpt.tokenizer_original` is.
"""

from collections.abc import Iterator

from scratch_gpt.tokenization.bert_normalizer import normalized
from scratch_gpt.tokenization.canonical_decomposition import is_order_free
from scratch_gpt.tokenization.character_classes import character_classes
from scratch_gpt.tokenization.words import Word


class _Translation(dict[int, str]):
    """What each character becomes, worked out when it is first met; spaces part the words."""

    def __missing__(self, code: int) -> str:
        punctuation = character_classes().punctuation
        made, _ = normalized(chr(code))
        self[code] = "".join(f" {c} " if ord(c) in punctuation else c for c in made)
        return self[code]


class BertSplitting:
    """Lower-case words without accents; every punctuation mark and ideograph is a word.

    Source: transformers 5.6 and later, `OpenAIGPTTokenizer`: the tokenizers library's
    `BertNormalizer(lowercase=True)` and `BertPreTokenizer()`.
    """

    keeps_unknown = True

    def __init__(self) -> None:
        self._translation = _Translation()

    def words(self, text: str) -> list[str]:
        """Return the words of a text without surrogates, in order."""
        if not is_order_free(text):
            return [word.text for word in self.located(text)]
        return [word for word in text.translate(self._translation).split(" ") if word]

    def located(self, text: str) -> list[Word]:
        """Return the words, and which character of the text each of theirs was."""
        made, places = normalized(text)
        return [
            Word(
                made[start:end],
                starts=places[start:end],
                ends=[place + 1 for place in places[start:end]],
            )
            for start, end in _spans(made)
        ]


def _spans(text: str) -> Iterator[tuple[int, int]]:
    """Give where each word of a normalized text begins and ends.

    Source: the tokenizers library, `BertPreTokenizer`: split at white space, then at punctuation.
    """
    punctuation = character_classes().punctuation
    start = 0
    for place, character in enumerate(text):
        alone = ord(character) in punctuation
        if alone or character == " ":
            if start < place:
                yield start, place
            if alone:
                yield place, place + 1
            start = place + 1
    if start < len(text):
        yield start, len(text)
