"""Folders are written whole or not at all."""

import ctypes
import errno
import os
import random
import re
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors import SafetensorError

from scratch_gpt.checkpoint import atomic
from scratch_gpt.checkpoint.atomic import (
    exchange_paths,
    make_staging,
    replace_folder,
    sweep,
    to_write_error,
)
from scratch_gpt.errors import OccupiedError, WriteError

Files = dict[str, str]

MODEL = {"config.json": "{}", "model.safetensors": "weights"}
OLD = {"config.json": "old", "vocab.json": "the user's", "README.md": "the user's"}


def write(path: Path, files: Files, *, overwrite: bool = True) -> None:
    with replace_folder(path, overwrite=overwrite) as staging:
        put(staging, files)


def put(folder: Path, files: Files) -> None:
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")


def contents(folder: Path) -> Files:
    return {path.name: path.read_text("utf-8") for path in folder.iterdir()}


def contents_alone(folder: Path) -> Files:
    """Return each file's text; nothing is left beside the folder."""
    assert [folder] == list(folder.parent.iterdir())
    return contents(folder)


def raising(error: BaseException | type[BaseException]) -> Callable[..., None]:
    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    return fail


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "model"


@pytest.fixture
def occupied(target: Path) -> Path:
    target.mkdir()
    put(target, OLD)
    return target


def test_writes_a_new_folder(target: Path) -> None:
    with replace_folder(target, overwrite=False) as staging:
        put(staging, MODEL)
        assert not target.exists()
        assert staging.parent == target.parent
    assert contents_alone(target) == MODEL


def test_makes_the_folders_above_and_takes_an_empty_one(target: Path) -> None:
    (target / "a" / "empty").mkdir(parents=True)
    for folder in (target / "b" / "c", target / "a" / "empty"):
        write(folder, MODEL, overwrite=False)
        assert contents(folder) == MODEL


