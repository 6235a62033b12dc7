"""The passes of a layerwise check: who walks with whom, and what is kept of it.

Two kinds of pass. In the first, the oracle, both float64 models and all models in the dtype
judged walk together: identity and propagated quality. In the second, once for each attention
path, every operation is given the oracle's rounded input: isolated quality. Tensors are compared
as they come and let go.
"""

import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import liveness, subjects
from parity.compare import visible_entries
from parity.consequences import consequences
from parity.errors import ExitCode
from parity.explain import Explainer
from parity.fingerprints import Fingerprints
from parity.flips import flipped
from parity.inputs import Inputs
from parity.judge import extra_rows, identity_rows, judging, names_of, quality_rows
from parity.lockstep import Look, Observations, Pass, Subject, walk
from parity.results import Mode, Reason, Row
from parity.taps import Tap, exempt, never_formed, taps
from parity.tolerances import Bounds, Precision

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, steps done, steps in all)."""


@dataclasses.dataclass(kw_only=True)
class Comparison:
    """One comparison under way: what it compares, and what it has found so far.

    Attributes:
        candidates: Our models, under the names of their attention paths.
        reference: Hugging Face's model.
        inputs: What all of them are given.
        precision: The dtype whose rounding is judged; None for identity alone.
        modes: Which gates to run.
        select: Pattern of the taps to compare.
        bounds: What must hold.
        explainer: Looks at one tap as it goes by.
        progress: Called as the passes go on.
        fingerprints: Takes those of what goes by, if they are wanted.
        rows: What was found.
        reasons: What keeps the run from being a pass beside the rows.
        consequences: What follows from the logits, by path.
        life: The signs of life seen in the oracle.
    """

    candidates: Mapping[str, nn.Module]
    reference: OpenAIGPTLMHeadModel
    inputs: Inputs
    precision: Precision | None
    modes: frozenset[Mode]
    select: str
    bounds: Bounds
    explainer: Explainer
    progress: Progress
    fingerprints: Fingerprints = dataclasses.field(default_factory=Fingerprints)

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self.reasons: list[Reason] = []
        self.consequences: dict[str, dict[str, float]] = {}
        self.life = liveness.LifeSigns(self.mask)
        self.steps_done = 0

    @property
    def mask(self) -> Tensor | None:
        """The padding mask, where the comparison is made."""
        mask = self.inputs.attention_mask
        return None if mask is None else mask.cpu()

    @property
    def plan(self) -> list[Tap]:
        """Every tap that these inputs have, in network order."""
        left_out = exempt(self.inputs.token_ids.shape[1])
        n_layer = self.reference.config.n_layer
        return [tap for tap in taps(n_layer) if tap.name not in left_out]

    def planned(self, attention: str) -> list[Tap]:
        """Return the taps to compare on one attention path."""
        absent = never_formed(attention, self.reference.config.n_layer)
        return [
            tap
            for tap in self.plan
            if tap.name not in absent and fnmatch.fnmatchcase(tap.name, self.select)
        ]

    @property
    def measured(self) -> frozenset[str]:
        """The names of the taps to measure: all that are compared, and what judges them."""
        compared = [tap for attention in self.candidates for tap in self.planned(attention)]
        return frozenset(tap.name for tap in judging(compared, self.plan))

    def compare(self) -> None:
        """Run every pass that the modes ask for."""
        if self.modes & {Mode.IDENTITY, Mode.PROPAGATED}:
            self._together()
        if Mode.ISOLATED in self.modes and self.precision is not None:
            for attention in self.candidates:
                self._isolated(attention, self.precision)

    def _together(self) -> None:
        """Run the float64 models and those of the dtype judged, each on its own numbers."""
        dtypes = [torch.float64] if Mode.IDENTITY in self.modes else []
        if Mode.PROPAGATED in self.modes and self.precision is not None:
            dtypes.append(self.precision.dtype)
        members = [subject for dtype in dtypes for subject in self._subjects(dtype)]
        found = self._walk(members, witness="huggingface/float64")
        for attention in self.candidates:
            plan = self.planned(attention)
            if Mode.IDENTITY in self.modes:
                names = names_of(attention, torch.float64)
                self.rows += identity_rows(found, names, plan, attention, self.bounds)
                self.rows += extra_rows(found, names, attention, "float64", Mode.IDENTITY)
            if Mode.PROPAGATED in self.modes and self.precision is not None:
                self._judge(found, attention, Mode.PROPAGATED, self.precision)
                lead = self.consequences.get(attention, {}).get("flip_gap_largest", 0.0)
                self.reasons += flipped(found, names_of(attention, self.precision.dtype), lead)

    def _isolated(self, attention: str, precision: Precision) -> None:
        """Run one path and the reference, every operation on the oracle's rounded input."""
        raw = frozenset(never_formed(attention, self.reference.config.n_layer))
        members = [
            dataclasses.replace(subject, unwatched=raw)
            if subject.name.startswith("huggingface")
            else subject
            for subject in self._subjects(precision.dtype, only=attention)
        ]
        found = self._walk(members, rounded_to=precision.dtype, raw=raw, beside=attention)
        self._judge(found, attention, Mode.ISOLATED, precision)

    def _judge(self, found: Observations, attention: str, mode: Mode, precision: Precision) -> None:
        names = names_of(attention, precision.dtype)
        plan = self.planned(attention)
        self.rows += quality_rows(
            found, names, plan, self.plan, attention, mode, precision, self.bounds
        )
        self.rows += extra_rows(found, names, attention, str(precision.dtype)[6:], mode)

    def _subjects(self, dtype: torch.dtype, only: str | None = None) -> list[Subject]:
        """Return Hugging Face's run in `dtype`, then ours, one a path."""
        chosen = {path: m for path, m in self.candidates.items() if only in (None, path)}
        ours = subjects.in_dtype(chosen, dtype)
        theirs = subjects.in_dtype({"huggingface": self.reference}, dtype)["huggingface"]
        subjects.check_evaluating({**ours, "huggingface": theirs})
        n_layer = self.reference.config.n_layer
        device = next(self.reference.parameters()).device
        runs = [
            Subject(
                name=names_of("", dtype).huggingface,
                run=subjects.huggingface_run(theirs, self.inputs),  # type: ignore[arg-type]
                dtype=dtype,
                device=device,
            )
        ]
        for path, model in ours.items():
            runs.append(
                Subject(
                    name=names_of(path, dtype).ours,
                    run=subjects.candidate_run(model, self.inputs),
                    dtype=dtype,
                    device=device,
                    never_formed=frozenset(never_formed(path, n_layer)),
                )
            )
        return runs

    def _walk(
        self,
        members: Sequence[Subject],
        *,
        witness: str | None = None,
        rounded_to: torch.dtype | None = None,
        raw: frozenset[str] = frozenset(),
        beside: str = "",
    ) -> Observations:
        lockstep = Pass(
            oracle=subjects.oracle_run(self.reference, self.inputs),
            subjects=members,
            plan=self.plan,
            time=self.inputs.token_ids.shape[1],
            mask=self.mask,
            witness=witness,
            rounded_to=rounded_to,
            raw=raw,
            selected=self.measured,
        )
        found = walk(lockstep, progress=self._step, look=self._look(beside))
        self._note_broken(found)
        return found

    def _step(self, tap: str) -> None:
        self.steps_done += 1
        passes = bool(self.modes & {Mode.IDENTITY, Mode.PROPAGATED})
        total = passes + len(self.candidates) * (Mode.ISOLATED in self.modes)
        self.progress(tap, self.steps_done, total * len(self.plan))

    def _look(self, beside: str) -> Look:
        """Return what is done with every tensor of a pass, isolated or not, before it is let go."""

        def look(subject: str, tap: str, tensor: Tensor, truth: Tensor) -> None:
            if subject == "oracle":
                if not beside:
                    self.life.look(tap, truth)
                self._take_truth(tap, truth, beside)
                return
            self._take(subject, tap, tensor, beside)
            self.explainer.look(subject, tap, tensor, truth, isolated=bool(beside))
            _, *path, dtype = subject.split("/")
            if path and tap == "logits" and not beside and dtype != "float64":
                self.consequences[path[0]] = consequences(
                    tensor, truth, self.inputs.token_ids.cpu(), self.mask
                )

        return look

    def _take(self, run: str, tap: str, tensor: Tensor, beside: str = "") -> None:
        self.fingerprints.take(run, tap, tensor, beside=beside, visible=self._visible[tap])

    def _take_truth(self, tap: str, truth: Tensor, beside: str) -> None:
        """Take the oracle's fingerprint: its own, or in isolation that of what it gives."""
        raw = never_formed(beside, self.reference.config.n_layer) if beside else {}
        if self.fingerprints.wanted and tap not in raw:
            given = self.precision.dtype if self.precision and beside else torch.float64
            self._take(f"oracle/{str(given)[6:]}", tap, truth.to(given), beside)

    @functools.cached_property
    def _visible(self) -> dict[str, Tensor | None]:
        """Which entries of each tap count."""
        time = self.inputs.token_ids.shape[1]
        return {tap.name: visible_entries(tap.kind.axes, self.mask, time) for tap in self.plan}

    def _note_broken(self, found: Observations) -> None:
        for name, message in found.broken.items():
            theirs = name.startswith("huggingface")
            self.reasons.append(
                Reason(
                    what=f"the forward pass of {name} raised {message}",
                    where=name,
                    fix="run the model alone on the same ids to see the traceback",
                    code=ExitCode.INTERNAL if theirs else ExitCode.FAIL,
                )
            )
