"""Text made fit for one line of a message."""

from pathlib import Path

import pytest

from scratch_gpt.errors import one_line, quote


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("h.0.attn", "'h.0.attn'"),
        ("two\nlines\x1b[31m", r"'two\nlines\x1b[31m'"),
        ("\ud800é\u202e", r"'\ud800\xe9\u202e'"),
        ([1, 2], "[1, 2]"),
    ],
)
def test_shows_a_literal_of_ascii(text: object, expected: str) -> None:
    assert expected == quote(text)


def test_cuts_what_is_long() -> None:
    assert quote(10_000 * "x") == "'" + 79 * "x" + "... (cut)"


def test_a_path_is_shown_as_typed_where_it_can_be() -> None:
    assert one_line(Path("/home/my models/é")) == "/home/my models/é"
    assert one_line(Path("/data/a\nb\x1b\u202eé\udcff")) == r"/data/a\nb\x1b\u202e" + r"é\udcff"


def test_a_line_is_no_longer_than_a_path() -> None:
    assert len(one_line("x" * 1_000_000)) == 4096
