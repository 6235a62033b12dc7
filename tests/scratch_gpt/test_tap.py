"""Taps."""

import torch
from torch import Tensor

from scratch_gpt.tap import no_tap, prefixed


def test_no_tap_returns_its_value() -> None:
    value = torch.ones(3)
    assert no_tap("name", value) is value


def test_prefixed_adds_the_prefix() -> None:
    names = []

    def watch(name: str, value: Tensor) -> Tensor:
        names.append(name)
        return value

    prefixed("h.3", prefixed("attn", watch))("query", torch.ones(3))
    assert names == ["attn.h.3.query"]


def test_prefixed_passes_the_value_and_the_result() -> None:
    value, replacement = torch.ones(3), torch.zeros(3)
    shown = []

    def replace(_name: str, value: Tensor) -> Tensor:
        shown.append(value)
        return replacement

    answer = prefixed("mlp", replace)("gelu", value)
    assert shown[0] is value
    assert answer is replacement


def test_prefixed_no_tap_is_no_tap() -> None:
    assert prefixed("h.3", no_tap) is no_tap
