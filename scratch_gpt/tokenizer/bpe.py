"""Byte-pair encoding of one word: its characters, merged pair by pair."""

import functools
import heapq
import itertools
from collections.abc import Container, Mapping, Sequence

END = "</w>"
"""What marks the last character of a word, and every token that ends one."""


_NONE = -1
"""No token's id: what stands where a piece was merged into the one before it."""


_LONG = 64
"""Characters up to which looking for places to cut would cost more than it saves."""


class _Everything:
    """Holds whatever one asks for."""

    def __contains__(self, _item: object) -> bool:
        return True


class BytePairs:
    """Merges the characters of a word, the pair that was learned first before all others.

    A heap holds the pairs that can be merged, so a word of n characters takes O(n log n) steps.
    Among equal pairs the leftmost goes first. A character without a token is the unknown token.
    A long word is cut first where two characters meet that stand side by side in no token: nothing
    is ever merged across, and short parts stay in the processor's cache.

    Args:
        ids: The id of every token.
        merges: The pairs in the order in which they were learned; both parts and what they make
            together are tokens.
        unknown: The id of the unknown token.

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

    def merged(self, word: str) -> list[int]:
        """Return the ids of a word's tokens; the word has at least one character."""
        pieces = [self._inside.get(character, self._unknown) for character in word[:-1]]
        pieces.append(self._last.get(word[-1], self._unknown))
        if len(word) <= _LONG:
            return self._merged(pieces)
        cuts = [at for at in range(1, len(word)) if word[at - 1 : at + 1] not in self._neighbours]
        parts = itertools.pairwise([0, *cuts, len(word)])
        return [piece for start, end in parts for piece in self._merged(pieces[start:end])]

    @functools.cached_property
    def _neighbours(self) -> Container[str]:
        """Every two characters that stand side by side in a token, its `</w>` as written."""
        if any(self._unknown in pair for pair in self._ranks):  # then anything may be merged
            return _Everything()
        return {token[at : at + 2] for token in self._inside for at in range(len(token) - 1)}

    def _merged(self, pieces: list[int]) -> list[int]:
        """Return what remains of some pieces, which are used up."""
        if len(pieces) == 1:
            return pieces
        pieces.append(_NONE)
        self._merge(pieces)
        return [piece for piece in pieces if piece != _NONE]

    def _merge(self, pieces: list[int]) -> None:
        """Merge in place: a pair's product stands where the pair began, `_NONE` after it.

        A pair waits in the heap as one number, rank times length plus place. When it is taken
        out, its parts may have been merged with others: then another pair stands there, or none.
        The `_NONE` at the end is also what stands before the beginning, at -1.
        """
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
