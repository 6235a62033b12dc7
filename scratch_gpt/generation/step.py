"""One token through the model in as few calls as there are.

The same function as the model with a cache, on rows `[batch width]`. At one token a product reads
its weights once and does little else, so that every call between products counts: results go into
buffers made once, and whatever does not depend on the token is prepared before.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.affine import Affine
from scratch_gpt.attention_strips import LOG_2, wide
from scratch_gpt.gelu import CUBIC, LINEAR
from scratch_gpt.generation.cache import Cache
from scratch_gpt.generation.few_rows import in_parts, product
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.model import GPT
from scratch_gpt.transformer_block import TransformerBlock


class Norm(NamedTuple):
    """A layer normalisation of rows, done in float32 at least.

    Attributes:
        gain: `[width]`.
        bias: `[width]`.
        epsilon: Added to the variance.
    """

    gain: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, layer: LayerNorm) -> "Norm":
        """Return a layer's."""
        gain, bias = (x.detach().to(wide(x.dtype)) for x in (layer.weight, layer.bias))
        return cls(gain, bias, layer.epsilon)

    def __call__(self, x: Float[Tensor, "batch width"], out: Tensor) -> None:
        """Normalise the rows of `x` into `out`; `x` is used up."""
        rows = x.to(self.gain.dtype)
        variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
        rows.sub_(mean).mul_(variance.add_(self.epsilon).rsqrt_())
        if out.dtype is rows.dtype:
            torch.addcmul(self.bias, rows, self.gain, out=out)
        else:
            out.copy_(torch.addcmul(self.bias, rows, self.gain))


class Product(NamedTuple):
    """A product with a weight, cut for few rows, to which a bias is added.

    Attributes:
        weight: `[parts part out]`; see `scratch_gpt.generation.few_rows`.
        bias: `[out]`.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Affine, rows: int) -> "Product":
        """Return a layer's, for so many rows; the tensors are its own."""
        return cls(in_parts(layer.weight.detach(), rows=rows), layer.bias.detach())

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Put `x W + b` into `out`."""
        torch.add(product(x, self.weight), self.bias, out=out)

    def added(self, residual: Tensor, x: Tensor, out: Tensor) -> None:
        """Put `residual + x W + b` into `out`."""
        torch.add(product(x, self.weight).add_(self.bias), residual, out=out)


class Weights(NamedTuple):
    """What one block multiplies and normalises with, in the order of use."""

    c_attn: Product
    c_proj: Product
    ln_1: Norm
    c_fc: Product
    narrow: Product
    ln_2: Norm

    @classmethod
    def of(cls, block: TransformerBlock, rows: int) -> "Weights":
        """Return a block's, for so many rows; the tensors are its own."""
        maps = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        attn, proj, fc, narrow = (Product.of(layer, rows) for layer in maps)
        return cls(attn, proj, Norm.of(block.ln_1), fc, narrow, Norm.of(block.ln_2))


class Buffers:
    """Rows of what a step makes, used again by every block and every token."""

    def __init__(self, cache: Cache, like: Tensor) -> None:
        heads, head_width = cache.keys.shape[2], cache.keys.shape[4]
        batch, width = cache.batch, heads * head_width
        self.x, self.normed, self.sum = (like.new_empty(batch, width) for _ in range(3))
        self.inner, self.gate = (like.new_empty(batch, 4 * width) for _ in range(2))
        self.joined = like.new_empty(batch, 3 * width)
        parts = self.joined.view(batch, 3, heads, head_width)
        self.query, self.key_and_value = parts[:, 0], parts[:, 1:].transpose(0, 1)
        self.scaled, self.context = (
            cache.keys.new_empty(batch * heads, 1, head_width) for _ in range(2)
        )
        self.scaled_heads = self.scaled.view(batch, heads, head_width)
        self.context_rows = self.context.view(batch, width)
        self.scale = head_width**-0.5 / LOG_2
        self.linear = torch.tensor(LINEAR, dtype=like.dtype, device=like.device)


class Step:
    """A model's step over a cache."""

    def __init__(self, model: GPT, cache: Cache) -> None:
        self.tokens = model.tokens_embed.weight.detach()
        self.positions = model.positions_embed.weight.detach()
        self.blocks = [Weights.of(block, cache.batch) for block in model.h]  # type: ignore[arg-type]
        self.cache = cache
        self.buffers = Buffers(cache, self.tokens)

    def __call__(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Return the last block's output for one more token of each row, until the next step."""
        made, place = self.buffers, self.cache.length
        torch.add(self.tokens[token_ids], self.positions[place], out=made.x)
        places, keys, values = self.cache.views(place + 1)
        for weights, room, key, value in zip(self.blocks, places, keys, values, strict=True):
            weights.c_attn(made.x, made.joined)
            room.copy_(made.key_and_value)
            self._attend(key, value)
            weights.c_proj.added(made.x, made.context_rows.to(made.x.dtype), made.sum)
            weights.ln_1(made.sum, made.normed)
            weights.c_fc(made.normed, made.inner)
            self._activate()
            weights.narrow.added(made.normed, made.gate, made.sum)
            weights.ln_2(made.sum, made.x)
        self.cache.length = place + 1
        return made.x

    def _attend(self, key: Tensor, value: Tensor) -> None:
        """Fill the context; `key` is `[heads head_width seen]`, `value` `[heads seen head_width]`.

        Scores are in units of log(2), as in `scratch_gpt.attention_strips`: the library's `exp`
        starts its threads even for a row as short as this, and its power of two does not.
        """
        made = self.buffers
        made.scaled_heads.copy_(made.query).mul_(made.scale)
        scores = torch.bmm(made.scaled, key)
        powers = scores.to(wide(scores.dtype))
        powers.sub_(powers.amax(-1, keepdim=True)).exp2_()
        powers.div_(powers.sum(-1, keepdim=True))
        torch.bmm(powers.to(value.dtype), value, out=made.context)

    def _activate(self) -> None:
        """Fill the gate with GELU of the inner rows: `x sigmoid(u)`; see `scratch_gpt.gelu`."""
        inner, gate = self.buffers.inner, self.buffers.gate
        torch.addcmul(self.buffers.linear, inner, inner, value=LINEAR * CUBIC, out=gate)
        gate.mul_(inner).sigmoid_().mul_(inner)
