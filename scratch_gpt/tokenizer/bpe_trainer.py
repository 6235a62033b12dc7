"""Train byte-pair encoding: merge the most frequent pair of neighbors, again and again."""

import heapq
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping

from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.vocabulary import Vocabulary

Pair = tuple[str, str]

_FEWEST = 2
"""How often a pair must occur to be merged: one that occurs once shortens one word of one text."""


def train_merges(
    words: Mapping[str, int], *, merges: int, progress: Callable[[int], None] = lambda _: None
) -> Vocabulary:
    """Return the vocabulary of words, in the release's order of ids.

    Id 0 is `<unk>`. Then come the characters by falling frequency, the same characters as last
    characters of a word, and the product of each merge. Of equally frequent pairs the first in the
    order of code points is merged. The order of the words, given with their counts, has no effect.
    There are fewer merges if no pair occurs twice any more. `progress` is called with their number
    so far, after each.

    Source: Sennrich, Haddow and Birch 2016, algorithm 1.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    alphabet = sorted(counts, key=lambda character: (-counts[character], character))
    pairs = _Pairs(words)
    chosen: dict[Pair, None] = {}  # a merge that makes a token again can bring an old pair back
    while len(chosen) < merges and (best := pairs.most_frequent()):
        pairs.merge(best)
        chosen[best] = None
        progress(len(chosen))
    ends = [character + END for character in alphabet]
    products = [one + two for one, two in chosen]
    tokens = dict.fromkeys([UNKNOWN, *alphabet, *ends, *products])
    return Vocabulary(tuple(tokens), tuple(chosen))


class _Pairs:
    """The pairs of neighbors, with their counts and their words.

    The heap holds each pair with an earlier count. A popped pair whose count has changed is pushed
    again with the new one. A count that grows is pushed at once.
    """

    def __init__(self, words: Mapping[str, int]) -> None:
        self._words: list[list[str]] = []
        self._times: list[int] = []
        self._counts: Counter[Pair] = Counter()
        self._places: defaultdict[Pair, set[int]] = defaultdict(set)
        for word, times in words.items():
            # A merge is written as two words in a line, so words with white space are not merged,
            # nor are those that would make the unknown token.
            if len(word) > 1 and word.split() == [word] and UNKNOWN not in word:
                self._words.append([*word[:-1], word[-1] + END])
                self._times.append(times)
                self._count(len(self._words) - 1, times)
        self._heap = [(-count, pair) for pair, count in self._counts.items()]
        heapq.heapify(self._heap)

    def most_frequent(self) -> Pair | None:
        """Return the next pair to merge, None if none occurs often enough."""
        while self._heap:
            count, pair = heapq.heappop(self._heap)
            if -count == self._counts[pair]:
                return pair if -count >= _FEWEST else None
            if self._counts[pair]:
                heapq.heappush(self._heap, (-self._counts[pair], pair))
        return None

    def merge(self, pair: Pair) -> None:
        """Merge the pair wherever it occurs, from left to right."""
        product = pair[0] + pair[1]
        grown: set[Pair] = set()
        for place in self._places.pop(pair):
            self._count(place, -self._times[place])
            self._words[place] = _merged(self._words[place], pair)
            self._count(place, self._times[place])
            grown.update(p for p in itertools.pairwise(self._words[place]) if product in p)
        for new in grown:
            heapq.heappush(self._heap, (-self._counts[new], new))
        del self._counts[pair]

    def _count(self, place: int, times: int) -> None:
        """Count the pairs of one word as occurring `times` more often."""
        for pair in itertools.pairwise(self._words[place]):
            self._counts[pair] += times
            if times > 0:
                self._places[pair] |= {place}


def _merged(pieces: list[str], pair: Pair) -> list[str]:
    """Return a word's pieces after one merge."""
    merged: list[str] = []
    for piece in pieces:
        if merged and (merged[-1], piece) == pair:
            merged[-1] += piece
        else:
            merged.append(piece)
    return merged
