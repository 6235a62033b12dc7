"""A writer killed at any moment leaves the old folder or the new one."""

import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

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
        told = [process.stdout.readline()]
        time.sleep(delay)
        process.kill()
        told += process.stdout.readlines()
    return int(told[-1])


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
        told = kill_a_writer(package.parent, destination, found + 1, moments.uniform(0.0, 0.03))
        found = version_of(destination)
        assert found in {told, told + 1}
    left = [path.name for path in tmp_path.iterdir() if path != destination]
    assert all(LEFT.fullmatch(name) for name in left)
    assert len(left) <= kills
