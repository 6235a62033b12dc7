"""The shortest string that still does it."""

from collections.abc import Callable

import pytest

from parity.checks.tokens.diagnosis import shortest


@pytest.mark.parametrize(
    ("text", "does_it", "expected"),
    [
        ("abc" * 100 + "X" + "def" * 100, lambda text: "X" in text, "X"),
        ("a--b--c", lambda text: text.count("-") >= 3, "---"),
        ("x", lambda _text: True, "x"),
        ("one two", lambda text: " " in text and "w" in text, " w"),
        ("abab", lambda text: len(text) % 2 == 0, "ab"),
    ],
    ids=["one letter", "three of four", "nothing to leave out", "order stays", "pairs"],
)
def test_what_is_not_needed_is_left_out(
    text: str, does_it: Callable[[str], bool], expected: str
) -> None:
    """Each letter that is left is needed, and the letters keep their order."""
    assert expected == shortest(text, does_it)


def test_a_long_text_takes_few_tries() -> None:
    """A text of 10,000 letters is not tried letter by letter."""
    tried: list[str] = []

    def does_it(text: str) -> bool:
        tried.append(text)
        return "X" in text

    assert shortest("a" * 7_000 + "X" + "b" * 3_000, does_it) == "X"
    assert len(tried) < 100
