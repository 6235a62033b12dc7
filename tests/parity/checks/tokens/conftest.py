"""Both sides of a comparison of tokenizers, on the small vocabulary."""

from pathlib import Path

import pytest

from parity.checks.tokens.sides import CandidateTokenizer, HuggingFace, ReleaseTokenizer
from scratch_gpt import Tokenizer


@pytest.fixture(scope="session")
def right(small_vocabulary: Path) -> Tokenizer:
    """Return our tokenizer; nobody changes it."""
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.fixture(scope="session")
def ours(right: Tokenizer) -> CandidateTokenizer:
    """Return our side."""
    return CandidateTokenizer(right)


@pytest.fixture(scope="session")
def theirs(small_vocabulary: Path, right: Tokenizer) -> HuggingFace:
    """Return Hugging Face's side."""
    folder = small_vocabulary
    return HuggingFace(folder / "vocab.json", folder / "merges.txt", size=right.vocab_size)


@pytest.fixture(scope="session")
def original(small_vocabulary: Path) -> tuple[CandidateTokenizer, ReleaseTokenizer]:
    """Return both sides of the original splitting."""
    for package in ("ftfy", "spacy"):
        pytest.importorskip(package, reason="not run: the extra original-text is not installed")
    side = CandidateTokenizer(Tokenizer.from_pretrained(small_vocabulary, pretokenizer="original"))
    files = small_vocabulary / "vocab.json", small_vocabulary / "merges.txt"
    return side, ReleaseTokenizer(*files)
