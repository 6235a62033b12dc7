"""`python -m scratch_gpt.data PATH... --output FOLDER --vocabulary FOLDER`: tokenize text.

Nothing that takes time to import is imported before it runs.
"""

import contextlib
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from scratch_gpt.cli import (
    print_stdout,
    run_app,
    run_reporting_errors,
    typer_app,
)
from scratch_gpt.errors import ExitCode, UsageError, one_line
from scratch_gpt.options import (
    DecodingErrors,
    Pretokenizer,
    QuietOption,
    add_command,
    argument,
    option,
    require_path,
    require_paths,
)
from scratch_gpt.progress import Progress, progress_bar

if TYPE_CHECKING:
    from scratch_gpt.data.dataset import TokenData
    from scratch_gpt.tokenizer.tokenizer import Tokenizer


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataOptions(QuietOption):
    r"""Turn text into tokens on the disk, for scratch_gpt.train --tokens.

    The folder appears when it is complete; a killed run leaves none and starts again. It
    holds tokens.bin, two or four bytes per token, and manifest.json, written last.

    Examples:
      python -m scratch_gpt.data --output tokens --vocabulary vocab --merges 4000
      python -m scratch_gpt.data books/ --output tokens --vocabulary openai-gpt
      python -m scratch_gpt.data a.txt --output tokens --vocabulary openai-gpt \
          --errors replace

    Exit codes:
      0 prepared  2 usage (too little text, another content in the folder)
      4 text or vocabulary rejected, or the folder holds other tokens
      5 environment (disk full, no permission)
      70 internal error  130 interrupted
    """

    paths: tuple[Path, ...] = argument(
        (),
        "Text files, and folders of .txt and .md files. Default: the documentation strings of "
        "Python's standard library.",
        metavar="PATH",
        exists=True,
    )
    output: Path = option(
        ..., "Folder to write: a new one, or one that holds these tokens.", metavar="FOLDER"
    )
    vocabulary: Path = option(..., "Folder of the vocabulary.", metavar="FOLDER")
    merges: int | None = option(
        None,
        "Train a vocabulary of this many merges on the text, if --vocabulary has none.",
        minimum=0,
    )
    pretokenizer: Pretokenizer = option(
        "huggingface",
        "How text is split into words: as in Hugging Face's tokenizer, or as in the released code "
        "(original; needs the extra original-text).",
    )
    errors: DecodingErrors = option(
        "strict", "Bytes that are not UTF-8: reject them (strict), or read U+FFFD (replace)."
    )
    validation: float = option(
        0.05,
        "Share of the tokens, the last, for validation.",
        metavar="SHARE",
        minimum=0.0,
        maximum=0.5,
    )


def prepare(options: DataOptions) -> int:
    """Prepare the tokens; return the exit code. Errors are printed, not raised."""
    return run_reporting_errors(
        partial(_prepare, options), name=str(options.output), debug=options.debug
    )


def _prepare(options: DataOptions) -> ExitCode:
    require_paths(options)
    if options.merges is None:
        require_path(
            str(options.vocabulary),
            where=f"--vocabulary {options.vocabulary}",
            what="there is no such folder, and no --merges to train a vocabulary",
        )
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=options.quiet) as progress:
        from scratch_gpt.data import preparation

        tokenizer = _tokenizer(options, progress)
        data = preparation.prepare(
            options.paths or None,
            options.output,
            tokenizer,
            validation_fraction=options.validation,
            errors=options.errors,
            progress=progress,
        )
        text = summary_of(data)
    if not options.quiet:
        print_stdout(text, fix="free some space; the tokens are prepared")
    return ExitCode.PASS


def _tokenizer(options: DataOptions, progress: Progress) -> "Tokenizer":
    """Return the vocabulary's tokenizer, trained first if there is none.

    A text may have fewer merges than `--merges`. So a vocabulary with fewer is trained again, and
    accepted if the result is the same.
    """
    from scratch_gpt.tokenizer.tokenizer import Tokenizer

    vocabulary, merges = options.vocabulary, options.merges
    is_free = not vocabulary.exists() or (vocabulary.is_dir() and not any(vocabulary.iterdir()))
    if is_free and merges is not None:
        tokenizer = _trained(options, merges, progress)
        tokenizer.save_pretrained(vocabulary)
        return tokenizer
    tokenizer = Tokenizer.from_pretrained(vocabulary, pretokenizer=options.pretokenizer)
    there = len(tokenizer.vocabulary.merges)
    if merges is None or there == merges:
        return tokenizer
    if there > merges or _trained(options, merges, progress).digest != tokenizer.digest:
        raise UsageError(
            f"the vocabulary there has {there} merges, and --merges asks for {merges}",
            where=str(vocabulary),
            fix="leave --merges out to use it, or name another folder to train one",
        )
    return tokenizer


def _trained(options: DataOptions, merges: int, progress: Progress) -> "Tokenizer":
    """Return a tokenizer trained on the text, after all of it was read once and checked."""
    from scratch_gpt.data import corpus, preparation

    paths, errors = options.paths or None, options.errors
    corpus.measure_corpus(corpus.documents(paths), errors=errors, progress=progress)
    pretokenizer = options.pretokenizer
    return preparation.train_tokenizer(
        paths, merges=merges, pretokenizer=pretokenizer, errors=errors, progress=progress
    )


def summary_of(data: "TokenData") -> str:
    """Return the numbers of characters, tokens and parts, and the unigram loss, as a table."""
    manifest = data.manifest
    each = manifest.characters / manifest.tokens
    replaced = f"{manifest.replaced:,} of them replace bytes that are not UTF-8"
    share = 100 * manifest.unknown / manifest.tokens
    baseline = ""
    if manifest.train and manifest.validation:
        from scratch_gpt.data.dataset import unigram_loss

        vocab_size = manifest.recipe.vocab_size
        loss = unigram_loss(data.train, data.validation, vocab_size=vocab_size)
        baseline = f"guessing by frequency loses {loss:.2f} nats a token"
    rows = [
        ("documents", len(manifest.sources), ""),
        ("characters", manifest.characters, replaced if manifest.replaced else ""),
        ("tokens", manifest.tokens, f"{each:.2f} characters each"),
        ("unknown", manifest.unknown, f"{share:.2f} % of the tokens"),
        ("train", manifest.train, ""),
        ("validation", manifest.validation, baseline),
    ]
    lines = [f"{name:<12}{count:>15,}  {note}".rstrip() for name, count, note in rows]
    return "\n".join([*lines, f"written to  {one_line(data.directory)}", ""])


app = typer_app("scratch_gpt.data")
add_command(app, DataOptions, prepare)


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
