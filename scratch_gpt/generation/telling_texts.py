"""The body of `python -m scratch_gpt.generate`."""

import contextlib
import dataclasses
import json
import sys
from collections.abc import Iterator

from scratch_gpt.command.errors import EnvironmentUnfitError, ExitCode
from scratch_gpt.command.output import to_stdout
from scratch_gpt.generation.asked import Asked
from scratch_gpt.generation.loaded import loaded
from scratch_gpt.generation.new_text import NewText, Show, new_texts
from scratch_gpt.generation.options import no_choice, request_of, usage
from scratch_gpt.generation.prompts import encoded, prompts_of
from scratch_gpt.generation.refusal import NoChoiceError, SettingError
from scratch_gpt.generation.request import Request
from scratch_gpt.generation.text import visible
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer import Tokenizer


def tell_texts(asked: Asked) -> int:
    """Generate and print what was asked for; return the exit code.

    Raises:
        CommandError: Usage, weights, vocabulary or this machine are not as needed.
    """
    request = request_of(asked)
    prompts = prompts_of(asked)
    model, tokenizer = loaded(asked)
    most = model.config.n_positions
    ids = [encoded(prompt, tokenizer, asked, n_positions=most) for prompt in prompts]
    try:
        request.rules.check(model.config.vocab_size)
    except SettingError as error:
        raise usage(error) from error
    try:
        rows = [
            row
            for number in range(len(ids))
            for row in _told(model, tokenizer, ids, number, request, asked)
        ]
    except NoChoiceError as error:
        raise no_choice(error) from error
    if asked.as_json:
        to_stdout(json.dumps(_document(asked, tokenizer, rows), indent=2) + "\n")
    if not asked.quiet and any(row["ended"] == "positions" for row in rows):
        _note(f"the text ends at the model's {most} positions; {_GOING_ON[asked.beams > 1]}")
    return ExitCode.PASS


_GOING_ON = {
    False: "--overflow slide goes on",
    True: "--overflow slide goes on, without --beams",
}
"""What to do about it, by whether there are beams."""


def _note(line: str) -> None:
    """Say something beside the text; where nobody can hear it, the text is there all the same."""
    if sys.stderr is not None:
        with contextlib.suppress(OSError):
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


def _told(  # noqa: PLR0913 - what there is, and which of it
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    number: int,
    request: Request,
    asked: Asked,
) -> list[dict[str, object]]:
    """Continue one prompt, print it unless JSON is wanted, and return its rows of the document.

    Its draws are its own: what the prompts before it are, or how long, changes nothing in it.
    """
    ids, several = prompts[number], len(prompts) * request.samples > 1
    first = number * request.samples
    request = dataclasses.replace(request, streams=tuple(range(first, first + request.samples)))
    before = tokenizer.decode(ids)
    head = "" if asked.quiet else visible(before)
    streaming = not asked.as_json and request.samples == 1
    if streaming:
        to_stdout(_title(number, 0, several=several, quiet=asked.quiet) + head)
    show: Show = (lambda part: to_stdout(visible(part))) if streaming else (lambda _part: None)
    with _line_closed() if streaming else contextlib.nullcontext():
        found = new_texts(model, tokenizer, ids, request, stop=asked.stop, show=show)
    if streaming:
        to_stdout("\n")
    elif not asked.as_json:
        for sample, text in enumerate(found):
            title = _title(number, sample, several=several, quiet=asked.quiet)
            to_stdout(f"{title}{head}{visible(text.text)}\n")
    return [_row(before, ids, number, sample, text) for sample, text in enumerate(found)]


@contextlib.contextmanager
def _line_closed() -> Iterator[None]:
    """End the line of a text that something broke off, so that what is told has its own."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt):
        with contextlib.suppress(EnvironmentUnfitError, BrokenPipeError):
            to_stdout("\n")
        raise


def _title(number: int, sample: int, *, several: bool, quiet: bool) -> str:
    return f"--- prompt {number + 1}, text {sample + 1} ---\n" if several and not quiet else ""


def _row(before: str, ids: list[int], number: int, sample: int, new: NewText) -> dict[str, object]:
    return {
        "prompt": number + 1,
        "text_number": sample + 1,
        "text": before + new.text,
        "new_text": new.text,
        "prompt_ids": ids,
        "new_ids": new.ids,
        "ended": new.ended,
    }


def _document(
    asked: Asked, tokenizer: Tokenizer, rows: list[dict[str, object]]
) -> dict[str, object]:
    """Return what `--json` prints: the texts, and what fixes them."""
    settings = dataclasses.asdict(asked)
    for name in ("prompts", "prompt_file", "as_json", "quiet"):
        del settings[name]
    settings["vocabulary"] = None if asked.vocabulary is None else str(asked.vocabulary)
    settings["splitting"] = tokenizer.splitting
    settings["stop"] = list(asked.stop)
    return {
        "schema_version": 1,
        "settings": settings | {"sampled": asked.sampled},
        "vocabulary_sha256": tokenizer.digest,
        "texts": rows,
    }
