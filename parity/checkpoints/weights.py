"""Weights under our names in float32, with their provenance."""

import dataclasses
import gc
import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.checkpoints.mapping import Side, convert, rows, shape_sizes
from parity.errors import InputRejectedError
from parity.threads import copy_parallel
from reference import published
from scratch_gpt.checkpoint import checkpoint
from scratch_gpt.checkpoint.names import as_float32, find_tensors
from scratch_gpt.config import GPTConfig


class Standing(StrEnum):
    """Provenance status of a file."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    DIFFERS = "differs from the published file"


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileDigest:
    """A file that weights were read from: its name without folders, size in bytes, and digests.

    Attributes:
        git_blob: SHA-1 that git gives the bytes; some published files are identified by it.
    """

    name: str
    size: int
    sha256: str
    git_blob: str | None = None
    standing: Standing = Standing.UNKNOWN

    def judged(self, *, released: bool) -> "FileDigest":
        """Return the digest with its provenance status.

        A file that is `released` claims to be the released model's: then a published name requires
        the published bytes.
        """
        found = published.standing(
            self.name, sha256=self.sha256, git_blob=self.git_blob, released=released
        )
        return dataclasses.replace(self, standing=Standing[found.upper()])


_TENSORS = {".safetensors", ".bin", ".pt", ".pth", ".npy"}
"""Suffixes of files with tensors; a config or an index has no published digest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Origin of weights.

    Attributes:
        source: In words.
        revision: A commit, or `unknown`.
        sha256: Over every tensor's name and float32 bytes, in whatever file it was.
        files: Every file read; none for drawn weights.
        notes: What was renamed, rounded, left out or ignored, a sentence each.
        released_config: Whether the fields in `DECIDES_NUMBERS` are the released model's.
    """

    source: str
    revision: str
    sha256: str
    dtype: str = "float32"
    files: Sequence[FileDigest] = ()
    notes: Sequence[str] = ()
    released_config: bool = True

    @property
    def standing(self) -> Standing:
        """The provenance status of the weights.

        One file that differs decides. Else all files with tensors must be published ones, and so
        must the config: no tensor's shape shows the number of heads.
        """
        if Standing.DIFFERS in {file.standing for file in self.files}:
            return Standing.DIFFERS
        held = {file.standing for file in self.files if PurePath(file.name).suffix in _TENSORS}
        known = held == {Standing.KNOWN} and self.released_config
        return Standing.KNOWN if known else Standing.UNKNOWN

    @property
    def identity(self) -> dict[str, Any]:
        """Return the weights' entry of a report."""
        return {
            "source": self.source,
            "revision": self.revision,
            "sha256": self.sha256,
            "dtype": self.dtype,
            "provenance": str(self.standing),
            "files": [dataclasses.asdict(file) for file in self.files],
            "notes": list(self.notes),
        }


Arrays = Mapping[str, NDArray[np.float32]]


class Shard(NamedTuple):
    """The length and header of one release shard: NumPy's headers changed over the years."""

    length: int
    header: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights in memory.

    Attributes:
        config: Fields in Hugging Face's names.
        tensors: Our name to float32 array, read-only by convention: models copy them.
        folder: Folder of their files and possibly their vocabulary; None for drawn weights.
    """

    config: Mapping[str, Any]
    tensors: Arrays
    provenance: Provenance
    folder: Path | None = None
    shards: Sequence[Shard] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """The weights' entry of a report."""
        return self.provenance.identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The result of reading one form of weights.

    Attributes:
        state: Name to tensor. On Hugging Face's side, any name that `find_tensors` accepts.
        side: Whose names `state` has.
        fields: The config, in Hugging Face's names.
        source: In words.
        notes: What was left out or ignored, a sentence each.
    """

    state: dict[str, Tensor]
    side: Side
    fields: Mapping[str, Any]
    source: str
    revision: str = "unknown"
    files: Sequence[FileDigest] = ()
    notes: Sequence[str] = ()
    folder: Path | None = None
    shards: Sequence[Shard] | None = None


RELEASED = GPTConfig().to_huggingface()
DECIDES_NUMBERS = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"),
    *("afn", "layer_norm_epsilon"),
)
"""Fields of a config that change what a model in evaluation mode computes."""


def gather(found: Checkpoint, *, strict: bool = False) -> Weights:
    """Return a checkpoint's weights under our names, in float32.

    Args:
        found: The checkpoint; its state is empty afterwards.
        strict: Whether to reject what would be renamed, rounded, left out or ignored.

    Raises:
        InputRejectedError: The config is not a GPT-1's, the tensors do not fit it, or `strict`
            rejects something.
    """
    try:
        config = checkpoint.config_of(found.fields).to_huggingface()
    except ValueError as error:
        raise InputRejectedError(
            str(error),
            where=f"the config of {found.source}",
            fix="correct config.json, or take the one that belongs to the weights",
        ) from error
    notes = [*found.notes, *checkpoint.ignored(found.fields)]
    if found.side is Side.HUGGINGFACE:
        sizes = shape_sizes(config)
        named = find_tensors(
            found.state,
            {row.ours: row.shape(Side.OURS, sizes) for row in rows(config["n_layer"])},
            where=found.source,
            tied=bool(found.fields.get("tie_word_embeddings", True)),
        )
        state, notes = named.tensors, named.notes + notes
    else:
        state = convert(found.state, config, source=found.side, target=Side.OURS)
    names, dtypes = list(state), {tensor.dtype for tensor in state.values()}
    found.state.clear()  # a half-precision tensor is freed as soon as it is widened
    if dtypes != {torch.float32}:
        gc.collect()  # torch.load leaves its storages in a cycle of references
    widened = [as_float32(name, state.pop(name), found.source) for name in names]
    notes += sorted({changed for _, changed in widened if changed})
    if strict and notes:
        raise InputRejectedError(
            f"strict reading rejects it: {'; '.join(notes)}",
            where=found.source,
            fix="read it without --strict, or convert it first: python -m parity.convert",
        )
    arrays = (tensor.detach().contiguous().numpy() for tensor, _ in widened)
    tensors: dict[str, NDArray[np.float32]] = dict(zip(names, arrays, strict=True))
    provenance = Provenance(
        source=found.source,
        revision=found.revision,
        sha256=digest(tensors),
        dtype=", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes)),
        files=tuple(found.files),
        notes=tuple(notes),
        released_config=all(config[name] == RELEASED[name] for name in DECIDES_NUMBERS),
    )
    return Weights(
        config=config,
        tensors=tensors,
        provenance=provenance,
        folder=found.folder,
        shards=found.shards,
    )


def digest(tensors: Arrays) -> str:
    """Return one SHA-256 for all tensors: over the sorted lines of name and digest.

    It equals `reference.surrogate.Surrogate.sha256`, so that every form of the surrogate has it.
    """
    digests = copy_parallel(_digest, tensors.values())
    lines = "".join(
        f"{name} {value}\n" for name, value in sorted(zip(tensors, digests, strict=True))
    )
    return hashlib.sha256(lines.encode()).hexdigest()


def _digest(tensor: NDArray[np.float32]) -> str:
    return hashlib.sha256(np.ascontiguousarray(tensor, dtype="<f4").data).hexdigest()
