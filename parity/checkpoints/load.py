"""`--weights NAME` -> `Weights`: the hub, OpenAI's ten shards, the surrogate, a path.

`load_weights` is the entry point; the readers of the sources come first.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import constants

from parity.checkpoints import huggingface_files
from parity.checkpoints.mapping import Side, rows
from parity.checkpoints.names import RELEASED, REPOSITORY, is_path, unknown_weights
from parity.checkpoints.weights import (
    Checkpoint,
    FileDigest,
    Provenance,
    Shard,
    Standing,
    Weights,
    gather,
)
from parity.errors import InputRejectedError, mapped_errors, reading_untrusted
from reference import hub, openai_release, published, surrogate
from reference.errors import UnavailableError
from reference.hub import FetchedFolder
from scratch_gpt.config import GPTConfig


def read_hub(
    repository: str, revision: str | None = None, fetched: FetchedFolder | None = None
) -> Checkpoint:
    """Return a repository's weights; `fetched` has its files, if they were fetched before.

    The revision is a commit, branch or tag; None is the published commit, or the main branch.

    Raises:
        SourceError: They cannot be fetched, or differ from the hub's digests.
        InputRejectedError, CheckpointError: They are not a whole GPT-1.
    """
    fetched = fetched or hub.fetch(repository, revision)
    commit = fetched.commit
    origin = "the hub's cache" if fetched.from_cache else "the hub"
    count = len(fetched.unfinished)
    unfinished = f" ({count} unfinished downloads lie in the cache)" if count else ""
    return huggingface_files.read_huggingface(
        fetched.paths[huggingface_files.CONFIG_FILE].parent,
        source=f"{repository}, from {origin}, commit {commit}{unfinished}",
        revision=commit,
        released=repository in published.REPOSITORIES,
    )


def is_openai_folder(folder: Path) -> bool:
    """Return whether a folder has any file of OpenAI's release."""
    marks = ("params_shapes.json", *openai_release.SHARDS)
    return any((folder / name).exists() for name in marks)


def read_openai(folder: Path, *, source: str) -> Checkpoint:
    """Return the checkpoint in a release's folder.

    Shards without a config must have the published shapes, and claim the published bytes. Shards
    with a config may be any GPT-1's.

    Raises:
        SourceError: A file is unsound or cannot be read.
        InputRejectedError, CheckpointError: Config or vocabulary do not fit the weights.
    """
    release = openai_release.read_release(folder)
    bare = release.config is None
    fields = GPTConfig().to_huggingface() if bare else huggingface_files.read_config(folder)
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
        notes=huggingface_files.vocabulary_notes(folder, fields),
        folder=folder,
        shards=[Shard(*shard) for shard in zip(release.lengths, release.headers, strict=True)],
    )


OnTensor = Callable[[int, int], None]


def load_surrogate(size: str, on_tensor: OnTensor | None = None, why: str = "") -> Weights:
    """Return the surrogate of one size, every tensor checked against its committed digest.

    `on_tensor` is called with (tensors done, tensors in all); `why` is added to the weights' name
    in reports.

    Raises:
        InputRejectedError: The drawn tensors are not the committed ones.
    """
    try:
        drawn = surrogate.load(size, on_tensor)
    except surrogate.SurrogateMismatchError as error:
        raise InputRejectedError(
            str(error),
            where=f"surrogate weights {size!r}, drawn by NumPy {np.__version__}",
            fix="report this: the draw should give the same bits on every machine",
        ) from error
    label = "surrogate" if size == "surrogate" else f"surrogate ({size})"
    return Weights(
        config=drawn.config,
        tensors=drawn.tensors,
        provenance=Provenance(
            source=f"{label}: seeded random weights, not the released ones{why}",
            revision=f"recipe {surrogate.RECIPE}",
            sha256=drawn.sha256,
        ),
    )


