"""Weights in the form of OpenAI's release: ten shards without a name in them."""

import dataclasses
from pathlib import Path

import torch

from parity.mapping import Side, rows
from parity.provenance import FileDigest
from parity.sources import config_beside, vocabulary
from parity.weights import Checkpoint, Shard
from reference import openai_release
from scratch_gpt.config import GPTConfig


def recognised(folder: Path) -> bool:
    """Return whether a folder is, or was meant to be, in this form."""
    marks = ("params_shapes.json", *openai_release.SHARDS)
    return any((folder / name).exists() for name in marks)


def read(folder: Path, *, source: str) -> Checkpoint:
    """Return what a release's folder holds.

    Shards without a config are accepted in the published shapes alone, and so claim to be the
    published ones; with one they may be anybody's.

    Raises:
        SourceError: A file is unsound or cannot be read.
        InputRefusedError, CheckpointError: Config or vocabulary are not the weights'.
    """
    release = openai_release.read(folder)
    bare = release.config is None
    fields = GPTConfig().to_huggingface() if bare else config_beside.read(folder)
    vocabulary.check(folder, fields)
    names = [row.release for row in rows((len(release.tensors) - 2) // 12)]
    tensors = map(torch.from_numpy, release.tensors)
    return Checkpoint(
        state=dict(zip(names, tensors, strict=True)),
        side=Side.RELEASE,
        fields=fields,
        source=source,
        files=[
            FileDigest(**dataclasses.asdict(file)).judged(released=bare) for file in release.files
        ],
        folder=folder,
        shards=[Shard(*shard) for shard in zip(release.lengths, release.headers, strict=True)],
    )
