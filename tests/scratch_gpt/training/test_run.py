"""The train command: whole runs, interrupted and resumed runs, errors, signals."""

import dataclasses
import itertools
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import torch

from scratch_gpt import GPT, Tokenizer
from scratch_gpt.cli import SIGNALS, interruptible
from scratch_gpt.data import prepare
from scratch_gpt.training import checkpoints, log
from scratch_gpt.training import run as run_module
from scratch_gpt.training import trainer as trainer_module
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.run import Request, stoppable
from scratch_gpt.training.run_folder import Sources
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
def run_here(recipe: Recipe, corpus: Path) -> Callable[[Path], int]:
    """Return a function that runs like the command, without the command line."""

    def run(output: Path) -> int:
        sources = Sources(paths=(corpus,))
        tiny = dataclasses.replace(recipe, merges=40)
        request = Request(recipe=tiny, output=output, sources=sources)
        return run_module.run(request, lambda *_: None)

    return run


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


def edit_states(output: Path, **changes: object) -> None:
    """Change fields of every checkpoint's state, with the right digests."""
    settings = changes.pop("settings", {})
    for place in (output / "checkpoints").iterdir():
        fields = json.loads((place / checkpoints.STATE).read_text("utf-8"))
        fields["settings"] |= settings
        (place / checkpoints.STATE).write_text(json.dumps(fields | changes), "utf-8")
        checkpoints.write_manifest(place)


def content(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": -5}, "step must be a number of steps, and is -5"),
        ({"settings": {"dtype": "float16"}}, "dtype was 'float16' and is 'float64'"),
        ({"settings": {"seed": 10**400}}, "seed was 1000"),
        ({"settings": {"\x1b[2J": "[red]"}}, "was '[red]' and is None"),
    ],
    ids=ascii,
)
def test_a_state_that_does_not_fit_changes_nothing(
    changes: dict[str, object], message: str, interrupted: Path, command: Callable
) -> None:
    """Neither the log nor a checkpoint, though the digests are right."""
    edit_states(interrupted, **changes)
    before = content(interrupted)
    stderr = command(interrupted, code=4)
    assert message in stderr
    assert len(stderr) < 2_000
    assert before == content(interrupted)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("optimizer.safetensors", "all 3 checkpoints are damaged"),
        ("moments", "the checkpoint does not fit this run: its moments are of step 4"),
    ],
)
def test_moments_that_do_not_fit_change_nothing(
    name: str, message: str, interrupted: Path, command: Callable
) -> None:
    places = sorted((interrupted / "checkpoints").iterdir())
    for place in places:
        target = place / "optimizer.safetensors"
        if name == "moments":
            target.write_bytes((places[1] / "optimizer.safetensors").read_bytes())
        else:
            target.write_bytes(b"")
        checkpoints.write_manifest(place)
    before = content(interrupted)
    assert message in command(interrupted, code=4)
    assert before == content(interrupted)


def test_a_file_in_place_of_the_checkpoints_changes_nothing(
    interrupted: Path, command: Callable
) -> None:
    """The run would start anew, and empty its log."""
    (interrupted / "checkpoints").rename(interrupted / "moved away")
    (interrupted / "checkpoints").write_text("moved", "utf-8")
    before = content(interrupted)
    assert "the run's checkpoints is not a folder" in command(interrupted, code=4)
    assert before == content(interrupted)


def test_a_new_run_in_an_old_folder_keeps_the_log(interrupted: Path, command: Callable) -> None:
    (interrupted / "checkpoints").rename(interrupted / "moved away")
    before = (interrupted / "log.jsonl").read_bytes()
    assert "log.jsonl is of an earlier run; it is kept as log.1.jsonl" in command(interrupted)
    assert before == (interrupted / "log.1.jsonl").read_bytes()


def test_a_linked_checkpoint_resumes_and_is_kept(
    whole: Path, interrupted: Path, command: Callable, assert_same_run: Callable, tmp_path: Path
) -> None:
    place = interrupted / "checkpoints" / "step-00000005"
    place.rename(tmp_path / "elsewhere")
    place.symlink_to(tmp_path / "elsewhere")
    command(interrupted, keep=1)
    assert_same_run(whole, interrupted)
    assert steps(interrupted)[0] == 8
    assert checkpoints.read_checkpoint(tmp_path / "elsewhere").state.step == 5


