"""Parity harness: compares a GPT-1 with independent implementations, tap by tap.

Names are imported lazily: importing this package alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.checks.compare import compare
    from parity.checks.layerwise import layerwise
    from parity.core.runners import load_pretrained

    __version__: str

_HOMES = {
    "compare": "parity.checks.compare",
    "layerwise": "parity.checks.layerwise",
    "load_pretrained": "parity.core.runners",
    "__version__": "scratch_gpt",
}

__all__ = ["compare", "layerwise", "load_pretrained"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
