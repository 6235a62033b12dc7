"""A model's files from Hugging Face's hub or its cache, with their digests checked.

The client is huggingface_hub's own, with its cache, its login and its switches: `HF_ENDPOINT`,
`HF_HOME`, `HF_HUB_CACHE`, `HF_HUB_OFFLINE`, `HF_HUB_ETAG_TIMEOUT` (seconds to wait for an answer,
10 by default) and `HF_HUB_DOWNLOAD_TIMEOUT` (seconds to wait for the next bytes of a file, 10).
The client takes the bytes that its cache has as they are. Here they are compared with the name of
the blob behind them: the SHA-256 of a large file, the git id of any other.

Source: huggingface_hub's guide "Understand caching".
"""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.utils import get_session  # type: ignore[attr-defined]

from reference import hub_errors, published
from reference.errors import RejectedError, UnavailableError
from reference.files import DigestedFile, digest_path, read_bytes
from reference.hub_errors import CacheState, HubRequest, NoAnswerError

CONFIG = "config.json"

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Files with the weights; the first one that exists is taken. An index names shards."""

VOCABULARY = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
"""Downloaded too, where the repository has them."""

_INDEX = ".index.json"
_LARGEST_INDEX = 1 << 24
_SHARD = re.compile(r"\w[\w.-]*\.(safetensors|bin)", re.ASCII)
"""The name of a file beside the index, without folders."""

_COMMIT = re.compile(r"[0-9a-f]{40}")
_DIGESTS = {64: "sha256", 40: "git_blob"}
"""Which digest an ETag is, by its length."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hub:
    """The hub's address and the folder of its cache; None: from the environment."""

    endpoint: str | None = None
    cache: Path | None = None


_HUB = Hub()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FetchedFolder:
    """A model's files on this machine, by their names in the repository.

    They are `config.json`, the weights, with their index if they are sharded, and any vocabulary.
    """

    repository: str
    commit: str
    paths: Mapping[str, Path]
    digests: Mapping[str, DigestedFile]  # equal to the hub's where the cache records those
    from_cache: bool  # whether nothing was downloaded
    unfinished: Sequence[Path]  # files of interrupted or running downloads


def fetch(
    repository: str,
    revision: str | None = None,
    *,
    offline: bool | None = None,
    hub: Hub = _HUB,
) -> FetchedFolder:
    """Return the files of a model; those that the cache lacks are downloaded.

    A commit that is whole in the cache is taken from there without a request. A branch or tag is
    looked up first; if the hub does not answer, the commit it was last seen at is taken.

    The default revision is the published commit of the released model, and the main branch of any
    other. The released model's two ids share their files in the cache. `offline` forbids every
    request; its default is `HF_HUB_OFFLINE`.

    Raises:
        RejectedError: A file differs from the hub's digest; or the repository has no config or no
            weights.
        UnavailableError: A file is not in the cache and cannot be downloaded.
    """
    request = _request(repository, revision, hub)
    if str(request.cache).startswith("~"):
        what = "there is no home folder (HOME is not set), so the cache has no place"
        fix = "set HF_HOME to a folder you may write to"
        raise UnavailableError(what, where=str(request.cache), fix=fix)
    offline = constants.HF_HUB_OFFLINE if offline is None else offline
    try:
        if offline or _COMMIT.fullmatch(request.revision):
            found = _find(request)
            # A commit without a vocabulary may have been cached for its weights alone.
            if found and (offline or VOCABULARY[0] in found.paths):
                return found
        if offline:
            raise hub_errors.not_cached(request, cached(request))
        try:
            return _download(request)
        except NoAnswerError as error:
            if found := _find(request):
                return found
            raise hub_errors.with_cache(error, request, cached(request)) from error
    except OSError as error:
        raise hub_errors.explain(error, request) from error


def _request(repository: str, revision: str | None, hub: Hub) -> HubRequest:
    released = repository in published.REPOSITORIES
    return HubRequest(
        repository=repository,
        revision=revision or (published.REVISION if released else constants.DEFAULT_REVISION),
        endpoint=(hub.endpoint or constants.ENDPOINT).rstrip("/"),
        cache=Path(hub.cache or constants.HF_HUB_CACHE),
    )


def describe_cache(repository: str, *, hub: Hub = _HUB) -> str:
    """Return in words what the cache has of a repository whose default revision it lacks."""
    request = _request(repository, None, hub)
    return cached(request).words(request)


def reachable(timeout: float = 5.0, *, endpoint: str | None = None) -> bool:
    """Return whether anything answers at the hub's address, within `timeout` seconds.

    If `HF_HUB_OFFLINE` is set, no request is sent.
    """
    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(endpoint or constants.ENDPOINT, timeout=timeout)
    except Exception:  # noqa: BLE001 - whatever the reason, there is no answer
        return False
    return True


def storage(cache: Path, repository: str) -> Path:
    """Return the folder of one repository in the cache."""
    return cache / repo_folder_name(repo_id=repository, repo_type="model")


def commit(cache: Path, repository: str, revision: str) -> str | None:
    """Return the commit at which `revision` was last seen, None if it never was."""
    if _COMMIT.fullmatch(revision):
        return revision
    reference = storage(cache, repository) / "refs" / revision
    if ".." in reference.parts or not reference.is_file():
        return None
    found = reference.read_text(encoding="ascii", errors="replace").strip()
    return found if _COMMIT.fullmatch(found) else None


def weights(names: Collection[str]) -> str | None:
    """Return which of a repository's files has its weights or their index, None if none has."""
    return next((name for name in WEIGHTS if name in names), None)


def shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, sorted.

    Raises:
        RejectedError: It is no index, or it lists a file outside its own folder.
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


