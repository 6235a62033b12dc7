"""Decoding: a prompt at once, then a token at a time.

The prompt goes the model's own way, through the tiled core. A token after it is one row of each
product, where time is reading weights and little else; see `scratch_gpt.generation.decoder`.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.causal_mask import accumulate_dtype
from scratch_gpt.input_checks import check_inputs
from scratch_gpt.kernels.fused_ops import CUBIC, LINEAR
from scratch_gpt.kernels.tiled_attention import LOG_2, compute_dtype
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.linear import Linear
from scratch_gpt.model import GPT
from scratch_gpt.transformer_block import TransformerBlock

# Products with one row or a few, read by all cores.
#
# Such a product is a read of its weight, and the library reads it on one thread. Cut along the
# inner axis into as many parts as there are threads, it is a batch of products, one a thread,
# whose results are summed. The parts are views: nothing is copied. Sums of parts also round less,
# and a residual is added after them: begun at the residual, every partial sum would be rounded at
# its size.


_MOST_PARTS, _MOST_ROWS = 8, 16
_FLOAT32_BYTES = 4


def split_weight(
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


def split_product(
    x: Float[Tensor, "rows inner"], weight: Float[Tensor, "parts part outer"]
) -> Float[Tensor, "rows outer"]:
    """Return the product with a weight that was cut."""
    if weight.shape[0] == 1:
        return torch.mm(x, weight[0])
    shares = x.view(len(x), weight.shape[0], -1).transpose(0, 1)
    return torch.bmm(shares, weight).sum(0)


# The head for few rows: the vocabulary's product in the layout that is read fastest.


class Head:
    """The token embedding, laid out once for products with a row or a few.

    A product with one row is a read of the table. On a CPU in float32 the library reads a table
    `[width vocab]` 1.9 times as fast as one `[vocab width]`, which it sums row by row; so there
    the table is copied, once. In half precision it was no slower as it is.
    """

    def __init__(self, table: Float[Tensor, "vocab width"], *, rows: int) -> None:
        copied = table.device.type == "cpu" and table.dtype is torch.float32
        weight = table.detach().T.contiguous() if copied else table.detach().T
        self.weight = split_weight(weight, rows=rows)
        self.copied_bytes = weight.nbytes if copied else 0

    def __call__(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch vocab"]:
        """Return `x table^T`."""
        return split_product(x, self.weight)


# One token through the model in as few calls as there are.
#
# The same function as the model with a cache, on rows `[batch width]`. At one token a product reads
# its weights once and does little else, so that every call between products counts: results go into
# buffers made once, and whatever does not depend on the token is prepared before.


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
        gain, bias = (x.detach().to(accumulate_dtype(x.dtype)) for x in (layer.weight, layer.bias))
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
        weight: `[parts part out]`; see `scratch_gpt.generation.decoder`.
        bias: `[out]`.
    """

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Linear, rows: int) -> "Product":
        """Return a layer's, for so many rows; the tensors are its own."""
        return cls(split_weight(layer.weight.detach(), rows=rows), layer.bias.detach())

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Put `x W + b` into `out`."""
        torch.add(split_product(x, self.weight), self.bias, out=out)

    def added(self, residual: Tensor, x: Tensor, out: Tensor) -> None:
        """Put `residual + x W + b` into `out`."""
        torch.add(split_product(x, self.weight).add_(self.bias), residual, out=out)


class Weights(NamedTuple):
    """What one block multiplies and normalises with, in the order of use."""

    c_attn: Product
    c_proj: Product
    ln_1: Norm
    c_fc: Product
    mlp_proj: Product
    ln_2: Norm

    @classmethod
    def of(cls, block: TransformerBlock, rows: int) -> "Weights":
        """Return a block's, for so many rows; the tensors are its own."""
        maps = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        attn, proj, fc, mlp_proj = (Product.of(layer, rows) for layer in maps)
        return cls(attn, proj, Norm.of(block.ln_1), fc, mlp_proj, Norm.of(block.ln_2))


