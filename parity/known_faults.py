"""Every fault of the registry as data, so that a command lists and checks them without torch.

The modules that register faults need torch, because a fault is code. Their descriptions are in
`faults/faults.json`; `python -m parity.known_faults` writes that file after a fault has changed.
"""

import dataclasses
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from parity.faults.registry import Fault

Described = dict[str, Any]
"""One fault: `name`, `what`, `at`, and the other fields of its kind that are text or flags."""


@cache
def known_faults() -> dict[str, list[Described]]:
    """Return the faults of the file by kind: forward, backward, tokenizer, ..."""
    text = resources.files("parity").joinpath("faults/faults.json").read_text("utf-8")
    found: dict[str, list[Described]] = json.loads(text)
    return found


def render() -> str:
    """Return what the file must hold for the faults of the registry, a fault a line."""
    from parity.checks.generation.faults import GENERATION_FAULTS
    from parity.checks.gradients.faults import BACKWARD_FAULTS
    from parity.checks.invariants.faults import INVARIANT_FAULTS
    from parity.checks.tokens.faults import TOKENIZER_FAULTS
    from parity.checks.training.faults import TRAINING_FAULTS
    from parity.faults.forward import FORWARD_FAULTS

    kinds: dict[str, Mapping[str, Fault]] = {
        "forward": FORWARD_FAULTS,
        "backward": BACKWARD_FAULTS,
        "tokenizer": TOKENIZER_FAULTS,
        "training": TRAINING_FAULTS,
        "generation": GENERATION_FAULTS,
        "invariants": INVARIANT_FAULTS,
    }
    parts = []
    for kind, faults in kinds.items():
        lines = ",\n".join(f"  {json.dumps(_described(fault))}" for fault in faults.values())
        parts.append(f" {json.dumps(kind)}: [\n{lines}\n ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _described(fault: Fault) -> Described:
    """Return the fields of a fault that are text, flags or names; the others are code."""
    fields = {one.name: getattr(fault, one.name) for one in dataclasses.fields(fault)}
    return {
        name: value
        for name, value in fields.items()
        if name != "code"
        and (
            (isinstance(value, str | bool) and value != "")
            or (isinstance(value, tuple) and all(isinstance(part, str) for part in value))
        )
    }


if __name__ == "__main__":
    Path(__file__).with_name("faults").joinpath("faults.json").write_text(render(), "utf-8")
