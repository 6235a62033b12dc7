"""Before the first step: a vocabulary, and the corpus as ids in it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from scratch_gpt.command.errors import InputRefusedError, UsageError
from scratch_gpt.command.progress import Progress
from scratch_gpt.data import TokenData, corpus, docstrings, prepare
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.shown import one_line
from scratch_gpt.tokenizer import Tokenizer
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """Where text and vocabulary come from.

    Attributes:
        paths: Text files and folders; None for the standard library's documentation strings.
        tokens: A folder of prepared tokens instead.
        vocabulary: A folder with a vocabulary; None to learn one from the text.
        errors: What to do with bytes that are no UTF-8: `strict` or `replace`.
    """

    paths: tuple[Path, ...] | None = None
    tokens: Path | None = None
    vocabulary: Path | None = None
    errors: str = "strict"


def vocabulary_of(
    sources: Sources, recipe: Recipe, folder: RunFolder, *, resumed: bool, progress: Progress
) -> None:
    """Put the run's vocabulary into its folder.

    Args:
        sources: Where it comes from.
        recipe: How large it is, where it is learned.
        folder: The run's.
        resumed: Whether the run goes on: then it has its vocabulary, and none is learned.
        progress: Is told what goes on.

    Raises:
        UsageError: It could only be learned from text, and there is none but prepared tokens.
        CheckpointError: A vocabulary's files are unsound, or it is not the one that the run has.
        WriteError: The file system refused.
    """
    splitting = recipe.splitting
    if sources.vocabulary is not None:
        tokenizer = Tokenizer.from_pretrained(sources.vocabulary, splitting=splitting)
        if resumed:
            _require_same(tokenizer, folder, sources.vocabulary)
    elif not resumed:
        _require_text(sources)
        tokenizer = Tokenizer.train(
            _texts(sources),
            merges=recipe.merges,
            splitting=splitting,
            progress=lambda done: progress("learning a vocabulary", done, recipe.merges),
        )
    if not resumed:
        tokenizer.save_pretrained(folder.vocabulary)


def _require_text(sources: Sources) -> None:
    if sources.tokens is not None:
        raise UsageError(
            "prepared tokens are given without their vocabulary",
            where=f"--tokens {one_line(sources.tokens)}",
            fix="give the vocabulary that they were made with: --vocabulary FOLDER",
        )


def _texts(sources: Sources) -> Iterator[str]:
    """Yield the corpus as text."""
    paths = sources.paths
    chosen = docstrings.documents() if paths is None else corpus.documents(paths)
    return corpus.texts(chosen, errors=sources.errors)


def _require_same(given: Tokenizer, folder: RunFolder, place: Path) -> None:
    if given.digest != Tokenizer.from_pretrained(folder.vocabulary).digest:
        raise InputRefusedError(
            "the run was begun with another vocabulary",
            where=one_line(place),
            fix="leave --vocabulary out, or train anew with another --output",
        )


def tokens_of(
    sources: Sources,
    recipe: Recipe,
    folder: RunFolder,
    tokenizer: Tokenizer,
    progress: Progress,
) -> TokenData:
    """Return the corpus as ids, prepared where it is not yet.

    Raises:
        InputRefusedError: The run's tokens were made from other text, or in another way.
        CheckpointError: The corpus or prepared tokens are unsound, or another vocabulary's.
        WriteError: The file system refused.
    """
    if sources.tokens is not None:
        data = TokenData.open(sources.tokens)
        data.require(tokenizer)
        return data
    try:
        return prepare(
            sources.paths,
            folder.tokens,
            tokenizer,
            validation_fraction=recipe.validation_fraction,
            errors=sources.errors,
            progress=progress,
        )
    except CheckpointError as error:
        if error.where != one_line(folder.tokens):  # a file of it, or of the corpus
            raise
        raise InputRefusedError(error.what, where=error.where, fix=_SAME_TEXT) from error


_SAME_TEXT = (
    "give --data and --splitting as before, train with another --output, or go on with prepared "
    "tokens: --tokens FOLDER --allow data"
)
