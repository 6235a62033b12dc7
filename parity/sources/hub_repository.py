"""Weights from Hugging Face's hub, or from its cache."""

from huggingface_hub import constants

from parity.sources import huggingface_files
from parity.weights import Checkpoint
from reference import hub, published
from reference.hub import Fetched
from reference.refusal import UnavailableError


def read(
    repository: str, revision: str | None = None, fetched: Fetched | None = None
) -> Checkpoint:
    """Return a repository's weights.

    Args:
        repository: Its id.
        revision: Commit, branch or tag; None is the published commit, or the main branch.
        fetched: Its files, if they were fetched before.

    Raises:
        SourceError: They cannot be had, or are not what the hub says.
        InputRefusedError, CheckpointError: They are not a whole GPT-1.
    """
    fetched = fetched or hub.fetch(repository, revision)
    commit = fetched.commit
    origin = "the hub's cache" if fetched.from_cache else "the hub"
    return huggingface_files.read(
        fetched.paths[huggingface_files.CONFIG].parent,
        source=f"{repository}, from {origin}, commit {commit}{_unfinished(fetched)}",
        revision=commit,
        released=repository in published.REPOSITORIES,
    )


def _unfinished(fetched: Fetched) -> str:
    """Return a word about downloads that were interrupted: they take room and nobody else tells."""
    count = len(fetched.unfinished)
    return f" ({count} unfinished downloads lie in the cache)" if count else ""


def cached(repository: str) -> Fetched | None:
    """Return a repository's files, if the cache has them whole.

    Raises:
        RefusedError: It has them, damaged.
    """
    try:
        return hub.fetch(repository, offline=True)
    except UnavailableError:
        return None


def out_of_reach(repository: str) -> str:
    """Return why a repository that is not cached cannot be fetched either; "" if it may be.

    Nothing but the hub's silence is a reason: whatever else is wrong shows when it is fetched.
    """
    if constants.HF_HUB_OFFLINE:
        return f"{repository} is not in the hub's cache, and HF_HUB_OFFLINE is set"
    if not hub.reachable():
        return f"{repository} is not in the hub's cache, and the hub cannot be connected to"
    return ""
