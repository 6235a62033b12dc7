"""The model's shape and constants."""

import dataclasses
import sys
from collections.abc import Callable, Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape and constants of a GPT-1; the defaults are the released model's.

    Raises:
        ValueError: A value is outside its range; the message names field and value.

    Source: Radford et al. 2018, section 4.1; finetune-transformer-lm train.py (a69b5c4).
    """

    vocab_size: int = 40_478
    n_positions: int = 512
    """Longest input, in tokens."""
    n_embd: int = 768
    """Width of the residual stream, `width` in shapes; a multiple of `n_head`."""
    n_layer: int = 12
    n_head: int = 12
    afn: str = "gelu"
    """Activation of the MLP; the tanh form of GELU is the only one."""
    embd_pdrop: float = 0.1
    """Dropout probability of the embedding sum, in [0, 1)."""
    attn_pdrop: float = 0.1
    """Dropout probability of the attention weights, in [0, 1)."""
    resid_pdrop: float = 0.1
    """Dropout probability of each sublayer's output, in [0, 1)."""
    layer_norm_epsilon: float = 1e-5
    """Added to the variance, inside the root."""
    initializer_range: float = 0.02
    """Standard deviation of the initial weights."""

    def __post_init__(self) -> None:
        """Check every field's range."""
        for names, (holds, wanted) in _RANGES.items():
            for name in names:
                value = getattr(self, name)
                is_number = isinstance(value, int | float) and not isinstance(value, bool)
                if not (is_number and holds(value)):
                    raise ValueError(f"{name} must be {wanted}, got {value!r}")
        if self.n_embd % self.n_head != 0:
            raise ValueError(
                f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}"
            )
        if self.afn != "gelu":
            raise ValueError(f"afn must be 'gelu' (the tanh form, as released), got {self.afn!r}")

    @property
    def head_width(self) -> int:
        """Features per attention head."""
        return self.n_embd // self.n_head

    @property
    def n_inner(self) -> int:
        """Width of the MLP's inner layer, `inner` in shapes: four times `n_embd`."""
        return 4 * self.n_embd

    @classmethod
    def from_huggingface(cls, fields: Mapping[str, Any]) -> "GPTConfig":
        """Return the config that Hugging Face's `OpenAIGPTConfig.to_dict()` describes.

        Fields that do not change the model are ignored.

        Raises:
            ValueError: A field holds a value that this model does not implement. The message names
                all such fields.
        """
        from scratch_gpt.checkpoint.hf_config import config_values

        return cls(**config_values(fields, {f.name: f.default for f in dataclasses.fields(cls)}))

    def to_huggingface(self) -> dict[str, Any]:
        """Return the keys of Hugging Face's `config.json` that describe this model."""
        return {"model_type": "openai-gpt", "tie_word_embeddings": True} | dataclasses.asdict(self)


_RANGES: dict[tuple[str, ...], tuple[Callable[[float], bool], str]] = {
    ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head"): (
        lambda n: isinstance(n, int) and n >= 1,
        "a whole number of at least 1",
    ),
    ("embd_pdrop", "attn_pdrop", "resid_pdrop"): (lambda p: 0.0 <= p < 1.0, "a number in [0, 1)"),
    ("layer_norm_epsilon", "initializer_range"): (
        lambda x: 0.0 < x <= sys.float_info.max,
        "a finite number above 0",
    ),
}
"""For each group of numbers a test, and the allowed values in words."""
