"""Parity harness: compares a GPT-1 with independent implementations, tap by tap.

Every check takes models and token ids, and returns a `Report`. Names are imported lazily:
importing this package alone does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from parity.api import generation, invariants, tokens, weights
    from parity.checks.compare import compare
    from parity.checks.gradients.check import gradients
    from parity.checks.layerwise import layerwise
    from parity.checks.training.check import training
    from parity.core.results import Report, Verdict
    from parity.core.runners import load_pretrained
    from parity.report.json import read_report
    from parity.testing import assert_parity

    __version__: str

_HOMES = {
    "Report": "parity.core.results",
    "Verdict": "parity.core.results",
    "assert_parity": "parity.testing",
    "compare": "parity.checks.compare",
    "generation": "parity.api",
    "gradients": "parity.checks.gradients.check",
    "invariants": "parity.api",
    "layerwise": "parity.checks.layerwise",
    "load_pretrained": "parity.core.runners",
    "read_report": "parity.report.json",
    "tokens": "parity.api",
    "training": "parity.checks.training.check",
    "weights": "parity.api",
    "__version__": "scratch_gpt",
}

__all__ = [
    "Report",
    "Verdict",
    "assert_parity",
    "compare",
    "generation",
    "gradients",
    "invariants",
    "layerwise",
    "load_pretrained",
    "read_report",
    "tokens",
    "training",
    "weights",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
