"""Weights written to a folder, in Hugging Face's form or the release's, and read back before use.

The folder appears whole or not at all. Before it does, it is read back by the reader that any
user's `--weights` goes through, and its digest must be that of the weights.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from pathlib import Path

import torch

from parity.conversion import convert
from parity.errors import ParityError, UsageError
from parity.mapping import Side
from parity.provenance import FileDigest
from parity.refusals import coded
from parity.sources import huggingface_files, manifest, openai_folder, vocabulary
from parity.weights import Weights, gather
from reference import openai_release
from reference.plain_file import digested_path
from scratch_gpt import checkpoint
from scratch_gpt.command.progress import Progress
from scratch_gpt.config import GPTConfig
from scratch_gpt.files.replaced_folder import replaced_folder
from scratch_gpt.files.weight_names import other_weights


class Form(StrEnum):
    """A form that weights can be written in; ours is Hugging Face's."""

    HUGGINGFACE = "huggingface"
    OPENAI = "openai"


def export(
    weights: Weights, destination: Path, form: Form, *, overwrite: bool, progress: Progress
) -> list[FileDigest]:
    """Write weights into a folder; return what it holds then.

    Args:
        weights: What to write.
        destination: The folder. It is made if it is not there.
        form: Whose form to write.
        overwrite: Whether weights of the same form that are there may be replaced.
        progress: Called as it goes on.

    Raises:
        UsageError: There is something that would be lost, or would lie beside the new weights.
        WriteError: The file system refused; what stood there before is as it was.
        ParityError: What was written does not read back to the bit.
    """
    with replaced_folder(
        destination,
        overwrite=overwrite,
        require=lambda folder: refuse_loss(folder, form, overwrite=overwrite),
        verify=lambda folder: _check(weights, folder, form),
    ) as staging:
        progress(f"writing {form}", 0, 2)
        WRITERS[form](weights, staging)
        vocabulary.copy(weights.folder, staging, openai=form is Form.OPENAI)
        files = [_digest(path) for path in sorted(staging.iterdir())]
        described = manifest.text(
            weights.provenance,
            form=form,
            tensors=weights.tensors,
            files=files,
            shards=weights.shards,
        )
        (staging / manifest.NAME).write_text(described, encoding="utf-8")
        progress("reading it back, and moving it into place", 1, 2)
    return files


def refuse_loss(destination: Path, form: Form, *, overwrite: bool) -> None:
    """Refuse a folder whose weights would be lost unasked, or would lie beside the new ones.

    Of two weights in one folder nobody could know which is meant.
    """
    others = other_weights(destination, _WEIGHTS[form])
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


_WEIGHTS: Mapping[Form, Sequence[str]] = {
    Form.HUGGINGFACE: ("model.safetensors",),
    Form.OPENAI: (*openai_release.SHARDS, "params_shapes.json"),
}


def _write_huggingface(weights: Weights, folder: Path) -> None:
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    checkpoint.write(folder, GPTConfig.from_huggingface(weights.config), tensors)


def _write_openai(weights: Weights, folder: Path) -> None:
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.RELEASE)
    config = GPTConfig.from_huggingface(weights.config).to_huggingface()
    shards = weights.shards
    openai_release.write(
        folder,
        list(named.values()),
        config=config,
        lengths=None if shards is None else [shard.length for shard in shards],
        headers=None if shards is None else [shard.header for shard in shards],
    )


WRITERS: Mapping[Form, Callable[[Weights, Path], None]] = {
    Form.HUGGINGFACE: _write_huggingface,
    Form.OPENAI: _write_openai,
}
"""What writes each form's weights and config into an empty folder."""


def _digest(path: Path) -> FileDigest:
    return FileDigest(**dataclasses.asdict(digested_path(path)))


def _check(weights: Weights, folder: Path, form: Form) -> None:
    """Require that what was written reads back to the bit."""
    reader = huggingface_files.read if form is Form.HUGGINGFACE else openai_folder.read
    with coded():
        found = gather(reader(folder, source="what was written")).provenance.sha256
    if found != weights.provenance.sha256:
        raise ParityError(
            f"what was written reads back as other weights: {found}",
            where=f"the {form} form of {weights.provenance.sha256}",
            fix="nothing was kept; check the disk, and report this",
        )
