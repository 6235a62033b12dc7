"""Greedy choice, sampling and beam search in NumPy, from scores to tokens.

It imports numpy alone and shares no code with the generator. It is slow: one prompt at a time,
each text computed again for every token, each array sorted in full.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scores = Callable[[Sequence[Sequence[int]]], Array]
"""Maps texts of one length, prompt included, to log-probabilities `[texts vocab]` of the next
token; `-inf` where a token is excluded."""


def likeliest(scores: Array) -> int:
    """Return the token of the largest score `[vocab]`, the lowest of equal ones."""
    return int(np.flatnonzero(scores == scores.max())[0])


def uniform(seed: int, row: int, count: int) -> Array:
    """Return the first `count` numbers in [0, 1) of a row's stream.

    Source: NumPy's `Philox` with the key (seed, row); the upper 53 bits of each word.
    """
    words = np.random.Philox(key=np.array([seed, row], dtype=np.uint64)).random_raw(count)
    return np.ldexp((words >> np.uint64(64 - 53)).astype(np.float64), -53)


def draw(scores: Array, number: float) -> int:
    """Return the token at which the summed probabilities of `scores` `[vocab]` pass a number."""
    odds = np.exp(scores - scores.max())
    return int(np.searchsorted(np.cumsum(odds), number * odds.sum(), side="right"))


class Text(NamedTuple):
    """New tokens and their score."""

    score: float
    tokens: tuple[int, ...]


@dataclasses.dataclass(kw_only=True)
class Search:
    """A beam search of one prompt.

    With `early_stopping` it stops at `beams` finished texts. Without it, it stops when the best
    running text, at its length, is no better than the worst of them; with `"never"`, at its best
    possible length.
    """

    beams: int  # running texts
    new: int  # the maximum of new tokens
    length_penalty: float = 1.0  # a score is divided by the length to this power
    early_stopping: bool | Literal["never"] = False
    end_id: int | None = None
    closest: float = math.inf
    """After a search, the smallest relative difference of neighbouring scores in any ranking."""

    def best(self, scores: Scores, prompt: Sequence[int]) -> list[Text]:
        """Return the `beams` best finished texts, best first.

        Source: transformers 4.57 `GenerationMixin._beam_search`, re-implemented from its behaviour.
        """
        running, finished = [Text(0.0, ())], list[Text]()
        for length in range(1, self.new + 1):
            ranked = self._ranked(running, scores([[*prompt, *text.tokens] for text in running]))
            ended = [text for text in ranked[: self.beams] if self._ends(text)]
            finished = self._sorted([*finished, *map(self._by_length, ended)])[: self.beams]
            running = [text for text in ranked if not self._ends(text)][: self.beams]
            if not running or self._is_done(running[0], finished, length):
                break
        return finished

    def _ranked(self, running: Sequence[Text], scores: Array) -> list[Text]:
        """Return the best continuations, twice as many as beams."""
        sums = scores + np.array([[text.score] for text in running])
        order = np.argsort(-sums, axis=None, kind="stable")[: 2 * self.beams + 1]
        rows, tokens = np.unravel_index(order, sums.shape)
        texts = [
            Text(float(sums[row, token]), (*running[row].tokens, int(token)))
            for row, token in zip(rows, tokens, strict=True)
            if sums[row, token] > -math.inf
        ]
        self._look_at(texts)  # the first text left out is included: it might have been in
        return texts[: 2 * self.beams]

    def _sorted(self, texts: list[Text]) -> list[Text]:
        """Return finished texts, best first."""
        ranked = sorted(texts, key=lambda text: -text.score)
        self._look_at(ranked)
        return ranked

    def _look_at(self, ranked: Sequence[Text]) -> None:
        """Record the smallest difference of a ranking."""
        for better, worse in itertools.pairwise(ranked):
            size = max(abs(worse.score), np.finfo(np.float64).tiny)
            self.closest = min(self.closest, (better.score - worse.score) / size)

    def _ends(self, text: Text) -> bool:
        return len(text.tokens) == self.new or text.tokens[-1] == self.end_id

    def _by_length(self, text: Text) -> Text:
        return text._replace(score=text.score / len(text.tokens) ** self.length_penalty)

    def _is_done(self, best: Text, finished: Sequence[Text], length: int) -> bool:
        """Return whether no running text can still be among the finished ones."""
        if len(finished) < self.beams:
            return False
        if self.early_stopping is True:
            return True
        grows = self.early_stopping == "never" and self.length_penalty > 0.0
        reached = self.new if grows else length
        hoped: Any = best.score / reached**self.length_penalty
        return bool(hoped <= finished[-1].score)
