"""The body of `python -m scratch_gpt.generate`."""

import contextlib
import dataclasses
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from scratch_gpt.cli import parse_device, print_stdout
from scratch_gpt.errors import (
    CommandError,
    EnvironmentUnfitError,
    ExitCode,
    InputRejectedError,
    NoChoiceError,
    SettingError,
    TextError,
    TokenizerError,
    UsageError,
)
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.generation.generate import Request
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.generation.text_stream import NewText, ShowText, Stops, new_texts, visible
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer.tokenizer import Tokenizer

# The prompts of the command line: where they come from, and as ids.


_HOW = 'give --prompt "some text", --prompt-file FILE, or text on standard input'


def read_prompts(asked: GenerateOptions) -> list[str]:
    """Return every prompt, those of `--prompt` first.

    Raises:
        UsageError: There is none, or its bytes are no UTF-8.
        InputRejectedError: The file cannot be read.
    """
    prompts = list(asked.prompt)
    if asked.prompt_file is not None and asked.prompt_file != "-":
        prompts.append(_text(_file(asked.prompt_file), asked.prompt_file))
    elif asked.prompt_file == "-" or not prompts:
        if sys.stdin is None or (asked.prompt_file is None and sys.stdin.isatty()):
            raise UsageError("there is no prompt", where="--prompt", fix=_HOW)
        prompts.append(_text(sys.stdin.buffer.read(), "standard input"))
    return prompts


def _file(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputRejectedError(
            f"the prompt cannot be read: {error.strerror}", where=path, fix="name another file"
        ) from error


def _text(content: bytes, where: str) -> str:
    """Return a prompt's text; the line end that closes a file is none of it."""
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt is not valid UTF-8 at byte {error.start}",
            where=where,
            fix="save it as UTF-8",
        ) from error


def encode_prompts(
    prompt: str, tokenizer: Tokenizer, asked: GenerateOptions, *, n_positions: int
) -> list[int]:
    """Return a prompt's ids.

    Raises:
        UsageError: It is empty, no Unicode, or too long for what was asked.
    """
    try:
        ids = tokenizer.encode(prompt)
    except TextError as error:
        raise UsageError(error.what, where=f"the prompt, {error.where}", fix=error.fix) from error
    if not ids:
        raise UsageError("empty prompt: it has no token", where="--prompt", fix=_HOW)
    if len(ids) > n_positions and asked.overflow != "slide":
        raise UsageError(
            f"the prompt has {len(ids)} tokens; this model has max {n_positions}",
            where="--prompt",
            fix="shorten it, or use --overflow slide to go on from its end",
        )
    if asked.overflow == "error" and len(ids) + asked.max_new_tokens > n_positions:
        raise UsageError(
            f"{len(ids)} tokens of prompt and {asked.max_new_tokens} new ones are more than the "
            f"model's {n_positions} positions",
            where="--overflow error",
            fix="lower --max-new-tokens, shorten the prompt, or use --overflow stop or slide",
        )
    return ids


# The command line's options as a request, and what is wrong with them in their own names.


_HELP = "python -m scratch_gpt.generate --help says what each takes"


def request_of(asked: GenerateOptions) -> Request:
    """Return the request, before anything is read.

    Raises:
        UsageError: An option has a value that it cannot have.
    """
    try:
        Stops(asked.stop)
        return Request(
            max_new_tokens=asked.max_new_tokens,
            rules=Rules(
                temperature=1.0 if asked.temperature is None else asked.temperature,
                top_k=asked.top_k,
                top_p=asked.top_p,
                repetition_penalty=asked.repetition_penalty,
                no_repeat_ngram_size=asked.no_repeat_ngram_size,
                sampled=asked.sampled,
            ),
            seed=asked.seed,
            samples=asked.samples,
            beams=asked.beams,
            overflow=asked.overflow,
        )
    except SettingError as error:
        raise usage_error(error) from error


