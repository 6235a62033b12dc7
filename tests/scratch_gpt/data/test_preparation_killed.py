"""A process killed at random moments leaves no tokens, or all of them."""

import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from scratch_gpt.data import TokenData

CHILD = """
import sys
from scratch_gpt.data import prepare, preparation
from scratch_gpt.tokenizer.tokenizer import Tokenizer

preparation.SIZE = 2_000
books, folder, vocabulary = sys.argv[1:]
tokenizer = Tokenizer.from_pretrained(vocabulary)
print("begun", flush=True)
prepare([books], folder, tokenizer)
"""

Start = Callable[[Path], subprocess.Popen[str]]


@pytest.fixture
def start(books: Path, small_text: str, small_vocabulary: Path, home_of: Callable) -> Start:
    for name in "abcd":
        (books / f"{name}.txt").write_text(20 * small_text, "utf-8")
    home = home_of("scratch_gpt")
    assert home is not None
    environment = os.environ | {"PYTHONPATH": str(home.parent)}

    def run(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, books, folder, small_vocabulary]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    return run


@pytest.mark.parametrize(
    "kills", [3, pytest.param(25, marks=pytest.mark.slow)], ids="{} kills".format
)
def test_killed_over_and_over(
    kills: int, start: Callable, tmp_path: Path, contents: Callable
) -> None:
    with start(tmp_path / "whole") as undisturbed:
        assert not undisturbed.wait()
    moments = random.Random(20180611)  # noqa: S311 - no secret
    folder = tmp_path / "killed"
    unfinished = 0
    for number in range(kills):
        with start(folder) as process:
            time.sleep(moments.uniform(0.01, 0.3) if number else 0.01)
            process.kill()
        if folder.exists():
            TokenData.open(folder).verify()
        else:
            unfinished += 1
    assert unfinished
    with start(folder) as last:
        assert not last.wait()
    assert contents(tmp_path / "whole") == contents(folder)
    TokenData.open(folder).verify()


def test_a_full_disk_leaves_nothing(start: Callable, tmp_path: Path) -> None:
    """Simulated by a limit on the length of a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with start(tmp_path / "full") as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, hard))
        assert process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["books"]
