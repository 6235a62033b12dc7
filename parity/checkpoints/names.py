"""Parse and check the values of `--weights` without torch, so that a wrong one fails at once."""

import difflib
import os
import re
from pathlib import Path

from parity.errors import UsageError
from reference import published
from scratch_gpt.errors import quote
from scratch_gpt.options import require_path, similar_paths

DRAWN = ("surrogate", "tiny")
"""Names of weights that are drawn from a seed."""

SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt")
"""Suffixes of the files with tensors that can be read."""

REPOSITORY = re.compile(r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[\w./-]+))?")
RELEASED = re.compile(rf"(?P<id>{'|'.join(published.REPOSITORIES)})(@(?P<revision>[\w./-]+))?")


def _is_known(name: str) -> bool:
    return name == "auto" or name in DRAWN or RELEASED.fullmatch(name) is not None


def is_path(name: str) -> bool:
    """Return whether a name is a path: it exists, or has the form of one.

    `auto`, drawn and released weights are none, even where a folder has that name.
    """
    if _is_known(name):
        return False
    separators = {os.sep, os.altsep or os.sep}
    repository = name.partition("@")[0]
    return (
        name.startswith((".", "~", *separators))
        or Path(name).suffix in {*SUFFIXES, ".json", ".npy"}
        or sum(repository.count(separator) for separator in separators) > 1
        or os.path.lexists(name)
    )


def unknown_weights(name: str) -> UsageError:
    """Return the error of a name that is neither a known one, nor a repository's, nor a path."""
    known = ["auto", *DRAWN, *published.REPOSITORIES]
    near = difflib.get_close_matches(name, known, n=1) or similar_paths(name)[:1]
    guess = f"did you mean {near[0]}? " if near else ""
    return UsageError(
        f"{quote(name)} names no weights",
        where="--weights",
        fix=f"{guess}use auto, surrogate, tiny, openai-gpt, a hub repository owner/name, or a path",
    )


def check_weights(name: str, where: str = "--weights ") -> None:
    """Require a name of weights that can be one; repositories are not looked up.

    `where` is put before the name in an error.

    Raises:
        UsageError: It is none, with the one that was probably meant.
    """
    if is_path(name):
        require_path(name, where=f"{where}{name}", what="there is nothing at that path")
    elif not (_is_known(name) or REPOSITORY.fullmatch(name)):
        raise unknown_weights(name)
