"""The backends and devices of a check."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from parity.core import backends
from parity.core.backends import DEFAULT, EAGER, chosen_backends, why_unavailable
from parity.errors import EnvironmentUnfitError, ExitCode
from scratch_gpt.kernels.backends import BACKENDS, why_not_compiled

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", EAGER)
def test_the_eager_ones_run_everywhere(name: str) -> None:
    assert why_unavailable(name, CPU) is None
    assert chosen_backends(name, CPU) == ([name], {})


def test_the_default_is_two_of_them() -> None:
    assert chosen_backends("default", CPU) == (list(DEFAULT), {})
    assert set(DEFAULT) < set(EAGER)


def test_all_lists_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    run, left_out = chosen_backends("all", CPU)
    assert set(EAGER) == set(run)
    assert set(BACKENDS) == {*run, *left_out}
    assert left_out["compiled"] == "there is no C++ compiler"
    assert all(left_out.values())
    with pytest.raises(EnvironmentUnfitError, match="there is no C"):
        chosen_backends("compiled", CPU)


def test_triton_needs_a_gpu(check: Callable[..., Any]) -> None:
    result = check("layerwise", "--weights", "tiny", "--backend", "triton")
    assert result.exit_code == ExitCode.ENVIRONMENT
    assert "the backend triton cannot run here" in result.stderr


def test_the_triton_core_passes_in_the_interpreter(command: Callable[..., Any]) -> None:
    if (why := why_unavailable("triton", CPU)) is not None and "interpret" not in why.lower():
        pytest.skip(f"not run: {why}")
    arguments = ("--weights", "tiny", "--seq-len", "17", "--backend", "triton")
    done = command("layerwise", *arguments, env={"TRITON_INTERPRET": "1"})
    assert done.returncode == ExitCode.PASS, done.stdout + done.stderr
    assert "125 of 125 taps on triton" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_compiled_blocks_pass(command: Callable[..., Any]) -> None:
    why = why_not_compiled(CPU)
    if why is not None:
        pytest.skip(f"not run: {why}")
    arguments = ("--weights", "tiny", "--seq-len", "17", "--backend", "compiled")
    done = command("layerwise", *arguments, timeout=1_000)
    assert done.returncode == ExitCode.PASS, done.stderr
    assert "17 of 17 taps on compiled" in done.stdout


# Devices.


Check = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "has_cuda", "device"),
    [
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
    ],
)
def test_a_name_stands_for_a_device(
    name: str,
    has_cuda: bool,  # noqa: FBT001 - a case
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    if device == "cuda":
        monkeypatch.setattr(backends, "check_float64", lambda _device: None)
    assert torch.device(device) == backends.resolve_device(name)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_such_device_is_the_environments_fault(
    form: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = check("layerwise", "--weights", "tiny", "--device", "cuda", "--format", form)
    assert result.exit_code == 5
    assert "CUDA" in result.stderr
    assert bool(result.stdout) == (form == "json")


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Cannot convert a MPS Tensor to float64"),
        RuntimeError("float64 is not supported"),
        NotImplementedError("no kernel"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_device_without_float64_is_the_environments_fault(
    error: Exception, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(*_arguments: object, **_named: object) -> None:
        raise error

    stand_in = SimpleNamespace(
        cuda=torch.cuda, device=torch.device, float64=torch.float64, ones=ones
    )
    monkeypatch.setattr(backends, "torch", stand_in)
    result = check("layerwise", "--weights", "tiny", "--seq-len", "5")
    assert (result.exit_code, result.stdout, "float64" in result.stderr) == (5, "", True)


def test_the_check_of_float64_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device may make a float64 tensor and lack the arithmetic."""

    class Inert:
        def add_(self, _other: float) -> None:
            message = "no kernel"
            raise RuntimeError(message)

    monkeypatch.setattr(torch, "ones", lambda *_arguments, **_named: Inert())
    with pytest.raises(EnvironmentUnfitError, match="no float64"):
        backends.check_float64(torch.device("cpu"))
