"""One transformer block: attention, then the MLP, each followed by its normalization."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from scratch_gpt.attention import Attention, Backend
from scratch_gpt.config import GPTConfig
from scratch_gpt.dropout import dropout
from scratch_gpt.kv_cache import BlockCache
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.mlp import MLP
from scratch_gpt.tap import Tap, no_tap


class TransformerBlock(nn.Module):
    """A post-norm block: the normalization follows the residual sum.

    GPT-2 and later models normalize before the sublayer instead.
    """

    def __init__(self, config: GPTConfig, backend: Backend) -> None:
        super().__init__()
        width, epsilon = config.n_embd, config.layer_norm_epsilon
        self.attn = Attention(config, backend)
        self.ln_1 = LayerNorm(width, epsilon=epsilon, normalize=backend.layer_norm)
        self.mlp = MLP(width, config.n_inner, activation=backend.gelu, product=backend.linear)
        self.ln_2 = LayerNorm(width, epsilon=epsilon, normalize=backend.layer_norm)
        self.resid_pdrop = config.resid_pdrop
        self.fuse_residual = backend.fuse_residual

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None = None,
        tap: Tap = no_tap,
        cache: BlockCache | None = None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the block's output.

        Source: finetune-transformer-lm train.py `block` (a69b5c4).
        """
        probability = self.resid_pdrop if self.training else 0.0
        if self.fuse_residual and probability == 0.0:
            return self._forward_fused(x, mask, tap, cache)
        attended = dropout(self.attn(x, mask, tap, cache), probability)
        normed = tap("ln_1", self.ln_1(tap("ln_1.input", x + attended)))
        transformed = dropout(self.mlp(normed, tap), probability)
        return tap("ln_2", self.ln_2(tap("ln_2.input", normed + transformed)))

    def _forward_fused(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None,
        tap: Tap,
        cache: BlockCache | None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the same with each residual added in the product's memory, without dropout.

        The sublayers' outputs never exist as tensors, so the taps `attn` and `mlp` are not called.
        """
        attended = self.attn.c_proj.add_to(x, self.attn.context(x, mask, tap, cache))
        normed = tap("ln_1", self.ln_1(tap("ln_1.input", attended)))
        transformed = self.mlp.c_proj.add_to(normed, self.mlp.hidden(normed, tap))
        return tap("ln_2", self.ln_2(tap("ln_2.input", transformed)))
