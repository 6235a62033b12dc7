"""Models with the first two blocks of the tiny one, whose steps take a sixth of the time."""

import dataclasses

import pytest
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Weights
from parity.core.runners import build_huggingface, build_ours
from scratch_gpt import GPT

BLOCKS = ("h.0.", "h.1.")


@pytest.fixture(scope="session")
def two(weights: Weights) -> Weights:
    kept = {
        name: tensor
        for name, tensor in weights.tensors.items()
        if not name.startswith("h.") or name.startswith(BLOCKS)
    }
    config = {**weights.config, "n_layer": len(BLOCKS)}
    return dataclasses.replace(weights, config=config, tensors=kept)


@pytest.fixture(scope="session")
def two_ours(two: Weights) -> GPT:
    return build_ours(two)


@pytest.fixture(scope="session")
def two_theirs(two: Weights) -> OpenAIGPTLMHeadModel:
    return build_huggingface(two)
