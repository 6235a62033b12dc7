"""Canonical decomposition and the Rust tokenizer's: every syllable, every order of marks."""

import random
from collections.abc import Callable
from types import ModuleType

import pytest

from scratch_gpt.tokenizer import unicode
from scratch_gpt.tokenizer.unicode import character_classes, decompose, is_order_free

pytestmark = pytest.mark.usefixtures("unchecked")


def nfd(text: str) -> str:
    return decompose(text, range(len(text)))[0]


def runs_of_marks(count: int) -> list[str]:
    """Return letters followed by marks of all classes, in every disorder."""
    source = random.Random(11)  # noqa: S311 - a test repeats itself
    classes = character_classes()
    marks = [*map(chr, classes.combining), *("\u0344", "\U0001d15e", "\U0001d160", "é", "ṩ") * 9]
    letters = ["a", "각", "\u1100", "\u0e01", ""]
    return [
        source.choice(letters) + "".join(source.choices(marks, k=source.randint(1, 7)))
        for _ in range(count)
    ]


@pytest.mark.reference
def test_every_hangul_syllable(rust: ModuleType) -> None:
    text = " ".join(chr(code) for code in range(0xABFF, 0xD7A5))
    assert rust.step("nfd")(text) == nfd(text)


@pytest.mark.reference
def test_marks_are_sorted_by_class(rust: ModuleType) -> None:
    texts = runs_of_marks(3_000)
    assert [rust.step("nfd")(text) for text in texts] == [nfd(text) for text in texts]


@pytest.mark.reference
def test_unsorted_marks_are_found(rust: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = runs_of_marks(300)
    monkeypatch.setattr(unicode, "_ordered", lambda parts: parts)
    assert sum(rust.step("nfd")(text) != nfd(text) for text in texts) > 100


def test_the_place_of_a_mark_is_the_next_one() -> None:
    """Positions do not move with reordered characters; an added character shares its origin's."""
    assert decompose("é", [4]) == ("e\u0301", [4, 4])
    assert decompose("a\u0301\u0323", [3, 4, 9]) == ("a\u0323\u0301", [3, 4, 9])
    assert decompose("각b", [0, 1]) == ("\u1100\u1161\u11a8b", [0, 0, 0, 1])


def test_text_whose_order_may_show_is_found() -> None:
    assert is_order_free("naïve e\u0301 각 \u0e01\u0e48")
    assert not any(map(is_order_free, ("\u302e", "a\U0001d15e", "\u08d4", "\U0001e94a")))


@pytest.mark.reference
def test_order_free_text_may_be_taken_character_by_character(
    drawn_texts: Callable, rust: ModuleType
) -> None:
    """Without its accents it is the same whole and in pieces; other text need not be."""
    strip = rust.step("strip_accents")
    texts = [*drawn_texts(5, 1_000), *runs_of_marks(1_000)]
    pieced = {text: "".join(strip(character) for character in text) for text in texts}
    differing = [text for text in texts if strip(text) != pieced[text]]
    assert differing
    assert not any(map(is_order_free, differing))
