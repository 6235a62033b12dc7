"""What the rows of goldens amount to: are the weights at fault, the model, or nobody?"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import PurePath

from parity.compare import Status
from parity.errors import ExitCode
from parity.goldens.rows import GoldenRow
from parity.provenance import Provenance, Standing
from parity.results import FirstDivergence, Reason
from parity.weights import DECIDES_NUMBERS
from reference.golden_schema import Goldens, Kind
from scratch_gpt.config import GPTConfig

HOW_TO_GET_THEM = (
    "give --weights openai-gpt (downloads them from the hub once), or --weights FOLDER that holds "
    "openai-community/openai-gpt's model.safetensors or OpenAI's params_0.npy to params_9.npy"
)


def wrong(rows: Sequence[GoldenRow]) -> list[GoldenRow]:
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


def reasons_of(
    rows: Sequence[GoldenRow], goldens: Goldens, provenance: Provenance, config: GPTConfig
) -> Iterator[Reason]:
    """Yield what keeps a run from being a pass, but for a difference on known weights."""
    standing, altered = standing_of(goldens, provenance), _altered(goldens, config)
    if standing is Standing.DIFFERS:
        yield _not_published(provenance)
    if altered:
        yield _not_its_config(altered)
    if standing is Standing.UNKNOWN and wrong(rows):
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


def _not_shown(rows: Sequence[GoldenRow], provenance: Provenance) -> Reason:
    return Reason(
        what="these are not shown to be the weights that the published numbers are about: "
        f"{len(wrong(rows))} of {len(rows)} differ",
        where=_files(provenance),
        fix=f"for a verdict on the model alone use the published file: {HOW_TO_GET_THEM}",
        code=ExitCode.REFUSED,
    )


def _not_computed(absent: Sequence[GoldenRow], planned: int) -> Reason:
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
"""What is usually wrong; for any other kind an operation of the model is."""


def first_of(rows: Sequence[GoldenRow]) -> FirstDivergence | None:
    """Return the first golden that is not met."""
    failing = next(iter(wrong(rows)), None)
    if failing is None:
        return None
    return FirstDivergence(
        tap=failing.tap,
        why=failing.detail or f"{failing.got!r} for {failing.expected!r}",
        suspects=_SUSPECTS.get(Kind(failing.kind), "an operation of the model: ask `layerwise`"),
        row=failing,
    )
