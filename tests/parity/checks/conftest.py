"""Inputs and models that several checks are tested on."""

import dataclasses

import pytest
import torch

from parity.core import inputs
from parity.core.inputs import Inputs
from scratch_gpt import GPT


@pytest.fixture(scope="session")
def padded(ours: GPT) -> Inputs:
    """Return two rows of unequal length, long enough for rounding to be checked."""
    chosen = inputs.seeded(batch=2, time=40, vocab_size=ours.config.vocab_size, seed=0)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 33:] = False
    return dataclasses.replace(chosen, attention_mask=mask)


@pytest.fixture(scope="session")
def paths(ours: GPT) -> dict[str, GPT]:
    """Return our model on two backends, of which `tiled` forms fewer taps."""
    return {path: ours.with_backend(path) for path in ("plain", "tiled")}
