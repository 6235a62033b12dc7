"""Text to ids and back, offsets, rejected inputs, and the cache of words."""

import itertools
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from reference.published_token_ids import PUBLISHED
from scratch_gpt import Tokenizer
from scratch_gpt.errors import TextError
from scratch_gpt.tokenizer import tokenizer
from scratch_gpt.tokenizer.tokenizer import check_ids, check_text, check_texts


def test_the_released_vocabulary_gives_every_published_id(released: Path) -> None:
    rows = [row for row in PUBLISHED if row.huggingface is not None]
    assert len(rows) > 50
    found = Tokenizer.from_pretrained(released)
    assert [row.huggingface for row in rows] == found.encode_batch(row.text for row in rows)


def test_the_release_has_its_size_and_digest(released: Path) -> None:
    """A data set is checked by this digest of tokens and merges."""
    found = Tokenizer.from_pretrained(released)
    assert found.vocab_size == 40_478
    expected = ["<unk>", ".", ".</w>", "bachelorette</w>", "\n</w>"]
    assert expected == found.tokens([0, 1, 239, 40_476, 40_477])
    assert found.digest == "4d977d745e027348785cbbdf97a206c6247f6489a51382b3a972dfd0233313f3"


def test_decoded_text_is_lower_case_with_spaced_words(ours: Tokenizer) -> None:
    expected = "calm , he wrote ; the keeper didn ' t ."
    assert expected == ours.decode(ours.encode("Calm, he WROTE;\nthe keeper didn't."))


def test_the_unknown_token_has_no_space_after_it() -> None:
    small = Tokenizer.train(["a a"], merges=0)
    assert small.decode(small.encode("a <unk> a 字 a")) == "a <unk>a <unk>a"
    assert small.decode([]) == ""


def test_the_small_vocabulary_has_its_merges(ours: Tokenizer) -> None:
    vocabulary = ours.vocabulary
    assert len(vocabulary.merges) == 500
    assert vocabulary.tokens[-500:] == tuple(one + two for one, two in vocabulary.merges)
    assert ours.vocab_size == len(vocabulary.tokens)


def test_empty_and_removed_text_has_no_ids(ours: Tokenizer) -> None:
    assert ours.encode("") == ours.encode(" \n\x00\ufeff") == []
    assert ours.encode_with_offsets("\u200b") == ([], [])
    assert ours.encode_batch([]) == []


def test_a_batch_is_its_texts(ours: Tokenizer) -> None:
    texts = ("The cat.", "", "A lamp")
    assert ours.encode_batch(iter(texts)) == [ours.encode(text) for text in texts]


def test_offsets_are_of_the_text_as_given(ours: Tokenizer) -> None:
    """Removed characters count, a literal `<unk>` is one span, and pieces of a word adjoin."""
    text = "\ufeffThe  <unk>lamp, É\u0301!"
    ids, offsets = ours.encode_with_offsets(text)
    assert ids == ours.encode(text)
    pieces = [text[start:end].lower() for start, end in offsets]
    assert pieces == ["the", "<unk>", "lamp", ",", "é", "!"]
    ids, offsets = ours.encode_with_offsets("lighthousekeeping")
    assert len(ids) > 1
    assert (offsets[0][0], offsets[-1][1]) == (0, len("lighthousekeeping"))
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(offsets))


def test_strings_and_ids_of_numpy_and_torch_are_accepted(ours: Tokenizer) -> None:
    assert check_text(np.str_("naïve")) == "naïve"
    ids = ours.encode(np.str_("the cat"))
    assert ids == ours.encode("the cat")
    for same in (ids, np.array(ids), torch.tensor(ids)):
        assert ids == check_ids(same, ours.vocab_size)
        assert ours.decode(same) == "the cat"


@pytest.mark.parametrize("text", [b"a", None, 7, ["a"], [["a"]], 1.5], ids=repr)
def test_a_text_of_another_type_is_rejected(text: object) -> None:
    kind = type(text).__name__
    with pytest.raises(TypeError, match=f"text must be a str, got {kind}") as caught:
        check_text(text)
    assert ("decode" in str(caught.value)) == isinstance(text, bytes)


