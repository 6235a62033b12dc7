"""Hugging Face's model in another order: the same function, other rounding errors.

Features, heads and hidden units are permuted, so that every sum over them runs in another order. In
every second model layer norm, softmax and linear layers are elementary operations, each rounded to
the dtype: in half precision much right code does that, and PyTorch's functions use float32 inside.
One run is one sample of the reference's rounding, and may by luck hardly be off; several such
models give several samples.

A sum in half precision is made in float32 and rounded once, so that its order hardly matters. A run
on its own numbers is therefore rounded at random, too: after every tap each element is moved by
less than a unit roundoff.

Source: Parker, "Monte Carlo arithmetic", 1997 (random rounding).
"""

import contextlib
import copy
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import rows
from parity.core.lockstep import TapFunction

Result = TypeVar("Result")

RUNS = 6
"""Further samples that are taken before a failure counts."""

_AXES = {
    "tokens_embed.weight": (None, "width"),
    "positions_embed.weight": (None, "width"),
    "attn.c_attn.weight": ("width", "joined"),
    "attn.c_attn.bias": ("joined",),
    "attn.c_proj.weight": ("merged", "width"),
    "mlp.c_fc.weight": ("width", "hidden"),
    "mlp.c_fc.bias": ("hidden",),
    "mlp.c_proj.weight": ("hidden", "width"),
    **dict.fromkeys(("attn.query", "attn.key", "attn.value"), (None, "heads", None, "features")),
    **dict.fromkeys(("attn.scores", "attn.weights"), (None, "heads", None, None)),
    "attn.context": (None, None, "merged"),
    **dict.fromkeys(("mlp.c_fc", "mlp.gelu"), (None, None, "hidden")),
    **dict.fromkeys(("logits", "loss"), ()),
}
"""The order of each axis of a tap or a parameter, by kind.

Any other parameter is a vector of the width, and any other tap has it as its last axis.
"""


class Reordered:
    """A model like Hugging Face's in which everything is permuted that may be.

    Args:
        reference: The model; it is copied, in its dtype and on its device.
        seed: Of the permutations.
    """

    def __init__(self, reference: OpenAIGPTLMHeadModel, seed: int) -> None:
        config = reference.config
        draws = torch.Generator().manual_seed(seed)
        width, heads = config.n_embd, config.n_head
        order = {"width": width, "hidden": 4 * width, "heads": heads, "features": width // heads}
        self._orders = {name: torch.randperm(size, generator=draws) for name, size in order.items()}
        first = self._orders["heads"] * order["features"]
        merged = (first[:, None] + self._orders["features"]).flatten()
        self._orders["merged"] = merged
        self._orders["joined"] = torch.cat([merged + part * width for part in range(3)])
        self._inverse = {name: torch.argsort(one) for name, one in self._orders.items()}
        self.model = copy.deepcopy(reference)
        self._by_formula = bool(seed % 2)
        self._draws = torch.Generator().manual_seed(seed)
        state = self.model.state_dict()
        with torch.no_grad():
            for row in rows(config.n_layer):
                state[row.huggingface].copy_(self.reordered(row.ours, state[row.huggingface]))

    def reordered(self, name: str, tensor: Tensor, *, back: bool = False) -> Tensor:
        """Return the tensor of a tap or parameter in the new order, or `back` in the old one."""
        orders = self._inverse if back else self._orders
        axes = _AXES.get(name.split(".", 2)[2] if name.startswith("h.") else name)
        if axes is None:
            axes = (*[None] * (tensor.ndim - 1), "width")
        for axis, which in enumerate(axes):
            if which is not None:
                tensor = tensor.index_select(axis, orders[which].to(tensor.device))
        return tensor

    def in_old_order(
        self, run: Callable[[TapFunction], Result], *, rounds: bool
    ) -> Callable[[TapFunction], Result]:
        """Return a run of this model that shows its taps in the old order.

        If it `rounds`, it goes on with each tap's value after a random rounding.
        """

        def shown(tap: TapFunction) -> Result:
            def own(name: str, value: Tensor) -> Tensor:
                answer = tap(name, self.reordered(name, value, back=True))
                return self.reordered(name, self._moved(answer) if rounds else answer)

            with _ByFormula() if self._by_formula else contextlib.nullcontext():
                return run(own)

        return shown

    def _moved(self, value: Tensor) -> Tensor:
        """Return each element moved by less than a unit roundoff, and rounded again."""
        draw = torch.rand(value.shape, generator=self._draws, dtype=torch.float64)
        step = torch.finfo(value.dtype).eps * (draw - 0.5)  # eps is two units
        return (value * (1.0 + step.to(value.device))).to(value.dtype)


class _ByFormula(TorchFunctionMode):
    """Computes layer norms, softmax and linear layers by elementary operations."""

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        """Call `func`, or the formula for it."""
        formulas: dict[Callable[..., Tensor], Callable[..., Tensor]] = {
            functional.softmax: _softmax,
            functional.layer_norm: _layer_norm,
            torch.addmm: lambda bias, x, weight: x @ weight + bias,
        }
        return formulas.get(func, func)(*args, **(kwargs or {}))


def _softmax(scores: Tensor, dim: int, **_named: object) -> Tensor:
    raised = torch.exp(scores - scores.detach().amax(dim, keepdim=True))
    return raised / raised.sum(dim, keepdim=True)


def _layer_norm(x: Tensor, _shape: object, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    centered = x - x.mean(-1, keepdim=True)
    variance = (centered * centered).mean(-1, keepdim=True)
    return centered * torch.rsqrt(variance + eps) * weight + bias
