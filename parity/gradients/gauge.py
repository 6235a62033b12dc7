"""Measures the gradients of one run as they are made, and knows which never were."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from parity.compare import Difference, Held, Status
from parity.lockstep import Observations
from parity.taps import Tap

WITNESS = "huggingface"
TRUTH = "oracle"
"""What the judge calls that to which errors are measured; here, the witness's in float64."""


@dataclasses.dataclass(kw_only=True)
class Gauge:
    """One run being measured against the witness's float64 gradients.

    Attributes:
        name: What the observations call the run.
        dtype: The dtype that every gradient must have.
        plan: What is to be compared.
        known: Names of every gradient there is; what else is shown is extra.
        truths: The witness's gradients by name.
        found: Where differences and extras are noted.
        look: Called with the name and gradient of whatever is measured.
        scale: How many times too large every gradient is, on purpose.
    """

    name: str
    dtype: torch.dtype
    plan: Sequence[Tap]
    known: frozenset[str]
    truths: Mapping[str, Held]
    found: Observations
    look: Callable[[str, Tensor], None]
    scale: float = 1.0

    def __post_init__(self) -> None:
        self._seen: set[str] = set()
        self._wanted = {place.name for place in self.plan}

    def see(self, name: str, gradient: Tensor) -> None:
        """Measure one gradient; one that nobody knows, or that came before, is extra."""
        if name not in self.known or name in self._seen:
            self.found.extras.setdefault(self.name, []).append(name)
            return
        self._seen.add(name)
        if name in self._wanted and name in self.truths:
            self._note(name, self._difference(self.truths[name], gradient.cpu()))
        self.look(name, gradient)

    def _difference(self, truth: Held, gradient: Tensor) -> Difference:
        if self.scale == 1.0 or gradient.dtype != self.dtype:
            return truth.difference(gradient, dtype=self.dtype)
        # Back to size where it fits: float16 would lose what the scale has saved.
        return truth.difference(gradient.double() / self.scale, dtype=torch.float64)

    def finish(self, absent: Mapping[str, str], broken: str | None) -> None:
        """Note what was planned and never made.

        Args:
            absent: Names that this model does not have, each with what to say of it.
            broken: What the run raised, if it did.
        """
        for name in self._wanted - self._seen:
            if name in absent:
                seen = Difference(status=Status.NOT_RUN, detail=absent[name])
            elif broken is not None:
                seen = Difference(status=Status.NOT_RUN, detail=f"the run broke off: {broken}")
            else:
                seen = Difference(status=Status.MISSING, detail="no gradient ever reached it")
            self._note(name, seen)
        for name in self._seen & self._wanted - set(self.truths):
            detail = "the reference made no gradient to compare with"
            self._note(name, Difference(status=Status.NOT_RUN, detail=detail))

    def _note(self, name: str, seen: Difference) -> None:
        self.found.differences[self.name, name, TRUTH] = seen
        if self.dtype == torch.float64:
            self.found.differences[self.name, name, WITNESS] = seen
