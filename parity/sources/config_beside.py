"""The `config.json` beside weights of any form: read strictly, and as transformers reads it."""

import dataclasses
import os
from pathlib import Path
from typing import Any

from transformers import OpenAIGPTConfig

from parity.errors import InputRefusedError
from parity.sources import json_file
from scratch_gpt import config_file

NAME = "config.json"


def read(folder: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.

    Raises:
        CheckpointError: It is no GPT-1's config that says all of it.
        InputRefusedError: There is none, or transformers reads another model out of it than we do.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        raise InputRefusedError(
            "there is no config.json beside the weights",
            where=str(folder),
            fix="copy it from where they came from: no tensor says how many heads there are",
        )
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
