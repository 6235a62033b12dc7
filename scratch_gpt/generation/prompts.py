"""The prompts of the command line: where they come from, and as ids."""

import sys
from pathlib import Path

from scratch_gpt.command.errors import InputRefusedError, UsageError
from scratch_gpt.generation.asked import Asked
from scratch_gpt.tokenization.refusal import TextError
from scratch_gpt.tokenizer import Tokenizer

_HOW = 'give --prompt "some text", --prompt-file FILE, or text on standard input'


def prompts_of(asked: Asked) -> list[str]:
    """Return every prompt, those of `--prompt` first.

    Raises:
        UsageError: There is none, or its bytes are no UTF-8.
        InputRefusedError: The file cannot be read.
    """
    prompts = list(asked.prompts)
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
        raise InputRefusedError(
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


def encoded(prompt: str, tokenizer: Tokenizer, asked: Asked, *, n_positions: int) -> list[int]:
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
