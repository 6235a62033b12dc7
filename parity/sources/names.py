"""What `--weights NAME` stands for."""

from parity.errors import UsageError
from parity.sources import drawn
from parity.sources.drawn import OnTensor
from parity.weights import Weights
from reference import surrogate


def load_weights(name: str, on_tensor: OnTensor | None = None) -> Weights:
    """Return the weights that `--weights name` stands for.

    Args:
        name: `surrogate`, `tiny` (the same recipe, small), or `auto`, which is the surrogate
            until released weights can be fetched.
        on_tensor: Called with (tensors done, tensors in all).

    Raises:
        UsageError: This version cannot read that form.
        InputRefusedError: The drawn tensors are not the committed ones.
    """
    size = {"auto": "surrogate"}.get(name, name)
    if size not in surrogate.SIZES:
        raise UsageError(
            f"this version cannot read weights from {name!r}",
            where="--weights",
            fix="use auto, surrogate (full size) or tiny",
        )
    return drawn.load(size, on_tensor)
