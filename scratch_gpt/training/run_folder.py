"""A run's folder: its layout and lock, its vocabulary and tokens, and the exported model."""

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from scratch_gpt.checkpoint import checkpoint
from scratch_gpt.checkpoint.atomic import replace_folder, to_write_error
from scratch_gpt.data import TokenData, prepare
from scratch_gpt.data.preparation import train_tokenizer
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


class RunFolder:
    """The paths in a run's folder."""

    def __init__(self, path: Path) -> None:
        self.checkpoints = path / "checkpoints"  # one folder each
        self.vocabulary = path / "vocabulary"
        self.tokens = path / "tokens"  # the corpus as ids
        self.log = path / "log.jsonl"  # one line of JSON per step
        self.curve = path / "loss.png"
        self.model = path / "model"  # the exported model

    def require_folders(self) -> None:
        """Require that no folder of the run is another kind of file, or a link to nothing.

        Raises:
            InputRejectedError: One is; without this check its run would start anew, or fail at its
                end.
        """
        for path in (self.checkpoints, self.vocabulary, self.tokens, self.model):
            if os.path.lexists(path) and not path.is_dir():
                raise InputRejectedError(
                    f"the run's {path.name} is not a folder",
                    where=one_line(path),
                    fix="put the folder back, move the file away, or choose another --output",
                )


@contextlib.contextmanager
def lock_folder(path: Path) -> Iterator[None]:
    """Create a run's folder, or open an earlier run's, and lock it for this process.

    The lock is the operating system's; it ends with the process.

    Raises:
        OccupiedError: Another run writes there, or the folder is not empty and not a run's.
        WriteError: The file system failed.
    """
    descriptor = _open_lock(path)
    try:
        if os.name == "posix":
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                # Other errors mean a file system without locks.
                if error.errno in {errno.EAGAIN, errno.EACCES}:
                    raise _occupied(path, "another run writes into this folder") from error
        yield
    finally:
        os.close(descriptor)


def _open_lock(path: Path) -> int:
    """Return the lock's descriptor; create the folder and the lock if they are missing."""
    try:
        is_foreign = path.is_dir() and any(path.iterdir()) and not (path / _LOCK).exists()
        if not is_foreign:
            path.mkdir(parents=True, exist_ok=True)
            return os.open(path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    except FileExistsError as error:
        what = "it is a link to nothing" if path.is_symlink() else "there is a file of that name"
        raise _occupied(path, what) from error
    except OSError as error:
        raise to_write_error(error, path) or error from error
    raise _occupied(path, "the folder is not empty, and no run was started in it")


def _occupied(path: Path, what: str) -> OccupiedError:
    return OccupiedError(what, where=one_line(path), fix="choose another folder with --output")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sources:
    """The sources of text and vocabulary."""

    paths: tuple[Path, ...] | None = None  # None: the standard library's documentation strings
    tokens: Path | None = None  # a folder of prepared tokens, instead of text
    vocabulary: Path | None = None  # None: a vocabulary is trained on the text
    errors: str = "strict"  # or `replace`, for bytes that are not UTF-8


def prepare_vocabulary(
    sources: Sources, recipe: Recipe, folder: RunFolder, *, resumed: bool, progress: Progress
) -> None:
    """Write the run's vocabulary into its folder; if `resumed`, only check that it is the same.

    Raises:
        UsageError: There are prepared tokens without a vocabulary.
        InputRejectedError: The given vocabulary is not the resumed run's.
        CheckpointError: A vocabulary's files are invalid.
    """
    given = sources.vocabulary
    if given is not None:
        tokenizer = Tokenizer.from_pretrained(given, pretokenizer=recipe.pretokenizer)
        if resumed and tokenizer.digest != Tokenizer.from_pretrained(folder.vocabulary).digest:
            raise InputRejectedError(
                "the run was started with another vocabulary",
                where=one_line(given),
                fix="leave --vocabulary out, or train anew with another --output",
            )
    if resumed:
        return
    if given is None:
        if sources.tokens is not None:
            raise UsageError(
                "prepared tokens are given without their vocabulary",
                where=f"--tokens {one_line(sources.tokens)}",
                fix="give the vocabulary that they were made with: --vocabulary FOLDER",
            )
        tokenizer = train_tokenizer(
            sources.paths,
            merges=recipe.merges,
            pretokenizer=recipe.pretokenizer,
            errors=sources.errors,
            progress=progress,
        )
    tokenizer.save_pretrained(folder.vocabulary)


def prepare_tokens(
    sources: Sources, recipe: Recipe, folder: RunFolder, tokenizer: Tokenizer, progress: Progress
) -> TokenData:
    """Return the corpus as ids, prepared if it is not yet.

    Raises:
        InputRejectedError: The run's tokens were made from other text, or with other options.
        CheckpointError: The corpus or the tokens are invalid, or belong to another vocabulary.
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
        if error.where != one_line(folder.tokens):  # a file in it, or in the corpus
            raise
        raise InputRejectedError(
            error.what,
            where=error.where,
            fix="give --data and --pretokenizer as before, train with another --output, or resume "
            "with prepared tokens: --tokens FOLDER --allow-changed data",
        ) from error


def export(model: GPT, folder: RunFolder) -> None:
    """Write the model that `generate` and Hugging Face load: float32 weights, config, vocabulary.

    A WriteError leaves an older export unchanged.
    """
    weights = {name: p.detach().float().to("cpu") for name, p in model.named_parameters()}
    with replace_folder(folder.model, overwrite=True) as staging:
        checkpoint.write_checkpoint(staging, model.config, weights)
        for file in files_of(folder.vocabulary):
            shutil.copyfile(file, staging / file.name)


def files_of(folder: Path) -> list[Path]:
    """Return a folder's regular files, sorted by name."""
    return sorted(entry for entry in folder.iterdir() if entry.is_file())
