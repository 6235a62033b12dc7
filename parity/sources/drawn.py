"""The surrogate: weights drawn from a seed, for use wherever the released ones are not at hand."""

from collections.abc import Callable

import numpy as np

from parity.errors import InputRefusedError
from parity.provenance import Provenance
from parity.weights import Weights
from reference import surrogate

OnTensor = Callable[[int, int], None]


def load(size: str, on_tensor: OnTensor | None = None, why: str = "") -> Weights:
    """Return the surrogate of one size, every tensor checked against its committed digest.

    Args:
        size: Key of `reference.surrogate.SIZES`.
        on_tensor: Called with (tensors done, tensors in all).
        why: Why it stands in for other weights; said wherever the weights are named.

    Raises:
        InputRefusedError: The drawn tensors are not the committed ones.
    """
    try:
        drawn = surrogate.load(size, on_tensor)
    except surrogate.SurrogateMismatchError as error:
        raise InputRefusedError(
            str(error),
            where=f"surrogate weights {size!r}, drawn by NumPy {np.__version__}",
            fix="report this: the draw should give the same bits on every machine",
        ) from error
    label = "surrogate" if size == "surrogate" else f"surrogate ({size})"
    return Weights(
        config=drawn.config,
        tensors=drawn.tensors,
        provenance=Provenance(
            source=f"{label}: seeded random weights, not the released ones{why}",
            revision=f"recipe {surrogate.RECIPE}",
            sha256=drawn.sha256,
        ),
    )
