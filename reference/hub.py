"""A model's files from Hugging Face's hub or its cache, held against their digests.

The client is huggingface_hub's own, with its cache, its switches (`HF_HUB_OFFLINE`, `HF_HOME`,
`HF_HUB_CACHE`, `HF_ENDPOINT`) and its login. What it does not do is done here: it takes whatever
bytes its cache has, and waits for some servers without end.

How long it can take: a hub that answers with errors is given up after 3 seconds of waiting, one
that is silent after 10, and one that stops in the middle of a file after 30 without a new byte.
"""

import contextlib
import dataclasses
import functools
import threading
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
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from reference import hub_cache, hub_errors, published
from reference.errors import RejectedError, UnavailableError
from reference.files import DigestedFile, digest_path
from reference.hub_errors import HubRequest, NoAnswerError, StalledError, TransientError

# A call that may never return, given up once it stops getting anywhere.
#
# The hub's client restarts a download whenever it breaks off, and starts its count of attempts
# again with every byte: a server that always breaks off, or a lock that is never let go, would be
# waited for without end. A time limit for the whole would hit slow lines. So progress is watched.


_Watched = TypeVar("_Watched")

_TICK = 0.05


def watched(
    call: Callable[[], _Watched], *, seconds: float, progress: Callable[[], int]
) -> _Watched:
    """Return what `call` returns.

    It runs in a thread of its own, which ends with the process where it is given up.

    Args:
        call: What may hang.
        seconds: How long `progress` may stay at or below the most it has been.
        progress: A number that grows as long as there is any.

    Raises:
        StalledError: There was none for so long.
        Exception: Whatever `call` raises.
    """
    outcome: list[_Watched] = []
    failure: list[BaseException] = []

    def run() -> None:
        try:
            outcome.append(call())
        except BaseException as error:  # noqa: BLE001 - handed over to the thread that waits
            failure.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    most, since = progress(), time.monotonic()
    while thread.is_alive():
        thread.join(min(_TICK, seconds))
        now = progress()
        if now > most:
            most, since = now, time.monotonic()
        if thread.is_alive() and time.monotonic() - since > seconds:
            raise StalledError
    if failure:
        raise failure[0]
    return outcome[0]


def no_progress() -> int:
    """Return always the same: the call has `seconds` in all."""
    return 0


# What the cache has not got, downloaded by the hub's own client under a watch.


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

    asked: HubRequest
    paths: Mapping[str, Path]
    etags: Mapping[str, str]


def download(asked: HubRequest, hub: Hub) -> Files:
    """Ask the hub for a model's files, and download those that the cache has not got.

    Raises:
        RefusedError: The repository has no config or no weights, or the cache lost bytes.
        UnavailableError: A file cannot be had.
    """
    commit, names = _patiently(lambda: _listing(asked, hub), asked, hub)
    revision, asked = asked.revision, dataclasses.replace(asked, revision=commit)
    form = hub_cache.weights(names)
    if form is None or hub_cache.CONFIG not in names:
        missing = "weights" if form is None else hub_cache.CONFIG
        what = f"{asked.repository} has no {missing} that can be read here"
        raise RejectedError(what, where=asked.where, fix="choose a repository of an OpenAI GPT")
    paths: dict[str, Path] = {}
    etags: dict[str, str] = {}
    wanted = [hub_cache.CONFIG, form, *(name for name in hub_cache.VOCABULARY if name in names)]
    for name in wanted:
        paths[name] = _file(dataclasses.replace(asked, file=name), hub, etags)
    for name in hub_cache.shards(paths[form]) if hub_cache.is_index(form) else ():
        paths[name] = _file(dataclasses.replace(asked, file=name), hub, etags)
    hub_cache.remember(asked.cache, asked.repository, revision, commit)
    return Files(asked=asked, paths=dict(sorted(paths.items())), etags=etags)


def _listing(asked: HubRequest, hub: Hub) -> tuple[str, Collection[str]]:
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


def _file(asked: HubRequest, hub: Hub, etags: dict[str, str]) -> Path:
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


def _body(asked: HubRequest, hub: Hub, metadata: HfFileMetadata) -> Path:
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
    except TransientError:
        raise
    except NoAnswerError as error:
        raise hub_errors.incomplete(asked, hub_cache.files_held(*place), metadata.size) from error
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
    asked: HubRequest,
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
            meant = hub_errors.explain(error, asked)
            if wait is None or not isinstance(meant, TransientError):
                raise meant from error
        time.sleep(wait)
    raise AssertionError  # the last round returns or raises


