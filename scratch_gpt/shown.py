"""Text from a file, made fit for one line of a message."""

_LONGEST = 80


def shown(text: object) -> str:
    """Return `text` as an ASCII literal on one line, cut where it is long.

    Whatever a file calls its tensors, a terminal sees no control character, no line break and no
    byte that it cannot encode.
    """
    literal = ascii(text)
    return literal if len(literal) <= _LONGEST else f"{literal[:_LONGEST]}... (cut)"


def shown_path(path: object) -> str:
    """Return the path as it is typed; where it holds anything unprintable, as a literal."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
