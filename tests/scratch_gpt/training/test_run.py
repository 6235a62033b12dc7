"""A run from its first line to its last, interrupted, damaged and taken up again."""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from scratch_gpt import GPT, Tokenizer, train
from scratch_gpt.distributed import Group
from scratch_gpt.training import checkpoint_folders, checkpoints, evaluation
from scratch_gpt.training import run as run_module
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
def command(arguments: Callable[..., list[str]]) -> Command:
    """Return a function that runs the command for the tiny recipe; keywords change options."""

    def run(output: Path, *others: str, **changes: object) -> Any:  # noqa: ANN401
        return CliRunner().invoke(train.app, [*arguments(output, **changes), *others])

    return run


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


def steps(output: Path) -> list[int]:
    """Return the steps of a run's checkpoints, newest first."""
    return list(checkpoint_folders.by_step(output / "checkpoints"))


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
    changes = {"seed": 5, "peak": 0.02}
    result = command(interrupted, **changes)
    assert result.exit_code == 4
    assert "peak was 0.01 and is 0.02; seed was 0 and is 5" in result.stderr
    assert "--allow peak --allow seed" in result.stderr
    result = command(interrupted, "--allow", "peak", "--allow", "seed", **changes)
    assert not result.exit_code, result.stderr
    assert "as allowed, seed was 0 and is 5" in result.stderr


def test_changed_text_is_noticed(interrupted: Path, command: Command, tmp_path: Path) -> None:
    """Whatever it is, the run does not go on with it unasked."""
    other = tmp_path / "other.txt"
    other.write_text("the cat sat on a dog.\n" * 200, "utf-8")
    assert command(interrupted, data=other).exit_code == 4


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
    assert checkpoints.read(tmp_path / "run/checkpoints/step-00000008").state.best[1] == 4


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
    newest = checkpoint_folders.newest(tmp_path / "run" / "checkpoints", warnings.append)
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


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--recipe", "large"], 2, "there is no recipe 'large'"),
        (["--dropout", "1.5"], 2, "dropout must be a number in [0, 1), got 1.5"),
        (["--dropout", "much"], 2, "Invalid value for '--dropout'"),
        (["--n-positions", "100000"], 2, "a window takes 100000"),
        (["--vocabulary", "nowhere"], 4, "nowhere"),
        (["--tokens", "nowhere"], 4, "nowhere"),
        (["--data", "nowhere.txt"], 4, "nowhere.txt"),
    ],
)
def test_what_cannot_be_is_told(
    options: list[str], code: int, said: str, command: Command, tmp_path: Path
) -> None:
    """In three lines and a code."""
    result = command(tmp_path / "run", *options)
    assert (result.exit_code, said in result.stderr) == (code, True), result.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--warmup", "9"], "warmup must be below steps, 8, got 9"),
        (["--allow", "sead"], "there is nothing called sead to allow"),
    ],
)
def test_what_is_known_to_be_wrong_is_told_before_anything_is_made(
    options: list[str], said: str, command: Command, tmp_path: Path
) -> None:
    """No folder, and no minutes of preparation."""
    result = command(tmp_path / "run", *options)
    assert (result.exit_code, said in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "run").exists()


def test_too_few_micro_batches_are_told_before_anything_is_made(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Right after the processes have met."""
    monkeypatch.setattr(run_module, "joined", lambda *_, **__: nullcontext(Group(0, 3)))
    result = command(tmp_path / "run")
    assert result.exit_code == 2
    assert "a step has 2 micro-batches for 3 processes" in result.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_told(command: Command, tmp_path: Path) -> None:
    """It is not skipped in silence."""
    result = command(tmp_path / "run", device="cuda")
    assert (result.exit_code, "there is no CUDA device" in result.stderr) == (5, True)


def test_somebody_elses_folder_is_refused(command: Command, tmp_path: Path) -> None:
    """Exit code 2; nothing is written."""
    (tmp_path / "thesis.tex").touch()
    assert command(tmp_path).exit_code == 2
    assert [tmp_path / "thesis.tex"] == list(tmp_path.iterdir())


def test_a_place_where_nothing_can_be_written_is_told(command: Command, corpus: Path) -> None:
    """Exit code 5."""
    result = command(corpus / "run")
    assert (result.exit_code, "a part of the path is no folder" in result.stderr) == (5, True)


def test_an_environment_without_a_way_to_meet_is_told(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """WORLD_SIZE alone makes no group."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = command(tmp_path / "run")
    assert result.exit_code == 2
    missing = "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    assert f"WORLD_SIZE is 2 and {missing} is not set" in result.stderr
    assert "torchrun" in result.stderr
