"""Folders that are nearly right."""

from pathlib import Path
from typing import Any

import pytest

from scratch_gpt.errors import UsageError
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.generation.command import load_model
from tests.scratch_gpt.generation.test_prompts import ASKED


def refusal(weights: str) -> UsageError:
    """Return what is said of these weights."""
    asked: dict[str, Any] = ASKED | {"weights": weights}
    with pytest.raises(UsageError) as error:
        load_model(GenerateOptions(**asked))
    return error.value


@pytest.mark.parametrize("weights", ["openai-gpt", "someone/a-model"])
def test_a_name_is_told_how_to_become_a_folder(weights: str) -> None:
    """By parity.convert."""
    assert f"parity.convert {weights} DIRECTORY" in refusal(weights).fix


@pytest.mark.parametrize("weights", ["/no/such", "./none", "../none", "a/b/c"])
def test_a_path_is_no_name(weights: str) -> None:
    """There is no such folder, and that is all."""
    error = refusal(weights)
    assert "there is no such folder" in error.what
    assert "parity" not in error.fix


def test_a_file_and_a_run_are_no_folder_of_weights(tmp_path: Path) -> None:
    """What to name in their place is said."""
    (tmp_path / "file").touch()
    assert refusal(str(tmp_path / "file")).fix == "name the folder it is in"
    for name in ("model", "checkpoints"):
        (tmp_path / "run" / name).mkdir(parents=True)
    assert str(tmp_path / "run" / "model") in refusal(str(tmp_path / "run")).fix
