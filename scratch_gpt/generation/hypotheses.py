"""The texts of one prompt in a beam search: which go on, which are finished, and when to stop."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from scratch_gpt.generation.refusal import NoChoiceError, SettingError


class Candidate(NamedTuple):
    """A continuation by one token.

    Attributes:
        score: Log-probability of all new tokens.
        beam: Number of the running text that it continues.
        token: The token.
    """

    score: float
    beam: int
    token: int


class Hypothesis(NamedTuple):
    """A finished text.

    Attributes:
        score: Log-probability of its new tokens over their number to the power of the penalty.
        token_ids: Its new tokens, the one that ended it included.
    """

    score: float
    token_ids: list[int]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What `scratch_gpt.generation.beam.beam_search` takes, where each is described.

    Raises:
        ValueError: A setting that cannot be; its name, the value and what is allowed are said.
    """

    beams: int
    max_new_tokens: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    end_id: int | None = None
    returned: int = 1

    def __post_init__(self) -> None:
        allowed = {
            "beams": (self.beams >= 1, "1 or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "length_penalty": (
                abs(self.length_penalty) * math.log(max(1, self.max_new_tokens)) <= _LARGEST_LOG,
                f"a number to which powers of {self.max_new_tokens} are numbers above 0",
            ),
            "early_stopping": (
                isinstance(self.early_stopping, bool) or self.early_stopping == "never",
                "True, False or 'never'",
            ),
            "end_id": (self.end_id is None or self.end_id >= 0, "an id, or None"),
            "returned": (1 <= self.returned <= self.beams, f"from 1 to the {self.beams} beams"),
        }
        for name, (fits, words) in allowed.items():
            if not fits:
                raise SettingError({name: getattr(self, name)}, words)


_LARGEST_LOG = 690.0
"""Of a length to its power: below float64's 709, so that a score over it is a number too."""


class Hypotheses:
    """One prompt's running and finished texts."""

    def __init__(self, settings: Settings) -> None:
        """Begin with one running text, the prompt: its copies in the other beams count nothing."""
        self.running = [Candidate(0.0, 0, 0), *[_DEAD] * (settings.beams - 1)]
        self._settings = settings
        self._finished: list[Hypothesis] = []
        self._hopeless = False

    def advance(
        self, candidates: Sequence[Candidate], texts: Sequence[Sequence[int]], length: int
    ) -> None:
        """Finish the candidates that end, and let the best of the others run.

        Args:
            candidates: Best first.
            texts: The new tokens so far of each running text.
            length: How many new tokens a candidate has.

        Raises:
            NoChoiceError: There is no candidate.
        """
        if not candidates:
            message = "every token is excluded by the rules: relax no_repeat_ngram_size"
            raise NoChoiceError(message, excluded=True)
        settings = self._settings
        if not self.done:
            # One that ends and is not among the best counts for nothing: not its turn yet.
            ended = [text for text in candidates[: settings.beams] if self._ends(text, length)]
            scored = [
                Hypothesis(
                    text.score / length**settings.length_penalty, [*texts[text.beam], text.token]
                )
                for text in ended
            ]
            merged = sorted([*self._finished, *scored], key=lambda found: -found.score)
            self._finished = merged[: settings.beams]
        going_on = [text for text in candidates if not self._ends(text, length)][: settings.beams]
        self.running = [*going_on, *[_DEAD] * (settings.beams - len(going_on))]
        self._hopeless = self._hopeless or not self._can_improve(length)

    @property
    def done(self) -> bool:
        """Whether what is finished stays as it is, whatever the running texts become."""
        return self._hopeless or (self._settings.early_stopping is True and self._is_full)

    def best(self) -> list[Hypothesis]:
        """Return the finished texts that were asked for, best first.

        Raises:
            NoChoiceError: The rules left fewer than that.
        """
        asked = self._settings.returned
        if len(self._finished) < asked:
            message = f"returned is {asked}; the rules left only {len(self._finished)} texts"
            raise NoChoiceError(message, excluded=True)
        return self._finished[:asked]

    @property
    def _is_full(self) -> bool:
        return len(self._finished) == self._settings.beams

    def _ends(self, text: Candidate, length: int) -> bool:
        return length == self._settings.max_new_tokens or text.token == self._settings.end_id

    def _can_improve(self, length: int) -> bool:
        """Return whether the best running text may yet score above the worst finished one."""
        settings = self._settings
        if not self._is_full:
            return True
        far = settings.early_stopping == "never" and settings.length_penalty > 0.0
        assumed = settings.max_new_tokens if far else length
        best: float = self.running[0].score / assumed**settings.length_penalty
        return best > self._finished[-1].score


_DEAD = Candidate(-math.inf, 0, 0)
"""A beam in which nothing runs: whatever continues it has no chance."""
