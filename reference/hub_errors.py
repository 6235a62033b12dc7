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


def not_cached(request: HubRequest, parts: str = "", whole: Sequence[str] = ()) -> UnavailableError:
    """Return the error of an offline run that lacks files.

    `parts` names those in the cache and those that lack; `whole` is every complete
    `repository@commit` in the cache.
    """
    what = f"{request.repository} is not in the cache, and the hub may not be asked (offline)"
    fix = _ELSEWHERE
    if whole:
        commits = ", ".join(name.partition("@")[2] for name in whole)
        what, fix = f"{what}; in the cache at commits {commits}", f"use {whole[0]}; or {fix}"
    elif parts:
        what = f"{what}; the cache {parts}"
    return UnavailableError(what, where=f"{request.cache} {request.revision}", fix=fix)


def damaged(path: Path, repository: str, how: str) -> RejectedError:
    """Return that a cached file no longer holds the hub's bytes."""
    fix = f"remove it with `hf cache rm model/{repository}` and fetch it again"
    return RejectedError(f"cache damaged: {path.name}: {how}", where=str(path), fix=fix)
