"""Taps."""

import torch
from torch import Tensor

from scratch_gpt.tap import no_tap, prefixed


def test_an_untapped_value_is_the_value_itself() -> None:
    """Nobody watching means that nothing happens."""
    value = torch.ones(3)
    assert no_tap("name", value) is value


def test_within_prefixes_the_name() -> None:
    """The outer tap is told the prefix, a dot and the name."""
    names = []

    def watch(name: str, value: Tensor) -> Tensor:
        names.append(name)
        return value

    prefixed("h.3", prefixed("attn", watch))("query", torch.ones(3))
    expected = ["attn.h.3.query"]
    assert expected == names


def test_within_hands_the_value_there_and_back() -> None:
    """The outer tap is shown the very tensor, and its answer comes back."""
    value, replacement = torch.ones(3), torch.zeros(3)
    shown = []

    def replace(_name: str, value: Tensor) -> Tensor:
        shown.append(value)
        return replacement

    answer = prefixed("mlp", replace)("gelu", value)
    assert shown[0] is value
    assert answer is replacement


def test_within_untapped_stays_untapped() -> None:
    """Prefixing for nobody costs nothing: no closure is built."""
    assert prefixed("h.3", no_tap) is no_tap
