"""The train command: whole runs, interrupted and resumed runs, errors, signals."""

import os
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

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
def _no_samples() -> Iterator[None]:
    """Replace samples, which `test_log` tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run_module, "sample", lambda *_others: "a sample")
        yield


@pytest.fixture(scope="module")
def whole(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an uninterrupted run."""
    output = tmp_path_factory.mktemp("whole") / "run"
    command(output)
    return output


@contextmanager
def before_step_5(action: Callable[[Trainer], None]) -> Iterator[None]:
    """Let something happen before the fifth step of a run."""
    advance = Trainer.advance

    def act_and_advance(trainer: Trainer) -> StepResult:
        if trainer.step == 4:
            action(trainer)
        return advance(trainer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", act_and_advance)
        yield


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def interrupted(command: Callable, output: Path) -> Path:
    """Return the folder of a run that got SIGTERM in its fifth step."""
    with before_step_5(lambda _trainer: os.kill(os.getpid(), signal.SIGTERM)):
        stderr = command(output, code=130)
    assert "stopped after step 5; run the same command to resume" in stderr
    return output


def steps(output: Path) -> list[int]:
    return list(checkpoints.checkpoints_by_step(output / "checkpoints"))


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
    whole: Path, interrupted: Path, command: Callable, assert_same_run: Callable
) -> None:
    assert steps(interrupted)[0] == 5
    assert "resuming from step 5" in command(interrupted)
    assert_same_run(whole, interrupted)


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
    command(interrupted)
    assert len(sent) > 4
    assert max(sent) < 1_000


def test_a_run_resumes_before_a_damaged_checkpoint(
    whole: Path, interrupted: Path, command: Callable, assert_same_run: Callable
) -> None:
    (interrupted / "checkpoints" / "step-00000005" / "optimizer.safetensors").write_bytes(b"")
    assert "checkpoint step-00000005 is skipped" in command(interrupted, "--quiet")
    assert_same_run(whole, interrupted)


def test_damaged_checkpoints_do_not_start_a_run_anew(interrupted: Path, command: Callable) -> None:
    for place in (interrupted / "checkpoints").iterdir():
        (place / "state.json").write_text("{", "utf-8")
    log_before = (interrupted / "log.jsonl").read_bytes()
    assert "all 3 checkpoints are damaged" in command(interrupted, code=4)
    assert log_before == (interrupted / "log.jsonl").read_bytes()


def test_changed_settings_must_be_allowed(interrupted: Path, command: Callable) -> None:
    changes = {"seed": 5, "learning_rate": 0.02}
    stderr = command(interrupted, code=4, **changes)
    assert "learning_rate was 0.01 and is 0.02; seed was 0 and is 5" in stderr
    allow = "--allow-changed learning_rate --allow-changed seed"
    assert allow in stderr
    stderr = command(interrupted, *allow.split(), **changes)
    assert "allowed change: seed was 0 and is 5" in stderr


