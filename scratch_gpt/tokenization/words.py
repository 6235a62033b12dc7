"""The ways of splitting a text into words, by name; pairs are merged within a word only."""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

UNKNOWN = "<unk>"
"""The token of every character that the vocabulary does not have; its id is 0 in the release."""


class Word(NamedTuple):
    """A word and where it comes from.

    Attributes:
        text: The characters to be merged.
        starts: For each of them, where in the text given what it was made of begins.
        ends: And where that ends.
    """

    text: str
    starts: list[int]
    ends: list[int]


@runtime_checkable
class Splitting(Protocol):
    """A way of splitting text into words."""

    keeps_unknown: bool
    """Whether a literal `<unk>` in a text is the unknown token, or five characters as others."""

    def words(self, text: str) -> list[str]:
        """Return the words in order; none is empty."""
        ...

    def located(self, text: str) -> list[Word]:
        """Return the same words, and where each of their characters comes from."""
        ...


def _bert() -> Splitting:
    from scratch_gpt.tokenization.bert import BertSplitting

    return BertSplitting()


def _original() -> Splitting:
    from scratch_gpt.tokenizer_original import OriginalSplitting

    return OriginalSplitting()


SPLITTINGS: dict[str, Callable[[], Splitting]] = {"bert": _bert, "original": _original}
"""What makes each way of splitting: `bert` is what Hugging Face's tokenizer does, `original` what
the released model was trained with (it needs ftfy and spaCy)."""


def splitting_named(name: str) -> Splitting:
    """Return a way of splitting.

    Raises:
        ValueError: None has that name.
        ModuleNotFoundError: It needs a package that is not installed.
    """
    if name not in SPLITTINGS:
        known = " or ".join(map(repr, SPLITTINGS))
        raise ValueError(f"there is no splitting {name!r}; splitting must be {known}")
    return SPLITTINGS[name]()
