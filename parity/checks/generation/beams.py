"""Rows of beam searches: texts and scores."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from parity.checks.generation.rows import (
    float64_row,
    ids_row,
    raised_row,
    reference_error,
    rounding_row,
)
from parity.checks.generation.rules import expected_logits
from parity.checks.generation.texts import OURS, THEIRS, WAYS, Forward, Pass, Way
from parity.core.gates import RoundingError
from parity.core.results import Row
from parity.core.tolerances import Precision
from reference import generation_oracle, huggingface_generation
from scratch_gpt.generation import beam_search
from scratch_gpt.generation.beam_search import Hypothesis, Settings, Stepping
from scratch_gpt.generation.decoder import Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of one search; `ends` is whether a token ends a text, `way` has the rules."""

    name: str
    beams: int
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    ends: bool = False
    way: Way = WAYS[0]

    def settings(self, *, new: int, end_id: int) -> Settings:
        """Return the settings of our search, with a text of every beam."""
        return Settings(
            beams=self.beams,
            max_new_tokens=new,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            end_id=end_id if self.ends else None,
            returned=self.beams,
        )


SETTINGS = (
    Setting(name="plain", beams=4),
    Setting(name="ruled", beams=2, way=WAYS[1]),
    Setting(name="ends", beams=4, ends=True),
    Setting(name="longer", beams=3, length_penalty=2.0, ends=True),
    Setting(name="shorter", beams=3, length_penalty=-1.0, early_stopping="never", ends=True),
    Setting(name="early", beams=2, early_stopping=True, ends=True),
)
LONGEST = 12
"""The most new tokens of a search: transformers computes the whole text for each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a search.

    Attributes:
        texts: The new tokens of each text without padding, each prompt's best first.
        scores: Their scores, float64 `[1 texts]`.
        closest: The smallest relative difference of two ranked scores; of the oracle's search only.
    """

    texts: Sequence[Sequence[int]]
    scores: Tensor
    closest: float = float("inf")

    @property
    def flat(self) -> list[int]:
        """All tokens, each text's after its length."""
        return [token for text in self.texts for token in (len(text), *text)]


def found_by(
    decoder: Stepping, prompts: Tensor, setting: Setting, *, new: int, end_id: int
) -> Found:
    """Return the result of our search."""
    chosen = setting.settings(new=new, end_id=end_id)
    hypotheses = beam_search.search(decoder, prompts, chosen, setting.way.rules)
    best: list[Hypothesis] = [text for texts in hypotheses for text in texts]
    scores = torch.tensor([[text.score for text in best]], dtype=torch.float64)
    return Found(texts=[text.token_ids for text in best], scores=scores)


def found_by_oracle(
    truth: Forward, prompts: Tensor, setting: Setting, *, new: int, end_id: int
) -> Found:
    """Return the result of the NumPy oracle's search on the oracle's logits."""

    def scores(texts: Sequence[Sequence[int]]) -> generation_oracle.Array:
        ids = torch.tensor(texts)
        likelihoods = truth(ids)[:, -1].log_softmax(-1)
        left: generation_oracle.Array = expected_logits(
            setting.way.fields, likelihoods, ids
        ).numpy()
        return left

    search = generation_oracle.Search(
        beams=setting.beams,
        new=new,
        length_penalty=setting.length_penalty,
        early_stopping=setting.early_stopping,
        end_id=end_id if setting.ends else None,
    )
    best = [text for prompt in prompts.tolist() for text in search.best(scores, prompt)]
    return Found(
        texts=[list(text.tokens) for text in best],
        scores=torch.tensor([[text.score for text in best]], dtype=torch.float64),
        closest=search.closest,
    )


def unfilled(token_ids: Tensor, known: int, end_id: int | None) -> list[list[int]]:
    """Return the new tokens of each text, cut after the token that ended it.

    Args:
        token_ids: `[texts length]`, prompts included.
        known: Tokens of a prompt.
        end_id: The token that ends a text and pads shorter ones.
    """
    rows: list[list[int]] = token_ids[:, known:].tolist()
    return [row[: row.index(end_id) + 1] if end_id in row else row for row in rows]


