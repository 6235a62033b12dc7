"""One transformer block: attention, then the MLP, each followed by its normalisation."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from scratch_gpt.attention import KERNELS, Attention
from scratch_gpt.config import GPTConfig
from scratch_gpt.dropout import dropout
from scratch_gpt.kernels.backends import Backend
from scratch_gpt.kv_cache import BlockCache
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.mlp import MLP
from scratch_gpt.tap import Tap, no_tap


class TransformerBlock(nn.Module):
    """A post-norm block: the normalisation follows the residual sum.

    GPT-2 and what came after normalise before the sublayer instead; GPT-1 does not.
    """

    def __init__(self, config: GPTConfig, path: Backend) -> None:
        super().__init__()
        width, epsilon = config.n_embd, config.layer_norm_epsilon
        self.attn = Attention(
            width, config.n_head, core=KERNELS[path.core], attn_pdrop=config.attn_pdrop
        )
        self.ln_1 = LayerNorm(width, epsilon=epsilon, normalise=path.normalise)
        self.mlp = MLP(width, config.n_inner, activation=path.activation)
        self.ln_2 = LayerNorm(width, epsilon=epsilon, normalise=path.normalise)
        self.resid_pdrop = config.resid_pdrop
        self.fused = path.fused

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
        dropped = self.resid_pdrop if self.training else 0.0
        if self.fused and dropped == 0.0:
            return self._fused(x, mask, tap, cache)
        attended = dropout(self.attn(x, mask, tap, cache), dropped)
        normed = tap("ln_1", self.ln_1(tap("ln_1.input", x + attended)))
        transformed = dropout(self.mlp(normed, tap), dropped)
        return tap("ln_2", self.ln_2(tap("ln_2.input", normed + transformed)))

    def _fused(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time_k"] | None,
        tap: Tap,
        cache: BlockCache | None,
    ) -> Float[Tensor, "batch time width"]:
        """Return the same, each sum begun in the product: no dropout stands between the two."""
        attended = self.attn.c_proj.add_to(x, self.attn.gathered(x, mask, tap, cache))
        normed = tap("ln_1", self.ln_1(tap("ln_1.input", attended)))
        transformed = self.mlp.c_proj.add_to(normed, self.mlp.widened(normed, tap))
        return tap("ln_2", self.ln_2(tap("ln_2.input", transformed)))
