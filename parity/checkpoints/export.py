"""Export: weights written to a folder, in Hugging Face's form or the release's, and read back.

The folder appears whole or not at all. Before that the reader behind `--weights` reads it back, and
its digest must equal that of the weights.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from parity.checkpoints import huggingface_files, load
from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import Side, convert, rows, shape_sizes
from parity.checkpoints.weights import Checkpoint, FileDigest, Standing, Weights, gather
from parity.errors import ParityError, UsageError, mapped_errors
from reference import openai_release
from reference.files import digest_path
from scratch_gpt.checkpoint import checkpoint
from scratch_gpt.checkpoint.atomic import replace_folder, require_replaceable
from scratch_gpt.checkpoint.checkpoint import other_weight_files
from scratch_gpt.cli import render_rich
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import CommandError, one_line
from scratch_gpt.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class Form:
    """A form of weights on disk; ours is Hugging Face's.

    Attributes:
        files: The names of its files with weights.
        write: Writes weights and config into an empty folder.
        read: Reads them back; takes the folder and its name in messages.
        tensors: Our name, the form's name and its shape for each tensor, given a config.
    """

    name: str
    files: Sequence[str]
    write: Callable[[Weights, Path], None]
    read: Callable[[Path, str], Checkpoint]
    tensors: Callable[[Mapping[str, Any]], Iterable[tuple[str, str, Sequence[int]]]]

    def __str__(self) -> str:
        """Return the name."""
        return self.name


def export(
    weights: Weights, destination: Path, form: Form, *, overwrite: bool, progress: Progress
) -> list[FileDigest]:
    """Write weights into a folder, created if needed; return the digests of its files.

    With `overwrite` existing weights of the same form may be replaced.

    Raises:
        UsageError: Files would be lost, or other weights would stay beside the new ones.
        WriteError: The file system failed; the previous contents are unchanged.
        ParityError: The written weights do not read back bit for bit.
    """
    with replace_folder(
        destination,
        overwrite=overwrite,
        require=lambda folder: refuse_loss(folder, form, overwrite=overwrite),
        verify=lambda folder: _check(weights, folder, form),
    ) as staging:
        progress(f"writing {form}", 0, 2)
        form.write(weights, staging)
        huggingface_files.copy_vocabulary(weights.folder, staging, openai=form.name == OPENAI.name)
        digests = (digest_path(path) for path in sorted(staging.iterdir()))
        files = [FileDigest(**dataclasses.asdict(digest)) for digest in digests]
        described = huggingface_files.index_text(weights, form=form.name, files=files)
        (staging / huggingface_files.INDEX_FILE).write_text(described, encoding="utf-8")
        progress("reading it back, and moving it into place", 1, 2)
    return files


def refuse_loss(destination: Path, form: Form, *, overwrite: bool) -> None:
    """Reject a folder whose files would be lost, or whose weights would stay beside the new ones.

    Two sets of weights in one folder are ambiguous.
    """
    others = other_weight_files(destination, form.files)
    if others:
        raise UsageError(
            f"the folder holds weights that would stay beside the new ones: {others[0]}",
            where=str(destination),
            fix="choose another folder",
        )
    if not overwrite and destination.is_dir() and any(destination.iterdir()):
        raise UsageError(
            "the folder is not empty",
            where=str(destination),
            fix="choose another folder, or give --force to replace the weights in it",
        )


def _write_huggingface(weights: Weights, folder: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    checkpoint.write_checkpoint(folder, GPTConfig.from_huggingface(weights.config), tensors)


def _write_openai(weights: Weights, folder: Path) -> None:
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.RELEASE)
    config = GPTConfig.from_huggingface(weights.config).to_huggingface()
    shards = weights.shards
    openai_release.write_release(
        folder,
        list(named.values()),
        config=config,
        lengths=None if shards is None else [shard.length for shard in shards],
        headers=None if shards is None else [shard.header for shard in shards],
    )


def _tensors(side: Side, config: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[int]]]:
    axis_sizes = shape_sizes(config)
    for row in rows(config["n_layer"]):
        yield row.ours, row.name(side), row.shape(side, axis_sizes)


HUGGINGFACE = Form(
    name="huggingface",
    files=("model.safetensors",),
    write=_write_huggingface,
    read=lambda folder, source: huggingface_files.read_huggingface(folder, source=source),
    tensors=partial(_tensors, Side.HUGGINGFACE),
)
OPENAI = Form(
    name="openai",
    files=(*openai_release.SHARDS, "params_shapes.json"),
    write=_write_openai,
    read=lambda folder, source: load.read_openai(folder, source=source),
    tensors=partial(_tensors, Side.RELEASE),
)
FORMS = {form.name: form for form in (HUGGINGFACE, OPENAI)}


def _check(weights: Weights, folder: Path, form: Form) -> None:
    """Require that the written weights read back bit for bit."""
    try:
        with mapped_errors():
            found = gather(form.read(folder, "what was written")).provenance.sha256
        what = f"what was written reads back as other weights: {found}"
    except CommandError as error:  # its place is the staging folder, which is removed
        found, what = None, f"what was written does not read back: {error.what}"
    if found != weights.provenance.sha256:
        raise ParityError(
            what,
            where=f"the {form} form of {weights.provenance.sha256}",
            fix="nothing was kept; check the disk, and report this",
        )


def render_conversion(config: Mapping[str, Any], form: Form, console: Console) -> None:
    """Print the table of tensors: our name, the form's name and its shape."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("tensor", f"in the {_HEADINGS.get(form.name, form.name)} form", "shape"):
        table.add_column(heading, no_wrap=True)
    for ours, name, shape in form.tensors(config):
        table.add_row(Text(ours), Text(name), Text(str(list(shape))))  # not markup: [positions]
    console.print(table)


