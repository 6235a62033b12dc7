"""Published token ids of strings, from `goldens/token_ids.json`, which names their sources."""

import json
from importlib import resources
from typing import NamedTuple


class PublishedIds(NamedTuple):
    """One string, with the ids that each tokenizer gives; None where none were measured."""

    text: str
    huggingface: list[int] | None
    original: list[int] | None  # of the release's own code, with today's spaCy and ftfy


_FILE = resources.files("reference").joinpath("goldens/token_ids.json")

PUBLISHED = tuple(PublishedIds(**row) for row in json.loads(_FILE.read_text("utf-8"))["strings"])
