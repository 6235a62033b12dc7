"""The train command: whole runs, interrupted and resumed runs, errors, signals."""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from scratch_gpt import GPT, Tokenizer
from scratch_gpt.data import prepare
from scratch_gpt.training import checkpoints
from scratch_gpt.training import run as run_module
from scratch_gpt.training import trainer as trainer_module
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.run import interruptible, stoppable
from scratch_gpt.training.trainer import StepResult, Trainer


@pytest.fixture(scope="module", autouse=True)
def _no_samples() -> Any:  # noqa: ANN401
    """Replace samples, which `test_log` tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "sample", lambda *_others: "a sample")
        yield


@pytest.fixture(scope="module")
def whole(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("whole") / "run"
    result = command(output)
    assert not result.exit_code, result.stderr
    return output


@pytest.fixture
def interrupted(command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    advance = Trainer.advance

    def advance_or_fail(trainer: Trainer) -> StepResult:
        if trainer.step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(trainer)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "advance", advance_or_fail)
        result = command(tmp_path / "run")
    assert result.exit_code == 130
    assert "stopped after step 5; run the same command to resume" in result.stderr
    return tmp_path / "run"


def prepare_tokens(text: Path, vocabulary: Path, folder: Path) -> Path:
    return prepare([text], folder, Tokenizer.from_pretrained(vocabulary)).directory


def steps(output: Path) -> list[int]:
    return list(checkpoints.checkpoints_by_step(output / "checkpoints"))


def same(one: Path, other: Path) -> bool:
    first, second = ((run / "model" / "model.safetensors").read_bytes() for run in (one, other))
    return first == second


def test_a_run_writes_all_its_files(whole: Path, numbers: Callable) -> None:
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


def test_an_interrupted_run_resumes_bitwise(
    whole: Path, interrupted: Path, command: Callable, numbers: Callable
) -> None:
    assert steps(interrupted)[0] == 5
    result = command(interrupted)
    assert not result.exit_code, result.stderr
    assert "resuming from step 5" in result.stderr
    assert numbers(whole) == numbers(interrupted)
    assert same(whole, interrupted)


def test_no_checkpoint_is_sent_between_processes(
    interrupted: Path, command: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its path is: a full-size checkpoint is gigabytes."""
    sent: list[int] = []

    def on_first(_group: Group, action: Callable[[], object]) -> object:
        result = action()
        sent.append(len(pickle.dumps(result)))
        return result

    monkeypatch.setattr(Group, "on_first", on_first)
    assert not command(interrupted).exit_code
    assert len(sent) > 4
    assert max(sent) < 1_000


def test_a_run_resumes_before_a_damaged_checkpoint(
    whole: Path, interrupted: Path, command: Callable, numbers: Callable
) -> None:
    (interrupted / "checkpoints" / "step-00000005" / "optimizer.safetensors").write_bytes(b"")
    result = command(interrupted, "--quiet")
    assert not result.exit_code, result.stderr
    assert "checkpoint step-00000005 is skipped" in result.stderr
    assert numbers(whole) == numbers(interrupted)
    assert same(whole, interrupted)


def test_a_run_with_only_damaged_checkpoints_does_not_start_anew(
    interrupted: Path, command: Callable
) -> None:
    for place in (interrupted / "checkpoints").iterdir():
        (place / "state.json").write_text("{", "utf-8")
    log_before = (interrupted / "log.jsonl").read_bytes()
    result = command(interrupted)
    assert result.exit_code == 4
    assert "all 3 checkpoints are damaged" in result.stderr
    assert log_before == (interrupted / "log.jsonl").read_bytes()


def test_changed_settings_must_be_allowed(interrupted: Path, command: Callable) -> None:
    changes = {"seed": 5, "learning_rate": 0.02}
    result = command(interrupted, **changes)
    assert result.exit_code == 4
    assert "learning_rate was 0.01 and is 0.02; seed was 0 and is 5" in result.stderr
    assert "--allow-changed learning_rate --allow-changed seed" in result.stderr
    result = command(
        interrupted, "--allow-changed", "learning_rate", "--allow-changed", "seed", **changes
    )
    assert not result.exit_code, result.stderr
    assert "allowed change: seed was 0 and is 5" in result.stderr


