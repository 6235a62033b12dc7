"""Options that a report has to say; and a candidate's file, whatever its path."""

from pathlib import Path

import pytest

from parity.errors import EnvironmentUnfitError
from parity.options import recorded_options
from parity.session import Options

NAMES = ("candidate", "dtype", "seed")


def test_what_is_off_its_default_is_said() -> None:
    """Of the options that decide, and of no others."""
    options = Options(verb="layerwise", seed=7, dtype="float32", batch=4)
    assert recorded_options(options, NAMES) == {"seed": 7}


def test_a_file_is_said_with_its_digest(tmp_path: Path) -> None:
    """The same bytes at another path have the same one; a byte more has another."""
    digests = []
    for name, content in (("a.py", b"X = 1\n"), ("b.py", b"X = 1\n"), ("c.py", b"X = 1\n\n")):
        file = tmp_path / name
        file.write_bytes(content)
        said = recorded_options(Options(verb="layerwise", candidate=str(file), seed=7), NAMES)
        assert {"candidate": str(file), "seed": 7} == {
            key: value for key, value in said.items() if key != "candidate_file"
        }
        digests.append(said["candidate_file"])
    # sha256sum of the first
    expected = "sha256 0abae1e0ae728216"
    assert (expected, expected) == tuple(digests[:2])
    assert digests[2] != expected


def test_what_is_imported_has_no_file_of_its_own() -> None:
    """A module's name is all that is known of it."""
    options = Options(verb="layerwise", candidate="mine:build")
    assert recorded_options(options, NAMES) == {"candidate": "mine:build"}


def test_a_file_that_went_away_is_told(tmp_path: Path) -> None:
    """As whatever else the file system refuses."""
    with pytest.raises(EnvironmentUnfitError):
        recorded_options(Options(verb="layerwise", candidate=str(tmp_path / "gone.py")), NAMES)
