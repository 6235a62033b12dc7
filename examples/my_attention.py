"""An attention kernel of one's own, on PyTorch's `scaled_dot_product_attention`.

    python -m parity.check layerwise --kernel examples/my_attention.py:attention

It forms no scores and no weights, so it calls no tap.
"""
# ruff: noqa: INP001 - loaded by its path, not a package

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def attention(  # noqa: PLR0913 - the signature of an attention kernel
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    tap: object = None,  # noqa: ARG001 - neither scores nor weights exist as tensors
    dropout_probability: float = 0.0,
) -> Tensor:
    """Return the context, `[batch head time_q head_width]` as the query."""
    time_q, time_k = query.shape[-2], key.shape[-2]
    keys = torch.arange(time_k, device=query.device)
    own = keys[time_k - time_q :, None]
    seen = keys <= own
    if mask is not None:  # padding is hidden, but a query attends to itself
        seen = seen & (mask[:, None, None] | (keys == own))
    return scaled_dot_product_attention(query, key, value, seen, dropout_probability)
