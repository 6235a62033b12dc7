"""The parts of a report as sections, which every form renders: what each holds, and the order.

A failure comes first: wrong operations and the first divergence, then the table of rows, where
guilty rows are marked and inherited ones dimmed. In that table a block is one line; its taps have
lines of their own where an operation of the block is wrong.
"""

import dataclasses
import math
import re
import shlex
import statistics
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import groupby

from parity.core.metrics import Status
from parity.core.results import (
    FirstDivergence,
    Mode,
    Reason,
    Report,
    Row,
    Section,
    Verdict,
    WrongOperation,
)

GUILTY, INHERITED, NOTE = "guilty", "inherited", "note"
"""Marks of a section's rows: the row's own operation is wrong; only its inputs are; a bound."""

BAD = ("DIFFERS", "WRONG", "PROBLEM", "NONFINITE", "NOT RUN", "FAIL", "ERROR")
"""First words of cells that are bad news."""

BEYOND = "!"
"""Last character of a number that is beyond its bound."""


def sections(report: Report) -> Iterator[Section]:
    """Yield the parts of a report in reading order, each with a name."""
    if report.identity.get("weights") or not report.sections:
        yield _heading(report)
    for place, wrong in enumerate(report.wrong):
        yield _wrong(wrong, "first wrong operation" if not place else "also wrong")
    first = report.first_divergence
    # Details other than those of a tensor's numbers are in a section of their own.
    plain = first is not None and (not first.row.details or "note" in first.row.details)
    if first is not None and plain and not report.wrong:
        yield _divergence(first, report)
    if report.results and not report.sections:
        yield _table(report)
    yield from (dataclasses.replace(section, name="extra") for section in report.sections)
    yield from (dataclasses.replace(section, name="appendix") for section in report.appendix)
    if report.findings:
        yield _findings(report)
    if report.consequences:
        yield _effects(report.consequences)
    if report.explanation is not None:
        yield from _explanation(report)
    yield from map(_reason, report.reasons)
    if first is not None and (step := _next_step(report)):
        own = [one.place for one in report.wrong if one.tap.partition(",")[0] == first.tap]
        here = [f"{first.tap} is made in {place}" for place in own if place]
        yield Section(name="next", title="next", lines=[step, *here])


def verdict_line(report: Report) -> str:
    """Return the line behind the verdict: what was compared, and where it differs first."""
    if report.summary:
        return report.summary
    things = _THINGS.get(report.check, "comparisons on {}")
    counted = ", ".join(
        f"{done} of {planned} {things.format(backend)}"
        for backend, (planned, done) in report.plan.per_backend.items()
    )
    checked = "checked" if report.findings else "compared"
    first = report.first_divergence
    if first is None:
        return f"{counted} {checked}"
    return f"{checked} {counted}; first divergence at {first.tap}"


_THINGS = {
    "layerwise": "taps on {}",
    "gradients": "gradients on {}",
    "weights": "tensors of {}",
    "tokens": "{}",
    "doctor": "settings",
    "training": "quantities on {}",
    "generation": "rules, texts and searches",
    "golden": "published numbers",
}


def _heading(report: Report) -> Section:
    weights = report.identity.get("weights", {})
    lines = [("weights", str(weights.get("source", "unknown")))]
    if "sha256" in weights:
        parts = [weights.get("revision", ""), f"sha256 {weights['sha256'][:16]}…"]
        lines.append(("", ", ".join(filter(None, parts))))
    for file in weights.get("files", ()):
        status = file["standing"]
        status = {"known": "as published", "unknown": "unknown provenance"}.get(status, status)
        size, digest = f"{file['size']:,} bytes", f"sha256 {file['sha256'][:16]}…"
        lines.append(("", f"{file['name']}  {size}, {digest}, {status}"))
    lines += [("note" if not at else "", note) for at, note in enumerate(weights.get("notes", ()))]
    inputs = {key: value for key, value in report.inputs.items() if key != "not_run"}
    lines.append(("inputs", ", ".join(f"{key} {value}" for key, value in inputs.items())))
    lines += [
        ("not run", f"{backend}: {why}")
        for backend, why in report.inputs.get("not_run", {}).items()
    ]
    if hidden := [one["tap"] for one in report.plan.exempt if one["backend"] == "candidate"]:
        names = ", ".join(_by_kind(hidden, {row.tap for row in report.results}))
        lines.append(("not shown", f"{len(hidden)} taps of the candidate: {names}"))
    versions = ("torch", "transformers", "threads")
    found = [f"{name} {report.environment[name]}" for name in versions if report.environment]
    lines.append(("environment", ", ".join(found)))
    return Section(name="heading", rows=[line for line in lines if line[1]], folds=(1,))


