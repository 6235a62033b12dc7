"""Decoding with a cache: the prompt at once, then a token at a time.

The prompt runs through the model. A later token runs through `Step`, the same function in as few
calls as possible: with one row, a product does little but read its weights, so every call between
two products counts. Results go to buffers allocated once, and everything that does not depend on
the token is prepared before.
"""

import functools
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.input_checks import check_inputs
from scratch_gpt.kernels import onednn
from scratch_gpt.kernels.fused_ops import CUBIC, LINEAR
from scratch_gpt.kernels.tiled_attention import LOG_2, compute_dtype
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.linear import Linear
from scratch_gpt.model import GPT
from scratch_gpt.numerics import accumulate_dtype
from scratch_gpt.transformer_block import TransformerBlock

_MOST_PARTS, _MOST_ROWS = 8, 16
_FLOAT32_BYTES = 4


class Decoder:
    """A model with a cache that continues a batch of texts; records no gradients.

    Make a new decoder after the model's weights have changed: it copies some of them.
    """

    def __init__(self, model: GPT, *, batch: int, capacity: int | None = None) -> None:
        """Allocate the cache for `batch` texts of `capacity` tokens, by default `n_positions`.

        The model runs by the backend `fused` in evaluation mode, whatever its own settings are.

        Raises:
            ValueError: `batch` or `capacity` is below 1.
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
        self._head = Head(table, rows=batch)

    @functools.cached_property
    def _step(self) -> "Step":
        """The step; in half precision it copies every weight, which a prompt does not need."""
        return Step(self.model, self.cache)

    @property
    def length(self) -> int:
        """Number of tokens in each text so far."""
        return self.cache.length

    @torch.no_grad()
    def start(self, token_ids: Int[Tensor, "batch time"]) -> Float[Tensor, "batch vocab"]:
        """Clear the cache, read prompts, and return the logits of the next tokens.

        Raises:
            ValueError: The ids are invalid, of another batch size, or exceed the capacity.
        """
        self.cache.clear()
        return self._head(self.model.hidden(token_ids, cache=self.cache)[:, -1])

    @torch.no_grad()
    def step(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch vocab"]:
        """Read one more token of each text; return the logits of the next tokens.

        Raises:
            ValueError: As for `start`.
        """
        table, config = self.model.tokens_embed.weight, self.model.config
        chunk, cached = token_ids[:, None], self.length
        check_inputs(chunk, None, None, config=config, device=table.device, cached=cached)
        self.cache.check(chunk, config, table)
        return self._head(self._step(token_ids))

    def reorder(self, rows: Int[Tensor, " batch"]) -> None:
        """Continue, in row `i`, the text of row `rows[i]`."""
        self.cache.reorder(rows)


class Step:
    """One token through the model, with a cache."""

    def __init__(self, model: GPT, cache: KVCache) -> None:
        self.tokens = model.tokens_embed.weight.detach()
        self.positions = model.positions_embed.weight.detach()
        self.blocks = [Weights.of(block, cache.batch) for block in model.h]  # type: ignore[arg-type]
        self.cache = cache
        self.buffers = Buffers(cache, self.tokens)

    def __call__(self, token_ids: Int[Tensor, " batch"]) -> Float[Tensor, "batch width"]:
        """Return the last block's output for one more token of each row.

        The result is a buffer, which the next step overwrites.
        """
        buffers, position = self.buffers, self.cache.length
        torch.add(self.tokens[token_ids], self.positions[position], out=buffers.x)
        slots, keys, values = self.cache.views(position + 1)
        for weights, slot, key, value in zip(self.blocks, slots, keys, values, strict=True):
            weights.c_attn(buffers.x, buffers.joined)
            slot.copy_(buffers.key_and_value)
            self._attend(key, value)
            weights.c_proj.add_to(buffers.x, buffers.context_rows.to(buffers.x.dtype), buffers.sum)
            weights.ln_1(buffers.sum, buffers.normed)
            weights.c_fc(buffers.normed, buffers.hidden)
            self._activate()
            weights.mlp_proj.add_to(buffers.normed, buffers.gate, buffers.sum)
            weights.ln_2(buffers.sum, buffers.x)
        self.cache.length = position + 1
        return buffers.x

    def _attend(self, key: Tensor, value: Tensor) -> None:
        """Write the context; `key` is `[heads head_width seen]`, `value` `[heads seen head_width]`.

        Scores are in units of log(2), as in `scratch_gpt.kernels.tiled_attention`. For a row this
        short `exp` would start threads, and `exp2` does not.
        """
        buffers = self.buffers
        buffers.scaled_heads.copy_(buffers.query).mul_(buffers.scale)
        scores = torch.bmm(buffers.scaled, key)
        powers = scores.to(accumulate_dtype(scores.dtype))
        powers.sub_(powers.amax(-1, keepdim=True)).exp2_()
        powers.div_(powers.sum(-1, keepdim=True))
        torch.bmm(powers.to(value.dtype), value, out=buffers.context)

    def _activate(self) -> None:
        """Write GELU of the MLP's inner rows, `x sigmoid(u)` as in `fused_gelu`."""
        inner, gate = self.buffers.hidden, self.buffers.gate
        torch.addcmul(self.buffers.linear, inner, inner, value=LINEAR * CUBIC, out=gate)
        gate.mul_(inner).sigmoid_().mul_(inner)


