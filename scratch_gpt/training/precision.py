"""A model whose products are in bfloat16 and whose weights, gradients and losses are not."""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from scratch_gpt.model import GPT

WEIGHTS = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}
"""The dtype of weights, gradients and moments, by the recipe's `dtype`."""


class Rounded(nn.Module):
    """Runs a model on its weights rounded to bfloat16.

    The rounding is part of the graph, so each gradient arrives at the weight itself, in float32:
    small steps add up that bfloat16 weights would round away. Automatic casting would not do:
    products that write into a given tensor are not cast, and derivatives written by hand run
    outside of it.
    """

    def __init__(self, model: GPT) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch time vocab"]:
        """Return the logits, in bfloat16."""
        rounded = {name: p.to(torch.bfloat16) for name, p in self.model.named_parameters()}
        logits: Tensor = torch.func.functional_call(self.model, rounded, (token_ids,))
        return logits


def with_products_in(model: GPT, dtype: str) -> nn.Module:
    """Return what is called for logits: the model itself, or its rounded form."""
    return Rounded(model) if dtype == "bfloat16" else model
