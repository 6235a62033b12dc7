"""Both sides of a comparison of tokenizers, on the small vocabulary."""

from pathlib import Path

import pytest

from parity.tokens.sides import HuggingFace, Ours
from scratch_gpt import Tokenizer


@pytest.fixture(scope="session")
def right(small_vocabulary: Path) -> Tokenizer:
    """Return our tokenizer; nobody changes it."""
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.fixture(scope="session")
def ours(right: Tokenizer) -> Ours:
    """Return our side."""
    return Ours(right)


@pytest.fixture(scope="session")
def theirs(small_vocabulary: Path, right: Tokenizer) -> HuggingFace:
    """Return Hugging Face's side."""
    folder = small_vocabulary
    return HuggingFace(folder / "vocab.json", folder / "merges.txt", size=right.vocab_size)
