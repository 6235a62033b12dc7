"""The gradients that are compared, in the order in which a backward pass computes them.

From the loss to the embeddings, so that the first wrong one is computed from right ones. A tap's
gradient comes from the operations that use the tap. A parameter's follows the gradient of its
operation's output, and precedes that of the operation's input.
"""

from typing import NamedTuple

from parity.core.taps import Axes, Kind, Tap


class Gradient(NamedTuple):
    """One kind of gradient.

    Attributes:
        name: The tap or parameter; in a block, the part after `h.{i}.`.
        after: The gradients from which it is computed; `<next` are those of a block's output.
        suspects: Likely causes if it is the first to differ.
        axes: The entries that count: all, except hidden ones in scores and weights.
    """

    name: str
    after: tuple[str, ...]
    suspects: str
    axes: Axes = Axes.ROWS


HEAD = (
    Gradient(
        "logits",
        (),
        "the loss: its sum not divided by the number of targets, targets not shifted by one, "
        "padding counted, the 1 of the target not subtracted from its probability",
    ),
)

_NEXT = (
    "what the next operations send back: a branch is missing (the residual's, or query's, key's "
    "or value's), or the product was with the weight and not with its transpose"
)
_GAIN = "the gain's gradient: of the rows before they were normalised, or summed over too few rows"
_BIAS = (
    "the bias's gradient: summed over one row or over the batch alone, not over all rows, or "
    "averaged"
)
_MATRIX = (
    "the product of the operation's input and its output's gradient: rows left out, an axis, a "
    "path cut or counted twice"
)
_NORM = (
    "the backward of the layer norm: the term that subtracts the gradient's mean is missing, or "
    "the one through the variance; the gain is left out; a narrower dtype"
)
_CORE = (
    "the backward of attention: the softmax's row term (delta) is missing, 1/sqrt(head_width) "
    "is missing or applied twice, the transpose of query or key; hidden keys get a share"
)

BLOCK = (
    Gradient("ln_2", ("<next",), _NEXT),
    Gradient("ln_2.weight", ("ln_2",), _GAIN),
    Gradient("ln_2.bias", ("ln_2",), _BIAS),
    Gradient("ln_2.input", ("ln_2",), _NORM),
    Gradient("mlp", ("ln_2.input",), "the residual sum: it hands its gradient on as it is"),
    Gradient("mlp.c_proj.weight", ("mlp",), _MATRIX),
    Gradient("mlp.c_proj.bias", ("mlp",), _BIAS),
    Gradient("mlp.gelu", ("mlp",), "the backward of c_proj: the product with its transpose"),
    Gradient(
        "mlp.c_fc",
        ("mlp.gelu",),
        "the derivative of GELU: the erf form's, or without the term from inside the tanh; a "
        "narrower dtype",
    ),
    Gradient("mlp.c_fc.weight", ("mlp.c_fc",), _MATRIX),
    Gradient("mlp.c_fc.bias", ("mlp.c_fc",), _BIAS),
    Gradient(
        "ln_1",
        ("ln_2.input", "mlp.c_fc"),
        "the sum of two paths: the residual's, or the one through the MLP, is missing or counted "
        "twice",
    ),
    Gradient("ln_1.weight", ("ln_1",), _GAIN),
    Gradient("ln_1.bias", ("ln_1",), _BIAS),
    Gradient("ln_1.input", ("ln_1",), _NORM),
    Gradient("attn", ("ln_1.input",), "the residual sum: it hands its gradient on as it is"),
    Gradient("attn.c_proj.weight", ("attn",), _MATRIX),
    Gradient("attn.c_proj.bias", ("attn",), _BIAS),
    Gradient(
        "attn.context",
        ("attn",),
        "the backward of c_proj: the square matrix must be transposed, and its shape cannot tell",
    ),
    Gradient(
        "attn.weights",
        ("attn.context",),
        "the product of context's gradient and value",
        Axes.SCORES,
    ),
    Gradient(
        "attn.scores",
        ("attn.weights",),
        "the backward of the softmax: the row term (delta) that makes its gradient sum to 0 is "
        "missing; hidden keys get a share",
        Axes.SCORES,
    ),
    Gradient("attn.value", ("attn.context",), "the product of the weights' transpose; the mask"),
    Gradient("attn.key", ("attn.scores", "attn.context"), _CORE),
    Gradient("attn.query", ("attn.scores", "attn.context"), _CORE),
    Gradient("attn.c_attn.weight", ("attn.query", "attn.key", "attn.value"), _MATRIX),
    Gradient("attn.c_attn.bias", ("attn.query", "attn.key", "attn.value"), _BIAS),
)

