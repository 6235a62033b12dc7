"""The `config.json` beside weights of any form: read strictly, and as transformers reads it."""

import dataclasses
from pathlib import Path
from typing import Any

from transformers import OpenAIGPTConfig

from parity.sources import json_file
from scratch_gpt import config_file

NAME = "config.json"


def read(folder: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.

    Raises:
        CheckpointError: There is none, or it is no GPT-1's that says all of it.
        InputRefusedError: transformers reads another model out of it than we do, or none.
    """
    path = folder / NAME
    config, fields = config_file.read(path)
    try:
        theirs = OpenAIGPTConfig.from_dict(dict(fields)).to_dict()
    except Exception as error:
        raise json_file.refused(path, str(error).replace("\n", " ")[:200]) from error
    ours = dataclasses.asdict(config)
    differing = [name for name, value in ours.items() if theirs.get(name) != value]
    if differing:
        read = [f"{name}: {theirs.get(name)!r} and {ours[name]!r}" for name in differing]
        raise json_file.refused(path, f"transformers and we read it differently: {read}")
    return fields
