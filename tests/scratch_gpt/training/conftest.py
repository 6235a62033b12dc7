"""The vocabulary of the tests of training: a tiny checkpoint, and a model with no quiet weight."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.training.checkpoints import Checkpoint, State


@pytest.fixture
def checkpoint(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> Checkpoint:
    """Return a checkpoint at step 7 whose every number is its own."""
    model = loud(GPT(config)).float()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    moments = {f"first_moment.{name}": torch.randn(p.shape) for name, p in weights.items()}
    state = State(step=7, windows=28, best=(3.5, 6), circumstances={"seed": 1, "torch": "2"})
    return Checkpoint(state=state, config=config, weights=weights, optimizer=moments | {"step": 7})


@pytest.fixture
def at_step(checkpoint: Checkpoint) -> Callable[[int], Checkpoint]:
    """Return a function that gives the checkpoint of another step."""

    def at(step: int) -> Checkpoint:
        return dataclasses.replace(
            checkpoint, state=dataclasses.replace(checkpoint.state, step=step)
        )

    return at


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """Return a function that changes one bit in the middle of a file."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change
