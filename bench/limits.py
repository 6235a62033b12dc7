"""Lower bounds of a model's time: its matrix products alone, each size in its fastest layout.

At one token a product is a read of its weight. The library uses one thread for such a product. The
shared read uses all threads where this is faster: a batch of products with a part of the vector
each, whose results are not summed.
"""

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.timing import Run, cache_flusher, seconds
from scratch_gpt.kernels import onednn

_COLUMNS = 2048
"""Columns of a product in blocks."""


def matrices(model: nn.Module) -> list[Tensor]:
    """Return every matrix that our model's forward pass reads fully, `[in out]`; the table last."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    table = named.pop("tokens_embed.weight")
    return [w for name, w in named.items() if name != "positions_embed.weight"] + [table.T]


def product_flops(model: nn.Module, batch: int, time: int) -> int:
    """Return the operations of the products of a forward pass."""
    return 2 * batch * time * sum(weight.numel() for weight in matrices(model))


def products_alone(model: nn.Module, batch: int, time: int) -> Run:
    """Return the matrix products of our model's forward pass, without anything between them.

    The rows are random.
    """
    layouts = (_by_rows, _by_columns, _turned, _in_blocks, _by_onednn)
    return fastest(
        matrices(model), [functools.partial(layout, rows=batch * time) for layout in layouts], 3
    )


def _by_rows(weight: Tensor, rows: int = 1) -> Run:
    """Return `x W`, of a weight stored `[in out]`."""
    stored, x = weight.contiguous(), _drawn(rows, weight)
    return lambda: torch.mm(x, stored)


def _by_columns(weight: Tensor, rows: int) -> Run:
    """Return `x W`, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), _drawn(rows, weight)
    return lambda: torch.mm(x, stored.T)


def _turned(weight: Tensor, rows: int) -> Run:
    """Return `W^T x^T`, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), _drawn(rows, weight)
    return lambda: torch.mm(stored, x.T)


def _in_blocks(weight: Tensor, rows: int) -> Run:
    """Return `x W`, some columns at a time, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), _drawn(rows, weight)
    parts = [part.T for part in torch.split(stored, _COLUMNS)]
    return lambda: [torch.mm(x, part) for part in parts]


def _by_onednn(weight: Tensor, rows: int) -> Run:
    """Return `x W` by oneDNN where it can be used, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous().T, _drawn(rows, weight)
    return lambda: (onednn.product if onednn.suits(x, stored) else torch.mm)(x, stored)


def _by_vector(weight: Tensor) -> Run:
    """Return `W^T x` as a product with a vector, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), _drawn(1, weight)[0]
    return lambda: torch.mv(stored, x)


def _added(weight: Tensor) -> Run:
    """Return `b + W^T x` as a product with a vector, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), _drawn(1, weight)[0]
    bias = _drawn(1, weight.T)[0]
    return lambda: torch.addmv(bias, stored, x)


def _by_threads(weight: Tensor) -> Run:
    """Return the products of parts of `x` and `W`, one for each thread."""
    parts = torch.get_num_threads()
    while weight.shape[0] % parts:
        parts -= 1
    stored = weight.contiguous().view(parts, -1, weight.shape[1])
    x = _drawn(parts, stored[0])[:, None]
    return lambda: torch.bmm(x, stored)


def _drawn(rows: int, weight: Tensor) -> Tensor:
    return torch.randn(rows, weight.shape[0], dtype=weight.dtype, device=weight.device)


Layouts = Sequence[Callable[[Tensor], Run]]
LAYOUTS: Layouts = (_by_rows, _by_vector, _added)
READS: dict[str, Layouts] = {"bare read": LAYOUTS, "shared read": (*LAYOUTS, _by_threads)}
"""Lower bounds of one token's time, and the layouts of which each size uses the fastest."""


@torch.no_grad()
def fastest(weights: Sequence[Tensor], layouts: Layouts, rounds: int = 7) -> Run:
    """Return the products with every weight, each size in its fastest layout."""
    best = {
        size: _fastest_layout([w for w in weights if w.shape == size], layouts, rounds)
        for size in {weight.shape for weight in weights}
    }
    return _one_by_one([best[weight.shape](weight) for weight in weights])


def _fastest_layout(
    weights: Sequence[Tensor], layouts: Layouts, rounds: int
) -> Callable[[Tensor], Run]:
    """Return the layout that takes the least time with cold caches."""
    device = weights[0].device
    flush = cache_flusher(device)

    def least(layout: Callable[[Tensor], Run]) -> float:
        run = _one_by_one([layout(weight) for weight in weights])
        return min(seconds(run, device, flush=flush) for _ in range(rounds))

    return min(layouts, key=least)


def _one_by_one(runs: Sequence[Run]) -> Run:
    """Return a function that calls some functions in order."""

    def run() -> None:
        for each in runs:
            each()

    return run
