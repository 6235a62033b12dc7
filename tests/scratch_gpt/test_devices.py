"""The device that a command line asks for."""

import pytest
import torch

from scratch_gpt.cli import parse_device
from scratch_gpt.errors import EnvironmentUnfitError


def test_auto_is_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert [parse_device(name) for name in ("auto", "cuda", "cpu")] == ["cuda", "cuda", "cpu"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert [parse_device(name) for name in ("auto", "cpu")] == ["cpu", "cpu"]
    with pytest.raises(EnvironmentUnfitError, match="no CUDA device"):
        parse_device("cuda")
