"""Why a check of gradients is no pass, beside its rows."""

import math
from collections.abc import Sequence

from parity.errors import ExitCode
from parity.results import Reason
from parity.tolerances import Bounds

NO_SUCH_PARAMETER = "the candidate has no parameter of this name"


def broken(subject: str, message: str) -> Reason:
    """Return the reason of a run that raised."""
    return Reason(
        what=f"forward or backward of {subject} raised {message}",
        where=subject,
        fix="run the model alone on the same ids, with loss.backward(), to see the traceback",
        code=ExitCode.FAIL,
    )


def other_loss(attention: str, ours: float, theirs: float, bounds: Bounds) -> list[Reason]:
    """Return a reason if the losses differ: gradients of another function are no gradients."""
    if math.isfinite(ours) and abs(ours - theirs) <= bounds.identity * abs(theirs):
        return []
    return [
        Reason(
            what=f"the loss itself differs: {ours:.12g}, Hugging Face's is {theirs:.12g}",
            where=f"attention {attention}, float64",
            fix="python -m parity.check layerwise names the operation; gradients come after it",
            code=ExitCode.FAIL,
        )
    ]


def not_compared(attention: str, absent: Sequence[str], others: Sequence[str]) -> list[Reason]:
    """Return a reason if parameters stand under other names than ours: no pass without them."""
    if not absent and not others:
        return []
    without = f"{len(absent)} parameters' gradients were not compared, only those of taps"
    beyond = f"{len(others)} parameters of its own have gradients that nothing is held against"
    named = [f"it lacks {', '.join(absent[:3])}"] if absent else []
    named += [f"it has {', '.join(others[:3])}"] if others else []
    return [
        Reason(
            what=without if absent else beyond,
            where=f"attention {attention}: {'; '.join(named)}",
            fix="name the parameters as parity/mapping.py has ours: h.0.attn.c_attn.weight",
            code=ExitCode.INCONCLUSIVE,
        )
    ]
