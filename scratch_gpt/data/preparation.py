"""Tokenize text into a folder of tokens, written whole or not at all."""

import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from scratch_gpt.checkpoint.atomic import replace_folder
from scratch_gpt.data import corpus, dataset
from scratch_gpt.data.corpus import SIZE, Document, decoded, measure_corpus, pieces
from scratch_gpt.data.dataset import MANIFEST_FILE, TOKENS_FILE, Manifest, Recipe, Source, TokenData
from scratch_gpt.errors import CheckpointError, TooLittleTextError, one_line
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.tokenizer import Tokenizer

_MOST_DOCUMENTS_SHOWN = 3


def prepare(  # noqa: PLR0913 - the text, its place, its tokenizer and three options
    paths: Sequence[str | os.PathLike[str]] | None,
    directory: str | os.PathLike[str],
    tokenizer: Tokenizer,
    *,
    validation_fraction: float = 0.05,
    errors: str = "strict",
    progress: Progress = lambda _what, _done, _total: None,
) -> TokenData:
    """Tokenize text into a folder, and return the tokens.

    The tokens are those of one text: the documents, with a line break between any two. GPT-1 has
    no token for the end of a text. The last tokens are the validation part.

    The folder appears when it is complete. A process that is killed leaves no tokens, and the
    next call starts again. If the folder holds the tokens of the same text, tokenizer and
    settings, they are returned.

    Args:
        paths: Text files, and folders of them; None for the documentation strings of Python's
            standard library.
        directory: A folder that is missing, empty, or holds these tokens already.
        tokenizer: The tokenizer.
        validation_fraction: The validation part's share of the tokens, at least 0 and below 1.
        errors: `strict` rejects bytes that are not UTF-8, `replace` reads them as U+FFFD.
        progress: Called with (document, bytes done, bytes in all).

    Raises:
        TypeError: `paths` is one path.
        ValueError: `errors` or `validation_fraction` is outside its limits.
        TooLittleTextError: There is no text, or all of its tokens are unknown.
        CheckpointError: A document is unreadable, is not text, is given twice or changes while it
            is read; or the folder holds tokens of another text, tokenizer or setting.
        OccupiedError: The folder holds other files.
        WriteError: The file system failed.
    """
    recipe = _recipe(tokenizer, validation_fraction, errors)
    documents = corpus.documents(paths)
    size = measure_corpus(documents, errors=errors, progress=progress)
    folder = Path(directory)
    if (folder / MANIFEST_FILE).exists():
        _require_same(folder, recipe, size.sources)
        return TokenData.open(folder)
    with replace_folder(folder, overwrite=False) as staging:
        with (staging / TOKENS_FILE).open("wb") as file:
            texts = _texts(documents, size.sources, errors, progress)
            tokens, unknown, sha256 = _write_tokens(file, texts, tokenizer, recipe.bytes_per_token)
        if tokens == unknown:
            raise TooLittleTextError(
                f"the {size.characters} characters of text give {tokens} tokens, "
                f"all of them unknown to the vocabulary",
                where=one_line(folder),
                fix="give text in the vocabulary's language",
            )
        manifest = Manifest(
            format=dataset.FORMAT,
            recipe=recipe,
            tokens=tokens,
            validation=recipe.validation_tokens(tokens),
            unknown=unknown,
            characters=size.characters,
            replaced=size.replaced,
            sha256=sha256,
            sampled_sha256=dataset.sampled_sha256(staging / TOKENS_FILE),
            sources=size.sources,
        )
        (staging / MANIFEST_FILE).write_text(manifest.text, encoding="utf-8")
    return TokenData.open(folder)


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


def _require_same(folder: Path, recipe: Recipe, sources: tuple[Source, ...]) -> None:
    """Require that a folder's tokens are those of this text, tokenizer and settings."""
    there = Manifest.read(folder / MANIFEST_FILE)
    pairs: dict[str, tuple[object, object]] = {
        name: (getattr(there.recipe, name), asked) for name, asked in vars(recipe).items()
    }
    shown = "{0.name} (SHA-256 {0.sha256:.12}...)".format
    both = itertools.zip_longest(map(shown, there.sources), map(shown, sources))
    differing = [(number, pair) for number, pair in enumerate(both, 1) if pair[0] != pair[1]]
    pairs |= {f"document {number}": pair for number, pair in differing[:_MOST_DOCUMENTS_SHOWN]}
    dataset.require_same(pairs, folder, "other tokens were prepared there")


def train_tokenizer(
    paths: Sequence[str | os.PathLike[str]] | None,
    *,
    merges: int,
    pretokenizer: str,
    errors: str,
    progress: Progress,
) -> Tokenizer:
    """Return a tokenizer trained on the text that `prepare` reads.

    Raises:
        TooLittleTextError: There is no document.
        CheckpointError: A document is unreadable, is not text, or is given twice.
    """
    return Tokenizer.train(
        corpus.texts(corpus.documents(paths), errors=errors),
        merges=merges,
        pretokenizer=pretokenizer,
        progress=lambda done: progress("training the tokenizer", done, merges),
    )


def _texts(
    documents: Sequence[Document], sources: Sequence[Source], errors: str, progress: Progress
) -> Iterator[tuple[str, bool]]:
    """Yield the text of each piece of all documents, and whether it starts on a new line."""
    before, total = 0, sum(source.length for source in sources)
    for document, source in zip(documents, sources, strict=True):
        digest = hashlib.sha256()
        with document.opened() as file:
            for piece in pieces(file, document.where, size=SIZE):
                digest.update(piece.content)
                yield decoded(piece, document.where, errors)[0], piece.on_new_line
                progress(document.name, before + piece.end, total)
        if digest.hexdigest() != source.sha256:
            raise CheckpointError(
                "the document changed while it was read",
                where=one_line(document.where),
                fix="prepare the text again when no process writes to it",
            )
        before += source.length


def _write_tokens(
    file: BinaryIO, texts: Iterable[tuple[str, bool]], tokenizer: Tokenizer, bytes_per_token: int
) -> tuple[int, int, str]:
    """Write the tokens of all pieces; return their number, the unknown ones, and the digest.

    With the pretokenizer `original` a line break between words is a token, and none at the end of
    a text. With `huggingface` it is never a token. So the tokens of the line breaks between pieces
    are found by encoding two words with one between them.
    """
    word, both = tokenizer.encode("a"), tokenizer.encode("a\na")
    line_break = both[len(word) : len(both) - len(word)]
    unknown_id = tokenizer.vocabulary.ids[UNKNOWN]
    digest = hashlib.sha256()
    tokens = unknown = 0
    for text, on_new_line in texts:
        ids = tokenizer.encode(text)
        if ids and on_new_line and tokens:
            ids = [*line_break, *ids]
        content = dataset.token_bytes(ids, bytes_per_token)
        file.write(content)
        digest.update(content)
        tokens += len(ids)
        unknown += ids.count(unknown_id)
    return tokens, unknown, digest.hexdigest()
