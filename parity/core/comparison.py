"""The base of layerwise, gradients and training: which models run together, and the report.

There are two kinds of pass. In the first, the oracle, both float64 models and all models in the
checked dtype run in lockstep: modes float64 and end-to-end. In the second, once for each backend,
every operation gets the oracle's rounded input: mode per-op; in float64 it is not rounded, and such
a pass follows where mode float64 failed. Backends without a failure share one in float64. Each
tensor is compared when it appears and then freed.
"""

import contextlib
import dataclasses
import fnmatch
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.core import candidates, liveness, reordered, runners
from parity.core.candidates import PreparedCandidate
from parity.core.environment import environment, pinned_settings
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprints
from parity.core.gates import (
    MASKED_SCORE,
    extra_rows,
    fails,
    float64_per_op_rows,
    float64_rows,
    narrow_reason,
    overflows,
    rounding_rows,
    run_names,
    stands_alone,
    taps_with_a_part,
    top1_changes,
)
from parity.core.inputs import Inputs
from parity.core.lockstep import Observations, Pass, Subject, TapCallback, walk_in_lockstep
from parity.core.metrics import Status, consequences, visible_entries
from parity.core.patterns import AXES, RANDOM, pattern
from parity.core.results import Mode, Reason, Report, Row, count, finish, first_divergence
from parity.core.taps import Axes, Tap, never_formed, taps, undefined_taps
from parity.core.tolerances import Bounds, Precision
from parity.errors import ExitCode, InconclusiveError, UsageError, message_of
from scratch_gpt.kernels.backends import BACKENDS
from scratch_gpt.progress import Progress

CANDIDATE = "candidate"
"""Name of a model that is none of our backends."""


