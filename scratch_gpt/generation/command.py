"""The body of `python -m scratch_gpt.generate`: options, model, prompts, output."""

import contextlib
import dataclasses
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import torch

from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.cli import parse_device, print_stderr, print_stdout
from scratch_gpt.errors import (
    CheckpointError,
    CommandError,
    EnvironmentUnfitError,
    ExitCode,
    InputRejectedError,
    NoChoiceError,
    SettingError,
    TextError,
    TokenizerError,
    UsageError,
    quote,
)
from scratch_gpt.generate import GenerateOptions
from scratch_gpt.generation.generate import Request
from scratch_gpt.generation.text_stream import ShowText, Stops, new_texts, visible
from scratch_gpt.model import GPT
from scratch_gpt.options import require_memory
from scratch_gpt.tokenizer.tokenizer import Tokenizer


def print_texts(options: GenerateOptions) -> int:
    """Generate and print the requested texts; return the exit code.

    Raises:
        CommandError: Options, weights, vocabulary or this machine are not as required.
    """
    request = request_of(options)
    prompts = read_prompts(options)
    model, tokenizer = load_model(options)
    n_positions = model.config.n_positions
    ids = [encode_prompt(prompt, tokenizer, options, n_positions) for prompt in prompts]
    for prompt in ids:
        require_rows(prompt, tokenizer, model.config.vocab_size)
    try:
        request.rules.check(model.config.vocab_size)
    except SettingError as error:
        raise usage_error(error) from error
    _require_memory(model, max(map(len, ids)), request)
    try:
        rows = [
            row
            for number in range(len(ids))
            for row in _continue_prompt(model, tokenizer, ids, number, request, options)
        ]
    except NoChoiceError as error:
        raise no_choice_error(error) from error
    if options.json:
        print_stdout(json.dumps(_document(options, tokenizer, rows), indent=2) + "\n")
    if any(row["ended"] == "positions" for row in rows):
        fix = "--overflow slide goes on" + (", without --beams" if options.beams > 1 else "")
        _note(options, f"the text ends at the model's {n_positions} positions; {fix}")
    return ExitCode.PASS


def _note(options: GenerateOptions, text: str) -> None:
    if not options.quiet:
        print_stderr(f"{text}\n")


def _require_memory(model: GPT, longest: int, request: Request) -> None:
    """Require the memory of the caches and of two float64 rows of logits for each text."""
    config, rows = model.config, max(request.samples, request.beams)
    capacity = min(longest + request.max_new_tokens, config.n_positions)
    cache = 2 * 4 * config.n_layer * config.n_embd * capacity
    flag = "--beams" if request.beams > 1 else "--samples"
    require_memory(
        rows * (cache + 2 * 8 * config.vocab_size),
        where=f"{flag} {rows}",
        fix=f"lower {flag} or --max-new-tokens",
    )


_OF_REQUEST = (
    *("seed", "samples", "beams", "overflow"),
    *("top_k", "top_p", "repetition_penalty", "no_repeat_ngram_size", "sampled"),
)
"""The options with the names and values of a request's fields, or of its rules'."""


def request_of(options: GenerateOptions) -> Request:
    """Return the request that the options describe; raise a `UsageError` for one out of range."""
    try:
        Stops(options.stop)
        chosen = {name: getattr(options, name) for name in _OF_REQUEST}
        temperature = 1.0 if options.temperature is None else options.temperature
        return Request.of(options.max_new_tokens, temperature=temperature, **chosen)
    except SettingError as error:
        raise usage_error(error) from error


def usage_error(error: SettingError) -> UsageError:
    """Return the error in terms of options, which have the settings' names."""
    flags = {f"--{name.replace('_', '-')}": value for name, value in error.got.items()}
    values = " and ".join(f"{flag} is {quote(value)}" for flag, value in flags.items())
    return UsageError(
        f"{values}; allowed: {error.allowed}",
        where=" and ".join(flags),
        fix="python -m scratch_gpt.generate --help describes each option",
    )


def no_choice_error(error: NoChoiceError) -> CommandError:
    """Return a usage error if the rules exclude every token, else an error of the weights."""
    if error.excluded:
        return UsageError(
            error.what,
            where="--no-repeat-ngram-size",
            fix="use a larger size, or fewer --max-new-tokens",
        )
    return InputRejectedError(
        error.what,
        where="--weights",
        fix="use --dtype float32 if it was another; else convert or train the weights again",
    )