class Buffers:
    """Intermediate results of a step, reused by every block and every token."""

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


class Norm(NamedTuple):
    """A layer normalization in float32 or wider; `gain` and `bias` are `[width]`."""

    gain: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, layer: LayerNorm) -> "Norm":
        """Return a layer's normalization."""
        gain, bias = (x.detach().to(accumulate_dtype(x.dtype)) for x in (layer.weight, layer.bias))
        return cls(gain, bias, layer.epsilon)

    def __call__(self, x: Float[Tensor, "batch width"], out: Tensor) -> None:
        """Write the normalized rows of `x` to `out`; overwrites `x`."""
        rows = x.to(self.gain.dtype)
        variance, mean = torch.var_mean(rows, -1, correction=0, keepdim=True)
        rows.sub_(mean).mul_(variance.add_(self.epsilon).rsqrt_())
        if out.dtype is rows.dtype:
            torch.addcmul(self.bias, rows, self.gain, out=out)
        else:
            out.copy_(torch.addcmul(self.bias, rows, self.gain))


class Product(NamedTuple):
    """An affine map for a few rows: weight `[parts part out]` of `split_weight`, bias `[out]`."""

    weight: Tensor
    bias: Tensor

    @classmethod
    def of(cls, layer: Linear, rows: int) -> "Product":
        """Return a layer's map for products with this many rows; `split_weight` may copy."""
        return cls(split_weight(layer.weight.detach(), rows=rows), layer.bias.detach())

    def __call__(self, x: Tensor, out: Tensor) -> None:
        """Write `x W + b` to `out`."""
        torch.add(split_product(x, self.weight), self.bias, out=out)

    def add_to(self, residual: Tensor, x: Tensor, out: Tensor) -> None:
        """Write `residual + x W + b` to `out`."""
        torch.add(split_product(x, self.weight).add_(self.bias), residual, out=out)


class Weights(NamedTuple):
    """The maps and normalizations of one block, in the order of use."""

    c_attn: Product
    c_proj: Product
    ln_1: Norm
    c_fc: Product
    mlp_proj: Product
    ln_2: Norm

    @classmethod
    def of(cls, block: TransformerBlock, rows: int) -> "Weights":
        """Return a block's, for products with this many rows."""
        maps = (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj)
        attn, proj, fc, mlp_proj = (Product.of(layer, rows) for layer in maps)
        return cls(attn, proj, Norm.of(block.ln_1), fc, mlp_proj, Norm.of(block.ln_2))


class Head:
    """The output head for products with a few rows.

    Such a product reads the whole table. On a CPU in float32 MKL reads a table `[width vocab]` 1.9
    times as fast as `[vocab width]`, which it sums row by row; so there the table is copied once.
    oneDNN, for two rows or more, reads both equally fast. In half precision a copy was no faster.
    """

    def __init__(self, table: Float[Tensor, "vocab width"], *, rows: int) -> None:
        on_cpu = table.device.type == "cpu"
        by_onednn = rows > 1 and onednn.suits(table)
        copied = on_cpu and table.dtype is torch.float32 and not by_onednn
        weight = table.detach().T.contiguous() if copied else table.detach().T
        self.weight = split_weight(weight, rows=rows)
        self.copied_bytes = weight.nbytes if copied else 0

    def __call__(self, x: Float[Tensor, "batch width"]) -> Float[Tensor, "batch vocab"]:
        """Return `x table^T`."""
        return split_product(x, self.weight)


def split_weight(
    weight: Float[Tensor, "inner outer"], *, rows: int
) -> Float[Tensor, "parts part outer"]:
    """Return a weight as its parts, for products with this many rows; views of it where possible.

    A product with few rows only reads its weight, and the library does that on one thread. Split
    along the inner axis into a part for each thread, it is a batch of products whose results are
    summed. Sums of parts also round less, and a residual is added after them: starting from the
    residual, every partial sum would be rounded at its size.

    There is one part where splitting does not help: with many rows, on a GPU, where oneDNN takes
    two rows or more, and in half precision, for which the library uses all threads. In half
    precision it reads a column of the weight at a time, so that the weight is copied with its
    columns in one piece.
    """
    few = rows <= _MOST_ROWS and weight.device.type == "cpu"
    few = few and not (rows > 1 and onednn.suits(weight))
    parts = 1
    if few and weight.element_size() < _FLOAT32_BYTES:
        return weight.T.contiguous().T[None]
    if few:
        threads = min(torch.get_num_threads(), _MOST_PARTS)
        while 2 * parts <= threads and weight.shape[0] % (2 * parts) == 0:
            parts *= 2
    return weight.view(parts, -1, weight.shape[1])


def split_product(
    x: Float[Tensor, "rows inner"], weight: Float[Tensor, "parts part outer"]
) -> Float[Tensor, "rows outer"]:
    """Return the product with a weight of `split_weight`."""
    if weight.shape[0] == 1:
        return onednn.product(x, weight[0]) if onednn.suits(x, weight) else torch.mm(x, weight[0])
    shares = x.view(len(x), weight.shape[0], -1).transpose(0, 1)
    return torch.bmm(shares, weight).sum(0)
