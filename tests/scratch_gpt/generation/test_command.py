"""The command line: prompts, options and folders of weights."""

import io
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.errors import (
    ExitCode,
    InputRejectedError,
    NoChoiceError,
    SettingError,
    UsageError,
)
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.generation import command
from scratch_gpt.generation.command import load_model, no_choice_error, read_prompts, usage_error
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.generate import Request
from scratch_gpt.generation.sampling import Rules, choose


def options(**given: object) -> GenerateOptions:
    return GenerateOptions(**{"weights": "w"} | given)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stdin", [None, Terminal("typed")], ids=["closed", "terminal"])
def test_without_a_prompt_the_command_does_not_wait(
    stdin: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", stdin)
    with pytest.raises(UsageError) as caught:
        read_prompts(options())
    assert caught.value.what == "there is no prompt"
    for way in ("--prompt", "--prompt-file", "standard input"):
        assert way in caught.value.fix


def test_with_a_prompt_standard_input_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompts(options(prompt=("a", "b"))) == ["a", "b"]


def test_a_file_comes_after_the_prompts(tmp_path: Path) -> None:
    file = tmp_path / "prompt"
    file.write_text("in a\nfile\n", encoding="utf-8")
    assert read_prompts(options(prompt=("a",), prompt_file=str(file))) == ["a", "in a\nfile"]


def test_a_prompt_that_is_no_file_is_rejected(tmp_path: Path) -> None:
    """A pipe would never end, and a device would fill the memory."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to("nothing")
    kinds = {"/dev/zero": "a device", tmp_path: "a folder", tmp_path / "pipe": "a named pipe"}
    missing = {tmp_path / "lost": "a link to a file", tmp_path / "[red]\n": "no such file"}
    for path, kind in (kinds | missing | {"": "a folder", "n" * 5_000: "too long"}).items():
        with pytest.raises(InputRejectedError, match=kind) as caught:
            read_prompts(options(prompt_file=str(path)))
        assert "--prompt-file -" in caught.value.fix
        assert caught.value.where.isprintable()


def test_a_long_prompt_is_not_read_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten gigabytes of nothing, as a file and as standard input."""
    file = tmp_path / "long"
    with file.open("wb") as long:
        long.truncate(10 << 30)
    with file.open("rb") as opened:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(opened))
        for path in (str(file), "-"):
            with pytest.raises(UsageError, match="more than 1,048,576 bytes"):
                read_prompts(options(prompt_file=path))


def test_texts_that_do_not_fit_into_memory_are_rejected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed: list[int] = []
    monkeypatch.setattr(command, "require_memory", lambda count, **_: needed.append(count))
    model = GPT(GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3))
    for request in (
        Request.of(40),
        Request.of(40, beams=9),
        Request.of(40, samples=9, sampled=True),
        Request.of(2),
    ):
        command._require_memory(model, 3, request)
    cache = Decoder(model, batch=1).cache.kept.nbytes
    assert cache < needed[0] < 2 * cache
    assert needed[1:3] == [9 * needed[0]] * 2
    assert needed[3] < needed[0]


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
def test_sampling_follows_from_the_options(given: dict[str, Any], sampled: object) -> None:
    assert sampled is options(**given).sampled


@pytest.mark.parametrize(
    ("value", "code", "where", "fix"),
    [
        (-math.inf, ExitCode.USAGE, "--no-repeat-ngram-size", ""),
        (math.nan, ExitCode.REFUSED, "--weights", "--dtype float32"),
        (math.inf, ExitCode.REFUSED, "--weights", "--dtype float32"),
    ],
)
def test_no_choice_is_a_usage_error_only_if_rules_exclude_all(
    value: float, code: ExitCode, where: str, fix: str
) -> None:
    """Minus infinity comes from the rules; NaN and infinity come from the weights."""
    with pytest.raises(NoChoiceError) as caught:
        choose(torch.full((1, 3), value), Rules())
    error = no_choice_error(caught.value)
    assert (error.exit_code, error.where) == (code, where)
    assert fix in error.fix


def test_settings_errors_name_the_options() -> None:
    error = usage_error(SettingError({"no_repeat_ngram_size": -1, "beams": 2}, "peace"))
    assert error.what == "--no-repeat-ngram-size is -1 and --beams is 2; allowed: peace"
    assert error.where == "--no-repeat-ngram-size and --beams"


def error_of(weights: str) -> UsageError:
    with pytest.raises(UsageError) as error:
        load_model(options(weights=weights))
    return error.value


@pytest.mark.parametrize("weights", ["openai-gpt", "someone/a-model"])
def test_a_hub_name_gets_a_conversion_command(weights: str) -> None:
    assert f"parity.convert {weights} DIRECTORY" in error_of(weights).fix


def test_an_empty_name_is_not_the_current_folder() -> None:
    assert error_of("").what == "it is empty"


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