def _by_kind(hidden: Sequence[str], shown: Collection[str]) -> list[str]:
    """Return names of taps, with `h.*` for those that no block shows."""
    found: dict[str, None] = {}
    for tap in hidden:
        kind = re.sub(r"^h\.\d+\.", "", tap)
        in_others = any(re.fullmatch(rf"h\.\d+\.{re.escape(kind)}", one) for one in shown)
        found[tap if in_others or kind == tap else f"h.*.{kind}"] = None
    return list(found)


def _wrong(wrong: WrongOperation, title: str) -> Section:
    """Return what a candidate computes otherwise than the reference."""
    facts = {
        "code": wrong.code,
        "reference tap": wrong.tap,
        "diagnosis": wrong.diagnosis,
        "fix": wrong.fix,
    }
    return Section(
        name="wrong",
        title=f"{title}: {wrong.place or 'no operation takes its inputs'}",
        rows=[(f"  {name}", fact) for name, fact in facts.items() if fact],
        folds=(1,),
        failed=True,
    )


def _divergence(first: FirstDivergence, report: Report) -> Section:
    """Return the facts about the first failing tap."""
    row = first.row
    # Hugging Face's own error is in rows against the oracle alone.
    theirs = next(
        (
            other.error_reference
            for other in report.results
            if (other.tap, other.mode, other.backend) == (row.tap, row.mode, row.backend)
            and other.error_reference is not None
        ),
        None,
    )
    values = _apart(row.value_ours, row.value_against)
    run = dict.fromkeys([row.backend, row.dtype, row.mode])  # the float64 mode runs in float64
    facts = {
        "backend": f"{', '.join(run)}, against {row.against}",
        "found": first.why,
        "likely cause": first.suspects,
        "shape": row.shape and str(list(row.shape)),
        "worst at": row.worst_index
        and f"{list(row.worst_index)}: ours {values[0]}, {row.against} {values[1]}",
        "errors": theirs is not None
        and f"ours {number(row.error_ours)}, Hugging Face's {number(theirs)}",
        "ratio": row.ratio and f"{number(row.ratio)} (bound {row.bound:g})",
        "mismatches": row.mode is Mode.EXACT
        and row.error_ours is not None
        and f"{row.error_ours:,.0f} of {math.prod(row.shape):,} elements",
        "amplification": row.amplification
        and f"its error is {number(row.amplification)} times that of its inputs",
    }
    return Section(
        name="divergence",
        title=f"first divergence: {first.tap}",
        rows=[(f"  {name}", fact) for name, fact in facts.items() if fact],
        folds=(1,),
        failed=True,
    )


def number(value: float | None) -> str:
    """Return a number with three significant digits, those that are 0 included."""
    return "unknown" if value is None else f"{value:#.3g}".removesuffix(".")


def _apart(ours: float | None, theirs: float | None) -> tuple[str, str]:
    """Return two values with three digits, or as many as show their difference."""
    if ours is None or theirs is None:
        return number(ours), number(theirs)
    digits = 3
    if ours != theirs and math.isfinite(ours) and math.isfinite(theirs):
        scale = max(abs(ours), abs(theirs))
        relative = max(abs(ours / scale - theirs / scale), 1e-17)
        digits = min(17, max(3, 2 - math.floor(math.log10(relative))))
    return f"{ours:#.{digits}g}", f"{theirs:#.{digits}g}"


# The table of rows.

_MODES = {
    Mode.EXACT: ("mismatches", "mismatches: elements", "{:,.0f}".format),
    Mode.FLOAT64: ("float64", "float64: largest error / RMS", "{:.2e}".format),
    Mode.FLOAT64_PER_OP: (
        "float64 per-op",
        "float64 per-op: the same, each operation on the oracle's inputs",
        "{:.2e}".format,
    ),
    Mode.END_TO_END: ("end-to-end", "end-to-end", number),
    Mode.PER_OP: ("per-op", "per-op", number),
}
"""For each mode the column's name, the meaning of its numbers, and their format."""


