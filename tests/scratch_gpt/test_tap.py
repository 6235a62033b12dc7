"""Taps."""

import torch
from torch import Tensor

from scratch_gpt.tap import no_tap, prefixed


def test_no_tap_returns_its_value_and_needs_no_prefix() -> None:
    value = torch.ones(3)
    assert no_tap("name", value) is value
    assert prefixed("h.3", no_tap) is no_tap


def test_prefixed_calls_the_outer_tap_and_returns_its_result() -> None:
    value, replacement = torch.ones(3), torch.zeros(3)
    calls = []

    def replace(name: str, value: Tensor) -> Tensor:
        calls.append((name, value))
        return replacement

    assert prefixed("h.3", prefixed("attn", replace))("query", value) is replacement
    ((name, given),) = calls
    assert name == "attn.h.3.query"
    assert given is value
