"""Strings drawn from a seed: bits of every kind, joined with and without spaces."""

import random
from collections.abc import Callable, Iterator

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)

_WORDS = (
    *("the", "The", "THE", "don't", "I'm", "U.S.A.", "Mr.", "gonna", "unk", "naïve", "Straße"),
    *("İ", "ΟΔΟΣ", "ǅ", "ﬁ", "wait...", "3.14", "$5", "e.g.", "http://a.com", "me@x.org", "10am"),
)
_LITERALS = ("<unk>", "</w>", "<s>", "<unk", "unk>", "#version", "\\", "\\n", "&amp;", "&lt;")
_BLANKS = (" ", "  ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\x0b", "\x85")
_RANGES = {
    "ascii": (0x21, 0x7E),
    "latin": (0xA1, 0x24F),
    "greek and cyrillic": (0x370, 0x52F),
    "hebrew and arabic": (0x590, 0x6FF),
    "indic and thai": (0x900, 0xE7F),
    "hangul jamo": (0x1100, 0x11FF),
    "latin with marks": (0x1E00, 0x1EFF),
    "marks": (0x300, 0x36F),
    "more marks": (0x1DC0, 0x1DFF),
    "punctuation and what is not seen": (0x2000, 0x206F),
    "letterlike": (0x2100, 0x218F),
    "kana": (0x3040, 0x30FF),
    "ideographs": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "compatible forms": (0xF900, 0xFFFF),
    "control characters": (0x00, 0xA0),
    "styled letters": (0x1D400, 0x1D7FF),
    "pictures": (0x1F300, 0x1FAFF),
    "rare ideographs": (0x20000, 0x2FA1F),
    "tags": (0xE0000, 0xE01EF),
    "anything": (0x00, _LAST),
}
"""First and last code point of each kind; every kind is as likely as any other."""


def generated(count: int, *, seed: int) -> Iterator[str]:
    """Yield strings; the first ones do not depend on how many there will be.

    Args:
        count: How many.
        seed: Decides them.
    """
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")  # noqa: S311 - nothing secret depends on it
        yield "".join(_bit(draw) for _ in range(draw.randint(1, 24)))


def _bit(draw: random.Random) -> str:
    return draw.choice(_BITS)(draw)


def _character(draw: random.Random) -> str:
    first, last = draw.choice(_KINDS)
    code = draw.randint(first, last)
    return "a" if code in _SURROGATES else chr(code)


_KINDS = tuple(_RANGES.values())
_BITS: tuple[Callable[[random.Random], str], ...] = (
    _character,
    lambda draw: "".join(_character(draw) for _ in range(draw.randint(1, 4))),
    lambda draw: draw.choice(_WORDS),
    lambda draw: draw.choice(_LITERALS),
    lambda draw: draw.choice(_BLANKS),
    lambda draw: draw.choice(_WORDS) + chr(draw.randint(0x300, 0x36F)),
    lambda _draw: " ",
)