EMBEDDINGS = (
    Gradient("embeddings", ("<next",), _NEXT),
    Gradient("embeddings.positions", ("embeddings",), "summed over the batch once, or not at all"),
    Gradient(
        "positions_embed.weight",
        ("embeddings.positions",),
        "a position's rows of the batch are averaged or left out, not summed, or padding adds to "
        "a position",
    ),
    Gradient("embeddings.tokens", ("embeddings",), "the sum hands its gradient on as it is"),
    Gradient(
        "tokens_embed.weight",
        ("embeddings.tokens", "logits"),
        "the tied embedding has only one of its two paths (the lookup's or the head's), or both "
        "averaged; a token that occurs twice is written, not added",
    ),
)

DIRECTION = "direction"
"""Name of the slope along a direction in all parameters; with a dot and a kind, in those alone."""

_ALONG_SUSPECTS = (
    "a gradient that both sides get wrong alike: the oracle, which has no gradients, measures "
    "another slope of its loss; or parameters that were not compared"
)

NOTHING_TO_ATTEND = frozenset({"attn.query", "attn.key", "attn.scores"})
"""Kinds whose gradient is 0 if every predicting token attends only to itself."""


def gradient_names(n_layer: int) -> list[Tap]:
    """Return every gradient of a model with `n_layer` blocks, from the loss backwards."""
    following: tuple[str, ...] = ("logits",)
    found = [_place(gradient, "", following) for gradient in HEAD]
    for index in reversed(range(n_layer)):
        prefix = f"h.{index}."
        found += [_place(gradient, prefix, following) for gradient in BLOCK]
        following = tuple(f"{prefix}{name}" for name in _USES_INPUT)
    return found + [_place(gradient, "", following) for gradient in EMBEDDINGS]


def parameter_names(n_layer: int) -> list[str]:
    """Return the names of the parameters, from the loss backwards."""
    return [place.name for place in gradient_names(n_layer) if is_parameter(place.name)]


def is_parameter(name: str) -> bool:
    """Return whether a name is a parameter's; else it is a tap's, or a direction's."""
    return name.endswith((".weight", ".bias")) and not name.startswith(DIRECTION)


def kind_of(parameter: str) -> str:
    """Return `ln_1.weight` for `h.3.ln_1.weight`, and any other name as it is."""
    return parameter.split(".", 2)[2] if parameter.startswith("h.") else parameter


def direction(kind: str | None = None) -> Tap:
    """Return the slope along a direction in all parameters, or in those of one kind."""
    name = DIRECTION if kind is None else f"{DIRECTION}.{kind}"
    return Tap(name, Kind(DIRECTION, Axes.ROWS, (), _ALONG_SUSPECTS), ())


_USES_INPUT = ("ln_1.input", "attn.query", "attn.key", "attn.value")
"""The taps that a block computes from its input."""


def _place(gradient: Gradient, prefix: str, following: tuple[str, ...]) -> Tap:
    inputs = tuple(
        name
        for after in gradient.after
        for name in (following if after == "<next" else (f"{prefix}{after}",))
    )
    # Not the tap's own kind: a looked-up row is equal to the bit, but its gradient is a sum.
    kind = Kind(f"gradient of {gradient.name}", gradient.axes, gradient.after, gradient.suspects)
    return Tap(f"{prefix}{gradient.name}", kind, inputs)
