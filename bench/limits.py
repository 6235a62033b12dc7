"""What the machine can do at most, measured in the same run: no kernel is faster than that."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.clock import calls_for, seconds

SIDE = {"cpu": 2048, "cuda": 8192}
"""Side of the square matrices whose product is the matrix rate."""

COPIED = {"cpu": 256 << 20, "cuda": 1 << 30}
"""Bytes that are copied for the bandwidth: many times any cache."""

ROUNDS = 5

ABOVE = 1.10
"""How far above the measured matrix rate a kernel may seem to be: the rate has a spread too.
Beyond that either the clock or the count of operations is wrong."""


def matrix_rate(dtype: str, device: torch.device) -> float:
    """Return the operations a second of a large square product; the best of some rounds."""
    side = SIDE[device.type]
    left, right = (
        torch.randn(side, side, device=device).to(getattr(torch, dtype)) for _ in range(2)
    )
    return 2.0 * side**3 / _least(lambda: torch.mm(left, right), device)


def copy_bandwidth(device: torch.device) -> float:
    """Return the bytes a second, read and written, of a copy larger than the caches."""
    source = torch.ones(COPIED[device.type] // 4, device=device)
    target = torch.empty_like(source)
    return 2.0 * source.nbytes / _least(lambda: target.copy_(source), device)


def _least(run: Callable[[], object], device: torch.device) -> float:
    run()
    calls = calls_for(seconds(run, device))
    return min(seconds(run, device, calls=calls) for _ in range(ROUNDS))


def products_alone(model: nn.Module, batch: int, time: int) -> Callable[[], object]:
    """Return the matrix products of a forward pass with nothing between them.

    Args:
        model: Ours; the very same weights are multiplied, by rows that are drawn.
        batch: Rows of text.
        time: Tokens of each.
    """
    named = dict(model.named_parameters())
    table = named.pop("tokens_embed.weight").detach()
    positions = "positions_embed.weight"
    weights = [w.detach() for name, w in named.items() if w.ndim > 1 and name != positions]
    rows = {
        width: torch.randn(batch * time, width, device=table.device).to(table.dtype)
        for width in {weight.shape[0] for weight in weights} | {table.shape[1]}
    }

    def run() -> None:
        for weight in weights:
            torch.mm(rows[weight.shape[0]], weight)
        torch.mm(rows[table.shape[1]], table.T)

    return run


def product_flops(model: nn.Module, batch: int, time: int) -> int:
    """Return the operations of these products."""
    numel = sum(
        weight.numel()
        for name, weight in model.named_parameters()
        if weight.ndim > 1 and name != "positions_embed.weight"
    )
    return 2 * batch * time * numel


def bare_read(weights: Sequence[Tensor]) -> Callable[[], object]:
    """Return a read of every weight once: what a forward pass of one token cannot beat.

    A matrix is read by its product with a vector, the fastest read that torch has.
    """
    kept = [weight.detach() for weight in weights]
    ones = {w.shape[-1]: torch.ones(w.shape[-1], dtype=w.dtype, device=w.device) for w in kept}

    def run() -> None:
        for weight in kept:
            weight @ ones[weight.shape[-1]]

    return run