@dataclasses.dataclass(kw_only=True)
class Comparison:
    """A comparison in progress: its inputs and its results so far.

    Attributes:
        candidates: Our models by backend.
        precision: The checked dtype; None for float64 alone.
        modes: Modes to run.
        locates: Whether mode float64-per-op runs also on each backend that fails in float64.
        select: Pattern of the taps to compare.
        prepare: Finds the taps of a candidate that shows none.
        keep: Called with (run, tap, tensor) for every tensor that a run of its own makes.
    """

    candidates: dict[str, nn.Module]
    reference: OpenAIGPTLMHeadModel
    inputs: Inputs
    precision: Precision | None
    modes: frozenset[Mode]
    select: str
    bounds: Bounds
    explainer: Explainer
    progress: Progress
    fingerprints: Fingerprints = dataclasses.field(default_factory=Fingerprints)
    locates: bool = False
    prepare: "Callable[[Comparison, nn.Module], PreparedCandidate] | None" = None
    keep: Callable[[str, str, Tensor], None] | None = None

    def __post_init__(self) -> None:
        self.rows: list[Row] = []
        self.reasons: list[Reason] = []
        self.consequences: dict[str, dict[str, float]] = {}
        self.life = liveness.HealthMonitor(self.mask)
        self.steps_done = 0
        self.profiles: dict[str, candidates.Profile] = {}
        self.smallest_score = 0.0

    @property
    def mask(self) -> Tensor | None:
        """The padding mask, on the CPU."""
        mask = self.inputs.attention_mask
        return None if mask is None else mask.cpu()

    @property
    def plan(self) -> list[Tap]:
        """Every tap that these inputs have, in network order."""
        return self._forward_taps

    @property
    def backends(self) -> list[str]:
        """What has rows: the candidates."""
        return [*self.candidates]

    def absent(self, backend: str) -> dict[str, str]:
        """Return the taps that a backend, or a candidate, does not form, each with the reason."""
        if backend in BACKENDS and backend not in self.profiles:
            return never_formed(backend, self.reference.config.n_layer)
        if backend not in self.profiles:
            return {}  # it could not be examined
        shown = {*self.profiles[backend].shown, "logits", "loss"}
        is_prepared = isinstance(self.candidates[backend], PreparedCandidate)
        why = f"the candidate does not {'form' if is_prepared else 'show'} it"
        return {tap.name: why for tap in self._forward_taps if tap.name not in shown}

    @property
    def _last_only(self) -> bool:
        return any(getattr(model, "last_only", False) for model in self.candidates.values())

    @property
    def _forward_taps(self) -> list[Tap]:
        left_out = undefined_taps(self.inputs.token_ids.shape[1])
        if self._last_only:
            left_out = {**left_out, "loss": "the logits are of the last position alone"}
        return [tap for tap in taps(self.reference.config.n_layer) if tap.name not in left_out]

    def examine(self) -> None:
        """Run every candidate that is not a model of ours on a few tokens; note what it does."""
        for name, model in list(self.candidates.items()):
            if self.prepare is not None and not candidates.shows_taps(model):
                prepared = self.prepare(self, model)
                self.candidates[name], self.profiles[name] = prepared, prepared.profile
                self.reasons += prepared.profile.reasons
            elif name == CANDIDATE or candidates.is_built(model):
                whole = runners.model_in_dtype({name: model}, torch.float64)[name]
                runners.check_evaluating({name: whole})
                self.profiles[name] = candidates.examine(whole, self.inputs, self._forward_taps)
                self.reasons += self.profiles[name].reasons

    def planned(self, backend: str) -> list[Tap]:
        """Return the taps to compare on one backend."""
        absent = self.absent(backend)
        return [
            tap
            for tap in self.plan
            if tap.name not in absent and fnmatch.fnmatchcase(tap.name, self.select)
        ]

    @property
    def measured(self) -> frozenset[str]:
        """The names of the taps to measure: those compared, and those that their criteria need."""
        compared = [tap for backend in self.candidates for tap in self.planned(backend)]
        return frozenset(tap.name for tap in taps_with_a_part(compared, self.plan))

    def compare(self) -> None:
        """Run every pass that the modes need."""
        if self.modes & {Mode.FLOAT64, Mode.END_TO_END}:
            self._together()
        self._float64_per_op()
        if Mode.PER_OP in self.modes and self.precision is not None:
            for backend in self.candidates:
                found = self._per_op(backend, self.precision.dtype, self._look(backend))
                self._judge(found, backend, Mode.PER_OP, self.precision)

    def _float64_per_op(self) -> None:
        """Run mode float64-per-op on every backend that wants it.

        Those without a failure so far run together, and without Hugging Face's model: its error is
        needed, and the numbers are looked at, only where a tap fails.
        """
        wanted = [name for name in self.candidates if self._wants_float64_per_op(name)]
        right = [name for name in wanted if not fails(self.rows, name, Mode.FLOAT64)]
        found = Observations()
        if right:
            _huggingface, *members = self._subjects(torch.float64, only=right, raw=frozenset())
            found = self._walk(members, rounded_to=torch.float64, look=_no_look)
        for backend in wanted:
            names, plan = run_names(backend, torch.float64), self.planned(backend)
            rows = float64_per_op_rows(found, names, plan, backend, self.bounds)
            if backend in right and not fails(rows, backend, Mode.FLOAT64_PER_OP):
                self.rows += rows
            else:
                self._float64_per_op_of(backend)

    def _float64_per_op_of(self, backend: str) -> None:
        """Run mode float64-per-op on one backend; where a tap fails, add what its numbers show."""
        names, plan = run_names(backend, torch.float64), self.planned(backend)
        by_name = {tap.name: tap for tap in plan}
        kept: dict[str, Tensor] = {}  # right tensors of which a later one may be a sum
        shown: dict[str, dict[str, str]] = {}

        def look(subject: str, tap: str, tensor: Tensor, truth: Tensor) -> None:
            if subject == "oracle" and truth.ndim == 3:  # noqa: PLR2004 - batch time feature
                kept[tap] = truth
                for old in list(kept)[:-_KEPT]:
                    del kept[old]
            elif subject == names.ours and tap in by_name and len(shown) < _SHOWN:
                fed = [kept[name] for name in by_name[tap].inputs if name in kept]
                note, cause = pattern(
                    tensor,
                    truth,
                    names=AXES[by_name[tap].kind.axes],
                    visible=self._visible[tap],
                    summands=[one for one in fed if one.shape == truth.shape],
                    within=self.bounds.float64_per_op,
                )
                if note or cause:
                    shown[tap] = {"note": note, "cause": cause}

        found = self._per_op(backend, torch.float64, look)
        first = next(
            (row for row in self.rows if row.backend == backend and row.status is Status.FAIL), None
        )
        for row in float64_per_op_rows(found, names, plan, backend, self.bounds):
            details = shown.get(row.tap, {})
            if first is not None and first.tap == row.tap and _differ(first, row):
                details = {"note": "", "cause": RANDOM}
            is_wrong = row.status is Status.FAIL
            self.rows.append(dataclasses.replace(row, details=details) if is_wrong else row)

    def _wants_float64_per_op(self, backend: str) -> bool:
        """Return whether mode float64-per-op runs: wanted, or useful to locate a failure.

        Not where a narrower dtype is allowed inside: no operation reaches the bound then.
        """
        narrow = self.profiles[backend].narrow if backend in self.profiles else ""
        if narrow and self._allows(narrow):
            return False
        wanted = Mode.FLOAT64_PER_OP in self.modes
        return wanted or (self.locates and fails(self.rows, backend, Mode.FLOAT64))

    def _together(self) -> None:
        """Run the float64 models and those in the checked dtype, each on its own numbers."""
        dtypes = [torch.float64] if Mode.FLOAT64 in self.modes else []
        if Mode.END_TO_END in self.modes and self.precision is not None:
            dtypes.append(self.precision.dtype)
        members = [subject for dtype in dtypes for subject in self._subjects(dtype)]
        entering = {one.narrow.partition(" ")[0] for one in self.profiles.values()} - {""}
        for name in sorted(entering - {str(dtype)[6:] for dtype in dtypes}):
            members += self._subjects(getattr(torch, name), only=())  # Hugging Face's run alone
        found = self._walk(members, against="huggingface/float64", look=self._look(""))
        for backend in self.candidates:
            plan = self.planned(backend)
            if Mode.FLOAT64 in self.modes:
                names = run_names(backend, torch.float64)
                narrow = self.profiles[backend].narrow if backend in self.profiles else ""
                allowed = self._allows(narrow)
                rows = float64_rows(
                    found, names, plan, backend, self.bounds, narrow=narrow if allowed else ""
                )
                self.rows += rows
                if narrow and any((row.error_ours or 0.0) > self.bounds.float64 for row in rows):
                    self.reasons.append(narrow_reason(narrow, allowed=allowed))
                self.reasons += stands_alone(found, names, rows, self.smallest_score)
                self.rows += extra_rows(found, names, self.plan, backend, "float64", Mode.FLOAT64)
            if Mode.END_TO_END in self.modes and self.precision is not None:
                self._judge(found, backend, Mode.END_TO_END, self.precision)
                if all(r.status is Status.PASS for r in self.rows if r.backend == backend):
                    lead = self.consequences.get(backend, {}).get("flip_gap_largest", 0.0)
                    names = run_names(backend, self.precision.dtype)
                    self.reasons += top1_changes(found, names, lead)

    def _allows(self, narrow: str) -> bool:
        """Return whether a dtype may enter a float64 run: float32, and the one to be checked."""
        checked = torch.float32 if self.precision is None else self.precision.dtype
        return narrow.partition(" ")[0] in ("float32", str(checked)[6:])

    def _per_op(self, backend: str, dtype: torch.dtype, look: TapCallback) -> Observations:
        """Run one backend and the reference, every operation on the oracle's rounded input."""
        raw = frozenset(self.absent(backend))
        members = [
            dataclasses.replace(subject, unwatched=raw)
            if subject.name.startswith("huggingface")
            else subject
            for subject in self._subjects(dtype, only=[backend], raw=raw)
        ]
        return self._walk(members, rounded_to=dtype, raw=raw, look=look)

    def _judge(self, found: Observations, backend: str, mode: Mode, precision: Precision) -> None:
        names = run_names(backend, precision.dtype)
        plan = self.planned(backend)
        self.reasons += overflows(found, names, plan)
        differs = fails(self.rows, backend, Mode.FLOAT64)
        self.rows += self._rounding_rows(found, backend, mode, precision, differs=differs)
        self.rows += extra_rows(found, names, self.plan, backend, str(precision.dtype)[6:], mode)

    def _rounding_rows(
        self,
        found: Observations,
        backend: str,
        mode: Mode,
        precision: Precision,
        *,
        differs: bool,
    ) -> list[Row]:
        """Return the rows of a pass in the checked dtype.

        Before a failure counts, Hugging Face's rounding is measured again: one run may by luck
        hardly be off. Not if the function `differs` in float64: then the failure is no rounding.
        """
        names, plan = run_names(backend, precision.dtype), self.planned(backend)
        again: list[Observations] = []
        while True:
            rows = rounding_rows(
                found, names, plan, self.plan, backend, mode, precision, self.bounds, again
            )
            if differs or len(again) == reordered.RUNS or not fails(rows, backend, mode):
                return rows
            again.append(self._measured_again(backend, mode, precision.dtype, len(again)))

    def _measured_again(
        self, backend: str, mode: Mode, dtype: torch.dtype, seed: int
    ) -> Observations:
        """Run Hugging Face's model in another order, which is as right."""
        theirs = runners.model_in_dtype({"huggingface": self.reference}, dtype)["huggingface"]
        other = reordered.Reordered(theirs, seed)  # type: ignore[arg-type]
        raw = frozenset(self.absent(backend) if mode is Mode.PER_OP else ())
        subject = Subject(
            name=run_names("", dtype).huggingface,
            run=other.in_old_order(
                runners.huggingface_run(other.model, self.inputs), rounds=mode is Mode.END_TO_END
            ),
            dtype=dtype,
            device=next(self.reference.parameters()).device,
            unwatched=raw,
        )
        given = dtype if mode is Mode.PER_OP else None
        return self._walk([subject], rounded_to=given, raw=raw, look=_no_look)

    def _subjects(
        self,
        dtype: torch.dtype,
        only: Collection[str] | None = None,
        raw: frozenset[str] | None = None,
    ) -> list[Subject]:
        """Return Hugging Face's run in `dtype`, then ours, one per backend.

        With `raw`, every operation gets right inputs: a prepared candidate goes on with answers.
        """
        chosen = {name: m for name, m in self.candidates.items() if only is None or name in only}
        ours = runners.model_in_dtype(chosen, dtype)
        theirs = runners.model_in_dtype({"huggingface": self.reference}, dtype)["huggingface"]
        runners.check_evaluating({**ours, "huggingface": theirs})
        for model in ours.values():
            if isinstance(model, PreparedCandidate):
                model.answers = None
                if raw is not None:
                    model.answers = runners.rounded_oracle(self.reference, self.inputs, dtype, raw)
        device = next(self.reference.parameters()).device
        runs = [
            Subject(
                name=run_names("", dtype).huggingface,
                run=runners.huggingface_run(theirs, self.inputs),  # type: ignore[arg-type]
                dtype=dtype,
                device=device,
            )
        ]
        runs += [
            Subject(
                name=run_names(backend, dtype).ours,
                run=runners.candidate_run(model, self.inputs),
                dtype=dtype,
                device=device,
                never_formed=frozenset(self.absent(backend)),
            )
            for backend, model in ours.items()
        ]
        return runs

    def _walk(
        self,
        members: Sequence[Subject],
        *,
        against: str | None = None,
        rounded_to: torch.dtype | None = None,
        raw: frozenset[str] = frozenset(),
        look: TapCallback,
    ) -> Observations:
        oracle = runners.oracle_run(self.reference, self.inputs)
        if self._last_only:
            oracle = runners.last_logits(oracle)
            members = [
                dataclasses.replace(one, run=runners.last_logits(one.run))
                if one.name.startswith("huggingface")
                else one
                for one in members
            ]
        lockstep = Pass(
            oracle=oracle,
            subjects=members,
            plan=self.plan,
            time=self.inputs.token_ids.shape[1],
            mask=self.mask,
            against=against,
            rounded_to=rounded_to,
            raw=raw,
            selected=self.measured,
        )
        found = walk_in_lockstep(lockstep, progress=self._step, look=look)
        for name, error in found.broken.items():
            if name.split("/")[1] in self.profiles and not isinstance(
                error, runners.OtherLogitsError
            ):
                raise candidates.broken(error, after=found.last.get(name, "its start"))
            self.reasons.append(
                Reason(
                    what=f"the forward pass of {name} raised {type(error).__name__}: "
                    f"{message_of(error)}",
                    where=name,
                    fix="run the model alone on the same ids to see the traceback",
                    code=ExitCode.INTERNAL if name.startswith("huggingface") else ExitCode.FAIL,
                )
            )
        return found

    def _step(self, tap: str) -> None:
        self.steps_done += 1
        self.progress(tap, self.steps_done, max(self.steps_done, self._steps))

    @functools.cached_property
    def _steps(self) -> int:
        together = bool(self.modes & {Mode.FLOAT64, Mode.END_TO_END})
        passes = together + (Mode.FLOAT64_PER_OP in self.modes)
        return (passes + (Mode.PER_OP in self.modes) * len(self.candidates)) * len(self.plan)

    def _look(self, beside: str) -> TapCallback:
        """Return the callback for every tensor of a pass, before it is freed."""

        def look(subject: str, tap: str, tensor: Tensor, truth: Tensor) -> None:
            if subject == "oracle":
                if not beside:
                    self.life.look(tap, truth)
                    if tap.endswith("attn.scores"):
                        self._note_smallest(tap, truth)
                self._take_truth(tap, truth, beside)
                return
            self._take(subject, tap, tensor, beside)
            if self.keep is not None and not beside:
                self.keep(subject, tap, tensor)
            self.explainer.look(subject, tap, tensor, truth, per_op=bool(beside))
            _, *backend, dtype = subject.split("/")
            judged = backend and tap == "logits" and not beside and dtype != "float64"
            if judged and not self._last_only:
                self.consequences[backend[0]] = consequences(
                    tensor, truth, self.inputs.token_ids.cpu(), self.mask
                )

        return look

    def _note_smallest(self, tap: str, scores: Tensor) -> None:
        if not float(scores.min()) < MASKED_SCORE:  # most have none, and the next line is slow
            return
        visible = self._visible[tap]
        seen = scores if visible is None else scores.masked_select(visible)
        self.smallest_score = min(self.smallest_score, float(seen.min()))

    def _take(self, run: str, tap: str, tensor: Tensor, beside: str = "") -> None:
        self.fingerprints.take(run, tap, tensor, beside=beside, visible=self._visible[tap])

    def _take_truth(self, tap: str, truth: Tensor, beside: str) -> None:
        """Take the oracle's fingerprint; in mode per-op that of the rounded input it gives."""
        if self.fingerprints.wanted and not (beside and tap in self.absent(beside)):
            given = self.precision.dtype if self.precision and beside else torch.float64
            self._take(f"oracle/{str(given)[6:]}", tap, truth.to(given), beside)

    @functools.cached_property
    def _visible(self) -> dict[str, Tensor | None]:
        """The real entries of each tap: neither padded nor masked."""
        time = self.inputs.token_ids.shape[1]
        of_axes = {axes: visible_entries(axes, self.mask, time) for axes in Axes}
        return {tap.name: of_axes[tap.kind.axes] for tap in self.plan}


