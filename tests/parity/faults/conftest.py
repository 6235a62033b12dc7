"""Models of two blocks, and both sides of a comparison of tokenizers."""

import dataclasses
from pathlib import Path

import pytest
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Weights
from parity.checks.tokens.runners import (
    CandidateTokenizer,
    HuggingFace,
    ReferenceTokenizer,
    ReleaseTokenizer,
)
from parity.core.runners import build_huggingface, build_ours
from scratch_gpt import GPT, Tokenizer

Sides = tuple[CandidateTokenizer, ReferenceTokenizer]
TWO = ("h.0.", "h.1.")


@pytest.fixture(scope="session")
def two(weights: Weights) -> Weights:
    """The tiny weights of the embeddings and the first two blocks."""
    tensors = weights.tensors.items()
    kept = {name: t for name, t in tensors if not name.startswith("h.") or name.startswith(TWO)}
    return dataclasses.replace(weights, config={**weights.config, "n_layer": 2}, tensors=kept)


@pytest.fixture(scope="session")
def two_models(two: Weights) -> tuple[GPT, OpenAIGPTLMHeadModel]:
    """Both models of two blocks; read only."""
    return build_ours(two), build_huggingface(two)


@pytest.fixture(scope="session")
def huggingface_sides(small_vocabulary: Path) -> Sides:
    """Our tokenizer and Hugging Face's."""
    right = Tokenizer.from_pretrained(small_vocabulary)
    return CandidateTokenizer(right), HuggingFace(small_vocabulary, size=right.vocab_size)


@pytest.fixture(scope="session")
def original_sides(small_vocabulary: Path) -> Sides:
    """Our tokenizer and the transcription of the release's, for the original words."""
    for package in ("ftfy", "spacy"):
        pytest.importorskip(package, reason="not run: the extra original-text is not installed")
    right = Tokenizer.from_pretrained(small_vocabulary, pretokenizer="original")
    files = small_vocabulary / "vocab.json", small_vocabulary / "merges.txt"
    return CandidateTokenizer(right), ReleaseTokenizer(*files)
