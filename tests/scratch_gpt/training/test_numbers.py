"""Every number that the commands `train` and `generate` take, with hostile values.

The options are found in the commands, so a new one is tested too.
"""

import os
import resource
import signal
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scratch_gpt import generate, train
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.options import _value_type, options_of
from scratch_gpt.train import TrainOptions
from scratch_gpt.training import run as run_module
from scratch_gpt.training.trainer import StepResult, Trainer

HOSTILE = (
    *("0", "-1", "1" + "0" * 9, "1" + "0" * 18, "1" + "0" * 400, str(2**63), str(2**64)),
    *("nan", "inf", "-inf", "1e400", "1e300", "1e-40", "5e-324", "-0.0", "1_0", "", "\u0663"),
)

_MOST = 500 << 10
"""KiB that the largest accepted values may add to the process."""


def numbers_of(options: type) -> list[str]:
    kinds = typing.get_type_hints(options)
    names = [field.name for field in options_of(options)]
    return [name for name in names if _value_type(kinds[name]) in (int, float)]


def test_there_are_numbers() -> None:
    assert {"steps", "epsilon", "timeout", "threads"} <= set(numbers_of(TrainOptions))
    assert {"beams", "temperature", "seed"} <= set(numbers_of(GenerateOptions))


def require_one_clear_ending(
    name: str, run: Callable[[str], tuple[int, str]], allowed: set[int]
) -> None:
    """Run with each hostile value; a rejected one must be named, with its option and a fix."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    flag = "--" + name.replace("_", "-")
    for value in HOSTILE:
        code, stderr = run(value)
        about = f"{flag} {value[:30]}: {code}, {stderr}"
        assert code in allowed, about
        assert "Traceback" not in stderr, about
        assert len(stderr) < 2_000, about
        if code == 2:
            assert flag in stderr or name in stderr, about
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert sys.platform != "linux" or grown < _MOST


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run after its third step, as Ctrl-C does; leave out samples and the curve."""
    advance = Trainer.advance

    def advance_and_stop(trainer: Trainer) -> StepResult:
        if trainer.step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return advance(trainer)

    monkeypatch.setattr(Trainer, "advance", advance_and_stop)
    monkeypatch.setattr(run_module, "draw_loss_curve", lambda *_: None)


@pytest.mark.usefixtures("stopping")
@pytest.mark.parametrize("name", numbers_of(TrainOptions))
def test_every_number_of_train(name: str, arguments: Callable, tmp_path: Path) -> None:
    """4 is an input that does not fit, 5 too little memory, 1 divergence, 130 the stop."""
    base = {"steps": 2, "epochs": 0.05, "warmup": 1, "evaluate_every": 1, "checkpoint_every": 1}

    def run(value: str) -> tuple[int, str]:
        output = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        changes = base | {name: None}
        argv = [*arguments(output, **changes), f"--{name.replace('_', '-')}={value}"]
        result = CliRunner().invoke(train.app, argv)
        return result.exit_code, result.stderr

    require_one_clear_ending(name, run, {0, 1, 2, 4, 5, 130})


@pytest.fixture(scope="module")
def weights(command: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("weights") / "run"
    command(output, steps=3)
    return output / "model"


@pytest.mark.parametrize("name", numbers_of(GenerateOptions))
def test_every_number_of_generate(name: str, weights: Path) -> None:
    """A number is never rejected as a fault of the weights, which has exit code 4."""

    def run(value: str) -> tuple[int, str]:
        argv = ["--weights", str(weights), "--prompt", "the cat"]
        result = CliRunner().invoke(generate.app, [*argv, f"--{name.replace('_', '-')}={value}"])
        return result.exit_code, result.stderr

    require_one_clear_ending(name, run, {0, 2, 5})
