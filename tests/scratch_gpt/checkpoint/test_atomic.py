"""A folder written whole or not at all."""

import errno
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scratch_gpt.checkpoint import atomic
from scratch_gpt.checkpoint import atomic as module
from scratch_gpt.checkpoint.atomic import replace_folder
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
    assert contents(target) == MODEL
    assert [target] == list(target.parent.iterdir())


def test_makes_the_folders_above(target: Path) -> None:
    write(target / "a" / "b", MODEL)
    assert contents(target / "a" / "b") == MODEL


def test_an_empty_folder_is_no_obstacle(target: Path) -> None:
    target.mkdir()
    write(target, MODEL, overwrite=False)
    assert contents(target) == MODEL


@pytest.mark.parametrize("linux", ["one step", "three steps"])
def test_replaces_and_carries_over(
    linux: str, occupied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if linux == "three steps":
        monkeypatch.setattr(atomic, "_is_linux", lambda: False)
    with replace_folder(occupied, overwrite=True) as staging:
        put(staging, MODEL)
        assert contents(occupied) == OLD
    assert contents(occupied) == OLD | MODEL
    assert [occupied] == list(occupied.parent.iterdir())


def test_carries_links_over_as_links(occupied: Path) -> None:
    (occupied.parent / "blob").write_text("elsewhere", "utf-8")
    (occupied / "merges.txt").symlink_to("../blob")
    (occupied / "dangling").symlink_to("nowhere")
    write(occupied, MODEL)
    assert (occupied / "merges.txt").read_text("utf-8") == "elsewhere"
    links = {path.name: str(path.readlink()) for path in occupied.iterdir() if path.is_symlink()}
    assert links == {"merges.txt": "../blob", "dangling": "nowhere"}


def test_copies_where_no_file_can_have_two_names(
    occupied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    os.utime(occupied / "vocab.json", ns=(10**18, 10**18))
    (occupied / "vocab.json").chmod(0o640)
    monkeypatch.setattr(os, "link", refuse)
    write(occupied, {"config.json": "new"})
    assert contents(occupied) == OLD | {"config.json": "new"}
    status = (occupied / "vocab.json").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode)) == (10**18, 0o640)


def test_keeps_what_is_put_there_meanwhile(occupied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move = module._move

    def late(staging: Path, destination: Path, *, overwrite: bool) -> None:
        put(destination, {"notes.txt": "late"})
        move(staging, destination, overwrite=overwrite)

    monkeypatch.setattr(module, "_move", late)
    write(occupied, MODEL)
    assert contents(occupied) == OLD | MODEL | {"notes.txt": "late"}


def test_a_link_stays_and_its_target_is_replaced(occupied: Path, tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    link = tmp_path / "links" / "latest"
    link.symlink_to("../model")
    write(link, MODEL)
    assert "../model" == str(link.readlink())  # noqa: SIM300 - expected first
    assert contents(occupied) == OLD | MODEL
    assert [link] == list(link.parent.iterdir())


def test_a_dangling_link_gets_its_target(target: Path, tmp_path: Path) -> None:
    link = tmp_path / "latest"
    link.symlink_to("model")
    write(link, MODEL, overwrite=False)
    assert link.is_symlink()
    assert contents(target) == MODEL


def add_folder(path: Path) -> None:
    (path / "checkpoint\n1").mkdir()


def add_pipe(path: Path) -> None:
    os.mkfifo(path / "pipe")


@pytest.mark.parametrize(
    ("spoil", "overwrite", "what"),
    [
        (lambda _path: None, "no", "the folder is not empty"),
        (add_folder, "yes", r"the folder holds 'checkpoint\n1', no plain file"),
        (add_folder, "no", "the folder is not empty"),
        (add_pipe, "yes", "the folder holds 'pipe', no plain file"),
    ],
)
def test_refuses_a_folder_with_something_to_lose(
    spoil: Callable[[Path], None], overwrite: str, what: str, occupied: Path
) -> None:
    spoil(occupied)
    before = occupied.stat()
    with pytest.raises(OccupiedError) as refusal:
        write(occupied, MODEL, overwrite=overwrite == "yes")
    assert (what, str(occupied)) == (refusal.value.what, refusal.value.where)
    assert (before.st_ino, before.st_mtime_ns) == (
        occupied.stat().st_ino,
        occupied.stat().st_mtime_ns,
    )
    assert [occupied] == list(occupied.parent.iterdir())


def test_refuses_a_file_of_that_name(target: Path) -> None:
    target.write_text("a file", "utf-8")
    with pytest.raises(OccupiedError, match=r"^there is a file of that name"):
        write(target, MODEL)
    assert target.read_text("utf-8") == "a file"


def test_refuses_a_folder_filled_meanwhile(target: Path) -> None:
    with (
        pytest.raises(OccupiedError, match=r"^the folder was filled meanwhile"),
        replace_folder(target, overwrite=False),
    ):
        write(target, {"config.json": "first"}, overwrite=False)
    assert contents(target) == {"config.json": "first"}
    assert [target] == list(target.parent.iterdir())


@pytest.mark.parametrize("first", [{}, OLD])
def test_the_last_of_two_writers_wins_whole(first: Files, target: Path) -> None:
    if first:
        write(target, first)
    with replace_folder(target, overwrite=True) as staging:
        put(staging, {"config.json": "A", "model.safetensors": "A"})
        write(target, {"config.json": "B", "model.safetensors": "B"})
        assert contents(target)["config.json"] == "B"
    assert contents(target) == first | {"config.json": "A", "model.safetensors": "A"}
    assert [target] == list(target.parent.iterdir())


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_leaves_all_as_it_was(error: BaseException, occupied: Path) -> None:
    def write_half() -> None:
        with replace_folder(occupied, overwrite=True) as staging:
            put(staging, MODEL)
            raise error

    with pytest.raises(type(error)) as raised:
        write_half()
    assert raised.value is error
    assert contents(occupied) == OLD
    assert [occupied] == list(occupied.parent.iterdir())


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
def test_a_refusal_of_the_file_system_leaves_all_as_it_was(
    call: str, number: int, occupied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise OSError(number, os.strerror(number))

    holders = {"mkdir": Path, "write": Path, "fsync": os, "rename": Path}
    names = {"write": "write_text"}
    monkeypatch.setattr(holders[call], names.get(call, call), refuse)
    with pytest.raises(WriteError) as refusal:
        write(occupied, MODEL)
    monkeypatch.undo()
    assert refusal.value.where == str(occupied)
    assert refusal.value.fix
    assert contents(occupied) == OLD
    assert [occupied] == list(occupied.parent.iterdir())


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """Return a folder of a user who is no administrator, to whom nothing is forbidden."""
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


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
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


def test_what_stood_there_keeps_its_mode(occupied: Path) -> None:
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
    move = module._move

    def moved(*arguments: Path, **options: bool) -> None:
        order.append("move")
        move(*arguments, **options)

    def flushed(descriptor: int) -> None:
        order.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)

    monkeypatch.setattr(module, "_move", moved)
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
