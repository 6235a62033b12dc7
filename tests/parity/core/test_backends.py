"""Which ways of running our model a check is about."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from parity.core.backends import DEFAULT, EAGER, chosen_backends, why_unavailable
from parity.errors import EnvironmentUnfitError, ExitCode
from scratch_gpt.kernels.backends import BACKENDS, why_not_compiled

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", EAGER)
def test_the_eager_ones_run_everywhere(name: str) -> None:
    """Nothing is missing for them, and each can be asked for alone."""
    assert why_unavailable(name, CPU) is None
    assert chosen_backends(name, CPU) == ([name], {})


def test_the_default_is_two_of_them() -> None:
    """The formulas and the derived forms; nothing is said to be left out."""
    assert chosen_backends("default", CPU) == (list(DEFAULT), {})
    assert set(DEFAULT) < set(EAGER)


def test_all_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every path is either run or named with the reason."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    run, left_out = chosen_backends("all", CPU)
    assert set(EAGER) == set(run)
    assert set(BACKENDS) == {*run, *left_out}
    assert left_out["compiled"] == "there is no C++ compiler"
    assert all(left_out.values())


def test_what_cannot_run_is_no_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the environment's, and says what is missing."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(EnvironmentUnfitError, match="there is no C"):
        chosen_backends("compiled", CPU)


def test_triton_needs_a_gpu(check: Callable[..., Any]) -> None:
    """On a CPU the command says so and exits with the environment's code."""
    result = check("layerwise", "--weights", "tiny", "--backend", "triton")
    assert result.exit_code == ExitCode.ENVIRONMENT
    assert "the backend triton cannot run here" in result.stderr


def test_the_triton_core_passes_in_the_interpreter(command: Callable[..., Any]) -> None:
    """Whole models, several of them at once, their attention by its kernels."""
    if (why := why_unavailable("triton", CPU)) is not None and "interpret" not in why.lower():
        pytest.skip(f"not run: {why}")
    arguments = ("--weights", "tiny", "--seq-len", "17", "--backend", "triton")
    done = command("layerwise", *arguments, env={"TRITON_INTERPRET": "1"})
    assert done.returncode == ExitCode.PASS, done.stdout + done.stderr
    assert "125 of 125 taps on triton" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_compiled_blocks_pass(command: Callable[..., Any]) -> None:
    """Every block's output, the logits and the loss agree."""
    why = why_not_compiled(CPU)
    if why is not None:
        pytest.skip(f"not run: {why}")
    arguments = ("--weights", "tiny", "--seq-len", "17", "--backend", "compiled")
    done = command("layerwise", *arguments, timeout=1_000)
    assert done.returncode == ExitCode.PASS, done.stderr
    assert "17 of 17 taps on compiled" in done.stdout
