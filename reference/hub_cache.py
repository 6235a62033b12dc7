"""The hub's cache on disk: what lies there, and whether it is still what was put there.

    models--owner--name/refs/main                 the commit that a branch was at
    models--owner--name/snapshots/COMMIT/NAME     a link to ../../blobs/ETAG
    models--owner--name/blobs/ETAG                the bytes; the name says what they must hash to

A blob is named by the SHA-256 of its bytes where it is kept in large-file storage, else by the id
that git gives it. So damage can be seen; the client itself does not look.

Source: huggingface_hub's guide "Understand caching".
"""

import contextlib
import json
import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from huggingface_hub.file_download import repo_folder_name

from reference.errors import RejectedError
from reference.files import DigestedFile, read_bytes

# Which files of a model's repository are wanted: its config, its weights, its vocabulary.


CONFIG = "config.json"

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The forms weights come in; the first that is there is taken. An index names shards."""

VOCABULARY = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
"""What goes along where there is any."""

_INDEX = ".index.json"
_LARGEST_INDEX = 1 << 24
_SHARD = re.compile(r"\w[\w.-]*\.(safetensors|bin)", re.ASCII)
"""A file beside the index, and no path."""


def weights(names: Collection[str]) -> str | None:
    """Return which of a repository's files has its weights or their index, None if none has."""
    return next((name for name in WEIGHTS if name in names), None)


def is_index(name: str) -> bool:
    """Return whether this file names shards in place of holding weights."""
    return name.endswith(_INDEX)


def shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, sorted.

    Raises:
        RefusedError: It is no index, or it lists what lies outside its own folder.
        UnavailableError: It cannot be read.
    """
    fix = "get the file again, or report it to the repository's owner"
    try:
        listed = json.loads(read_bytes(index, _LARGEST_INDEX))["weight_map"].values()
        strangers = [name for name in listed if not _SHARD.fullmatch(name)]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        what = f"{index.name} lists no shards ({type(error).__name__})"
        raise RejectedError(what, where=str(index), fix=fix) from error
    if strangers or not listed:
        found = f"{strangers[0]!r:.60} as a shard" if strangers else "no shard"
        raise RejectedError(f"{index.name} names {found}", where=str(index), fix=fix)
    return sorted(set(listed))


COMMIT = re.compile(r"[0-9a-f]{40}")

_NAMED_BY = {64: "sha256", 40: "git_blob"}
"""Which digest an ETag is, by its length."""


def storage(cache: Path, repository: str) -> Path:
    """Return the folder of one repository in the cache."""
    return cache / repo_folder_name(repo_id=repository, repo_type="model")


def commit(cache: Path, repository: str, revision: str) -> str | None:
    """Return the commit that `revision` was last seen at, None if it never was."""
    if COMMIT.fullmatch(revision):
        return revision
    reference = storage(cache, repository) / "refs" / revision
    if ".." in reference.parts or not reference.is_file():
        return None
    found = reference.read_text(encoding="ascii", errors="replace").strip()
    return found if COMMIT.fullmatch(found) else None


def remember(cache: Path, repository: str, revision: str, at: str) -> None:
    """Write down which commit a branch is at; the client does so only for what it is asked by.

    It is a help for the next run: where the cache may not be written to, nothing is.
    """
    reference = storage(cache, repository) / "refs" / revision
    if revision == at or ".." in reference.parts:
        return
    with contextlib.suppress(OSError):
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(at, encoding="ascii")


def snapshot(cache: Path, repository: str, at: str) -> dict[str, Path] | None:
    """Return the model's files that the cache has of a commit, by name.

    Returns:
        None where the config or some of the weights were never fetched.

    Raises:
        RefusedError: A file was fetched and its bytes are gone.
    """
    folder = storage(cache, repository) / "snapshots" / at
    found = {path.name: path for path in _listed(folder)}
    form = weights(found)
    if form is None or CONFIG not in found:
        return None
    wanted = {CONFIG, form, *VOCABULARY} & found.keys()
    if is_index(form):
        _refuse_dangling(found[form], repository)
        wanted |= set(shards(found[form]))
    if not wanted <= found.keys():
        return None
    for name in wanted:
        _refuse_dangling(found[name], repository)
    return {name: found[name] for name in sorted(wanted)}


def etag(path: Path) -> str | None:
    """Return the name of the blob behind a snapshot's file; None where it is a plain copy."""
    return path.readlink().name if path.is_symlink() else None


def matches(file: DigestedFile, named: str | None) -> bool:
    """Return whether a file's bytes are those that its ETag names; an opaque one names none."""
    kind = _NAMED_BY.get(len(named or ""))
    if named is None or kind is None or not re.fullmatch(r"[0-9a-f]+", named):
        return True
    return bool(getattr(file, kind) == named)


def damaged(path: Path, repository: str) -> RejectedError:
    """Return that a file of the cache no longer holds what was fetched."""
    what = f"cache damaged: {path.name} is not what was downloaded"
    fix = f"remove it with `hf cache rm model/{repository}` and fetch it again"
    return RejectedError(what, where=str(path), fix=fix)


def unfinished(cache: Path, repository: str, named: str = "") -> list[Path]:
    """Return the files of downloads that were interrupted, or that still go on."""
    return sorted((storage(cache, repository) / "blobs").glob(f"{named}*.incomplete"))


def files_held(cache: Path, repository: str, named: str) -> int:
    """Return how many bytes of a blob have come so far, by whichever process."""
    return max((status.st_size for status in _unfinished(cache, repository, named)), default=0)


def progress(cache: Path, repository: str, named: str) -> int:
    """Return a number that grows as a blob comes.

    A file may be given its full size before its bytes, so the blocks it takes up count too.
    """
    statuses = _unfinished(cache, repository, named)
    return max(
        (status.st_size + 512 * getattr(status, "st_blocks", 0) for status in statuses), default=0
    )


def _unfinished(cache: Path, repository: str, named: str) -> Iterator[os.stat_result]:
    for path in unfinished(cache, repository, named):
        with contextlib.suppress(FileNotFoundError):  # finished in the meantime, and renamed
            yield path.stat()


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _refuse_dangling(path: Path, repository: str) -> None:
    if not path.exists():
        raise damaged(path, repository)
