"""Tokens as text, one at a time, and stop strings."""

import itertools
from pathlib import Path
from typing import SupportsIndex

import pytest

from scratch_gpt.generation.text_stream import Spelling, Stops, visible
from scratch_gpt.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.mark.parametrize(
    "text", ["a", "the words, and (more) of them.", "zqzqzq x", "it's 3.14159 !"], ids=repr
)
def test_joined_parts_equal_the_decoded_text(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    for start in range(len(ids)):
        spelling = Spelling(lambda n: tokenizer.tokens([n])[0], after_text=start > 0)
        # The text before counts as whole words: a cut within a word gives a space.
        ends_word = start == 0 or tokenizer.tokens(ids[:start])[-1].endswith("</w>")
        actual = "".join(map(spelling.spelled, ids[start:]))
        expected = tokenizer.decode(ids)[len(tokenizer.decode(ids[:start])) :]
        assert actual == expected if ends_word else actual == " " + expected


@pytest.mark.parametrize(
    ("stops", "expected", "found"),
    [
        (["fox"], "the quick brown ", True),
        (["quick", "brown"], "the ", True),
        (["brown", "quick"], "the ", True),
        (["k b"], "the quic", True),
        (["the"], "", True),
        (["fog", "fox j"], "the quick brown ", True),
        (["fog"], "the quick brown fox jumps", False),
        (["jumpsx"], "the quick brown fox jumps", False),
        (["s"], "the quick brown fox jump", True),
        ([], "the quick brown fox jumps", False),
    ],
    ids=str,
)
def test_a_stop_string_ends_a_text_exactly(stops: list[str], expected: str, found: object) -> None:
    """However the text is split into parts, it ends before the first stop string."""
    whole = "the quick brown fox jumps"
    for places in itertools.combinations(range(1, len(whole)), 2):
        watched = Stops(stops)
        parts = [whole[a:b] for a, b in itertools.pairwise((0, *places, len(whole)))]
        given = "".join([*map(watched.passed, parts), watched.rest()])
        assert (expected, found) == (given, watched.found)


def test_final_text_is_not_held_back() -> None:
    watched = Stops(["abc"])
    given = [watched.passed(part) for part in ("xa", "b", "bab", "d")]
    assert given == ["x", "", "abb", "abd"]


class Counted(str):
    """A text that counts the characters of its slices."""

    __slots__ = ()
    copied = 0

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        part = super().__getitem__(key)
        Counted.copied += len(part)
        return part


def test_a_long_stop_string_costs_no_more_than_the_text() -> None:
    """A hundred thousand characters have ten gigabytes of beginnings."""
    watched = Stops([Counted("ab" * 50_000)])
    given = "".join([*(watched.passed(part) for part in ("xab", "ab", "c")), watched.rest()])
    assert given == "xababc"
    assert 0 < Counted.copied < 100


def test_an_empty_stop_string_is_rejected() -> None:
    with pytest.raises(ValueError, match="stop is ''"):
        Stops(["a", ""])


def test_control_characters_are_replaced() -> None:
    assert visible("a\x1b[31m\nÄ\r\x07") == "a\ufffd[31m\nÄ\ufffd\ufffd"
