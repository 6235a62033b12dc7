"""Beam search: find texts of high probability by extending the best few in parallel.

Candidates, stopping and the length penalty follow transformers 4.50 and later. The search works
with any decoder that has `start`, `step` and `reorder`: one with a cache, or a model that reads
the whole text again for every token.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.errors import NoChoiceError, SettingError
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.loss import log_softmax
from scratch_gpt.numerics import accumulate_dtype

EarlyStopping = bool | Literal["never"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a beam search.

    Raises:
        SettingError: A setting is out of range; the message names it and the allowed values.
    """

    beams: int
    """Number of running texts for each prompt."""
    max_new_tokens: int
    """Maximum number of new tokens; at least 1."""
    length_penalty: float = 1.0
    """A finished text's score is its log-probability over its number of new tokens to this power:
    above 0 longer texts gain, below 0 shorter ones."""
    early_stopping: EarlyStopping = False
    """True: a prompt is done when it has `beams` finished texts. False: when its best running text,
    at its present length, scores no better than the worst finished one. `"never"`: when it could
    not score better at any length."""
    end_id: int | None = None
    """The token that finishes a text; GPT-1 has no such token of its own."""
    returned: int = 1
    """Number of texts to return for each prompt."""

    def __post_init__(self) -> None:
        allowed = {
            "beams": (self.beams >= 1, "1 or more"),
            "max_new_tokens": (self.max_new_tokens >= 1, "1 or more"),
            "length_penalty": (
                abs(self.length_penalty) * math.log(max(1, self.max_new_tokens)) <= _LARGEST_LOG,
                f"a number for which {self.max_new_tokens} to its power is finite and above 0",
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
"""Limit for the logarithm of a length to the power of the penalty. It is below float64's 709, so
that a score divided by that power is finite too."""


@runtime_checkable
class Stepping(Protocol):
    """The decoder that a beam search needs; every tensor has one row for each running text."""

    def start(self, token_ids: Tensor) -> Tensor:
        """Read the texts `[rows time]`; return the logits `[rows vocab]` of the next tokens."""

    def step(self, token_ids: Tensor) -> Tensor:
        """Read the next tokens `[rows]`; return the logits `[rows vocab]` of those after them."""

    def reorder(self, rows: Tensor) -> None:
        """Continue, in row `i`, the text of row `rows[i]`."""


class Candidate(NamedTuple):
    """A continuation of a running text by one token."""

    score: float
    """Log-probability of all new tokens."""
    beam: int
    """Index of the running text."""
    token: int


_DEAD = Candidate(-math.inf, 0, 0)
"""An unused beam: none of its continuations is ever chosen."""


class Hypothesis(NamedTuple):
    """A finished text."""

    score: float
    """Log-probability of the new tokens, over their number to the power of the length penalty."""
    token_ids: list[int]
    """The new tokens, with the one that ended the text."""


class Hypotheses:
    """The running and finished texts of one prompt."""

    def __init__(self, settings: Settings) -> None:
        """Start with the prompt in the first beam only: more copies would give equal texts."""
        self.running = [Candidate(0.0, 0, 0), *[_DEAD] * (settings.beams - 1)]
        self._settings = settings
        self._finished: list[Hypothesis] = []
        self._hopeless = False

    def advance(
        self, candidates: Sequence[Candidate], texts: Sequence[Sequence[int]], length: int
    ) -> None:
        """Finish the candidates that end, and keep the best of the others running.

        The candidates are sorted, best first, and have `length` new tokens each; `texts` holds the
        new tokens of each running text so far.

        Raises:
            NoChoiceError: There is no candidate.
        """
        if not candidates:
            raise NoChoiceError(
                "every token is excluded by the rules: relax no_repeat_ngram_size", excluded=True
            )
        settings = self._settings
        if not self.done:
            # A candidate that ends counts only if it is among the `beams` best.
            penalty = length**settings.length_penalty
            ended = [
                Hypothesis(text.score / penalty, [*texts[text.beam], text.token])
                for text in candidates[: settings.beams]
                if self._ends(text, length)
            ]
            merged = sorted([*self._finished, *ended], key=lambda found: -found.score)
            self._finished = merged[: settings.beams]
        running = [text for text in candidates if not self._ends(text, length)][: settings.beams]
        self.running = [*running, *[_DEAD] * (settings.beams - len(running))]
        self._hopeless = self._hopeless or not self._can_improve(length)

    @property
    def done(self) -> bool:
        """Whether the finished texts are final, whatever the running texts become."""
        return self._hopeless or (self._settings.early_stopping is True and self._is_full)

    def best(self) -> list[Hypothesis]:
        """Return the `returned` best finished texts, best first.

        Raises:
            NoChoiceError: The rules left fewer.
        """
        returned = self._settings.returned
        if len(self._finished) < returned:
            raise NoChoiceError(
                f"returned is {returned}; the rules left only {len(self._finished)} texts",
                excluded=True,
            )
        return self._finished[:returned]

    @property
    def _is_full(self) -> bool:
        return len(self._finished) == self._settings.beams

    def _ends(self, text: Candidate, length: int) -> bool:
        return length == self._settings.max_new_tokens or text.token == self._settings.end_id

    def _can_improve(self, length: int) -> bool:
        """Return whether the best running text can still score above the worst finished one."""
        settings = self._settings
        if not self._is_full:
            return True
        far = settings.early_stopping == "never" and settings.length_penalty > 0.0
        assumed = settings.max_new_tokens if far else length
        best: float = self.running[0].score / assumed**settings.length_penalty
        return best > self._finished[-1].score


def beam_search(
    decoder: Stepping,
    token_ids: Int[Tensor, "batch time"],
    settings: Settings,
    rules: Rules | None = None,
) -> Int[Tensor, "texts length"]:
    """Return the best texts of each prompt, best first, `[batch * returned, longest]`.

    Arguments and errors as in `search`. Texts begin with the prompt; shorter ones are padded with
    `end_id`.
    """
    found = search(decoder, token_ids, settings, rules or Rules())
    texts = [best.token_ids for prompt in found for best in prompt]
    longest = max(len(text) for text in texts)
    # Lengths differ only if `end_id` ended a text.
    padded = [[*text, *[settings.end_id or 0] * (longest - len(text))] for text in texts]
    new = torch.tensor(padded, device=token_ids.device)
    return torch.cat([token_ids.repeat_interleave(settings.returned, 0).long(), new], dim=1)


def search(
    decoder: Stepping,
    token_ids: Int[Tensor, "batch time"],
    settings: Settings,
    rules: Rules,
) -> list[list[Hypothesis]]:
    """Return, for each prompt, its best finished texts with their scores, best first.

    The decoder has `batch * beams` rows. The rules change the log-probabilities, not the logits, as
    in transformers.

    Raises:
        ValueError: The rules sample, leave too few texts, or a logit is NaN or inf.
    """
    if rules.sampled:
        raise ValueError("rules.sampled is True; allowed: False: a beam search draws nothing")
    prompts = [Hypotheses(settings) for _ in token_ids]
    texts = token_ids.repeat_interleave(settings.beams, 0)
    logits = decoder.start(texts)
    for length in range(1, settings.max_new_tokens + 1):
        found = _candidates(rules.processed(_log_probabilities(logits), texts), prompts)
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


def _log_probabilities(logits: Float[Tensor, "rows vocab"]) -> Float[Tensor, "rows vocab"]:
    """Return log-probabilities in float32 or wider: half precision would lose long sums."""
    if not bool(torch.isfinite(logits.amax(-1)).all()):
        raise NoChoiceError(
            "no token can be chosen: a logit is nan or inf: the weights are damaged, or the dtype "
            "overflowed",
            excluded=False,
        )
    return log_softmax(logits.to(accumulate_dtype(logits.dtype)))


def _candidates(
    scores: Float[Tensor, "rows vocab"], prompts: list[Hypotheses]
) -> list[list[Candidate]]:
    """Return each prompt's best continuations by the sum of their log-probabilities, best first.

    Twice as many as beams: if every beam's best continuation ends, as many remain to run.
    """
    running = [[text.score for text in prompt.running] for prompt in prompts]
    before = torch.tensor(running, dtype=scores.dtype, device=scores.device)
    batch, beams, vocab = *before.shape, scores.shape[-1]
    totals = (scores.reshape(batch, beams, vocab) + before[..., None]).flatten(1)
    return [_best(row, 2 * beams, vocab) for row in totals]


def _best(totals: Float[Tensor, " choices"], count: int, vocab: int) -> list[Candidate]:
    """Return the `count` best choices; ties go to the earlier beam, then to the lower id."""
    smallest = totals.topk(min(count, totals.numel())).values[-1]
    # `topk` leaves out arbitrary ones of equal numbers: take all of them, then sort.
    places = ((totals >= smallest) & (totals > -math.inf)).nonzero()[:, 0]
    ranked = sorted(zip((-totals[places]).tolist(), places.tolist(), strict=True))[:count]
    return [Candidate(-score, *divmod(place, vocab)) for score, place in ranked]


def _continued(prompts: list[Hypotheses], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the row that each running text continues, and its new token, `[rows]` each."""
    chosen = [
        (index * len(prompt.running) + text.beam, text.token)
        for index, prompt in enumerate(prompts)
        for text in prompt.running
    ]
    rows, tokens = torch.tensor(chosen, device=device).T
    return rows, tokens
