"""Strings drawn from a seed, and those picked by hand."""

import unicodedata

import pytest

from parity.checks.tokens.strings import HAND_PICKED, HARD, generate_strings


def test_the_seed_decides() -> None:
    """The same seed gives the same strings, however many follow; another gives others."""
    few, many = list(generate_strings(20, seed=3)), list(generate_strings(50, seed=3))
    assert few == many[:20]
    assert many != list(generate_strings(50, seed=4))


@pytest.fixture(scope="module")
def drawn() -> str:
    """Return 2,000 strings as one."""
    return "\x01".join(generate_strings(2_000, seed=0))


def test_every_kind_of_character_is_drawn(drawn: str) -> None:
    """Every plane that has characters, every category but surrogates, and the literals."""
    planes = {ord(character) >> 16 for character in drawn}
    kinds = {unicodedata.category(character) for character in drawn}
    missing = {"Ll", "Lu", "Lt", "Lm", "Lo", "Mn", "Mc", "Nd", "Cc", "Cf", "Co", "Cn"} - kinds
    assert (set(range(17)), set(), False) == (planes, missing, "Cs" in kinds)
    assert all(literal in drawn for literal in ("<unk>", "</w>", "\\", "&amp;", "\r\n"))


def test_no_string_was_picked_twice() -> None:
    """The table has each string once, and the published ones besides its own."""
    assert len(set(HARD)) == len(HARD)
    assert len(set(HAND_PICKED)) == len(HAND_PICKED)
    assert len(HAND_PICKED) > len(HARD)


@pytest.mark.parametrize("kind", ["Cc", "Cf", "Mn", "Lo", "Lt", "So", "Zs", "Zl", "Zp", "Nd", "Sc"])
def test_hard_strings_have_every_kind(kind: str) -> None:
    """Each category that a tokenizer treats in its own way is there."""
    assert kind in {unicodedata.category(character) for text in HARD for character in text}
