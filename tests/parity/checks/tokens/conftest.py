"""Both sides of a comparison of tokenizers, on the small vocabulary."""

from pathlib import Path

import pytest

from parity.checks.tokens.runners import CandidateTokenizer, HuggingFace, ReleaseTokenizer
from scratch_gpt import Tokenizer


@pytest.fixture(scope="session")
def right(small_vocabulary: Path) -> Tokenizer:
    """Return our tokenizer; tests do not change it."""
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.fixture(scope="session")
def ours(right: Tokenizer) -> CandidateTokenizer:
    return CandidateTokenizer(right)


@pytest.fixture(scope="session")
def theirs(small_vocabulary: Path, right: Tokenizer) -> HuggingFace:
    return HuggingFace(small_vocabulary, size=right.vocab_size)


@pytest.fixture(scope="session")
def huggingface(
    ours: CandidateTokenizer, theirs: HuggingFace
) -> tuple[CandidateTokenizer, HuggingFace]:
    return ours, theirs


@pytest.fixture(scope="session")
def original(small_vocabulary: Path) -> tuple[CandidateTokenizer, ReleaseTokenizer]:
    for package in ("ftfy", "spacy"):
        pytest.importorskip(package, reason="not run: the extra original-text is not installed")
    side = CandidateTokenizer(Tokenizer.from_pretrained(small_vocabulary, pretokenizer="original"))
    files = small_vocabulary / "vocab.json", small_vocabulary / "merges.txt"
    return side, ReleaseTokenizer(*files)
