"""The self-test: every fault of the registry against the cheapest check that must find it.

A fault is killed if that check fails, placed if the check's first divergence is where the registry
says, and named if the cause in the report has the fault's words. A live fault that is not killed or
not placed fails the self-test, and so does a fault that claims to be equivalent and is killed. A
kind whose rows have the names of rules, steps or properties has no words: "named" is a dash.

Forward and backward faults are injected into a model of one block, at any size: the block in the
middle, with the rows of its own clean input as token table; or the first block with the real
tables, where the fault is in the embeddings or the head. So a full-size fault costs one block.
"""

import dataclasses
import fnmatch
import gc
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property, partial
from itertools import groupby
from typing import Any

import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Weights
from parity.checks.gradients import faults as backward
from parity.checks.gradients.check import gradients
from parity.checks.invariants import faults as of_properties
from parity.checks.invariants.check import invariants
from parity.checks.invariants.faults import InvariantFault
from parity.checks.invariants.subject import Sizes
from parity.checks.layerwise import layerwise
from parity.core.environment import environment
from parity.core.inputs import seeded
from parity.core.metrics import Status
from parity.core.results import FirstDivergence, Mode, Plan, Report, Row, Section, finish
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode
from parity.faults import forward
from parity.faults.forward import INPUTS, ForwardFault
from parity.faults.registry import Fault
from scratch_gpt.errors import MissingExtraError
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

Runner = Callable[[Fault | None], Report]
"""A check of a model, a tokenizer or a procedure with a fault, or without one."""

LONGEST = 77
"""Tokens of the longest text of `INPUTS`: a full tile and a ragged one."""

_LARGEST_LOGIT = 4.0
"""Of a model whose texts must depend on what is drawn: over the mean of all tokens."""

_EPSILON = 1e-3
"""The epsilon of the config that shows a fixed one."""


# Models of one block.


@dataclasses.dataclass(frozen=True)
class Parts:
    """Both models for each part of some weights; a part is built when it is needed, once.

    Parts are `ends` (the tables and the first block), `block` (the middle block on its own clean
    input), `epsilon` (the same with another epsilon), `few` (the first block, few tokens) and
    `whole` (all blocks, few tokens).
    """

    weights: Weights
    built: dict[str, tuple[GPT, OpenAIGPTLMHeadModel]] = dataclasses.field(default_factory=dict)

    def __call__(self, fault: Fault | None) -> tuple[GPT, OpenAIGPTLMHeadModel]:
        """Return our model and Hugging Face's, of the part that a fault needs."""
        return self.models(part_of(fault))

    def models(self, part: str) -> tuple[GPT, OpenAIGPTLMHeadModel]:
        """Return our model and Hugging Face's."""
        if part not in self.built:
            found = getattr(self, part)
            self.built[part] = build_ours(found), build_huggingface(found)
        return self.built[part]

    @property
    def ends(self) -> Weights:
        """The embeddings, the first block and the head."""
        return self.cut([0])

    @cached_property
    def block(self) -> Weights:
        """The block in the middle; row `t` of the token table gives its clean input at `t`."""
        blocks = int(self.weights.config["n_layer"])
        at, size = blocks // 2, self.weights.config["vocab_size"]
        ids = seeded(batch=1, time=LONGEST, vocab_size=size, seed=0).token_ids
        before = self.cut([*range(at)])
        with torch.no_grad():
            clean = build_ours(before).hidden(ids)[0] if at else None
        found = self.cut([at], rows=LONGEST)
        if clean is not None:
            places = found.tensors["positions_embed.weight"][:LONGEST]
            table = {"tokens_embed.weight": clean.numpy() - places}
            found = dataclasses.replace(found, tensors={**found.tensors, **table})
        return found

    @property
    def epsilon(self) -> Weights:
        """The block in the middle, with another epsilon in its config."""
        return with_epsilon(self.block)

    @property
    def few(self) -> Weights:
        """The first block and the first rows of the token table, for what runs many times.

        One block's logits may favor the token that it reads so much that every text is that token
        alone, whatever is drawn. So the last norm is scaled down where they do.
        """
        found = self.cut([0], rows=LONGEST)
        ids = torch.arange(min(found.config["vocab_size"], found.config["n_positions"]))[None]
        with torch.no_grad():
            logits = build_ours(found)(ids)
        scale = min(1.0, _LARGEST_LOGIT / float((logits - logits.mean(-1, keepdim=True)).max()))
        last = {f"h.0.ln_2.{part}" for part in ("weight", "bias")}
        scaled = {n: (array * scale if n in last else array) for n, array in found.tensors.items()}
        return dataclasses.replace(found, tensors=scaled)

    @property
    def whole(self) -> Weights:
        """Every block, with the first rows of the token table."""
        return self.cut([*range(self.weights.config["n_layer"])], rows=LONGEST)

    def cut(self, blocks: Sequence[int], rows: int | None = None) -> Weights:
        """Return the weights with these blocks alone, and the first rows of the token table."""
        tensors = {name: array for name, array in self.weights.tensors.items() if name[:2] != "h."}
        tensors["tokens_embed.weight"] = tensors["tokens_embed.weight"][:rows]
        for new, old in enumerate(blocks):
            of_block = (n for n in self.weights.tensors if n.startswith(f"h.{old}."))
            for name in of_block:
                tensors[name.replace(f"h.{old}.", f"h.{new}.", 1)] = self.weights.tensors[name]
        config = {
            **self.weights.config,
            "n_layer": len(blocks),
            "vocab_size": len(tensors["tokens_embed.weight"]),
        }
        # The folder has the whole model, which would be loaded instead.
        return dataclasses.replace(self.weights, config=config, tensors=tensors, folder=None)


