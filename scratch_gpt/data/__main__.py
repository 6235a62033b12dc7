"""`python -m scratch_gpt.data PATH... --output FOLDER --vocabulary FOLDER`: tokenize text.

Options are parsed before anything slow is imported.
"""

import contextlib
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scratch_gpt.cli import (
    DecodingErrors,
    PretokenizerName,
    print_stdout,
    run_app,
    run_reporting_errors,
    typer_app,
)
from scratch_gpt.errors import ExitCode, UsageError, one_line
from scratch_gpt.progress import Progress, progress_bar

if TYPE_CHECKING:
    from scratch_gpt.data.dataset import TokenData
    from scratch_gpt.tokenizer.tokenizer import Tokenizer


app = typer_app("scratch_gpt.data")


@app.command()
def prepare(
    output: Annotated[
        Path,
        typer.Option("--output", metavar="FOLDER", help="Where to write: a new or empty folder."),
    ],
    vocabulary: Annotated[
        Path, typer.Option("--vocabulary", metavar="FOLDER", help="Where the vocabulary is.")
    ],
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATH",
            help="Text files, and folders of .txt and .md files. None: the documentation strings "
            "of Python's standard library.",
            show_default=False,
        ),
    ] = None,
    merges: Annotated[
        int | None,
        typer.Option(
            "--merges",
            metavar="NUMBER",
            min=0,
            help="Learn a vocabulary of so many merges from the text, if --vocabulary has none.",
            show_default=False,
        ),
    ] = None,
    pretokenizer: Annotated[
        PretokenizerName,
        typer.Option(
            "--pretokenizer",
            help="As Hugging Face splits text, or as the release did ([original-text]).",
        ),
    ] = PretokenizerName.HUGGINGFACE,
    errors: Annotated[
        DecodingErrors,
        typer.Option("--errors", help="Refuse bytes that are no UTF-8, or read U+FFFD."),
    ] = DecodingErrors.STRICT,
    validation: Annotated[
        float,
        typer.Option(
            "--validation",
            metavar="SHARE",
            min=0.0,
            max=0.5,
            help="Share of the tokens, the last, to set apart.",
        ),
    ] = 0.05,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Turn text into tokens on the disk, for scratch_gpt.train --tokens.

    The folder appears when it is complete; a killed run leaves none and starts again. It holds
    tokens.bin, two or four bytes a token, and manifest.json.

    \b
    Examples:
      python -m scratch_gpt.data --output tokens --vocabulary vocabulary --merges 4000
      python -m scratch_gpt.data books/ --output tokens --vocabulary openai-gpt
      python -m scratch_gpt.data a.txt --output tokens --vocabulary openai-gpt --errors replace

    Exit codes: 0 prepared, 2 usage (too little text, the folder holds other files), 4 text or
    vocabulary rejected, or the folder holds tokens of others, 5 environment (disk full, no
    permission), 70 internal error, 130 interrupted.
    """  # noqa: D301 - click keeps the lines after this mark
    action = partial(
        _run,
        paths or None,
        output,
        vocabulary,
        merges=merges,
        pretokenizer=pretokenizer.value,
        errors=errors.value,
        validation=validation,
        quiet=quiet,
    )
    raise typer.Exit(run_reporting_errors(action, name=str(output), debug=debug))


def _run(
    paths: list[Path] | None,
    output: Path,
    vocabulary: Path,
    *,
    merges: int | None,
    pretokenizer: str,
    errors: str,
    validation: float,
    quiet: bool,
) -> ExitCode:
    with contextlib.redirect_stdout(sys.stderr), progress_bar(quiet=quiet) as progress:
        from scratch_gpt.data import preparation

        tokenizer = _tokenizer(vocabulary, paths, merges, pretokenizer, errors, progress)
        data = preparation.prepare(
            paths,
            output,
            tokenizer,
            validation_fraction=validation,
            errors=errors,
            progress=progress,
        )
        text = summary_of(data)
    if not quiet:
        print_stdout(text, fix="free some space; the tokens are prepared all the same")
    return ExitCode.PASS


def _tokenizer(
    vocabulary: Path,
    paths: list[Path] | None,
    merges: int | None,
    pretokenizer: str,
    errors: str,
    progress: Progress,
) -> "Tokenizer":
    """Return the vocabulary's tokenizer, trained first if there is no vocabulary.

    A text may have fewer merges than were requested. So a vocabulary with fewer merges is accepted
    if training again gives the same one.
    """
    from scratch_gpt.tokenizer.tokenizer import Tokenizer

    is_empty = not vocabulary.exists() or (vocabulary.is_dir() and not any(vocabulary.iterdir()))
    if is_empty and merges is not None:
        tokenizer = _trained(paths, merges, pretokenizer, errors, progress)
        tokenizer.save_pretrained(vocabulary)
        return tokenizer
    tokenizer = Tokenizer.from_pretrained(vocabulary, pretokenizer=pretokenizer)
    there = len(tokenizer.vocabulary.merges)
    if merges is None or there == merges:
        return tokenizer
    if (
        there > merges
        or _trained(paths, merges, pretokenizer, errors, progress).digest != tokenizer.digest
    ):
        raise UsageError(
            f"the vocabulary there has {there} merges, and --merges asks for {merges}",
            where=str(vocabulary),
            fix="leave --merges out to use it, or name another folder to train one",
        )
    return tokenizer


def _trained(
    paths: list[Path] | None, merges: int, pretokenizer: str, errors: str, progress: Progress
) -> "Tokenizer":
    """Return a tokenizer trained on the text, which is read once first to reject unsound files."""
    from scratch_gpt.data import corpus
    from scratch_gpt.data.corpus import measure_corpus
    from scratch_gpt.tokenizer.tokenizer import Tokenizer

    chosen = corpus.docstring_documents() if paths is None else corpus.documents(paths)
    measure_corpus(chosen, errors=errors, progress=progress)
    return Tokenizer.train(
        corpus.texts(chosen, errors=errors),
        merges=merges,
        pretokenizer=pretokenizer,
        progress=lambda done: progress("training the tokenizer", done, merges),
    )


def summary_of(data: "TokenData") -> str:
    """Return the counts of text and tokens, one a line."""
    manifest = data.manifest
    each = manifest.characters / manifest.tokens
    replaced = f"{manifest.replaced:,} of them replace bytes that are not UTF-8"
    share = 100 * manifest.unknown / manifest.tokens
    rows = [
        ("documents", len(manifest.sources), ""),
        ("characters", manifest.characters, replaced if manifest.replaced else ""),
        ("tokens", manifest.tokens, f"{each:.2f} characters each"),
        ("unknown", manifest.unknown, f"{share:.2f} % of the tokens"),
        ("train", manifest.train, ""),
        ("validation", manifest.validation, _baseline(data)),
    ]
    lines = [f"{name:<12}{count:>15,}  {note}".rstrip() for name, count, note in rows]
    return "\n".join([*lines, f"written to  {one_line(data.directory)}", ""])


def _baseline(data: "TokenData") -> str:
    """Return the loss that a trained model must beat, if both parts have tokens."""
    if not data.manifest.train or not data.manifest.validation:
        return ""
    vocab_size = data.manifest.recipe.vocab_size
    from scratch_gpt.data.dataset import unigram_loss

    loss = unigram_loss(data.train, data.validation, vocab_size=vocab_size)
    return f"guessing by frequency loses {loss:.2f} nats a token"


def main() -> None:
    """Run the command line."""
    run_app(app)


if __name__ == "__main__":
    main()
