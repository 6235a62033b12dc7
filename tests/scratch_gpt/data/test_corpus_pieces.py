"""Documents in pieces: complete, and cut between words."""

import io
import re

import pytest

from scratch_gpt.data import corpus as module
from scratch_gpt.data.corpus import Piece, UndecodableTextError, decoded, pieces
from scratch_gpt.errors import CheckpointError

TEXT = "One line.\r\nAnother,\tlonger one \u2014 a\u00f1o.\n\n\n  Third \n" * 7 + "the end"


def cut(content: bytes, *, size: int) -> list[Piece]:
    return list(pieces(io.BytesIO(content), "a.txt", size=size))


@pytest.mark.parametrize("size", [1, 2, 7, 64, len(TEXT.encode()), 1_000])
def test_the_pieces_are_the_whole(size: int) -> None:
    """One after the other, each but the last at least as long as asked or cut at a line's end."""
    found = cut(TEXT.encode(), size=size)
    assert TEXT.encode() == b"".join(piece.content for piece in found)
    place = 0
    for piece in found:
        assert place == piece.start
        place = piece.end
    assert all(piece.content.endswith((b"\n", b" ")) for piece in found[:-1])


def test_a_line_is_cut_only_where_it_is_longer_than_a_piece() -> None:
    content = b"a b c d\ne f g h i j k l m\nn o\n"
    found = [piece.content for piece in cut(content, size=10)]
    assert found == [b"a b c d\n", b"e f g h ", b"i j k l m\n", b"n o\n"]
    on_new_line = [piece.on_new_line for piece in cut(content, size=10)]
    assert on_new_line == [True, True, False, True]


@pytest.mark.parametrize(
    "space",
    [
        *(" ", "\t", "\n", "\r", "\v", "\f", "\x1c", "\x1f", "\x85", "\xa0", "\u1680"),
        *("\u2000", "\u200a", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000"),
    ],
    ids=ascii,
)
def test_no_cut_where_other_white_space_is(space: str) -> None:
    """Such a cut could cost what a tokenizer strips from the ends of a text."""
    assert space.isspace()
    for run in (f" {space}", f"{space} "):
        content = f"a b{run}c.d.e.f".encode()
        cuts = module._after_last_space(content)
        assert cuts == 2


@pytest.mark.parametrize(
    "letter", ["x", "~", "!", "\xe9", "\xff", "\u05d0", "\u4e00", "\U0001f600"]
)
def test_a_cut_between_any_other_characters(letter: str) -> None:
    content = f"{letter} {letter}".encode()
    assert module._after_last_space(content) == len(letter.encode()) + 1


def test_a_long_word_is_read_to_its_end() -> None:
    word = b"x" * 1_000_000
    found = [piece.content for piece in cut(word + b" y\n" + word, size=1_000)]
    assert found == [word + b" y\n", word]


def test_what_has_no_end_is_no_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONGEST_WORD", 1_000)
    assert cut(b"a\n" + b"x" * 990, size=10)
    with pytest.raises(
        CheckpointError, match=r"no line break and no space in \d+ bytes from byte 2"
    ):
        cut(b"a\n" + b"x" * 9_000, size=10)


def test_nothing_has_no_pieces() -> None:
    assert not cut(b"", size=10)


@pytest.mark.parametrize("size", [1, 4, 100])
@pytest.mark.parametrize(
    ("bad", "at"),
    [
        (b"\xff", 0),
        (b"\xc3", 0),
        (b"\xe2\x80", 0),
        (b"\xed\xa0\x80", 0),
        (b"\xc0\xaf", 0),
        (b"\xc3\xa9\x80", 2),
    ],
    ids=repr,
)
def test_the_byte_that_is_no_text_is_told(bad: bytes, at: int, size: int) -> None:
    content = "gut, año\n".encode() * 3
    found = cut(content + bad + b"\nmore\n", size=size)
    place = len(content) + at
    with pytest.raises(UndecodableTextError, match=f"^byte {place} is 0x.*no UTF-8") as refusal:
        [decoded(piece, "a.txt", "strict") for piece in found]
    assert "--errors replace" in refusal.value.fix


@pytest.mark.parametrize("size", [1, 4, 100])
def test_replaced_bytes_are_counted(size: int) -> None:
    """As many as Python replaces in the whole; a U+FFFD of the text itself is not counted."""
    content = b"a \xff b \xe2\x80\nc \xef\xbf\xbd d \xef\xbf \xf0\x9f\x98\n\xed\xa0\x80" + b"\xef"
    both = [decoded(piece, "a.txt", "replace") for piece in cut(content, size=size)]
    expected = content.decode("utf-8", "replace")
    assert expected == "".join(text for text, _ in both)
    assert expected.count("\ufffd") - 1 == sum(marks for _, marks in both)


@pytest.mark.parametrize(
    ("content", "kind"),
    [("text".encode("utf-16"), "UTF-16"), (b"\x1f\x8b\x08", "gzip"), (b"\x80\x04\x95", "pickle")],
)
def test_what_it_is_instead_is_told(content: bytes, kind: str) -> None:
    (piece,) = cut(content, size=100)
    with pytest.raises(UndecodableTextError, match=f"it looks like .*{re.escape(kind)}"):
        decoded(piece, "a.txt", "strict")
