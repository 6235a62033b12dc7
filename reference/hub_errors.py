"""What goes wrong with Hugging Face's hub: each trouble in a sentence of its own.

The client raises errors of its own, of the HTTP library beneath it (requests before 1.0, httpx
after) and of the operating system. They are told apart here and nowhere else.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import errors

from reference.errors import RejectedError, SourceError, UnavailableError
from reference.files import is_full


class NoAnswerError(UnavailableError):
    """The hub could not be asked; what was fetched before may still serve."""


class TransientError(UnavailableError):
    """A trouble that may pass: worth another try."""


class TroubledHubError(NoAnswerError, TransientError):
    """The hub answered that something is wrong with it."""


class CutOffError(TransientError):
    """A file stopped coming because the connection ended."""


class StalledError(Exception):
    """Nothing moved for as long as one waits."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubRequest:
    """What was asked of whom: the words of every sentence here.

    Attributes:
        repository: Id on the hub.
        revision: Commit, branch or tag.
        endpoint: Address of the hub.
        cache: Folder that downloads go into.
        seconds: How long an answer was waited for.
        file: Name of the file, empty while the repository's files are listed.
    """

    repository: str
    revision: str
    endpoint: str
    cache: Path
    seconds: float
    file: str = ""

    @property
    def where(self) -> str:
        """Return the place in one line."""
        return " ".join((f"{self.endpoint}/{self.repository}@{self.revision}", self.file)).strip()


_Applies = Callable[[Exception, HubRequest], bool]
_Words = Callable[[Exception, HubRequest], SourceError]

_ELSEWHERE = "give a local path, or download the files elsewhere and copy them here"
_LOG_IN = "accept its terms on its page if it has any, then log in with `hf auth login`"
_LATER = f"try again later; or {_ELSEWHERE}"

TRANSPORT = [kind for kind in errors.HfHubHTTPError.__mro__ if kind.__module__ != "builtins"][-1]
"""The base of everything the HTTP library raises, whichever library it is."""

