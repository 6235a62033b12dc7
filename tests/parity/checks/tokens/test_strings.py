"""The strings that are compared: generated, picked by hand, tokens as words."""

import dataclasses
import unicodedata

import pytest

from parity.checks.tokens.runners import ReferenceTokenizer
from parity.checks.tokens.strings import HAND_PICKED, HARD, generate_strings, words_of_tokens
from scratch_gpt import Tokenizer


def test_the_seed_decides() -> None:
    few, many = list(generate_strings(20, seed=3)), list(generate_strings(50, seed=3))
    assert few == many[:20]
    assert many != list(generate_strings(50, seed=4))


@pytest.fixture(scope="module")
def drawn() -> str:
    return "\x01".join(generate_strings(2_000, seed=0))


def test_every_kind_of_character_is_drawn(drawn: str) -> None:
    planes = {ord(character) >> 16 for character in drawn}
    kinds = {unicodedata.category(character) for character in drawn}
    missing = {"Ll", "Lu", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Cc", "Cf", "Co", "Cn"} - kinds
    assert (set(range(17)), set(), False) == (planes, missing, "Cs" in kinds)
    assert all(literal in drawn for literal in ("<unk>", "</w>", "\\", "&amp;", "\r\n"))


def test_no_string_was_picked_twice() -> None:
    assert len(set(HARD)) == len(HARD)
    assert len(set(HAND_PICKED)) == len(HAND_PICKED)
    assert len(HAND_PICKED) > len(HARD)


@pytest.mark.parametrize("kind", ["Cc", "Cf", "Mn", "Lo", "Lt", "So", "Zs", "Zl", "Zp", "Nd", "Sc"])
def test_hard_strings_have_every_kind(kind: str) -> None:
    assert kind in {unicodedata.category(character) for text in HARD for character in text}


def test_every_token_is_a_word() -> None:
    found = words_of_tokens(["<unk>", "a", "a</w>", "ab</w>", "</w>"], "</w>")
    assert found == ["<unk>\u0e01", "a\u0e01", "a", "ab"]


def test_every_merge_is_needed_by_its_token(right: Tokenizer, theirs: ReferenceTokenizer) -> None:
    vocabulary = right.vocabulary
    for place, (one, two) in enumerate(vocabulary.merges):
        merges = vocabulary.merges[:place] + vocabulary.merges[place + 1 :]
        other = Tokenizer(dataclasses.replace(vocabulary, merges=merges))
        (text,) = words_of_tokens([one + two], "</w>")
        assert tuple(other.encode(text)) != theirs.encode_batch([text])[0].ids