def load_weights(name: str, on_tensor: OnTensor | None = None, *, strict: bool = False) -> Weights:
    """Return the weights of `--weights NAME`.

    Args:
        name: One of
            `surrogate`, or `tiny` (the same recipe, small);
            `openai-gpt`, the released weights, from the hub or its cache;
            `auto`, the same if they are cached or the hub can be connected to, else the surrogate;
            another repository of the hub, `owner/name`, with an optional `@revision`;
            a folder or file: Hugging Face's or our own form, or OpenAI's ten shards.
        on_tensor: Called with (tensors done, tensors in all) while weights are drawn.
        strict: Whether to reject what would be renamed, rounded, left out or ignored.

    Raises:
        UsageError: The name is none of these.
        InputRejectedError: The weights are damaged, hostile, of another model, or not the
            published bytes that they claim to be.
        InconclusiveError: There is no tensor in them.
        EnvironmentUnfitError: They cannot be fetched or read here.
    """
    with mapped_errors(), reading_untrusted(name):
        if name in surrogate.SIZES:
            return load_surrogate(name, on_tensor)
        if name == "auto":
            return _released_or_surrogate(on_tensor, strict=strict)
        if found := RELEASED.fullmatch(name):
            return _published(found["id"], found["revision"], strict=strict)
        if is_path(name):
            return _accepted(_local(Path(name).expanduser(), strict=strict))
        if found := REPOSITORY.fullmatch(name):
            return _published(found["id"], found["revision"], strict=strict)
    raise unknown_weights(name)


def _released_or_surrogate(on_tensor: OnTensor | None, *, strict: bool) -> Weights:
    """Return the released weights, or the surrogate if no cache has them and no hub can be reached.

    Any other failure, such as a damaged cache, is an error.
    """
    released = published.REPOSITORIES[0]
    try:
        return _published(released, None, hub.fetch(released, offline=True), strict=strict)
    except UnavailableError:
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    if not why and not hub.reachable():
        why = "the hub cannot be connected to"
    if not why:
        return _published(released, None, strict=strict)
    why = f"; {hub.describe_cache(released)}, and {why}"
    return load_surrogate("surrogate", on_tensor, why=why)


def _published(
    repository: str,
    revision: str | None,
    fetched: FetchedFolder | None = None,
    *,
    strict: bool,
) -> Weights:
    weights = _accepted(gather(read_hub(repository, revision, fetched), strict=strict))
    if repository in published.REPOSITORIES and not weights.provenance.released_config:
        raise InputRejectedError(
            "config.json is not the released model's",
            where=weights.provenance.source,
            fix="remove the repository from the hub's cache, and fetch it again",
        )
    return weights


def _accepted(weights: Weights) -> Weights:
    """Return the weights.

    Raises:
        InputRejectedError: A file that claims to be published has other bytes.
    """
    differing = [f for f in weights.provenance.files if f.standing is Standing.DIFFERS]
    if differing:
        raise InputRejectedError(
            f"{', '.join(file.name for file in differing)}: {Standing.DIFFERS}",
            where=f"{weights.provenance.source}, sha256 {differing[0].sha256}",
            fix="fetch it again; if these are other weights, keep them in a folder with their own "
            "config.json",
        )
    return weights


def _local(path: Path, *, strict: bool) -> Weights:
    """Return the weights of a folder or file."""
    if not path.exists():
        what = "it is a link to nothing" if path.is_symlink() else "there is nothing at that path"
        raise InputRejectedError(what, where=str(path), fix="check the path")
    # The last part alone: a report must not show the folders of the machine that wrote it.
    name = path.resolve().name
    if (path / ".metadata").exists():
        raise InputRejectedError(
            "a distributed checkpoint is not read: its .metadata would run as a program",
            where=str(path),
            fix="convert it to safetensors where you trust it, and use that",
        )
    if path.is_dir() and is_openai_folder(path):
        others = [name for name in huggingface_files.FORMS if (path / name).exists()]
        if others:
            raise InputRejectedError(
                f"the folder holds OpenAI's shards and {others[0]}, which may be other weights",
                where=str(path),
                fix=f"give the path of {others[0]}, or keep the shards in a folder of their own",
            )
        return gather(read_openai(path, source=f"OpenAI's form, {name}"), strict=strict)
    found = huggingface_files.read_huggingface(path, source=f"Hugging Face's form, {name}")
    return gather(found, strict=strict)
