"""The points at which implementations are compared, in network order.

No other file names a tap. `NEVER_FORMED` has the reason for every tensor that a backend does not
form: a tap that one side lacks is in that table, or it fails.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from enum import StrEnum


class Axes(StrEnum):
    """A tap's axes; they decide which entries of a padded or causal tensor are compared."""

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
        inputs: The kinds that feed the operation, and those that feed these where a backend never
            forms them. `<x` is the block's own input.
        suspects: The likely causes if this is the first tap to differ.
    """

    name: str
    axes: Axes
    inputs: tuple[str, ...]
    suspects: str


EMBEDDING_KINDS = (
    Kind(
        "embeddings.tokens",
        Axes.ROWS,
        (),
        "ids of another vocabulary, or shifted by one; rows of tokens_embed.weight reordered",
    ),
    Kind(
        "embeddings.positions",
        Axes.POSITIONS,
        (),
        "positions counted from 1 (not from 0), from the end, all at position 0, or from the "
        "padding mask; those of another row, or ignored; a sinusoidal table",
    ),
    Kind(
        "embeddings",
        Axes.ROWS,
        ("embeddings.tokens", "embeddings.positions"),
        "the sum scaled by sqrt(n_embd); positions missing, or not counted at padding; token types "
        "or a norm added; dropout left on (call model.eval()); a narrower dtype",
    ),
)

_QKV_SUSPECTS = (
    "c_attn read as [out, in] (it is [in, out]), or its bias dropped; order not query, key, value; "
    "heads interleaved, or split without transpose(1, 2); a norm before attention (GPT-2); blocks "
    "in another order, as blocks sorted as strings; rows of the batch mixed; a narrower dtype"
)

BLOCK_KINDS = (
    Kind("attn.query", Axes.HEADS, ("<x",), _QKV_SUSPECTS),
    Kind("attn.key", Axes.HEADS, ("<x",), _QKV_SUSPECTS),
    Kind("attn.value", Axes.HEADS, ("<x",), _QKV_SUSPECTS),
    Kind(
        "attn.scores",
        Axes.SCORES,
        ("attn.query", "attn.key"),
        "the scale 1/sqrt(head_width) missing, or taken from n_embd; scores transposed, or of "
        "query with itself; a narrower dtype",
    ),
    Kind(
        "attn.weights",
        Axes.WEIGHTS,
        ("attn.scores",),
        "no causal mask, or off by one (use tril(), not tril(diagonal=1)); the padding mask "
        "ignored, inverted or of another row; no softmax, softmax not over keys or of another "
        "base; dropout left on; a narrower dtype",
    ),
    Kind(
        "attn.context",
        Axes.ROWS,
        ("attn.weights", "attn.query", "attn.key", "attn.value"),
        "heads merged without transpose(1, 2); weights transposed; the end of a tile or the last "
        "rows of a batch; a narrower dtype; where weights are not formed, also the scale or the "
        "mask",
    ),
    Kind(
        "attn",
        Axes.ROWS,
        ("attn.context",),
        "c_proj transposed: it is [in, out] and square, so no shape error; its bias dropped; no "
        "c_proj; dropout left on; a narrower dtype",
    ),
    Kind(
        "ln_1.input",
        Axes.ROWS,
        ("<x", "attn", "attn.context"),
        "the residual missing or added twice; GPT-1 normalizes the sum, ln_1(x + attn(x)), not "
        "x + ln_1(attn(x)); a narrower dtype",
    ),
    Kind(
        "ln_1",
        Axes.ROWS,
        ("ln_1.input",),
        "epsilon not 1e-5 or the config's, or outside the root; var() without unbiased=False, or "
        "without the root; mean not subtracted (RMS norm), or over another axis; gain or bias not "
        "loaded; ln_1 and ln_2 swapped, or missing; a narrower dtype",
    ),
    Kind(
        "mlp.c_fc",
        Axes.ROWS,
        ("ln_1",),
        "c_fc read as [out, in] (it is [in, out]), or reshaped for transposed; bias dropped; its "
        "input not ln_1's output; a wrong element of its weight; a narrower dtype",
    ),
    Kind(
        "mlp.gelu",
        Axes.ROWS,
        ("mlp.c_fc",),
        "GPT-1 uses gelu(approximate='tanh'); the erf form differs by 5e-4, "
        "x*sigmoid(1.702x) by 2e-2; a narrower dtype by 1e-3 or 1e-7",
    ),
    Kind(
        "mlp",
        Axes.ROWS,
        ("mlp.gelu",),
        "c_proj read as [out, in] (it is [in, out]), or reshaped for transposed; bias dropped; "
        "dropout left on; a narrower dtype",
    ),
    Kind(
        "ln_2.input",
        Axes.ROWS,
        ("ln_1", "mlp", "mlp.gelu"),
        "the residual missing, added twice, or not ln_1's output: GPT-1 has ln_2(x + mlp(x)), x "
        "after ln_1; a narrower dtype",
    ),
    Kind(
        "ln_2",
        Axes.ROWS,
        ("ln_2.input",),
        "as at ln_1: epsilon 1e-5, biased variance, gain and bias; ln_1 and ln_2 swapped, or "
        "missing; a block skipped; a narrower dtype",
    ),
)

OUTPUT_KINDS = (
    Kind(
        "logits",
        Axes.ROWS,
        ("<x",),
        "an extra final norm (GPT-2's ln_f); a head that is not tokens_embed.weight transposed; "
        "a bias, a softmax, logits scaled or capped, or of the position before; a narrower dtype",
    ),
    Kind(
        "loss",
        Axes.LOSS,
        ("logits",),
        "targets not shifted: logits[:, t] predict ids[:, t + 1]; softmax not over the vocabulary",
    ),
)

_NO_SCORES = {
    "attn.scores": "a tiled kernel holds one tile's strip of scores at a time",
    "attn.weights": "a tiled kernel divides by the softmax's sum after the product",
}
_NO_SUMMANDS = {
    "attn": "the residual is added in the product's own memory, in ln_1.input",
    "mlp": "the residual is added in the product's own memory, in ln_2.input",
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
"""For each backend, the kinds that it never forms, each with the reason."""


def never_formed_kinds(backend: str) -> Mapping[str, str]:
    """Return the kinds that a backend never forms, each with the reason.

    A registered kernel declares them itself.
    """
    if backend in NEVER_FORMED:
        return NEVER_FORMED[backend]
    from scratch_gpt.kernels.backends import BACKENDS  # here: a list of taps needs no torch

    return {
        f"attn.{tap}": f"the kernel of {backend} does not form it"
        for tap in BACKENDS[backend].never_forms
    }


@dataclasses.dataclass(frozen=True)
class Tap:
    """A tap of a model: its full name, its kind, and the names of the taps that feed it."""

    name: str
    kind: Kind
    inputs: tuple[str, ...]


def taps(n_layer: int) -> list[Tap]:
    """Return every tap of a model with `n_layer` blocks, in network order: 5 + 14 a block."""
    found, before = [], "embeddings"

    def add(prefix: str, kind: Kind) -> None:
        inputs = tuple(before if name == "<x" else prefix + name for name in kind.inputs)
        found.append(Tap(prefix + kind.name, kind, inputs))

    for kind in EMBEDDING_KINDS:
        add("", kind)
    for index in range(n_layer):
        for kind in BLOCK_KINDS:
            add(f"h.{index}.", kind)
        before = f"h.{index}.ln_2"
    for kind in OUTPUT_KINDS:
        add("", kind)
    return found


def never_formed(backend: str, n_layer: int) -> dict[str, str]:
    """Return the taps that the backend never forms, each with the reason."""
    return {
        f"h.{index}.{kind}": reason
        for index in range(n_layer)
        for kind, reason in never_formed_kinds(backend).items()
    }


def undefined_taps(time: int) -> dict[str, str]:
    """Return the taps that no backend has for inputs of this length, each with the reason."""
    return {} if time > 1 else {"loss": "at time 1 no next token is predicted"}


def other_shape(tap: Tap, found: Sequence[int], expected: Sequence[int]) -> str:
    """Return how a tensor's shape differs from the tap's, in one phrase."""
    shape, wanted = list(found), list(expected)
    if tap.name == "logits":
        batch, time, vocab = wanted
        if time > 1 and shape in ([batch, 1, vocab], [batch, vocab]):
            return "they are of the last position alone; return those of every position"
        if shape[:-1] == [batch, time] and shape[-1] > vocab:
            extra = shape[-1] - vocab
            return f"{extra} columns more than the vocabulary; return logits[..., :{vocab}]"
        if shape == [time, batch, vocab]:
            return "they are [time batch vocab]; return logits.transpose(0, 1)"
        if shape == [batch, vocab, time]:
            return "they are [batch vocab time]; return logits.transpose(1, 2)"
    axes = "batch time vocab" if tap.name == "logits" else tap.kind.axes.partition(",")[0]
    return f"shape {shape}, expected [{axes}], here {wanted}"
