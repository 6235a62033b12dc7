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
from scratch_gpt.tokenizer import Tokenizer

MERGES = 2_000
"""Merges of a vocabulary that is learned on the spot: 2 s of processor time."""

_DRAWN = ("surrogate", "tiny")
"""Weights that have no vocabulary."""


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
        InputRefusedError: The folder asked for has none.
        EnvironmentUnfitError: The released one was asked for and is not in the cache.
    """
    if directory is not None:
        yield _required(directory, f"{directory}")
        return
    found = _beside(weights)
    if found is not None:
        yield found
        return
    if weights in published.REPOSITORIES:
        raise EnvironmentUnfitError(
            "the released vocabulary is not in the hub's cache",
            where=f"--weights {weights}",
            fix="give its folder with --vocabulary, or fetch the weights once with "
            "`python -m parity.check weights --weights openai-gpt`",
        )
    with tempfile.TemporaryDirectory() as name:
        Tokenizer.train(texts, merges=MERGES).save_pretrained(name)
        yield _required(
            Path(name), f"learned for this run: {MERGES:,} merges of the standard library's words"
        )


def _beside(weights: str) -> Found | None:
    """Return the vocabulary that weights have, None where they have none here."""
    if weights in _DRAWN:
        return None
    if weights == "auto" or weights in published.REPOSITORIES:
        return _cached()
    path = Path(weights)
    return _in(path if path.is_dir() else path.parent, f"beside {weights}")


def _cached() -> Found | None:
    """Return the released vocabulary from the hub's cache."""
    for repository in reversed(published.REPOSITORIES):
        folder = hub_cache.storage(Path(constants.HF_HUB_CACHE), repository)
        for snapshot in sorted((folder / "snapshots").glob("*")):
            found = _in(snapshot, f"the hub's cache, {repository}")
            if found is not None:
                return found
    return None


def _required(folder: Path, source: str) -> Found:
    found = _in(folder, source)
    if found is None:
        raise InputRefusedError(
            f"there is no vocabulary in the folder: neither {' and '.join(NAMES)} nor "
            f"{' and '.join(NAMES.values())}",
            where=f"--vocabulary {folder}",
            fix="name a folder that holds both files of one of the pairs",
        )
    return found


def _in(folder: Path, source: str) -> Found | None:
    """Return the vocabulary of a folder under the names of either publication."""
    for names in (tuple(NAMES), tuple(NAMES.values())):
        vocabulary, merges = (folder / name for name in names)
        if os.path.lexists(vocabulary) and os.path.lexists(merges):
            return Found(folder=folder, vocabulary=vocabulary, merges=merges, source=source)
    return None
