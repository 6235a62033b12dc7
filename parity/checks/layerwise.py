"""Does every tap agree, and where is the first that does not?

Two passes. In the first, the oracle, both float64 models and all models in the dtype judged walk
together: identity and propagated quality. In the second, once for each attention path, every
operation is given the oracle's rounded input: isolated quality. Tensors are compared as they
come and let go.
"""

import contextlib
import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import liveness, subjects
from parity.consequences import consequences
from parity.errors import ExitCode, InconclusiveError, ParityError, UsageError
from parity.explain import Explainer
from parity.inputs import Inputs
from parity.judge import Names, extra_rows, identity_rows, quality_rows
from parity.knobs import environment, pinned
from parity.lockstep import Look, Observations, Pass, Subject, walk
from parity.results import Mode, Reason, Report, Row, verdict_for
from parity.summary import count, exit_code, first_divergence
from parity.taps import PATHS, Tap, exempt, never_formed, taps
from parity.tolerances import PRECISIONS, Bounds, Precision, bounds_for

Progress = Callable[[str, int, int], None]
"""Called with (what is going on, steps done, steps in all)."""


def layerwise(  # noqa: PLR0913 - the harness's one entry point; all but three have defaults
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
    dtype: str = "float32",
    modes: Sequence[Mode] = tuple(Mode),
    select: str = "*",
    bounds: Bounds | None = None,
    explain: str | None = None,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a candidate with Hugging Face's model and the oracle, tap by tap.

    Args:
        candidate: Called as `model(token_ids, positions, attention_mask, tap=tap)`. Several,
            under the names of their attention paths, are judged together; a single one's path is
            its attribute `attention`, or `plain`.
        reference: Hugging Face's model; its weights are the oracle's too.
        token_ids: `[batch time]`.
        positions: `[batch time]` or `[1 time]`; 0, 1, 2, ... where None.
        attention_mask: `[batch time]`, bool, False at padding.
        dtype: Dtype whose rounding is judged: float32, bfloat16 or float16; with `float64`
            identity alone is.
        modes: Which gates to run.
        select: Pattern of the taps to compare, as of a shell.
        bounds: Other bounds than the dtype's own; refused if they could not tell a fault.
        explain: A tap to be looked at closely.
        identity: What the verdict says about weights, config and code.
        progress: Called as the passes go on.

    Returns:
        A report whose verdict is inconclusive where nothing could be compared.

    Raises:
        ParityError: The comparison could not be begun, or the settings were moved meanwhile.
    """
    paths = dict(candidate) if isinstance(candidate, Mapping) else {_path(candidate): candidate}
    run = _Run(
        candidates=paths,
        reference=reference,
        inputs=Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask),
        precision=PRECISIONS.get(dtype),
        modes=_modes(modes, dtype),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(explain),
        progress=progress or _silent,
    )
    return run.report(identity or {})


def _path(candidate: nn.Module) -> str:
    path = getattr(candidate, "attention", "plain")
    return path if path in PATHS else "plain"


def _modes(modes: Sequence[Mode], dtype: str) -> frozenset[Mode]:
    return frozenset(modes) & (frozenset(Mode) if dtype in PRECISIONS else {Mode.IDENTITY})


def _described(inputs: Inputs) -> dict[str, Any]:
    """Return what a report says about its inputs."""
    batch, time = inputs.token_ids.shape
    mask = inputs.attention_mask
    padded = 0 if mask is None else int((~mask).sum())
    return {"batch": batch, "time": time, "padded_positions": padded}


def _silent(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


@dataclasses.dataclass(kw_only=True)
class _Run:
    """One comparison under way: what it compares, and what it has found so far."""

    candidates: Mapping[str, nn.Module]
    reference: OpenAIGPTLMHeadModel
    inputs: Inputs
    precision: Precision | None
    modes: frozenset[Mode]
    select: str
    bounds: Bounds
    explainer: Explainer
    progress: Progress

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

    def report(self, identity: Mapping[str, Any]) -> Report:
        """Run every pass and sum up."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(pinned())
            stack.enter_context(_evaluating([*self.candidates.values(), self.reference]))
            settings = environment()
            try:
                self._check()
                self._compare()
            except InconclusiveError as error:
                self.reasons.append(reason(error))
        plan = {attention: self.planned(attention) for attention in self.candidates}
        counted = count(
            plan,
            self.rows,
            n_layer=self.reference.config.n_layer,
            time=self.inputs.token_ids.shape[1],
        )
        code, reasons = exit_code(counted, self.rows, self.reasons, self.life.blocks())
        return Report(
            check="layerwise",
            verdict=verdict_for(code),
            exit_code=code,
            identity=identity,
            environment=settings,
            plan=counted,
            first_divergence=first_divergence(plan, self.rows),
            results=self.rows,
            reasons=reasons,
            consequences=self.consequences,
            liveness=self.life.blocks(),
            inputs=_described(self.inputs),
            explanation=self.explainer.explanation(),
        )

    def _check(self) -> None:
        self.bounds.check(self.precision)
        for model in self.candidates.values():
            subjects.check_candidate(model)
        subjects.check_apart(self.candidates, self.reference)
        if self.inputs.token_ids.numel() == 0:
            raise InconclusiveError(
                f"the batch is empty: token_ids is {list(self.inputs.token_ids.shape)}",
                where="token_ids",
                fix="give at least one token",
            )
        if not any(self.planned(attention) for attention in self.candidates):
            raise InconclusiveError(
                "no tap was selected, so nothing was compared",
                where=f"the pattern {self.select!r}",
                fix="patterns are matched against names such as h.3.mlp.gelu; quote the *",
            )
        if self.explainer.tap is not None and self.explainer.tap not in {t.name for t in self.plan}:
            raise UsageError(
                f"there is no tap {self.explainer.tap!r}",
                where="--explain",
                fix=f"taps are named like {self.plan[0].name}, h.3.mlp.gelu, logits",
            )
        constant = liveness.constant_tensors(dict(self.reference.named_parameters()))
        if constant:
            self.reasons.append(
                Reason(
                    what=f"{len(constant)} tensors hold one value throughout and can hide faults",
                    where=f"the weights: {', '.join(constant[:3])}",
                    fix="compare on trained or surrogate weights: gains not 1, biases not 0",
                    code=ExitCode.INCONCLUSIVE,
                )
            )

    def _compare(self) -> None:
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
                names = _names(attention, torch.float64)
                self.rows += identity_rows(found, names, plan, attention, self.bounds)
                self.rows += extra_rows(found, names, attention, "float64", Mode.IDENTITY)
            if Mode.PROPAGATED in self.modes and self.precision is not None:
                self._judge(found, attention, Mode.PROPAGATED, self.precision)
                self._check_flips(found, attention, self.precision)

    def _isolated(self, attention: str, precision: Precision) -> None:
        """Run one path and the reference, every operation on the oracle's rounded input."""
        raw = frozenset(never_formed(attention, self.reference.config.n_layer))
        members = [
            dataclasses.replace(subject, unwatched=raw)
            if subject.name.startswith("huggingface")
            else subject
            for subject in self._subjects(precision.dtype, only=attention)
        ]
        found = self._walk(members, rounded_to=precision.dtype, raw=raw)
        self._judge(found, attention, Mode.ISOLATED, precision)

    def _judge(self, found: Observations, attention: str, mode: Mode, precision: Precision) -> None:
        names = _names(attention, precision.dtype)
        plan = self.planned(attention)
        self.rows += quality_rows(found, names, plan, attention, mode, precision, self.bounds)
        self.rows += extra_rows(found, names, attention, str(precision.dtype)[6:], mode)

    def _check_flips(self, found: Observations, attention: str, precision: Precision) -> None:
        """Note a first choice that differs from the oracle's by more than rounding explains.

        Two rounding errors as large as the largest seen, ours or Hugging Face's, can turn two
        logits round; a wider lead than that cannot be lost honestly.
        """
        names = _names(attention, precision.dtype)
        errors = [
            found.differences[name, "logits", "oracle"].largest
            for name in (names.ours, names.huggingface)
            if (name, "logits", "oracle") in found.differences
        ]
        lead = self.consequences.get(attention, {}).get("flip_gap_largest", 0.0)
        if lead > 0.0 and not all(lead <= 2 * error for error in errors):
            self.reasons.append(
                Reason(
                    what=f"the first choice of a token differs, against a lead of {lead:.2g}",
                    where=f"logits, attention {attention}, {precision.dtype}",
                    fix="look at logits with --explain logits",
                    code=ExitCode.FAIL,
                )
            )

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
                name=_names("", dtype).huggingface,
                run=subjects.huggingface_run(theirs, self.inputs),  # type: ignore[arg-type]
                dtype=dtype,
                device=device,
            )
        ]
        for path, model in ours.items():
            runs.append(
                Subject(
                    name=_names(path, dtype).ours,
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
    ) -> Observations:
        isolated = rounded_to is not None
        lockstep = Pass(
            oracle=subjects.oracle_run(self.reference, self.inputs),
            subjects=members,
            plan=self.plan,
            time=self.inputs.token_ids.shape[1],
            mask=self.mask,
            witness=witness,
            rounded_to=rounded_to,
            raw=raw,
            selected=frozenset(tap.name for a in self.candidates for tap in self.planned(a)),
        )
        found = walk(lockstep, progress=self._step, look=self._look(isolated=isolated))
        self._note_broken(found)
        return found

    def _step(self, tap: str) -> None:
        self.steps_done += 1
        passes = bool(self.modes & {Mode.IDENTITY, Mode.PROPAGATED})
        total = passes + len(self.candidates) * (Mode.ISOLATED in self.modes)
        self.progress(tap, self.steps_done, total * len(self.plan))

    def _look(self, *, isolated: bool) -> Look:
        """Return what is done with every tensor before it is let go."""

        def look(subject: str, tap: str, tensor: Tensor, truth: Tensor) -> None:
            if subject == "oracle":
                if not isolated:
                    self.life.look(tap, truth)
                return
            self.explainer.look(subject, tap, tensor, truth, isolated=isolated)
            _, *path, dtype = subject.split("/")
            if path and tap == "logits" and not isolated and dtype != "float64":
                self.consequences[path[0]] = consequences(
                    tensor, truth, self.inputs.token_ids.cpu(), self.mask
                )

        return look

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


def _names(attention: str, dtype: torch.dtype) -> Names:
    short = str(dtype).removeprefix("torch.")
    return Names(ours=f"ours/{attention}/{short}", huggingface=f"huggingface/{short}")


def reason(error: ParityError) -> Reason:
    """Return an error as a reason in a report."""
    return Reason(what=error.what, where=error.where, fix=error.fix, code=error.code)


@contextlib.contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put models into evaluation mode, and back into what each was afterwards."""
    before = [(part, part.training) for model in models for part in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part, training in before:
            part.training = training
