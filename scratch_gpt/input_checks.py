"""Checks of the model's inputs: dtype, shape, device and range, before any weight is used.

Indexing alone would accept some bad inputs: a negative id wraps to the end of the table, and uint8
ids act as a mask. On CUDA an id past the end makes the device unusable. So the checks read the
values on every device, and the errors name the value and its index.
"""

from torch import Tensor, int32, int64
from torch import bool as torch_bool
from torch import device as torch_device

from scratch_gpt.config import GPTConfig


def check_inputs(  # noqa: PLR0913 - the three inputs and what they are checked against
    token_ids: Tensor,
    positions: Tensor | None,
    attention_mask: Tensor | None,
    *,
    config: GPTConfig,
    device: torch_device,
    cached: int = 0,
) -> None:
    """Reject invalid inputs.

    Args:
        token_ids: `[batch time]`, int32 or int64, each in `[0, vocab)`.
        positions: `[batch time]` or `[1 time]`, int32 or int64, each in `[0, n_positions)`.
        attention_mask: `[batch cached+time]`, bool; False marks padding.
        config: The model's config.
        device: The device of the model's weights.
        cached: Tokens of each row that are already in a cache.

    Raises:
        ValueError: Names the argument, the problem and the index.
    """
    _check_indices("token_ids", token_ids, config.vocab_size, device)
    batch, time = token_ids.shape
    if time + (cached if positions is None else 0) > config.n_positions:
        after = f" after {cached} in the cache" if cached else ""
        raise ValueError(
            f"token_ids has {time} tokens a row{after}; this model has max {config.n_positions}"
        )
    if positions is not None:
        _check_indices("positions", positions, config.n_positions, device)
        _check_shape("positions", positions, {(batch, time), (1, time)})
    if attention_mask is not None:
        _check_device("attention_mask", attention_mask, device)
        if attention_mask.dtype is not torch_bool:
            raise ValueError(
                f"attention_mask must be bool, got {attention_mask.dtype}; use mask.bool()"
            )
        _check_shape("attention_mask", attention_mask, {(batch, cached + time)})


def _check_indices(name: str, indices: Tensor, bound: int, device: torch_device) -> None:
    if indices.dtype not in (int32, int64):
        raise ValueError(f"{name} must be int32 or int64, got {indices.dtype}")
    if indices.ndim != 2:  # noqa: PLR2004 - batch and time
        raise ValueError(f"{name} must be [batch time], got shape {list(indices.shape)}")
    if indices.numel() == 0:
        raise ValueError(f"{name} is empty: shape {list(indices.shape)}")
    _check_device(name, indices, device)
    outside = ((indices < 0) | (indices >= bound)).nonzero()
    if len(outside) > 0:
        row, column = outside[0].tolist()
        value = int(indices[row, column])
        raise ValueError(f"{name}[{row}, {column}] is {value}, which is not in [0, {bound})")


def _check_device(name: str, tensor: Tensor, device: torch_device) -> None:
    if tensor.device.type == "meta":
        raise ValueError(f"{name} is on the meta device and holds no values")
    if tensor.device != device:
        raise ValueError(f"{name} is on {tensor.device}, the model's weights are on {device}")


def _check_shape(name: str, tensor: Tensor, allowed: set[tuple[int, ...]]) -> None:
    if tuple(tensor.shape) not in allowed:
        wanted = " or ".join(str(list(shape)) for shape in sorted(allowed))
        raise ValueError(f"{name} must have shape {wanted}, got {list(tensor.shape)}")
