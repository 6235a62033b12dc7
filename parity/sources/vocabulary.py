"""The vocabulary's files that lie beside weights, under the names of either publication."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.sources import json_file
from scratch_gpt.files.regular_file import opened

NAMES = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}
"""Hugging Face's name to OpenAI's: the bytes are the same."""


def check(folder: Path, fields: Mapping[str, Any]) -> None:
    """Require that a vocabulary in the folder, where there is one, has the config's size.

    Raises:
        InputRefusedError: It has another, or is no vocabulary.
    """
    for name in ("vocab.json", NAMES["vocab.json"]):
        path = folder / name
        if not path.exists():
            continue
        ids = json_file.read(path).values()
        wanted = fields.get("vocab_size")
        if not all(type(number) is int for number in ids) or set(ids) != set(range(len(ids))):
            raise json_file.refused(path, "its ids are not 0, 1, 2, ... each once")
        if len(ids) != wanted:
            raise json_file.refused(path, f"it has {len(ids)} tokens, the config {wanted}")


_OTHERS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "generation_config.json",
)
"""What else of Hugging Face's is about text; OpenAI's release has nothing for it to become."""


def copy(folder: Path | None, target: Path, *, openai: bool) -> None:
    """Copy the vocabulary that lies in a folder, if one does, under the names of a form.

    Args:
        folder: Where to look.
        target: A folder to write into.
        openai: Whether OpenAI's names are wanted, else Hugging Face's.

    Raises:
        InputRefusedError, CheckpointError: A file of it is none, or far too large for one.
    """
    if folder is None:
        return
    for hugging_face, release in NAMES.items():
        found = next((n for n in (hugging_face, release) if os.path.lexists(folder / n)), None)
        if found is not None:
            _copy(folder / found, target / (release if openai else hugging_face))
    for name in () if openai else _OTHERS:
        if os.path.lexists(folder / name):
            _copy(folder / name, target / name)


_LARGEST = 16 << 20
"""Bytes; the released vocabulary's files have under one million each, tokenizer.json 1.3."""


def _copy(source: Path, target: Path) -> None:
    with opened(source) as file:
        text = file.read(_LARGEST + 1) or b""
    if len(text) > _LARGEST:
        raise json_file.refused(source, f"it has more than {_LARGEST:,} bytes: no vocabulary has")
    target.write_bytes(text)
