"""The cause of a difference: the shortest string, the step and the character."""

from collections.abc import Callable

import pytest

from parity.checks.tokens.diagnosis import cause_of, part, shortest
from parity.checks.tokens.faults import inject
from parity.checks.tokens.runners import CandidateTokenizer, ReferenceTokenizer
from reference.huggingface_tokenizer import Encoding


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
    assert expected == shortest(text, does_it)


def test_a_long_text_takes_few_tries() -> None:
    tried: list[str] = []

    def does_it(text: str) -> bool:
        tried.append(text)
        return "X" in text

    assert shortest("a" * 7_000 + "X" + "b" * 3_000, does_it) == "X"
    assert len(tried) < 100


def test_an_input_of_very_many_characters_is_not_shortened_for_minutes() -> None:
    """Each of two texts far apart is needed; every trial reads all the others."""
    tried = 0

    def does_it(texts: tuple[str, ...]) -> bool:
        nonlocal tried
        tried += sum(map(len, texts))
        return {"first", "last"} <= {*texts}

    found = shortest(("first", *["word " * 1_000] * 200, "last"), does_it)
    assert does_it(found)
    assert len(found) < 202
    assert tried < 5_000_000


def test_other_places_are_a_difference() -> None:
    one = Encoding((1, 2), ((0, 1), (1, 2)))
    assert part(one, Encoding((1, 2), ((0, 1), (1, 3))))
    assert part(one, Encoding((1, 3), None))
    assert not part(one, Encoding((1, 2), None))


@pytest.mark.parametrize(
    ("name", "text", "step", "shortest", "character"),
    [
        ("accents-kept", "They met in the Café, and left", "accents", "'\\xe9'", "U+00E9"),
        ("case-kept", "and then Xerxes came", "lower case", "'X'", "U+0058"),
        ("cleaning-skipped", "some in\u200bvisible", "cleaning", "'n\\u200bv'", "U+200B"),
        ("cjk-joined", "the活 of", "CJK", "'e\\u6d3b'", "U+6D3B"),
        ("unk-split", "an <unk> here", "special token", "'<unk>'", "U+003C"),
        ("places-in-bytes", "äh then", "places", "'\\xe4'", "U+00E4"),
    ],
)
def test_a_difference_is_cut_down(  # noqa: PLR0913 - a table's columns, and both sides
    name: str,
    text: str,
    step: str,
    shortest: str,
    character: str,
    ours: CandidateTokenizer,
    theirs: ReferenceTokenizer,
) -> None:
    side = inject(ours.tokenizer, name)
    cause = cause_of(text, side, theirs)
    assert (step, shortest, character) == (cause.step, cause.text, cause.character[:6])
