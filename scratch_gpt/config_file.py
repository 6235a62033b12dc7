"""`config.json`, read strictly: no tensor says how many heads there are."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scratch_gpt.config import GPTConfig
from scratch_gpt.files import strict_json
from scratch_gpt.files.refusal import CheckpointError
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.safetensors_header import MOST_TENSORS
from scratch_gpt.files.shown import one_line
from scratch_gpt.huggingface_fields import ALIASES

_LARGEST = 1_000_000
_SIZES = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")
# Beyond these no file that is read here can hold the model, and torch cannot count its bytes.
_MOST_BLOCKS = MOST_TENSORS // 12
_LARGEST_SIZE = 1 << 24


def read(path: Path) -> tuple[GPTConfig, dict[str, Any]]:
    """Return the config in a file, and all fields that the file has.

    Raises:
        CheckpointError: There is no such file, or it is no GPT-1's config that says all of it.
    """
    with opened(path) as file:
        text = file.read(_LARGEST + 1)
    try:
        fields = _fields(text)
        return config_of(fields), fields
    except ValueError as error:
        raise CheckpointError(
            f"{path.name}: {one_line(error)}",
            where=one_line(path),
            fix="give the config.json that belongs to the weights",
        ) from error


def config_of(fields: Mapping[str, Any]) -> GPTConfig:
    """Return the config that Hugging Face's fields describe, all five sizes among them.

    Raises:
        ValueError: A size is not given or implausible, or a field is unknown or unsupported.
    """
    spelled = {ALIASES.get(name, name) for name in fields}
    missing = [name for name in _SIZES if name not in spelled]
    if missing:
        raise ValueError(f"it does not give {', '.join(missing)}")
    config = GPTConfig.from_huggingface(fields)
    for name in _SIZES:
        value, limit = getattr(config, name), _MOST_BLOCKS if name == "n_layer" else _LARGEST_SIZE
        if value > limit:
            raise ValueError(f"{name}={value} is implausible; the limit is {limit}")
    return config


def _fields(text: bytes) -> dict[str, Any]:
    if len(text) > _LARGEST:
        raise ValueError(f"it has more than {_LARGEST} bytes: it is no config")
    fields = strict_json.loads(text)
    if not isinstance(fields, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004 - of a file
    return fields
