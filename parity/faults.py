"""Faults that re-implementations really have, planted into a right model from outside.

A check is worth what it can catch. Each row names a fault, where it is planted, and the tap at
which it must be seen first; the functions below change a copy of the model and nothing in
`scratch_gpt`. Methods are replaced by bound functions, so that copies of the model (in float64,
say) carry the fault along.
"""

import copy
import dataclasses
import math
from collections.abc import Callable
from types import MethodType
from typing import Any, cast

import torch
from torch import Tensor, nn

from parity.taps import PATHS
from scratch_gpt.attention import Attention, merge_heads, softmax, split_heads
from scratch_gpt.embeddings import Embedding
from scratch_gpt.layer_norm import LayerNorm, layer_norm
from scratch_gpt.mlp import MLP
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, untapped, within
from scratch_gpt.transformer_block import TransformerBlock


@dataclasses.dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        what: What is wrong, in words.
        plant: Plants it into a model, in the given block.
        tap: Where it is seen first; `{i}` is the block.
        block: The only block it can be planted in, if there is one.
    """

    what: str
    plant: Callable[[GPT, int], None]
    tap: str
    block: int | None = None


def planted(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of `model`, with storage of its own, that has the fault.

    Args:
        model: A right model.
        name: Key of `FAULTS`.
        block: Where to plant it; ignored by faults that have only one place.
    """
    faulty = copy.deepcopy(model)
    with torch.no_grad():
        only = FAULTS[name].block
        FAULTS[name].plant(faulty, block if only is None else only)
    return faulty


def first_tap(name: str, block: int, attention: str) -> str:
    """Return the tap at which the fault must be seen first on an attention path."""
    fault = FAULTS[name]
    tap = fault.tap.replace("{i}", str(block if fault.block is None else fault.block))
    kind = tap.split(".", 2)[-1]
    # What a path never forms shows in what it makes of it.
    return tap.replace(kind, "attn.context") if kind in PATHS[attention] else tap


def _override(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Replace a module's forward by a function whose first argument is the module."""
    module.forward = MethodType(forward, module)


def _block(model: GPT, block: int) -> TransformerBlock:
    return cast("TransformerBlock", model.h[block])


def _erf_gelu(model: GPT, block: int) -> None:
    def forward(self: MLP, x: Tensor, tap: Tap = untapped) -> Tensor:
        inner = within("mlp", tap)("c_fc", self.c_fc(x))
        gelu = 0.5 * inner * (1.0 + torch.erf(inner / math.sqrt(2.0)))
        return tap("mlp", self.c_proj(within("mlp", tap)("gelu", gelu)))

    _override(_block(model, block).mlp, forward)


def _epsilon(model: GPT, block: int) -> None:
    _block(model, block).ln_1.epsilon = 1e-6


def _unbiased_variance(model: GPT, block: int) -> None:
    def forward(self: LayerNorm, x: Tensor) -> Tensor:
        variance = x.var(-1, keepdim=True, unbiased=True)
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + self.epsilon) * self.weight + self.bias

    _override(_block(model, block).ln_1, forward)


def _norms_swapped(model: GPT, block: int) -> None:
    chosen = _block(model, block)
    chosen.ln_1, chosen.ln_2 = chosen.ln_2, chosen.ln_1


def _affine_ignored(model: GPT, block: int) -> None:
    def forward(self: LayerNorm, x: Tensor) -> Tensor:
        ones, zeros = torch.ones_like(self.weight), torch.zeros_like(self.bias)
        return layer_norm(x, ones, zeros, epsilon=self.epsilon)

    _override(_block(model, block).ln_1, forward)


def _no_mlp_residual(model: GPT, block: int) -> None:
    def forward(
        self: TransformerBlock, x: Tensor, mask: Tensor | None = None, tap: Tap = untapped
    ) -> Tensor:
        normed = tap("ln_1", self.ln_1(tap("ln_1.input", x + self.attn(x, mask, tap))))
        return tap("ln_2", self.ln_2(tap("ln_2.input", self.mlp(normed, tap))))

    _override(_block(model, block), forward)


def _norm_inside_residual(model: GPT, block: int) -> None:
    def forward(
        self: TransformerBlock, x: Tensor, mask: Tensor | None = None, tap: Tap = untapped
    ) -> Tensor:
        attended = tap("ln_1.input", self.attn(x, mask, tap))
        normed = tap("ln_1", x + self.ln_1(attended))
        return tap("ln_2", self.ln_2(tap("ln_2.input", normed + self.mlp(normed, tap))))

    _override(_block(model, block), forward)


def _projection_transposed(model: GPT, block: int) -> None:
    weight = _block(model, block).attn.c_proj.weight
    weight.copy_(weight.T.clone())


def _attention(
    split: Callable[[Tensor, int], Tensor], order: tuple[int, int, int]
) -> Callable[[GPT, int], None]:
    """Return a fault in how an attention layer cuts its projection into parts and heads."""

    def forward(
        self: Attention, x: Tensor, mask: Tensor | None = None, tap: Tap = untapped
    ) -> Tensor:
        parts = self.c_attn(x).chunk(3, dim=-1)
        inner = within("attn", tap)
        query, key, value = (split(parts[place], self.n_head) for place in order)
        query, key, value = inner("query", query), inner("key", key), inner("value", value)
        context = merge_heads(self.core(query, key, value, mask, inner))
        return tap("attn", self.c_proj(inner("context", context)))

    return lambda model, block: _override(_block(model, block).attn, forward)