def check_worthwhile(run: Comparison) -> list[Reason]:
    """Reject a comparison without a possible verdict; return reasons why this one cannot pass.

    Raises:
        InconclusiveError: Bounds too coarse, models that share storage, nothing to compare.
        UsageError: A candidate without taps; a tap that does not exist.
    """
    run.bounds.check(run.precision)
    runners.check_apart(run.candidates, run.reference)
    if run.inputs.token_ids.numel() == 0:
        raise InconclusiveError(
            f"the batch is empty: token_ids is {list(run.inputs.token_ids.shape)}",
            where="token_ids",
            fix="give at least one token",
        )
    run.examine()
    if not any(run.planned(backend) for backend in run.backends):
        raise InconclusiveError(
            "no tap was selected, so nothing was compared",
            where=f"the pattern {run.select!r}",
            fix="patterns are matched against names such as h.3.mlp.gelu; quote the *",
        )
    if run.explainer.tap is not None and run.explainer.tap not in {t.name for t in run.plan}:
        raise UsageError(
            f"there is no tap {run.explainer.tap!r}",
            where="--explain",
            fix=f"taps are named like {run.plan[0].name}, h.3.mlp.gelu, logits",
        )
    constant = liveness.constant_tensors(dict(run.reference.named_parameters()))
    if not constant:
        return []
    return [
        Reason(
            what=f"{len(constant)} tensors hold one value throughout and can hide faults",
            where=f"the weights: {', '.join(constant[:3])}",
            fix="compare on trained or surrogate weights: gains not 1, biases not 0",
            code=ExitCode.INCONCLUSIVE,
        )
    ]


