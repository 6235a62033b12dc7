"""Reading fingerprints back: only such as can be held against others."""

import math
import re
from collections.abc import Iterator

import numpy as np

from parity.drift.document import Document
from parity.fingerprints import DIGITS, Fingerprint
from parity.sketch import decoded

_DIGEST = re.compile(rf"[0-9a-f]{{{DIGITS}}}")

_LARGEST = 1e150
"""Of a norm or a bucket: what is larger cannot be squared and added up."""

_ROUNDING = 1e-9
"""Room that sums of very many squares have, relative."""

_UNDERFLOW = 1e-150
"""The size of elements whose squares are lost, so that a norm does not know of them."""

_MOST = 1 << 62
"""Elements that a tensor may have."""


def fingerprints(whole: Document) -> Iterator[Fingerprint]:
    """Yield a report's fingerprints; a report without the list has none.

    Raises:
        InputRefusedError: One is not whole, comes twice, or cannot be of any tensor.
        ValueError: One holds something that is no sketch.
    """
    seen = set()
    for entry in whole.parts("fingerprints") if "fingerprints" in whole.held else ():
        found = Fingerprint(
            subject=entry.text("subject"),
            dtype=entry.text("dtype"),
            mode=entry.text("mode"),
            tap=entry.text("tap"),
            shape=entry.sizes("shape"),
            digest=entry.text("digest"),
            norm=entry.number("norm"),
            sketch=entry.text("sketch"),
        )
        key = (found.subject, found.dtype, found.mode, found.tap)
        if key in seen:
            raise entry.refusal(f"{entry.place} has the key of an earlier one")
        seen.add(key)
        _check(found, entry)
        yield found


def _check(found: Fingerprint, entry: Document) -> None:
    """Require a digest; and a norm and a sketch, or neither, that a change can be had from."""
    if not _DIGEST.fullmatch(found.digest):
        raise entry.refusal(f"{entry.place}.digest has not {DIGITS} hexadecimal digits")
    if min(found.shape, default=0) < 0 or math.prod(found.shape) > _MOST:
        raise entry.refusal(f"{entry.place}.shape is no shape of a tensor")
    if (found.norm is None) != (found.sketch == ""):
        raise entry.refusal(
            f"{entry.place} has a norm without a sketch, or a sketch without a norm"
        )
    if found.norm is not None:
        _check_sizes(found, found.norm, entry)


def _check_sizes(found: Fingerprint, norm: float, entry: Document) -> None:
    """Require a norm, and a sketch that a tensor of this norm can have.

    A bucket is a sum of elements with signs, so at most the root of their number times their norm.
    """
    if not 0.0 <= norm <= _LARGEST:
        raise entry.refusal(f"{entry.place} has a norm that is no finite number, or too large")
    room = norm * (1.0 + _ROUNDING) + _UNDERFLOW
    bound = min(math.sqrt(math.prod(found.shape)) * room, _LARGEST)
    if not bool(np.all(np.abs(decoded(found.sketch)) <= bound)):  # what is no number is not either
        raise entry.refusal(f"{entry.place} has a sketch that no tensor of its norm can have")