@pytest.mark.parametrize(
    ("text", "place"),
    [("\ud800", 0), ("ab\udfff", 2), (b"abc\xff".decode("utf-8", "surrogateescape"), 3)],
    ids=["first", "last", "surrogateescape"],
)
def test_a_surrogate_is_rejected_with_its_position(text: str, place: int, ours: Tokenizer) -> None:
    with pytest.raises(TextError, match=f"not valid Unicode at character {place}") as caught:
        check_text(text, "texts[3]")
    assert (caught.value.where, "encoding" in caught.value.fix) == ("texts[3]", True)
    assert f"U+{ord(text[place]):04X}" in caught.value.what
    for encode in (ours.encode, ours.encode_with_offsets):
        with pytest.raises(TextError, match=f"at character {place}"):
            encode(text)
    with pytest.raises(TextError, match=r"texts\[1\]"):
        ours.encode_batch(["a", text])
    with pytest.raises(TextError, match=r"texts\[0\]"):
        Tokenizer.train([text], merges=1)


def test_characters_beyond_16_bits_are_no_surrogates() -> None:
    assert check_text("\U0001f914\uffff") == "\U0001f914\uffff"


def test_one_text_is_not_several() -> None:
    with pytest.raises(TypeError, match=r"texts must be several texts, got one str; use \[text\]"):
        list(check_texts("abc"))
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, got NoneType"):
        list(check_texts(["a", None]))


@pytest.mark.parametrize("number", [-1, 500, 2**40, -(2**70)])
def test_an_id_without_a_token_is_rejected(number: int) -> None:
    small = Tokenizer.train(["a a"], merges=0)
    for read in (small.decode, small.tokens):
        with pytest.raises(ValueError, match=rf"ids\[1\] is {number}, which is not in \[0, 3\)"):
            read([0, number])
        with pytest.raises(ValueError, match=r"ids\[0\] is 3, which is not in \[0, 3\)"):
            read([3])


@pytest.mark.parametrize("given", [1.0, True, False, "1", None, [1], float("nan")], ids=repr)
def test_an_id_that_is_no_integer_is_rejected(given: object) -> None:
    """A bool is not accepted, nor is a float with a whole value."""
    kind = type(given).__name__
    with pytest.raises(TypeError, match=rf"ids\[2\] must be an integer, got .*\({kind}\)"):
        check_ids([0, 1, given], 6)


def test_without_the_test_hook_wrong_types_are_named(small_vocabulary: Path) -> None:
    """In users' processes nothing checks annotations."""
    source = """
import sys
from scratch_gpt import Tokenizer
small = Tokenizer.from_pretrained(sys.argv[1])
for call in (lambda: small.encode(b"a"), lambda: small.encode(None), lambda: small.decode([0.5]),
             lambda: small.decode([True]), lambda: small.encode_batch("abc")):
    try:
        call()
    except TypeError as error:
        print(error)
"""
    command = [sys.executable, "-c", source, str(small_vocabulary)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.splitlines() == [
        "text must be a str, got bytes; decode it first, as by text.decode('utf-8')",
        "text must be a str, got NoneType",
        "ids[0] must be an integer, got 0.5 (float)",
        "ids[0] must be an integer, got True (bool)",
        "texts must be several texts, got one str; use [text]",
    ]


def test_the_pretokenizer_is_checked(ours: Tokenizer, small_vocabulary: Path) -> None:
    assert ours.pretokenizer == "huggingface"
    with pytest.raises(ValueError, match="pretokenizer must be 'huggingface' or 'original'"):
        Tokenizer.from_pretrained(small_vocabulary, pretokenizer="spaces")


def test_the_number_of_merges_is_not_negative() -> None:
    with pytest.raises(ValueError, match="merges must be at least 0, got -1"):
        Tokenizer.train(["a"], merges=-1)
    assert Tokenizer.train(["ab ab"], merges=0).encode("ab") == [1, 4]


def test_a_literal_unknown_token_is_no_training_text() -> None:
    assert Tokenizer.train(["ab<unk>ab"], merges=9).vocabulary.merges == (("a", "b</w>"),)


def test_the_cache_is_bounded(small_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So its memory is bounded; ids do not depend on what it holds."""
    small = Tokenizer.from_pretrained(small_vocabulary)
    monkeypatch.setattr(tokenizer, "_MOST_KEPT", 3)
    text = "the cat and the lamp in the dark " + "x" * 65 + " " + "y" * 64
    first, second = small.encode(text), small.encode(text)
    assert first == second
    assert 0 < len(small._pieces) <= 3
    assert max(map(len, small._pieces)) <= 64


def test_a_tokenizer_can_be_pickled_for_data_loaders(ours: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(ours))  # noqa: S301 - made here
    assert again.encode("The lamp, again.") == ours.encode("The lamp, again.")
