"""The harness: is this GPT-1 the same function as the others, and if not, where do they part?

Names are handed on lazily: importing this package alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.checks.layerwise import layerwise as layerwise
    from parity.conversion import convert as convert

_HOMES = {"layerwise": "parity.checks.layerwise", "convert": "parity.convert"}

__all__ = ["convert", "layerwise"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
