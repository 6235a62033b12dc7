"""What no two reports can both say: that equal tensors have other norms or sketches."""

import math
from collections.abc import Iterator, Sequence

from parity.fingerprints import Fingerprint
from parity.sketch import distance

_ROUNDING = 1e-12
"""Relative; of one tensor both are summed in one order, and on one machine they are the same."""


def contradictions(reports: Sequence[Sequence[Fingerprint]]) -> Iterator[str]:
    """Yield every tap of which two reports have one digest and not one norm, sketch and shape.

    Args:
        reports: The fingerprints of each, of one check.
    """
    first: dict[tuple[str, str, str, str, str], Fingerprint] = {}
    for report in reports:
        for found in report:
            run = (found.subject, found.dtype, found.mode, found.tap)
            known = first.setdefault((*run, found.digest), found)
            if not _alike(known, found):
                yield " ".join(run)


def _alike(one: Fingerprint, other: Fingerprint) -> bool:
    """Return whether both can be of one tensor."""
    sizes = (one.shape, one.norm, one.sketch), (other.shape, other.norm, other.sketch)
    if sizes[0] == sizes[1]:
        return True
    if one.shape != other.shape or one.norm is None or other.norm is None:
        return False
    apart = distance(one.sketch, other.sketch)
    return math.isclose(one.norm, other.norm, rel_tol=_ROUNDING) and apart <= one.norm * _ROUNDING