_BY_KIND: tuple[tuple[type[Exception], str, str], ...] = (
    (errors.GatedRepoError, "{repository} is gated, and you have not been let in", _LOG_IN),
    (errors.DisabledRepoError, "{repository} has been disabled on the hub", _ELSEWHERE),
    (
        errors.RevisionNotFoundError,
        "{repository} has no revision {revision}",
        "take a commit, branch or tag from its page, or leave the revision out",
    ),
)
_BY_STATUS = {
    401: (
        "{repository} is not shown to you: it is private, or there is no such repository",
        _LOG_IN,
    ),
    403: ("access to {repository} is forbidden to you", _LOG_IN),
}
_MISSING: tuple[tuple[type[Exception], str, str], ...] = (
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


def explain(error: Exception, asked: HubRequest) -> SourceError:
    """Return what `error`, raised while the hub was asked, means to the user.

    Raises:
        Exception: `error` itself, where it means nothing known.
    """
    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # the client wraps what happened into "not in the cache"
    if isinstance(error, SourceError):
        return error
    for applies, words in _MEANINGS:
        if applies(error, asked):
            return words(error, asked)
    raise error


def not_cached(asked: HubRequest) -> UnavailableError:
    """Return that one is offline, with the two ways out."""
    what = f"{asked.repository} is not in the cache, and the hub may not be asked (offline)"
    return UnavailableError(what, where=f"{asked.cache} {asked.revision}", fix=_ELSEWHERE)


def incomplete(asked: HubRequest, held: int, size: int | None) -> UnavailableError:
    """Return that a file stopped coming."""
    of = "" if size is None else f" of {size:,}"
    what = f"download incomplete: {asked.file} stopped at {held:,}{of} bytes"
    timeout = f"no new byte for {asked.seconds:g} s"
    return UnavailableError(f"{what}, {timeout}", where=asked.where, fix=_LATER)


def wrong_bytes(asked: HubRequest, name: str, path: Path) -> RejectedError:
    """Return that a file was downloaded in full and is another one."""
    what = f"{name} is not what the hub says it is: its digest differs from the ETag"
    fix = f"remove it with `hf cache rm model/{asked.repository}` and fetch it again"
    return RejectedError(what, where=str(path), fix=fix)


def _answered(error: Exception, asked: HubRequest) -> UnavailableError:
    """Return what an answer with an error code says."""
    status = getattr(getattr(error, "response", None), "status_code", 0)
    words = dataclasses.asdict(asked)
    for kind, what, fix in _BY_KIND:
        if isinstance(error, kind):
            return UnavailableError(what.format_map(words), where=asked.where, fix=fix)
    if status in _BY_STATUS:
        what, fix = _BY_STATUS[status]
        return UnavailableError(what.format_map(words), where=asked.where, fix=fix)
    for kind, what, fix in _MISSING:
        if isinstance(error, kind):
            return UnavailableError(what.format_map(words), where=asked.where, fix=fix)
    what = f"the hub answers with an error ({status})"
    return TroubledHubError(what, where=asked.where, fix=_LATER)


def _no_id(_error: Exception, asked: HubRequest) -> RejectedError:
    what, fix = f"{asked.repository!r} is no id of a repository", "give owner/name"
    return RejectedError(what, where=asked.where, fix=fix)


def _silent(_error: Exception, asked: HubRequest) -> NoAnswerError:
    what = f"the hub gave no answer within {asked.seconds:g} s"
    return NoAnswerError(what, where=asked.where, fix=_LATER)


def _cut_off(error: Exception, asked: HubRequest) -> UnavailableError:
    if asked.file:
        what = f"download incomplete: the connection broke off during {asked.file}"
        return CutOffError(what, where=asked.where, fix=_LATER)
    what = f"cannot connect to the hub ({type(error).__name__})"
    fix = f"check network and proxy; or {_ELSEWHERE}"
    return NoAnswerError(what, where=asked.where, fix=fix)


def _unwritable(error: Exception, asked: HubRequest) -> UnavailableError:
    strerror = getattr(error, "strerror", None) or type(error).__name__
    reason = "the disk is full" if is_full(error) else strerror
    what = f"the cache cannot be used: {reason}"
    fix = "set HF_HOME to a folder with room that you may write to"
    return UnavailableError(what, where=f"{asked.cache} {asked.file}".strip(), fix=fix)


def _no_hub(_error: Exception, asked: HubRequest) -> NoAnswerError:
    what = "what answers at this address is no hub: a proxy, or a page to log in to the network"
    return NoAnswerError(what, where=asked.where, fix="check network, proxy and HF_ENDPOINT")


def _named(part: str) -> _Applies:
    """Return whether an error's class is called so: the HTTP libraries share names, not classes."""
    return lambda error, _: part in type(error).__name__


def _is(*kinds: type[Exception]) -> _Applies:
    return lambda error, _: isinstance(error, kinds)


_MEANINGS: tuple[tuple[_Applies, _Words], ...] = (
    (_is(errors.HfHubHTTPError, errors.EntryNotFoundError), _answered),
    (_is(errors.HFValidationError), _no_id),
    (_is(errors.OfflineModeIsEnabled), lambda _, asked: not_cached(asked)),
    (_is(StalledError), _silent),
    (_named("Timeout"), _silent),
    (_named("URL"), _no_hub),
    (_is(errors.FileMetadataError), _no_hub),
    # An answer that is no JSON: requests makes it an error of its own and a ValueError at once.
    (lambda error, asked: isinstance(error, ValueError) and not asked.file, _no_hub),
    (_is(TRANSPORT), _cut_off),
    (lambda error, _: isinstance(error, OSError) and error.errno is not None, _unwritable),
    (_is(OSError), _cut_off),
)
"""Each error, or group of them, and what it means; the first row that applies."""
