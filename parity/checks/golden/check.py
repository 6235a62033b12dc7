"""The golden check: compares numbers of the released weights with published ones.

Every other check compares two sides with the same weights, so wrong weights agree. Published
numbers are independent: greedy ids, a logit, word probabilities, losses, norms and digests,
computed by others with other code. A difference can come from the model or from the weights; the
digests of the files decide:

| the files are | all numbers agree | a number differs |
|---|---|---|
| the published ones | pass | 1: the weights are right, so our model is not |
| not what they say | 4 | 4: get the file again before asking anything else |
| of unknown provenance | pass | 4: not shown to be the released weights |

A pass on unknown files is a pass: released weights that were converted have no published digest,
and no other weights give the same 654 probabilities and twelve norms. Another config than the
released model's is rejected (4) with any files, since no tensor shows the number of heads. A number
that cannot be computed makes the run inconclusive (3); one that is not compared is listed with its
reason.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch

from parity.checkpoints.weights import DECIDES_NUMBERS, Provenance, Standing
from parity.checks.golden.measure import KINDS, NOT_COMPARED, GoldenModel
from parity.checks.golden.rows import NoValueError, golden_row, row_without
from parity.checks.golden.sections import sections
from parity.core import environment
from parity.core.metrics import Status
from parity.core.results import FirstDivergence, Plan, Reason, Report, Row, finish
from parity.errors import EnvironmentUnfitError, ExitCode, UsageError
from reference.published import Golden, Goldens, Kind, published
from scratch_gpt.config import GPTConfig
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

HOW_TO_GET_THEM = (
    "give --weights openai-gpt (downloads them from the hub once), or --weights FOLDER that holds "
    "openai-community/openai-gpt's model.safetensors or OpenAI's params_0.npy to params_9.npy"
)


def wrong_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with another value, or with one that is not finite."""
    return [row for row in rows if row.status not in (Status.PASS, Status.NOT_RUN)]


_NO_TENSORS = {".json", ".txt", ".bpe"}
"""Suffixes of files beside the weights: configs, whose fields are compared, and vocabularies, which
no golden uses."""


def standing_of(goldens: Goldens, provenance: Provenance) -> Standing:
    """Return the provenance status of the weights with regard to the goldens."""
    if goldens.sha256 is not None:
        return Standing.KNOWN if goldens.sha256 == provenance.sha256 else Standing.UNKNOWN
    if provenance.standing is Standing.DIFFERS:
        return Standing.DIFFERS
    found = {
        file.standing for file in provenance.files if PurePath(file.name).suffix not in _NO_TENSORS
    }
    return Standing.KNOWN if found == {Standing.KNOWN} else Standing.UNKNOWN


def golden_reasons(
    rows: Sequence[Row], goldens: Goldens, provenance: Provenance, config: GPTConfig
) -> Iterator[Reason]:
    """Yield the reasons why a run is no pass, other than a difference on known weights."""
    standing, altered = standing_of(goldens, provenance), _altered(goldens, config)
    files = [f"{file.name} ({file.standing})" for file in provenance.files]
    where = ", ".join(files) or f"weights: {provenance.source}"
    if standing is Standing.DIFFERS:
        yield Reason(
            what="a file has the name of a published one and other bytes",
            where=where,
            fix="get it again; if it was converted or saved anew, give it as a folder of your own",
            code=ExitCode.REFUSED,
        )
    if altered:
        yield Reason(
            what=f"this is not the released model's config: {', '.join(altered)}",
            where="the model's config",
            fix="use the config.json that was published with the weights",
            code=ExitCode.REFUSED,
        )
    if standing is Standing.UNKNOWN and wrong_rows(rows):
        yield Reason(
            what="these are not shown to be the weights that the published numbers are about: "
            f"{len(wrong_rows(rows))} of {len(rows)} differ",
            where=where,
            fix=f"for a verdict on the model alone use the published file: {HOW_TO_GET_THEM}",
            code=ExitCode.REFUSED,
        )
    absent = [row for row in rows if row.status is Status.NOT_RUN]
    if absent or not rows:
        yield Reason(
            what=f"{len(absent)} of {len(rows)} published numbers could not be computed",
            where=", ".join(row.tap for row in absent[:3]) or "the list of goldens",
            fix=absent[0].detail if absent else "give at least one golden",
            code=ExitCode.INCONCLUSIVE,
        )


