"""Weights under our names, whatever form they stood in, with what they are and came from."""

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

# What weights are and where they came from, as every verdict says it.


class Standing(StrEnum):
    """How a file stands to those that were published."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    DIFFERS = "differs from the published file"


_STANDINGS = {
    "known": Standing.KNOWN,
    "unknown": Standing.UNKNOWN,
    "differs": Standing.DIFFERS,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileDigest:
    """One file that weights were read from.

    Attributes:
        name: Its name, without folders.
        size: In bytes.
        sha256: Of its bytes.
        git_blob: SHA-1 that git gives its bytes, where a published one is known by that.
        standing: Whether these are the published bytes.
    """

    name: str
    size: int
    sha256: str
    git_blob: str | None = None
    standing: Standing = Standing.UNKNOWN

    def judged(self, *, released: bool) -> "FileDigest":
        """Return the same with its standing.

        Args:
            released: Whether the file is said to be the released model's, so that a published
                name claims the published bytes.
        """
        found = published.standing(
            self.name, sha256=self.sha256, git_blob=self.git_blob, released=released
        )
        return dataclasses.replace(self, standing=_STANDINGS[found])


_TENSORS = {".safetensors", ".bin", ".pt", ".pth", ".npy"}
"""Endings of files that hold tensors; a config or an index beside them has no published digest."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where weights came from.

    Attributes:
        source: What they are, in words.
        revision: Which edition: a commit, or `unknown`.
        sha256: Over every tensor's name and float32 bytes, whatever file they stood in.
        dtype: Type they were stored in.
        files: Every file read; none for drawn weights.
        released_config: Whether every field of the config that decides a number is the released
            model's.
    """

    source: str
    revision: str
    sha256: str
    dtype: str = "float32"
    files: Sequence[FileDigest] = ()
    released_config: bool = True

    @property
    def standing(self) -> Standing:
        """Whether the weights are the published ones.

        One file that differs decides. Else all files with tensors must be published ones, and
        the config must be theirs: no tensor knows how many heads there are.
        """
        if Standing.DIFFERS in {file.standing for file in self.files}:
            return Standing.DIFFERS
        held = {file.standing for file in self.files if PurePath(file.name).suffix in _TENSORS}
        known = held == {Standing.KNOWN} and self.released_config
        return Standing.KNOWN if known else Standing.UNKNOWN

    @property
    def identity(self) -> dict[str, Any]:
        """Return what a report says about the weights."""
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
    """How one of the release's shards was written: NumPy's headers differ from year to year."""

    length: int
    header: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights and what they are.

    Attributes:
        config: Fields of the model's config, in Hugging Face's names.
        tensors: Our name to float32 array. Models copy them; nobody writes to them.
        provenance: Where they came from.
        folder: Where their files lie, and their vocabulary may; None for drawn weights.
        shards: How the release's shards were cut; None where there were none.
    """

    config: Mapping[str, Any]
    tensors: Arrays
    provenance: Provenance
    folder: Path | None = None
    shards: Sequence[Shard] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """Return what a verdict says about its weights."""
        return self.provenance.identity


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a reader of one form found.

    Attributes:
        state: Name to tensor, of a float type that float32 holds exactly. On Hugging Face's side
            with or without the prefix `transformer.`, buffers and the head.
        side: Whose names `state` has.
        fields: The config that came with them, in Hugging Face's names.
        source: What they are, in words.
        revision: Which edition.
        files: What was read.
        folder: Where the files lie.
        shards: How the release's shards were cut.
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
        InputRejectedError: The config is not a GPT-1's, or the tensors are not its.
    """
    try:
        config = checkpoint.config_of(found.fields).to_huggingface()
    except ValueError as error:
        raise InputRejectedError(
            str(error),
            where=f"the config of {found.source}",
            fix="correct config.json, or take the one that belongs to the weights",
        ) from error
    named = without_prefix(found.state) if found.side is Side.HUGGINGFACE else found.state
    ours = convert(named, config, source=found.side, target=Side.OURS)
    tensors = dict(zip(ours, copy_parallel(_widened, ours.items()), strict=True))
    provenance = Provenance(
        source=found.source,
        revision=found.revision,
        sha256=digest(tensors),
        dtype=_types(ours),
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


def without_prefix(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the state in the names of a model with a head; a bare model's lack the prefix.

    Only a state in which no tensor has the prefix is a bare model's: a mixture stays as it is,
    for the conversion to refuse.
    """
    if any(name.startswith(_PREFIX) for name in state):
        return dict(state)
    return {name if name == _HEAD else _PREFIX + name: tensor for name, tensor in state.items()}


def digest(tensors: Arrays) -> str:
    """Return one SHA-256 for all tensors: over the sorted lines of name and digest.

    The same as `reference.surrogate.Surrogate.sha256`, so that the surrogate is recognised in
    whatever form it was read.
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
    """Return a tensor as a float32 array with every value as it is."""
    name, tensor = named
    if tensor.dtype not in _EXACT_IN_FLOAT32:
        raise InputRejectedError(
            f"{name} is {tensor.dtype}, which float32 does not hold exactly",
            where=name,
            fix="save the weights as float32, bfloat16 or float16",
        )
    array: NDArray[np.float32] = tensor.detach().float().contiguous().numpy()
    return array


def _types(tensors: Mapping[str, Tensor]) -> str:
    """Return the storage type, or all of them where they differ."""
    return ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in tensors.values()}))
