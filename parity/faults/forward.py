"""How faults are planted into a right model.

Each function here changes the copy of a model that it is given, in one block, and nothing in
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

from parity.core.taps import BLOCK_KINDS, NEVER_FORMED
from scratch_gpt.attention import Attention, merge_heads, softmax, split_heads
from scratch_gpt.embeddings import Embedding
from scratch_gpt.layer_norm import layer_norm
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, no_tap, prefixed
from scratch_gpt.transformer_block import TransformerBlock


def _override(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    """Replace a module's forward by a function whose first argument is the module."""
    module.forward = MethodType(forward, module)


def _block(model: GPT, block: int) -> TransformerBlock:
    return cast("TransformerBlock", model.h[block])


def erf_gelu(model: GPT, block: int) -> None:
    """Use the erf form of GELU."""

    def erf_gelu(x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))

    _block(model, block).mlp.activation = erf_gelu


def epsilon(model: GPT, block: int) -> None:
    """Give ln_1 another epsilon."""
    _block(model, block).ln_1.epsilon = 1e-6


def unbiased_variance(model: GPT, block: int) -> None:
    """Divide ln_1's variance by `width - 1`."""

    def normalize(x: Tensor, gain: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
        variance = x.var(-1, keepdim=True, unbiased=True)
        centred = x - x.mean(-1, keepdim=True)
        return centred * torch.rsqrt(variance + epsilon) * gain + bias

    _block(model, block).ln_1.normalize = normalize


def norms_swapped(model: GPT, block: int) -> None:
    """Swap ln_1 and ln_2."""
    chosen = _block(model, block)
    chosen.ln_1, chosen.ln_2 = chosen.ln_2, chosen.ln_1


def affine_ignored(model: GPT, block: int) -> None:
    """Let ln_1 ignore its gain and bias."""

    def normalize(x: Tensor, gain: Tensor, bias: Tensor, *, epsilon: float) -> Tensor:
        ones, zeros = torch.ones_like(gain), torch.zeros_like(bias)
        return layer_norm(x, ones, zeros, epsilon=epsilon)

    _block(model, block).ln_1.normalize = normalize


def _attended(block: TransformerBlock, x: Tensor, mask: Tensor | None, tap: Tap) -> Tensor:
    """Return what attention adds to the residual; shown where the path forms it."""
    attended = block.attn.c_proj(block.attn.context(x, mask, tap))
    return attended if block.fuse_residual else tap("attn", attended)


def _transformed(block: TransformerBlock, x: Tensor, tap: Tap) -> Tensor:
    """Return what the MLP adds to the residual; shown where the path forms it."""
    transformed = block.mlp.c_proj(block.mlp.hidden(x, tap))
    return transformed if block.fuse_residual else tap("mlp", transformed)


def no_mlp_residual(model: GPT, block: int) -> None:
    """Leave out the MLP's residual."""

    def forward(
        self: TransformerBlock, x: Tensor, mask: Tensor | None = None, tap: Tap = no_tap
    ) -> Tensor:
        attended = tap("ln_1.input", x + _attended(self, x, mask, tap))
        normed = tap("ln_1", self.ln_1(attended))
        return tap("ln_2", self.ln_2(tap("ln_2.input", _transformed(self, normed, tap))))

    _override(_block(model, block), forward)


def norm_inside_residual(model: GPT, block: int) -> None:
    """Compute `x + ln(f(x))` instead of `ln(x + f(x))`."""

    def forward(
        self: TransformerBlock, x: Tensor, mask: Tensor | None = None, tap: Tap = no_tap
    ) -> Tensor:
        attended = tap("ln_1.input", _attended(self, x, mask, tap))
        normed = tap("ln_1", x + self.ln_1(attended))
        transformed = tap("ln_2.input", normed + _transformed(self, normed, tap))
        return tap("ln_2", self.ln_2(transformed))

    _override(_block(model, block), forward)


def projection_transposed(model: GPT, block: int) -> None:
    """Transpose attention's square projection."""
    weight = _block(model, block).attn.c_proj.weight
    weight.copy_(weight.T.clone())


def _attention(
    split: Callable[[Tensor, int], Tensor], order: tuple[int, int, int]
) -> Callable[[GPT, int], None]:
    """Return a fault in how an attention layer cuts its projection into parts and heads."""

    def context(
        self: Attention, x: Tensor, mask: Tensor | None = None, tap: Tap = no_tap, *_: object
    ) -> Tensor:
        parts = self.c_attn(x).chunk(3, dim=-1)
        inner = prefixed("attn", tap)
        query, key, value = (split(parts[place], self.n_head) for place in order)
        query, key, value = inner("query", query), inner("key", key), inner("value", value)
        return inner("context", merge_heads(self.kernel(query, key, value, mask, inner)))

    def plant(model: GPT, block: int) -> None:
        layer = _block(model, block).attn
        layer.context = MethodType(context, layer)  # type: ignore[method-assign]

    return plant


def _interleaved(x: Tensor, n_head: int) -> Tensor:
    batch, time, width = x.shape
    return x.reshape(batch, time, width // n_head, n_head).permute(0, 3, 1, 2)


heads_interleaved = _attention(_interleaved, (0, 1, 2))
"""Let each head take every n_head-th feature."""

query_key_swapped = _attention(split_heads, (1, 0, 2))
"""Swap queries and keys."""


class _UnscaledCore:
    """A core that is handed a query large enough to undo its scale."""

    def __init__(self, core: Callable[..., Tensor]) -> None:
        self._core = core

    def __call__(self, query: Tensor, *rest: Any) -> Tensor:  # noqa: ANN401 - handed on
        return self._core(query * math.sqrt(query.shape[-1]), *rest)


def unscaled(model: GPT, block: int) -> None:
    """Leave out the scale of the scores."""
    attention = _block(model, block).attn
    attention.kernel = cast("Any", _UnscaledCore(attention.kernel))


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
        shown = tap if tap is not None and self._forms_scores else no_tap
        scores = shown("scores", query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5)
        seen = torch.ones_like(scores[0, 0], dtype=torch.bool).tril(1)
        return shown("weights", softmax(scores.masked_fill(~seen, float("-inf")))) @ value


def mask_off_by_one(model: GPT, block: int) -> None:
    """Let every position see the next one."""
    forms_scores = "attn.scores" not in NEVER_FORMED[model.backend]
    _block(model, block).attn.kernel = cast("Any", _FarsightedCore(forms_scores=forms_scores))


def positions_from_one(model: GPT, _block: int) -> None:
    """Count positions from 1."""

    def forward(self: Embedding, indices: Tensor) -> Tensor:
        return self.weight[(indices + 1) % len(self.weight)]

    _override(model.positions_embed, forward)


def string_order(model: GPT, _block: int) -> None:
    """Sort the blocks as strings."""
    order = sorted(range(len(model.h)), key=str)
    model.h = nn.ModuleList(model.h[index] for index in order)


def bias_dropped(model: GPT, block: int) -> None:
    """Drop the bias of c_fc."""
    _block(model, block).mlp.c_fc.bias.zero_()


def final_norm(model: GPT, block: int) -> None:
    """Normalise once more before the head."""
    del block

    def forward(
        self: TransformerBlock, x: Tensor, mask: Tensor | None = None, tap: Tap = no_tap
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


def untied_head(model: GPT, _block: int) -> None:
    """Give the head another table than the embedding."""
    model.tokens_embed = _UntiedEmbedding(model.tokens_embed.weight)


def one_weight_off(model: GPT, block: int) -> None:
    """Change one weight of c_fc."""
    _block(model, block).mlp.c_fc.weight[1, 2] += 1e-4


# Faults that re-implementations really have, planted into a right model from outside.
#
# A check is worth what it can catch. Each row names a fault, where it is planted, and the tap at
# which it must be seen first; how it is planted stands in `parity.faults.forward`.


@dataclasses.dataclass(frozen=True)
class ForwardFault:
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


def inject(model: GPT, name: str, block: int) -> GPT:
    """Return a copy of `model`, with storage of its own, that has the fault.

    Args:
        model: A right model.
        name: Key of `FAULTS`.
        block: Where to plant it; ignored by faults that have only one place.
    """
    faulty = copy.deepcopy(model)
    with torch.no_grad():
        only = FORWARD_FAULTS[name].block
        FORWARD_FAULTS[name].plant(faulty, block if only is None else only)
    return faulty


def expected_tap(name: str, block: int, attention: str) -> str:
    """Return the tap at which the fault must be seen first on an attention path."""
    fault = FORWARD_FAULTS[name]
    tap = fault.tap.replace("{i}", str(block if fault.block is None else fault.block))
    prefix, index, kind = tap.split(".", 2) if tap.startswith("h.") else ("", "", tap)
    kinds = [kind.name for kind in BLOCK_KINDS]
    # What a path never forms shows in what it makes of it.
    while kind in NEVER_FORMED[attention]:
        kind = kinds[kinds.index(kind) + 1]
    return f"{prefix}.{index}.{kind}" if prefix else tap


FORWARD_FAULTS: dict[str, ForwardFault] = {
    "erf-gelu": ForwardFault("the erf GELU for the tanh form", erf_gelu, "h.{i}.mlp.gelu"),
    "epsilon": ForwardFault("layer-norm epsilon 1e-6 for 1e-5", epsilon, "h.{i}.ln_1"),
    "unbiased-variance": ForwardFault(
        "variance divided by width - 1", unbiased_variance, "h.{i}.ln_1"
    ),
    "norms-swapped": ForwardFault("ln_1 and ln_2 swapped", norms_swapped, "h.{i}.ln_1"),
    "affine-ignored": ForwardFault("gain and bias of ln_1 ignored", affine_ignored, "h.{i}.ln_1"),
    "no-mlp-residual": ForwardFault(
        "the MLP's residual missing", no_mlp_residual, "h.{i}.ln_2.input"
    ),
    "norm-inside-residual": ForwardFault(
        "x + ln(attn(x))", norm_inside_residual, "h.{i}.ln_1.input"
    ),
    "projection-transposed": ForwardFault(
        "the square c_proj of attention transposed", projection_transposed, "h.{i}.attn"
    ),
    "heads-interleaved": ForwardFault(
        "heads take every n_head-th feature",
        heads_interleaved,
        "h.{i}.attn.query",
    ),
    "query-key-swapped": ForwardFault(
        "query and key swapped", query_key_swapped, "h.{i}.attn.query"
    ),
    "scale-missing": ForwardFault("scores not divided by the root", unscaled, "h.{i}.attn.scores"),
    "mask-off-by-one": ForwardFault(
        "each position sees the next", mask_off_by_one, "h.{i}.attn.weights"
    ),
    "positions-from-one": ForwardFault(
        "positions counted from 1", positions_from_one, "embeddings.positions"
    ),
    "string-order": ForwardFault(
        "blocks sorted as strings: 0 1 10 11 2", string_order, "h.{i}.attn.query", 2
    ),
    "bias-dropped": ForwardFault("the bias of c_fc dropped", bias_dropped, "h.{i}.mlp.c_fc", 7),
    "final-norm": ForwardFault("an extra norm before the head", final_norm, "logits"),
    "untied-head": ForwardFault("a head that is not the embedding", untied_head, "logits"),
    "weight-off": ForwardFault("one weight of c_fc off by 1e-4", one_weight_off, "h.{i}.mlp.c_fc"),
}
"""Every fault by name."""
