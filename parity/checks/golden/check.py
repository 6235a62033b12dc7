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

# Reasons, from the rows and the provenance of the weights.


HOW_TO_GET_THEM = (
    "give --weights openai-gpt (downloads them from the hub once), or --weights FOLDER that holds "
    "openai-community/openai-gpt's model.safetensors or OpenAI's params_0.npy to params_9.npy"
)


def wrong_rows(rows: Sequence[Row]) -> list[Row]:
    """Return the rows for which something else was got, or nothing finite."""
    return [row for row in rows if row.status not in (Status.PASS, Status.NOT_RUN)]


_NO_TENSORS = {".json", ".txt", ".bpe"}
"""Suffixes of files beside the weights: configs, which are judged by what they say, and
vocabularies, which no golden goes through."""


def standing_of(goldens: Goldens, provenance: Provenance) -> Standing:
    """Return whether these bytes are those of the weights that the goldens are about."""
    if goldens.sha256 is not None:
        return Standing.KNOWN if goldens.sha256 == provenance.sha256 else Standing.UNKNOWN
    if provenance.standing is Standing.DIFFERS:
        return Standing.DIFFERS
    held = {
        file.standing for file in provenance.files if PurePath(file.name).suffix not in _NO_TENSORS
    }
    return Standing.KNOWN if held == {Standing.KNOWN} else Standing.UNKNOWN


def golden_reasons(
    rows: Sequence[Row], goldens: Goldens, provenance: Provenance, config: GPTConfig
) -> Iterator[Reason]:
    """Yield what keeps a run from being a pass, but for a difference on known weights."""
    standing, altered = standing_of(goldens, provenance), _altered(goldens, config)
    if standing is Standing.DIFFERS:
        yield _not_published(provenance)
    if altered:
        yield _not_its_config(altered)
    if standing is Standing.UNKNOWN and wrong_rows(rows):
        yield _not_shown(rows, provenance)
    absent = [row for row in rows if row.status is Status.NOT_RUN]
    if absent or not rows:
        yield _not_computed(absent, len(rows))


def _not_published(provenance: Provenance) -> Reason:
    return Reason(
        what="a file is not the published one that it is said to be",
        where=_files(provenance),
        fix="get it again; if it was converted or saved anew, give it as a folder of your own",
        code=ExitCode.REFUSED,
    )


def _not_its_config(altered: Sequence[str]) -> Reason:
    return Reason(
        what=f"this is not the released model's config: {', '.join(altered)}",
        where="the model's config",
        fix="use the config.json that was published with the weights",
        code=ExitCode.REFUSED,
    )


def _not_shown(rows: Sequence[Row], provenance: Provenance) -> Reason:
    return Reason(
        what="these are not shown to be the weights that the published numbers are about: "
        f"{len(wrong_rows(rows))} of {len(rows)} differ",
        where=_files(provenance),
        fix=f"for a verdict on the model alone use the published file: {HOW_TO_GET_THEM}",
        code=ExitCode.REFUSED,
    )


def _not_computed(absent: Sequence[Row], planned: int) -> Reason:
    return Reason(
        what=f"{len(absent)} of {planned} published numbers could not be computed",
        where=", ".join(row.tap for row in absent[:3]) or "the list of goldens",
        fix=absent[0].detail if absent else "give at least one golden",
        code=ExitCode.INCONCLUSIVE,
    )


def _altered(goldens: Goldens, config: GPTConfig) -> list[str]:
    """Return the fields that are not the released model's; none where goldens are of another."""
    if goldens.sha256 is not None:
        return []
    here, released = dataclasses.asdict(config), dataclasses.asdict(GPTConfig())
    return [
        f"{name} {here[name]} for {released[name]}"
        for name in DECIDES_NUMBERS
        if here[name] != released[name]
    ]


def _files(provenance: Provenance) -> str:
    """Return each file with its standing, or what the weights are where no file was read."""
    files = [f"{file.name} ({file.standing})" for file in provenance.files]
    return ", ".join(files) or f"weights: {provenance.source}"


_SUSPECTS = {
    Kind.MATRIX_NORMS: "a tensor that is not the published one: ask `weights`",
    Kind.FIRST_PARAMETERS: "embeddings in each other's place, or other weights: ask `weights`",
    Kind.PARAMETER_COUNT: "another shape, or a head that is not the embedding",
    Kind.FILE_DIGEST: "a damaged or an altered file",
    Kind.EXP_LOSS: "targets that are not shifted, or the model: ask `layerwise`",
}
"""Likely causes; of any other kind `_OPERATION`."""

_OPERATION = "an operation of the model: ask `layerwise`"


def first_golden_difference(rows: Sequence[Row]) -> FirstDivergence | None:
    """Return the first golden that is not met."""
    failing = next(iter(wrong_rows(rows)), None)
    if failing is None:
        return None
    return FirstDivergence(
        tap=failing.tap,
        why=failing.detail or "{got!r} for {expected!r}".format(**failing.details),
        suspects=_SUSPECTS.get(
            Kind(failing.details["kind"]), "an operation of the model: ask `layerwise`"
        ),
        row=failing,
    )


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
    asked, exempt = _planned(goldens, GoldenModel(model, provenance, ()))
    subject = GoldenModel(model, provenance, asked, progress)
    with environment.pinned_settings(), torch.no_grad():
        rows = [_row(entry, subject) for entry in _counted(asked, progress)]
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
    """Refuse a model that drops features, or rounds more than those who published did."""
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
    """Return what is asked, and what is not, with the reason."""
    reasons = {
        entry.key: NOT_COMPARED[entry.kind](entry, subject) if entry.kind in NOT_COMPARED else ""
        for entry in goldens.rows
    }
    exempt: list[Mapping[str, str]] = [
        {"backend": "goldens", "tap": key, "reason": why} for key, why in reasons.items() if why
    ]
    return [entry for entry in goldens.rows if not reasons[entry.key]], exempt


def _counted(asked: Sequence[Golden], progress: Progress) -> Iterator[Golden]:
    for done, entry in enumerate(asked):
        progress(f"golden {entry.key}", done, len(asked))
        yield entry


def _row(entry: Golden, subject: GoldenModel) -> Row:
    model = subject.model
    dtype = str(model.tokens_embed.weight.dtype).removeprefix("torch.")
    try:
        measured = KINDS[entry.kind](entry, subject)
    except NoValueError as error:
        return row_without(entry, error, backend=model.backend, dtype=dtype)
    return golden_row(entry, measured, backend=model.backend, dtype=dtype)
