"""The vocabulary's files that lie beside weights, under the names of either publication."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parity.sources import json_file

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
