"""The log has each step once; a sample does not disturb training."""

import contextlib
import dataclasses
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from scratch_gpt import Tokenizer
from scratch_gpt.errors import WriteError
from scratch_gpt.training import log
from scratch_gpt.training.log import Log, sample
from scratch_gpt.training.recipe import Recipe


def steps(path: Path) -> list[int]:
    return [line["step"] for line in log.read_log(path)]


def append(path: Path, step: int, *lines: dict[str, Any]) -> None:
    """Open a log for the steps after one, and write lines."""
    with contextlib.closing(Log(path, step=step, warn=pytest.fail)) as opened:
        for line in lines:
            opened.write(line)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "log.jsonl"
    append(path, 0, *({"step": step, "loss": 0.1 * step} for step in range(1, 6)))
    return path


def test_lines_are_read_back(path: Path) -> None:
    assert [0.1 * step for step in range(1, 6)] == [line["loss"] for line in log.read_log(path)]


def test_lines_after_the_checkpoint_are_overwritten(path: Path) -> None:
    """A killed process made steps 4 and 5 after its last checkpoint."""
    append(path, 3, {"step": 4, "loss": 0.0})
    assert steps(path) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    "tail", [b'{"step": 6, "lo', b'{"step": 6}', b"{}x\n", b"{}\n", b"\x00\xff\n"]
)
def test_an_incomplete_line_is_dropped(path: Path, tail: bytes) -> None:
    path.write_bytes(path.read_bytes() + tail)
    assert steps(path) == [1, 2, 3, 4, 5]
    append(path, 5)
    assert not path.read_bytes().endswith(tail)


def test_missing_steps_give_a_warning(path: Path) -> None:
    warnings: list[str] = []
    Log(path, step=8, warn=warnings.append).close()
    assert warnings == ["log.jsonl holds 5 of the 8 steps done"]


def test_nan_is_written_as_text(path: Path) -> None:
    append(path, 5, {"step": 6, "loss": float("nan")})
    assert log.read_log(path)[-1] == {"step": 6, "loss": "nan"}


def test_a_full_disk_is_a_write_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = Log(path, step=5, warn=pytest.fail)
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(os, "fsync", Mock(side_effect=full))
    with pytest.raises(WriteError, match="the disk is full"):
        lines.sync()
    with pytest.raises(WriteError, match="the disk is full"):
        Log(path, step=2, warn=pytest.fail)
    assert steps(path) == [1, 2, 3, 4, 5]
    lines.close()


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    found = Tokenizer.train(["a bc def ghij klmno pqr"], merges=2)
    assert found.vocab_size == 37
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_sample_has_no_side_effect(dtype: str, start: Callable, tokenizer: Tokenizer) -> None:
    """It has no dropout, does not use torch's random state, and the next step is the same."""
    run, other = start(dtype=dtype), start(dtype=dtype)
    run.advance()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = sample(run.model, tokenizer, [5, 7], run.recipe)
    assert first == sample(run.model, tokenizer, [5, 7], run.recipe)
    assert torch.equal(state, torch.get_rng_state())
    assert run.model.training
    other.advance()
    assert run.advance().loss == other.advance().loss


def test_a_sample_begins_with_the_prompt_and_fits_the_context(
    start: Callable, tokenizer: Tokenizer, recipe: Recipe
) -> None:
    model = start().model
    calls = []
    model.generate = lambda ids, **how: calls.append((ids.tolist(), how)) or ids  # type: ignore[method-assign]
    for prompt, tokens in (([5, 7], 3), (list(range(20)), 3), ([5, 7, 9], 40)):
        sample(model, tokenizer, prompt, dataclasses.replace(recipe, sample_tokens=tokens))
    starts = [ids[0] for ids, _ in calls]
    assert starts == [[5, 7], list(range(8)), [5]]
    assert [how["max_new_tokens"] for _, how in calls] == [3, 3, 10]
    assert {how["seed"] for _, how in calls} == {recipe.seed}
