"""One transformer block: attention, then the MLP, each followed by its normalisation."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from scratch_gpt.attention import CORES, Attention
from scratch_gpt.config import GPTConfig
from scratch_gpt.dropout import dropout
from scratch_gpt.layer_norm import LayerNorm
from scratch_gpt.mlp import MLP
from scratch_gpt.tap import Tap, untapped


class TransformerBlock(nn.Module):
    """A post-norm block: the normalisation follows the residual sum.

    GPT-2 and what came after normalise before the sublayer instead; GPT-1 does not.
    """

    def __init__(self, config: GPTConfig, attention: str) -> None:
        super().__init__()
        width, epsilon = config.n_embd, config.layer_norm_epsilon
        self.attn = Attention(
            width, config.n_head, core=CORES[attention], attn_pdrop=config.attn_pdrop
        )
        self.ln_1 = LayerNorm(width, epsilon=epsilon)
        self.mlp = MLP(width, config.n_inner)
        self.ln_2 = LayerNorm(width, epsilon=epsilon)
        self.resid_pdrop = config.resid_pdrop

    def forward(
        self,
        x: Float[Tensor, "batch time width"],
        mask: Bool[Tensor, "batch time"] | None = None,
        tap: Tap = untapped,
    ) -> Float[Tensor, "batch time width"]:
        """Return the block's output.

        Source: finetune-transformer-lm train.py `block` (a69b5c4).
        """
        dropped = self.resid_pdrop if self.training else 0.0
        attended = dropout(self.attn(x, mask, tap), dropped)
        normed = tap("ln_1", self.ln_1(tap("ln_1.input", x + attended)))
        transformed = dropout(self.mlp(normed, tap), dropped)
        return tap("ln_2", self.ln_2(tap("ln_2.input", normed + transformed)))
