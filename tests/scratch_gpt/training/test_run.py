"""A run from its first line to its last, interrupted, damaged and taken up again."""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch_gpt import GPT, Tokenizer
from scratch_gpt.data import prepare
from scratch_gpt.training import checkpoints
from scratch_gpt.training import run as run_module
from scratch_gpt.training import trainer as evaluation
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.trainer import Done, Trainer

Command = Callable[..., Any]
Numbers = Callable[[Path], list[dict[str, Any]]]


@pytest.fixture(scope="module", autouse=True)
def _no_samples() -> Any:  # noqa: ANN401
    """Let samples be short: another test looks at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "sample", lambda *_others: "a sample")
        yield


@pytest.fixture(scope="module")
def whole(command: Command, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    result = command(output)
    assert not result.exit_code, result.stderr
    return output


@pytest.fixture
def interrupted(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a run that was sent SIGTERM in its fifth step."""
    advance = Trainer.advance

    def planted(trainer: Trainer) -> Done:
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", planted)
        result = command(tmp_path / "run")
    assert result.exit_code == 130
    assert "stopped after step 5; the same command goes on from there" in result.stderr
    return tmp_path / "run"


def prepared(text: Path, vocabulary: Path, folder: Path) -> Path:
    """Return a folder of a text's tokens."""
    return prepare([text], folder, Tokenizer.from_pretrained(vocabulary)).directory


def steps(output: Path) -> list[int]:
    """Return the steps of a run's checkpoints, newest first."""
    return list(checkpoints.checkpoints_by_step(output / "checkpoints"))


def same(one: Path, other: Path) -> bool:
    """Return whether the trained models of two runs are the same, byte for byte."""
    mine, its = ((run / "model" / "model.safetensors").read_bytes() for run in (one, other))
    return mine == its


def test_a_run_leaves_what_it_promises(whole: Path, numbers: Numbers) -> None:
    """Each step once, checkpoints, a curve, and a model with its vocabulary."""
    lines = numbers(whole)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert [line["step"] for line in lines if "validation_loss" in line] == [4, 8]
    assert [line["sample"] for line in lines if "sample" in line] == ["a sample"] * 2
    assert steps(whole) == [8, 6, 4]
    assert (whole / "loss.png").read_bytes().startswith(b"\x89PNG")
    model = GPT.from_pretrained(whole / "model")
    last = GPT.from_pretrained(whole / "checkpoints" / "step-00000008")
    assert all(map(torch.equal, model.parameters(), last.parameters()))
    assert Tokenizer.from_pretrained(whole / "model").vocab_size == model.config.vocab_size


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    whole: Path, interrupted: Path, command: Command, numbers: Numbers
) -> None:
    """Losses, rates, norms, validation losses and weights, bit for bit."""
    assert steps(interrupted)[0] == 5
    result = command(interrupted)
    assert not result.exit_code, result.stderr
    assert "going on from step 5" in result.stderr
    assert numbers(whole) == numbers(interrupted)
    assert same(whole, interrupted)