_PROMPT_FIX = 'use --prompt "some text", --prompt-file FILE, or text on standard input'


def read_prompts(options: GenerateOptions) -> list[str]:
    """Return every prompt, those of `--prompt` first.

    Raises:
        UsageError: There is no prompt, or it is not UTF-8.
        InputRejectedError: The file cannot be read.
    """
    prompts = list(options.prompt)
    path = options.prompt_file
    if path is not None and path != "-":
        try:
            with open_regular(Path(path)) as file:
                prompts.append(_decode(_read(file, path), path))
        except CheckpointError as error:
            raise InputRejectedError(
                f"the prompt cannot be read: {error.what}",
                where=error.where,
                fix="name another file, or pipe the text: --prompt-file -",
            ) from error
    elif path == "-" or not prompts:
        if sys.stdin is None or (path is None and sys.stdin.isatty()):
            raise UsageError("there is no prompt", where="--prompt", fix=_PROMPT_FIX)
        prompts.append(_decode(_read(sys.stdin.buffer, "standard input"), "standard input"))
    return prompts


_LARGEST_PROMPT = 1 << 20
"""Bytes; the released model sees 512 tokens, some 3,000 bytes."""


def _read(file: BinaryIO | io.BytesIO, where: str) -> bytes:
    """Return the content of a file that holds a prompt, at most `_LARGEST_PROMPT` bytes."""
    content = file.read(_LARGEST_PROMPT + 1) or b""  # None: nothing yet, and it may not wait
    if len(content) > _LARGEST_PROMPT:
        raise UsageError(
            f"the prompt has more than {_LARGEST_PROMPT:,} bytes",
            where=where,
            fix="give its end only: the model reads no more than its positions",
        )
    return content


def _decode(content: bytes, where: str) -> str:
    """Return a prompt's text without the file's last line end."""
    try:
        return content.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"the prompt is not valid UTF-8 at byte {error.start}",
            where=where,
            fix="save it as UTF-8",
        ) from error


_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(options: GenerateOptions) -> tuple[GPT, Tokenizer]:
    """Return the model and its tokenizer.

    Raises:
        UsageError: `--weights` names no folder, or the folder of a training run.
        InputRejectedError: There is no sound vocabulary.
        EnvironmentUnfitError: The device does not exist.
        CheckpointError: A file of the weights is missing or damaged.
    """
    folder = _weights_folder(options.weights)
    device = parse_device(options.device)
    try:
        tokenizer = Tokenizer.from_pretrained(
            options.vocabulary or folder, pretokenizer=options.pretokenizer
        )
    except TokenizerError as error:
        fix = f"{error.fix}, or name the folder of the vocabulary with --vocabulary"
        raise InputRejectedError(error.what, where=error.where, fix=fix) from error
    model = GPT.from_pretrained(folder)
    tokens, rows = tokenizer.vocab_size, model.config.vocab_size
    if tokens != rows:
        _note(options, f"note: the vocabulary has {tokens} tokens, the token embedding {rows} rows")
    return model.to(device, _DTYPES[options.dtype]), tokenizer


