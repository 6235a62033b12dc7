"""What `python -m parity.convert` does: from a source's name to a folder and a text about it."""

from pathlib import Path

from parity.errors import UsageError
from parity.export import Form, export, refuse_loss
from parity.mapping import Side
from parity.provenance import FileDigest, Standing
from parity.refusals import coded
from parity.report.text_conversion import render
from parity.sources.names import load_weights
from parity.weights import Weights
from scratch_gpt.command.output import drawn
from scratch_gpt.command.progress import Progress
from scratch_gpt.command.telling import one_line

_SIDES = {Form.HUGGINGFACE: Side.HUGGINGFACE, Form.OPENAI: Side.RELEASE}


def convert(  # noqa: PLR0913 - the command's arguments
    source: str, destination: Path, to: str, *, dry_run: bool, force: bool, progress: Progress
) -> str:
    """Convert, or with `dry_run` only say what would be done; return the text to print.

    Args:
        source: As `--weights`.
        destination: The folder to write.
        to: A `Form`.
        dry_run: Whether to write nothing.
        force: Whether weights of the same form may be replaced.
        progress: Called as it goes on.

    Raises:
        ParityError: It could not be done; nothing was changed.
    """
    form = Form(to)
    if not str(destination).strip():
        raise UsageError("the destination has no name", where="DESTINATION", fix="name a folder")
    if source == "auto":
        raise UsageError(
            "auto may be the surrogate, so it is not converted",
            where="SOURCE",
            fix="say which: openai-gpt or surrogate",
        )
    progress(f"reading {source}", 0, 3)
    weights = load_weights(source, lambda done, total: progress(f"drawing {done}", done, total))
    table = drawn(lambda console: render(weights.config, _SIDES[form], console), None)
    refuse_loss(destination, form, overwrite=force)
    if dry_run:
        return f"{table}\n{_about(weights)}nothing was written\n"
    with coded():
        files = export(weights, destination, form, overwrite=force, progress=progress)
    return f"{table}\n{_about(weights)}{_written(files, destination)}"


def _about(weights: Weights) -> str:
    """Return what the source is: a line for the weights and one for each file."""
    provenance = weights.provenance
    count = sum(array.size for array in weights.tensors.values())
    known = "" if provenance.standing is Standing.UNKNOWN else f" ({provenance.standing})"
    lines = [
        f"source    {one_line(provenance.source)}{known}",
        f"          {len(weights.tensors)} tensors, {count:,} parameters, {provenance.dtype}",
        f"          sha256 {provenance.sha256[:16]}…",
        *(f"          {_file(file)}" for file in provenance.files),
    ]
    return "\n".join(lines) + "\n"


def _written(files: list[FileDigest], destination: Path) -> str:
    """Return what was written."""
    lines = [f"written   {one_line(str(destination))}, read back and equal to the bit"]
    return "\n".join([*lines, *(f"          {_file(file)}" for file in files)]) + "\n"


def _file(file: FileDigest) -> str:
    return f"{one_line(file.name)}  {file.size:,} bytes, sha256 {file.sha256[:16]}…"
