"""Reads reports; rejects files that are not complete reports of this schema."""

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from parity.core.fingerprints import DIGITS, Fingerprint, decoded
from parity.core.metrics import Status
from parity.core.results import SCHEMA_VERSION, Mode, Verdict, verdict_for
from parity.core.tolerances import Bounds
from parity.errors import ExitCode, InputRejectedError, UsageError, mapped_errors
from parity.options import LARGEST_REPORT
from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.progress import Progress

# Typed access to an untrusted JSON document.


_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


@dataclasses.dataclass(frozen=True)
class Document:
    """An object of a JSON file; `place` is its place in the file, empty for the whole."""

    values: Mapping[str, Any]
    path: Path
    place: str = ""

    def error(self, what: str) -> InputRejectedError:
        """Return the error that rejects the file."""
        return InputRejectedError(
            f"{self.path.name} is no report that can be compared: {what}",
            where=str(self.path),
            fix="make it again, with the same version of this program for every row: "
            "python -m parity.check VERB --fingerprints --output FILE.json",
        )

    def text(self, key: str) -> str:
        """Return a string."""
        found: str = self._of(key, str)
        return found

    def whole(self, key: str) -> int:
        """Return a whole number."""
        found: int = self._of(key, int)
        return found

    def number(self, key: str) -> float | None:
        """Return a number, or None for null or no value."""
        value = self.values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise self.error(f"{self._named(key)} is no number")
        try:
            return float(value)
        except OverflowError:  # a whole number of more than 308 digits
            return math.inf

    def part(self, key: str) -> "Document":
        """Return an object."""
        return Document(self._of(key, dict), self.path, self._named(key))

    def parts(self, key: str) -> Iterator["Document"]:
        """Yield the objects of a list."""
        for index, entry in enumerate(self._of(key, list)):
            place = f"{self._named(key)}[{index}]"
            if not isinstance(entry, dict):
                raise self.error(f"{place} is not an object")
            yield Document(entry, self.path, place)

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        found = self._of(key, list)
        if any(type(entry) is not int for entry in found):
            raise self.error(f"{self._named(key)} is no list of whole numbers")
        return tuple(found)

    def texts(self) -> dict[str, str]:
        """Return the object itself, whose values are all strings."""
        return {key: self.text(key) for key in self.values}

    def _of(self, key: str, kind: type) -> Any:  # noqa: ANN401 - of the given kind
        if key not in self.values:
            raise self.error(f"it has no {self._named(key)}")
        value = self.values[key]
        if type(value) is not kind:
            raise self.error(f"{self._named(key)} is not {_NAMES[kind]}")
        return value

    def _named(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key


# Fingerprints; those that cannot be compared are rejected.


_DIGEST = re.compile(rf"[0-9a-f]{{{DIGITS}}}")

_LARGEST = 1e150
"""Of a norm or a bucket: the squares of larger numbers overflow."""

_ROUNDING = 1e-9
"""Relative rounding of sums of very many squares."""

_UNDERFLOW = 1e-150
"""Squares of smaller elements underflow, so a norm does not contain them."""

_MOST = 1 << 62
"""Elements of a tensor, at most."""

_MOST_AXES = 64


def read_fingerprints(whole: Document) -> Iterator[Fingerprint]:
    """Yield a report's fingerprints; a report without the list has none.

    Raises:
        InputRejectedError: One is incomplete, occurs twice, or cannot be of any tensor.
        ValueError: A sketch cannot be decoded.
    """
    seen = set()
    for entry in whole.parts("fingerprints") if "fingerprints" in whole.values else ():
        found = Fingerprint(
            subject=entry.text("subject"),
            dtype=entry.text("dtype"),
            mode=entry.text("mode"),
            tap=entry.text("tap"),
            shape=entry.sizes("shape"),
            digest=entry.text("digest"),
            norm=entry.number("norm"),
            sketch=entry.text("sketch"),
        )
        key = (found.subject, found.dtype, found.mode, found.tap)
        if key in seen:
            raise entry.error(f"{entry.place} has the key of an earlier one")
        seen.add(key)
        _check(found, entry)
        yield found


def _check(found: Fingerprint, entry: Document) -> None:
    """Require a digest, a shape, and a norm and a sketch or neither."""
    if not _DIGEST.fullmatch(found.digest):
        raise entry.error(f"{entry.place}.digest has not {DIGITS} hexadecimal digits")
    shape = found.shape
    if len(shape) > _MOST_AXES or min(shape, default=0) < 0 or math.prod(shape) > _MOST:
        raise entry.error(f"{entry.place}.shape is no shape of a tensor")
    if (found.norm is None) != (found.sketch == ""):
        raise entry.error(f"{entry.place} has a norm without a sketch, or a sketch without a norm")
    if found.norm is None:
        return
    if not 0.0 <= found.norm <= _LARGEST:
        raise entry.error(f"{entry.place} has a norm that is no finite number, or too large")
    # A bucket is a sum of elements with signs: at most the root of their number times their norm.
    largest = found.norm * (1.0 + _ROUNDING) + _UNDERFLOW
    bound = min(math.sqrt(math.prod(found.shape)) * largest, _LARGEST)
    if not bool(np.all(np.abs(decoded(found.sketch)) <= bound)):  # written so that NaN is rejected
        raise entry.error(f"{entry.place} has a sketch that no tensor of its norm can have")


# Reports and runs.


@dataclasses.dataclass(frozen=True)
class Worst:
    """The worst number of a report, and its tap.

    The value is infinite if a number is missing, and None if the report has no such rows.
    """

    value: float | None = None
    tap: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """One report.

    Attributes:
        environment: Versions and settings.
        about: Weights, config, inputs and planned comparisons. Only reports that agree in all of
            them can be compared.
        float64: The largest error of a float64 row that is compared with the float64 bound.
        ratio: The largest ratio of our rounding to Hugging Face's.
        why: Why it is not a pass.
        fingerprints: In network order; empty without `--fingerprints`.
    """

    check: str
    verdict: Verdict
    environment: Mapping[str, str]
    code: str
    about: Mapping[str, str]
    float64: Worst = Worst()
    ratio: Worst = Worst()
    why: str = ""
    fingerprints: Sequence[Fingerprint] = ()

    @property
    def made_under(self) -> dict[str, str]:
        """Versions and settings, and the code."""
        return {**self.environment, "code": self.code}


@dataclasses.dataclass(frozen=True)
class Run:
    """The reports of one environment, by check; without reports it was not run."""

    label: str
    reports: Mapping[str, Evidence]

    @property
    def environment(self) -> dict[str, str]:
        """Versions, settings and code of its reports."""
        found: dict[str, str] = {}
        for report in self.reports.values():
            found = report.made_under | found
        return found


_OUTCOMES = {"ties", "not_run"}
"""Entries of `inputs` that are results of a run."""

_LONGEST = 300
"""Characters that are quoted from a report, at most."""


def read_report(path: Path) -> Evidence:
    """Return a report.

    Raises:
        InputRejectedError: It is not JSON, cut off, too large, or not a report of this schema.
        ParityError: It cannot be opened.
    """
    whole = _document(path)
    try:
        return _evidence(whole)
    except (RecursionError, ValueError) as error:
        raise whole.error(str(error)) from error


def _document(path: Path) -> Document:
    """Return the file's object, if it is a report of this schema."""
    with mapped_errors(), open_regular(path) as file:
        text = file.read(LARGEST_REPORT + 1) or b""
    empty = Document({}, path)
    if len(text) > LARGEST_REPORT:
        raise empty.error(f"it has more than {LARGEST_REPORT:,} bytes")
    try:
        found = strict_io.load_strict_json(text)
    except ValueError as error:
        raise empty.error(f"it is no JSON, or not all of it: {error}") from error
    if not isinstance(found, dict) or "check" not in found:
        raise empty.error("it is JSON, but no report")
    document = Document(found, path)
    version = document.whole("schema_version")
    if version != SCHEMA_VERSION:
        raise document.error(
            f"its schema_version is {version}, this program reads {SCHEMA_VERSION}"
        )
    if document.text("check") == "drift":
        raise document.error("it is the answer of drift, not the evidence for one")
    return document


def _evidence(whole: Document) -> Evidence:
    identity, environment = whole.part("identity"), whole.part("environment").texts()
    packages = identity.part("packages").texts() if "packages" in identity.values else {}
    rows = list(whole.parts("results"))
    verdict = _verdict(whole, rows)
    return Evidence(
        check=whole.text("check"),
        verdict=verdict,
        environment=packages | environment,
        code=identity.text("code") if "code" in identity.values else "not stated",
        about=_about(whole, identity),
        float64=_worst_float64(rows),
        ratio=_worst((row, row.number("ratio")) for row in rows if row.number("ratio") is not None),
        why="" if verdict is Verdict.PASS else _why(whole)[:_LONGEST],
        fingerprints=tuple(read_fingerprints(whole)),
    )


def _verdict(whole: Document, rows: Sequence[Document]) -> Verdict:
    """Return the report's verdict, if the rest of the report agrees with it."""
    verdict, code = whole.text("verdict"), whole.whole("exit_code")
    if verdict not in set(Verdict):
        raise whole.error("its verdict is none")
    if code not in set(ExitCode) or verdict_for(ExitCode(code)) != verdict:
        raise whole.error(f"its verdict is {verdict}, and its exit_code {code}")
    contradiction = _contradiction(whole, rows) if verdict == Verdict.PASS else ""
    if contradiction:
        raise whole.error(f"its verdict is pass, but {contradiction}")
    return Verdict(verdict)


def _contradiction(whole: Document, rows: Sequence[Document]) -> str:
    """Return the first content that a passing report cannot have; empty without any."""
    plan = whole.part("plan")
    planned, compared = plan.whole("planned"), plan.whole("compared")
    # A row that was planned and not run counts in the plan.
    harmless = {Status.PASS, Status.NOT_RUN}
    failing = [row for row in rows if row.text("status") not in harmless]
    found = {
        f"{compared} of {planned} were compared": not planned == compared > 0,
        "there is a reason against it": any(whole.parts("reasons")),
        "the sides diverge": whole.values.get("first_divergence") is not None,
        **{f"{row.text('tap')} is {row.text('status')}": True for row in failing[:1]},
    }
    return next((words for words, applies in found.items() if applies), "")


def _about(whole: Document, identity: Document) -> dict[str, str]:
    """Return what was compared, by name; the values as JSON, in which 1 and "1" differ."""
    inputs = dict(whole.part("inputs").values)
    for name in ("candidate", "map"):
        if f"{name}_file" in inputs:  # the contents identify it, the path does not
            inputs.pop(name, None)
    parts: dict[str, Mapping[str, object]] = {"inputs": inputs}
    for name in ("config", "weights", "vocabulary"):
        if name in identity.values:
            parts[name] = identity.part(name).values
    kept = {
        f"{name}.{key}": json.dumps(value, sort_keys=True)
        for name, part in parts.items()
        for key, value in part.items()
        if key not in _OUTCOMES and _DECIDES.get(name, {key}) & {key}
    }
    planned = whole.part("plan").part("per_backend")
    return kept | {f"planned.{path}": str(planned.sizes(path)[:1]) for path in planned.values}


_DECIDES = {"weights": {"sha256", "dtype"}, "vocabulary": {"digest", "tokens"}}
"""Entries that identify weights and vocabulary; the others are their origin."""


def _worst_float64(rows: list[Document]) -> Worst:
    """Return the largest error of the rows with the float64 bound.

    The slopes of the gradients' check have a larger bound of their own.
    """

    def has_its_bound(row: Document) -> bool:
        bound = row.number("bound")
        return bound is not None and bound <= Bounds().float64

    found = [row for row in rows if row.text("mode") == Mode.FLOAT64 and has_its_bound(row)]
    return _worst((row, row.number("error_ours")) for row in found)


def _worst(numbers: Iterator[tuple[Document, float | None]]) -> Worst:
    """Return the largest number and its tap; a missing number is the largest."""
    found = [(math.inf if n is None else n, row.text("tap")) for row, n in numbers]
    return Worst(*max(found)) if found else Worst()


def _why(whole: Document) -> str:
    """Return why a report is not a pass, in its own words."""
    if whole.values.get("first_divergence") is not None:
        first = whole.part("first_divergence")
        return f"{first.text('tap')}: {first.text('why')}"
    return next((reason.text("what") for reason in whole.parts("reasons")), "it does not say why")


def label_runs(paths: Sequence[Path]) -> list[str]:
    """Return a label for each path: the shortest unique end of it, a file's without its suffix.

    Raises:
        UsageError: A path is given twice.
    """
    places = [path.resolve() for path in paths]
    for place, count in Counter(places).items():
        if count > 1:
            raise UsageError(
                "the same report was given twice",
                where=str(place),
                fix="give each file or folder once",
            )
    named = [
        (*place.parent.parts, place.stem if place.is_file() else place.name) for place in places
    ]
    if len(set(named)) < len(named):  # a file `a.json` beside a folder `a`
        named = [place.parts for place in places]
    return [
        next(
            "/".join(parts[-length:])
            for length in range(1, len(parts) + 1)
            if sum(other[-length:] == parts[-length:] for other in named) == 1
        )
        for parts in named
    ]


def gather_reports(paths: Sequence[Path], expected: Sequence[str], progress: Progress) -> list[Run]:
    """Return the runs in the given order, and after them the expected ones that are missing.

    Args:
        paths: A file is a run of one check. A folder of `*.json` is a run. A folder of folders
            stands for these: the expected ones in that order, or all by their names and the numbers
            in them. A missing path that is expected is a run without reports.
        expected: Names of runs that are required.
        progress: Called for each file.

    Raises:
        UsageError: No path was given, or a path does not exist and is not expected.
        InputRejectedError: A file is not a report, a run has two reports of one check, or a folder
            has both reports and folders with reports.
    """
    if not paths:
        raise UsageError(
            "there is nothing to compare",
            where="rows",
            fix="give two or more reports, or folders of reports: drift A B",
        )
    places = [place for path in paths for place in _rows_in(path, expected)]
    found = []
    for done, (label, place) in enumerate(zip(label_runs(places), places, strict=True)):
        progress(f"reading {label}", done, len(places))
        found.append(Run(label, _reports(place)))
    there = {row.label for row in found} | {place.name for place in places}
    absent = [name for name in dict.fromkeys(expected) if name not in there]
    return found + [Run(name, {}) for name in absent]


def _rows_in(path: Path, expected: Sequence[str]) -> list[Path]:
    """Return the paths of the runs that a path stands for."""
    if not path.exists():
        if path.name in expected:
            return [path]
        raise UsageError(
            "there is no such file or folder",
            where=str(path),
            fix="check the path; a row that may be missing has to be named by --require",
        )
    entries = path.iterdir() if path.is_dir() else ()
    inside = [entry for entry in entries if entry.is_dir() and entry.name[0] != "."]
    if not path.is_dir() or any(path.glob("*.json")):
        if others := sorted(entry.name for entry in inside if any(entry.glob("*.json"))):
            raise InputRejectedError(
                "it has reports of its own and folders with reports: is it one row, or many?",
                where=f"{path}, with {', '.join(others)} in it",
                fix="move its own reports elsewhere, or give the folders that are meant one by one",
            )
        return [path]
    meant = [entry for entry in inside if not expected or entry.name in expected]
    return sorted(meant, key=lambda entry: _rank(entry.name, expected)) or (
        [] if inside else [path]
    )


def _rank(name: str, expected: Sequence[str]) -> tuple[int, list[tuple[int, str]]]:
    """Return the sort key of a folder, in which 26 comes before 210."""
    place = list(expected).index(name) if name in expected else len(expected)
    return place, [(int(part or 0), word) for word, part in re.findall(r"(\D*)(\d*)", name)]


def _reports(place: Path) -> Mapping[str, Evidence]:
    """Return a run's reports by check, in the order of `python -m parity.check --help`."""
    found: dict[str, Evidence] = {}
    alone = place.exists() and not place.is_dir()
    for file in [place] if alone else sorted(place.glob("*.json")):
        report = read_report(file)
        if report.check in found:
            raise InputRejectedError(
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