def require_rows(ids: list[int], tokenizer: Tokenizer, rows: int) -> None:
    """Require that the model has a row for each id; raise an `InputRejectedError` otherwise."""
    if (largest := max(ids)) >= rows:
        (token,) = tokenizer.tokens([largest])
        raise InputRejectedError(
            f"the token {quote(token)} of the prompt has the id {largest}; the token embedding has "
            f"{rows} rows, the vocabulary {tokenizer.vocab_size} tokens",
            where="--prompt",
            fix="name the vocabulary of these weights with --vocabulary, or leave the token out",
        )


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""A name that `parity.convert` may accept; not an absolute path, nor one that starts with '.'."""


def _weights_folder(weights: str) -> Path:
    """Return the folder of the weights, not one of a training run; it must exist."""
    folder = Path(weights)
    if not weights:  # Path("") is the current folder
        raise UsageError("it is empty", where="--weights", fix="name the folder of the weights")
    if folder.is_dir():
        if (folder / "model").is_dir() and (folder / "checkpoints").is_dir():
            fix = f"use --weights {shlex.quote(str(folder / 'model'))}"
            raise UsageError(f"{weights} is a run's folder", where="--weights", fix=fix)
        return folder
    if folder.exists():
        what, fix = f"{weights} is a file", "name the folder it is in"
    elif _HUB_NAME.fullmatch(weights):
        convert = shlex.join(["python", "-m", "parity.convert", weights, "DIRECTORY"])
        what = f"{weights} is not a folder of weights"
        fix = f"convert it first: {convert}    then use --weights DIRECTORY"
    else:
        what, fix = f"there is no such folder: {weights}", "name the folder of the weights"
    raise UsageError(what, where="--weights", fix=fix)


def encode_prompt(
    prompt: str, tokenizer: Tokenizer, options: GenerateOptions, n_positions: int
) -> list[int]:
    """Return a prompt's ids; raise a `UsageError` if it is empty, invalid or too long."""
    try:
        ids = tokenizer.encode(prompt)
    except TextError as error:
        raise UsageError(error.what, where=f"the prompt, {error.where}", fix=error.fix) from error
    if not ids:
        raise UsageError("empty prompt: it has no token", where="--prompt", fix=_PROMPT_FIX)
    if len(ids) > n_positions and options.overflow != "slide":
        raise UsageError(
            f"the prompt has {len(ids)} tokens; this model has max {n_positions}",
            where="--prompt",
            fix="shorten it, or use --overflow slide to continue from its end",
        )
    if options.overflow == "error" and len(ids) + options.max_new_tokens > n_positions:
        raise UsageError(
            f"{len(ids)} tokens of prompt and {options.max_new_tokens} new ones are more than the "
            f"model's {n_positions} positions",
            where="--overflow error",
            fix="lower --max-new-tokens, shorten the prompt, or use --overflow stop or slide",
        )
    return ids


def _continue_prompt(  # noqa: PLR0913 - the models, a prompt and the settings
    model: GPT,
    tokenizer: Tokenizer,
    prompts: list[list[int]],
    number: int,
    request: Request,
    options: GenerateOptions,
) -> list[dict[str, object]]:
    """Continue prompt `number`, print it unless JSON is requested, and return its JSON rows.

    Its random streams are its own, so it does not depend on the other prompts.
    """
    ids, several = prompts[number], len(prompts) * request.samples > 1
    first = number * request.samples
    request = dataclasses.replace(request, streams=tuple(range(first, first + request.samples)))
    before = tokenizer.decode(ids)

    def heading(sample: int) -> str:
        if options.quiet:
            return ""
        title = f"--- prompt {number + 1}, text {sample + 1} ---\n" if several else ""
        return title + visible(before)

    streaming = not options.json and request.samples == 1
    if streaming:
        print_stdout(heading(0))
    show: ShowText = (
        (lambda part: print_stdout(visible(part))) if streaming else (lambda _part: None)
    )
    with _line_end_on_error() if streaming else contextlib.nullcontext():
        texts = new_texts(model, tokenizer, ids, request, stop=options.stop, show=show)
    if streaming:
        print_stdout("\n")
    elif not options.json:
        for sample, text in enumerate(texts):
            print_stdout(f"{heading(sample)}{visible(text.text)}\n")
    return [
        {
            "prompt": number + 1,
            "text_number": sample + 1,
            "text": before + text.text,
            "new_text": text.text,
            "prompt_ids": ids,
            "new_ids": text.ids,
            "ended": text.ended,
        }
        for sample, text in enumerate(texts)
    ]


@contextlib.contextmanager
def _line_end_on_error() -> Iterator[None]:
    """End the current line of text if an error interrupts it, so that the error gets its own."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt):
        with contextlib.suppress(EnvironmentUnfitError, BrokenPipeError):
            print_stdout("\n")
        raise


def _document(
    options: GenerateOptions, tokenizer: Tokenizer, rows: list[dict[str, object]]
) -> dict[str, object]:
    """Return the output of `--json`: the texts and everything that determines them."""
    settings = dataclasses.asdict(options)
    for name in ("prompt", "prompt_file", "json", "quiet", "debug"):
        del settings[name]
    settings["vocabulary"] = None if options.vocabulary is None else str(options.vocabulary)
    settings["pretokenizer"] = tokenizer.pretokenizer
    settings["stop"] = list(options.stop)
    return {
        "schema_version": 1,
        "settings": settings | {"sampled": options.sampled},
        "vocabulary_sha256": tokenizer.digest,
        "texts": rows,
    }
