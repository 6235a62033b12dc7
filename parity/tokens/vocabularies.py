"""Which vocabulary a comparison of tokenizers is about."""

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from huggingface_hub import constants

from parity.errors import EnvironmentUnfitError, InputRefusedError
from parity.sources.vocabulary import NAMES
from reference import hub_cache, published
from scratch_gpt.tokenization.vocabulary_files import SINGLE_FILE
from scratch_gpt.tokenizer import Tokenizer

MERGES = 2_000
"""Merges of a vocabulary that is learned on the spot."""

_WITHOUT = ("surrogate", "tiny")
"""Weights that have no vocabulary."""

_LEARNED = ("auto", *_WITHOUT)
"""What `--weights` may say where a vocabulary is learned if none is found."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
    """A vocabulary's files.

    Attributes:
        folder: Where they lie.
        vocabulary: Tokens and ids.
        merges: The merges.
        source: What a verdict says about where they come from.
    """

    folder: Path
    vocabulary: Path
    merges: Path
    source: str


@contextlib.contextmanager
def chosen(directory: Path | None, weights: str, texts: Iterable[str]) -> Iterator[Found]:
    """Give the vocabulary that was asked for, or the one beside the weights, or a learned one.

    Args:
        directory: The folder asked for.
        weights: What `--weights` says: a folder or file that may have a vocabulary beside it, or a
            name of the released model, whose vocabulary may lie in the hub's cache. Nothing is
            downloaded.
        texts: What one is learned from where there is none.

    Raises:
        InputRefusedError: The folder asked for, or the weights, have none; or there are no weights.
        EnvironmentUnfitError: The released one was asked for and is not in the cache.
        CheckpointError: A `tokenizer.json` that is alone is not GPT-1's.
    """
    with tempfile.TemporaryDirectory() as name:
        room = Path(name)
        if directory is not None:
            yield _required(directory, f"--vocabulary {directory}", f"{directory}", room)
            return
        found = _beside(weights, room)
        if found is None:
            Tokenizer.train(texts, merges=MERGES).save_pretrained(room)
            source = f"learned for this run: {MERGES:,} merges of the standard library's words"
            found = _required(room, "the one that was learned", source, room)
        yield found


def _beside(weights: str, room: Path) -> Found | None:
    """Return the vocabulary that weights have, None where one is to be learned."""
    if weights in _WITHOUT:
        return None
    if weights in _LEARNED or weights in published.REPOSITORIES:
        return _cached(weights, room)
    path = Path(weights)
    if not path.exists():
        raise InputRefusedError(
            "there is no such file or folder, so no vocabulary beside it",
            where=f"--weights {weights}",
            fix="correct the path, or give a vocabulary's folder with --vocabulary",
        )
    folder = path if path.is_dir() else path.parent
    return _required(folder, f"--weights {weights}", f"beside {weights}", room)


def _cached(weights: str, room: Path) -> Found | None:
    """Return the released vocabulary from the hub's cache, None where it need not be there."""
    for repository in reversed(published.REPOSITORIES):
        for snapshot in _snapshots(Path(constants.HF_HUB_CACHE), repository):
            found = _in(snapshot, f"the hub's cache, {repository}", room)
            if found is not None:
                return found
    if weights in _LEARNED:
        return None
    raise EnvironmentUnfitError(
        "the released vocabulary is not in the hub's cache",
        where=f"--weights {weights}",
        fix="give its folder with --vocabulary, or fetch the weights once with "
        "`python -m parity.check weights --weights openai-gpt`",
    )


def _snapshots(cache: Path, repository: str) -> list[Path]:
    """Return a repository's snapshots: main's first, then the one that weights are taken of."""
    home = hub_cache.storage(cache, repository) / "snapshots"
    first = hub_cache.commit(cache, repository, "main"), published.REVISION
    known = [home / commit for commit in first if commit is not None]
    return list(dict.fromkeys([*known, *sorted(home.glob("*"))]))


def _required(folder: Path, where: str, source: str, room: Path) -> Found:
    found = _in(folder, source, room)
    if found is None:
        raise InputRefusedError(
            f"there is no vocabulary in the folder: neither {' and '.join(NAMES)} nor "
            f"{' and '.join(NAMES.values())} nor {SINGLE_FILE}",
            where=where,
            fix="name a folder that holds them with --vocabulary",
        )
    return found


def _in(folder: Path, source: str, room: Path) -> Found | None:
    """Return the vocabulary of a folder, in two files under the names of either publication.

    Args:
        folder: Where to look.
        source: What a verdict says about it.
        room: An empty folder, for the two files where there is `tokenizer.json` alone.
    """
    for names in (tuple(NAMES), tuple(NAMES.values())):
        vocabulary, merges = (folder / name for name in names)
        if os.path.lexists(vocabulary) and os.path.lexists(merges):
            return Found(folder=folder, vocabulary=vocabulary, merges=merges, source=source)
    if not os.path.lexists(folder / SINGLE_FILE):
        return None
    Tokenizer.from_pretrained(folder, splitting="bert").save_pretrained(room)
    vocabulary, merges = (room / name for name in NAMES)
    told = f"{source}, {SINGLE_FILE} as we read it"
    return Found(folder=folder, vocabulary=vocabulary, merges=merges, source=told)
