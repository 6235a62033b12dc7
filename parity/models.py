"""Models built from weights; each with storage of its own."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.conversion import convert
from parity.machine import copied
from parity.mapping import Side
from parity.provenance import Provenance
from parity.sources.drawn import OnTensor
from parity.sources.names import load_weights
from parity.weights import Weights
from reference import huggingface
from scratch_gpt.config import GPTConfig
from scratch_gpt.model import GPT


def load_pretrained(
    source: str, *, attention: str = "plain", on_tensor: OnTensor | None = None
) -> tuple[GPT, Provenance]:
    """Return our model with pretrained weights, in evaluation mode, and what they are.

    Args:
        source: As `--weights`: `openai-gpt`, a hub repository `owner/name[@revision]`, a folder
            or file of any published form, `surrogate` or `tiny`.
        attention: Name of an attention core.
        on_tensor: Called with (tensors done, tensors in all) while weights are drawn.

    Raises:
        ParityError: The weights are not there, or not what they must be.
    """
    weights = load_weights(source, on_tensor)
    return build_ours(weights, attention), weights.provenance


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
