"""One run at a time locks a folder; other folders are rejected."""

from collections.abc import Callable
from pathlib import Path

import pytest

from scratch_gpt.errors import InputRejectedError, OccupiedError, WriteError
from scratch_gpt.training.run_folder import RunFolder, lock_folder

pytestmark = pytest.mark.once


def test_a_folder_is_created_and_reopened(tmp_path: Path) -> None:
    for _ in range(2):
        with lock_folder(tmp_path / "a" / "run"):
            assert (tmp_path / "a" / "run").is_dir()


def test_two_runs_at_once_are_rejected(python: Callable, tmp_path: Path) -> None:
    """In this process and in another one."""
    message = "another run writes into this folder"
    source = "import sys, pathlib\nfrom scratch_gpt.training.run_folder import lock_folder\n"
    source += "with lock_folder(pathlib.Path(sys.argv[1])): pass"
    with lock_folder(tmp_path):
        with pytest.raises(OccupiedError, match=message), lock_folder(tmp_path):
            pytest.fail("two runs own one folder")
        assert message in python("-c", source, tmp_path, check=False).stderr


def test_a_folder_of_other_files_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(OccupiedError, match="no run was started in it"), lock_folder(tmp_path):
        pass
    assert [tmp_path / "thesis.tex"] == list(tmp_path.iterdir())


def test_a_file_is_rejected(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(OccupiedError, match="there is a file of that name"), lock_folder(file):
        pass
    with (
        pytest.raises(WriteError, match="a part of the path is no folder"),
        lock_folder(file / "run"),
    ):
        pass


def test_a_link_to_nothing_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("nothing")
    with (
        pytest.raises(OccupiedError, match="it is a link to nothing"),
        lock_folder(tmp_path / "link"),
    ):
        pass
    assert [tmp_path / "link"] == list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["checkpoints", "vocabulary", "tokens", "model"])
def test_a_file_or_a_lost_link_in_place_of_a_folder_is_rejected(name: str, tmp_path: Path) -> None:
    """Without its checkpoints a run would start anew, and without `model` end in an error."""
    folder = RunFolder(tmp_path)
    folder.require_folders()
    for make in (Path.mkdir, Path.touch, lambda path: path.symlink_to("nothing")):
        make(tmp_path / name)
        if make is Path.mkdir:
            folder.require_folders()
            (tmp_path / name).rmdir()
            continue
        with pytest.raises(InputRejectedError, match=f"the run's {name} is not a folder"):
            folder.require_folders()
        (tmp_path / name).unlink()
