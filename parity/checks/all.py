"""Every check in causal order as one report, and the inputs that `layerwise` is run on there.

The first failure decides what the report shows first: an operation that is wrong in the forward
pass makes gradients, training and texts wrong as well.
"""

import dataclasses
import functools
import itertools
import math
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.layerwise import layerwise
from parity.core import inputs
from parity.core.backends import DEFAULT, EAGER
from parity.core.environment import environment
from parity.core.inputs import Inputs
from parity.core.results import (
    Mode,
    Plan,
    Report,
    Section,
    Verdict,
    error_report,
    finish,
    verdict_for,
    worst,
)
from parity.threads import release_memory
from scratch_gpt.cli import as_cli_error
from scratch_gpt.kernels.tiled_attention import TILE, groups
from scratch_gpt.progress import Progress

# The inputs of `layerwise`.

BATCHES = (1, 3, 9)
LENGTHS = (1, 2, 37, 129, 389, 512)
MOST = 1_024
"""Positions of one input at full size."""

MOST_BY_OPERATION = {"large": 128, "small": MOST}
"""Positions of one input on which every operation is compared on equal inputs too."""

LARGE = 1_000_000
"""Numbers in the token embedding from which a model is of full size: pairs of settings are run."""

ODD = 256
"""From here on bfloat16 does not hold every whole number."""

