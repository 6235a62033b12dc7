"""What several command lines let one choose between. Nothing here imports torch."""

from enum import StrEnum


class Splitting(StrEnum):
    """The ways of splitting text into words."""

    BERT = "bert"
    ORIGINAL = "original"


class Errors(StrEnum):
    """What to do with bytes that are no UTF-8."""

    STRICT = "strict"
    REPLACE = "replace"