def with_epsilon(weights: Weights) -> Weights:
    """Return weights whose config has another epsilon than GPT-1's."""
    config = {**weights.config, "layer_norm_epsilon": _EPSILON}
    return dataclasses.replace(weights, config=config)


def part_of(fault: Fault | None) -> str:
    """Return the part of a model that a fault is injected into."""
    if fault is None:
        return "block"
    if isinstance(fault, InvariantFault):
        return "ends"
    if getattr(fault, "inputs", "") == "another epsilon":
        return "epsilon"
    if fault.at.startswith("h.") and "{i}" not in fault.at:
        return "whole"
    return "block" if "{i}" in fault.at else "ends"


Models = Callable[[Fault | None], tuple[GPT, OpenAIGPTLMHeadModel]]
"""Returns the models that a fault is injected into, or those of right code."""


def faulty(model: GPT, fault: Fault | None, block: int = 0) -> GPT:
    """Return a model with a forward or backward fault, or the model itself without one."""
    if fault is None:
        return model
    inject = forward.inject if isinstance(fault, ForwardFault) else backward.inject
    return inject(model, fault.name, block)


def forward_runner(
    models: Models, backend: str = "plain", block: int = 0, modes: Sequence[Mode] = (Mode.FLOAT64,)
) -> Runner:
    """Return the forward check, by default in float64, with a fault in one block."""

    def run(fault: Fault | None) -> Report:
        ours, theirs = models(fault)
        ours = faulty(ours.with_backend(backend), fault, block)
        given = INPUTS[getattr(fault, "inputs", "one row")](ours.config.vocab_size, 0)
        return layerwise(
            {backend: ours},
            theirs,
            given.token_ids,
            positions=given.positions,
            attention_mask=given.attention_mask,
            modes=modes,
        )

    return run


def backward_runner(
    models: Models, backend: str = "plain", block: int = 0, *, time: int = 5, select: str = "[!d]*"
) -> Runner:
    """Return the check of gradients in float64; by default without the oracle's directions."""

    def run(fault: Fault | None) -> Report:
        ours, theirs = models(fault)
        ours = faulty(ours.with_backend(backend), fault, block)
        ids = seeded(batch=2, time=time, vocab_size=ours.config.vocab_size, seed=5).token_ids
        return gradients({backend: ours}, theirs, ids, dtype="float64", select=select)

    return run


def invariants_runner(models: Models) -> Runner:
    """Return the check of the property that a fault violates; of all properties without one."""

    def run(fault: Fault | None) -> Report:
        ours, _ = models(fault)
        given: dict[str, Any] = {}
        if isinstance(fault, InvariantFault):
            given = {"properties": [fault.violates]}
            given["injected"] = partial(of_properties.inject, fault.name, 0)
        return invariants(ours, Sizes.of(ours.config), **given)

    return run


# Judging one fault.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trial:
    """One fault, and what its check found.

    Attributes:
        kind: Of the registry: forward, backward, ...
        expected: Where it must be seen first; `place` is where it was, empty if nowhere.
        named: Whether the cause has the fault's words; None if it has none.
        margin: The error there over the bound; infinite where it is no number.
    """

    fault: Fault
    kind: str
    expected: str
    place: str
    killed: bool
    named: bool | None
    margin: float

    @property
    def placed(self) -> bool:
        """Whether it was seen first where it must be."""
        return self.killed and self.place == self.expected

    @property
    def wrong(self) -> str:
        """Why it fails the self-test; empty if it does not."""
        if self.fault.proof:
            return f"it claims to be equivalent, and differs at {self.place}" if self.killed else ""
        if not self.killed:
            return f"it survives; it must be seen at {self.expected}"
        return "" if self.placed else f"it is seen at {self.place}, not at {self.expected}"