_ROUNDING = (Mode.END_TO_END, Mode.PER_OP)
_FLOAT64 = (Mode.FLOAT64, Mode.FLOAT64_PER_OP)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One input of the plan, and how the models run on it.

    Attributes:
        dtype: Of the models. In float64, every operation is compared on equal inputs as well.
        config: Fields of the config that are other ones than the weights'.
    """

    name: str
    inputs: Inputs
    dtype: str = "float64"
    modes: Sequence[Mode] = _FLOAT64
    backends: Sequence[str] = EAGER
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def cases(config: Mapping[str, Any]) -> list[Case]:
    """Return the plan for a model: first the default of `layerwise`, then what it leaves out.

    A small model runs on every batch at every length, with and without padding; a large one on
    inputs of at most `MOST` positions in which every pair of settings occurs.
    """
    longest, large = config["n_positions"], is_large(config)
    lengths = sorted({min(length, longest) for length in LENGTHS})
    product = [
        (batch, time, padding, kind)
        for batch, time in itertools.product(BATCHES, lengths)
        for padding in paddings(batch, time, large=large)
        for kind in (("drawn", "repeats") if large and time > 1 else ("drawn",))
        if not large or batch * time <= MOST
    ]
    chosen = pairwise(product) if large else product
    compiled = (
        next((one for one in chosen if one[1] == 1), None),
        next((one for one in chosen if one[0] == 1 and one[1] in (37, 129)), None),
        next((one for one in chosen if one[1] in (37, 129) and one[2] == "both"), None),
    )
    others = ("compiled", "triton")
    make = functools.partial(_case, config)
    found = [make(1, min(512, longest), dtype="float32", modes=tuple(Mode), backends=DEFAULT)]
    found += [
        make(*one, backends=(*EAGER, *others) if one in compiled else EAGER) for one in chosen
    ]
    edges = [k * TILE + beside for k in (1, 2, longest // TILE) for beside in (-1, 0, 1)]
    edges = edges[: 6 if large else 9]
    found += [make(1, t) for t in dict.fromkeys(edges) if 0 < t <= longest and t not in lengths]
    if not any(is_ragged(config, *one[:2]) for one in chosen):
        most = MOST if large else 4 * MOST
        found += [make(batch, time) for batch, time in ragged(config, most)]
    found.append(make(3, min(37, longest), "both", dtype="float32", modes=_ROUNDING))
    if longest > ODD:
        modes = _ROUNDING[: 1 if large else 2]
        found.append(make(1, min(longest, 300), dtype="bfloat16", modes=modes))
    if not large:
        found += [make(3, min(129, longest), kind=kind) for kind in ("repeats", "ends")]
        heads = [n for n in (7, 5, 3, 2, 1) if n != config["n_head"] and not config["n_embd"] % n]
        changed = {"layer_norm_epsilon": 1e-3, "n_head": [*heads, config["n_head"]][0]}
        found.append(make(3, min(37, longest), "both", config=changed))
    return found


def _case(  # noqa: PLR0913 - the settings of an input
    of: Mapping[str, Any],
    batch: int,
    time: int,
    padding: str = "none",
    kind: str = "drawn",
    *,
    dtype: str = "float64",
    config: Mapping[str, Any] | None = None,
    **how: Any,  # noqa: ANN401 - other fields of a case
) -> Case:
    """Return the input of some settings, with a name."""
    words = [f"batch {batch}", f"{time} token{'s' * (time > 1)}", f"padding {padding}", kind, dtype]
    words += [f"{name.rpartition('_')[2]} {value}" for name, value in (config or {}).items()]
    usual = ("padding none", "drawn", "float64")
    if batch * time > MOST_BY_OPERATION["large" if is_large(of) else "small"]:
        how.setdefault("modes", (Mode.FLOAT64,))
    return Case(
        name=", ".join(word for word in words if word not in usual),
        inputs=padded(ids(batch, time, of["vocab_size"], kind), padding),
        dtype=dtype,
        config=config or {},
        **how,
    )


def is_large(config: Mapping[str, Any]) -> bool:
    """Return whether a model is of full size, so that not every combination is run."""
    return bool(config["vocab_size"] * config["n_embd"] >= LARGE)


def ids(batch: int, time: int, vocab_size: int, kind: str = "drawn") -> Tensor:
    """Return ids `[batch time]`: drawn, `repeats` of one in a row's second half, or `ends`.

    The ends of the vocabulary are id 0 and the last one.
    """
    drawn = inputs.seeded(batch=batch, time=time, vocab_size=vocab_size, seed=0).token_ids
    if kind == "repeats":
        drawn[:, time // 2 :] = drawn[:, time // 2, None]
    if kind == "ends":
        drawn = (drawn % 2) * (vocab_size - 1)
    return drawn


def paddings(batch: int, time: int, *, large: bool) -> tuple[str, ...]:
    """Return how rows are padded: several rows each in its own way, one row of a large model left.

    The causal mask hides what stands on the right. One real token predicts none, so that there
    would be no loss to compare.
    """
    if time == 1 or batch * time == 2:  # noqa: PLR2004 - one real token and one of padding
        return ("none",)
    if batch > 1:
        return ("none", "both")
    return ("none", "left") if large else ("none", "right", "left")


def padded(token_ids: Tensor, padding: str) -> Inputs:
    """Return rows of unequal lengths, on the left with positions; of `both`, each third has none.

    Padded places hold id 0.
    """
    if padding == "none":
        return Inputs(token_ids=token_ids)
    batch, time = token_ids.shape
    places = torch.arange(time)
    mask, positions = torch.ones(batch, time, dtype=torch.bool), places.repeat(batch, 1)
    for row in range(batch):
        side = padding if padding != "both" else ("none", "right", "left")[row % 3]
        count = min(time - 1, 1 + time * (row + 1) // (3 * batch))
        if side == "right":
            mask[row, time - count :] = False
        elif side == "left":
            mask[row, :count] = False
            positions[row] = (places - count).clamp(min=0)
    is_left = padding != "right"
    return Inputs(
        token_ids=token_ids * mask,
        positions=positions if is_left else None,
        attention_mask=mask,
    )


def pairwise(product: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return members in which every pair of values of the product occurs, few and small ones.

    Each begins with the batch and the length, whose product is its cost.
    """

    def pairs(settings: tuple[Any, ...]) -> set[object]:
        return set(itertools.combinations(enumerate(settings), 2))

    missing = set().union(*map(pairs, product))
    chosen = []
    while missing:
        best = max(product, key=lambda one: len(pairs(one) & missing) / (TILE + one[0] * one[1]))
        chosen.append(best)
        missing -= pairs(best)
    return chosen


def is_ragged(config: Mapping[str, Any], batch: int, time: int) -> bool:
    """Return whether the last group of sequences of the tiled kernel is a smaller one."""
    parts = [*groups((batch, config["n_head"], time, 1), time, TILE)]
    sizes = [part.stop - part.start for part in parts]
    return bool(sizes[-1] != sizes[0])