def test_changed_text_must_be_allowed(interrupted: Path, command: Callable, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("the cat sat on a dog.\n" * 200, "utf-8")
    result = command(interrupted, data=other)
    assert result.exit_code == 4
    assert "other tokens were prepared there: document 1 'text.txt" in result.stderr
    assert "give --data and --pretokenizer as before, train with another --output" in result.stderr
    assert "--tokens FOLDER --allow-changed data" in result.stderr
    tokens = [
        "--tokens",
        str(prepare_tokens(other, interrupted / "vocabulary", tmp_path / "other")),
    ]
    result = command(interrupted, *tokens, data=None)
    assert (result.exit_code, "data was" in result.stderr) == (4, True), result.stderr
    result = command(interrupted, *tokens, "--allow-changed", "data", data=None)
    assert (result.exit_code, "allowed change: data was" in result.stderr) == (0, True), (
        result.stderr
    )


def test_the_best_checkpoint_is_kept(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also at a step without a regular checkpoint, and after later ones."""
    validate = trainer_module.validation_loss
    given = iter((3.0, 1.0, 2.0, 4.0))
    monkeypatch.setattr(
        trainer_module, "validation_loss", lambda *at: validate(*at) + 9 * next(given)
    )
    options = {"evaluate_every": 2, "checkpoint_every": 3, "keep": 1}
    result = command(tmp_path / "run", **options)
    assert not result.exit_code, result.stderr
    assert steps(tmp_path / "run") == [8, 4]
    assert (
        checkpoints.read_checkpoint(tmp_path / "run/checkpoints/step-00000008").state.best[1] == 4
    )


def test_the_pretokenizer_is_recorded(command: Callable, tmp_path: Path) -> None:
    pytest.importorskip("ftfy", reason="the original pretokenizer needs ftfy")
    pytest.importorskip("spacy", reason="the original pretokenizer needs spacy")
    result = command(tmp_path / "run", pretokenizer="original", steps=3)
    assert not result.exit_code, result.stderr
    for place in ("model", "vocabulary", "checkpoints/step-00000003"):
        assert Tokenizer.from_pretrained(tmp_path / "run" / place).pretokenizer == "original"
    result = command(tmp_path / "run", steps=3)
    assert result.exit_code == 4
    assert "give --data and --pretokenizer as before" in result.stderr


def test_a_finished_run_makes_no_more_steps(
    whole: Path, command: Callable, numbers: Callable
) -> None:
    before = numbers(whole)
    assert not command(whole).exit_code
    assert before == numbers(whole)


def test_divergence_ends_the_run(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = Trainer.advance

    def advance_or_fail(trainer: Trainer) -> StepResult:
        if trainer.step == 4:
            trainer.model.h[0].ln_1.weight.data.fill_(float("inf"))
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", advance_or_fail)
    result = command(tmp_path / "run")
    assert result.exit_code == 1
    assert "training diverged in step 5" in result.stderr
    warnings: list[str] = []
    newest = checkpoints.newest_checkpoint(tmp_path / "run" / "checkpoints", warnings.append)
    assert newest is not None
    assert (newest.state.step, warnings) == (4, [])


def test_a_run_without_matplotlib_draws_no_curve(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    result = command(tmp_path / "run", steps=3)
    assert not result.exit_code
    assert "no loss curve was drawn: pip install matplotlib" in result.stderr
    assert (tmp_path / "run" / "model" / "model.safetensors").exists()


def test_a_run_restores_the_callers_state(command: Callable, tmp_path: Path) -> None:
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        deterministic = torch.are_deterministic_algorithms_enabled()
        return torch.get_rng_state().tolist(), deterministic, *handlers

    before = state()
    assert not command(tmp_path / "run", steps=3).exit_code
    assert before == state()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--recipe", "large"], 2, "there is no recipe 'large'"),
        (["--dropout", "1.5"], 2, "dropout must be a number in [0, 1), got 1.5"),
        (["--dropout", "much"], 2, "Invalid value for '--dropout'"),
        (["--n-positions", "100000"], 2, "a window takes 100000"),
        (["--vocabulary", "nowhere"], 4, "nowhere"),
        (["--data", "nowhere.txt"], 4, "nowhere.txt"),
    ],
)
def test_invalid_input_has_an_exit_code(
    options: list[str], code: int, message: str, command: Callable, tmp_path: Path
) -> None:
    result = command(tmp_path / "run", *options)
    assert (result.exit_code, message in result.stderr) == (code, True), result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--warmup", "9"], "warmup must be below steps, 8, got 9"),
        (["--allow-changed", "sead"], "there is no setting sead"),
        (["--tokens", "nowhere"], "prepared tokens and text are both given"),
        (["--timeout", "nan"], "a timeout of nan seconds is not allowed"),
        (["--timeout", "-1"], "a timeout of -1.0 seconds is not allowed"),
        (["--timeout", "0"], "a timeout of 0.0 seconds is not allowed"),
        (["--timeout", "inf"], "a timeout of inf seconds is not allowed"),
        (["--seed", str(2**64)], "seed must be a whole number from 0 to 2**64 - 1"),
    ],
)
def test_invalid_options_are_rejected_first(
    options: list[str], message: str, command: Callable, tmp_path: Path
) -> None:
    result = command(tmp_path / "run", *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.stderr
    assert not (tmp_path / "run").exists()


def test_too_few_micro_batches_are_rejected_first(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "join_group", lambda *_, **__: nullcontext(Group(0, 3)))
    result = command(tmp_path / "run")
    assert result.exit_code == 2
    assert "a step has 2 micro-batches for 3 processes" in result.stderr
    assert not (tmp_path / "run").exists()


def test_tokens_need_their_vocabulary(command: Callable, tmp_path: Path) -> None:
    result = command(tmp_path / "run", "--tokens", "nowhere", data=None)
    assert (result.exit_code, "without their vocabulary" in result.stderr) == (2, True)
    assert not (tmp_path / "run" / "vocabulary").exists()
    result = command(tmp_path / "run", "--tokens", "nowhere", "--vocabulary", "x", data=None)
    assert (result.exit_code, "x" in result.stderr) == (4, True)


def test_an_unwritable_curve_is_an_environment_error(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "run" / "loss.png").mkdir(parents=True)
    (tmp_path / "run" / "training.lock").touch()
    result = command(tmp_path / "run", steps=3)
    assert (result.exit_code, "loss.png" in result.stderr) == (5, True), result.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_an_environment_error(command: Callable, tmp_path: Path) -> None:
    result = command(tmp_path / "run", device="cuda")
    assert (result.exit_code, "there is no CUDA device" in result.stderr) == (5, True)


def test_a_folder_of_other_files_is_rejected(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    assert command(tmp_path).exit_code == 2
    assert [tmp_path / "thesis.tex"] == list(tmp_path.iterdir())


def test_an_unwritable_folder_is_an_environment_error(command: Callable, corpus: Path) -> None:
    result = command(corpus / "run")
    assert (result.exit_code, "a part of the path is no folder" in result.stderr) == (5, True)


def test_an_incomplete_torchrun_environment_is_rejected(
    command: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = command(tmp_path / "run")
    assert result.exit_code == 2
    missing = "RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT"
    assert f"WORLD_SIZE is 2 and {missing} is not set" in result.stderr
    assert "torchrun" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_flag(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stoppable() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert before == signal.getsignal(number)


def test_the_second_signal_interrupts() -> None:
    with stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_echo_is_ignored() -> None:
    """A terminal signals every process, and torchrun forwards its own signal."""
    with stoppable(echo=3_600.0) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
    assert stop.requested


def test_sigterm_interrupts_before_the_first_step() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with interruptible(), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == signal.getsignal(signal.SIGTERM)
