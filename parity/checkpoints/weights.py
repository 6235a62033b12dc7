"""Weights under our names in float32, with their provenance."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from parity.checkpoints.mapping import Side, convert
from parity.errors import InputRejectedError
from parity.threads import copy_parallel
from reference import published
from scratch_gpt.checkpoint import checkpoint
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
        released_config: Whether the fields in `DECIDES_NUMBERS` are the released model's.
    """

    source: str
    revision: str
    sha256: str
    dtype: str = "float32"
    files: Sequence[FileDigest] = ()
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
        state: Name to tensor. On Hugging Face's side the prefix `transformer.`, buffers and the
            head are optional.
        fields: The config, in Hugging Face's names.
    """

    state: Mapping[str, Tensor]
    side: Side
    fields: Mapping[str, Any]
    source: str
    revision: str = "unknown"
    files: Sequence[FileDigest] = ()
    folder: Path | None = None
    shards: Sequence[Shard] | None = None


RELEASED = GPTConfig().to_huggingface()
DECIDES_NUMBERS = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"),
    *("afn", "layer_norm_epsilon"),
)
"""Fields of a config that change what a model in evaluation mode computes."""


def gather(found: Checkpoint) -> Weights:
    """Return a checkpoint's weights under our names, in float32.

    Raises:
        InputRejectedError: The config is not a GPT-1's, the tensors do not fit it, or a dtype is
            not exact in float32.
    """
    try:
        config = checkpoint.config_of(found.fields).to_huggingface()
    except ValueError as error:
        raise InputRejectedError(
            str(error),
            where=f"the config of {found.source}",
            fix="correct config.json, or take the one that belongs to the weights",
        ) from error
    named = with_prefix(found.state) if found.side is Side.HUGGINGFACE else found.state
    ours = convert(named, config, source=found.side, target=Side.OURS)
    tensors = dict(zip(ours, copy_parallel(_widened, ours.items()), strict=True))
    provenance = Provenance(
        source=found.source,
        revision=found.revision,
        sha256=digest(tensors),
        dtype=", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in ours.values()})),
        files=tuple(found.files),
        released_config=all(config[name] == RELEASED[name] for name in DECIDES_NUMBERS),
    )
    return Weights(
        config=config,
        tensors=tensors,
        provenance=provenance,
        folder=found.folder,
        shards=found.shards,
    )


_PREFIX = "transformer."
_HEAD = "lm_head.weight"


def with_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state with the prefix that a bare model's names lack.

    A state in which some names have the prefix stays as it is: the conversion rejects a mixture.
    """
    if any(name.startswith(_PREFIX) for name in state):
        return dict(state)
    return {name if name == _HEAD else _PREFIX + name: tensor for name, tensor in state.items()}


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


_EXACT_IN_FLOAT32 = {torch.float32, torch.float16, torch.bfloat16}


def _widened(named: tuple[str, Tensor]) -> NDArray[np.float32]:
    """Return a tensor as a float32 array of the same values."""
    name, tensor = named
    if tensor.dtype not in _EXACT_IN_FLOAT32:
        raise InputRejectedError(
            f"{name} is {tensor.dtype}, which float32 does not hold exactly",
            where=name,
            fix="save the weights as float32, bfloat16 or float16",
        )
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array
