"""What a tokenizer may be given: Unicode text to encode, ids of tokens to decode."""

import operator
from collections.abc import Iterable, Iterator
from typing import Any

from scratch_gpt.tokenization.refusal import TextError


def checked_text(text: object, name: str = "text") -> str:
    """Return the text.

    Args:
        text: What was given.
        name: What the caller calls it.

    Raises:
        TypeError: It is no `str`.
        TextError: It holds a surrogate: half a character, which stands for a byte that could not
            be decoded or comes from a broken JSON escape.
    """
    if not isinstance(text, str):
        hint = "; decode it first, as by text.decode('utf-8')" if isinstance(text, bytes) else ""
        raise TypeError(f"{name} must be a str, got {type(text).__name__}{hint}")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise _no_unicode(text, error.start, name) from None
    return text


def _no_unicode(text: str, place: int, name: str) -> TextError:
    code = f"U+{ord(text[place]):04X}"
    return TextError(
        f"not valid Unicode at character {place}: {code} is a surrogate, half a character",
        where=name,
        fix="read it with the right encoding, and without errors='surrogateescape'",
    )


def checked_texts(texts: Iterable[object]) -> Iterator[str]:
    """Give each text, checked.

    Raises:
        TypeError: There is one text where several are wanted, or one of them is no `str`.
        TextError: One holds a surrogate.
    """
    if isinstance(texts, str | bytes):
        raise TypeError(f"texts must be several texts, got one {type(texts).__name__}; use [text]")
    for number, text in enumerate(texts):
        yield checked_text(text, f"texts[{number}]")


def checked_ids(ids: Iterable[Any], bound: int) -> list[int]:
    """Return the ids as whole numbers.

    Args:
        ids: Whole numbers of Python, NumPy or torch.
        bound: The first number that is no token's.

    Raises:
        TypeError: One of them is no whole number, a truth value for instance.
        ValueError: One of them is not in [0, bound).
    """
    checked = []
    for place, given in enumerate(ids):
        try:
            number = operator.index(given)
        except TypeError:
            number = None
        if number is None or isinstance(given, bool):
            kind = type(given).__name__
            raise TypeError(f"ids[{place}] must be a whole number, got {given!r} ({kind})")
        if not 0 <= number < bound:
            raise ValueError(f"ids[{place}] is {number}, which is not in [0, {bound})")
        checked.append(number)
    return checked
