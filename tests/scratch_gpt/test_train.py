"""The command line of training: its options are the recipe's fields."""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scratch_gpt import train
from scratch_gpt.options import options_of
from scratch_gpt.training.recipe import Recipe


def test_help_answers_at_once() -> None:
    source = "import sys; from scratch_gpt.train import main\ntry: main()\n"
    source += "except SystemExit: print('torch' in sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", source, "--help"], capture_output=True, text=True, check=True
    )
    assert result.stdout.endswith("False\n")
    for name in Recipe.__dataclass_fields__:
        assert f"--{name.replace('_', '-')} " in result.stdout
    assert "Examples:" in result.stdout


@pytest.mark.parametrize(("option", "level"), [([], "FATAL"), (["--debug"], None)])
def test_debug_shows_the_frames_of_torch(
    option: list[str], level: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_CPP_LOG_LEVEL", "")
    monkeypatch.delenv("TORCH_CPP_LOG_LEVEL")
    CliRunner().invoke(train.app, ["--output", "x", "--recipe", "large", *option])
    assert os.environ.get("TORCH_CPP_LOG_LEVEL") == level


def test_options_change_the_named_recipe() -> None:
    options = train.TrainOptions(output=Path("x"), learning_rate=0.5, n_layer=2)
    assert train._recipe(options) == Recipe(learning_rate=0.5, n_layer=2)


def test_the_help_gives_the_default_of_every_recipe() -> None:
    assert train._defaults("beta1") == "0.9"
    assert train._defaults("n_layer").startswith("paper: 12, small: ")


def test_no_option_of_the_run_is_a_field_of_the_recipe() -> None:
    names = [field.name for field in options_of(train.TrainOptions)]
    assert len(names) == len(set(names)) > len(Recipe.__dataclass_fields__)
    assert not set(inspect.get_annotations(train.TrainOptions)) & set(Recipe.__dataclass_fields__)
