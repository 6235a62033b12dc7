"""Inverted dropout: kept elements are scaled up in training, so evaluation needs no scaling."""

import torch
from jaxtyping import Float
from torch import Tensor


def dropout(x: Float[Tensor, "*shape"], probability: float) -> Float[Tensor, "*shape"]:
    """Return `x` with each element zeroed with `probability`, the others scaled.

    The others are divided by `1 - probability`; `probability` is in [0, 1), and 0 returns `x`.

    Source: finetune-transformer-lm train.py `dropout` (a69b5c4).
    """
    if probability == 0.0:
        return x
    # Drawn in float32: bfloat16 has 8 bits, so a probability of 0.1 would drop 0.102.
    kept = torch.rand_like(x, dtype=torch.float32) >= probability
    return x * kept / (1.0 - probability)
