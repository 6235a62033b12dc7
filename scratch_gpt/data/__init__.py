"""Text as files of tokens, and rows of them to train on.

Names are imported on first use: importing this package alone imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scratch_gpt.data.dataset import TokenData
    from scratch_gpt.data.preparation import prepare
    from scratch_gpt.data.windows import Windows
    from scratch_gpt.errors import TooLittleTextError

_HOMES = {
    "TokenData": "scratch_gpt.data.dataset",
    "TooLittleTextError": "scratch_gpt.errors",
    "Windows": "scratch_gpt.data.windows",
    "prepare": "scratch_gpt.data.preparation",
}

__all__ = ["TokenData", "TooLittleTextError", "Windows", "prepare"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)
