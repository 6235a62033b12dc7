"""The device that a command line asks for."""

import pytest
import torch

from scratch_gpt.command.errors import EnvironmentUnfitError
from scratch_gpt.devices import device_named


def test_auto_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU where there is one; asked for by name and not there it is refused."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [device_named(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [device_named(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(EnvironmentUnfitError, match="no CUDA device"):
        device_named("cuda")
