"""Hugging Face's tokenizer as a reference: it holds the files' vocabulary."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tokenizers import normalizers
from transformers import OpenAIGPTTokenizerFast

from reference import compat
from reference.errors import RejectedError
from reference.huggingface import quiet
from reference.huggingface_tokenizer import BERTS, STEPS, HuggingFaceTokenizer, words_without


def built(folder: Path, size: int) -> HuggingFaceTokenizer:
    return HuggingFaceTokenizer(folder, size=size)


def tokens_in(folder: Path) -> int:
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def size(small_vocabulary: Path) -> int:
    return tokens_in(small_vocabulary)


@pytest.fixture(scope="module")
def theirs(small_vocabulary: Path, size: int) -> HuggingFaceTokenizer:
    return built(small_vocabulary, size)


def test_a_text_has_ids_and_offsets(theirs: HuggingFaceTokenizer) -> None:
    """Offsets are of the given text; the special token is searched before any other step."""
    (found,) = theirs.encode_batch(["É <unk>the"])
    assert theirs.pieces(found.ids) == ["e</w>", "<unk>", "the</w>"]
    assert found.offsets == ((0, 1), (2, 7), (7, 10))
    assert theirs.decode(found.ids[2:]) == "the"


def test_no_text_and_an_empty_text(theirs: HuggingFaceTokenizer) -> None:
    assert theirs.encode_batch([]) == []
    assert theirs.encode_batch([""])[0].ids == ()


def test_words_follow_from_the_normalizer_and_the_splitter(theirs: HuggingFaceTokenizer) -> None:
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
    assert words == words_without(step, "A\u200bb中É")


def test_the_steps_are_the_normalizers() -> None:
    assert list(STEPS) == ["cleaning", "CJK", "accents", "lower case"]


def test_the_releases_file_names_are_accepted(
    small_vocabulary: Path, size: int, tmp_path: Path, theirs: HuggingFaceTokenizer
) -> None:
    names = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}
    for name, release in names.items():
        shutil.copy(small_vocabulary / name, tmp_path / release)
    other = HuggingFaceTokenizer(tmp_path, size=size)
    text = ["the keeper wrote: calm"]
    assert theirs.encode_batch(text) == other.encode_batch(text)


def test_an_ignored_vocabulary_is_refused(small_vocabulary: Path, size: int) -> None:
    """Version 5 ignores keywords and builds one token; the count shows it."""
    with pytest.raises(RejectedError, match=f"has {size} tokens, the files have {size + 1}"):
        built(small_vocabulary, size + 1)


PLAIN = ["The keeper wrote: Café, don't!"]
STRANGE = ["a\u200bb", "\x07", "a\u00adb"]
"""BERT's normalizer drops a character of each; a sequence of three keeps it."""

OF_THREE = normalizers.Sequence(
    [normalizers.NFD(), normalizers.Lowercase(), normalizers.StripAccents()]
)
NORMALIZERS = {"Sequence": OF_THREE, BERTS: normalizers.BertNormalizer(lowercase=True)}


def differing(folder: Path, theirs: HuggingFaceTokenizer, texts: list[str]) -> list[str]:
    with quiet():
        own = OpenAIGPTTokenizerFast.from_pretrained(folder, local_files_only=True)
    ids = [own(text, add_special_tokens=False)["input_ids"] for text in texts]
    found = [list(encoding.ids) for encoding in theirs.encode_batch(texts)]
    return [text for text, one, other in zip(texts, ids, found, strict=True) if one != other]


def test_the_versions_own_tokenizer_agrees_with_the_table(
    small_vocabulary: Path, theirs: HuggingFaceTokenizer
) -> None:
    """Its ids are the reference's, except on strange strings with another normalizer."""
    bert = compat.tokenizer_normalizer() == BERTS
    assert not differing(small_vocabulary, theirs, PLAIN)
    assert differing(small_vocabulary, theirs, STRANGE) == ([] if bert else STRANGE)
    assert theirs.replaced == ("" if bert else "Sequence")


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    taken = OpenAIGPTTokenizerFast.from_pretrained

    def change(name: str) -> None:
        def another(*arguments: object, **named: object) -> OpenAIGPTTokenizerFast:
            tokenizer = taken(*arguments, **named)
            tokenizer.backend_tokenizer.normalizer = NORMALIZERS[name]
            return tokenizer

        monkeypatch.setattr(OpenAIGPTTokenizerFast, "from_pretrained", another)

    return change


def test_another_normalizer_is_replaced_by_berts(
    small_vocabulary: Path,
    size: int,
    theirs: HuggingFaceTokenizer,
    has: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has("Sequence")
    monkeypatch.setattr(compat, "tokenizer_normalizer", lambda: "Sequence")
    given = built(small_vocabulary, size)
    assert given.replaced == "Sequence"
    assert given.encode_batch(STRANGE + PLAIN) == theirs.encode_batch(STRANGE + PLAIN)
    assert differing(small_vocabulary, given, STRANGE + PLAIN) == STRANGE


@pytest.mark.parametrize(("own", "listed"), [("BertNormalizer", "Sequence"), ("Sequence", "Bert")])
def test_a_normalizer_outside_the_table_of_versions_is_refused(
    own: str,
    listed: str,
    small_vocabulary: Path,
    has: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has(own)
    monkeypatch.setattr(compat, "tokenizer_normalizer", lambda: listed)
    with pytest.raises(RejectedError, match=f"has a {own}, its version a {listed}"):
        built(small_vocabulary, tokens_in(small_vocabulary))


def test_loading_prints_nothing(
    small_vocabulary: Path, size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Version 4 would warn of packages for its slow tokenizer, which is not used here."""
    built(small_vocabulary, size)
    assert capfd.readouterr() == ("", "")
