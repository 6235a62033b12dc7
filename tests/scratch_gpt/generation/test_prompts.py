"""Where prompts come from: options, a file, or standard input."""

import io
import sys
from pathlib import Path
from typing import Any

import pytest

from scratch_gpt.errors import UsageError
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.generation.command import read_prompts

ASKED = {"weights": "w"}


class Terminal(io.StringIO):
    """Standard input that someone types at."""

    def isatty(self) -> bool:
        """Say so."""
        return True


@pytest.mark.parametrize("stdin", [None, Terminal("typed")], ids=["closed", "terminal"])
def test_a_missing_prompt_is_an_error(
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
    """Standard input is not read."""
    monkeypatch.setattr(sys, "stdin", None)
    assert read_prompts(GenerateOptions(**ASKED | {"prompt": ("a", "b")})) == ["a", "b"]


def test_a_file_comes_after_the_prompts(tmp_path: Path) -> None:
    """Every prompt given is there, the file's without the line end that closes it."""
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
def test_tokens_are_sampled_if_an_option_of_sampling_is_given(
    given: dict[str, Any],
    sampled: bool,  # noqa: FBT001
) -> None:
    """By any option that only a draw heeds, and by samples that would else be alike."""
    assert sampled is GenerateOptions(**ASKED | given).sampled