def ragged(config: Mapping[str, Any], most: int) -> list[tuple[int, int]]:
    """Return the smallest batch and length of at most `most` positions with a ragged last group."""
    sizes = itertools.product(BATCHES, range(1, config["n_positions"] + 1))
    return [one for one in sizes if math.prod(one) <= most and is_ragged(config, *one)][:1]


def not_seen(given: Inputs, backends: Sequence[str], dtype: str) -> list[Section]:
    """Return which settings of the plan one run of `layerwise` did not look at, as a line.

    `backends` are those that ran; empty for a candidate, which has none.
    """
    batch, time = given.token_ids.shape
    seen = {
        "batches": batch > 1,
        "padding": given.attention_mask is not None,
        "time 1": time == 1,
        "tiles": time > TILE,
        "bfloat16": dtype == "bfloat16" and time > ODD,
        **{name: name in backends for name in (*EAGER, "compiled") if backends},
    }
    names = ", ".join(name for name, is_seen in seen.items() if not is_seen)
    return [Section(rows=[("not seen", f"{names}: see all")], folds=(1,))]


# Run everything.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one check found; `case` is the input of `layerwise`."""

    check: str
    report: Report
    seconds: float
    case: str = ""

    @property
    def passes(self) -> bool:
        """Whether it passes."""
        return self.report.verdict is Verdict.PASS


Check = Callable[[Progress], Report]
Both = tuple[Mapping[str, nn.Module], OpenAIGPTLMHeadModel]
"""Our models by backend, and the reference."""

Models = Callable[[Case], Both]


def layerwise_checks(
    plan: Sequence[Case], models: Models, identity: Mapping[str, Any]
) -> Iterator[tuple[str, str, Check]]:
    """Yield a check for every case of the plan: `layerwise`, the name of the case, the check."""
    for one in plan:

        def check(progress: Progress, one: Case = one) -> Report:
            candidates, reference = models(one)
            device = next(reference.parameters()).device
            given = one.inputs
            return layerwise(
                candidates,
                reference,
                given.token_ids.to(device),
                positions=None if given.positions is None else given.positions.to(device),
                attention_mask=None
                if given.attention_mask is None
                else given.attention_mask.to(device),
                dtype=one.dtype,
                modes=one.modes,
                identity=identity,
                progress=progress,
            )

        yield "layerwise", one.name, check


def run_all(
    checks: list[tuple[str, str, Check]],
    not_run: Mapping[str, str],
    progress: Progress,
    identity: Mapping[str, Any],
    *,
    keep_going: bool,
) -> Report:
    """Run checks in order, each given as name, case and function; return one report.

    The run ends at the first failure, unless `keep_going`. `not_run` has the checks that do not
    apply, with reasons. A check leaves the list when it starts, so that its models are freed.
    """
    outcomes: list[Outcome] = []
    names = [name for name, _case, _check in checks]
    while checks:
        name, case, check = checks.pop(0)
        if outcomes and name != outcomes[-1].check:
            release_memory()
        started = clock.perf_counter()
        try:
            report = check(lambda what, *counts, name=name: progress(f"{name}: {what}", *counts))
        except Exception as error:  # noqa: BLE001 - the checks before it keep their results
            report = error_report(as_cli_error(error), name)
        outcomes.append(
            Outcome(check=name, case=case, report=report, seconds=clock.perf_counter() - started)
        )
        if report.verdict in (Verdict.FAIL, Verdict.ERROR) and not keep_going:
            break
    done = [one.check for one in outcomes]
    later = [name for name in dict.fromkeys(names) if name not in done]
    cases_left = len(names) - len(outcomes) - len([name for name in names if name in later])
    skipped = dict.fromkeys(later, "an earlier check failed; --keep-going runs it") | dict(not_run)
    return _combined(outcomes, skipped, cases_left, identity)


