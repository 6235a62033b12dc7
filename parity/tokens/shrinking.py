"""The shortest string that still does it: letters are left out until each one is needed."""

from collections.abc import Callable


def shortest(text: str, does_it: Callable[[str], bool]) -> str:
    """Return a part of the text, letters in their order, that does it, and no part of which does.

    Large parts are tried first; what is left is tried letter by letter until nothing can go.
    "No part" means no single letter fewer: two letters that go only together stay.

    Args:
        text: Something that does it.
        does_it: Whether a string still shows what is looked for.

    Source: Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input".
    """
    size = max(1, len(text) // 2)
    while True:
        text, went = _without_parts(text, size, does_it)
        if size == 1 and not went:
            return text
        size = max(1, size // 2)


def _without_parts(text: str, size: int, does_it: Callable[[str], bool]) -> tuple[str, bool]:
    """Return the text without every part of a size that can go, and whether any went."""
    start, went = 0, False
    while start < len(text):
        shorter = text[:start] + text[start + size :]
        if shorter and does_it(shorter):
            text, went = shorter, True
        else:
            start += size
    return text, went
