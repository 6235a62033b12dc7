"""From text to tokens on the disk, in as many goes as it takes."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from scratch_gpt.data import corpus
from scratch_gpt.data.corpus import (
    SIZE,
    CorpusSize,
    Document,
    Readable,
    decoded,
    measure_corpus,
    pieces,
)
from scratch_gpt.data.dataset import FORMAT, Recipe, TokenData
from scratch_gpt.data.plan import Plan
from scratch_gpt.data.taking_up import taken_up
from scratch_gpt.data.unfinished import Unfinished
from scratch_gpt.errors import CheckpointError, TooLittleTextError, one_line
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.tokenizer import Tokenizer

# The tokens of a whole from those of its pieces.


_WORD = "a"


class Joiner:
    """Gives the tokens of piece after piece, with those of the line breaks between them.

    Where text is split as the released model had it, a line break between words is a token; at
    the end of a text it is none. Hugging Face's splitting has no token for it anywhere. What it
    costs is asked of the tokenizer: what stands between two words that a line break parts.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._unknown = tokenizer.vocabulary.ids[UNKNOWN]
        word = tokenizer.encode(_WORD)
        both = tokenizer.encode(f"{_WORD}\n{_WORD}")
        self._line_break = both[len(word) : len(both) - len(word)]

    def ids(self, text: str, *, on_new_line: bool) -> list[int]:
        """Return the tokens of a piece; none where it holds nothing but white space.

        Args:
            text: The piece.
            on_new_line: Whether a line break parts it from tokens before it.
        """
        ids = self._tokenizer.encode(text)
        return [*self._line_break, *ids] if ids and on_new_line else ids

    def unknown(self, ids: list[int]) -> int:
        """Return how many of the tokens are unknown."""
        return ids.count(self._unknown)


"""Called with (what is going on, bytes done, bytes in all)."""


def prepare(  # noqa: PLR0913 - the text, its place, its tokenizer and three options
    paths: Sequence[str | os.PathLike[str]] | None,
    directory: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    validation_fraction: float = 0.05,
    errors: str = "strict",
    progress: Progress = lambda _what, _done, _total: None,
) -> TokenData:
    """Turn text into tokens on the disk, and return them.

    Documents follow one another as lines do: the tokens are those of one text in which a line
    break stands between any two documents. GPT-1 has no token for the end of a text. The last
    part of all tokens is the validation part.

    Killed at any moment and called again with the same arguments it goes on, and ends with the
    same bytes. Called again after the end it returns what is there.

    Args:
        paths: Text files, and folders of them; None for the documentation strings of Python's
            standard library.
        directory: Where to write; a folder that is not there, is empty, or has been begun.
        tokenizer: Makes the tokens.
        validation_fraction: The share of the tokens, from 0 on and below 1, that is set apart.
        errors: `strict` refuses bytes that are no UTF-8, `replace` puts U+FFFD in their place.
        progress: Told how far it is.

    Raises:
        TypeError: `paths` is one path.
        ValueError: `errors` or `validation_fraction` is none.
        TooLittleTextError: There is no text, or all of its tokens are unknown.
        CheckpointError: A document cannot be read, is no text, is given twice, or changed
            meanwhile, or what the folder holds is of other text, another tokenizer or other
            settings: listed.
        OccupiedError: The folder holds something else, or another process prepares text there.
        WriteError: The file system refused; called again it goes on.
    """
    recipe = _recipe(tokenizer, validation_fraction, errors)
    documents = corpus.docstring_documents() if paths is None else corpus.documents(paths)
    of_text = measure_corpus(documents, errors=errors, progress=progress)
    plan = Plan(format=FORMAT, recipe=recipe, sources=of_text.sources)
    folder = Path(directory)
    with taken_up(folder, plan) as unfinished:
        if unfinished is not None:
            _Preparation(plan, documents, tokenizer, unfinished, progress).run()
            _require_knowledge(unfinished, of_text, folder)
            unfinished.finish(characters=of_text.characters, replaced=of_text.replaced)
    return TokenData.open(folder)


