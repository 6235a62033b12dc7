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
    "prompt": (),
    "stop": (),
    "max_new_tokens": 1,
    "seed": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "beams": 1,
    "samples": 1,
    "pretokenizer": "huggingface",
    "dtype": "float32",
    "device": "cpu",
    "overflow": "stop",
    "json": False,
    "quiet": False,
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stdin", [None, Terminal("typed")], ids=["closed", "terminal"])
def test_without_a_prompt_the_command_does_not_wait(
    stdin: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UsageError) as caught:
        read_prompts(GenerateOptions(**ASKED))
    assert caught.value.what == "there is no prompt"
    for way in ("--prompt", "--prompt-file", "standard input"):
        assert way in caught.value.fix


def test_with_a_prompt_standard_input_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompts(GenerateOptions(**ASKED | {"prompt": ("a", "b")})) == ["a", "b"]


def test_a_file_comes_after_the_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompt"
    file.write_text("in a\nfile\n", encoding="utf-8")
    asked = GenerateOptions(**ASKED | {"prompt": ("a",), "prompt_file": str(file)})
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
def test_sampling_follows_from_the_options(
    given: dict[str, Any],
    sampled: bool,  # noqa: FBT001
) -> None:
    assert sampled is GenerateOptions(**ASKED | given).sampled


def choice_of(value: float) -> NoChoiceError:
    try:
        choose(torch.full((1, 3), value), Rules())
    except NoChoiceError as error:
        return error
    message = "a token was chosen"
    raise AssertionError(message)


def test_no_choice_is_a_usage_error_only_if_rules_exclude_all() -> None:
    excluded, *broken = (
        no_choice_error(choice_of(float(value))) for value in ("-inf", "nan", "inf")
    )
    assert (excluded.exit_code, excluded.where) == (ExitCode.USAGE, "--no-repeat-ngram-size")
    for error in broken:
        assert (error.exit_code, error.where) == (ExitCode.REFUSED, "--weights")
        assert "--dtype float32" in error.fix


def test_settings_errors_name_the_options() -> None:
    error = usage_error(SettingError({"no_repeat_ngram_size": -1, "beams": 2}, "peace"))
    assert error.what == "--no-repeat-ngram-size is -1 and --beams is 2; allowed: peace"
    assert error.where == "--no-repeat-ngram-size and --beams"


def error_of(weights: str) -> UsageError:
    asked: dict[str, Any] = ASKED | {"weights": weights}
    with pytest.raises(UsageError) as error:
        load_model(GenerateOptions(**asked))
    return error.value


@pytest.mark.parametrize("weights", ["openai-gpt", "someone/a-model"])
def test_a_hub_name_gets_a_conversion_command(weights: str) -> None:
    assert f"parity.convert {weights} DIRECTORY" in error_of(weights).fix


@pytest.mark.parametrize("weights", ["/no/such", "./none", "../none", "a/b/c"])
def test_a_path_gets_no_conversion_command(weights: str) -> None:
    error = error_of(weights)
    assert "there is no such folder" in error.what
    assert "parity" not in error.fix


def test_a_file_and_a_training_run_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert error_of(str(tmp_path / "file")).fix == "name the folder it is in"
    for name in ("model", "checkpoints"):
        (tmp_path / "run" / name).mkdir(parents=True)
    assert str(tmp_path / "run" / "model") in error_of(str(tmp_path / "run")).fix