def tried(fault: Fault, kind: str, run: Runner, backend: str = "plain", block: int = 0) -> Trial:
    """Run the check of a fault, and judge its report."""
    report = run(fault)
    first, words = report.first_divergence, ""
    expected = fault.first_seen(block, backend, **_NAMES)
    place = "" if first is None else first.tap
    if first is not None:
        words = f"{first.why}; {first.suspects}; {first.row.detail}"
        cause = first.row.details.get("cause")
        place = getattr(cause, "step", place)  # of a tokenizer
    killed = report.exit_code == ExitCode.FAIL
    return Trial(
        fault=fault,
        kind=kind,
        expected=expected,
        place=place,
        killed=killed,
        named=killed and fault.look_for in words if fault.look_for else None,
        margin=margin_of(first),
    )


_NAMES = {"variant": "openai", "last": 0}
"""What a training fault's place is made of, for a model of one block."""


def margin_of(first: FirstDivergence | None) -> float:
    """Return a failing row's error over its bound; infinite if nothing could be measured."""
    if first is None:
        return 0.0
    row = first.row
    found = row.error_ours if row.ratio is None else row.ratio
    if found is None or not row.bound or row.mode is Mode.EXACT:
        return math.inf
    return found / row.bound


# The report.


def selected(faults: Mapping[str, Sequence[Fault]], pattern: str) -> dict[str, list[Fault]]:
    """Return the faults whose name, kind or family matches a pattern, by kind."""
    found = {
        kind: [
            fault
            for fault in members
            if any(fnmatch.fnmatchcase(word, pattern) for word in (fault.name, kind, fault.group))
        ]
        for kind, members in faults.items()
    }
    return {kind: members for kind, members in found.items() if members}


Result = Trial | Row | tuple[str, str]
"""A fault's trial; of right code the row; the name of a fault left out, and the missing package."""


def results(
    faults: Mapping[str, Sequence[Fault | None]], runners: Mapping[str, Runner]
) -> Iterator[Result]:
    """Yield the result of every fault, given by kind; None is right code."""
    for kind, members in faults.items():
        for fault in members:
            if fault is None:
                yield _clean_row(kind, runners[kind](None))
                continue
            try:
                yield tried(fault, kind, runners[kind])
            except MissingExtraError as error:
                yield fault.name, str(error)
            gc.collect(0 if kind == "tokenizer" else 2)  # a model with a fault refers to itself


