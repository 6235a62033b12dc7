"""The invariants check: properties that hold for every right GPT-1, without a reference.

Each property is a set of cases: pairs of calls whose logits must be equal, or must differ. The
first violation of each property is placed: both calls run again side by side, and the first tap
that differs is named; of a model without taps, the first operation.
"""

import contextlib
import dataclasses
import linecache
import math
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from parity.checks.invariants import cases, dropout
from parity.checks.invariants.cases import Calls, Case
from parity.checks.invariants.subject import (
    At,
    Place,
    Sizes,
    Subject,
    first_difference,
    first_unchanged,
)
from parity.core import environment
from parity.core.candidates import rebuilt, site_of
from parity.core.comparison import by_backend, no_progress
from parity.core.inputs import Inputs
from parity.core.metrics import Status
from parity.core.results import (
    FirstDivergence,
    Mode,
    Plan,
    Reason,
    Report,
    Row,
    Section,
    WrongOperation,
    finish,
)
from parity.errors import ExitCode, message_of
from parity.options import INVARIANTS_SEQ_LEN
from parity.watch import Site
from parity.watched import in_dtype
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress
from scratch_gpt.tap import no_tap

PROPERTIES: dict[str, tuple[str, str]] = {
    "determinism": (
        "the same call has the same logits",
        "dropout that is left on; something that a call leaves behind; memory that is not set",
    ),
    "batch": (
        "a row depends neither on the other rows nor on its place",
        "a norm or a mean over the batch; rows that change places; the last, smaller group of rows",
    ),
    "causality": (
        "no token changes what is before it",
        "the causal mask: missing, off by one, added as a finite number, or not at every tile",
    ),
    "prefix": (
        "the logits of a beginning are those of the whole text",
        "a special case for one token; the last, smaller tile; a mean over the text",
    ),
    "positions": (
        "the positions 0, 1, 2, ... may be given, and each row has its own",
        "positions that are ignored, or taken from the first row",
    ),
    "padding": (
        "padding on any side changes no token",
        "a padding mask that is ignored, inverted or repeated wrongly; positions that count it",
    ),
    "ids": (
        "every id has its own row, and gives finite numbers",
        "ids that are clamped, or kept in a type too small for them",
    ),
    "sensitivity": (
        "every token, position and parameter changes the output",
        "an input or a parameter that is not used",
    ),
    "cache": (
        "a text read in parts has the logits of the whole text",
        "what is kept: keys, values, positions, the length; a text that was not cleared",
    ),
    "dropout": (
        "in training mode it keeps means, drops its share, and is drawn anew each time",
        "kept elements that are not divided by 1 - p; masks that are shared; another share",
    ),
}
"""Each property in words, and its likely causes.

The order is that of the report: calls of a property rest on the properties before it.
"""

_CASES: dict[str, Callable[[Calls], Iterator[Case]]] = {
    "determinism": cases.determinism,
    "causality": cases.causality,
    "batch": cases.batches,
    "positions": cases.positions,
    "padding": cases.padding,
    "prefix": cases.prefixes,
    "ids": cases.token_ids,
    "cache": cases.cache,
    "sensitivity": cases.sensitivity,
}

BOUND = 1e-12
"""Largest difference over the RMS between float64 calls of other shapes; see docs/invariants.md."""


