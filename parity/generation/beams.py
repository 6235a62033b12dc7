"""Rows of beam searches: texts and scores."""

import dataclasses
from collections.abc import Iterator

from torch import Tensor

from parity.generation.comparison import OURS, THEIRS, Pass
from parity.generation.faults import planted
from parity.generation.measures import (
    Noise,
    identity_row,
    ids_row,
    noise_of,
    quality_row,
    raised_row,
)
from parity.generation.searches import (
    LONGEST,
    SETTINGS,
    Found,
    Setting,
    found_by,
    found_by_oracle,
    rescored,
    unfilled,
)
from parity.results import Row
from parity.tolerances import Precision
from reference import huggingface_generation
from scratch_gpt.generation.decoder import Decoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Searched:
    """What is searched for.

    Attributes:
        prompts: `[batch time]`.
        new: New tokens at most.
        end_id: The token that ends a text, where one does.
    """

    prompts: Tensor
    new: int
    end_id: int


def searched(run: Pass, prompts: Tensor) -> Searched:
    """Return prompts with a token that ends some texts midway: one that the best text holds."""
    new = min(run.new, LONGEST)
    best = found_by_oracle(run.truth, prompts, SETTINGS[0], new=new, end_id=0).texts[0]
    return Searched(prompts=prompts, new=new, end_id=best[len(best) // 2])


def identity_rows(run: Pass, asked: Searched) -> Iterator[Row]:
    """Yield the rows of the float64 pass: texts and scores, to the oracle's."""
    for at, setting in enumerate(SETTINGS):
        run.progress(f"float64 beams.{setting.name}", at, len(SETTINGS))
        tap, found = f"beams.{setting.name}", _found(run, asked, setting)
        if isinstance(found, Exception):
            yield raised_row(f"{tap}.texts", found, dtype="float64")
            continue
        _take(run, OURS, tap, found)
        right = _right(run, asked, setting)
        yield _texts(tap, found, right.texts, dtype="float64", witness="oracle")
        scores = rescored(run.truth, asked.prompts, found, setting)
        yield identity_row(f"{tap}.scores", found.scores, scores, "oracle", run.bounds)


def quality_rows(run: Pass, asked: Searched, precision: Precision) -> Iterator[Row]:
    """Yield the rows against Hugging Face's own search."""
    name = str(precision.dtype).removeprefix("torch.")
    for at, setting in enumerate(SETTINGS):
        run.progress(f"{name} beams.{setting.name}", at, len(SETTINGS))
        tap, found = f"beams.{setting.name}", _found(run, asked, setting)
        if isinstance(found, Exception):
            yield raised_row(f"{tap}.texts", found, dtype=name)
            continue
        theirs = _theirs(run, asked, setting)
        _take(run, OURS, tap, found)
        _take(run, THEIRS, tap, theirs)
        truth = rescored(run.truth, asked.prompts, theirs, setting)
        noise = noise_of(theirs.scores, truth)
        row = _texts(tap, found, theirs.texts, dtype=name, witness="huggingface")
        excused = _excuse(run, asked, setting, noise, precision) if row.detail else ""
        if excused:
            again = ids_row(
                f"{tap}.texts",
                found.flat,
                theirs.flat,
                dtype=name,
                witness="huggingface",
                excused=excused,
            )
            row = dataclasses.replace(again, detail=f"{row.detail}; {excused}")
        yield row
        own = rescored(run.truth, asked.prompts, found, setting)
        yield quality_row(f"{tap}.scores", found.scores, own, noise, precision, run.bounds)


def _take(run: Pass, side: str, tap: str, found: Found) -> None:
    """Take the fingerprints of what a search found: all texts and all scores."""
    name = f"{side}/{str(run.dtype).removeprefix('torch.')}"
    run.fingerprints.take_ids(name, f"{tap}.texts", found.texts)
    run.fingerprints.take(name, f"{tap}.scores", found.scores)


def _found(run: Pass, asked: Searched, setting: Setting) -> Found | Exception:
    """Return what our search on our decoder finds, or the error that it raised."""
    with planted(run.plant):
        try:
            decoder = Decoder(run.model, batch=len(asked.prompts) * setting.beams)
            return found_by(decoder, asked.prompts, setting, new=asked.new, end_id=asked.end_id)
        except (ValueError, IndexError, RuntimeError) as error:
            return error


def _theirs(run: Pass, asked: Searched, setting: Setting) -> Found:
    end_id = asked.end_id if setting.ends else None
    made = huggingface_generation.beams(
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


def _texts(tap: str, found: Found, others: object, *, dtype: str, witness: str) -> Row:
    """Return the row of all texts of a search, in their order."""
    other = Found(texts=others, scores=found.scores)  # type: ignore[arg-type]
    row = ids_row(f"{tap}.texts", found.flat, other.flat, dtype=dtype, witness=witness, excused="")
    pairs = enumerate(zip(found.texts, other.texts, strict=True))
    first = next(((at, mine, its) for at, (mine, its) in pairs if mine != its), None)
    if first is None:
        return row
    at, mine, its = first
    step = next((i for i, (a, b) in enumerate(zip(mine, its, strict=False)) if a != b), None)
    where = f"step {step}" if step is not None else "where one ends"
    detail = f"text {at}, {where}: ours {list(mine)}, {witness} {list(its)}"
    return dataclasses.replace(row, detail=detail)


def _excuse(
    run: Pass, asked: Searched, setting: Setting, noise: Noise, precision: Precision
) -> str:
    """Return in words that some ranking was as good as equal; empty where none was."""
    closest = _right(run, asked, setting).closest
    allowed = 2.0 * (1.0 + run.bounds.peak) * max(noise.rms, precision.unit)
    # Written so that NaN is no excuse.
    if not closest <= allowed:
        return ""
    return f"a tie: two scores are {closest:.2g} of their size apart, errors {allowed:.2g}"


def _right(run: Pass, asked: Searched, setting: Setting) -> Found:
    """Return what the oracle finds."""
    return found_by_oracle(run.truth, asked.prompts, setting, new=asked.new, end_id=asked.end_id)