def _table(report: Report) -> Section:
    """Return a line for each block, and for each tap of a block that differs."""
    modes = [mode for mode in _MODES if any(row.mode is mode for row in report.results)]
    lines: list[list[str]] = []
    marks: list[str] = []
    for name, like, rows in _folded(report):
        for backend in report.plan.per_backend:
            chosen = [row for row in rows if row.backend == backend]
            if chosen:
                cells = [cell([row for row in chosen if row.mode is mode]) for mode in modes]
                mark = mark_of(chosen, report)
                count = len({row.tap for row in chosen})  # a backend may form fewer
                label = name if like is None else f"{name} ({count}{like})"
                lines.append([label, backend, *cells, _WORDS[mark]])
                marks.append(mark)
    bounds = [_bound([row for row in report.results if row.mode is mode]) for mode in modes]
    lines.append(["bound", "", *bounds, ""])
    marks.append(NOTE)
    for at in range(2, 2 + len(modes)):  # digits stay below digits
        if any(line[at].endswith(BEYOND) for line in lines):
            for line in lines:
                line[at] += "" if line[at].endswith(BEYOND) else " "
    meanings = [_MODES[mode][1] for mode in modes]
    if relative := [one for one in meanings if ":" not in one]:
        meanings = [one for one in meanings if ":" in one]
        meanings.append(f"{', '.join(relative)}: error / Hugging Face's error")
    if any(line[at].endswith(BEYOND) for line in lines for at in range(2, 2 + len(modes))):
        meanings.append(f"{BEYOND} beyond the bound")
    if INHERITED in marks:
        meanings.append("follows: its inputs were wrong already")
    return Section(
        name="rows",
        columns=("tap", "backend", *(_MODES[mode][0] for mode in modes), ""),
        rows=lines,
        marks=marks,
        right=range(2, 2 + len(modes)),
        folds=(0,),
        note="; ".join(meanings),
    )


_WORDS = {GUILTY: "WRONG", INHERITED: "follows", "": "ok"}


def mark_of(rows: Sequence[Row], report: Report) -> str:
    """Return whether an operation of some rows is wrong, or only their inputs."""
    failing = [row for row in rows if row.status is not Status.PASS]
    if not failing:
        return ""
    first = report.first_divergence
    named = {first.tap} if first is not None else set()
    if not any(row.mode in (Mode.PER_OP, Mode.FLOAT64_PER_OP) for row in rows):
        named |= {wrong.tap.partition(",")[0] for wrong in report.wrong}
    for row in failing:
        alone = row.mode in (Mode.EXACT, Mode.PER_OP, Mode.FLOAT64_PER_OP)
        own = alone or row.status is not Status.FAIL
        if own or row.tap in named or first is None:
            return GUILTY
    return INHERITED


Line = tuple[str, str | None, list[Row]]
"""A name; for several taps in one line what follows their number, else None; and the rows."""


def _folded(report: Report) -> list[Line]:
    """Return each line of the table, in network order."""
    groups: dict[str, dict[str, list[Row]]] = {}
    for row in report.results:
        parts = row.tap.split(".")
        group = ".".join(parts[:2]) if parts[0] == "h" else parts[0]
        groups.setdefault(group, {}).setdefault(row.tap, []).append(row)
    # Where every block passes, the growth of its error is of interest.
    shortens = report.verdict is Verdict.FAIL or all(r.mode is Mode.EXACT for r in report.results)
    lines: list[Line] = []
    seen: dict[str, list[str]] = {}  # the wrong taps of each block that has lines of its own
    alike: list[str] = []  # blocks that are like one of these, in the last line
    of = False, ""  # whether they fail, and like which
    for group, taps in groups.items():
        fault = [tap.split(".", 2)[-1] for tap in taps if mark_of(taps[tap], report) == GUILTY]
        together = [row for of_tap in taps.values() for row in of_tap]
        fails = any(row.status is not Status.PASS for row in together)
        same = next((other for other, wrong in seen.items() if fault == wrong and fault), "")
        if len(taps) == 1 or (fails and (not seen or (fault and not same))):
            lines += _runs(taps, report)
            seen |= {group: fault} if len(taps) > 1 else {}
            alike = []
        elif not fails and not (shortens and group.startswith("h.")):
            lines.append((group, "", together))
            alike = []
        else:
            joins = alike and of == (fails, same)
            before = lines.pop()[2] if joins else []
            alike = [*alike, group] if joins else [group]
            of = fails, same
            name = group if len(alike) == 1 else f"{alike[0]} to {group}"
            lines.append((name, f", as {same}" if same else "", before + together))
    return lines


_RUN = 3
"""Right or inherited taps in a row that are one line in a block with a wrong one."""


