"""Every way to run the model: the same function by other steps.

`plain` is each operation by its formula, as the paper has it, with autograd's own way back.
`tiled` has the core that forms no matrix of scores, and derived forms of the other operations:
fewer steps over memory, a backward written by hand. `fused` lets the matrix products add the
residuals as well. `triton` is `fused` with a kernel for GPUs. `compiled` leaves the fusing to
`torch.compile`, one block at a time.
"""

import dataclasses
from collections.abc import Callable

from torch import Tensor

from scratch_gpt.kernels.fused_ops import fused_head, head
from scratch_gpt.layer_norm import Normalize, fused_layer_norm, layer_norm
from scratch_gpt.mlp import fused_gelu, gelu


@dataclasses.dataclass(frozen=True, kw_only=True)
class Backend:
    """One way.

    Attributes:
        core: Name of its attention core, a key of `scratch_gpt.attention.CORES`.
        activation: Its GELU.
        normalise: Its layer normalisation.
        head: Its product with the vocabulary.
        fused: Whether residual sums are left to the matrix products.
        compiled: Whether each block is compiled.
    """

    core: str
    activation: Callable[[Tensor], Tensor] = fused_gelu
    normalise: Normalize = fused_layer_norm
    head: Callable[[Tensor, Tensor], Tensor] = fused_head
    fused: bool = False
    compiled: bool = False


BACKENDS: dict[str, Backend] = {
    "plain": Backend(core="plain", activation=gelu, normalise=layer_norm, head=head),
    "tiled": Backend(core="tiled"),
    "fused": Backend(core="tiled", fused=True),
    "compiled": Backend(core="plain", activation=gelu, normalise=layer_norm, compiled=True),
    "triton": Backend(core="triton", fused=True),
}
"""Every path by name."""


def backend_named(name: str) -> Backend:
    """Return a path.

    Raises:
        ValueError: None has that name.
    """
    if name not in BACKENDS:
        message = f"attention must be one of {sorted(BACKENDS)}, got {name!r}"
        raise ValueError(message)
    return BACKENDS[name]
