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
from scratch_gpt.errors import CheckpointError, WriteError
from scratch_gpt.training import log
from scratch_gpt.training.log import Log, sample
from scratch_gpt.training.recipe import Recipe

pytestmark = pytest.mark.once


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


BAD = [
    *(b"{}\n", b"\n", b"\x00\xff\n", b'{"step": 9\n', b"[1]\n", b"[" * 100_000 + b"\n"),
    *(b'{"step": true}\n', b'{"step": -1}\n', b'{"step": 0}\n', b'{"step": "3"}\n'),
    *(b'{"step": 1.0}\n', b'{"step": 2, "loss": NaN}\n', b'{"step": 9%s}\n' % (b"9" * 5_000)),
    b'{"step": 3, "loss": 0.5}\n',  # a second time
]


@pytest.mark.parametrize("bad", BAD, ids=lambda line: ascii(line[:20]))
def test_lines_behind_a_bad_one_are_kept(bad: bytes, path: Path) -> None:
    """The good ones stay in the log, and the whole file is kept beside it."""
    good = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*good[:2], bad, *good[2:]]))
    before = path.read_bytes()
    (path.parent / "log.1.jsonl").write_text("an older copy", "utf-8")
    warnings: list[str] = []
    Log(path, step=5, warn=warnings.append).close()
    assert path.read_bytes() == b"".join(good)
    assert (path.parent / "log.2.jsonl").read_bytes() == before
    assert (path.parent / "log.1.jsonl").read_text("utf-8") == "an older copy"
    assert warnings == ["log.jsonl holds lines that do not belong there; it is kept as log.2.jsonl"]


def test_a_new_run_keeps_the_log_of_an_earlier_one(path: Path) -> None:
    """Its checkpoints were removed, or moved away."""
    before, warnings = path.read_bytes(), list[str]()
    Log(path, step=None, warn=warnings.append).close()
    assert (path.read_bytes(), (path.parent / "log.1.jsonl").read_bytes()) == (b"", before)
    assert warnings == ["log.jsonl is of an earlier run; it is kept as log.1.jsonl"]
    Log(path, step=None, warn=pytest.fail).close()


def test_a_log_that_is_no_file_is_rejected(tmp_path: Path) -> None:
    """A pipe would never end."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "lost").symlink_to("nothing")
    for name, message in (("folder", "a folder"), ("pipe", "a named pipe"), ("lost", "a link")):
        with pytest.raises(CheckpointError, match=f"it is {message}"):
            Log(tmp_path / name, step=3, warn=pytest.fail)


def test_a_pipe_or_a_link_in_place_of_the_new_log_is_removed(path: Path) -> None:
    other, partial = path.with_name("other"), path.with_name("log.jsonl.partial")
    other.write_text("kept", "utf-8")
    partial.symlink_to(other)
    append(path, 5)
    os.mkfifo(partial)
    append(path, 5)
    assert (steps(path), other.read_text("utf-8")) == ([1, 2, 3, 4, 5], "kept")


@pytest.mark.parametrize("loss", [1e308, -1e308, 10**400, True, "nan", [0.5], {}, None, 5e-324])
def test_a_curve_leaves_out_what_is_no_loss(loss: object, path: Path) -> None:
    pytest.importorskip("matplotlib")
    append(path, 5, {"step": 6, "loss": loss, "validation_loss": loss})
    log.draw_loss_curve(log.read_log(path), path.with_name("loss.png"))
    assert path.with_name("loss.png").read_bytes().startswith(b"\x89PNG")


def test_the_time_left_may_be_longer_than_a_life() -> None:
    shown: list[str] = []
    line = log.ProgressLine(lambda text, _done, _all: shown.append(text), pytest.fail)
    line({"step": 1, "seconds": 1e8, "loss": 0.5, "tokens_per_second": 0.1}, 10**9)
    assert "days" in shown[0]


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