def _altered(goldens: Goldens, config: GPTConfig) -> list[str]:
    """Return the fields that differ from the released model's; none for goldens of another."""
    if goldens.sha256 is not None:
        return []
    here, released = dataclasses.asdict(config), dataclasses.asdict(GPTConfig())
    return [
        f"{name} {here[name]} for {released[name]}"
        for name in DECIDES_NUMBERS
        if here[name] != released[name]
    ]


_SUSPECTS = {
    Kind.MATRIX_NORMS: "a tensor that is not the published one: run `weights`",
    Kind.FIRST_PARAMETERS: "embeddings in each other's place, or other weights: run `weights`",
    Kind.PARAMETER_COUNT: "another shape, or a head that is not the embedding",
    Kind.FILE_DIGEST: "a damaged or an altered file",
    Kind.EXP_LOSS: "targets that are not shifted, or the model: run `layerwise`",
}
"""Likely causes; those of all other kinds are `_OPERATION`."""

_OPERATION = "an operation of the model: run `layerwise`"


def first_golden_difference(rows: Sequence[Row]) -> FirstDivergence | None:
    """Return the first wrong row, with its likely cause."""
    failing = next(iter(wrong_rows(rows)), None)
    if failing is None:
        return None
    return FirstDivergence(
        tap=failing.tap,
        why=failing.detail or "{got!r} for {expected!r}".format(**failing.details),
        suspects=_SUSPECTS.get(Kind(failing.details["kind"]), _OPERATION),
        row=failing,
    )


def require_read(provenance: Provenance) -> None:
    """Require weights that were read from files.

    Raises:
        EnvironmentUnfitError: No file was read.
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
    """Compute every golden's number with our model and compare it with the published one.

    Args:
        model: Our model, float32 or float64, in evaluation mode.
        provenance: The origin of its weights.
        goldens: The published numbers; those of the released weights if None.
        identity: Weights, config and code, for the report.
        progress: Called as the check goes on.

    Raises:
        EnvironmentUnfitError: The weights for the released numbers were not read from files.
        UsageError: The model is in training mode, or in a dtype coarser than float32.
    """
    if goldens is None:
        require_read(provenance)
        goldens = published()
    _check_model(model)
    asked, exempt = _planned(goldens, GoldenModel(model, provenance, ()))
    subject = GoldenModel(model, provenance, asked, progress)
    dtype = str(model.tokens_embed.weight.dtype).removeprefix("torch.")
    common = {"backend": model.backend, "dtype": dtype}
    rows = []
    with environment.pinned_settings(), torch.no_grad():
        for done, entry in enumerate(asked):
            progress(f"golden {entry.key}", done, len(asked))
            try:
                rows.append(golden_row(entry, KINDS[entry.kind](entry, subject), **common))
            except NoValueError as error:
                rows.append(row_without(entry, error, **common))
    standing = standing_of(goldens, provenance)
    reasons = list(golden_reasons(rows, goldens, provenance, model.config))
    compared = sum(row.status is not Status.NOT_RUN for row in rows)
    return finish(
        "golden",
        rows=rows,
        plan=Plan.of({"goldens": (len(rows), compared)}, exempt),
        identity={"weights": provenance.identity} if identity is None else identity,
        environment=environment.environment(),
        reasons=reasons,
        first_divergence=first_golden_difference(rows),
        sections=list(sections(rows, exempt)),
        inputs={"numbers of": goldens.about, "provenance": str(standing)},
    )


def _check_model(model: GPT) -> None:
    """Require evaluation mode, and a dtype as precise as that of the published numbers."""
    coarse = sorted({str(p.dtype) for p in model.parameters()} - {"torch.float32", "torch.float64"})
    if model.training or coarse:
        state = f"holds {', '.join(coarse)}" if coarse else "is in training mode"
        raise UsageError(
            f"published numbers were got in float32 without dropout, and this model {state}",
            where="the model",
            fix="give model.float().eval()",
        )


def _planned(
    goldens: Goldens, subject: GoldenModel
) -> tuple[list[Golden], list[Mapping[str, str]]]:
    reasons = {
        entry.key: NOT_COMPARED[entry.kind](entry, subject) if entry.kind in NOT_COMPARED else ""
        for entry in goldens.rows
    }
    exempt: list[Mapping[str, str]] = [
        {"backend": "goldens", "tap": key, "reason": why} for key, why in reasons.items() if why
    ]
    return [entry for entry in goldens.rows if not reasons[entry.key]], exempt
