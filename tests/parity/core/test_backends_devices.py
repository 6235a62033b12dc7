"""What `--device` stands for, and whether a verdict can be given there."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from parity.core import backends
from parity.errors import EnvironmentUnfitError

Check = Callable[..., Any]


def with_cuda(monkeypatch: pytest.MonkeyPatch, *, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)


@pytest.mark.parametrize(
    ("name", "there", "device"),
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
    there: bool,  # noqa: FBT001 - a case
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_cuda(monkeypatch, there=there)
    monkeypatch.setattr(backends, "check_float64", lambda _device: None)
    assert torch.device(device) == backends.resolve_device(name)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_such_device_is_the_environments_fault(
    form: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_cuda(monkeypatch, there=False)
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


def test_the_cpu_has_float64() -> None:
    assert torch.device("cpu") == backends.resolve_device("cpu")


def test_the_check_of_float64_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device may make a float64 tensor and lack the arithmetic."""

    class Inert:
        def add_(self, _other: float) -> None:
            message = "no kernel"
            raise RuntimeError(message)

    monkeypatch.setattr(torch, "ones", lambda *_arguments, **_named: Inert())
    with pytest.raises(EnvironmentUnfitError, match="no float64"):
        backends.check_float64(torch.device("cpu"))
