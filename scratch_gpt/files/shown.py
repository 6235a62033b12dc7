"""Text from a file, made fit for one line of a message."""

_LONGEST = 80
_LONGEST_PATH = 4_096


def shown(text: object) -> str:
    """Return `text` as an ASCII literal on one line, cut where it is long.

    Whatever a file calls its tensors, a terminal sees no control character, no line break and no
    byte that it cannot encode.
    """
    literal = ascii(text)
    return literal if len(literal) <= _LONGEST else f"{literal[:_LONGEST]}... (cut)"


def one_line(text: object) -> str:
    """Return a path or a message as it is; as a literal where it holds anything unprintable.

    It is cut where no path can be as long.
    """
    line = str(text)[:_LONGEST_PATH]
    return line if line.isprintable() else ascii(line)
