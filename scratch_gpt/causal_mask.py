"""Causal and padding masks, and the checks of a kernel's inputs, for every attention kernel."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def hidden_keys(
    time_q: int,
    time_k: int,
    mask: Bool[Tensor, "batch time_k"] | None,
    device: torch.device,
) -> Bool[Tensor, "rows 1 time_q time_k"]:
    """Return True where a query must not attend to a key; `rows` is `batch` with a mask, else 1.

    Query `t` is at key `t + time_k - time_q`. Later keys are hidden, padding is hidden, and a
    query's own key never is.
    """
    past = time_k - time_q
    future = torch.ones(1, 1, time_q, time_k, dtype=torch.bool, device=device).triu_(past + 1)
    if mask is None:
        return future
    keys = torch.arange(time_k, device=device)
    return future | (~mask[:, None, None, :] & (keys != keys[past:, None]))


def check_kernel_inputs(
    query: Float[Tensor, "batch head time_q head_width"],
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
) -> None:
    """Reject shapes that would broadcast, and more queries than keys.

    Raises:
        ValueError: Names the tensor and the shapes.
    """
    batch, _, time_q, _ = query.shape
    time_k = key.shape[-2]
    if key.shape != value.shape or key.shape != (*query.shape[:2], time_k, query.shape[-1]):
        raise ValueError(
            "key and value must be [batch head time_k head_width] like query, got "
            f"{list(query.shape)}, {list(key.shape)}, {list(value.shape)}"
        )
    if not 0 < time_q <= time_k:
        raise ValueError(f"attention needs 1 <= time_q <= time_k, got {time_q} and {time_k}")
    if mask is not None and mask.shape != (batch, time_k):
        raise ValueError(f"mask must be [batch time_k] = {[batch, time_k]}, got {list(mask.shape)}")
