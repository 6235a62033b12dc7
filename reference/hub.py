"""A model's files from Hugging Face's hub or its cache, held against their digests.

The client is huggingface_hub's own, with its cache, its switches (`HF_HUB_OFFLINE`, `HF_HOME`,
`HF_HUB_CACHE`, `HF_ENDPOINT`) and its login. What it does not do is done here: it takes whatever
bytes its cache has, and waits for some servers without end.

How long it can take: a hub that answers with errors is given up after 3 seconds of waiting, one
that is silent after 10, and one that stops in the middle of a file after 30 without a new byte.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from reference import hub_cache, hub_download, hub_errors, published
from reference.hub_download import Files, Hub
from reference.hub_errors import Asked, NoAnswerError
from reference.hub_watch import no_progress, watched
from reference.plain_file import DigestedFile, digested_path
from reference.refusal import UnavailableError

_HUB = Hub()
_VOCABULARY = "vocab.json"
"""A cached commit without it was fetched by somebody who wanted the weights alone."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fetched:
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
) -> Fetched:
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
    asked = Asked(
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
        raise hub_errors.explained(error, asked) from error


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


def _refuse_no_home(asked: Asked) -> None:
    """Refuse a cache whose folder is unknown: without a home, `~` stays as it is."""
    if str(asked.cache).startswith("~"):
        what = "there is no home folder (HOME is not set), so the cache's place is unknown"
        fix = "set HF_HOME to a folder you may write to"
        raise UnavailableError(what, where=str(asked.cache), fix=fix)


def _fetched(asked: Asked, hub: Hub, *, offline: bool) -> Fetched:
    """Return the files: the cache's where they are all there, or the hub cannot be asked."""
    if offline or hub_cache.COMMIT.fullmatch(asked.revision):
        cached = _cached(asked)
        if cached and (offline or _VOCABULARY in cached.paths):
            return _checked(cached)
    if offline:
        raise hub_errors.not_cached(asked)
    try:
        return _checked(hub_download.download(asked, hub))
    except NoAnswerError:
        cached = _cached(asked)
        if cached is None:
            raise
        return _checked(cached)


def _cached(asked: Asked) -> Files | None:
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


def _checked(files: Files) -> Fetched:
    """Return the files with their digests, each held against what the hub says it is."""
    asked, digests = files.asked, {}
    for name, path in files.paths.items():
        digests[name] = digested_path(path)
        if not hub_cache.matches(digests[name], files.etags.get(name) or hub_cache.etag(path)):
            raise (
                hub_errors.wrong_bytes(asked, name, path)
                if name in files.etags
                else hub_cache.damaged(path, asked.repository)
            )
    return Fetched(
        repository=asked.repository,
        commit=asked.revision,
        paths=files.paths,
        digests=digests,
        from_cache=not files.etags,
        unfinished=hub_cache.unfinished(asked.cache, asked.repository),
    )
