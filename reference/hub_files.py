"""Which files of a model's repository are wanted: its config, its weights, its vocabulary."""

import json
import re
from collections.abc import Collection
from pathlib import Path

from reference.plain_file import contents
from reference.refusal import RefusedError

CONFIG = "config.json"

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""The forms weights come in; the first that is there is taken. An index names shards."""

VOCABULARY = (
    "vocab.json",
    "merges.txt",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
)
"""What goes along where there is any."""

_INDEX = ".index.json"
_LARGEST_INDEX = 1 << 24
_SHARD = re.compile(r"\w[\w.-]*\.(safetensors|bin)", re.ASCII)
"""A file beside the index, and no path."""


def weights(names: Collection[str]) -> str | None:
    """Return which of a repository's files has its weights or their index, None if none has."""
    return next((name for name in WEIGHTS if name in names), None)


def is_index(name: str) -> bool:
    """Return whether this file names shards in place of holding weights."""
    return name.endswith(_INDEX)


def shards(index: Path) -> list[str]:
    """Return the names of the shards that an index lists, sorted.

    Raises:
        RefusedError: It is no index, or it lists what lies outside its own folder.
        UnavailableError: It cannot be read.
    """
    fix = "get the file again, or report it to the repository's owner"
    try:
        listed = json.loads(contents(index, _LARGEST_INDEX))["weight_map"].values()
        strangers = [name for name in listed if not _SHARD.fullmatch(name)]
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        what = f"{index.name} lists no shards ({type(error).__name__})"
        raise RefusedError(what, where=str(index), fix=fix) from error
    if strangers or not listed:
        found = f"{strangers[0]!r:.60} as a shard" if strangers else "no shard"
        raise RefusedError(f"{index.name} names {found}", where=str(index), fix=fix)
    return sorted(set(listed))
