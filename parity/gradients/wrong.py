"""What a wrong backward pass believes it came from.

Each function returns a tensor that has the shape of the right one and the gradient of the fault;
its values are thrown away. It is told what the taps before have shown.
"""

import dataclasses
import math
from typing import cast

import torch
from torch import Tensor

from scratch_gpt.affine import affine
from scratch_gpt.attention import merge_heads
from scratch_gpt.layer_norm import LayerNorm, layer_norm
from scratch_gpt.model import GPT
from scratch_gpt.transformer_block import TransformerBlock
from scratch_gpt.visibility import hidden_keys


@dataclasses.dataclass(kw_only=True)
class Scene:
    """Where a fault happens.

    Attributes:
        model: The faulty model.
        block: The number of the faulty block.
        token_ids: `[batch time]`.
        mask: `[batch time]`, bool; None without padding.
        seen: The taps shown so far, as the model goes on with them.
    """

    model: GPT
    block: int
    token_ids: Tensor
    mask: Tensor | None
    seen: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def tap(self, kind: str) -> Tensor:
        """Return what the faulty block has shown at a kind of tap."""
        return self.seen[f"h.{self.block}.{kind}"]

    @property
    def parts(self) -> TransformerBlock:
        """The faulty block."""
        return cast("TransformerBlock", self.model.h[self.block])

    @property
    def input(self) -> Tensor:
        """What the faulty block is given."""
        before = f"h.{self.block - 1}.ln_2" if self.block > 0 else "embeddings"
        return self.seen[before]


def cut_off(value: Tensor, _scene: Scene) -> Tensor:
    """Depend on nothing; a tap can still be watched."""
    return value.detach().requires_grad_()


def doubled(value: Tensor, _scene: Scene) -> Tensor:
    """Send every gradient back twice."""
    return 2.0 * value


def times_targets(value: Tensor, scene: Scene) -> Tensor:
    """Undo the division by the number of targets."""
    batch, time = scene.token_ids.shape
    return value * float(batch * (time - 1))


def unscaled(value: Tensor, _scene: Scene) -> Tensor:
    """Undo the scale of the scores."""
    return value * math.sqrt(value.shape[-1])


def residual_cut(value: Tensor, scene: Scene) -> Tensor:
    """Take the block's input out of the sum again."""
    return value - (scene.input - scene.input.detach())


def head_detached(_value: Tensor, scene: Scene) -> Tensor:
    """Use the token embedding in the head as a constant."""
    last = scene.seen[f"h.{len(scene.model.h) - 1}.ln_2"]
    return last @ scene.model.tokens_embed.weight.detach().T


def last_of_each_token(value: Tensor, scene: Scene) -> Tensor:
    """Let only the last occurrence of a token depend on its row of the table."""
    flat = scene.token_ids.flatten()
    same = flat[:, None] == flat[None, :]
    repeated_later = same.triu(1).any(-1).view(*scene.token_ids.shape, 1)
    return torch.where(repeated_later, value.detach(), value)


def norm_without_mean(_value: Tensor, scene: Scene) -> Tensor:
    """Take the row's mean for a constant."""
    x, norm = scene.tap("ln_1.input"), scene.parts.ln_1
    centred = x - x.mean(-1, keepdim=True).detach()
    variance = (centred * centred).mean(-1, keepdim=True)
    return centred * torch.rsqrt(variance + norm.epsilon) * norm.weight + norm.bias


def norm_without_variance(_value: Tensor, scene: Scene) -> Tensor:
    """Take the row's variance for a constant."""
    x, norm = scene.tap("ln_1.input"), scene.parts.ln_1
    return _normalised(x, norm) * norm.weight + norm.bias


def gain_of_one_row(_value: Tensor, scene: Scene) -> Tensor:
    """Let only the first row depend on the gain."""
    x, norm = scene.tap("ln_1.input"), scene.parts.ln_1
    gain = norm.weight.detach()
    share = _normalised(x, norm).detach() * _first_row(x) * (norm.weight - gain)
    return layer_norm(x, gain, norm.bias, epsilon=norm.epsilon) + share


def bias_of_one_row(_value: Tensor, scene: Scene) -> Tensor:
    """Let only the first row depend on the bias."""
    x, fc = scene.tap("ln_1"), scene.parts.mlp.c_fc
    bias = fc.bias.detach()
    return affine(x, fc.weight, bias) + _first_row(x) * (fc.bias - bias)


def erf_gelu(_value: Tensor, scene: Scene) -> Tensor:
    """Differentiate the erf form of GELU."""
    inner = scene.tap("mlp.c_fc")
    return 0.5 * inner * (1.0 + torch.erf(inner / math.sqrt(2.0)))


def projection_untransposed(_value: Tensor, scene: Scene) -> Tensor:
    """Depend on the context through the transpose of the projection."""
    context, projection = scene.tap("attn.context"), scene.parts.attn.c_proj
    turned = context @ projection.weight.detach().T
    return affine(context.detach(), projection.weight, projection.bias) + turned


def attention_without_delta(value: Tensor, scene: Scene) -> Tensor:
    """Take the softmax's sum for a constant, in the weights or, unformed, in the context."""
    kind = "attn.scores"
    if f"h.{scene.block}.{kind}" in scene.seen:
        return _weights(scene.tap(kind), scene.mask)
    query, key = scene.tap("attn.query"), scene.tap("attn.key")
    scores = (query * query.shape[-1] ** -0.5) @ key.transpose(-2, -1)
    context = merge_heads(_weights(scores, scene.mask) @ scene.tap("attn.value"))
    return context.view_as(value)


def _weights(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the softmax of visible scores, its sum a constant."""
    hidden = hidden_keys(scores.shape[-2], scores.shape[-1], mask, scores.device)
    masked = scores.masked_fill(hidden, float("-inf"))
    exponentials = torch.exp(masked - masked.detach().amax(-1, keepdim=True))
    return exponentials / exponentials.sum(-1, keepdim=True).detach()


def _normalised(x: Tensor, norm: LayerNorm) -> Tensor:
    """Return rows of mean 0 and variance 1, the variance a constant."""
    centred = x - x.mean(-1, keepdim=True)
    variance = (centred * centred).mean(-1, keepdim=True).detach()
    return centred * torch.rsqrt(variance + norm.epsilon)


def _first_row(x: Tensor) -> Tensor:
    """Return `[batch time 1]`: 1 at the very first row, else 0."""
    row = torch.zeros(x.shape[0] * x.shape[1], 1, dtype=x.dtype, device=x.device)
    row[0] = 1.0
    return row.view(*x.shape[:2], 1)