class _Preparation:
    """One go at turning documents into tokens."""

    def __init__(
        self,
        plan: Plan,
        documents: Sequence[Document],
        tokenizer: Tokenizer,
        unfinished: Unfinished,
        progress: Progress,
    ) -> None:
        self._plan = plan
        self._documents = documents
        self._joining = Joiner(tokenizer)
        self._unfinished = unfinished
        self._progress = progress
        self._not_kept = 0  # bytes of text

    def run(self) -> None:
        """Append the tokens of all that follows the position."""
        position = self._unfinished.position
        sizes = [source.length for source in self._plan.sources]
        for number in range(position.document, len(sizes)):
            start = position.offset if number == position.document else 0
            before = sum(sizes[:number])
            self._document(number, start, before=before, total=sum(sizes))

    def _document(self, number: int, start: int, *, before: int, total: int) -> None:
        """Append the tokens of a document from a piece's start on."""
        document = self._documents[number]
        with document.opened() as file:
            digest = hashlib.sha256()
            _feed(digest.update, file, start)
            if start and digest.hexdigest() != self._unfinished.position.prefix_sha256:
                raise _changed(document)
            for piece in pieces(file, document.where, start=start, size=SIZE):
                text, _ = decoded(piece, document.where, self._plan.recipe.errors)
                digest.update(piece.content)
                self._append(text, on_new_line=piece.on_new_line)
                self._reached(number, piece.end, digest.hexdigest(), len(piece.content))
                self._progress(document.name, before + piece.end, total)
        if digest.hexdigest() != self._plan.sources[number].sha256:
            raise _changed(document)
        self._reached(number + 1, 0, "", 0)

    def _append(self, text: str, *, on_new_line: bool) -> None:
        first = not self._unfinished.position.tokens
        ids = self._joining.ids(text, on_new_line=on_new_line and not first)
        self._unfinished.append(ids, unknown=self._joining.unknown(ids))

    def _reached(self, document: int, offset: int, prefix_sha256: str, done: int) -> None:
        """Note the position, and keep it when a piece's worth of text has come together."""
        self._unfinished.reach(document, offset, prefix_sha256)
        self._not_kept += done
        if self._not_kept >= SIZE:
            self._unfinished.keep()
            self._not_kept = 0


def _recipe(tokenizer: Tokenizer, validation_fraction: float, errors: str) -> Recipe:
    if not 0 <= validation_fraction < 1:
        raise ValueError(
            f"validation_fraction must be at least 0 and below 1, got {validation_fraction}"
        )
    if errors not in {"strict", "replace"}:
        raise ValueError(f"errors must be 'strict' or 'replace', got {errors!r}")
    return Recipe(
        vocabulary=tokenizer.digest,
        pretokenizer=tokenizer.pretokenizer,
        vocab_size=tokenizer.vocab_size,
        errors=errors,
        validation_fraction=float(validation_fraction),
    )


def _feed(digest: Callable[[bytes], None], file: Readable, length: int) -> None:
    """Digest a document's first bytes."""
    while length and (content := file.read(min(length, SIZE))):
        digest(content)
        length -= len(content)


def _require_knowledge(unfinished: Unfinished, text: CorpusSize, folder: Path) -> None:
    """Require a token that is not unknown; where there is none, leave nothing behind."""
    position = unfinished.position
    if position.tokens > position.unknown:
        return
    unfinished.discard()
    raise TooLittleTextError(
        f"the {text.characters} characters of text give {position.tokens} tokens, "
        f"all of them unknown to the vocabulary",
        where=one_line(folder),
        fix="give text in the vocabulary's language",
    )


def _changed(document: Document) -> CheckpointError:
    return CheckpointError(
        "the document changed while it was read",
        where=one_line(document.where),
        fix="remove the prepared folder, and prepare the text again when nobody writes to it",
    )