def _find(request: HubRequest) -> FetchedFolder | None:
    """Return the files if the cache has them all, under any of the repository's ids.

    Raises:
        RejectedError: A file was fetched and its bytes are gone, or differ from its digest.
    """
    for repository in _ids(request.repository):
        at = commit(request.cache, repository, request.revision)
        if at is None:
            continue
        folder = storage(request.cache, repository) / "snapshots" / at
        paths, lacking = _contents(folder)
        for name in lacking:
            _refuse_dangling(folder / name, repository)
        if not lacking:
            return FetchedFolder(
                repository=repository,
                commit=at,
                paths=paths,
                digests={name: _digest(path, repository) for name, path in paths.items()},
                from_cache=True,
                unfinished=sorted(folder.parents[1].glob("blobs/*.incomplete")),
            )
    return None


def _download(request: HubRequest) -> FetchedFolder:
    """Ask the hub for a model's files, and download those that the cache lacks."""
    names = _listing(request)
    form = weights(names)
    if form is None or CONFIG not in names:
        lacks = "weights" if form is None else CONFIG
        what = f"{request.repository} has no {lacks} that can be read here"
        raise RejectedError(what, where=request.where, fix="choose a repository of an OpenAI GPT")
    home = storage(request.cache, request.repository)
    before = set(home.glob("snapshots/*/*"))
    # Under the branch's own name, so that the client records which commit it is at.
    at = _file(request, CONFIG).parent.name
    request = dataclasses.replace(request, revision=at)
    for name in names.intersection(VOCABULARY):
        _file(request, name)
    weights_file = _file(request, form)
    for name in shards(weights_file) if form.endswith(_INDEX) else ():
        _file(request, name)
    found = _find(request)
    if found is None:
        raise hub_errors.not_cached(request, cached(request))
    return dataclasses.replace(found, from_cache=before == set(home.glob("snapshots/*/*")))


def _listing(request: HubRequest) -> set[str]:
    """Return the names of a revision's files."""
    try:
        info = HfApi(endpoint=request.endpoint).model_info(
            request.repository, revision=request.revision, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
        names = {sibling.rfilename for sibling in info.siblings or ()}
    except (AttributeError, LookupError, TypeError) as error:
        message = "JSON, but no list of a repository's files"
        raise hub_errors.explain(ValueError(message), request) from error
    except Exception as error:
        raise hub_errors.explain(error, request) from error
    if not _COMMIT.fullmatch(info.sha or ""):
        raise hub_errors.explain(ValueError(info.sha), request)
    return names


_ATTEMPTS = 5


def _file(request: HubRequest, name: str, attempts: int = _ATTEMPTS) -> Path:
    """Return the path of one file, downloaded if the cache lacks it."""
    home = storage(request.cache, request.repository)
    _refuse_dangling(home / "snapshots" / request.revision / name, request.repository)
    try:
        path = hf_hub_download(
            request.repository,
            name,
            revision=request.revision,
            cache_dir=request.cache,
            endpoint=request.endpoint,
            etag_timeout=constants.HF_HUB_ETAG_TIMEOUT,
        )
    except Exception as error:
        # The client before 1.0 does not continue a body that was cut off; later ones do.
        if type(error).__name__ == "ChunkedEncodingError" and attempts > 1:
            return _file(request, name, attempts - 1)
        raise hub_errors.explain(error, dataclasses.replace(request, file=name)) from error
    return Path(path)


def _ids(repository: str) -> Sequence[str]:
    """Return the ids of one repository, the given one first."""
    ids = published.REPOSITORIES if repository in published.REPOSITORIES else (repository,)
    return sorted(ids, key=lambda other: other != repository)


def _contents(folder: Path) -> tuple[dict[str, Path], list[str]]:
    """Return a commit's wanted files that the cache has, and the names of those it lacks."""
    try:
        there = {path.name for path in folder.iterdir()}
    except (FileNotFoundError, NotADirectoryError):
        there = set()
    form = weights(there) or WEIGHTS[0]
    wanted = {CONFIG, form, *there.intersection(VOCABULARY)}
    if form.endswith(_INDEX) and (folder / form).exists():
        wanted |= set(shards(folder / form))
    held = {name: folder / name for name in sorted(wanted) if (folder / name).exists()}
    return held, sorted(wanted - held.keys())


def _digest(path: Path, repository: str) -> DigestedFile:
    """Return the digests of a cached file, compared with the ETag that its blob is named by.

    A cache without links records no ETag. An ETag of another form is no digest.
    """
    file = digest_path(path)
    etag = path.readlink().name if path.is_symlink() else ""
    kind = _DIGESTS.get(len(etag))
    if kind and re.fullmatch(r"[0-9a-f]+", etag) and getattr(file, kind) != etag:
        raise hub_errors.damaged(path, repository, "its digest differs from the hub's ETag")
    return file


def _refuse_dangling(path: Path, repository: str) -> None:
    if path.is_symlink() and not path.exists():
        raise hub_errors.damaged(path, repository, "its bytes are gone")


def cached(request: HubRequest) -> CacheState:
    """Return which commits of a repository are in the cache, under any of its ids."""
    whole, parts = [], []
    for repository in _ids(request.repository):
        for folder in sorted(storage(request.cache, repository).glob("snapshots/*")):
            try:
                held, lacking = _contents(folder)
            except RejectedError as error:  # its index
                parts.append((f"{repository}@{folder.name}", f"is damaged: {error.what}"))
                continue
            if not lacking:
                whole.append(f"{repository}@{folder.name}")
            elif held:
                has = f"has {', '.join(held)}, lacks {', '.join(lacking)}"
                parts.append((f"{repository}@{folder.name}", has))
    return CacheState(whole=whole, parts=parts)
