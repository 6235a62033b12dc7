"""A run's checkpoints: the newest good one is found, the old ones go."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.shown import one_line
from scratch_gpt.files.staging import is_in_staging, make_staging
from scratch_gpt.training import checkpoints
from scratch_gpt.training.checkpoints import Checkpoint

_NAME = re.compile(r"step-([0-9]{8}|[1-9][0-9]{8,17})")
"""What `folder_of` writes, and no other spelling of the same step."""


def folder_of(folder: Path, step: int) -> Path:
    """Return the place of a step's checkpoint."""
    return folder / f"step-{step:08d}"


def by_step(folder: Path) -> dict[int, Path]:
    """Return the folders of checkpoints by step, newest first; by number, not by name.

    Args:
        folder: Where they are; it need not be there.
    """
    entries = folder.iterdir() if folder.is_dir() else ()
    found = {int(named[1]): entry for entry in entries if (named := _NAME.fullmatch(entry.name))}
    return dict(sorted(found.items(), reverse=True))


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest checkpoint that is undamaged, None where there is none at all.

    Args:
        folder: Where the checkpoints are.
        warn: Is told of each damaged one that is passed over.

    Raises:
        CheckpointError: There are checkpoints, and every one is damaged.
    """
    places = by_step(folder)
    for place in places.values():
        try:
            return checkpoints.read(place)
        except CheckpointError as error:
            warn(f"checkpoint {place.name} is passed over: {error}")
    if not places:
        return None
    raise CheckpointError(
        f"none of the {len(places)} checkpoints is undamaged",
        where=one_line(folder),
        fix="train anew with another --output, or bring a good checkpoint back",
    )


def prune(folder: Path, *, upto: int, keep: int, best: int | None) -> None:
    """Remove all checkpoints up to a step but the last `keep` and the best one.

    Each goes in one step: what a killed process leaves is no damaged checkpoint.

    Raises:
        OSError: The file system refused.
    """
    old = [step for step in by_step(folder) if step <= upto][keep:]
    for step in old:
        if step != best:
            aside = make_staging(folder)
            by_step(folder)[step].rename(aside)  # over the empty folder
            shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what killed writers left: whoever holds the run's lock is the only writer."""
    for entry in folder.iterdir() if folder.is_dir() else ():
        if is_in_staging(Path(entry.name)):
            shutil.rmtree(entry, ignore_errors=True)
