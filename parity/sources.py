"""Where weights come from, and the models built from them; each with storage of its own."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.convert import convert
from parity.errors import InputRefusedError, UsageError
from parity.machine import copied
from parity.mapping import Side
from reference import huggingface, surrogate
from scratch_gpt.config import GPTConfig
from scratch_gpt.model import GPT

OnTensor = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weights:
    """Weights and what they are.

    Attributes:
        config: Fields of the model's config, in Hugging Face's names.
        tensors: Our name to float32 array. Models copy them; nobody writes to them.
        source: What they are, in words.
        revision: Which edition.
        sha256: Digest over names and bytes.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, NDArray[np.float32]]
    source: str
    revision: str
    sha256: str

    @property
    def identity(self) -> dict[str, str]:
        """Return what a verdict says about its weights."""
        return {"source": self.source, "revision": self.revision, "sha256": self.sha256}


def load_weights(name: str, on_tensor: OnTensor | None = None) -> Weights:
    """Return the weights that `--weights name` stands for.

    Args:
        name: `surrogate`, `tiny` (the same recipe, small), or `auto`, which is the surrogate
            until released weights can be fetched.
        on_tensor: Called with (tensors done, tensors in all).

    Raises:
        UsageError: This version cannot read that form.
        InputRefusedError: The drawn tensors are not the committed ones.
    """
    size = {"auto": "surrogate"}.get(name, name)
    if size not in surrogate.SIZES:
        raise UsageError(
            f"this version cannot read weights from {name!r}",
            where="--weights",
            fix="use auto, surrogate (full size) or tiny",
        )
    try:
        drawn = surrogate.load(size, on_tensor)
    except surrogate.SurrogateMismatchError as error:
        raise InputRefusedError(
            str(error),
            where=f"surrogate weights {size!r}, drawn by NumPy {np.__version__}",
            fix="report this: the draw should give the same bits on every machine",
        ) from error
    label = "surrogate" if size == "surrogate" else f"surrogate ({size})"
    return Weights(
        config=drawn.config,
        tensors=drawn.tensors,
        source=f"{label}: seeded random weights, not the released ones",
        revision=f"recipe {surrogate.RECIPE}",
        sha256=drawn.sha256,
    )


def build_ours(weights: Weights, attention: str = "plain") -> GPT:
    """Return our model with a copy of the weights, in evaluation mode."""
    config = GPTConfig.from_huggingface(weights.config)
    with torch.device("meta"):
        model = GPT(config, attention=attention)
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.OURS)
    model.load_state_dict(_copies(named), assign=True)
    return model.eval()


def build_huggingface(weights: Weights) -> OpenAIGPTLMHeadModel:
    """Return Hugging Face's model with a copy of the weights, in evaluation mode."""
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.HUGGINGFACE)
    return huggingface.build(weights.config, _copies(named))


def _copies(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    made = copied(lambda array: torch.from_numpy(array).clone(), arrays.values())
    return dict(zip(arrays, made, strict=True))
