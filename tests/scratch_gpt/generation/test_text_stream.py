"""Tokens as text, one at a time, and stop strings."""

import itertools
from pathlib import Path

import pytest

from scratch_gpt.generation.text_stream import Spelling, Stops, visible
from scratch_gpt.tokenizer.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(small_vocabulary: Path) -> Tokenizer:
    """Return a tokenizer of 500 merges."""
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.mark.parametrize(
    "text", ["a", "the words, and (more) of them.", "zqzqzq x", "it's 3.14159 !"], ids=repr
)
def test_parts_together_are_the_decoded_text(text: str, tokenizer: Tokenizer) -> None:
    """However many tokens a word has: joined, they are what decode gives, from any place on."""
    ids = tokenizer.encode(text)
    for start in range(len(ids)):
        spelling = Spelling(lambda n: tokenizer.tokens([n])[0], after_text=start > 0)
        # What stands before is taken for whole words; a cut within one shows as a space.
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
def test_a_stop_string_ends_a_text_exactly(
    stops: list[str],
    expected: str,
    found: bool,  # noqa: FBT001
) -> None:
    """However the text is cut into parts, it ends where the first stop string begins."""
    whole = "the quick brown fox jumps"
    for places in itertools.combinations(range(1, len(whole)), 2):
        watched = Stops(stops)
        parts = [whole[a:b] for a, b in itertools.pairwise((0, *places, len(whole)))]
        given = "".join([*map(watched.passed, parts), watched.rest()])
        assert (expected, found) == (given, watched.found)


def test_nothing_is_held_back_that_is_sure() -> None:
    """Only what could be a stop string's beginning waits, and comes when it is none."""
    watched = Stops(["abc"])
    given = [watched.passed(part) for part in ("xa", "b", "bab", "d")]
    assert given == ["x", "", "abb", "abd"]


def test_an_empty_stop_string_is_refused() -> None:
    """It would end every text before it began."""
    with pytest.raises(ValueError, match="stop is ''"):
        Stops(["a", ""])


def test_what_a_terminal_would_obey_is_not_shown() -> None:
    """Escape, bell and a cursor's return are replaced; letters and line ends are not."""
    assert visible("a\x1b[31m\nÄ\r\x07") == "a\ufffd[31m\nÄ\ufffd\ufffd"