def test_changed_text_must_be_allowed(interrupted: Path, command: Callable, tmp_path: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text("the cat sat on a dog.\n" * 200, "utf-8")
    stderr = command(interrupted, code=4, data=other)
    assert "other tokens were prepared there: document 1 'text.txt" in stderr
    assert "give --data and --pretokenizer as before, train with another --output" in stderr
    assert "--tokens FOLDER --allow-changed data" in stderr
    tokenizer = Tokenizer.from_pretrained(interrupted / "vocabulary")
    tokens = ["--tokens", str(prepare([other], tmp_path / "other", tokenizer).directory)]
    assert "data was" in command(interrupted, *tokens, code=4, data=None)
    allowed = [*tokens, "--allow-changed", "data"]
    assert "allowed change: data was" in command(interrupted, *allowed, data=None)


def test_the_best_is_kept(command: Callable, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also at a step without a regular checkpoint, and after later ones."""
    validate = trainer_module.validation_loss
    given = iter((3.0, 1.0, 2.0, 4.0))
    monkeypatch.setattr(
        trainer_module, "validation_loss", lambda *at: validate(*at) + 9 * next(given)
    )
    command(output, evaluate_every=2, checkpoint_every=3, keep=1)
    assert steps(output) == [8, 4]
    last = checkpoints.read_checkpoint(output / "checkpoints" / "step-00000008")
    assert last.state.best[1] == 4


def test_the_pretokenizer_is_recorded(command: Callable, output: Path) -> None:
    pytest.importorskip("ftfy", reason="the original pretokenizer needs ftfy")
    pytest.importorskip("spacy", reason="the original pretokenizer needs spacy")
    command(output, pretokenizer="original", steps=3)
    for place in ("model", "vocabulary", "checkpoints/step-00000003"):
        assert Tokenizer.from_pretrained(output / place).pretokenizer == "original"
    assert "give --data and --pretokenizer as before" in command(output, code=4, steps=3)


def test_a_finished_run_makes_no_step(whole: Path, command: Callable, numbers: Callable) -> None:
    before = numbers(whole)
    command(whole)
    assert before == numbers(whole)


def test_divergence_ends_the_run(command: Callable, output: Path, newest_step: Callable) -> None:
    with before_step_5(lambda trainer: trainer.model.h[0].ln_1.weight.data.fill_(float("inf"))):
        assert "training diverged in step 5" in command(output, code=1)
    assert newest_step(output) == 4


def test_a_run_without_matplotlib_draws_no_curve(
    command: Callable, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "no loss curve was drawn: pip install matplotlib" in command(output, steps=3)
    assert (output / "model" / "model.safetensors").exists()


def test_a_run_restores_the_callers_state(command: Callable, output: Path) -> None:
    def state() -> tuple[object, ...]:
        handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        deterministic = torch.are_deterministic_algorithms_enabled()
        return torch.get_rng_state().tolist(), deterministic, *handlers

    before = state()
    command(output, steps=3)
    assert before == state()


without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--recipe", "large"], 2, "there is no recipe 'large'"),
        (["--dropout", "1.5"], 2, "dropout must be a number in [0, 1), got 1.5"),
        (["--dropout", "much"], 2, "Invalid value for '--dropout'"),
        (["--n-positions", "100000"], 2, "a window takes 100000"),
        (["--vocabulary", "nowhere"], 4, "nowhere"),
        (["--data", "nowhere.txt"], 4, "nowhere.txt"),
        pytest.param(["--device", "cuda"], 5, "there is no CUDA device", marks=without_cuda),
    ],
)
def test_invalid_input_has_an_exit_code(
    options: list[str], code: int, message: str, command: Callable, output: Path
) -> None:
    assert message in command(output, *options, code=code)


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
    options: list[str], message: str, command: Callable, output: Path
) -> None:
    assert message in command(output, *options, code=2)
    assert not output.exists()


def test_too_few_micro_batches_are_rejected_first(
    command: Callable, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_module, "join_group", lambda *_, **__: nullcontext(Group(0, 3)))
    assert "a step has 2 micro-batches for 3 processes" in command(output, code=2)
    assert not output.exists()


def test_an_incomplete_torchrun_environment_is_rejected(
    command: Callable, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    stderr = command(output, code=2)
    assert "WORLD_SIZE is 2 and RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT is not set" in stderr
    assert "torchrun" in stderr


def test_tokens_need_their_vocabulary(command: Callable, output: Path) -> None:
    tokens = ["--tokens", "nowhere"]
    assert "without their vocabulary" in command(output, *tokens, code=2, data=None)
    assert not (output / "vocabulary").exists()
    assert "x" in command(output, *tokens, "--vocabulary", "x", code=4, data=None)


def test_a_failed_write_has_exit_code_5(command: Callable, output: Path, corpus: Path) -> None:
    (output / "loss.png").mkdir(parents=True)
    (output / "training.lock").touch()
    assert "loss.png" in command(output, code=5, steps=3)
    assert "a part of the path is no folder" in command(corpus / "run", code=5)


def test_a_folder_of_other_files_is_rejected(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    command(tmp_path, code=2)
    assert [tmp_path / "thesis.tex"] == list(tmp_path.iterdir())


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
    with interruptible(*SIGNALS), pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == signal.getsignal(signal.SIGTERM)
