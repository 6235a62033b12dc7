"""Whether ids differ because two choices are as good as equal, or because something is wrong.

Two right sides may choose differently only where the truth hardly prefers either: where its gap
between the two ids is within both sides' errors. Ours are taken as they are, but never as larger
than the quality gate allows: a faulty side would else be excused by its own fault.
"""

from collections.abc import Sequence

from torch import Tensor

from parity.generation.continuations import Continuation, Way, first_difference
from parity.generation.rules import expected
from parity.tolerances import Bounds


def excuse(  # noqa: PLR0913 - two texts, what they were chosen from, and the truth of it
    made: Continuation,
    other: Sequence[int],
    *,
    way: Way,
    truth: Tensor,
    reference: Tensor,
    bounds: Bounds,
) -> str:
    """Return in words that the first difference is a tie; empty where it is none.

    Args:
        made: Ours.
        other: The reference's new tokens.
        way: How both were chosen; not drawn.
        truth: `[new vocab]`, the oracle's logits of our text.
        reference: `[new vocab]`, the reference's logits of its own; up to the first difference
            both texts are the same.
        bounds: Of the run.
    """
    step = first_difference(made.new, other)
    if step is None:
        return ""
    text, row = made.text[:, : made.known + step], truth[step][None]
    ranked = expected(way.fields, row, text)[0]
    gap = abs(float(ranked[made.new[step]] - ranked[other[step]]))
    theirs = _largest(reference[step], row[0])
    mine = min(_largest(made.logits[step], row[0]), bounds.peak * theirs)
    # Both ids' logits are off on both sides. Written so that NaN is no excuse.
    if not gap <= 2.0 * (mine + theirs):
        return ""
    return f"a tie at step {step}: the oracle's gap is {gap:.2g}, both sides' errors are larger"


def place(made: Continuation, step: int, prompt: int) -> str:
    """Return where a step of a text is, in words."""
    return f"prompt {prompt} ({made.known} tokens), step {step}, position {made.known + step - 1}"


def told(made: Continuation, other: Sequence[int], witness: str, prompt: int) -> str:
    """Return the first difference between two texts in words; empty where there is none."""
    step = first_difference(made.new, other)
    if step is None:
        return ""
    ids = f"ours {made.new[step]}, {witness} {other[step]}"
    return f"{place(made, step, prompt)}: {ids}"


def _largest(tensor: Tensor, truth: Tensor) -> float:
    return float((tensor.double() - truth).abs().amax())
