"""Text of any kind: what hypothesis comes up with, and the whole default run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.checks.tokens.diagnosis import part
from parity.checks.tokens.sides import CandidateTokenizer, ReferenceTokenizer, ReleaseTokenizer
from parity.faults.tokenizer import inject
from scratch_gpt import Tokenizer

TEXT = st.text(max_size=60)
MANY = settings(
    max_examples=10_000,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def differing(ours: CandidateTokenizer, theirs: ReferenceTokenizer, text: str) -> bool:
    """Return whether two sides part over a text."""
    return part(ours.encode_batch([text])[0], theirs.encode_batch([text])[0])


@pytest.mark.slow
def test_ten_thousand_texts_are_encoded_alike(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """Hugging Face's ids and places, whatever the text."""

    @MANY
    @given(TEXT)
    def alike(text: str) -> None:
        assert not differing(ours, theirs, text)

    alike()


@pytest.mark.parametrize("name", ["accents-kept", "unknown-fused", "places-in-bytes"])
def test_few_texts_find_a_fault(
    name: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """What hypothesis comes up with tells wrong tokenizers from right ones."""
    wrong = inject(ours.tokenizer, ours.pretokenizer, name)

    @settings(MANY, max_examples=300)
    @given(TEXT)
    def alike(text: str) -> None:
        assert not differing(wrong, theirs, text)

    with pytest.raises(AssertionError):
        alike()


@pytest.mark.slow
def test_two_thousand_texts_are_split_alike(small_vocabulary: Path) -> None:
    """The original splitting gives the transcription's ids."""
    for package in ("ftfy", "spacy"):
        pytest.importorskip(package, reason="not run: the extra original-text is not installed")
    side = CandidateTokenizer(Tokenizer.from_pretrained(small_vocabulary, pretokenizer="original"))
    other = ReleaseTokenizer(small_vocabulary / "vocab.json", small_vocabulary / "merges.txt")

    @settings(MANY, max_examples=2_000)
    @given(TEXT)
    def alike(text: str) -> None:
        assert not differing(side, other, text)

    alike()


@pytest.mark.slow
@pytest.mark.parametrize("pretokenizer", ["huggingface", "original"])
def test_the_default_run_passes(pretokenizer: str, check: Callable[..., Any]) -> None:
    """On the released vocabulary: hard strings, every token, generated ones, a megabyte."""
    folder = os.environ.get("GPT1_VOCABULARY")
    if not folder:
        pytest.skip("not run: GPT1_VOCABULARY does not name the released vocabulary's folder")
    if pretokenizer == "original":
        for package in ("ftfy", "spacy"):
            pytest.importorskip(package, reason="not run: no extra original-text")
    result = check("tokens", "--vocabulary", folder, "--pretokenizer", pretokenizer)
    assert (result.exit_code, "published" in result.stdout.splitlines()[-1]) == (0, True)