def _runs(taps: Mapping[str, list[Row]], report: Report) -> Iterator[Line]:
    """Yield a line for each tap, or for several right or several inherited ones in a row."""
    for mark, run in groupby(taps, key=lambda tap: mark_of(taps[tap], report)):
        names = list(run)
        if mark == GUILTY or len(names) < _RUN:
            yield from ((name, None, taps[name]) for name in names)
        else:
            last = names[-1].split(".", 2)[-1]
            rows = [row for name in names for row in taps[name]]
            yield f"{names[0]} to {last}", "", rows


def cell(rows: Sequence[Row]) -> str:
    """Return the worst number of some rows of a mode, or the status that they have instead."""
    stopped = [row for row in rows if row.required_tolerance is None]
    if stopped:
        return stopped[0].status.value
    if not rows:
        return ""
    worst = max(row.required_tolerance or 0.0 for row in rows)
    failed = any(row.status is not Status.PASS for row in rows)
    return _MODES[rows[0].mode][2](worst) + (BEYOND if failed else "")


def _bound(rows: Sequence[Row]) -> str:
    """Return the bound that most of the rows have."""
    bounds = [row.bound for row in rows if row.bound] or [0.0]
    return f"{statistics.mode(bounds):g}"


# What comes after the rows.

_EFFECTS = {
    "loss_ours": "loss, ours",
    "loss_oracle": "loss, oracle",
    "log_softmax_largest": "largest change of a log-probability",
    "kl_largest": "largest KL divergence of a position",
    "top1_agreement": "positions with the same first choice",
    "top5_agreement": "positions with the same first five",
    "rank_change_largest": "largest change of rank in the first five",
}


def _effects(by_backend: Mapping[str, Mapping[str, float]]) -> Section:
    """Return how loss, probabilities and rankings change."""

    def shown(name: str, value: float) -> str:
        if name.startswith("loss"):
            return f"{value:.8g}"  # they differ in late digits
        if name.startswith("top"):
            return f"{100 * value:.3g} %"
        return f"{value:.0f}" if name.startswith("rank") else number(value)

    return Section(
        name="effects",
        columns=("effect on the logits", *by_backend),
        rows=[
            [label, *(shown(name, values[name]) for values in by_backend.values())]
            for name, label in _EFFECTS.items()
        ],
        right=range(1, len(by_backend) + 1),
        folds=(0,),
    )


def _findings(report: Report) -> Section:
    words = {True: "ok", False: "PROBLEM", None: ""}
    rows = [
        (one.name, one.found + f" ({one.why})" * (one.fit is False), words[one.fit])
        for one in report.findings
    ]
    return Section(name="findings", rows=rows, folds=(1,))


def _reason(reason: Reason) -> Section:
    facts = [("  where", reason.where), ("  fix", reason.fix)]
    return Section(name="reasons", title=reason.what, rows=facts, folds=(1,))


def _explanation(report: Report) -> Iterator[Section]:
    """Yield the histogram of errors, the worst elements, and the amplification of the tap."""
    explanation = report.explanation or {}
    tap = str(explanation["tap"])
    for name, seen in explanation["runs"].items():
        counts: Mapping[str, int] = seen["histogram"]
        most = max([*counts.values(), 1])
        yield Section(
            name="explanation",
            title=f"errors at {tap}, {name}: absolute differences from the oracle",
            rows=[(f"  {at}", f"{n:,}", "#" * round(40 * n / most)) for at, n in counts.items()],
            lines=[
                f"  {worst['index']}  ours {worst['ours']:.9g}  oracle {worst['oracle']:.9g}"
                f"  difference {worst['difference']:.3g}"
                for worst in seen["worst"]
            ],
        )
    rows = [
        f"  {row.backend}, {row.dtype} {row.mode} against {row.against}: error "
        f"{number(row.error_ours)}, {number(row.amplification)} times that of its inputs"
        for row in report.results
        if row.tap == tap
    ]
    yield Section(name="explanation", title=f"errors at {tap} and of its inputs", lines=rows)


def _next_step(report: Report) -> str:
    """Return a command that looks closer at a failure; "" if there is none."""
    first = report.first_divergence
    asks = report.check == "layerwise" and report.command and report.explanation is None
    if first is None or not asks or first.row.status is Status.EXTRA:
        return ""
    kept: list[str] = []
    words = iter(shlex.split(report.command))  # made by shlex.quote
    for word in words:
        if word in ("--output", "--format"):
            next(words, None)
        elif word != "--quiet" and not word.startswith(("--output=", "--format=")):
            kept.append(word)
    return shlex.join([*kept, "--explain", first.tap])
