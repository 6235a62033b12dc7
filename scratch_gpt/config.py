"""The model's shape and constants, and their total conversion from and to Hugging Face's config.

Total means that every key of a Hugging Face config is mapped, required to hold one value, or
ignored with a reason; `huggingface_fields` says which. Anything else is an error: a field that
nobody thought of is a field that could change what the model computes.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from scratch_gpt.checkpoint.hf_config import ALIASES, IGNORED, REQUIRED

_PROBABILITIES = ("embd_pdrop", "attn_pdrop", "resid_pdrop")
_COUNTS = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")


@dataclasses.dataclass(frozen=True, kw_only=True)
class GPTConfig:
    """The shape and constants of a GPT-1; the defaults are the released model's.

    Attributes:
        vocab_size: Number of token ids, `vocab`.
        n_positions: Longest input, in tokens.
        n_embd: Width of the residual stream, `width`; a multiple of `n_head`.
        n_layer: Number of transformer blocks.
        n_head: Attention heads per block.
        afn: Activation of the MLP. Only `"gelu"`, the tanh form of GELU, exists.
        embd_pdrop: Dropout probability of the embedding sum, in [0, 1).
        attn_pdrop: Dropout probability of the attention weights, in [0, 1).
        resid_pdrop: Dropout probability of what each sublayer adds, in [0, 1).
        layer_norm_epsilon: Added to the variance, inside the root.
        initializer_range: Standard deviation of freshly drawn weights.

    Raises:
        ValueError: A value is outside its range; the message names field and value.

    Source: Radford et al. 2018, section 4.1; finetune-transformer-lm train.py (a69b5c4).
    """

    vocab_size: int = 40_478
    n_positions: int = 512
    n_embd: int = 768
    n_layer: int = 12
    n_head: int = 12
    afn: str = "gelu"
    embd_pdrop: float = 0.1
    attn_pdrop: float = 0.1
    resid_pdrop: float = 0.1
    layer_norm_epsilon: float = 1e-5
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        """Refuse a shape that no model can have."""
        for name in _COUNTS:
            _require_count(name, getattr(self, name))
        for name in _PROBABILITIES:
            _require(name, getattr(self, name), lambda p: 0.0 <= p < 1.0, "a number in [0, 1)")
        for name in ("layer_norm_epsilon", "initializer_range"):
            _require(
                name,
                getattr(self, name),
                lambda x: 0.0 < x < math.inf,
                "a finite number above 0",
            )
        if self.n_embd % self.n_head != 0:
            message = f"n_embd must be a multiple of n_head, got {self.n_embd} and {self.n_head}"
            raise ValueError(message)
        if self.afn != "gelu":
            message = f"afn must be 'gelu' (the tanh form, as released), got {self.afn!r}"
            raise ValueError(message)

    @property
    def head_width(self) -> int:
        """Features per attention head."""
        return self.n_embd // self.n_head

    @property
    def n_inner(self) -> int:
        """Width of the MLP's hidden layer, `inner`: four times the residual stream."""
        return 4 * self.n_embd

    @classmethod
    def from_huggingface(cls, fields: Mapping[str, Any]) -> "GPTConfig":
        """Return the config that Hugging Face's `OpenAIGPTConfig.to_dict()` describes.

        Raises:
            ValueError: A field is unknown, or holds a value this model does not implement. All
                such fields are named together.
        """
        spelled = {ALIASES.get(name, name): value for name, value in fields.items()}
        problems = _contradictions(fields) + _refused(spelled)
        if problems:
            message = "this Hugging Face config is not a GPT-1 that we can build: "
            raise ValueError(message + "; ".join(problems))
        ours = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in spelled.items() if name in ours})

    def to_huggingface(self) -> dict[str, Any]:
        """Return the keys of Hugging Face's `config.json` that describe this model."""
        return {"model_type": "openai-gpt", "tie_word_embeddings": True} | dataclasses.asdict(self)


def _require(name: str, value: object, holds: Callable[[float], bool], wanted: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not holds(value):
        message = f"{name} must be {wanted}, got {value!r}"
        raise ValueError(message)


def _require_count(name: str, value: object) -> None:
    _require(name, value, lambda n: isinstance(n, int) and n >= 1, "a whole number of at least 1")


def _refused(spelled: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each field that is unknown or holds an unsupported value."""
    ours = {field.name for field in dataclasses.fields(GPTConfig)}
    unknown = [
        f"unknown field {name}={value!r}"
        for name, value in spelled.items()
        if name not in ours and name not in REQUIRED and name not in IGNORED
    ]
    unsupported = [
        f"{name} must be {wanted!r}, got {spelled[name]!r} ({reason})"
        for name, (wanted, reason) in REQUIRED.items()
        if name in spelled and spelled[name] != wanted
    ]
    return unknown + unsupported


def _contradictions(fields: Mapping[str, Any]) -> list[str]:
    """Return one phrase for each field given under two spellings with two values."""
    first_spelling: dict[str, str] = {}
    phrases = []
    for spelling, value in fields.items():
        first = first_spelling.setdefault(ALIASES.get(spelling, spelling), spelling)
        if fields[first] != value:
            phrases.append(f"{spelling}={value!r} contradicts {first}={fields[first]!r}")
    return phrases