_HEADINGS = {OPENAI.name: str(Side.RELEASE)}


def run_conversion(  # noqa: PLR0913 - the command's arguments
    source: str,
    destination: Path,
    form: Form,
    *,
    dry_run: bool,
    force: bool,
    strict: bool,
    progress: Progress,
    read: Callable[..., Weights] = load_weights,
) -> str:
    """Convert weights, or with `dry_run` only list the tensors; return the text to print.

    `source` is as `--weights`, or what `read` takes; with `force` existing weights of the same form
    may be replaced, and with `strict` a source with notes is rejected.

    Raises:
        ParityError: The conversion failed; nothing was changed.
    """
    if source == "auto":
        raise UsageError(
            "auto may be the surrogate, so it is not converted",
            where="SOURCE",
            fix="name one of them: openai-gpt or surrogate",
        )
    with mapped_errors():
        refuse_loss(destination, form, overwrite=force)
        require_replaceable(destination, overwrite=force)
    progress(f"reading {source}", 0, 3)
    weights = read(
        source, lambda done, total: progress(f"drawing {done}", done, total), strict=strict
    )
    table = render_rich(lambda console: render_conversion(weights.config, form, console), None)
    if dry_run:
        return f"{table}\n{_about(weights)}nothing was written\n"
    with mapped_errors():
        files = export(weights, destination, form, overwrite=force, progress=progress)
    written = [f"written   {one_line(str(destination))}, read back and equal to the bit"]
    written += [f"          {_file(file)}" for file in files]
    return f"{table}\n{_about(weights)}" + "\n".join(written) + "\n"


def _about(weights: Weights) -> str:
    """Return the description of the source: the weights, and a line for each file."""
    provenance = weights.provenance
    count = sum(array.size for array in weights.tensors.values())
    known = "" if provenance.standing is Standing.UNKNOWN else f" ({provenance.standing})"
    lines = [
        f"source    {one_line(provenance.source)}{known}",
        f"          {len(weights.tensors)} tensors, {count:,} parameters, {provenance.dtype}",
        f"          sha256 {provenance.sha256[:16]}…",
        *(f"          {_file(file)}" for file in provenance.files),
        *(
            f"note      {one_line(note)}"
            for note in (*provenance.notes, *huggingface_files.links_out(weights.folder))
        ),
    ]
    return "\n".join(lines) + "\n"


def _file(file: FileDigest) -> str:
    return f"{one_line(file.name)}  {file.size:,} bytes, sha256 {file.sha256[:16]}…"
