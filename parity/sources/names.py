"""What `--weights NAME` stands for."""

import os
import re
from pathlib import Path

from parity.errors import InputRefusedError, UsageError
from parity.provenance import Standing
from parity.refusals import coded, hostile
from parity.sources import drawn, hub_repository, huggingface_files, openai_folder
from parity.sources.drawn import OnTensor
from parity.weights import Weights, gather
from reference import published, surrogate
from reference.hub import Fetched

_REPOSITORY = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
_RELEASED = re.compile(rf"(?P<id>{'|'.join(published.REPOSITORIES)})(@(?P<revision>[\w./-]+))?")


def load_weights(name: str, on_tensor: OnTensor | None = None) -> Weights:
    """Return the weights that `--weights name` stands for.

    Args:
        name: One of
            `surrogate`, or `tiny` (the same recipe, small);
            `openai-gpt`, the released weights, from the hub or its cache, or `auto`, the same
            where they are cached or the hub can be connected to, and else the surrogate;
            another repository of the hub, `owner/name`; `@revision` may follow it;
            a folder or file: Hugging Face's or our own form, or OpenAI's ten shards.
        on_tensor: Called with (tensors done, tensors in all) while weights are drawn.

    Raises:
        UsageError: It stands for nothing.
        InputRefusedError: What it stands for is damaged, hostile, of another model, or not the
            published bytes that it is said to be.
        InconclusiveError: There is no tensor in it.
        EnvironmentUnfitError: It cannot be had from here.
    """
    with coded(), hostile(name):
        if name in surrogate.SIZES:
            return drawn.load(name, on_tensor)
        if name == "auto":
            return _released_or_surrogate(on_tensor)
        if found := _RELEASED.fullmatch(name):
            return _published(found["id"], found["revision"])
        if _is_path(name):
            return _accepted(_local(Path(name).expanduser()))
        if found := _REPOSITORY.fullmatch(name):
            return _published(found["id"], found["revision"])
    raise UsageError(
        f"{name!r} stands for no weights",
        where="--weights",
        fix="use auto, surrogate, tiny, openai-gpt, a hub repository owner/name, or a path",
    )


def _released_or_surrogate(on_tensor: OnTensor | None) -> Weights:
    """Return the released weights; the surrogate where they can be had neither here nor there."""
    released = published.REPOSITORIES[0]
    fetched = hub_repository.cached(released)
    if fetched is None and (why := hub_repository.out_of_reach(released)):
        return drawn.load("surrogate", on_tensor, why=f"; {why}")
    return _published(released, None, fetched)


def _published(repository: str, revision: str | None, fetched: Fetched | None = None) -> Weights:
    weights = _accepted(gather(hub_repository.read(repository, revision, fetched)))
    if repository in published.REPOSITORIES and not weights.provenance.released_config:
        raise InputRefusedError(
            "config.json is not the released model's",
            where=weights.provenance.source,
            fix="remove the repository from the hub's cache, and fetch it again",
        )
    return weights


def _accepted(weights: Weights) -> Weights:
    """Return weights if they are not passed off as the published ones.

    Raises:
        InputRefusedError: A file that is said to be published has other bytes.
    """
    differing = [f for f in weights.provenance.files if f.standing is Standing.DIFFERS]
    if differing:
        raise InputRefusedError(
            f"{', '.join(file.name for file in differing)}: {Standing.DIFFERS}",
            where=f"{weights.provenance.source}, sha256 {differing[0].sha256}",
            fix="fetch it again; if the weights are meant to be others, put their config.json "
            "beside them under a name of their own",
        )
    return weights


def _is_path(name: str) -> bool:
    """Return whether a name is meant as a path: it is there, or looks like nothing else."""
    separators = {os.sep, os.altsep or os.sep}
    repository = name.partition("@")[0]
    return (
        name.startswith((".", "~", *separators))
        or Path(name).suffix in {*huggingface_files.READERS, ".json", ".npy"}
        or sum(repository.count(separator) for separator in separators) > 1
        or _exists(name)
    )


def _exists(name: str) -> bool:
    """Return whether something is there; a name that no file can have is not."""
    try:
        os.lstat(name)
    except (OSError, ValueError):
        return False
    return True


def _local(path: Path) -> Weights:
    """Return the weights of a folder or file."""
    if not path.exists():
        what = "it is a link to nothing" if path.is_symlink() else "there is nothing at that path"
        raise InputRefusedError(what, where=str(path), fix="check the path")
    # The last part alone: a report that is passed on says nothing of where its writer keeps things.
    name = path.resolve().name
    if path.is_dir():
        _refuse_distributed(path)
        if openai_folder.recognised(path):
            _refuse_two_forms(path)
            return gather(openai_folder.read(path, source=f"OpenAI's form, {name}"))
    return gather(huggingface_files.read(path, source=f"Hugging Face's form, {name}"))


def _refuse_two_forms(folder: Path) -> None:
    """Refuse a folder with the release's shards and other weights: nobody says which are meant."""
    others = [name for name in huggingface_files.FORMS if (folder / name).exists()]
    if others:
        raise InputRefusedError(
            f"the folder holds OpenAI's shards and {others[0]}, which may be other weights",
            where=str(folder),
            fix=f"give the path of {others[0]}, or keep the shards in a folder of their own",
        )


def _refuse_distributed(folder: Path) -> None:
    """Refuse a folder of torch's distributed checkpoints: its index is a pickle that is run."""
    if (folder / ".metadata").exists():
        raise InputRefusedError(
            "a distributed checkpoint is not read: its .metadata would run as a program",
            where=str(folder),
            fix="convert it to safetensors where you trust it, and use that",
        )
