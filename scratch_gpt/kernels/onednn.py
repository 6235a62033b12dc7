"""Matrix products in float32 by oneDNN, torch's second library for them on a CPU.

torch's own product is MKL's, which uses no AVX-512 on AMD processors. There oneDNN takes 0.41 to
0.48 of its time from 64 rows on. torch.compile calls the same operation
with `freezing`; no public function does in float32.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_LINEAR = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
_FITS = _LINEAR is not None and torch.backends.cpu.get_cpu_capability() == "AVX512"


def suits(*tensors: Tensor) -> bool:
    """Return whether oneDNN computes products of these: float32, on a CPU with AVX-512.

    `torch.backends.mkldnn.enabled = False` switches it off, as it does for torch.
    """
    return (
        _FITS
        and all(x.dtype is torch.float32 and x.device.type == "cpu" for x in tensors)
        and bool(torch.backends.mkldnn.enabled)
        and not torch.compiler.is_compiling()
    )


def processor() -> str:
    """Return the vector instructions that torch uses, and whether oneDNN is switched off."""
    used: str = torch.backends.cpu.get_cpu_capability()
    return used if torch.backends.mkldnn.enabled else f"{used} without oneDNN"


def product(
    rows: Float[Tensor, "rows fan_in"],
    weight: Float[Tensor, "fan_in fan_out"],
    bias: Float[Tensor, " fan_out"] | None = None,
) -> Float[Tensor, "rows fan_out"]:
    """Return `rows weight + bias`; any strides will do, and autograd records nothing."""
    result: Tensor = _LINEAR(rows, weight.T, bias, "none", [], "")  # type: ignore[misc]
    return result