def _interleaved(x: Tensor, n_head: int) -> Tensor:
    batch, time, width = x.shape
    return x.reshape(batch, time, width // n_head, n_head).permute(0, 3, 1, 2)


class _UnscaledCore:
    """A core that is handed a query large enough to undo its scale."""

    def __init__(self, core: Callable[..., Tensor]) -> None:
        self._core = core

    def __call__(self, query: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401 - handed on
        return self._core(query * math.sqrt(query.shape[-1]), *rest)


def _unscaled(model: GPT, block: int) -> None:
    attention = _block(model, block).attn
    attention.core = cast("Any", _UnscaledCore(attention.core))


class _FarsightedCore:
    """A core whose mask is off by one: every position sees the next one too."""

    def __init__(self, *, forms_scores: bool) -> None:
        self._forms_scores = forms_scores

    def __call__(  # noqa: PLR0913 - the signature of a core
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        tap: Tap | None = None,
        dropout_probability: float = 0.0,
    ) -> Tensor:
        del mask, dropout_probability
        shown = tap if tap is not None and self._forms_scores else untapped
        scores = shown("scores", query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5)
        seen = torch.ones_like(scores[0, 0], dtype=torch.bool).tril(1)
        return shown("weights", softmax(scores.masked_fill(~seen, float("-inf")))) @ value


def _mask_off_by_one(model: GPT, block: int) -> None:
    forms_scores = "attn.scores" not in PATHS[model.attention]
    _block(model, block).attn.core = cast("Any", _FarsightedCore(forms_scores=forms_scores))


def _positions_from_one(model: GPT, _block: int) -> None:
    def forward(self: Embedding, indices: Tensor) -> Tensor:
        return self.weight[(indices + 1) % len(self.weight)]

    _override(model.positions_embed, forward)


def _string_order(model: GPT, _block: int) -> None:
    order = sorted(range(len(model.h)), key=str)
    model.h = nn.ModuleList(model.h[index] for index in order)


def _bias_dropped(model: GPT, block: int) -> None:
    _block(model, block).mlp.c_fc.bias.zero_()


def _final_norm(model: GPT, block: int) -> None:
    del block

    def forward(
        self: TransformerBlock, x: Tensor, mask: Tensor | None = None, tap: Tap = untapped
    ) -> Tensor:
        out = TransformerBlock.forward(self, x, mask, tap)
        ones = torch.ones_like(self.ln_2.weight)
        return layer_norm(out, ones, torch.zeros_like(ones), epsilon=self.ln_2.epsilon)

    _override(_block_at_end(model), forward)


def _block_at_end(model: GPT) -> TransformerBlock:
    return _block(model, len(model.h) - 1)


class _UntiedEmbedding(Embedding):
    """Looks tokens up in one table and offers another one, `weight`, to the head."""

    def __init__(self, table: Tensor) -> None:
        super().__init__(*table.shape)
        self.table = nn.Parameter(table.clone())
        self.weight.copy_(table.flip(0))

    def forward(self, indices: Tensor) -> Tensor:
        return self.table[indices]


def _untied_head(model: GPT, _block: int) -> None:
    model.tokens_embed = _UntiedEmbedding(model.tokens_embed.weight)


def _one_weight_off(model: GPT, block: int) -> None:
    _block(model, block).mlp.c_fc.weight[1, 2] += 1e-4


FAULTS: dict[str, Fault] = {
    "erf-gelu": Fault("the erf GELU for the tanh form", _erf_gelu, "h.{i}.mlp.gelu"),
    "epsilon": Fault("layer-norm epsilon 1e-6 for 1e-5", _epsilon, "h.{i}.ln_1"),
    "unbiased-variance": Fault("variance divided by width - 1", _unbiased_variance, "h.{i}.ln_1"),
    "norms-swapped": Fault("ln_1 and ln_2 swapped", _norms_swapped, "h.{i}.ln_1"),
    "affine-ignored": Fault("gain and bias of ln_1 ignored", _affine_ignored, "h.{i}.ln_1"),
    "no-mlp-residual": Fault("the MLP's residual missing", _no_mlp_residual, "h.{i}.ln_2.input"),
    "norm-inside-residual": Fault("x + ln(attn(x))", _norm_inside_residual, "h.{i}.ln_1.input"),
    "projection-transposed": Fault(
        "the square c_proj of attention transposed", _projection_transposed, "h.{i}.attn"
    ),
    "heads-interleaved": Fault(
        "heads take every n_head-th feature",
        _attention(_interleaved, (0, 1, 2)),
        "h.{i}.attn.query",
    ),
    "query-key-swapped": Fault(
        "query and key swapped", _attention(split_heads, (1, 0, 2)), "h.{i}.attn.query"
    ),
    "scale-missing": Fault("scores not divided by the root", _unscaled, "h.{i}.attn.scores"),
    "mask-off-by-one": Fault("each position sees the next", _mask_off_by_one, "h.{i}.attn.weights"),
    "positions-from-one": Fault(
        "positions counted from 1", _positions_from_one, "embeddings.positions"
    ),
    "string-order": Fault(
        "blocks sorted as strings: 0 1 10 11 2", _string_order, "h.{i}.attn.query", 2
    ),
    "bias-dropped": Fault("the bias of c_fc dropped", _bias_dropped, "h.{i}.mlp.c_fc", 7),
    "final-norm": Fault("an extra norm before the head", _final_norm, "logits"),
    "untied-head": Fault("a head that is not the embedding", _untied_head, "logits"),
    "weight-off": Fault("one weight of c_fc off by 1e-4", _one_weight_off, "h.{i}.mlp.c_fc"),
}
"""Every fault by name."""
