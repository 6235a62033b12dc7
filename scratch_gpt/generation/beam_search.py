"""Beam search: the likeliest whole texts that a few running ones lead to.

The meaning is that of transformers 4.50 and later: what is kept, when it stops, and how the length
counts. It works on anything that can be started, stepped and reordered; a decoder with a cache is
one such, and a model run anew for every token another.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.causal_mask import accumulate_dtype
from scratch_gpt.errors import NoChoiceError, SettingError
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.loss import log_softmax

# The texts of one prompt in a beam search: which go on, which are finished, and when to stop.


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
    """What `scratch_gpt.generation.beam_search.beam_search` takes, where each is described.

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


EarlyStopping = bool | Literal["never"]


@runtime_checkable
class Stepping(Protocol):
    """What beam search needs of a decoder; every tensor has one row for each running text."""

    def start(self, token_ids: Tensor) -> Tensor:
        """Take the texts `[rows time]`; return the logits `[rows vocab]` of what follows."""

    def step(self, token_ids: Tensor) -> Tensor:
        """Take the next tokens `[rows]`; return the logits `[rows vocab]` of what follows."""

    def reorder(self, rows: Tensor) -> None:
        """Go on, in row i, from what row `rows[i]` was."""


def beam_search(  # noqa: PLR0913 - a search's settings, all but three with defaults
    decoder: Stepping,
    token_ids: Int[Tensor, "batch time"],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: EarlyStopping = False,
    end_id: int | None = None,
    rules: Rules | None = None,
    returned: int = 1,
) -> Int[Tensor, "texts length"]:
    """Return the best texts of each prompt, prompt included, best first.

    Args:
        decoder: Has `batch * beams` rows.
        token_ids: `[batch time]`, the prompts.
        beams: Texts that run side by side, for each prompt.
        max_new_tokens: Where every text ends at the latest; above 0.
        length_penalty: A finished text's score is its log-probability over its number of new
            tokens to this power: above 0 longer texts gain, below 0 shorter ones.
        early_stopping: True: a prompt is done when it has `beams` finished texts. False: when its
            best running text, at its present length, is no better than the worst finished one.
            `"never"`: when it could not become better at any length.
        end_id: A text that takes this token is finished; GPT-1 has no such token of its own.
        rules: Change the log-probabilities, as transformers has it, and not the logits.
        returned: How many texts of each prompt.

    Returns:
        `[batch * returned, longest]`; what is shorter is filled up with `end_id`.

    Raises:
        ValueError: A setting that cannot be, rules that draw, or rules that left too few texts.
    """
    settings = Settings(
        beams=beams,
        max_new_tokens=max_new_tokens,
        length_penalty=length_penalty,
        early_stopping=early_stopping,
        end_id=end_id,
        returned=returned,
    )
    found = search(decoder, token_ids, settings, rules or Rules())
    texts = [best.token_ids for prompt in found for best in prompt]
    longest = max(len(text) for text in texts)
    # Texts are of different lengths only where `end_id` ended one.
    filled = [[*text, *[end_id or 0] * (longest - len(text))] for text in texts]
    new = torch.tensor(filled, device=token_ids.device)
    return torch.cat([token_ids.repeat_interleave(returned, 0).long(), new], dim=1)


def search(
    decoder: Stepping,
    token_ids: Int[Tensor, "batch time"],
    settings: Settings,
    rules: Rules,
) -> list[list[Hypothesis]]:
    """Return, for each prompt, its best finished texts with their scores, best first.

    Args:
        decoder: As in `beam_search`.
        token_ids: `[batch time]`, the prompts.
        settings: The others of `beam_search`.
        rules: Change the log-probabilities.

    Raises:
        ValueError: As `beam_search`.
    """
    if rules.sampled:
        message = "rules.sampled is True; allowed: False: beam search takes the likeliest, always"
        raise ValueError(message)
    prompts = [Hypotheses(settings) for _ in token_ids]
    texts = token_ids.repeat_interleave(settings.beams, 0)
    logits = decoder.start(texts)
    for length in range(1, settings.max_new_tokens + 1):
        found = _candidates(rules.processed(_log_likelihoods(logits), texts), prompts)
        new_texts = texts[:, token_ids.shape[1] :].tolist()
        for index, (prompt, candidates) in enumerate(zip(prompts, found, strict=True)):
            first = index * settings.beams
            prompt.advance(candidates, new_texts[first : first + settings.beams], length)
        if length == settings.max_new_tokens or all(prompt.done for prompt in prompts):
            break
        rows, tokens = _continued(prompts, device=texts.device)
        texts = torch.cat([texts[rows], tokens[:, None]], dim=1)
        decoder.reorder(rows)
        logits = decoder.step(tokens)
    return [prompt.best() for prompt in prompts]


def _log_likelihoods(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
    """Return them in float32 at least: in half precision sums of many steps would be lost.

    Raises:
        NoChoiceError: A logit is no number, or +inf.
    """
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        message = "a logit is nan or inf: the model's numbers are broken, or have overflowed"
        raise NoChoiceError(f"no token can be chosen: {message}", excluded=False)
    return log_softmax(logits.to(accumulate_dtype(logits.dtype)))


def _candidates(
    scores: Float[Tensor, "rows vocab"], prompts: list[Hypotheses]
) -> list[list[Candidate]]:
    """Return each prompt's best continuations by the sum of their log-probabilities, best first.

    Twice as many as beams: should all beams end in the likeliest, as many are left to go on.
    """
    running = [[text.score for text in prompt.running] for prompt in prompts]
    before = torch.tensor(running, dtype=scores.dtype, device=scores.device)
    batch, beams, vocab = *before.shape, scores.shape[-1]
    totals = (scores.reshape(batch, beams, vocab) + before[..., None]).flatten(1)
    return [_best(row, 2 * beams, vocab) for row in totals]


def _best(totals: Float[Tensor, " choices"], count: int, vocab: int) -> list[Candidate]:
    """Return the `count` best choices; of equal ones the earlier beam's, then the lower id."""
    smallest = totals.topk(min(count, totals.numel())).values[-1]
    # `topk` does not say which of equal numbers it leaves out: all of them are taken, then sorted.
    places = ((totals >= smallest) & (totals > -math.inf)).nonzero()[:, 0]
    ranked = sorted(zip((-totals[places]).tolist(), places.tolist(), strict=True))[:count]
    return [Candidate(-score, *divmod(place, vocab)) for score, place in ranked]


def _continued(prompts: list[Hypotheses], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row that each running text goes on from, and its new token, `[rows]` each."""
    chosen = [
        (index * len(prompt.running) + text.beam, text.token)
        for index, prompt in enumerate(prompts)
        for text in prompt.running
    ]
    rows, tokens = torch.tensor(chosen, device=device).T
    return rows, tokens
