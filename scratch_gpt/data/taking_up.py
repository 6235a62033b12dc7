"""Beginning a preparation, or going on with one that was interrupted."""

import contextlib
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

if os.name == "posix":
    import fcntl

from scratch_gpt.data import dataset
from scratch_gpt.data import dataset as manifest_file
from scratch_gpt.data import plan as plan_file
from scratch_gpt.data.dataset import PLAN, Manifest, require_same
from scratch_gpt.data.plan import POSITION, Plan, Position
from scratch_gpt.data.unfinished import BETWEEN, Unfinished, remove, told
from scratch_gpt.errors import CheckpointError, OccupiedError, one_line, quote

_PIECE = 1 << 20
# Not "r+b": the one who began may have been killed before it made the file.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def taken_up(folder: Path, plan: Plan) -> Iterator[Unfinished | None]:
    """Begin a preparation, or go on with the one that was begun; nobody else may meanwhile.

    Yields:
        The tokens so far; None where all is done already.

    Raises:
        OccupiedError: The folder holds something else, or another process is at work there.
        CheckpointError: What was begun or done there is not this plan's, or is damaged.
        WriteError: The file system refused.
    """
    _make(folder)
    with _alone_in(folder):
        _require_ours(folder)
        if (folder / manifest_file.MANIFEST_FILE).exists():
            _require_plan(folder, _done(folder), plan, "other tokens were prepared there")
            with told(folder):
                remove(folder, *BETWEEN)
            yield None
            return
        _begin(folder, plan)
        with told(folder):
            descriptor = os.open(folder / dataset.TOKENS_FILE, _FLAGS, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            yield Unfinished(folder, plan, file, _resumed(folder, plan, file))


def _make(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise _occupied(folder, "there is a file of that name")
    with told(folder):
        folder.mkdir(parents=True, exist_ok=True)


def _require_ours(folder: Path) -> None:
    """Require a folder that is empty, or in which a preparation began or came to its end."""
    with told(folder):
        names = sorted(path.name for path in folder.iterdir())
    others = [name for name in names if name != f"{PLAN}.partial"]
    if others and not {PLAN, manifest_file.MANIFEST_FILE} & set(others):
        raise _occupied(folder, f"the folder holds {quote(others[0])} and no prepared text")


def _occupied(folder: Path, what: str) -> OccupiedError:
    fix = "choose another folder, or remove what is there"
    return OccupiedError(what, where=one_line(folder), fix=fix)


def _done(folder: Path) -> Plan:
    manifest = Manifest.read(folder / manifest_file.MANIFEST_FILE)
    return Plan(format=manifest.format, recipe=manifest.recipe, sources=manifest.sources)


def _begin(folder: Path, plan: Plan) -> None:
    """Write the plan, or require that the one that is there is the same."""
    path = folder / PLAN
    if path.exists():
        begun = plan_file.read(path, Plan)
        _require_plan(folder, begun, plan, "the preparation there was begun with something else")
    else:
        with told(folder):
            plan_file.write(path, plan)


def _require_plan(folder: Path, here: Plan, asked: Plan, what: str) -> None:
    require_same(here.against(asked), folder, what)


def _resumed(folder: Path, plan: Plan, file: BinaryIO) -> Position:
    """Return how far the tokens on the disk go, and cut off what goes further."""
    path = folder / POSITION
    position = plan_file.read(path, Position) if path.exists() else Position()
    length = position.tokens * plan.recipe.bytes_per_token
    sizes = [*(source.length for source in plan.sources), 0]  # behind the last document is nothing
    if position.document >= len(sizes) or position.offset > sizes[position.document]:
        raise _damaged(path, "it is beyond the end of the documents")
    if file.seek(0, 2) < length or _crc32(file, length) != position.crc32:
        raise _damaged(folder / dataset.TOKENS_FILE, "its bytes are not those that were written")
    with told(folder):
        file.truncate(length)
    file.seek(length)
    return position


def _crc32(file: BinaryIO, length: int) -> int:
    """Return the checksum of a file's first bytes."""
    file.seek(0)
    checksum = 0
    while length:
        content = file.read(min(length, _PIECE))
        checksum = zlib.crc32(content, checksum)
        length -= len(content)
    return checksum


def _damaged(path: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the interrupted preparation is damaged: {what}",
        where=one_line(path),
        fix="remove the folder and prepare the text anew",
    )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep others from preparing here; the lock is gone with the process that holds it."""
    if os.name != "posix":  # elsewhere a folder cannot be opened, nor locked
        yield
        return
    with told(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, folder)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OccupiedError(
            "another process is preparing text there",
            where=one_line(folder),
            fix="wait for it, or choose another folder",
        ) from error
    except OSError:  # some network file systems have no locks
        return
