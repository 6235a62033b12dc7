"""From paths to rows: a folder of reports, a file, or a folder of such folders."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from parity.drift.evidence import Evidence, EvidenceRow
from parity.drift.labels import labels
from parity.drift.reading import read
from parity.errors import InputRefusedError, UsageError
from scratch_gpt.command.progress import Progress


def gathered(
    paths: Sequence[Path], expected: Sequence[str], progress: Progress
) -> list[EvidenceRow]:
    """Return the rows in the order given, and behind them those that are expected and not there.

    Args:
        paths: A file is a row of one check. A folder of `*.json` is a row of them all. A folder
            that holds folders alone is as if these had been given: those that are expected, in that
            order, else all by their names and the numbers in them. One that is not there and is
            expected is a row without reports.
        expected: Names of rows, which have to be there.
        progress: Called for each file.

    Raises:
        UsageError: Nothing was given, or something that is not there and not expected.
        InputRefusedError: A file is no report, or two are of one check; or nobody can say whether
            a folder is a row or holds rows.
    """
    if not paths:
        raise UsageError(
            "there is nothing to lay side by side",
            where="rows",
            fix="give two or more reports, or folders of reports: drift A B",
        )
    places = [place for path in paths for place in _rows_in(path, expected)]
    found = []
    for done, (label, place) in enumerate(zip(labels(places), places, strict=True)):
        progress(f"reading {label}", done, len(places))
        found.append(EvidenceRow(label, _reports(place)))
    there = {row.label for row in found} | {place.name for place in places}
    absent = [name for name in dict.fromkeys(expected) if name not in there]
    return found + [EvidenceRow(name, {}) for name in absent]


def _rows_in(path: Path, expected: Sequence[str]) -> list[Path]:
    """Return the rows that a path stands for."""
    if not path.exists():
        if path.name in expected:
            return [path]
        raise UsageError(
            "there is no such file or folder",
            where=str(path),
            fix="check the path; a row that may be missing has to be named by --expect",
        )
    inside = _folders(path) if path.is_dir() else []
    if not path.is_dir() or any(path.glob("*.json")):
        _check_alone(path, [entry for entry in inside if any(entry.glob("*.json"))])
        return [path]
    meant = [entry for entry in inside if not expected or entry.name in expected]
    return sorted(meant, key=lambda entry: _rank(entry.name, expected)) or (
        [] if inside else [path]
    )


def _folders(path: Path) -> list[Path]:
    return [entry for entry in path.iterdir() if entry.is_dir() and entry.name[0] != "."]


def _check_alone(path: Path, others: Sequence[Path]) -> None:
    """Require of a row that it holds no other rows: they would go unread."""
    if others:
        raise InputRefusedError(
            "a folder with reports of its own and folders with reports: is it one row, or many?",
            where=f"{path}, with {', '.join(sorted(entry.name for entry in others))} in it",
            fix="move its own reports elsewhere, or give the folders that are meant one by one",
        )


def _rank(name: str, expected: Sequence[str]) -> tuple[int, list[tuple[int, str]]]:
    """Return what folders are sorted by; numbers count as numbers, 26 before 210."""
    place = list(expected).index(name) if name in expected else len(expected)
    return place, [(int(part or 0), word) for word, part in re.findall(r"(\D*)(\d*)", name)]


def _reports(place: Path) -> Mapping[str, Evidence]:
    """Return a row's reports by check, in the order of `python -m parity.check --help`."""
    found: dict[str, Evidence] = {}
    for file in _files(place):
        report = read(file)
        if report.check in found:
            raise InputRefusedError(
                f"two reports of {report.check} in one row",
                where=str(file),
                fix="keep one report of a check in a folder, and others in folders of their own",
            )
        found[report.check] = report
    return dict(sorted(found.items(), key=lambda entry: _ORDER.get(entry[0], len(_ORDER))))


_ORDER = {
    check: place
    for place, check in enumerate(
        ("weights", "tokens", "layerwise", "gradients", "training", "generation", "golden")
    )
}


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(place.glob("*.json"))
    elif place.exists():
        yield place
