"""First choices that differ from the oracle's by more than rounding explains."""

from parity.errors import ExitCode
from parity.judge import Names
from parity.lockstep import Observations
from parity.results import Reason


def flipped(found: Observations, names: Names, lead: float) -> list[Reason]:
    """Return the reason against a pass that such a choice is; none where there is none.

    Two rounding errors as large as the largest seen, ours or Hugging Face's, can turn two logits
    round; a wider lead than that cannot be lost honestly.

    Args:
        found: What was measured of the logits.
        names: What the observations call both runs.
        lead: The widest lead over our first choice that the oracle's own has; 0 where they agree.
    """
    errors = [
        found.differences[name, "logits", "oracle"].largest
        for name in (names.ours, names.huggingface)
        if (name, "logits", "oracle") in found.differences
    ]
    if not lead > 0.0 or all(lead <= 2 * error for error in errors):
        return []
    attention, _, dtype = names.ours.removeprefix("ours/").rpartition("/")
    return [
        Reason(
            what=f"the first choice of a token differs, against a lead of {lead:.2g}",
            where=f"logits, attention {attention}, torch.{dtype}",
            fix="look at logits with --explain logits",
            code=ExitCode.FAIL,
        )
    ]
