"""A document in pieces that can be tokenized one by one.

A piece ends behind a line break. Words never reach over one, so the tokens of the pieces, with
what a line break costs between them, are the tokens of the whole. Only a line that is longer
than a piece is cut at a space.

Where a piece ends depends on nothing but where it begins: whoever begins again at the start of
any piece gets the pieces that would have followed.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from scratch_gpt.files.file_kinds import ADVICE, kind_of
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.shown import one_line

SIZE = 1 << 18
"""Bytes that are read at a time."""

LONGEST_WORD = 1 << 24
"""Bytes in which there must be a space or a line break."""

# A space that no other white space touches: what stands at a piece's ends, a tokenizer may strip.
# The bytes are ASCII's white space, then U+0085 and U+00A0, U+1680, those of U+2000 to U+205F
# and all their neighbours up to U+207F, and U+3000.
_LONE_SPACE = re.compile(
    rb"(?<![\x00-\x20\x7f])(?<!\xc2[\x85\xa0])(?<!\xe1\x9a\x80)"
    rb"(?<!\xe2[\x80\x81][\x80-\xbf])(?<!\xe3\x80\x80) "
    rb"(?![\x00-\x20\x7f]|\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2[\x80\x81]|\xe3\x80\x80)"
)


@runtime_checkable
class Readable(Protocol):
    """Bytes in a file or in memory."""

    def read(self, size: int = -1, /) -> bytes:
        """Return the next bytes, fewer than asked for only at the end."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go to a place, and return it."""


class UndecodableTextError(CheckpointError):
    """Bytes that are no text in UTF-8."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Piece:
    """A part of a document.

    Attributes:
        start: Its place in the document, in bytes.
        content: Its bytes.
        on_new_line: Whether a line break, or nothing at all, is before it: not a space.
    """

    start: int
    content: bytes
    on_new_line: bool

    @property
    def end(self) -> int:
        """Where the next piece begins."""
        return self.start + len(self.content)


def pieces(file: Readable, where: str, *, start: int = 0, size: int = SIZE) -> Iterator[Piece]:
    """Yield the pieces of a document from `start` on.

    Args:
        file: The document.
        where: What it is called in a refusal.
        start: 0, or where a piece begins.
        size: Bytes that are read at a time: the least length of all pieces but the last.

    Raises:
        CheckpointError: There is no place to cut in `LONGEST_WORD` bytes.
    """
    file.seek(max(0, start - 1))
    before = file.read(1) if start else b""
    while content := _piece(file, where, start, size):
        yield Piece(start=start, content=content, on_new_line=before in {b"", b"\n"})
        start += len(content)
        before = content[-1:]


def decoded(piece: Piece, where: str, errors: str) -> tuple[str, int]:
    """Return the text of a piece, and how many U+FFFD in it stand for bytes that are no UTF-8.

    Args:
        piece: Cut behind an ASCII character, so no character is cut in two.
        where: What the document is called in a refusal.
        errors: `strict` refuses such bytes, `replace` puts U+FFFD in their place.

    Raises:
        UndecodableTextError: With `strict`: where the first such byte is.
    """
    try:
        return piece.content.decode("utf-8"), 0
    except UnicodeDecodeError as error:
        if errors == "strict":
            raise _undecodable(piece, where, error) from error
    text = piece.content.decode("utf-8", "replace")
    return text, text.count("\ufffd") - piece.content.count(b"\xef\xbf\xbd")


def _piece(file: Readable, where: str, start: int, size: int) -> bytes:
    """Return the bytes from `start` to the next cut; none at the end."""
    file.seek(start)
    content = b""
    while len(content) < LONGEST_WORD:
        wanted = max(size, len(content))  # twice as long each time
        more = file.read(wanted)
        content += more
        if len(more) < wanted:
            return content
        if cut := content.rfind(b"\n") + 1 or _after_last_space(content):
            return content[:cut]
    raise CheckpointError(
        f"there is no line break and no space in {len(content)} bytes from byte {start} on",
        where=one_line(where),
        fix="give text with words in it",
    )


def _after_last_space(content: bytes) -> int:
    """Return the place after the last space that stands alone, 0 where there is none."""
    at = len(content) - 1  # what follows the very last byte is not known
    while (at := content.rfind(b" ", 0, at)) > 0:
        if _LONE_SPACE.match(content, at):
            return at + 1
    return 0


def _undecodable(piece: Piece, where: str, error: UnicodeDecodeError) -> UndecodableTextError:
    place = piece.start + error.start
    what = f"byte {place} is {error.object[error.start]:#04x}, which is no UTF-8: {error.reason}"
    fix = "save it as UTF-8, or put U+FFFD in the place of such bytes with --errors replace"
    if not piece.start and (kind := kind_of(piece.content)):
        what, fix = f"{what}; it looks like {kind}", ADVICE[kind]
    if not piece.start and piece.content.startswith((b"\xff\xfe", b"\xfe\xff")):
        what = f"{what}; it looks like UTF-16"
    return UndecodableTextError(what, where=one_line(where), fix=fix)