def usage_error(error: SettingError) -> UsageError:
    """Return the error that names the options: they are called what the settings are."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in error.got.items()}
    values = " and ".join(f"{flag} is {value!r}" for flag, value in flags.items())
    return UsageError(f"{values}; allowed: {error.allowed}", where=" and ".join(flags), fix=_HELP)


def no_choice_error(error: NoChoiceError) -> CommandError:
    """Return whose fault it is that nothing can be chosen: the rules', or the weights'."""
    if error.excluded:
        return UsageError(
            str(error),
            where="--no-repeat-ngram-size",
            fix="give a larger size, or fewer --max-new-tokens",
        )
    return InputRejectedError(
        str(error),
        where="--weights",
        fix="use --dtype float32 where it was another; else make the weights anew",
    )


# The model and the tokenizer that the command line names, made sure to belong together.


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(asked: GenerateOptions) -> tuple[GPT, Tokenizer]:
    """Return the model and its tokenizer.

    Raises:
        UsageError: The weights are no folder, or a training run's.
        InputRejectedError: Weights and vocabulary are of different sizes.
        EnvironmentUnfitError: There is no such device.
        CheckpointError: Either is not sound.
    """
    folder = _folder(asked.weights)
    device = parse_device(asked.device)
    try:
        tokenizer = Tokenizer.from_pretrained(
            asked.vocabulary or folder, pretokenizer=asked.pretokenizer
        )
    except TokenizerError as error:
        fix = f"{error.fix}, or name the folder of the vocabulary with --vocabulary"
        raise InputRejectedError(error.what, where=error.where, fix=fix) from error
    model = GPT.from_pretrained(folder, backend="fused")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InputRejectedError(
            f"the vocabulary has {tokenizer.vocab_size} tokens, the weights have "
            f"{model.config.vocab_size}",
            where=str(asked.vocabulary or folder),
            fix="name the vocabulary of these weights with --vocabulary",
        )
    return model.to(device, _DTYPES[asked.dtype]), tokenizer


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What could be a name that parity.convert takes: no path that is absolute, begins with '.', ..."""


def _folder(weights: str) -> Path:
    """Return the folder of weights.

    Raises:
        UsageError: There is none, or it is a run's, which has the weights in a folder of its own.
    """
    folder = Path(weights)
    if folder.is_dir():
        if (folder / "model").is_dir() and (folder / "checkpoints").is_dir():
            fix = f"use --weights {shlex.quote(str(folder / 'model'))}"
            raise UsageError(f"{weights} is a run's folder", where="--weights", fix=fix)
        return folder
    if folder.exists():
        what, fix = f"{weights} is a file", "name the folder it is in"
    elif _HUB_NAME.fullmatch(weights):
        made = shlex.join(["python", "-m", "parity.convert", weights, "DIRECTORY"])
        what = f"{weights} is no folder of weights"
        fix = f"make one with: {made}    then --weights DIRECTORY"
    else:
        what, fix = f"there is no such folder: {weights}", "name the folder of the weights"
    raise UsageError(what, where="--weights", fix=fix)


def print_texts(asked: GenerateOptions) -> int:
    """Generate and print what was asked for; return the exit code.

    Raises:
        CommandError: Usage, weights, vocabulary or this machine are not as needed.
    """
    request = request_of(asked)
    prompts = read_prompts(asked)
    model, tokenizer = load_model(asked)
    most = model.config.n_positions
    ids = [encode_prompts(prompt, tokenizer, asked, n_positions=most) for prompt in prompts]
    try:
        request.rules.check(model.config.vocab_size)
    except SettingError as error:
        raise usage_error(error) from error
    try:
        rows = [
            row
            for number in range(len(ids))
            for row in _told(model, tokenizer, ids, number, request, asked)
        ]
    except NoChoiceError as error:
        raise no_choice_error(error) from error
    if asked.json:
        print_stdout(json.dumps(_document(asked, tokenizer, rows), indent=2) + "\n")
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
    asked: GenerateOptions,
) -> list[dict[str, object]]:
    """Continue one prompt, print it unless JSON is wanted, and return its rows of the document.

    Its draws are its own: what the prompts before it are, or how long, changes nothing in it.
    """
    ids, several = prompts[number], len(prompts) * request.samples > 1
    first = number * request.samples
    request = dataclasses.replace(request, streams=tuple(range(first, first + request.samples)))
    before = tokenizer.decode(ids)
    head = "" if asked.quiet else visible(before)
    streaming = not asked.json and request.samples == 1
    if streaming:
        print_stdout(_title(number, 0, several=several, quiet=asked.quiet) + head)
    show: ShowText = (
        (lambda part: print_stdout(visible(part))) if streaming else (lambda _part: None)
    )
    with _line_closed() if streaming else contextlib.nullcontext():
        found = new_texts(model, tokenizer, ids, request, stop=asked.stop, show=show)
    if streaming:
        print_stdout("\n")
    elif not asked.json:
        for sample, text in enumerate(found):
            title = _title(number, sample, several=several, quiet=asked.quiet)
            print_stdout(f"{title}{head}{visible(text.text)}\n")
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
            print_stdout("\n")
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
    asked: GenerateOptions, tokenizer: Tokenizer, rows: list[dict[str, object]]
) -> dict[str, object]:
    """Return what `--json` prints: the texts, and what fixes them."""
    settings = dataclasses.asdict(asked)
    for name in ("prompt", "prompt_file", "json", "quiet", "debug"):
        del settings[name]
    settings["vocabulary"] = None if asked.vocabulary is None else str(asked.vocabulary)
    settings["pretokenizer"] = tokenizer.pretokenizer
    settings["stop"] = list(asked.stop)
    return {
        "schema_version": 1,
        "settings": settings | {"sampled": asked.sampled},
        "vocabulary_sha256": tokenizer.digest,
        "texts": rows,
    }