@pytest.mark.parametrize("linux", ["one step", "three steps"])
def test_carries_files_over(linux: str, occupied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if linux == "three steps":
        monkeypatch.setattr(atomic, "_is_linux", lambda: False)
    with replace_folder(occupied, overwrite=True) as staging:
        put(staging, MODEL)
        assert contents(occupied) == OLD
    assert contents_alone(occupied) == OLD | MODEL


def test_carries_links_over_as_links(occupied: Path) -> None:
    (occupied.parent / "blob").write_text("elsewhere", "utf-8")
    (occupied / "merges.txt").symlink_to("../blob")
    (occupied / "dangling").symlink_to("nowhere")
    write(occupied, MODEL)
    assert (occupied / "merges.txt").read_text("utf-8") == "elsewhere"
    links = {path.name: str(path.readlink()) for path in occupied.iterdir() if path.is_symlink()}
    assert links == {"merges.txt": "../blob", "dangling": "nowhere"}


def test_copies_files_without_hard_links(occupied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse = raising(OSError(errno.EPERM, os.strerror(errno.EPERM)))
    os.utime(occupied / "vocab.json", ns=(10**18, 10**18))
    (occupied / "vocab.json").chmod(0o640)
    monkeypatch.setattr(os, "link", refuse)
    write(occupied, {"config.json": "new"})
    assert contents(occupied) == OLD | {"config.json": "new"}
    status = (occupied / "vocab.json").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (10**18, 0o640)


def test_keeps_files_that_appear_meanwhile(occupied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = atomic._move

    def late(staging: Path, destination: Path, *, overwrite: bool) -> None:
        put(destination, {"notes.txt": "late"})
        move(staging, destination, overwrite=overwrite)

    monkeypatch.setattr(atomic, "_move", late)
    write(occupied, MODEL)
    assert contents(occupied) == OLD | MODEL | {"notes.txt": "late"}


def test_a_link_stays_and_its_target_is_replaced(occupied: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest"
    link.symlink_to("../model")
    write(link, MODEL)
    assert str(link.readlink()) == "../model"
    assert contents(occupied) == OLD | MODEL
    assert [link] == list(link.parent.iterdir())
    dangling = tmp_path / "dangling"
    dangling.symlink_to("elsewhere")
    write(dangling, MODEL, overwrite=False)
    assert dangling.is_symlink()
    assert contents(tmp_path / "elsewhere") == MODEL


def add_folder(path: Path) -> None:
    (path / "checkpoint\n1").mkdir()


@pytest.mark.parametrize(
    ("spoil", "overwrite", "what"),
    [
        (lambda _path: None, "no", "the folder is not empty"),
        (add_folder, "yes", r"the folder holds 'checkpoint\n1', no plain file"),
        (add_folder, "no", "the folder is not empty"),
        (lambda path: os.mkfifo(path / "pipe"), "yes", "the folder holds 'pipe', no plain file"),
    ],
)
def test_refuses_a_folder_with_something_to_lose(
    spoil: Callable[[Path], None], overwrite: str, what: str, occupied: Path
) -> None:
    spoil(occupied)
    before = occupied.stat()
    with pytest.raises(OccupiedError) as caught:
        write(occupied, MODEL, overwrite=overwrite == "yes")
    assert (what, str(occupied)) == (caught.value.what, caught.value.where)
    after = occupied.stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert [occupied] == list(occupied.parent.iterdir())


def test_refuses_a_file_of_that_name(target: Path) -> None:
    target.write_text("a file", "utf-8")
    with pytest.raises(OccupiedError, match=r"^there is a file of that name"):
        write(target, MODEL)
    assert target.read_text("utf-8") == "a file"


@pytest.mark.parametrize("name", ["", ".", "../target"])
def test_refuses_the_working_folder(
    name: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shell in it would stay in the removed one."""
    target.mkdir()
    before = target.stat().st_ino
    monkeypatch.chdir(target)
    with pytest.raises(OccupiedError, match=r"^it is the working folder"):
        write(Path(name.replace("target", target.name)), MODEL)
    assert (target.stat().st_ino, list(target.iterdir())) == (before, [])


def test_refuses_a_mount_point(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one that is not recognized, the move fails."""
    target.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "is_mount", lambda _: True)
        with pytest.raises(WriteError, match=r"^it is a mount point"):
            write(target, MODEL)
    busy = OSError(errno.EBUSY, os.strerror(errno.EBUSY), ".gpt1-1-00000000.partial")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", raising(busy))
        with pytest.raises(WriteError, match=r"^it is a mount point") as caught:
            write(target, MODEL)
    assert ".partial" not in str(caught.value)
    assert list(target.parent.iterdir()) == [target]


def test_refuses_a_folder_filled_meanwhile(target: Path) -> None:
    with (
        pytest.raises(OccupiedError, match=r"^the folder was filled meanwhile"),
        replace_folder(target, overwrite=False),
    ):
        write(target, {"config.json": "first"}, overwrite=False)
    assert contents_alone(target) == {"config.json": "first"}


@pytest.mark.parametrize("first", [{}, OLD])
def test_the_last_of_two_writers_wins_whole(first: Files, target: Path) -> None:
    if first:
        write(target, first)
    with replace_folder(target, overwrite=True) as staging:
        put(staging, {"config.json": "A", "model.safetensors": "A"})
        write(target, {"config.json": "B", "model.safetensors": "B"})
        assert contents(target)["config.json"] == "B"
    assert contents_alone(target) == first | {"config.json": "A", "model.safetensors": "A"}


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_all_as_it_was(error: BaseException, occupied: Path) -> None:
    def write_half() -> None:
        with replace_folder(occupied, overwrite=True) as staging:
            put(staging, MODEL)
            raise error

    with pytest.raises(type(error)) as raised:
        write_half()
    assert raised.value is error
    assert contents_alone(occupied) == OLD


def test_an_error_about_another_place_passes(occupied: Path, tmp_path: Path) -> None:
    missing = tmp_path / "source" / "vocab.json"
    with (
        pytest.raises(FileNotFoundError, match=r"source/vocab\.json"),
        replace_folder(occupied, overwrite=True),
    ):
        missing.read_text("utf-8")
    assert contents(occupied) == OLD


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
@pytest.mark.parametrize("call", ["mkdir", "write", "fsync", "rename"])
def test_a_error_of_the_file_system_leaves_all_as_it_was(
    call: str, number: int, occupied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = raising(OSError(number, os.strerror(number)))
    holders = {"mkdir": Path, "write": Path, "fsync": os, "rename": Path}
    names = {"write": "write_text"}
    monkeypatch.setattr(holders[call], names.get(call, call), refuse)
    with pytest.raises(WriteError) as caught:
        write(occupied, MODEL)
    monkeypatch.undo()
    assert caught.value.where == str(occupied)
    assert caught.value.fix
    assert contents_alone(occupied) == OLD


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """Return a folder of a user without the rights of an administrator."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made).resolve()
        if os.geteuid() != 0:
            yield folder
            return
        os.chown(folder, 65534, -1)
        os.setresuid(65534, 65534, 0)
        yield folder
        os.setresuid(0, 0, 0)


@pytest.mark.parametrize("forbidden", ["the folder", "the one above"])
def test_no_permission_leaves_all_as_it_was(forbidden: str, own_folder: Path) -> None:
    """A folder that may not be written is not replaced, though the one above would allow it."""
    folder = own_folder / "model"
    folder.mkdir()
    put(folder, OLD)
    closed = folder if forbidden == "the folder" else own_folder
    closed.chmod(0o555)
    with pytest.raises(WriteError, match=r"^there is no permission to write .*model"):
        write(folder, MODEL)
    closed.chmod(0o755)
    assert contents(folder) == OLD
    assert [folder] == list(own_folder.iterdir())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002, 0])
def test_modes_follow_the_umask(umask: int, target: Path) -> None:
    before = os.umask(umask)
    try:
        with replace_folder(target, overwrite=False) as staging:
            put(staging, MODEL)
            (staging / "model.safetensors").chmod(0o600)
    finally:
        os.umask(before)
    expected = {"model": 0o777 & ~umask} | dict.fromkeys(MODEL, 0o666 & ~umask)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (target, *target.iterdir())}
    assert expected == modes


def test_old_folders_and_files_keep_their_modes(occupied: Path) -> None:
    occupied.chmod(0o700)
    (occupied / "vocab.json").chmod(0o400)
    write(occupied, MODEL)
    assert stat.S_IMODE(occupied.stat().st_mode) == 0o700
    assert stat.S_IMODE((occupied / "vocab.json").stat().st_mode) == 0o400


@pytest.mark.parametrize("place", ["new", "old"])
def test_all_is_on_the_disk_before_it_is_in_place(
    place: str, target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files, then their folder, then the move, then the folder above."""
    if place == "old":
        write(target, OLD)
    order: list[str] = []
    move = atomic._move

    def moved(*arguments: Path, **options: bool) -> None:
        order.append("move")
        move(*arguments, **options)

    def flushed(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(atomic, "_move", moved)
    monkeypatch.setattr(os, "fsync", flushed)
    with replace_folder(target, overwrite=True) as staging:
        put(staging, MODEL)
    files = MODEL if place == "new" else OLD | MODEL
    assert sorted(files) == sorted(order[:-3])
    assert [staging.name, "move", target.parent.name] == order[-3:]


def test_what_killed_writers_left_is_swept(target: Path) -> None:
    left = target.parent / ".gpt1-999999999-0123abcd.partial"
    left.mkdir()
    put(left, MODEL)
    write(target, MODEL)
    assert left.exists()
    os.utime(left, (0, 0))
    write(target, MODEL)
    assert [target] == list(target.parent.iterdir())


# A killed writer.


WRITER = """
import sys
from itertools import count
from pathlib import Path

from scratch_gpt.checkpoint.atomic import replace_folder

destination, sep = Path(sys.argv[1]), " "
for version in count(int(sys.argv[2])):
    with replace_folder(destination, overwrite=True) as staging:
        for name in ("a", "b", "c"):
            (staging / name).write_text(20_000 * f"{version}{sep}")
    print(version, flush=True)
"""

LEFT = re.compile(r"\.gpt1-\d+-[0-9a-f]{8}\.partial")


def kill_a_writer(home: Path, destination: Path, first: int, delay: float) -> int:
    command = [sys.executable, "-S", "-c", WRITER, str(destination), str(first)]
    environment = os.environ | {"PYTHONPATH": str(home)}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = [process.stdout.readline()]
        time.sleep(delay)
        process.kill()
        printed += process.stdout.readlines()
    return int(printed[-1])


def version_of(destination: Path) -> int:
    """Return which version the folder holds: one, whole, beside the user's file."""
    texts = {path.name: path.read_text("utf-8") for path in destination.iterdir()}
    assert texts.pop("README.md") == "the user's"
    assert sorted(texts) == ["a", "b", "c"]
    (text,) = set(texts.values())
    version, *others = text.split()
    assert [version] * 19_999 == others
    return int(version)


@pytest.mark.parametrize(
    "kills", [20, pytest.param(50, marks=pytest.mark.slow)], ids="{} kills".format
)
def test_a_killed_writer_leaves_one_version(
    kills: int, tmp_path: Path, home_of: Callable[[str], Path | None]
) -> None:
    package = home_of("scratch_gpt")
    assert package is not None
    destination = tmp_path / "model"
    destination.mkdir()
    (destination / "README.md").write_text("the user's", "utf-8")
    moments = random.Random(20180611)  # noqa: S311 - no secret
    found = 0
    for _ in range(kills):
        last = kill_a_writer(package.parent, destination, found + 1, moments.uniform(0.0, 0.03))
        found = version_of(destination)
        assert found in {last, last + 1}
    left = [path.name for path in tmp_path.iterdir() if path != destination]
    assert all(LEFT.fullmatch(name) for name in left)
    assert len(left) <= kills


# The staging folder.


A_DAY = 24 * 60 * 60


@pytest.fixture
def dead() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def left_behind(parent: Path, name: str, age: float) -> Path:
    folder = parent / name
    folder.mkdir()
    (folder / "model.safetensors").touch()
    os.utime(folder, (time.time() - age, time.time() - age))
    return folder


def test_is_new_and_names_its_owner(tmp_path: Path) -> None:
    one, other = make_staging(tmp_path), make_staging(tmp_path)
    assert one != other
    for folder in (one, other):
        assert folder.parent == tmp_path
        assert folder.name.startswith(f".gpt1-{os.getpid()}-")
        assert not list(folder.iterdir())


def test_an_old_one_of_a_dead_owner_is_swept(tmp_path: Path, dead: int) -> None:
    folder = left_behind(tmp_path, f".gpt1-{dead}-0123abcd.partial", A_DAY + 60)
    sweep(tmp_path)
    assert not folder.exists()


def test_other_folders_are_not_swept(tmp_path: Path, dead: int) -> None:
    kept = [
        left_behind(tmp_path, f".gpt1-{dead}-0123abcd.partial", A_DAY - 60),
        left_behind(tmp_path, f".gpt1-{os.getpid()}-0123abcd.partial", 2 * A_DAY),
        left_behind(tmp_path, f".gpt1-{dead}-0123abcd.partial.replaced", 2 * A_DAY),
        left_behind(tmp_path, f".gpt1-{dead}-mine.partial", 2 * A_DAY),
        left_behind(tmp_path, f"gpt1-{dead}-0123abcd.partial", 2 * A_DAY),
    ]
    sweep(tmp_path)
    assert sorted(kept) == sorted(tmp_path.iterdir())


@pytest.mark.parametrize(("error", "alive"), [(PermissionError, True), (ProcessLookupError, False)])
def test_a_process_that_may_not_be_signalled_is_alive(
    error: type[OSError], alive: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse = raising(error)
    monkeypatch.setattr(os, "kill", refuse)
    assert alive is atomic._is_alive(1)


def test_a_process_counts_as_alive_on_other_systems(monkeypatch: pytest.MonkeyPatch) -> None:
    """There `os.kill` would end the process."""
    monkeypatch.setattr(os, "kill", None)
    monkeypatch.setattr(os, "name", "nt")
    assert atomic._is_alive(1)


def test_a_missing_folder_is_swept_without_an_error(tmp_path: Path) -> None:
    sweep(tmp_path / "missing")


# The exchange of two folders.


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    folders = (tmp_path / "one", tmp_path / "other")
    for folder in folders:
        folder.mkdir()
        (folder / folder.name).touch()
    return folders


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class Library:
    """A C library whose renameat2 fails with `number`, or that has none."""

    def __init__(self, number: int | None) -> None:
        if number is not None:
            self.renameat2 = lambda *_arguments: ctypes.set_errno(number) or -1


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, None, 0])
def test_names_are_exchanged(
    number: int | None, two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one step (0), and where the system, the file system or the library cannot do that."""
    if number != 0:
        monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: Library(number))
    one, other = two
    exchange_paths(one, other)
    assert (names(one), names(other)) == (["other"], ["one"])
    assert names(one.parent) == ["one", "other"]


def test_one_step_is_one_call(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    fail = raising(AssertionError)
    monkeypatch.setattr(Path, "rename", fail)
    exchange_paths(*two)
    assert names(two[0]) == ["other"]


def test_another_system_renames(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_is_linux", lambda: False)
    monkeypatch.setattr(ctypes, "CDLL", None)
    exchange_paths(*two)
    assert names(two[0]) == ["other"]


def test_a_refusal_is_an_error(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda *_arguments, **_options: Library(errno.EROFS))
    with pytest.raises(OSError, match="Read-only file system") as caught:
        exchange_paths(*two)
    assert caught.value.errno == errno.EROFS
    assert (names(two[0]), names(two[1])) == (["one"], ["other"])


def test_a_half_done_exchange_is_undone(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_is_linux", lambda: False)
    one, other = two
    rename = Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path == one:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(OSError, match="Input/output error"):
        exchange_paths(one, other)
    assert (names(one), names(other)) == (["one"], ["other"])


# Errors of the file system.


@pytest.mark.parametrize(
    ("number", "what", "fix"),
    [
        (errno.ENOSPC, "the disk is full", "free some space"),
        (errno.EDQUOT, "the disk quota is used up", "free some space"),
        (errno.EFBIG, "the file would be larger than is allowed", "ulimit -f"),
        (errno.EROFS, "the file system is read-only", "another place"),
        (errno.EACCES, "there is no permission to write", "permissions"),
    ],
)
def test_an_error_number_has_a_meaning_and_a_fix(number: int, what: str, fix: str) -> None:
    errors = (
        OSError(number, os.strerror(number)),
        SafetensorError(f"Error while serializing: I/O error: whatever (os error {number})"),
    )
    for error in errors:
        found = to_write_error(error, "models/mine")
        assert fix in found.fix
        assert f"{what} (models/mine; {found.fix})" == str(found)


def test_an_unknown_number_is_quoted_on_one_line() -> None:
    found = to_write_error(OSError(errno.EIO, "Input/output\nerror"), "a\nb")
    assert found.what == "it cannot be written: Input/output error"
    assert found.where == r"a\nb"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("no number"),
        SafetensorError("a header is wrong (os error x)"),
        OccupiedError("an error of ours", where="here", fix="there"),
        WriteError("an error of ours", where="here", fix="there"),
    ],
    ids=lambda error: str(error)[:20],
)
def test_other_errors_are_not_converted(error: Exception) -> None:
    assert to_write_error(error, "here") is None