def _combined(
    outcomes: Sequence[Outcome],
    skipped: Mapping[str, str],
    cases_left: int,
    identity: Mapping[str, Any],
) -> Report:
    """Return the first failure's report with a table of all checks; of passes, the table alone."""
    code = worst([one.report.exit_code for one in outcomes])
    by_check: dict[str, list[Outcome]] = {}
    for one in outcomes:
        by_check.setdefault(one.check, []).append(one)
    plans = {name: [one.report.plan for one in ran] for name, ran in by_check.items()}
    counts = {
        name: (sum(plan.planned for plan in of), sum(plan.compared for plan in of))
        for name, of in plans.items()
    }
    first = min(
        (one for one in outcomes if not one.passes),
        key=lambda one: one.report.verdict is not verdict_for(code),
        default=None,
    )
    if first is None:
        base = finish("all", rows=[], plan=Plan.of(counts), identity=identity)
        base = dataclasses.replace(base, reasons=[], environment=environment())
    else:
        base = first.report
        where = {"check": first.check, **({"case": first.case} if first.case else {})}
        base = dataclasses.replace(
            base, identity=base.identity or identity, inputs={**where, **base.inputs}
        )
    return dataclasses.replace(
        base,
        check="all",
        exit_code=code,
        verdict=verdict_for(code),
        appendix=[*base.appendix, *_tables(by_check, skipped, cases_left)],
        summary=_summary(by_check, counts, skipped, first, cases_left),
        details={
            **base.details,
            "checks": [_described(one) for one in outcomes],
            "not_run": dict(skipped),
        },
    )


def _described(outcome: Outcome) -> dict[str, Any]:
    """Return an outcome for programs."""
    report = outcome.report
    first = report.first_divergence
    return {
        "check": outcome.check,
        "case": outcome.case,
        "verdict": report.verdict.value,
        "planned": report.plan.planned,
        "compared": report.plan.compared,
        "rows": len(report.results),
        "seconds": round(outcome.seconds, 3),
        "first_divergence": first.tap if first is not None else None,
    }


def _word(verdict: Verdict) -> str:
    return "ok" if verdict is Verdict.PASS else verdict.value.upper()


def _tables(
    by_check: Mapping[str, Sequence[Outcome]], skipped: Mapping[str, str], cases_left: int
) -> Iterator[Section]:
    """Yield the table of the checks, and that of the inputs of `layerwise`."""
    rows = []
    for name, ran in by_check.items():
        failing = [one for one in ran if not one.passes]
        found = failing[0].report.first_divergence if failing else None
        verdict = verdict_for(worst([one.report.exit_code for one in ran]))
        compared = sum(one.report.plan.compared for one in ran)
        where = found.tap if found is not None else ""
        if failing and not where:
            where = failing[0].report.reasons[0].what if failing[0].report.reasons else ""
        rows.append(
            (name, f"{compared:,}", f"{sum(one.seconds for one in ran):.1f}", _word(verdict), where)
        )
    rows += [(name, "", "", "not run", why) for name, why in skipped.items()]
    columns = ("check", "compared", "seconds", "", "")
    yield Section(columns=columns, rows=rows, right=(1, 2), folds=(4,))
    if ran := by_check.get("layerwise", ()):
        lines = []
        for one in ran:
            plan = one.report.plan
            lines.append(
                (one.case, f"{plan.compared:,}", f"{one.seconds:.1f}", _word(one.report.verdict))
            )
        if cases_left:
            lines.append((f"{cases_left} more inputs", "", "", "not run"))
        yield Section(
            columns=("input of layerwise", "compared", "seconds", ""),
            rows=lines,
            right=(1, 2),
            folds=(0,),
        )


def _summary(
    by_check: Mapping[str, Sequence[Outcome]],
    counts: Mapping[str, tuple[int, int]],
    skipped: Mapping[str, str],
    first: Outcome | None,
    cases_left: int,
) -> str:
    """Return the verdict's line: how many checks, inputs and taps, and where it differs first."""
    total = len(by_check) + len(skipped)
    inputs_run = len(by_check.get("layerwise", ()))
    of = f" of {inputs_run + cases_left}" if cases_left else ""
    taps = counts.get("layerwise", (0, 0))[1]
    line = f"{len(by_check)} of {total} checks run"
    if inputs_run:
        plural = "s" * (inputs_run + cases_left != 1)
        line += f"; layerwise: {inputs_run}{of} input{plural}, {taps:,} taps"
    if first is None:
        return line
    found = first.report.first_divergence
    what = f"first divergence at {found.tap}" if found is not None else first.report.verdict.value
    place = f"{first.check} on {first.case}" if first.case else first.check
    return f"{place}: {what}; {line}"
