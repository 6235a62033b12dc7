"""The recorded options of a report, and the digest of a candidate's file."""

from pathlib import Path

import pytest

from parity.errors import EnvironmentUnfitError
from parity.options import (
    GenerationOptions,
    LayerwiseOptions,
    TrainingOptions,
    recorded_options,
)


def test_recorded_options_are_those_off_their_default() -> None:
    options = LayerwiseOptions(seed=7, dtype="float32", batch_size=4, weights="tiny", quiet=True)
    assert recorded_options(options) == {"seed": 7}
    options = LayerwiseOptions(candidate="mine:build")
    assert recorded_options(options) == {"candidate": "mine:build"}


IDS = {"token_ids": "1"}
ALL = {"inject_fault": "f", "dtype": "float16", "seed": 1}
MODEL = {"candidate": "mine:build", "backend": "plain", "taps": "h.*"}


@pytest.mark.parametrize(
    ("options", "recorded"),
    [
        (LayerwiseOptions(**ALL, **MODEL, **IDS), ALL | MODEL | IDS),
        (TrainingOptions(**ALL, **MODEL, steps=9, dropout=True), ALL | MODEL),
        (
            GenerationOptions(**ALL, **IDS, text="a", max_new_tokens=9),
            ALL | IDS | {"text": "a"},
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_every_deciding_option_is_recorded(options: object, recorded: dict[str, object]) -> None:
    """What a report gives elsewhere, such as the number of steps, is not repeated."""
    assert recorded_options(options) == recorded


def test_a_file_is_recorded_with_its_digest(tmp_path: Path) -> None:
    digests = []
    for name, content in (("a.py", b"X = 1\n"), ("b.py", b"X = 1\n"), ("c.py", b"X = 1\n\n")):
        file = tmp_path / name
        file.write_bytes(content)
        found = recorded_options(LayerwiseOptions(candidate=str(file), seed=7))
        digests.append(found.pop("candidate_file"))
        assert found == {"candidate": str(file), "seed": 7}
    assert digests[0] == digests[1] == "sha256 0abae1e0ae728216"  # sha256sum of the first
    assert digests[2] != digests[0]
    with pytest.raises(EnvironmentUnfitError):
        recorded_options(LayerwiseOptions(candidate=str(tmp_path / "gone.py")))