def selftest(
    faults: Mapping[str, Sequence[Fault]],
    found: Iterable[Result],
    *,
    identity: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Report what the checks of faults found, and those of right code.

    Args:
        faults: The faults by kind.
        found: The result of each fault, and for each kind that of right code.
        identity: Weights, config and code, for the report.
        inputs: What was selected, for the report.
        progress: Called at every result.
    """
    total = sum(map(len, faults.values())) + len(faults)
    rows: list[Row] = []
    trials: list[Trial] = []
    left_out: dict[str, str] = {}
    for one in found:
        if isinstance(one, tuple):
            left_out[one[0]] = one[1]
            continue
        if isinstance(one, Trial):
            trials.append(one)
        rows.append(_trial_row(one) if isinstance(one, Trial) else one)
        progress(rows[-1].tap, len(rows), total)
    failing = next((row for row in rows if row.status is not Status.PASS), None)
    return finish(
        "selftest",
        rows=rows,
        plan=_plan(faults, left_out),
        identity=identity,
        environment=environment(),
        first_divergence=failing
        and FirstDivergence(
            tap=failing.tap, why=failing.detail, suspects=failing.backend, row=failing
        ),
        sections=list(_sections(trials, rows, left_out)),
        inputs=inputs or {},
        summary=_summary(trials),
    )


def _plan(faults: Mapping[str, Sequence[Fault]], left_out: Mapping[str, str]) -> Plan:
    """Return the faults by kind, without those that a missing package leaves out."""
    counts = {
        kind: sum(fault.name not in left_out for fault in members)
        for kind, members in faults.items()
    }
    exempt = [
        {"backend": kind, "tap": fault.name, "reason": left_out[fault.name]}
        for kind, members in faults.items()
        for fault in members
        if fault.name in left_out
    ]
    return Plan.of({kind: (count, count) for kind, count in counts.items()}, exempt)


def _row(name: str, kind: str, wrong: str, details: dict[str, Any]) -> Row:
    return Row(
        tap=name,
        backend=kind,
        dtype="float64",
        mode=Mode.EXACT,
        against="registry",
        status=Status.FAIL if wrong else Status.PASS,
        bound=0.0,
        detail=wrong,
        details=details,
    )


def _trial_row(trial: Trial) -> Row:
    fields = ("killed", "placed", "named", "expected", "place", "margin")
    details = {"family": trial.fault.group, **{name: getattr(trial, name) for name in fields}}
    details["proof"] = trial.fault.proof
    return _row(trial.fault.name, trial.kind, trial.wrong, details)


def _clean_row(kind: str, report: Report) -> Row:
    first, wrong = report.first_divergence, ""
    if report.exit_code != ExitCode.PASS:
        wrong = "; ".join(reason.what for reason in report.reasons) or "no verdict"
        if first is not None:
            wrong = f"right code fails at {first.tap}: {first.why}"
    return _row(f"no fault, {kind}", kind, wrong, {"family": "right code"})


def _summary(trials: Sequence[Trial]) -> str:
    live = [trial for trial in trials if not trial.fault.proof]
    counts = [
        f"{sum(getattr(trial, what) for trial in live)} {what}" for what in ("killed", "placed")
    ]
    if any(trial.fault.look_for for trial in live):
        counts.append(f"{_named(live)} named")
    wrong = [trial.fault.name for trial in trials if trial.wrong]
    equal = len(trials) - len(live)
    return (
        f"{len(live)} live faults: {', '.join(counts)}"
        + (f"; {equal} equivalent" if equal else "")
        + (f"; wrong: {', '.join(wrong[:5])}" + (" …" if len(wrong) > 5 else "") if wrong else "")  # noqa: PLR2004
    )


def _named(trials: Sequence[Trial]) -> str:
    """Return how many causes have the words of their fault, of those that have words."""
    found = [trial.named for trial in trials if trial.named is not None]
    of = f" of {len(found)}" if 0 < len(found) < len(trials) else ""
    return f"{sum(found)}{of}" if found else "-"


COLUMNS = ("kind", "family", "faults", "killed", "placed", "named", "weakest", "margin")


def _sections(
    trials: Sequence[Trial], rows: Sequence[Row], left_out: Mapping[str, str]
) -> Iterator[Section]:
    """Yield what is wrong, the table of families, and what deserves a second look."""
    if failing := [row for row in rows if row.status is not Status.PASS]:
        yield Section(
            title="not as the registry says",
            columns=("kind", "fault", "found"),
            rows=[(row.backend, row.tap, row.detail) for row in failing],
            folds=(2,),
            failed=True,
        )
    yield Section(
        title="faults by family",
        columns=COLUMNS,
        rows=table(trials),
        right=(2, 3, 4, 5, 7),
        note="margin: the weakest fault's error over the bound. A fault of this family that many "
        "times smaller would survive.",
    )
    if unnamed := [t for t in trials if t.named is False and not t.fault.proof]:
        yield Section(
            title="not named: the cause in the report has other words",
            columns=("fault", "at", "words"),
            rows=[(t.fault.name, t.place, t.fault.look_for) for t in unnamed],
            folds=(2,),
        )
    if left_out:
        yield Section(title="not run", rows=list(left_out.items()), folds=(1,))
    if equal := [t for t in trials if t.fault.proof]:
        yield Section(
            title="equivalent: right code in another form",
            columns=("form", "proof"),
            rows=[(t.fault.what, t.fault.proof) for t in equal],
            folds=(0, 1),
        )


def table(trials: Sequence[Trial]) -> list[tuple[str, ...]]:
    """Return a row for each family of live faults, and one for each kind."""
    live = [trial for trial in trials if not trial.fault.proof]
    found = []
    for kind, of_kind in groupby(live, key=lambda trial: trial.kind):
        members = list(of_kind)
        families = dict.fromkeys(trial.fault.group for trial in members)
        for family in (*families, "all"):
            chosen = [t for t in members if family in ("all", t.fault.group)]
            found.append(_counts(kind, family, chosen))
    return found


def _counts(kind: str, family: str, trials: Sequence[Trial]) -> tuple[str, ...]:
    weakest = min((trial for trial in trials if trial.killed), key=lambda t: t.margin, default=None)
    has_margin = weakest is not None and math.isfinite(weakest.margin)
    return (
        kind,
        family,
        f"{len(trials)}",
        *(f"{sum(getattr(t, what) for t in trials)}" for what in ("killed", "placed")),
        _named(trials),
        weakest.fault.name if weakest is not None and has_margin else "-",
        f"{weakest.margin:.2g}" if weakest is not None and has_margin else "-",
    )
