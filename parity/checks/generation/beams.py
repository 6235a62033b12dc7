"""Rows of beam searches: texts and scores."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor

from parity.checks.generation.requests import LONGEST, shortened
from parity.checks.generation.rows import (
    Result,
    broken_row,
    float64_row,
    ids_row,
    reference_error,
    rounding_row,
)
from parity.checks.generation.texts import (
    GREEDY,
    OURS,
    RULED,
    THEIRS,
    Forward,
    Pass,
    Watched,
    Way,
    repeated,
)
from parity.core import reordered
from parity.core.gates import RoundingError
from parity.core.metrics import Status
from parity.core.results import Row
from parity.core.tolerances import Precision
from reference import generation_oracle, huggingface_generation
from scratch_gpt.generation import beam_search
from scratch_gpt.generation.beam_search import Hypothesis, Settings, Stepping
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setting:
    """The settings of one search.

    Attributes:
        beams: As `returned`, `length_penalty` and `early_stopping` a setting of our search; by
            default every beam is returned.
        ends: Whether a token ends a text.
        way: The rules.
        room: New tokens for which the model has positions; None for all that are asked for.
    """

    name: str
    beams: int
    returned: int | None = None
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    ends: bool = False
    way: Way = GREEDY
    room: int | None = None

    @property
    def texts(self) -> int:
        """The number of texts of a prompt."""
        return self.returned or self.beams

    def settings(self, *, new: int, end_id: int) -> Settings:
        """Return the settings of our search."""
        return Settings(
            beams=self.beams,
            max_new_tokens=new,
            length_penalty=self.length_penalty,
            early_stopping=self.early_stopping,
            end_id=end_id if self.ends else None,
            returned=self.texts,
        )


SETTINGS = (
    Setting(name="plain", beams=4),
    Setting(name="ruled", beams=2, way=RULED),
    Setting(name="ended", beams=4, ends=True),
    Setting(name="longer", beams=3, length_penalty=2.0, ends=True),
    Setting(name="shorter", beams=3, length_penalty=-1.0, early_stopping="never", ends=True),
    Setting(name="early", beams=2, early_stopping=True, ends=True),
    Setting(name="returned", beams=4, returned=2, ends=True),
    Setting(name="full", beams=2, room=3),
)


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


def found_by(  # noqa: PLR0913 - a search's arguments
    decoder: Stepping, prompts: Tensor, setting: Setting, rules: Rules, *, new: int, end_id: int
) -> Found:
    """Return the result of our search."""
    chosen = setting.settings(new=new, end_id=end_id)
    hypotheses = beam_search.search(decoder, prompts, chosen, rules)
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
        left: generation_oracle.Array = setting.way.left(likelihoods, ids).numpy()
        return left

    search = generation_oracle.Search(
        beams=setting.beams,
        new=new,
        length_penalty=setting.length_penalty,
        early_stopping=setting.early_stopping,
        end_id=end_id if setting.ends else None,
    )
    best = [
        text for prompt in prompts.tolist() for text in search.best(scores, prompt)[: setting.texts]
    ]
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
        setting.way.left(logits[:, step].log_softmax(-1), whole[:, : known + step])
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
    """Yield the rows of the float64 pass: texts of `generate` and scores, against the oracle's."""
    for at, setting in enumerate(SETTINGS):
        run.progress(f"float64 beams.{setting.name}", at, len(SETTINGS))
        tap, right = f"beams.{setting.name}", _oracles(run, asked, setting)
        texts, found = _generated(run, asked, setting), _found(run, asked, setting)
        if isinstance(texts, Row):
            yield texts
        else:
            yield _texts(tap, texts, _filled(right.texts, asked.end_id), "float64", "oracle")
        if isinstance(found, Row):
            yield dataclasses.replace(found, tap=f"{tap}.scores")
            continue
        _take(run, OURS, tap, found)
        scores = rescored(run.truth, asked.prompts, found, setting)
        yield float64_row(f"{tap}.scores", found.scores, scores, "oracle", run.bounds)


def _room(asked: BeamInputs, setting: Setting) -> int:
    return asked.new if setting.room is None else min(asked.new, setting.room)


def _filled(texts: Sequence[Sequence[int]], end_id: int) -> list[list[int]]:
    """Return the texts with the end token after their ends, up to the longest one's."""
    longest = max(map(len, texts))
    return [[*text, *[end_id] * (longest - len(text))] for text in texts]


