"""The position-wise feed-forward network."""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from scratch_gpt.affine import Affine
from scratch_gpt.gelu import gelu
from scratch_gpt.tap import Tap, untapped, within

Activation = Callable[[Float[Tensor, "*shape"]], Float[Tensor, "*shape"]]
"""`gelu`, or another function of the same values."""


class MLP(nn.Module):
    """Widen fourfold, apply GELU, narrow again."""

    def __init__(self, width: int, inner: int, *, activation: Activation = gelu) -> None:
        super().__init__()
        self.c_fc = Affine(width, inner)
        self.c_proj = Affine(inner, width)
        self.activation = activation

    def widened(
        self, x: Float[Tensor, "batch time width"], tap: Tap = untapped
    ) -> Float[Tensor, "batch time inner"]:
        """Return what `c_proj` is given.

        Source: finetune-transformer-lm train.py `mlp` (a69b5c4).
        """
        tap_mlp = within("mlp", tap)
        return tap_mlp("gelu", self.activation(tap_mlp("c_fc", self.c_fc(x))))

    def forward(
        self, x: Float[Tensor, "batch time width"], tap: Tap = untapped
    ) -> Float[Tensor, "batch time width"]:
        """Return the feed-forward of each position."""
        return tap("mlp", self.c_proj(self.widened(x, tap)))
