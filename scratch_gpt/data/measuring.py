"""What documents are before anything is made of them: each is read once, from end to end."""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

from scratch_gpt.data.corpus import Document
from scratch_gpt.data.manifest import Source
from scratch_gpt.data.pieces import decoded, pieces
from scratch_gpt.data.refusal import TooLittleTextError
from scratch_gpt.files.shown import one_line


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Documents, looked through.

    Attributes:
        sources: Name, size and digest of each, in their order.
        characters: How many they have together.
        replaced: How many U+FFFD stand for bytes that are no UTF-8.
    """

    sources: tuple[Source, ...]
    characters: int
    replaced: int


def measured(
    documents: Sequence[Document], *, errors: str, progress: Callable[[str, int, int], None]
) -> Measured:
    """Look through documents, so that what is wrong with the last one is said before the first.

    Args:
        documents: In their order.
        errors: `strict` refuses bytes that are no UTF-8, `replace` counts them.
        progress: Called with (what is going on, documents done, documents in all).

    Raises:
        CheckpointError: A document cannot be read or is no text.
        TooLittleTextError: There is not a single character.
    """
    sources, characters, replaced = [], 0, 0
    for number, document in enumerate(documents):
        progress(f"looking through {document.name}", number, len(documents))
        digest, size = hashlib.sha256(), 0
        with document.opened() as file:
            for piece in pieces(file, document.where):
                text, marks = decoded(piece, document.where, errors)
                digest.update(piece.content)
                size, characters, replaced = piece.end, characters + len(text), replaced + marks
        sources.append(Source(name=document.name, length=size, sha256=digest.hexdigest()))
    if not characters:
        raise TooLittleTextError(
            f"there is no text: {len(documents)} documents without a character",
            where=one_line(documents[0].where),
            fix="give text to train on",
        )
    return Measured(sources=tuple(sources), characters=characters, replaced=replaced)