def test_a_clock_that_goes_back_changes_nothing(
    whole: Path, command: Callable, output: Path, assert_same_run: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Times come from a clock that cannot be set; the order of checkpoints is by step."""
    seconds = itertools.count(2_000_000_000, -3_600)
    monkeypatch.setattr(time, "time", lambda: float(next(seconds)))
    with before_step_5(lambda _trainer: os.kill(os.getpid(), signal.SIGTERM)):
        command(output, code=130)
    os.utime(output / "checkpoints" / "step-00000005", (0, 0))
    assert "resuming from step 5" in command(output)
    assert_same_run(whole, output)
    times = [line["seconds"] for line in log.read_log(output / "log.jsonl")]
    assert len(times) == 8
    assert min(times) >= 0.0


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


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_lost_in_a_callback_stops_before_the_first_step(
    command: Callable, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python prints and drops an exception in a destructor."""

    class Interrupted:
        def __del__(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    prepare_tokens = run_module.prepare_tokens

    def lose_an_interrupt(*given: object) -> object:
        Interrupted()
        return prepare_tokens(*given)

    monkeypatch.setattr(run_module, "prepare_tokens", lose_an_interrupt)
    assert "error: interrupted" in command(output, code=130)
    assert not (output / "log.jsonl").exists()


def test_a_lost_terminal_does_not_end_a_run(
    whole: Path, run_here: Callable, output: Path, assert_same_run: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """SIGHUP comes with it: the notes about it cannot be written."""
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", encoding="utf-8") as gone:
        monkeypatch.setattr(sys, "stderr", gone)
        with before_step_5(lambda _trainer: os.kill(os.getpid(), signal.SIGHUP)):
            assert run_here(output) == 130
        monkeypatch.setattr(sys, "stderr", None)
        assert run_here(output) == 0
    assert_same_run(whole, output)


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


def test_two_runs_in_two_threads_do_not_disturb_each_other(
    whole: Path, run_here: Callable, assert_same_run: Callable, tmp_path: Path
) -> None:
    """Deterministic mode, the number of threads and the random state are the whole process's."""
    before = (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())
    generator = torch.get_rng_state()
    codes: dict[Path, int] = {}

    def run(output: Path) -> None:
        codes[output] = run_here(output)

    threads = [threading.Thread(target=run, args=[tmp_path / name]) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(codes.values()) == [0, 0]
    assert before == (torch.are_deterministic_algorithms_enabled(), torch.get_num_threads())
    assert torch.equal(generator, torch.get_rng_state())
    for output in codes:
        assert_same_run(whole, output)


without_cuda = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--recipe", "large"], 2, "there is no recipe 'large'"),
        (["--dropout", "1.5"], 2, "dropout must be a number in [0, 1), got 1.5"),
        (["--dropout", "much"], 2, "Invalid value for '--dropout'"),
        (["--n-positions", "100000"], 2, "a window takes 100000"),
        (["--vocabulary", "nowhere"], 2, "nowhere"),
        (["--data", "nowhere.txt"], 2, "nowhere.txt"),
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
    tokens = ["--tokens", str(output.parent)]
    assert "without their vocabulary" in command(output, *tokens, code=2, data=None)
    assert not (output / "vocabulary").exists()
    assert "x" in command(output, *tokens, "--vocabulary", "x", code=2, data=None)


def test_a_failed_write_has_exit_code_5(command: Callable, output: Path, corpus: Path) -> None:
    (output / "loss.png").mkdir(parents=True)
    (output / "training.lock").touch()
    assert "loss.png" in command(output, code=5, steps=3)
    assert "a part of the path is no folder" in command(corpus / "run", code=5)


def test_a_folder_of_other_files_is_rejected(command: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    command(tmp_path, code=2)
    assert [tmp_path / "thesis.tex"] == list(tmp_path.iterdir())


@pytest.mark.parametrize("number", SIGNALS)
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
    with pytest.raises(KeyboardInterrupt), interruptible(*SIGNALS):
        os.kill(os.getpid(), signal.SIGTERM)
    assert before == signal.getsignal(signal.SIGTERM)
