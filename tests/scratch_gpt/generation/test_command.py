"""The command line: prompts, options and folders of weights."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch_gpt.errors import ExitCode, NoChoiceError, SettingError, UsageError
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.generation.command import load_model, no_choice_error, read_prompts, usage_error
from scratch_gpt.generation.sampling import Rules, choose

ASKED: dict[str, Any] = {
    **dict.fromkeys(("prompt_file", "vocabulary", "temperature", "top_k", "top_p")),
    "weights": "w",
    "prompts": (),
    "stop": (),
    "max_new_tokens": 1,
    "seed": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "beams": 1,
    "samples": 1,
    "pretokenizer": "bert",
    "dtype": "float32",
    "device": "cpu",
    "overflow": "stop",
    "as_json": False,
    "quiet": False,
}


class Terminal(io.StringIO):
    """Standard input that someone types at."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize("stdin", [None, Terminal("typed")], ids=["closed", "terminal"])
def test_without_a_prompt_nobody_waits(
    stdin: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A usage error that says the three ways to give one."""
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UsageError) as refusal:
        read_prompts(GenerateOptions(**ASKED))
    assert refusal.value.what == "there is no prompt"
    for way in ("--prompt", "--prompt-file", "standard input"):
        assert way in refusal.value.fix


def test_a_given_prompt_leaves_standard_input_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read that was not asked for; a file comes after the prompts given."""
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompts(GenerateOptions(**ASKED | {"prompts": ("a", "b")})) == ["a", "b"]


def test_a_file_comes_after_the_prompts(tmp_path: Path) -> None:
    """Every prompt given is there, the file's without the line end that closes it."""
    file = tmp_path / "prompt"
    file.write_text("in a\nfile\n", encoding="utf-8")
    asked = GenerateOptions(**ASKED | {"prompts": ("a",), "prompt_file": str(file)})
    assert read_prompts(asked) == ["a", "in a\nfile"]


@pytest.mark.parametrize(
    ("given", "sampled"),
    [
        ({}, False),
        ({"temperature": 1.0}, True),
        ({"top_k": 3}, True),
        ({"top_p": 0.5}, True),
        ({"samples": 2}, True),
        ({"samples": 2, "beams": 2}, False),
    ],
    ids=str,
)
def test_whether_tokens_are_drawn_is_said_by_what_was_given(
    given: dict[str, Any],
    sampled: bool,  # noqa: FBT001
) -> None:
    """By any option that only a draw heeds, and by samples that would else be alike."""
    assert sampled is GenerateOptions(**ASKED | given).sampled


def choice_of(value: float) -> NoChoiceError:
    """Return the error of logits that are all this value."""
    try:
        choose(torch.full((1, 3), value), Rules())
    except NoChoiceError as error:
        return error
    message = "something was chosen"
    raise AssertionError(message)


def test_rules_that_exclude_everything_are_the_options_fault() -> None:
    """Minus infinity everywhere is the rules' doing; NaN and infinity are the weights'."""
    excluded, *broken = (
        no_choice_error(choice_of(float(value))) for value in ("-inf", "nan", "inf")
    )
    assert (excluded.code, excluded.where) == (ExitCode.USAGE, "--no-repeat-ngram-size")
    for error in broken:
        assert (error.code, error.where) == (ExitCode.REFUSED, "--weights")
        assert "--dtype float32" in error.fix


def test_settings_are_called_what_their_options_are() -> None:
    """Every name as an option, in what and in where."""
    error = usage_error(SettingError({"no_repeat_ngram_size": -1, "beams": 2}, "peace"))
    assert error.what == "--no-repeat-ngram-size is -1 and --beams is 2; allowed: peace"
    assert error.where == "--no-repeat-ngram-size and --beams"


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