_HUB = Hub()
_VOCABULARY = "vocab.json"
"""A cached commit without it was fetched by somebody who wanted the weights alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedFolder:
    """A model's files on this machine.

    Attributes:
        repository: Id of the repository they are of.
        commit: The commit they are of, in full.
        paths: Where each lies, by its name in the repository: `config.json`, the weights (and
            their index, where they are sharded), and the vocabulary where there is any.
        digests: Of each, by name. They are what the hub says they are, wherever it says it.
        from_cache: Whether nothing was downloaded.
        unfinished: What interrupted downloads left in the cache; a download that still goes on
            looks the same.
    """

    repository: str
    commit: str
    paths: Mapping[str, Path]
    digests: Mapping[str, DigestedFile]
    from_cache: bool
    unfinished: Sequence[Path]


def fetch(
    repository: str,
    revision: str | None = None,
    *,
    offline: bool | None = None,
    hub: Hub = _HUB,
) -> FetchedFolder:
    """Return the files of a model, downloaded where the cache has not got them.

    Args:
        repository: Id on the hub. The released model's two ids are the same to the cache.
        revision: Commit, branch or tag; by default the published commit of the released model,
            and the main branch of any other.
        offline: Whether the hub must not be asked; by default what `HF_HUB_OFFLINE` says.
        hub: Where it and its cache are, and how long to wait for it.

    Raises:
        RefusedError: A file, downloaded or cached, is not what the hub says it is; or the
            repository has no config or no weights.
        UnavailableError: The files are not there and cannot be had; the message says why.
    """
    released = repository in published.REPOSITORIES
    asked = HubRequest(
        repository=repository,
        revision=revision or (published.REVISION if released else constants.DEFAULT_REVISION),
        endpoint=(hub.endpoint or constants.ENDPOINT).rstrip("/"),
        cache=Path(hub.cache or constants.HF_HUB_CACHE),
        seconds=hub.answer,
    )
    _refuse_no_home(asked)
    offline = constants.HF_HUB_OFFLINE if offline is None else offline
    try:
        return _fetched(asked, hub, offline=offline)
    except OSError as error:
        raise hub_errors.explain(error, asked) from error


def reachable(timeout: float = 5.0, *, endpoint: str | None = None) -> bool:
    """Return whether anything answers at the hub's address, within `timeout` seconds.

    It says nothing about what answers. Where `HF_HUB_OFFLINE` is set nothing is asked.
    """
    address = endpoint or constants.ENDPOINT
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        watched(
            lambda: get_session().head(address, timeout=timeout),
            seconds=timeout,
            progress=no_progress,
        )
    except Exception:  # noqa: BLE001 - whatever keeps one from asking, the answer is no
        return False
    return True


def _refuse_no_home(asked: HubRequest) -> None:
    """Refuse a cache whose folder is unknown: without a home, `~` stays as it is."""
    if str(asked.cache).startswith("~"):
        what = "there is no home folder (HOME is not set), so the cache's place is unknown"
        fix = "set HF_HOME to a folder you may write to"
        raise UnavailableError(what, where=str(asked.cache), fix=fix)


def _fetched(asked: HubRequest, hub: Hub, *, offline: bool) -> FetchedFolder:
    """Return the files: the cache's where they are all there, or the hub cannot be asked."""
    if offline or hub_cache.COMMIT.fullmatch(asked.revision):
        cached = _cached(asked)
        if cached and (offline or _VOCABULARY in cached.paths):
            return _checked(cached)
    if offline:
        raise hub_errors.not_cached(asked)
    try:
        return _checked(download(asked, hub))
    except NoAnswerError:
        cached = _cached(asked)
        if cached is None:
            raise
        return _checked(cached)


def _cached(asked: HubRequest) -> Files | None:
    """Return what the cache has under any of a repository's ids, the one asked for first."""
    released = asked.repository in published.REPOSITORIES
    aliases = published.REPOSITORIES if released else (asked.repository,)
    for repository in sorted(aliases, key=lambda alias: alias != asked.repository):
        commit = hub_cache.commit(asked.cache, repository, asked.revision)
        paths = commit and hub_cache.snapshot(asked.cache, repository, commit)
        if commit and paths:
            found = dataclasses.replace(asked, repository=repository, revision=commit)
            return Files(asked=found, paths=paths, etags={})
    return None


def _checked(files: Files) -> FetchedFolder:
    """Return the files with their digests, each held against what the hub says it is."""
    asked, digests = files.asked, {}
    for name, path in files.paths.items():
        digests[name] = digest_path(path)
        if not hub_cache.matches(digests[name], files.etags.get(name) or hub_cache.etag(path)):
            raise (
                hub_errors.wrong_bytes(asked, name, path)
                if name in files.etags
                else hub_cache.damaged(path, asked.repository)
            )
    return FetchedFolder(
        repository=asked.repository,
        commit=asked.revision,
        paths=files.paths,
        digests=digests,
        from_cache=not files.etags,
        unfinished=hub_cache.unfinished(asked.cache, asked.repository),
    )
