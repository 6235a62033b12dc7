"""Whether every number of a tensor is one."""

import math

import torch
from torch import Tensor


def not_finite(tensor: Tensor) -> int:
    """Return how many elements are NaN or infinite; integers and truths never are.

    Least and largest are both finite exactly where every element is, and they are found in one
    pass that allocates nothing.
    """
    if not tensor.is_floating_point() or not tensor.numel():
        return 0
    if all(math.isfinite(extreme) for extreme in torch.aminmax(tensor)):
        return 0
    return tensor.numel() - int(torch.isfinite(tensor).sum())
