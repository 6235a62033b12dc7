"""GPT-1, written from basic tensor operations.

Its names are imported lazily: importing the package alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scratch_gpt.config import GPTConfig
    from scratch_gpt.kernels.backends import register_attention
    from scratch_gpt.model import GPT
    from scratch_gpt.tokenizer.tokenizer import Tokenizer

    __version__: str

_MODULES = {
    "GPT": "scratch_gpt.model",
    "GPTConfig": "scratch_gpt.config",
    "Tokenizer": "scratch_gpt.tokenizer.tokenizer",
    "register_attention": "scratch_gpt.kernels.backends",
}

__all__ = ["GPT", "GPTConfig", "Tokenizer", "register_attention"]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("gpt1-parity")
        except PackageNotFoundError:  # a checkout or an archive that is not installed
            return "0+unknown"
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
