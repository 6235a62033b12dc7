"""The points at which implementations are compared, in network order.

Two rules:

1. Everything that is compared is in `KINDS`; nothing else names a tap.
2. `NEVER_FORMED` has the reason for every tensor that a backend does not form. A tap that one side
   lacks is in that table, or it fails; no comparison is skipped.
"""

import dataclasses
from collections.abc import Iterator
from enum import StrEnum


class Axes(StrEnum):
    """What a tap's axes are; it decides which entries of a padded or causal tensor are real."""

    ROWS = "batch time feature"
    POSITIONS = "rows time width"
    HEADS = "batch head time head_width"
    SCORES = "batch head time_q time_k, causal entries"
    WEIGHTS = "batch head time_q time_k"
    LOSS = "batch time-1"


@dataclasses.dataclass(frozen=True)
class Kind:
    """One kind of tap.

    Attributes:
        name: Its name; for a block's tap, the part after `h.{i}.`.
        axes: What its axes are.
        inputs: The kinds that feed the operation, and those that feed these where a path never
            forms them. `<x` is the block's own input.
        suspects: What is usually wrong where this is the first tap to differ.
    """

    name: str
    axes: Axes
    inputs: tuple[str, ...]
    suspects: str


EMBEDDING_KINDS = (
    Kind("embeddings.tokens", Axes.ROWS, (), "another vocabulary, ids shifted, table mixed up"),
    Kind(
        "embeddings.positions",
        Axes.POSITIONS,
        (),
        "positions counted from 1, or taken from the padding mask; a sinusoidal table",
    ),
    Kind(
        "embeddings",
        Axes.ROWS,
        ("embeddings.tokens", "embeddings.positions"),
        "a scale on the embedding; token types added; dropout left on",
    ),
)

_QKV_SUSPECTS = (
    "c_attn read as [out, in], or its bias dropped; heads interleaved instead of consecutive; "
    "query, key and value in another order; a pre-norm block; blocks out of order"
)

BLOCK_KINDS = (
    Kind("attn.query", Axes.HEADS, ("<x",), _QKV_SUSPECTS),
    Kind("attn.key", Axes.HEADS, ("<x",), _QKV_SUSPECTS),
    Kind("attn.value", Axes.HEADS, ("<x",), _QKV_SUSPECTS),
    Kind(
        "attn.scores",
        Axes.SCORES,
        ("attn.query", "attn.key"),
        "the scale 1/sqrt(head_width) missing, or taken from the model's width",
    ),
    Kind(
        "attn.weights",
        Axes.WEIGHTS,
        ("attn.scores",),
        "the causal mask off by one or missing; softmax over another axis",
    ),
    Kind(
        "attn.context",
        Axes.ROWS,
        ("attn.weights", "attn.query", "attn.key", "attn.value"),
        "heads merged without moving their axis back; the mask, where weights are not formed",
    ),
    Kind(
        "attn",
        Axes.ROWS,
        ("attn.context",),
        "the square c_proj transposed (its shape cannot tell); its bias dropped",
    ),
    Kind(
        "ln_1.input",
        Axes.ROWS,
        ("<x", "attn", "attn.context"),
        "the residual missing, or taken from another place (pre-norm, x + ln(attn(x)))",
    ),
    Kind(
        "ln_1",
        Axes.ROWS,
        ("ln_1.input",),
        "epsilon (1e-5, inside the root); unbiased variance; gain or bias not loaded; "
        "ln_1 and ln_2 swapped",
    ),
    Kind("mlp.c_fc", Axes.ROWS, ("ln_1",), "c_fc reshaped instead of transposed; bias dropped"),
    Kind(
        "mlp.gelu",
        Axes.ROWS,
        ("mlp.c_fc",),
        "another activation: the erf GELU differs by up to 5e-4, x*sigmoid(1.702x) by 2e-2",
    ),
    Kind("mlp", Axes.ROWS, ("mlp.gelu",), "c_proj reshaped instead of transposed; bias dropped"),
    Kind("ln_2.input", Axes.ROWS, ("ln_1", "mlp", "mlp.gelu"), "the MLP's residual missing"),
    Kind(
        "ln_2",
        Axes.ROWS,
        ("ln_2.input",),
        "as ln_1: epsilon, variance, gain and bias, ln_1 and ln_2 swapped",
    ),
)

OUTPUT_KINDS = (
    Kind("logits", Axes.ROWS, ("<x",), "an extra final norm; a head that is not the embedding"),
    Kind("loss", Axes.LOSS, ("logits",), "targets not shifted by one; a softmax over more rows"),
)

_NO_SCORES = {
    "attn.scores": "a tiled core holds one tile's strip of scores at a time",
    "attn.weights": "a tiled core divides by the softmax's sum after the product",
}
_NO_SUMMANDS = {
    "attn": "the product adds to the residual as it goes, in ln_1.input",
    "mlp": "the product adds to the residual as it goes, in ln_2.input",
}

NEVER_FORMED: dict[str, dict[str, str]] = {
    "plain": {},
    "tiled": _NO_SCORES,
    "fused": {**_NO_SCORES, **_NO_SUMMANDS},
    "compiled": {
        kind.name: "inside a compiled block no tensor can be watched"
        for kind in BLOCK_KINDS
        if kind.name != "ln_2"
    },
    "triton": {**_NO_SCORES, **_NO_SUMMANDS},
}
"""For each attention path, the kinds that it never forms, each with the reason."""


@dataclasses.dataclass(frozen=True)
class Tap:
    """A tap of a model: its full name, its kind, and the names of the taps that feed it."""

    name: str
    kind: Kind
    inputs: tuple[str, ...]


def taps(n_layer: int) -> list[Tap]:
    """Return every tap of a model with `n_layer` blocks, in network order: 5 + 14 a block."""
    return list(_taps(n_layer))


def _taps(n_layer: int) -> Iterator[Tap]:
    before = "embeddings"
    for kind in EMBEDDING_KINDS:
        yield Tap(kind.name, kind, kind.inputs)
    for index in range(n_layer):
        for kind in BLOCK_KINDS:
            inputs = tuple(before if name == "<x" else f"h.{index}.{name}" for name in kind.inputs)
            yield Tap(f"h.{index}.{kind.name}", kind, inputs)
        before = f"h.{index}.ln_2"
    for kind in OUTPUT_KINDS:
        inputs = tuple(before if name == "<x" else name for name in kind.inputs)
        yield Tap(kind.name, kind, inputs)


def never_formed(backend: str, n_layer: int) -> dict[str, str]:
    """Return the taps that the path never forms, each with the reason."""
    return {
        f"h.{index}.{kind}": reason
        for index in range(n_layer)
        for kind, reason in NEVER_FORMED[backend].items()
    }


def undefined_taps(time: int) -> dict[str, str]:
    """Return the taps that no path has for inputs of this length, each with the reason."""
    return {} if time > 1 else {"loss": "at time 1 no next token is predicted"}