def rescored(truth: Forward, prompts: Tensor, found: Found, setting: Setting) -> Tensor:
    """Return the scores of found texts from the oracle's logits, `[1 texts]`, float64.

    A score is the text's log-probability, after transformers' rules, over its length to the power
    of the penalty. Neither a search nor our code takes part.
    """
    texts = found.texts
    longest = max(map(len, texts))
    new = torch.tensor([[*text, *[0] * (longest - len(text))] for text in texts])
    whole = torch.cat([prompts.repeat_interleave(len(texts) // len(prompts), 0), new], dim=1)
    known = prompts.shape[1]
    logits = truth(whole[:, :-1])[:, known - 1 :]
    steps = [
        expected_logits(
            setting.way.fields, logits[:, step].log_softmax(-1), whole[:, : known + step]
        )
        .gather(1, new[:, step : step + 1])
        .squeeze(1)
        for step in range(longest)
    ]
    scores = [
        float(sum(steps[step][row] for step in range(len(text))))
        / len(text) ** setting.length_penalty
        for row, text in enumerate(texts)
    ]
    return torch.tensor([scores], dtype=torch.float64)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamInputs:
    """Prompts `[batch time]`, the most new tokens, and the token that ends a text."""

    prompts: Tensor
    new: int
    end_id: int


def search_all(run: Pass, prompts: Tensor) -> BeamInputs:
    """Return the inputs; the end token is one in the middle of the best text."""
    new = min(run.new, LONGEST)
    best = found_by_oracle(run.truth, prompts, SETTINGS[0], new=new, end_id=0).texts[0]
    return BeamInputs(prompts=prompts, new=new, end_id=best[len(best) // 2])


def beam_rows(run: Pass, asked: BeamInputs) -> Iterator[Row]:
    """Yield the rows of the float64 pass: texts and scores, compared with the oracle's."""
    for at, setting in enumerate(SETTINGS):
        run.progress(f"float64 beams.{setting.name}", at, len(SETTINGS))
        tap, found = f"beams.{setting.name}", _found(run, asked, setting)
        if isinstance(found, Exception):
            yield raised_row(found, tap=f"{tap}.texts", dtype="float64")
            continue
        _take(run, OURS, tap, found)
        right = _oracles(run, asked, setting)
        yield _texts(tap, found, right, dtype="float64", against="oracle")
        scores = rescored(run.truth, asked.prompts, found, setting)
        yield float64_row(f"{tap}.scores", found.scores, scores, "oracle", run.bounds)


def beam_rounding_rows(run: Pass, asked: BeamInputs, precision: Precision) -> Iterator[Row]:
    """Yield the rows of texts and scores, compared with those of Hugging Face's search."""
    for at, setting in enumerate(SETTINGS):
        run.progress(f"{run.dtype} beams.{setting.name}", at, len(SETTINGS))
        tap, found = f"beams.{setting.name}", _found(run, asked, setting)
        if isinstance(found, Exception):
            yield raised_row(found, tap=f"{tap}.texts", dtype=run.dtype)
            continue
        theirs = _theirs(run, asked, setting)
        _take(run, OURS, tap, found)
        _take(run, THEIRS, tap, theirs)
        truth = rescored(run.truth, asked.prompts, theirs, setting)
        noise = reference_error(theirs.scores, truth)
        row = _texts(tap, found, theirs, dtype=run.dtype, against="huggingface")
        excused = _excuse(run, asked, setting, noise, precision) if row.detail else ""
        if excused:
            again = ids_row(
                found.flat,
                theirs.flat,
                tap=f"{tap}.texts",
                dtype=run.dtype,
                against="huggingface",
                excused=excused,
            )
            row = dataclasses.replace(again, detail=f"{row.detail}; {excused}")
        yield row
        own = rescored(run.truth, asked.prompts, found, setting)
        yield rounding_row(f"{tap}.scores", found.scores, own, noise, precision, run.bounds)


def _take(run: Pass, side: str, tap: str, found: Found) -> None:
    name = f"{side}/{run.dtype}"
    run.fingerprints.take_ids(name, f"{tap}.texts", found.texts)
    run.fingerprints.take(name, f"{tap}.scores", found.scores)


def _found(run: Pass, asked: BeamInputs, setting: Setting) -> Found | Exception:
    def search() -> Found:
        decoder = Decoder(run.model, batch=len(asked.prompts) * setting.beams)
        return found_by(decoder, asked.prompts, setting, new=asked.new, end_id=asked.end_id)

    return run.attempt(search)


def _theirs(run: Pass, asked: BeamInputs, setting: Setting) -> Found:
    end_id = asked.end_id if setting.ends else None
    made = huggingface_generation.beam_search(
        run.reference,
        asked.prompts,
        beams=setting.beams,
        max_new_tokens=asked.new,
        length_penalty=setting.length_penalty,
        early_stopping=setting.early_stopping,
        end_id=end_id,
        returned=setting.beams,
        rules=setting.way.fields,
    )
    texts = unfilled(made.token_ids, asked.prompts.shape[1], end_id)
    return Found(texts=texts, scores=made.scores[None].double())


def _texts(tap: str, found: Found, other: Found, *, dtype: str, against: str) -> Row:
    """Return the row of all texts of a search, in their order."""
    row = ids_row(found.flat, other.flat, tap=f"{tap}.texts", dtype=dtype, against=against)
    pairs = enumerate(zip(found.texts, other.texts, strict=True))
    first = next(((at, mine, its) for at, (mine, its) in pairs if mine != its), None)
    if first is None:
        return row
    at, mine, its = first
    step = next((i for i, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), None)
    where = f"step {step}" if step is not None else "where one ends"
    detail = f"text {at}, {where}: ours {list(mine)}, {against} {list(its)}"
    return dataclasses.replace(row, detail=detail)


def _excuse(
    run: Pass, asked: BeamInputs, setting: Setting, noise: RoundingError, precision: Precision
) -> str:
    """Return the description of a tie between two ranked scores; empty if there is none."""
    closest = _oracles(run, asked, setting).closest
    allowed = 2.0 * (1.0 + run.bounds.peak) * max(noise.rms, precision.unit)
    # Written so that NaN is no excuse.
    if not closest <= allowed:
        return ""
    return f"a tie: two scores are {closest:.2g} of their size apart, errors {allowed:.2g}"


def _oracles(run: Pass, asked: BeamInputs, setting: Setting) -> Found:
    return found_by_oracle(run.truth, asked.prompts, setting, new=asked.new, end_id=asked.end_id)
