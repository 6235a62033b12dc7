"""Byte-pair encoding of one word: its characters, merged pair by pair."""

import functools
import heapq
import itertools
from collections.abc import Mapping, Sequence

END = "</w>"
"""The mark of the last character of a word, and of every token that ends one."""

_NONE = -1
"""Not an id: the mark of a piece that was merged into the one before it."""

_LONG = 64
"""Characters up to which cutting a word costs more than it saves."""


class BytePairs:
    """Merges the characters of a word, always the pair that was learned first.

    A heap holds the pairs that can be merged, so a word of n characters takes O(n log n) steps.
    Of equal pairs the leftmost goes first. A character without a token is the unknown token.
    A long word is cut first between characters that are neighbors in no token: no merge crosses
    such a place, and short parts stay in the processor's cache.

    Merges come in the order in which they were learned; both parts and their product are tokens.

    Source: Sennrich, Haddow and Birch 2016, algorithm 1; GPT-1's `text_utils.py`, `bpe`.
    """

    def __init__(
        self, ids: Mapping[str, int], merges: Sequence[tuple[str, str]], *, unknown: int
    ) -> None:
        self._unknown = unknown
        self._inside = ids
        self._last = {token[: -len(END)]: ids[token] for token in ids if token.endswith(END)}
        self._ranks = {(ids[one], ids[two]): rank for rank, (one, two) in enumerate(merges)}
        self._products = [ids[one + two] for one, two in merges]
        self._merges_unknown = any(unknown in pair for pair in self._ranks)

    def merged(self, word: str) -> list[int]:
        """Return the ids of a word's tokens; the word has at least one character."""
        pieces = [self._inside.get(character, self._unknown) for character in word[:-1]]
        pieces.append(self._last.get(word[-1], self._unknown))
        if len(word) <= _LONG or self._merges_unknown:  # then any neighbors may be merged
            return self._merged(pieces)
        cuts = [at for at in range(1, len(word)) if word[at - 1 : at + 1] not in self._neighbors]
        parts = itertools.pairwise([0, *cuts, len(word)])
        return [piece for start, end in parts for piece in self._merged(pieces[start:end])]

    @functools.cached_property
    def _neighbors(self) -> set[str]:
        """All pairs of neighbors in the tokens, with `</w>` as four characters."""
        return {token[at : at + 2] for token in self._inside for at in range(len(token) - 1)}

    def _merged(self, pieces: list[int]) -> list[int]:
        """Return the merged pieces; the list is changed.

        A pair's product replaces its first piece, `_NONE` its second. The heap holds a pair as one
        number: rank times length plus position. When it is popped, its parts may have been merged
        with others; then another pair is at that position, or none. The `_NONE` at the end also
        serves as the neighbor before the first piece, at -1.
        """
        if len(pieces) == 1:
            return pieces
        pieces.append(_NONE)
        length = len(pieces)
        ranks, products = self._ranks, self._products
        following, preceding = list(range(1, length + 1)), list(range(-1, length))
        pairs = enumerate(itertools.pairwise(pieces))
        waiting = [ranks[pair] * length + place for place, pair in pairs if pair in ranks]
        heapq.heapify(waiting)
        while waiting:
            rank, place = divmod(heapq.heappop(waiting), length)
            second, product = following[place], products[rank]
            if ranks.get((pieces[place], pieces[second])) != rank:
                continue
            pieces[place], pieces[second] = product, _NONE
            before, after = preceding[place], following[second]
            following[place], preceding[after] = after, place
            for where, pair in (
                (before, (pieces[before], product)),
                (place, (product, pieces[after])),
            ):
                if pair in ranks:
                    heapq.heappush(waiting, ranks[pair] * length + where)
        return [piece for piece in pieces if piece != _NONE]