class Buffers:
    """Rows of what a step makes, used again by every block and every token."""

    def __init__(self, cache: KVCache, like: Tensor) -> None:
        heads, head_width = cache.keys.shape[2], cache.keys.shape[4]
        batch, width = cache.batch, heads * head_width
        self.x, self.normed, self.sum = (like.new_empty(batch, width) for _ in range(3))
        self.hidden, self.gate = (like.new_empty(batch, 4 * width) for _ in range(2))
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

    def __init__(self, model: GPT, cache: KVCache) -> None:
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
            weights.c_fc(made.normed, made.hidden)
            self._activate()
            weights.mlp_proj.added(made.normed, made.gate, made.sum)
            weights.ln_2(made.sum, made.x)
        self.cache.length = place + 1
        return made.x

    def _attend(self, key: Tensor, value: Tensor) -> None:
        """Fill the context; `key` is `[heads head_width seen]`, `value` `[heads seen head_width]`.

        Scores are in units of log(2), as in `scratch_gpt.kernels.tiled_attention`: the library's
        `exp` starts its threads even for a row as short as this, and its power of two does not.
        """
        made = self.buffers
        made.scaled_heads.copy_(made.query).mul_(made.scale)
        scores = torch.bmm(made.scaled, key)
        powers = scores.to(accumulate_dtype(scores.dtype))
        powers.sub_(powers.amax(-1, keepdim=True)).exp2_()
        powers.div_(powers.sum(-1, keepdim=True))
        torch.bmm(powers.to(value.dtype), value, out=made.context)

    def _activate(self) -> None:
        """Fill the gate with GELU of the inner rows: `x sigmoid(u)`; see `scratch_gpt.mlp`."""
        inner, gate = self.buffers.hidden, self.buffers.gate
        torch.addcmul(self.buffers.linear, inner, inner, value=LINEAR * CUBIC, out=gate)
        gate.mul_(inner).sigmoid_().mul_(inner)


class Decoder:
    """A model that goes on from where it is, with its cache; nothing is recorded for gradients.

    Weights are read as they are when it is made: make it anew after they have changed.
    """

    def __init__(self, model: GPT, *, batch: int, capacity: int | None = None) -> None:
        """Make the room.

        Args:
            model: Is run by its `fused` path, as in evaluation, whatever its own path and mode.
            batch: Rows of text.
            capacity: Tokens in each row at most; `n_positions` where None.

        Raises:
            ValueError: No room at all.
        """
        self.model = model.with_backend("fused").eval()
        table = model.tokens_embed.weight
        self.cache = KVCache(
            model.config,
            batch=batch,
            capacity=capacity,
            dtype=compute_dtype(table),
            device=table.device,
        )
        self._step = Step(self.model, self.cache)
        self._head = Head(table, rows=batch)

    @property
    def length(self) -> int:
        """Tokens of each row so far."""
        return self.cache.length

    @torch.no_grad()
    def start(self, token_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch vocab"]:
        """Forget what was, take a prompt, and return the logits of what follows it.

        Raises:
            ValueError: Ids that the model cannot take, or another batch, or too many of them.
        """
        self.cache.clear()
        hidden = self.model.hidden(token_ids, cache=self.cache)
        return self._head(hidden[:, -1])

    @torch.no_grad()
    def step(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Take one more token of each row; return the logits of what follows.

        Raises:
            ValueError: As for `start`.
        """
        table, config = self.model.tokens_embed.weight, self.model.config
        chunk, cached = token_ids[:, None], self.length
        check_inputs(chunk, None, None, config=config, device=table.device, cached=cached)
        self.cache.check(chunk, config, table)
        return self._head(self._step(token_ids))

    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Let row `i` go on from what row `rows[i]` was."""
        self.cache.reorder(rows)