def beam_rounding_rows(
    run: Pass, asked: BeamInputs, precision: Precision, *, differs: bool
) -> Iterator[Row]:
    """Yield the rows of texts and scores, compared with those of Hugging Face's search.

    Before a row fails, Hugging Face's rounding is measured again. Not if a result `differs` in
    float64: then the failure is no rounding.
    """
    for at, setting in enumerate(SETTINGS):
        if setting.room is not None:
            continue
        run.progress(f"{run.dtype} beams.{setting.name}", at, len(SETTINGS))
        tap, found = f"beams.{setting.name}", _found(run, asked, setting)
        if isinstance(found, Row):
            yield found
            continue
        theirs = _theirs(run, asked, setting)
        _take(run, OURS, tap, found)
        _take(run, THEIRS, tap, theirs)
        own = rescored(run.truth, asked.prompts, found, setting)
        noise = _noise(run, asked, setting, theirs)
        for seed in itertools.count():
            scores = rounding_row(f"{tap}.scores", found.scores, own, noise, precision, run.bounds)
            texts = _texts(tap, found.texts, theirs.texts, run.dtype, "huggingface")
            if texts.detail and (excused := _excuse(run, asked, setting, noise, precision)):
                texts = _texts(tap, found.texts, theirs.texts, run.dtype, "huggingface", excused)
            if {texts.status, scores.status} == {Status.PASS} or differs or seed == reordered.RUNS:
                break
            run.progress(f"{run.dtype} beams.{setting.name} again", seed, reordered.RUNS)
            other = _theirs_again(run, asked, setting, seed)
            noise = noise.at_least(_noise(run, asked, setting, other))
        yield texts
        yield scores


def _theirs_again(run: Pass, asked: BeamInputs, setting: Setting, seed: int) -> Found:
    """Return Hugging Face's result by its model in another order, which is as right."""
    other = reordered.Reordered(run.reference, seed)
    in_its_place = dataclasses.replace(run, reference=other.model)
    search = other.in_old_order(lambda _tap: _theirs(in_its_place, asked, setting), rounds=False)
    return search(lambda _name, value: value)


def _noise(run: Pass, asked: BeamInputs, setting: Setting, theirs: Found) -> RoundingError:
    """Return the rounding error of a search's scores."""
    return reference_error(theirs.scores, rescored(run.truth, asked.prompts, theirs, setting))


def _take(run: Pass, side: str, tap: str, found: Found) -> None:
    name = f"{side}/{run.dtype}"
    run.fingerprints.take_ids(name, f"{tap}.texts", found.texts)
    run.fingerprints.take(name, f"{tap}.scores", found.scores)


def _generated(run: Pass, asked: BeamInputs, setting: Setting) -> list[list[int]] | Row:
    """Return the new tokens of every text that `generate` gives, filled to one length."""
    rules, new = setting.way.watched(), _room(asked, setting)
    model = run.model
    if setting.room is not None:
        model = shortened(model, asked.prompts.shape[1] + new)
        new += 2  # more than there are positions
    made = _attempted(
        run,
        lambda: model.generate(
            asked.prompts,
            max_new_tokens=new,
            rules=rules,
            beams=setting.beams,
            samples=setting.texts,
            length_penalty=setting.length_penalty,
            early_stopping=setting.early_stopping,
            end_id=asked.end_id if setting.ends else None,
        ),
        setting,
        rules,
    )
    if isinstance(made, Row):
        return made
    begun = repeated(asked.prompts, setting.texts)
    if made.shape[0] != len(begun) or not torch.equal(made[:, : begun.shape[1]], begun):
        detail = f"ours {made.shape[0]} texts, or other prompts; {len(begun)} are due"
        return broken_row(detail, tap=f"beams.{setting.name}.texts", dtype=run.dtype)
    filled: list[list[int]] = made[:, begun.shape[1] :].tolist()
    return filled


def _found(run: Pass, asked: BeamInputs, setting: Setting) -> Found | Row:
    """Return the texts and scores of our search."""
    rules, new = setting.way.watched(), _room(asked, setting)

    def search() -> Found:
        decoder = Decoder(run.model, batch=len(asked.prompts) * setting.beams)
        return found_by(decoder, asked.prompts, setting, rules, new=new, end_id=asked.end_id)

    return _attempted(run, search, setting, rules)


def _attempted(
    run: Pass, compute: Callable[[], Result], setting: Setting, rules: Watched
) -> Result | Row:
    return run.attempt(
        compute,
        tap=f"beams.{setting.name}.texts",
        place=lambda: f"the prompts of the searches, step {max(0, len(rules.seen) - 1)}",
    )


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
        returned=setting.texts,
        rules=setting.way.fields,
    )
    texts = unfilled(made.token_ids, asked.prompts.shape[1], end_id)
    return Found(texts=texts, scores=made.scores[None].double())


def _texts(  # noqa: PLR0913 - a row
    tap: str,
    ours: Sequence[Sequence[int]],
    other: Sequence[Sequence[int]],
    dtype: str,
    against: str,
    excused: str = "",
) -> Row:
    """Return the row of all texts of a search, in their order."""
    mine, its = ([token for text in side for token in (len(text), *text)] for side in (ours, other))
    row = ids_row(mine, its, tap=f"{tap}.texts", dtype=dtype, against=against, excused=excused)
    pairs = enumerate(zip(ours, other, strict=True))
    first = next(((at, a, b) for at, (a, b) in pairs if list(a) != list(b)), None)
    if first is None:
        return row
    at, a, b = first
    step = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), None)
    where = f"step {step}" if step is not None else "where one ends"
    detail = f"text {at}, {where}: ours {list(a)}, {against} {list(b)}"
    return dataclasses.replace(row, detail=f"{detail}; {excused}" if excused else detail)


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
    new = _room(asked, setting)
    return found_by_oracle(run.truth, asked.prompts, setting, new=new, end_id=asked.end_id)
