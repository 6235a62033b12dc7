"""A tokenizer with a wrong splitting, or wrong merging."""

from collections.abc import Callable, Iterator, Sequence

from parity.tokens.plants import Merged
from scratch_gpt.tokenization.byte_pairs import END, BytePairs
from scratch_gpt.tokenization.vocabulary import Vocabulary
from scratch_gpt.tokenization.words import UNKNOWN, Splitting, Word
from scratch_gpt.tokenizer import Tokenizer


class Planted(Tokenizer):
    """Encodes as a right tokenizer does, but for what is planted.

    Args:
        right: The right tokenizer; it stays so.
        split: Words, right or wrong.
        pairs: Makes wrong merging; None for the right one.
    """

    def __init__(
        self,
        right: Tokenizer,
        split: Splitting,
        pairs: Callable[[Vocabulary], Merged] | None,
    ) -> None:
        super().__init__(right.vocabulary, splitting=right.splitting)
        vocabulary = right.vocabulary
        self._words = split
        self._special = vocabulary.ids[UNKNOWN]
        self._merged = (
            BytePairs(vocabulary.ids, vocabulary.merges, unknown=self._special).merged
            if pairs is None
            else pairs(vocabulary)
        )

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Return the ids of a text and their places."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        start = 0
        for number, part in enumerate(text.split(UNKNOWN) if self._words.keeps_unknown else [text]):
            if number:
                ids.append(self._special)
                places.append((start - len(UNKNOWN), start))
            for word in self._words.located(part):
                pieces = self._merged(word.text)
                ids += pieces
                places += [(start + one, start + two) for one, two in self._places(pieces, word)]
            start += len(part) + len(UNKNOWN)
        return ids, places

    def _places(self, pieces: Sequence[int], word: Word) -> Iterator[tuple[int, int]]:
        """Give places as far as a word reaches: wrong tokens may spell more than there is."""
        first, last = 0, len(word.text) - 1
        for piece in pieces:
            known = piece != self._special and piece < self.vocab_size
            length = len(self.vocabulary.tokens[piece].removesuffix(END)) if known else 1
            end = min(first + length - 1, last)
            yield word.starts[min(first, last)], word.ends[end]
            first += length
