"""Products with one row or a few, read by all cores.

Such a product is a read of its weight, and the library reads it on one thread. Cut along the
inner axis into as many parts as there are threads, it is a batch of products, one a thread, whose
results are summed. The parts are views: nothing is copied. Sums of parts also round less, and a
residual is added after them: begun at the residual, every partial sum would be rounded at its size.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_MOST_PARTS, _MOST_ROWS = 8, 16
_FLOAT32_BYTES = 4


def in_parts(
    weight: Float[Tensor, "inner outer"], *, rows: int
) -> Float[Tensor, "parts part outer"]:
    """Return a weight as views of its parts, for products with so many rows.

    One part where cutting does not help: with many rows, on a GPU, and in half precision, where
    the library uses all threads as it is.
    """
    few = rows <= _MOST_ROWS and weight.device.type == "cpu"
    parts = 1
    if few and weight.element_size() >= _FLOAT32_BYTES:
        threads = min(torch.get_num_threads(), _MOST_PARTS)
        while 2 * parts <= threads and weight.shape[0] % (2 * parts) == 0:
            parts *= 2
    return weight.view(parts, -1, weight.shape[1])


def product(
    x: Float[Tensor, "rows inner"], weight: Float[Tensor, "parts part outer"]
) -> Float[Tensor, "rows outer"]:
    """Return the product with a weight that was cut."""
    if weight.shape[0] == 1:
        return torch.mm(x, weight[0])
    shares = x.view(len(x), weight.shape[0], -1).transpose(0, 1)
    return torch.bmm(shares, weight).sum(0)