def test_no_checkpoint_travels_between_processes(
    interrupted: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one says where it is: at full size the rest would be gigabytes of pickle."""
    sent: list[int] = []

    def by_first(_group: Group, action: Callable[[], object]) -> object:
        result = action()
        sent.append(len(pickle.dumps(result)))
        return result

    monkeypatch.setattr(Group, "by_first", by_first)
    assert not command(interrupted).exit_code
    assert len(sent) > 4
    assert max(sent) < 1_000


def test_a_damaged_checkpoint_costs_nothing_but_time(
    whole: Path,
    interrupted: Path,
    command: Command,
    numbers: Numbers,
) -> None:
    """The one before it is taken, with a warning; steps done again are in the log once."""
    (interrupted / "checkpoints" / "step-00000005" / "optimizer.safetensors").write_bytes(b"")
    result = command(interrupted, "--quiet")
    assert not result.exit_code, result.stderr
    assert "checkpoint step-00000005 is passed over" in result.stderr
    assert numbers(whole) == numbers(interrupted)
    assert same(whole, interrupted)


def test_nothing_begins_anew_over_damaged_checkpoints(interrupted: Path, command: Command) -> None:
    """Exit code 4, and all is left as it is."""
    for place in (interrupted / "checkpoints").iterdir():
        (place / "state.json").write_text("{", "utf-8")
    log_before = (interrupted / "log.jsonl").read_bytes()
    result = command(interrupted)
    assert result.exit_code == 4
    assert "none of the 3 checkpoints is undamaged" in result.stderr
    assert log_before == (interrupted / "log.jsonl").read_bytes()


def test_another_run_is_not_gone_on_with(interrupted: Path, command: Command) -> None:
    """Every difference is listed; what is allowed is said."""
    changes = {"seed": 5, "learning_rate": 0.02}
    result = command(interrupted, **changes)
    assert result.exit_code == 4
    assert "learning_rate was 0.01 and is 0.02; seed was 0 and is 5" in result.stderr
    assert "--allow-changed learning_rate --allow-changed seed" in result.stderr
    result = command(
        interrupted, "--allow-changed", "learning_rate", "--allow-changed", "seed", **changes
    )
    assert not result.exit_code, result.stderr
    assert "as allowed, seed was 0 and is 5" in result.stderr


def test_changed_text_is_noticed(interrupted: Path, command: Command, tmp_path: Path) -> None:
    """Whatever it is, the run does not go on with it unasked."""
    other = tmp_path / "other.txt"
    other.write_text("the cat sat on a dog.\n" * 200, "utf-8")
    result = command(interrupted, data=other)
    assert result.exit_code == 4
    assert "other tokens were prepared there: document 1 'text.txt" in result.stderr
    assert "give --data and --pretokenizer as before, train with another --output" in result.stderr
    assert "--tokens FOLDER --allow-changed data" in result.stderr
    tokens = ["--tokens", str(prepared(other, interrupted / "vocabulary", tmp_path / "other"))]
    result = command(interrupted, *tokens, data=None)
    assert (result.exit_code, "data was" in result.stderr) == (4, True), result.stderr
    result = command(interrupted, *tokens, "--allow-changed", "data", data=None)
    assert (result.exit_code, "as allowed, data was" in result.stderr) == (0, True), result.stderr


def test_the_best_is_kept_whenever_one_saves(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though its step is none at which a checkpoint is due, and others follow."""
    validate = evaluation.validation_loss
    given = iter((3.0, 1.0, 2.0, 4.0))
    monkeypatch.setattr(evaluation, "validation_loss", lambda *at: validate(*at) + 9 * next(given))
    options = {"evaluate_every": 2, "checkpoint_every": 3, "keep": 1}
    result = command(tmp_path / "run", **options)
    assert not result.exit_code, result.stderr
    assert steps(tmp_path / "run") == [8, 4]
    assert (
        checkpoints.read_checkpoint(tmp_path / "run/checkpoints/step-00000008").state.best[1] == 4
    )


def test_a_model_is_used_with_the_splitting_that_it_was_trained_with(
    command: Command, tmp_path: Path
) -> None:
    """Its folder says it, and so does each checkpoint's, with no word from the user."""
    pytest.importorskip("ftfy", reason="the original splitting needs ftfy")
    pytest.importorskip("spacy", reason="the original splitting needs spacy")
    result = command(tmp_path / "run", pretokenizer="original", steps=3)
    assert not result.exit_code, result.stderr
    for place in ("model", "vocabulary", "checkpoints/step-00000003"):
        assert Tokenizer.from_pretrained(tmp_path / "run" / place).pretokenizer == "original"
    result = command(tmp_path / "run", steps=3)
    assert result.exit_code == 4
    assert "give --data and --pretokenizer as before" in result.stderr


def test_a_finished_run_is_finished(whole: Path, command: Command, numbers: Numbers) -> None:
    """Run again it does no step."""
    before = numbers(whole)
    assert not command(whole).exit_code
    assert before == numbers(whole)


def test_divergence_ends_the_run(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With exit code 1 and the step; the checkpoint before it is intact."""
    advance = Trainer.advance

    def planted(trainer: Trainer) -> Done:
        if trainer.step == 4:
            trainer.model.h[0].ln_1.weight.data.fill_(float("inf"))
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", planted)
    result = command(tmp_path / "run")
    assert result.exit_code == 1
    assert "training diverged in step 5" in result.stderr
    warnings: list[str] = []
    newest = checkpoints.newest_checkpoint(tmp_path / "run" / "checkpoints", warnings.append)
    assert newest is not None
    assert (newest.state.step, warnings) == (4, [])


def test_a_missing_matplotlib_is_said(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is there all the same."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = command(tmp_path / "run", steps=3)
    assert not result.exit_code
    assert "no loss curve was drawn: pip install matplotlib" in result.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()
