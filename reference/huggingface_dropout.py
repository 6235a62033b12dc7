"""Hugging Face's model with its dropout given from outside: which elements, and where."""

import contextlib
from collections.abc import Callable, Iterator
from functools import partial

from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

Keeps = Callable[[str, Tensor, float], Tensor]
"""Called with (place, what is to be dropped from, probability); returns which elements stay."""

_PLACES = {"attn_dropout": "attn.weights", "resid_dropout": "attn", "dropout": "mlp"}
"""What a block's dropout is applied to, by the module's own name."""


@contextlib.contextmanager
def given(model: OpenAIGPTLMHeadModel, keeps: Keeps) -> Iterator[None]:
    """Let every dropout of a model in training mode keep what `keeps` says, scaled up.

    Places are named as taps are: `embeddings`, `h.3.attn.weights`, `h.3.attn`, `h.3.mlp`.

    Raises:
        ValueError: A dropout stands where none is known; this version has another model.
    """
    modules = {name: m for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    placed = {_place(name): module for name, module in modules.items()}
    try:
        for place, module in placed.items():
            module.forward = partial(_dropped, place, module, keeps)  # type: ignore[method-assign]
        yield
    finally:
        for module in modules.values():
            vars(module).pop("forward", None)  # the class's own shows through again


def _dropped(place: str, module: nn.Dropout, keeps: Keeps, x: Tensor) -> Tensor:
    """Return what the module would, for given elements."""
    if not module.training or module.p == 0.0:
        return x
    return x * (keeps(place, x, module.p).to(x.dtype) / (1.0 - module.p))


def _place(name: str) -> str:
    """Return the place of a dropout module: `transformer.h.3.mlp.dropout` is at `h.3.mlp`."""
    if name == "transformer.drop":
        return "embeddings"
    _, *block, _, last = name.split(".")
    if last not in _PLACES:
        message = f"this version of transformers has a dropout at {name}, which is not known here"
        raise ValueError(message)
    return ".".join([*block, _PLACES[last]])
