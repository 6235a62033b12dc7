"""Errors of Hugging Face's hub and its client, each in one sentence.

The client raises errors of its own, of the HTTP library beneath it (requests before 1.0, httpx
after) and of the operating system.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import constants, errors

from reference.errors import RejectedError, SourceError, UnavailableError
from reference.files import is_full


class NoAnswerError(UnavailableError):
    """The hub gave no usable answer; a commit in the cache may serve instead."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubRequest:
    """A request; `file` is empty while a repository's files are listed."""

    repository: str
    revision: str
    endpoint: str
    cache: Path
    file: str = ""

    @property
    def where(self) -> str:
        """Return the place in one line."""
        return " ".join((f"{self.endpoint}/{self.repository}@{self.revision}", self.file)).strip()


_ELSEWHERE = "give a local path, or download the files elsewhere and copy them here"
_LOG_IN = "accept its terms on its page if it has any, then log in with `hf auth login`"
_LATER = f"try again later; or {_ELSEWHERE}"

TRANSPORT = [kind for kind in errors.HfHubHTTPError.__mro__ if kind.__module__ != "builtins"][-1]
"""The base of everything the HTTP library raises, whichever library it is."""

_ANSWERS: tuple[tuple[type[Exception] | int, str, str], ...] = (
    (errors.GatedRepoError, "{repository} is gated, and you have no access", _LOG_IN),
    (errors.DisabledRepoError, "{repository} has been disabled on the hub", _ELSEWHERE),
    (
        errors.RevisionNotFoundError,
        "{repository} has no revision {revision}",
        "take a commit, branch or tag from its page, or leave the revision out",
    ),
    (401, "{repository} is private, or there is no such repository", _LOG_IN),
    (403, "access to {repository} is forbidden to you", _LOG_IN),
    (
        errors.RepositoryNotFoundError,
        "there is no repository {repository} on the hub",
        "check the id: owner/name",
    ),
    (
        errors.EntryNotFoundError,
        "{repository} has no file {file} at {revision}",
        "choose a revision that has it",
    ),
)
"""Answers by the client's class or by HTTP status; the first row that applies.

The client raises "not found" at status 401 too, so that status comes before it.
"""


def explain(error: Exception, request: HubRequest) -> SourceError:  # noqa: C901, PLR0911 - one a kind
    """Return the error for the user of `error`, which was raised during `request`.

    Raises:
        Exception: `error` itself, if it is neither the hub's nor the network's nor the disk's.
    """
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        # A request for a file failed, and the client did not find it in its cache.
        return explain(error.__cause__, dataclasses.replace(request, file=""))
    name, where, file = type(error).__name__, request.where, request.file
    if isinstance(error, SourceError):
        return error
    if isinstance(error, errors.HfHubHTTPError | errors.EntryNotFoundError):
        return _answered(error, request)
    if isinstance(error, errors.HFValidationError):
        what = f"{request.repository!r} is no id of a repository"
        return RejectedError(what, where=where, fix="give owner/name")
    if isinstance(error, errors.OfflineModeIsEnabled):
        return not_cached(request)
    timed_out = "Timeout" in name or "Read timed out" in str(error)
    if timed_out and file:
        seconds = f"{constants.HF_HUB_DOWNLOAD_TIMEOUT:g} s (HF_HUB_DOWNLOAD_TIMEOUT)"
        what = f"download incomplete: no new bytes of {file} for {seconds}"
        return UnavailableError(what, where=where, fix=_LATER)
    if timed_out:
        what = f"the hub gave no answer within {constants.HF_HUB_ETAG_TIMEOUT:g} s"
        return NoAnswerError(what, where=where, fix=_LATER)
    # An answer that is no JSON: requests makes it an error of its own and a ValueError at once.
    not_json = isinstance(error, ValueError) and not file
    if not_json or isinstance(error, errors.FileMetadataError) or "URL" in name:
        what = "the answer from this address is not a hub's: a proxy, or a network's login page"
        return NoAnswerError(what, where=where, fix="check network, proxy and HF_ENDPOINT")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, TRANSPORT):
        reason = "the disk is full" if is_full(error) else error.strerror or name
        what = f"the cache cannot be used: {reason}"
        fix = "set HF_HOME to a folder with room that you may write to"
        return UnavailableError(what, where=f"{request.cache} {file}".strip(), fix=fix)
    if isinstance(error, TRANSPORT | OSError) and file:
        what = f"download incomplete: the connection broke off during {file}"
        return UnavailableError(what, where=where, fix=_LATER)
    if isinstance(error, TRANSPORT | OSError):
        fix = f"check network and proxy; or {_ELSEWHERE}"
        return NoAnswerError(f"cannot connect to the hub ({name})", where=where, fix=fix)
    raise error


def _answered(error: Exception, request: HubRequest) -> UnavailableError:
    """Return the meaning of an answer with an error code."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    for kind, what, fix in _ANSWERS:
        if status == kind if isinstance(kind, int) else isinstance(error, kind):
            words = what.format_map(vars(request))
            return UnavailableError(words, where=request.where, fix=fix)
    what = f"the hub answers with an error ({status})"
    return NoAnswerError(what, where=request.where, fix=_LATER)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheState:
    """What the cache has of a repository, by `repository@commit`: whole commits, and parts."""

    whole: Sequence[str] = ()
    parts: Sequence[tuple[str, str]] = ()  # with the files there and those that lack

    def words(self, request: HubRequest) -> str:
        """Return a sentence about a revision that is not whole in the cache."""
        if self.whole:
            commits = ", ".join(name.partition("@")[2] for name in self.whole)
            return f"{request.repository} is in the cache at {commits}, not at {request.revision}"
        if self.parts:
            found = "; ".join(f"{name} {files}" for name, files in self.parts)
            return f"{request.repository} is not complete in the cache: {found}"
        return f"{request.repository} is not in the cache"

    @property
    def way_on(self) -> str:
        """Return how to go on with what is there."""
        if self.whole:
            return f"use {self.whole[0]}; or "
        if self.parts:
            repository, _, commit = self.parts[0][0].partition("@")
            return f"fetch the rest with `hf download {repository} --revision {commit}`; or "
        return ""


_EMPTY = CacheState()


def not_cached(request: HubRequest, state: CacheState = _EMPTY) -> UnavailableError:
    """Return the error of an offline run that lacks files."""
    what = f"{state.words(request)}, and the hub may not be asked (offline)"
    where, fix = f"{request.cache} {request.revision}", f"{state.way_on}{_ELSEWHERE}"
    return UnavailableError(what, where=where, fix=fix)


def with_cache(error: NoAnswerError, request: HubRequest, state: CacheState) -> NoAnswerError:
    """Return the error of a hub that does not answer, with what the cache has in its place."""
    if not (state.whole or state.parts):
        return error
    what, fix = f"{error.what}; {state.words(request)}", f"{state.way_on}{error.fix}"
    return NoAnswerError(what, where=error.where, fix=fix)


def damaged(path: Path, repository: str, how: str) -> RejectedError:
    """Return that a cached file no longer holds the hub's bytes."""
    fix = f"remove it with `hf cache rm model/{repository}` and fetch it again"
    return RejectedError(f"cache damaged: {path.name}: {how}", where=str(path), fix=fix)
