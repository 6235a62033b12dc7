"""Do the released weights still give the numbers that others published?

Every other check holds two sides against each other on whatever weights there are; a fault
inside the weights is on both sides and agrees. Published numbers stand outside: greedy ids, a
logit, word probabilities, losses, norms and digests that other people got, with other code, from
the released weights. The numbers alone cannot say who is at fault, the model or the weights. The
digests can, and decide what a difference means:

| the files are | all numbers agree | a number differs |
|---|---|---|
| the published ones | pass | 1: the weights are right, so our model is not |
| not what they say | 4 | 4: get the file again before asking anything else |
| of unknown provenance | pass | 4: not shown to be the released weights |

A pass on unknown files is a pass: converted or saved again, the released weights have no published
digest, and that others should give 654 probabilities and twelve norms is no possibility. A config
that is not the released model's is refused (4) whatever the files are: no tensor knows how many
heads there are. A number that could not be computed leaves the run inconclusive (3), and what is
not asked is listed with its reason.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from parity import knobs
from parity.compare import Status
from parity.errors import EnvironmentUnfitError, ExitCode, UsageError
from parity.goldens.kinds import EXEMPT, KINDS
from parity.goldens.rows import GoldenRow, NoValueError, row_of, row_without
from parity.goldens.subject import Subject
from parity.goldens.verdict import HOW_TO_GET_THEM, first_of, reasons_of, standing_of, wrong
from parity.provenance import Provenance
from parity.results import Plan, Report, verdict_for, worst
from reference.golden_schema import Golden, Goldens
from reference.published_goldens import published
from scratch_gpt.command.progress import Progress
from scratch_gpt.model import GPT


def require_read(provenance: Provenance) -> None:
    """Require weights that were read from files: drawn ones cannot be the released ones.

    Raises:
        EnvironmentUnfitError: No file was read; says how to get the released weights.
    """
    if not provenance.files:
        raise EnvironmentUnfitError(
            "published numbers are about the released weights, and these are not they",
            where=f"weights: {provenance.source}",
            fix=HOW_TO_GET_THEM,
        )


def golden(
    model: GPT,
    provenance: Provenance,
    goldens: Goldens | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Compute every golden's number with our model and hold it against the published one.

    Args:
        model: Our model with the weights to be judged, float32 or float64, in evaluation mode.
        provenance: Where its weights came from.
        goldens: What to ask; the published numbers of the released weights where None.
        identity: What the verdict says about weights, config and code.
        progress: Called as the check goes on.

    Raises:
        EnvironmentUnfitError: The published numbers were asked of weights read from no file.
        UsageError: The model is in training mode, or in a precision coarser than float32.
    """
    if goldens is None:
        require_read(provenance)
        goldens = published()
    _check_model(model)
    asked, exempt = _planned(goldens, Subject(model, provenance, ()))
    subject = Subject(model, provenance, asked, progress)
    with knobs.pinned(), torch.no_grad():
        rows = [_row(entry, subject) for entry in _counted(asked, progress)]
    standing = standing_of(goldens, provenance)
    reasons = list(reasons_of(rows, goldens, provenance, model.config))
    code = worst([*(reason.code for reason in reasons), *(ExitCode.FAIL for _ in wrong(rows))])
    compared = sum(row.status is not Status.NOT_RUN for row in rows)
    return Report(
        check="golden",
        verdict=verdict_for(code),
        exit_code=code,
        identity={"weights": provenance.identity} if identity is None else identity,
        environment=knobs.environment(),
        plan=Plan(
            planned=len(rows),
            compared=compared,
            per_path={"goldens": (len(rows), compared)},
            exempt=exempt,
        ),
        first_divergence=first_of(rows),
        results=rows,
        reasons=reasons,
        inputs={"numbers of": goldens.about, "provenance": str(standing)},
    )


def _check_model(model: GPT) -> None:
    """Refuse a model that drops features, or rounds more than those who published did."""
    coarse = sorted({str(p.dtype) for p in model.parameters()} - {"torch.float32", "torch.float64"})
    if model.training or coarse:
        state = f"holds {', '.join(coarse)}" if coarse else "is in training mode"
        raise UsageError(
            f"published numbers were got in float32 without dropout, and this model {state}",
            where="the model",
            fix="give model.float().eval()",
        )


def _planned(goldens: Goldens, subject: Subject) -> tuple[list[Golden], list[Mapping[str, str]]]:
    """Return what is asked, and what is not, with the reason."""
    reasons = {
        entry.key: EXEMPT[entry.kind](entry, subject) if entry.kind in EXEMPT else ""
        for entry in goldens.rows
    }
    exempt: list[Mapping[str, str]] = [
        {"attention": "goldens", "tap": key, "reason": why} for key, why in reasons.items() if why
    ]
    return [entry for entry in goldens.rows if not reasons[entry.key]], exempt


def _counted(asked: Sequence[Golden], progress: Progress) -> Iterator[Golden]:
    for done, entry in enumerate(asked):
        progress(f"golden {entry.key}", done, len(asked))
        yield entry


def _row(entry: Golden, subject: Subject) -> GoldenRow:
    model = subject.model
    dtype = str(model.tokens_embed.weight.dtype).removeprefix("torch.")
    try:
        measured = KINDS[entry.kind](entry, subject)
    except NoValueError as error:
        return row_without(entry, error, attention=model.attention, dtype=dtype)
    return row_of(entry, measured, attention=model.attention, dtype=dtype)