Injected = Callable[[nn.Module], contextlib.AbstractContextManager[Any]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Observed:
    """What a case showed.

    Attributes:
        error: Elements or tokens that break the property; of an inexact case, the largest
            difference over the RMS. None where nothing could be measured.
        detail: In words.
        place: Returns where it shows first.
    """

    error: float | None
    bound: float
    mode: Mode
    status: Status
    detail: str = ""
    shape: tuple[int, ...] = ()
    place: Callable[[], Place] = Place


def invariants(  # noqa: PLR0913 - the check's entry point; all but two have defaults
    candidate: nn.Module | Mapping[str, nn.Module],
    sizes: Sizes,
    *,
    longest: int = INVARIANTS_SEQ_LEN,
    seed: int = 0,
    dtype: torch.dtype = torch.float64,
    call: str | None = None,
    properties: Sequence[str] = tuple(PROPERTIES),
    injected: Injected = contextlib.nullcontext,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Check properties that hold for every right GPT-1.

    Args:
        candidate: A model in evaluation mode, or several by backend.
        sizes: Of the model.
        longest: Tokens of the longest text.
        seed: Of the ids and the dropout.
        dtype: In which the models run. Cases that need rounding below 1e-12 run in float64 alone.
        call: How a model without taps is called, as `model(ids, targets=ids)`. None: find out.
        properties: Keys of `PROPERTIES` to check.
        injected: Returns the context in which a model runs.
        identity: Weights, config and code, for the report.
        progress: Called before every case.

    Raises:
        ParityError: A model cannot be called, or torch settings changed.
    """
    rows: list[Row] = []
    found: list[FirstDivergence] = []
    places: list[Place] = []
    not_run: dict[str, str] = {}
    tell = progress or no_progress
    with environment.pinned_settings(), torch.no_grad(), contextlib.ExitStack() as stack:
        settings = environment.environment()
        for name, given in by_backend(candidate).items():
            model = rebuilt(given, dtype) or given
            stack.enter_context(in_dtype(model, dtype))
            with injected(model):
                subject = Subject(name, model, sizes, dtype, call)
                calls = Calls(subject, longest=longest, seed=seed)
                mine = _rows(subject, calls, properties, not_run, tell, found, places)
                rows += list(mine)
    return _report(rows, found, places, not_run, settings, identity or {}, calls)


def _rows(  # noqa: PLR0913 - what is found goes to four places
    subject: Subject,
    calls: Calls,
    properties: Sequence[str],
    not_run: dict[str, str],
    progress: Progress,
    found: list[FirstDivergence],
    places: list[Place],
) -> Iterator[Row]:
    """Yield the rows of a model; note the first violation of each property, and what cannot run."""
    left_out = _left_out(subject, calls)
    for at, name in enumerate(one for one in PROPERTIES if one in properties):
        label = f"{subject.name}: {name}"
        if why := left_out.get(name):
            not_run[f"{name} on {subject.name}"] = why
            continue
        violated = False
        count = 0
        for case, observe in _observations(subject, calls, name, not_run):
            progress(f"{label} {case}", at, len(properties))
            one = _guarded(observe)
            if one is None:
                continue
            count += 1
            row = Row(
                tap=case,
                backend=subject.name,
                dtype=str(subject.dtype).removeprefix("torch."),
                mode=one.mode,
                against="itself",
                shape=one.shape,
                status=one.status,
                error_ours=one.error,
                bound=one.bound,
                required_tolerance=one.error,
                detail=one.detail,
            )
            if one.status not in (Status.PASS, Status.NOT_RUN) and not violated:
                violated = True
                place = _guarded_place(one.place)
                row = dataclasses.replace(row, details={"place": place.name})
                words, suspects = PROPERTIES[name]
                why = f"{words}; {one.detail}"
                first = FirstDivergence(tap=place.name or case, why=why, suspects=suspects, row=row)
                found.append(first)
                places.append(place)
            yield row
        if not count and f"{name} on {subject.name}" not in not_run:
            why = "a text of one token does not show it"
            if subject.last_only:
                why = "its logits are of the last position alone"
            elif subject.dtype is not torch.float64:
                why = f"in {subject.dtype} rounding hides it"
            not_run[f"{name} on {subject.name}"] = why


def _left_out(subject: Subject, calls: Calls) -> dict[str, str]:
    """Return the properties that a model cannot show, each with the reason."""
    found = {}
    if calls.no_positions:
        found["positions"] = calls.no_positions
    if calls.no_mask:
        found["padding"] = calls.no_mask
    if not isinstance(subject.model, GPT):
        found["cache"] = "no cache that this check can call: only that of scratch_gpt.GPT"
    if why := dropout.why_not(subject):
        found["dropout"] = why
    return found


def _observations(
    subject: Subject, calls: Calls, name: str, not_run: dict[str, str]
) -> Iterator[tuple[str, Callable[[], Observed | None]]]:
    """Yield the cases of a property, and functions that observe them."""
    if name == "dropout":
        for case, observe in dropout.statistics(subject, calls):
            yield f"dropout.{case}", partial(_of_dropout, observe)
        return
    for one in _CASES[name](calls):
        if one.exact or subject.dtype is torch.float64:
            yield one.name, partial(_observe, subject, one)
        else:
            not_run[f"calls of other shapes on {subject.name}"] = (
                f"in {subject.dtype} rounding hides what they show"
            )
    if name == "determinism":
        yield "determinism.inputs", partial(_unwritten, subject, calls)
    if name == "sensitivity":
        yield "sensitivity.parameters", partial(_parameters, subject, calls)


def _guarded(observe: Callable[[], Observed | None]) -> Observed | None:
    """Return what a case shows; an exception of the model is a violation."""
    try:
        return observe()
    except Exception as error:  # noqa: BLE001 - whatever the model raises
        site = site_of(traceback.extract_tb(error.__traceback__))
        text = f"the call raised {type(error).__name__}: {message_of(error)}"
        return Observed(
            error=None,
            bound=0.0,
            mode=Mode.EXACT,
            status=Status.FAIL,
            detail=text + (f", at {site}" if site else ""),
        )


def _guarded_place(place: Callable[[], Place]) -> Place:
    """Return where a violation shows; nowhere if the model raises when it is watched."""
    try:
        return place()
    except Exception:  # noqa: BLE001 - the violation stays a finding
        return Place()


# Two calls.


def _observe(subject: Subject, case: Case) -> Observed | None:
    """Run a case; None where the logits do not show its tokens."""
    one = case.one.logits.detach()
    with case.around():
        other = case.other.run(no_tap).detach()
    parts = _parts(case, one, other)
    if not parts:
        return None
    shapes = case.one.shape, case.other.shape
    runs = case.one.run, _around(case)
    shape = tuple(one.shape)
    for mine, its, at in parts:
        if mine.shape != its.shape:
            return _failed(f"logits of shape {list(mine.shape)} and {list(its.shape)}", shape)
        if not (bool(mine.isfinite().all()) and bool(its.isfinite().all())):
            pair = case.pairs[at]
            return dataclasses.replace(
                _failed("some logits are not finite", shape),
                status=Status.NONFINITE,
                place=partial(
                    first_difference, subject, runs, shapes, [pair], 0.0 if case.exact else BOUND
                ),
            )
    if case.change:
        return _changed(subject, case, parts, shape)
    wrong = [
        (_mismatches(mine, its) if case.exact else _relative(mine, its), at)
        for mine, its, at in parts
    ]
    bound = 0.0 if case.exact else BOUND
    largest, at = max(wrong)
    error = sum(number for number, _ in wrong) if case.exact else largest
    status = Status.PASS if error <= bound else Status.FAIL
    if status is Status.FAIL and not case.exact and subject.narrow is not None:
        bound = BOUND * torch.finfo(subject.narrow).eps / torch.finfo(torch.float64).eps
        status = Status.PASS if error <= bound else Status.FAIL
        if bound > _COARSE:
            status = Status.NOT_RUN
    count = sum(mine.shape[0] * mine.shape[1] for mine, _, _ in parts)
    mine, its, _ = next(part for part in parts if part[2] == at)
    token = (mine != its).any(-1).nonzero()
    detail = ""
    if status is Status.FAIL:
        where = _token(case.pairs[at][0], token[0].tolist())
        amount = f"{error:,.0f} numbers differ" if case.exact else f"{error:.1e} of the RMS"
        detail = f"{amount}, first at {where}, of {count:,} tokens"
    elif status is Status.NOT_RUN:
        detail = f"{subject.narrow} inside, whose rounding hides it"
    pairs = [case.pairs[at]]
    return Observed(
        error=error,
        bound=bound,
        mode=Mode.EXACT if case.exact else Mode.FLOAT64,
        status=status,
        detail=detail,
        shape=shape,
        place=lambda: first_difference(subject, runs, shapes, pairs, bound),
    )


_COARSE = 1e-2
"""A bound above it would hide faults."""

Parts = list[tuple[Tensor, Tensor, int]]
"""The logits of each pair of tokens that the model returns, and the pair's number."""


def _parts(case: Case, one: Tensor, other: Tensor) -> Parts:
    return [
        (mine, its, at)
        for at, (first, second) in enumerate(case.pairs)
        if (mine := _tokens(one, case.one.shape, first)) is not None
        and (its := _tokens(other, case.other.shape, second)) is not None
    ]


def _around(case: Case) -> Callable[..., Tensor]:
    """Return the run of a case's other call in its context."""

    def run(tap: Any) -> Tensor:  # noqa: ANN401 - a tap
        with case.around():
            return case.other.run(tap).detach()

    return run


def _unchanged(case: Case, parts: Parts) -> list[At]:
    """Return the tokens whose logits are equal."""
    still: list[At] = []
    for mine, its, at in parts:
        least = case.least * float(its.square().mean().sqrt())
        same = ((mine - its).abs().amax(-1) <= least).nonzero().tolist()
        first = case.pairs[at]
        for row, place in same:
            start = first[0].places.start or 0
            rows = (first[0].rows.start or 0) + row
            still.append(At(slice(rows, rows + 1), slice(start + place, start + place + 1)))
    return still


@contextlib.contextmanager
def _softened(model: nn.Module) -> Iterator[None]:
    """Make matrices smaller, so that every token has some of attention's weight."""
    matrices = [one for one in model.parameters() if one.ndim > 1 and one.is_floating_point()]
    kept = [one.data for one in matrices]
    try:
        for one in matrices:
            one.data = one.data * 0.1
        yield
    finally:
        for one, data in zip(matrices, kept, strict=True):
            one.data = data


def _changed(subject: Subject, case: Case, parts: Parts, shape: tuple[int, ...]) -> Observed:
    """Return what a case shows whose tokens must all differ.

    Sharp attention gives some tokens less weight than a sum can hold: those must differ at least
    when it is soft.
    """
    still = _unchanged(case, parts)
    if still:
        with _softened(subject.model), case.around():
            runs = case.one.run(no_tap).detach(), case.other.run(no_tap).detach()
        soft = _unchanged(case, _parts(case, *runs))
        still = [at for at in still if at in soft]
    pair_of = [(at, at) for at in still[:1]]
    if still and case.pairs[0][0] != case.pairs[0][1]:
        pair_of = [case.pairs[next(at for mine, its, at in parts if _same(mine, its, case.least))]]
    count = len(still)
    row = f"row {still[0].rows.start}, token {still[0].places.start}" if still else ""
    return Observed(
        error=float(count),
        bound=0.0,
        mode=Mode.EXACT,
        status=Status.FAIL if still else Status.PASS,
        detail=f"{count:,} tokens do not change, the first is {row}" if still else "",
        shape=shape,
        place=lambda: first_unchanged(
            subject, (case.one.run, case.other.run), pair_of, case.change
        ),
    )


def _same(mine: Tensor, its: Tensor, least: float) -> bool:
    return bool(((mine - its).abs().amax(-1) <= least * its.square().mean().sqrt()).any())


def _tokens(logits: Tensor, shape: Sequence[int], at: At) -> Tensor | None:
    """Return the logits of some tokens; None where the model returns none of them."""
    batch, time = shape
    if logits.shape[1] == time or logits.shape[:2] != (batch, 1):
        return logits[at.rows][:, at.places]
    last = range(time)[at.places]
    return logits[at.rows] if len(last) and last[-1] == time - 1 else None


def _mismatches(mine: Tensor, its: Tensor) -> float:
    return float((mine != its).sum())


def _relative(mine: Tensor, its: Tensor) -> float:
    """Return the largest difference over the RMS."""
    rms = float(its.double().square().mean().sqrt())
    return float((mine.double() - its.double()).abs().amax()) / rms if rms else math.inf


def _token(at: At, place: Sequence[int]) -> str:
    row, token = (at.rows.start or 0) + place[0], (at.places.start or 0) + place[1]
    return f"row {row}, token {token}"


def _failed(detail: str, shape: tuple[int, ...] = ()) -> Observed:
    return Observed(
        error=None, bound=0.0, mode=Mode.EXACT, status=Status.FAIL, detail=detail, shape=shape
    )


def _count(number: int, detail: str, place: Callable[[], Place] = Place) -> Observed:
    """Return what a count of violations shows."""
    return Observed(
        error=float(number),
        bound=0.0,
        mode=Mode.EXACT,
        status=Status.FAIL if number else Status.PASS,
        detail=detail if number else "",
        place=place,
    )


# Inputs and parameters.


def _unwritten(subject: Subject, calls: Calls) -> Observed:
    """Return whether a call leaves its arguments and the parameters as they were."""
    ids = calls.ids(2, min(5, calls.longest))
    given = {"token_ids": ids.clone()}
    if not calls.no_positions:
        given["positions"] = calls.places(*ids.shape).clone()
    if not calls.no_mask:
        given["attention_mask"] = torch.ones_like(ids, dtype=torch.bool)
    kept = {**given, **dict(subject.model.named_parameters())}
    before = {name: tensor.detach().clone() for name, tensor in kept.items()}
    subject.call(Inputs(**given))
    wrong = [name for name, tensor in kept.items() if not torch.equal(tensor, before[name])]
    return _count(
        len(wrong),
        f"a call writes to {', '.join(wrong[:3])}",
        lambda: Place(wrong[0]),
    )


def _parameters(subject: Subject, calls: Calls) -> Observed | None:
    """Return which parameters change nothing: no gradient reaches them, nor does another value."""
    model = subject.model
    named = {name: one for name, one in model.named_parameters() if one.is_floating_point()}
    if not named:
        return None
    ids = calls.ids(2, min(17, calls.longest))
    run = calls.side(ids).run
    draws = torch.Generator().manual_seed(calls.seed % 2**63)
    with torch.enable_grad():
        flags = {name: one.requires_grad for name, one in named.items()}
        for one in named.values():
            one.requires_grad_()
        logits = run(no_tap)
        slopes: Sequence[Tensor | None] = [None] * len(named)
        if logits.requires_grad:
            weights = torch.randn(logits.shape, generator=draws, dtype=torch.float64)
            slopes = torch.autograd.grad(
                (logits * weights.to(logits)).sum(), list(named.values()), allow_unused=True
            )
        for name, one in named.items():
            one.requires_grad_(flags[name])
    still = [
        name
        for name, slope in zip(named, slopes, strict=True)
        if slope is None or not bool(slope.any())
    ]
    right = run(no_tap)
    dead = [name for name in still if not _has_effect(named[name], run, right, draws)]
    words = f"{len(dead)} of {len(named)} change nothing: {', '.join(dead[:3])}"
    return _count(len(dead), words, lambda: Place(_tap_of(subject, dead[0])))


def _has_effect(parameter: Tensor, run: Any, right: Tensor, draws: torch.Generator) -> bool:  # noqa: ANN401 - a Run
    """Return whether other values of a parameter change a bit of the logits."""
    kept = parameter.data
    noise = torch.randn(kept.shape, generator=draws, dtype=torch.float64).to(kept)
    try:
        parameter.data = kept + noise
        return not torch.equal(run(no_tap), right)
    finally:
        parameter.data = kept


def _tap_of(subject: Subject, parameter: str) -> str:
    """Return the tap that a parameter of ours makes; of another model, the parameter itself."""
    if not isinstance(subject.model, GPT):
        return parameter
    owner = parameter.rpartition(".")[0]
    replaced = {"c_attn": "query", "tokens_embed": "embeddings.tokens"}
    if owner in ("tokens_embed", "positions_embed"):
        return f"embeddings.{owner.partition('_')[0]}"
    head, _, last = owner.rpartition(".")
    if last == "c_proj":
        formed = {"attn": "ln_1.input", "mlp": "ln_2.input"}
        block, _, part = head.rpartition(".")
        return f"{block}.{formed[part]}" if subject.name in ("fused", "triton") else head
    return f"{head}.{replaced.get(last, last)}"


# The report.


def _of_dropout(observe: Callable[[], tuple[float, float, str, str] | None]) -> Observed | None:
    measured = observe()
    if measured is None:
        return None
    error, bound, detail, place = measured
    status = Status.PASS if error <= bound else Status.FAIL
    return Observed(
        error=error,
        bound=bound,
        mode=Mode.FLOAT64,
        status=status,
        detail=detail if status is Status.FAIL else "",
        place=lambda: Place(place),
    )


def _report(  # noqa: PLR0913 - the parts of a report
    rows: Sequence[Row],
    found: Sequence[FirstDivergence],
    places: Sequence[Place],
    not_run: Mapping[str, str],
    settings: Mapping[str, str],
    identity: Mapping[str, Any],
    calls: Calls,
) -> Report:
    order = list(PROPERTIES)
    both = sorted(
        zip(found, places, strict=True), key=lambda one: order.index(_property(one[0].row))
    )
    first = both[0][0] if both else None
    backends = list(dict.fromkeys(row.backend for row in rows))
    counted = {
        name: (
            sum(row.backend == name for row in rows),
            sum(row.backend == name and row.status is not Status.NOT_RUN for row in rows),
        )
        for name in backends
    }
    words = ", ".join(f"{done} of {all_} cases on {name}" for name, (all_, done) in counted.items())
    summary = f"checked {words}"
    if first is not None:
        summary += f"; {_property(first.row)} is violated, first at {first.tap}"
    return finish(
        "invariants",
        rows=rows,
        plan=Plan.of(counted),
        identity=identity,
        environment=settings,
        reasons=_reasons(rows),
        first_divergence=first,
        wrong=[_wrong(one, place, place.site) for one, place in both if place.site is not None],
        inputs={
            "longest": calls.longest,
            "seed": calls.seed,
            **({"not_run": not_run} if not_run else {}),
        },
        sections=[*_violations([one for one, _ in both]), _table(rows, backends)],
        summary=summary,
    )


def _property(row: Row) -> str:
    return row.tap.partition(".")[0]


def _reasons(rows: Sequence[Row]) -> list[Reason]:
    hidden = [row for row in rows if row.status is Status.NOT_RUN]
    if not hidden:
        return []
    return [
        Reason(
            what=f"{len(hidden)} cases were not decided: {hidden[0].detail}",
            where=hidden[0].tap,
            fix="compute in the dtype of the weights, at least when they are float64",
            code=ExitCode.INCONCLUSIVE,
        )
    ]


def _wrong(first: FirstDivergence, place: Place, site: Site) -> WrongOperation:
    return WrongOperation(
        tap=first.row.tap,
        place=place.name,
        code=linecache.getline(site.file, site.line).strip(),
        fault="",
        diagnosis=f"{first.why}; likely cause: {first.suspects}",
        fix="",
        file=site.file,
        line=site.line,
    )


def _violations(found: Sequence[FirstDivergence]) -> Iterator[Section]:
    """Yield the first violation in detail, then the others, which often follow from it."""
    for first in found[:1]:
        facts = {
            "property": PROPERTIES[_property(first.row)][0],
            "case": f"{first.row.tap} on {first.row.backend}, in {first.row.dtype}",
            "found": first.row.detail,
            "first at": first.row.details["place"] or "not found: only the property is known",
            "likely cause": first.suspects,
        }
        yield Section(
            title=f"violated: {_property(first.row)}",
            rows=[(f"  {name}", fact) for name, fact in facts.items()],
            folds=(1,),
            failed=True,
        )
    if found[1:]:
        yield Section(
            title="violated as well",
            columns=("case", "backend", "first at"),
            rows=[(one.row.tap, one.row.backend, one.tap) for one in found[1:]],
            folds=(0, 2),
        )


def _table(rows: Sequence[Row], backends: Sequence[str]) -> Section:
    """Return a line for each group of cases that passes, and for each case that does not."""
    lines: dict[str, dict[str, list[Row]]] = {}
    failing = {row.tap for row in rows if row.status is not Status.PASS}
    for row in rows:
        label = row.tap if row.tap in failing else ".".join(row.tap.split(".")[:2])
        lines.setdefault(label, {}).setdefault(row.backend, []).append(row)
    order = list(PROPERTIES)
    return Section(
        title="cases, and how many",
        columns=("case", "", *backends),
        rows=[
            (
                label,
                str(max(map(len, found.values()))),
                *(_cell(found.get(one, [])) for one in backends),
            )
            for label, found in sorted(
                lines.items(), key=lambda line: order.index(line[0].partition(".")[0])
            )
        ],
        right=(1,),
        folds=range(2, 2 + len(backends)),
        note="ok: equal to the bit, or the largest number with its bound (1e-12: over the RMS)",
    )


def _cell(rows: Sequence[Row]) -> str:
    """Return what some cases showed on one backend."""
    worst = [row for row in rows if row.status is not Status.PASS]
    if worst:
        if worst[0].status is Status.NOT_RUN:
            return "not run"
        error = worst[0].error_ours
        if error is None:
            return f"{'NONFINITE' if worst[0].status is Status.NONFINITE else 'ERROR'}"
        return f"WRONG {error:,.0f}" if worst[0].mode is Mode.EXACT else f"WRONG {error:.2g}"
    numbers = [row for row in rows if row.mode is not Mode.EXACT]
    if not numbers:
        return "ok" if rows else ""
    most = max(numbers, key=lambda row: (row.error_ours or 0.0) / row.bound)
    return f"ok {most.error_ours:.2g} of {most.bound:.2g}"
