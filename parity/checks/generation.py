"""Does the cached generator give what the uncached model and the reference give?

Rules on shared logits; then texts, token by token, of our decoder with its cache, against three
that have none: our model run anew, Hugging Face's, the oracle's. In float64 the logits of every
step agree to rounding and every id is the same; in the dtype judged our rounding is no worse than
Hugging Face's, and the ids are those of its own `generate`, greedy, under rules and by beam
search, but for choices between which the truth itself hardly chooses.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from transformers import OpenAIGPTLMHeadModel

from parity import knobs, subjects
from parity.checks.layerwise import silent
from parity.compare import Status
from parity.errors import ExitCode
from parity.fingerprints import Fingerprints
from parity.generation import beams, comparison, life, witnesses
from parity.generation.asked import Asked, check_room
from parity.generation.comparison import Pass, Progress
from parity.generation.continuations import WAYS
from parity.generation.faults import planted
from parity.generation.measures import PATH
from parity.generation.order import order_rows
from parity.generation.rules import CASES, rule_rows
from parity.generation.searches import SETTINGS
from parity.inputs import digest
from parity.results import FirstDivergence, Plan, Reason, Report, Row, verdict_for, worst
from parity.tolerances import PRECISIONS, Bounds, bounds_for
from scratch_gpt.model import GPT


def generation(  # noqa: PLR0913 - two sides, what is asked, and what is said of it
    candidate: GPT,
    reference: OpenAIGPTLMHeadModel,
    asked: Asked,
    *,
    dtype: str = "float32",
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare our generator with the uncached model, Hugging Face's and the oracle.

    Args:
        candidate: Our model, in evaluation mode, on the CPU.
        reference: Hugging Face's model; its weights are the oracle's too.
        asked: Prompts and lengths.
        dtype: Dtype whose rounding is judged; with `float64` identity alone is.
        fingerprints: Whether the report holds those of all texts and their logits.
        identity: What the verdict says about weights, config and code.
        progress: Called as the check goes on.

    Raises:
        UsageError: No prompt, or too few new tokens, or more than there is room for.
        ParityError: The comparison could not be begun.
    """
    check_room(asked, candidate.config.n_positions)
    subjects.check_apart({PATH: candidate}, reference)
    bounds = bounds_for(dtype)
    bounds.check(PRECISIONS.get(dtype))
    seen: list[list[int]] = []
    kept = Fingerprints(wanted=fingerprints)
    with knobs.pinned(), torch.no_grad():
        settings = knobs.environment()
        found = rows_of(
            candidate,
            reference,
            asked,
            dtype=dtype,
            bounds=bounds,
            seen=seen,
            fingerprints=kept,
            progress=progress or silent,
        )
        rows = list(found)
    vocab_size = candidate.config.vocab_size
    reasons = list(life.reasons(reference, seen, vocab_size=vocab_size, seed=asked.seed))
    report = _report(rows, reasons, asked, settings=settings, identity=identity or {})
    return dataclasses.replace(report, fingerprints=kept.taken)


def rows_of(  # noqa: PLR0913 - both passes' whole context
    candidate: GPT,
    reference: OpenAIGPTLMHeadModel,
    asked: Asked,
    *,
    dtype: str,
    bounds: Bounds,
    seen: list[list[int]],
    fingerprints: Fingerprints | None = None,
    progress: Progress = silent,
) -> Iterator[Row]:
    """Yield every row, in the order in which faults are told from what follows of them.

    Args:
        candidate: As the others, see `generation`.
        reference: Hugging Face's model.
        asked: Prompts and lengths.
        dtype: Dtype judged.
        bounds: Of the run.
        seen: Gets the new tokens of every greedy text.
        fingerprints: Takes those of texts and logits.
        progress: Called as the passes go on.
    """
    progress("rules", 0, 1)
    with planted(asked.plant):
        yield from rule_rows(candidate.config.vocab_size, asked.seed, bounds)
    truth = witnesses.truth(reference)
    models = {"ours": candidate, "huggingface": reference}
    precision = PRECISIONS.get(dtype)
    for wanted in (None, *([precision] if precision else [])):
        both: Any = subjects.in_dtype(models, wanted.dtype if wanted else torch.float64)
        run = Pass(
            model=both["ours"],
            reference=both["huggingface"],
            truth=truth,
            prompts=asked.prompts,
            new=asked.new,
            bounds=bounds,
            plant=asked.plant,
            progress=progress,
            fingerprints=fingerprints or Fingerprints(),
        )
        searched = beams.searched(run, asked.searched)
        if wanted is None:
            yield from order_rows(run.reference, asked.searched[:1], bounds, asked.plant)
            yield from comparison.identity_rows(run, seen)
            yield from beams.identity_rows(run, searched)
        else:
            yield from comparison.quality_rows(run, wanted)
            yield from beams.quality_rows(run, searched, wanted)


def _planned(asked: Asked) -> list[str]:
    """Return the name of everything that is compared."""
    return [
        *(f"rules.{case.name}" for case in CASES),
        "rules.order",
        *(
            f"{way.name}.{at}.{what}"
            for way in WAYS
            for at in range(len(asked.prompts))
            for what in ("logits", "ids")
        ),
        *(f"beams.{setting.name}.{what}" for setting in SETTINGS for what in ("texts", "scores")),
    ]


def _report(
    rows: Sequence[Row],
    reasons: Sequence[Reason],
    asked: Asked,
    *,
    settings: Mapping[str, str],
    identity: Mapping[str, Any],
) -> Report:
    planned = _planned(asked)
    compared = sum(tap in {row.tap for row in rows} for tap in planned)
    failing = [row for row in rows if row.status is not Status.PASS]
    code = worst(
        [
            *(reason.code for reason in reasons),
            *(ExitCode.FAIL for _ in failing),
            *([ExitCode.INCONCLUSIVE] if compared != len(planned) else []),
        ]
    )
    return Report(
        check="generation",
        verdict=verdict_for(code),
        exit_code=code,
        identity=identity,
        environment=settings,
        plan=Plan(
            planned=len(planned),
            compared=compared,
            per_path={PATH: (len(planned), compared)},
            exempt=[],
        ),
        first_divergence=_first(failing),
        results=rows,
        reasons=reasons,
        inputs={
            "prompts": len(asked.prompts),
            "lengths": " ".join(str(prompt.shape[1]) for prompt in asked.prompts),
            "new tokens": asked.new,
            "ids": digest([*asked.prompts, asked.searched]),
            "ties": sum("a tie" in row.detail for row in rows),
        },
    )


_SUSPECTS = {
    "rules": "the formula of one rule, or the order of all",
    "greedy": "what a decoder keeps: keys, values, positions, its length",
    "ruled": "the text that a rule is given: prompt and new tokens, the newest too",
    "sampled": "as for greedy; or a draw that depends on more than the seed and the row",
    "beams": "rows that change places, scores, lengths, and when a text ends",
}
"""What is usually wrong, by the first part of a row's name."""


def _first(failing: Sequence[Row]) -> FirstDivergence | None:
    """Return the first row that does not pass, in the order of causes."""
    if not failing:
        return None
    row = failing[0]
    found = row.detail or f"{row.status}: off by {row.error_ours}, the bound is {row.bound:g}"
    suspects = _SUSPECTS[row.tap.split(".")[0]]
    return FirstDivergence(tap=row.tap, why=found, suspects=suspects, row=row)