def conclude(run: Comparison, identity: Mapping[str, Any], *, check: str) -> Report:
    """Run every pass with pinned settings and without dropout; return the report."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned_settings())
        stack.enter_context(evaluating([*run.candidates.values(), run.reference]))
        settings = environment()
        try:
            run.reasons += check_worthwhile(run)
            run.compare()
        except InconclusiveError as error:
            run.reasons.append(
                Reason(what=error.what, where=error.where, fix=error.fix, code=error.exit_code)
            )
    plan = {backend: run.planned(backend) for backend in run.backends}
    batch, time = run.inputs.token_ids.shape
    inputs = {
        "batch": batch,
        "time": time,
        "padded_positions": 0 if run.mask is None else int((~run.mask).sum()),
        **run.inputs.digests(),
    }
    return finish(
        check,
        rows=run.rows,
        plan=count(
            plan, run.rows, {name: run.absent(name) | undefined_taps(time) for name in plan}
        ),
        identity=identity,
        environment=settings,
        reasons=run.reasons,
        first_divergence=first_divergence(plan, run.rows),
        consequences=run.consequences,
        liveness=run.life.blocks(),
        inputs=inputs,
        explanation=run.explainer.explanation(),
        fingerprints=run.fingerprints.taken,
    )


def by_backend(candidate: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return candidates by name: that of the attribute `backend`, or `candidate`."""
    if isinstance(candidate, Mapping):
        return dict(candidate)
    backend = getattr(candidate, "backend", CANDIDATE)
    return {backend if backend in BACKENDS else CANDIDATE: candidate}


def _differ(one: Row, other: Row) -> bool:
    """Return whether two float64 runs made different errors on inputs that were right in both."""
    errors = [row.error_ours or 0.0 for row in (one, other)]
    return min(errors) > 1e-7 and abs(errors[0] - errors[1]) > 1e-6 * max(errors)  # noqa: PLR2004


_KEPT = 20
"""Right tensors that are kept: those of a block, and its input."""

_SHOWN = 40
"""Taps whose numbers are looked at; more are not wrong one by one."""


def _no_look(_subject: str, _tap: str, _tensor: Tensor, _truth: Tensor) -> None:
    """Take nothing of a tensor but its difference."""


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


@contextlib.contextmanager
def evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put models into evaluation mode, and back into what each was afterwards."""
    before = [(part, part.training) for model in models for part in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part, training in before:
            part.training = training
