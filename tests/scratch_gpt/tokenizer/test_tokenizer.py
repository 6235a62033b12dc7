"""The tokenizer as a whole: text to ids and back, places, what is refused, what is remembered."""

import itertools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from reference.published_token_ids import PUBLISHED
from scratch_gpt import Tokenizer
from scratch_gpt.errors import TextError
from scratch_gpt.tokenizer import tokenizer


@pytest.fixture
def small(small_vocabulary: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.fixture(scope="module")
def released() -> Path:
    folder = os.environ.get("GPT1_VOCABULARY")
    if not folder:
        pytest.skip("not run: GPT1_VOCABULARY does not name the released vocabulary's folder")
    return Path(folder)


def test_every_published_id_is_met(released: Path) -> None:
    rows = [row for row in PUBLISHED if row.huggingface is not None]
    assert len(rows) > 50
    found = Tokenizer.from_pretrained(released)
    assert {row.text: row.huggingface for row in rows} == {
        row.text: found.encode(row.text) for row in rows
    }


def test_the_release_has_its_size_and_digest(released: Path) -> None:
    """A data set is checked by this digest of tokens and merges."""
    found = Tokenizer.from_pretrained(released)
    assert found.vocab_size == 40_478
    assert found.tokens([0, 1, 239, 40_476, 40_477]) == [
        *("<unk>", ".", ".</w>", "bachelorette</w>", "\n</w>"),
    ]
    assert found.digest == "4d977d745e027348785cbbdf97a206c6247f6489a51382b3a972dfd0233313f3"


def test_text_comes_back_in_lower_case_with_words_apart(small: Tokenizer) -> None:
    expected = "calm , he wrote ; the keeper didn ' t ."
    assert expected == small.decode(small.encode("Calm, he WROTE;\nthe keeper didn't."))


def test_the_unknown_token_has_no_space_after_it() -> None:
    small = Tokenizer.train(["a a"], merges=0)
    assert small.decode(small.encode("a <unk> a 字 a")) == "a <unk>a <unk>a"
    assert small.decode([]) == ""


def test_the_small_vocabulary_has_its_merges(small: Tokenizer) -> None:
    vocabulary = small.vocabulary
    assert len(vocabulary.merges) == 500
    assert vocabulary.tokens[-500:] == tuple(one + two for one, two in vocabulary.merges)
    assert small.vocab_size == len(vocabulary.tokens)


def test_nothing_has_no_ids(small: Tokenizer) -> None:
    assert small.encode("") == small.encode(" \n\x00\ufeff") == []
    assert small.encode_with_offsets("\u200b") == ([], [])
    assert small.encode_batch([]) == []


def test_a_batch_is_its_texts(small: Tokenizer) -> None:
    texts = ("The cat.", "", "A lamp")
    assert small.encode_batch(iter(texts)) == [small.encode(text) for text in texts]


def test_places_are_of_the_text_as_given(small: Tokenizer) -> None:
    """Removed characters count, a literal `<unk>` is one span, and pieces of a word adjoin."""
    text = "\ufeffThe  <unk>lamp, É\u0301!"
    ids, offsets = small.encode_with_offsets(text)
    assert ids == small.encode(text)
    pieces = [text[start:end].lower() for start, end in offsets]
    assert pieces == ["the", "<unk>", "lamp", ",", "é", "!"]
    ids, offsets = small.encode_with_offsets("lighthousekeeping")
    assert len(ids) > 1
    assert offsets[0][0] == 0
    assert offsets[-1][1] == len("lighthousekeeping")
    assert all(end == start for (_, end), (start, _) in itertools.pairwise(offsets))


def test_a_text_of_numpy_is_a_text(small: Tokenizer) -> None:
    ids = small.encode(np.str_("the cat"))
    assert ids == small.encode("the cat")
    assert small.decode(np.array(ids)) == "the cat"


def test_half_a_character_is_refused_wherever_text_is_taken(small: Tokenizer) -> None:
    with pytest.raises(TextError, match="at character 4"):
        small.encode("the \ud83e")
    with pytest.raises(TextError, match="at character 0"):
        small.encode_with_offsets("\udfff")
    with pytest.raises(TextError, match=r"texts\[1\]"):
        small.encode_batch(["a", "\ud800"])
    with pytest.raises(TextError, match=r"texts\[0\]"):
        Tokenizer.train(["\ud800"], merges=1)


@pytest.mark.parametrize("number", [-1, 2**40])
def test_an_id_of_no_token_is_refused_wherever_ids_are_taken(number: int, small: Tokenizer) -> None:
    for read in (small.decode, small.tokens):
        with pytest.raises(ValueError, match=rf"ids\[1\] is {number}, which is not in"):
            read([0, number])
        with pytest.raises(ValueError, match=rf"ids\[0\] is {small.vocab_size}"):
            read([small.vocab_size])


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
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    assert told == [
        "text must be a str, got bytes; decode it first, as by text.decode('utf-8')",
        "text must be a str, got NoneType",
        "ids[0] must be an integer, got 0.5 (float)",
        "ids[0] must be an integer, got True (bool)",
        "texts must be several texts, got one str; use [text]",
    ]


def test_there_are_two_splittings(small_vocabulary: Path) -> None:
    assert Tokenizer.from_pretrained(small_vocabulary).pretokenizer == "huggingface"
    with pytest.raises(ValueError, match="pretokenizer must be 'huggingface' or 'original'"):
        Tokenizer.from_pretrained(small_vocabulary, pretokenizer="spaces")


def test_merges_are_not_fewer_than_none() -> None:
    with pytest.raises(ValueError, match="merges must be at least 0, got -1"):
        Tokenizer.train(["a"], merges=-1)
    assert Tokenizer.train(["ab ab"], merges=0).encode("ab") == [1, 4]


def test_a_written_unknown_token_teaches_nothing() -> None:
    assert Tokenizer.train(["ab<unk>ab"], merges=9).vocabulary.merges == (("a", "b</w>"),)


def test_few_words_are_kept_and_no_long_one(
    small: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the memory of the cache is bounded; ids do not depend on what it holds."""
    monkeypatch.setattr(tokenizer, "_MOST_KEPT", 3)
    text = "the cat and the lamp in the dark " + "x" * 65 + " " + "y" * 64
    first, second = small.encode(text), small.encode(text)
    assert first == second
    assert 0 < len(small._pieces) <= 3
    assert max(map(len, small._pieces)) <= 64


def test_a_tokenizer_travels_to_another_process(small: Tokenizer) -> None:
    again = pickle.loads(pickle.dumps(small))  # noqa: S301 - made here
    assert again.encode("The lamp, again.") == small.encode("The lamp, again.")
