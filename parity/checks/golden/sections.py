"""The tables of a golden check: all goldens, their sources, and details of failing ones."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parity.core.metrics import Status
from parity.core.results import Row, Section
from reference.published import Measure, Tolerance

_FOLDED_FROM = 20
"""As many rows of one group, kind and status share one line, that of the worst."""


def sections(rows: Sequence[Row], exempt: Sequence[Mapping[str, str]]) -> Iterator[Section]:
    """Yield the table, its sources, the exempt goldens, and the first failure of each kind."""
    sources = list(dict.fromkeys(row.details["source"] for row in rows))
    if rows:
        yield _table(rows, sources)
        yield Section(lines=[f"[{at}] {source}" for at, source in enumerate(sources, 1)])
    if exempt:
        yield Section(lines=list(_left_out(exempt)))
    failing = [row for row in reversed(rows) if row.status in (Status.FAIL, Status.NONFINITE)]
    firsts = {(_group(row), row.details["kind"]): row for row in failing}
    yield from map(_failure, reversed(firsts.values()))


def _left_out(exempt: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield a line for each reason, with the goldens that are exempt for it."""
    by_reason: dict[str, list[str]] = {}
    for entry in exempt:
        by_reason.setdefault(entry["reason"], []).append(entry["tap"])
    for reason, keys in by_reason.items():
        yield f"not compared, {reason}: {', '.join(keys)}"


def _table(rows: Sequence[Row], sources: Sequence[str]) -> Section:
    lines = []
    for label, row in _lines(rows):
        difference = row.details["difference"]
        lines.append(
            [
                label,
                *_pair(row),
                "" if difference is None else f"{difference:.1e}",
                _tolerance(row.details["tolerance"]),
                f"[{sources.index(row.details['source']) + 1}]",
                _MARKS[row.status],
            ]
        )
    columns = ("golden", "expected", "got", "difference", "tolerance", "", "")
    return Section(columns=columns, rows=lines, right=(1, 2, 3), folds=(0,))


def _lines(rows: Iterable[Row]) -> Iterator[tuple[str, Row]]:
    groups: dict[tuple[str, str, Status], list[Row]] = {}
    for row in rows:
        groups.setdefault((_group(row), row.details["kind"], row.status), []).append(row)
    for (group, _, _), members in groups.items():
        if len(members) < _FOLDED_FROM:
            yield from ((row.tap, row) for row in members)
        else:
            worst = max(members, key=lambda row: row.details["difference"] or 0.0)
            yield f"{group} ({len(members)}), worst", worst


def _group(row: Row) -> str:
    return row.tap.partition("/")[0]


def _pair(row: Row) -> tuple[str, str]:
    """Return the expected value and ours, short enough for a column.

    Of several numbers it is the pair with the largest difference, of ids the first that differ.
    """
    published, ours = row.details["expected"], row.details["got"]
    if ours is None:
        return _short(published), "-"
    if not isinstance(published, list) or len(ours) != len(published):
        return _short(published), _short(ours)
    pairs = list(zip(published, ours, strict=True))
    if row.details["tolerance"].measure is not Measure.EXACT:
        expected, got = max(pairs, key=lambda pair: abs(pair[1] - pair[0]) / (abs(pair[0]) or 1.0))
        return _short(expected), _short(got)
    first = next((at for at, (wanted, here) in enumerate(pairs) if wanted != here), None)
    if first is None:
        return f"{len(pairs)} ids", "the same"
    return f"{pairs[first][0]} at {first}", str(pairs[first][1])


def _short(value: Any) -> str:  # noqa: ANN401 - what a golden may be
    if isinstance(value, list):
        return f"{len(value)} values"
    if isinstance(value, str):
        return value if len(value) <= _LETTERS else f"{value[:_LETTERS]}…"
    return f"{value:,}" if isinstance(value, int) else f"{value:.7g}"


_LETTERS = 10


def _tolerance(tolerance: Tolerance) -> str:
    if tolerance.measure is Measure.EXACT:
        return "exact"
    return f"{tolerance.bound:.0e} {_MEASURES[tolerance.measure]}"


_MEASURES = {Measure.ABSOLUTE: "abs", Measure.RELATIVE: "rel", Measure.LOG: "log"}


_MARKS = {
    Status.PASS: "ok",
    Status.FAIL: "DIFFERS",
    Status.NONFINITE: "NONFINITE",
    Status.NOT_RUN: "NOT RUN",
}


def _failure(row: Row) -> Section:
    known = row.details
    difference = "none" if known["difference"] is None else f"{known['difference']:.6g}"
    facts = [
        ("expected", str(known["expected"])),
        ("got", "nothing" if known["got"] is None else str(known["got"])),
        ("difference", f"{difference} (tolerance {_tolerance(known['tolerance'])})"),
        ("source", f"{known['source']} (grade {known['grade']})"),
        ("found", row.detail),
    ]
    return Section(
        title=f"{row.tap}: {row.status}",
        rows=[fact for fact in facts if fact[1]],
        folds=(1,),
        failed=True,
    )
