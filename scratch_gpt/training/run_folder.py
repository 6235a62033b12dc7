"""A run's folder: what stands where in it, and that one run at a time writes there."""

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scratch_gpt.checkpoint import checkpoint
from scratch_gpt.checkpoint.atomic import replace_folder, to_write_error
from scratch_gpt.data import TokenData, corpus, prepare
from scratch_gpt.errors import (
    CheckpointError,
    InputRejectedError,
    OccupiedError,
    UsageError,
    one_line,
)
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training.recipe import Recipe

if os.name == "posix":
    import fcntl


_LOCK = "training.lock"


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The places in a run's folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def vocabulary(self) -> Path:
        """The vocabulary's files."""
        return self.path / "vocabulary"

    @property
    def tokens(self) -> Path:
        """The corpus as ids."""
        return self.path / "tokens"

    @property
    def log(self) -> Path:
        """A line of JSON a step."""
        return self.path / "log.jsonl"

    @property
    def curve(self) -> Path:
        """The loss curve."""
        return self.path / "loss.png"

    @property
    def model(self) -> Path:
        """What comes out: weights, config and vocabulary."""
        return self.path / "model"


@contextlib.contextmanager
def lock_folder(path: Path) -> Iterator[RunFolder]:
    """Make a run's folder, or take one that a run has left, for this process alone.

    The lock is the system's, and gone with the process that holds it.

    Raises:
        OccupiedError: Another run writes there, or the folder is not empty and no run's.
        WriteError: The file system refused.
    """
    descriptor = _opened(path)
    try:
        _lock(descriptor, path)
        yield RunFolder(path)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Return the lock's descriptor; make the folder and the lock where they are missing."""
    try:
        strange = path.is_dir() and any(path.iterdir()) and not (path / _LOCK).exists()
        if not strange:
            path.mkdir(parents=True, exist_ok=True)
            return os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileExistsError as error:
        raise _occupied(path, "there is a file of that name") from error
    except OSError as error:
        raise to_write_error(error, path) or error from error
    raise _occupied(path, "the folder is not empty, and no run was started in it")


def _lock(descriptor: int, path: Path) -> None:
    if os.name != "posix":
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:  # others: a file system without locks
            raise _occupied(path, "another run writes into this folder") from error


def _occupied(path: Path, what: str) -> OccupiedError:
    return OccupiedError(what, where=one_line(path), fix="choose another folder with --output")


# Before the first step: a vocabulary, and the corpus as ids in it.


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


def prepare_vocabulary(
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
    pretokenizer = recipe.pretokenizer
    if sources.vocabulary is not None:
        tokenizer = Tokenizer.from_pretrained(sources.vocabulary, pretokenizer=pretokenizer)
        if resumed:
            _require_same(tokenizer, folder, sources.vocabulary)
    elif not resumed:
        _require_text(sources)
        tokenizer = Tokenizer.train(
            _texts(sources),
            merges=recipe.merges,
            pretokenizer=pretokenizer,
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
    chosen = corpus.docstring_documents() if paths is None else corpus.documents(paths)
    return corpus.texts(chosen, errors=sources.errors)


def _require_same(given: Tokenizer, folder: RunFolder, place: Path) -> None:
    if given.digest != Tokenizer.from_pretrained(folder.vocabulary).digest:
        raise InputRejectedError(
            "the run was begun with another vocabulary",
            where=one_line(place),
            fix="leave --vocabulary out, or train anew with another --output",
        )


def prepare_tokens(
    sources: Sources,
    recipe: Recipe,
    folder: RunFolder,
    tokenizer: Tokenizer,
    progress: Progress,
) -> TokenData:
    """Return the corpus as ids, prepared where it is not yet.

    Raises:
        InputRejectedError: The run's tokens were made from other text, or in another way.
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
        raise InputRejectedError(error.what, where=error.where, fix=_SAME_TEXT) from error


_SAME_TEXT = (
    "give --data and --pretokenizer as before, train with another --output, or go on with prepared "
    "tokens: --tokens FOLDER --allow-changed data"
)


# What a run leaves: a folder that `generate` and Hugging Face load, vocabulary and all.


def export(model: GPT, vocabulary: Path, folder: Path) -> None:
    """Write weights in float32, config, and the vocabulary's files, whole or not at all.

    Args:
        model: The trained model.
        vocabulary: The folder of the vocabulary.
        folder: Where to; an older export is replaced.

    Raises:
        WriteError: The file system refused; what was there is as it was.
    """
    weights = {name: p.detach().float().to("cpu") for name, p in model.named_parameters()}
    with replace_folder(folder, overwrite=True) as staging:
        checkpoint.write_checkpoint(staging, model.config, weights)
        for file in files_of(vocabulary):
            shutil.copyfile(file, staging / file.name)


def files_of(folder: Path) -> list[Path]:
    """Return a folder's plain files in the order of their names."""
    return sorted(entry for entry in folder.iterdir() if entry.is_file())
