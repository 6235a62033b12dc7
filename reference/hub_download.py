"""What the cache has not got, downloaded by the hub's own client under a watch."""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from huggingface_hub import (
    HfApi,
    HfFileMetadata,
    constants,
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
)

from reference import hub_cache, hub_errors, hub_files
from reference.hub_errors import Asked, NoAnswerError, PassingError
from reference.hub_watch import no_progress, watched
from reference.refusal import RefusedError

Result = TypeVar("Result")

_XET = 10
"""How many times as long a stall may be where bytes come in large pieces, kept until whole."""

_PIECE = 1 << 18
"""Bytes that the client is to write together."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hub:
    """Where the hub and its cache are, and how long to wait for it.

    Attributes:
        endpoint: Its address; None is what `HF_ENDPOINT` says.
        cache: Folder of the cache; None is what `HF_HUB_CACHE` or `HF_HOME` says.
        answer: Seconds to wait for the answer to a question.
        stall: Seconds to wait for the next byte of a file.
        again: Seconds to wait before each further try where the hub answers with an error.
    """

    endpoint: str | None = None
    cache: Path | None = None
    answer: float = 10.0
    stall: float = 30.0
    again: Sequence[float] = (1.0, 2.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Files:
    """A model's files on this machine, not looked into yet.

    Attributes:
        asked: What was asked for, its revision a commit.
        paths: Where each lies, by name.
        etags: What the hub says of those that were downloaded now, by name.
    """

    asked: Asked
    paths: Mapping[str, Path]
    etags: Mapping[str, str]


def download(asked: Asked, hub: Hub) -> Files:
    """Ask the hub for a model's files, and download those that the cache has not got.

    Raises:
        RefusedError: The repository has no config or no weights, or the cache lost bytes.
        UnavailableError: A file cannot be had.
    """
    commit, names = _patiently(lambda: _listing(asked, hub), asked, hub)
    revision, asked = asked.revision, dataclasses.replace(asked, revision=commit)
    form = hub_files.weights(names)
    if form is None or hub_files.CONFIG not in names:
        missing = "weights" if form is None else hub_files.CONFIG
        what = f"{asked.repository} has no {missing} that can be read here"
        raise RefusedError(what, where=asked.where, fix="choose a repository of an OpenAI GPT")
    paths: dict[str, Path] = {}
    etags: dict[str, str] = {}
    wanted = [hub_files.CONFIG, form, *(name for name in hub_files.VOCABULARY if name in names)]
    for name in wanted:
        paths[name] = _file(dataclasses.replace(asked, file=name), hub, etags)
    for name in hub_files.shards(paths[form]) if hub_files.is_index(form) else ():
        paths[name] = _file(dataclasses.replace(asked, file=name), hub, etags)
    hub_cache.remember(asked.cache, asked.repository, revision, commit)
    return Files(asked=asked, paths=dict(sorted(paths.items())), etags=etags)


def _listing(asked: Asked, hub: Hub) -> tuple[str, Collection[str]]:
    """Return the commit that the revision is at, and the names of its files."""
    api = HfApi(endpoint=asked.endpoint)
    try:
        info = api.model_info(asked.repository, revision=asked.revision, timeout=hub.answer)
        names = {sibling.rfilename for sibling in info.siblings or ()}
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(str(error)) from error  # JSON, but not what a hub answers
    if not hub_cache.COMMIT.fullmatch(info.sha or ""):
        raise ValueError(info.sha)
    return str(info.sha), names


def _file(asked: Asked, hub: Hub, etags: dict[str, str]) -> Path:
    """Return where a file lies; where it had to be downloaded, add what the hub says it is."""
    snapshots = hub_cache.storage(asked.cache, asked.repository) / "snapshots"
    path = snapshots / asked.revision / asked.file
    if path.exists():
        return path
    if path.is_symlink():
        raise hub_cache.damaged(path, asked.repository)
    url = hf_hub_url(asked.repository, asked.file, revision=asked.revision, endpoint=asked.endpoint)
    head = functools.partial(get_hf_file_metadata, url, timeout=hub.answer, endpoint=asked.endpoint)
    metadata = _patiently(head, asked, hub)
    etags[asked.file] = metadata.etag or ""
    stall = hub.stall * (_XET if metadata.xet_file_data else 1)
    return _body(dataclasses.replace(asked, seconds=stall), hub, metadata)


def _body(asked: Asked, hub: Hub, metadata: HfFileMetadata) -> Path:
    """Download one file, and return where it lies."""
    place = (asked.cache, asked.repository, metadata.etag or "")
    fetch = functools.partial(
        hf_hub_download,
        asked.repository,
        asked.file,
        revision=asked.revision,
        cache_dir=asked.cache,
        endpoint=asked.endpoint,
        etag_timeout=hub.answer,
    )
    try:
        with _small_pieces():
            path = _patiently(fetch, asked, hub, lambda: hub_cache.progress(*place))
    except PassingError:
        raise
    except NoAnswerError as error:
        raise hub_errors.incomplete(asked, hub_cache.held(*place), metadata.size) from error
    return Path(path)


@contextlib.contextmanager
def _small_pieces() -> Iterator[None]:
    """Let the client write what comes in small pieces: it keeps 10 MB back, half a minute's worth.

    So slow a line looks dead until then.
    """
    before = constants.DOWNLOAD_CHUNK_SIZE
    constants.DOWNLOAD_CHUNK_SIZE = _PIECE
    try:
        yield
    finally:
        constants.DOWNLOAD_CHUNK_SIZE = before


def _patiently(
    call: Callable[[], Result],
    asked: Asked,
    hub: Hub,
    progress: Callable[[], int] = no_progress,
) -> Result:
    """Return what `call` returns; try again where the trouble may pass.

    Raises:
        SourceError: Whatever else `call` raises, explained.
    """
    for wait in (*hub.again, None):
        try:
            return watched(call, seconds=asked.seconds, progress=progress)
        except Exception as error:
            meant = hub_errors.explained(error, asked)
            if wait is None or not isinstance(meant, PassingError):
                raise meant from error
        time.sleep(wait)
    raise AssertionError  # the last round returns or raises
