"""Hugging Face's tokenizer as a witness: what is built is what the files hold, and says how."""

import shutil
from pathlib import Path

import pytest

from reference import huggingface_tokenizer
from reference.huggingface_tokenizer import STEPS, HuggingFaceTokenizer, words_without
from reference.refusal import RefusedError


def built(folder: Path, size: int) -> HuggingFaceTokenizer:
    """Return Hugging Face's tokenizer of a folder under its own names."""
    return HuggingFaceTokenizer(folder / "vocab.json", folder / "merges.txt", size=size)


@pytest.fixture(scope="module")
def size(small_vocabulary: Path) -> int:
    """Return how many tokens the small vocabulary has."""
    import json

    return len(json.loads((small_vocabulary / "vocab.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def theirs(small_vocabulary: Path, size: int) -> HuggingFaceTokenizer:
    """Return Hugging Face's tokenizer of the small vocabulary."""
    return built(small_vocabulary, size)


def test_a_text_has_ids_and_places(theirs: HuggingFaceTokenizer) -> None:
    """Places are of the text as given; the special token is looked for before all else."""
    (found,) = theirs.encode_batch(["É <unk>the"])
    assert theirs.pieces(found.ids) == ["e</w>", "<unk>", "the</w>"]
    assert found.offsets == ((0, 1), (2, 7), (7, 10))
    assert theirs.decode(found.ids[2:]) == "the"


def test_nothing_is_nothing(theirs: HuggingFaceTokenizer) -> None:
    """No texts have no encodings, and an empty text has one without ids."""
    assert theirs.encode_batch([]) == []
    assert theirs.encode_batch([""])[0].ids == ()


def test_words_are_those_of_its_steps(theirs: HuggingFaceTokenizer) -> None:
    """The normalizer's and the splitter's, the special token between them."""
    assert theirs.words("A<unk>É'b") == ["a", "<unk>", "e", "'", "b"]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("cleaning", ["a\u200bb", "中", "e"]),
        ("CJK", ["ab中e"]),
        ("accents", ["ab", "中", "é"]),
        ("lower case", ["Ab", "中", "E"]),
    ],
)
def test_a_step_can_be_left_out(step: str, words: list[str]) -> None:
    """Each of the four changes the words of a text that has something for each."""
    assert words == words_without(step, "A\u200bb中É")


def test_the_steps_are_the_normalizers() -> None:
    """Every step is named, in the order in which the library does them."""
    assert list(STEPS) == ["cleaning", "CJK", "accents", "lower case"]


def test_the_releases_names_are_taken(
    small_vocabulary: Path, size: int, tmp_path: Path, theirs: HuggingFaceTokenizer
) -> None:
    """Files under OpenAI's names, given by relative paths too, give the same ids."""
    names = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}
    for name, release in names.items():
        shutil.copy(small_vocabulary / name, tmp_path / release)
    other = HuggingFaceTokenizer(*(tmp_path / name for name in names.values()), size=size)
    text = ["the keeper wrote: calm"]
    assert theirs.encode_batch(text) == other.encode_batch(text)


def test_a_vocabulary_that_was_not_taken_is_refused(small_vocabulary: Path, size: int) -> None:
    """Version 5 builds one token from keywords that it ignores; a count shows such a thing."""
    with pytest.raises(RefusedError, match=f"has {size} tokens, the files have {size + 1}"):
        built(small_vocabulary, size + 1)


def test_another_normalizer_is_refused(
    small_vocabulary: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the version's table does not say about it is no witness."""
    monkeypatch.setattr(huggingface_tokenizer, "TOKENIZER_NORMALIZER", "Sequence")
    with pytest.raises(RefusedError, match="has a BertNormalizer, its version a Sequence"):
        built(small_vocabulary, size)
