"""Reads reports back; rejects files that are no complete report of this schema."""

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
from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.progress import Progress

# Typed access to an untrusted JSON document.


_NAMES = {dict: "an object", list: "a list", str: "text", int: "a whole number"}


@dataclasses.dataclass(frozen=True)
class Document:
    """An object of a JSON file.

    Attributes:
        held: Its keys and values, of whatever types the file has.
        path: The file.
        place: Where in the file it stands, in words for an error; empty for the whole.
    """

    held: Mapping[str, Any]
    path: Path
    place: str = ""

    def refusal(self, what: str) -> InputRejectedError:
        """Return the error with which the file is refused."""
        return InputRejectedError(
            f"{self.path.name} is no report that can be compared: {what}",
            where=str(self.path),
            fix="make it again, with the same version of this program for every row: "
            "python -m parity.check VERB --fingerprints --output FILE.json",
        )

    def text(self, key: str) -> str:
        """Return a value that has to be text."""
        found: str = self._of(key, str)
        return found

    def whole(self, key: str) -> int:
        """Return a value that has to be a whole number."""
        found: int = self._of(key, int)
        return found

    def number(self, key: str) -> float | None:
        """Return a value that has to be a number, or null."""
        value = self.held.get(key)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise self.refusal(f"{self._named(key)} is no number")
        try:
            return float(value)
        except OverflowError:  # a whole number of more than 308 digits
            return math.inf

    def part(self, key: str) -> "Document":
        """Return a value that has to be an object."""
        return Document(self._of(key, dict), self.path, self._named(key))

    def parts(self, key: str) -> Iterator["Document"]:
        """Yield the entries of a list, which have to be objects."""
        for index, entry in enumerate(self._of(key, list)):
            place = f"{self._named(key)}[{index}]"
            if not isinstance(entry, dict):
                raise self.refusal(f"{place} is not an object")
            yield Document(entry, self.path, place)

    def sizes(self, key: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        found = self._of(key, list)
        if any(type(entry) is not int for entry in found):
            raise self.refusal(f"{self._named(key)} is no list of whole numbers")
        return tuple(found)

    def texts(self) -> dict[str, str]:
        """Return the object itself, whose values all have to be text."""
        return {key: self.text(key) for key in self.held}

    def _of(self, key: str, kind: type) -> Any:  # noqa: ANN401 - of the kind asked for
        if key not in self.held:
            raise self.refusal(f"it has no {self._named(key)}")
        value = self.held[key]
        if type(value) is not kind:
            raise self.refusal(f"{self._named(key)} is not {_NAMES[kind]}")
        return value

    def _named(self, key: str) -> str:
        return f"{self.place}.{key}" if self.place else key


# Fingerprints; those that cannot be compared are rejected.


_DIGEST = re.compile(rf"[0-9a-f]{{{DIGITS}}}")

_LARGEST = 1e150
"""Of a norm or a bucket: what is larger cannot be squared and added up."""

_ROUNDING = 1e-9
"""Room that sums of very many squares have, relative."""

_UNDERFLOW = 1e-150
"""The size of elements whose squares are lost, so that a norm does not know of them."""

_MOST = 1 << 62
"""Elements that a tensor may have."""


def read_fingerprints(whole: Document) -> Iterator[Fingerprint]:
    """Yield a report's fingerprints; a report without the list has none.

    Raises:
        InputRejectedError: One is not whole, comes twice, or cannot be of any tensor.
        ValueError: One holds something that is no sketch.
    """
    seen = set()
    for entry in whole.parts("fingerprints") if "fingerprints" in whole.held else ():
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
            raise entry.refusal(f"{entry.place} has the key of an earlier one")
        seen.add(key)
        _check(found, entry)
        yield found


def _check(found: Fingerprint, entry: Document) -> None:
    """Require a digest; and a norm and a sketch, or neither, that a change can be had from."""
    if not _DIGEST.fullmatch(found.digest):
        raise entry.refusal(f"{entry.place}.digest has not {DIGITS} hexadecimal digits")
    if min(found.shape, default=0) < 0 or math.prod(found.shape) > _MOST:
        raise entry.refusal(f"{entry.place}.shape is no shape of a tensor")
    if (found.norm is None) != (found.sketch == ""):
        raise entry.refusal(
            f"{entry.place} has a norm without a sketch, or a sketch without a norm"
        )
    if found.norm is not None:
        _check_sizes(found, found.norm, entry)


def _check_sizes(found: Fingerprint, norm: float, entry: Document) -> None:
    """Require a norm, and a sketch that a tensor of this norm can have.

    A bucket is a sum of elements with signs, so at most the root of their number times their norm.
    """
    if not 0.0 <= norm <= _LARGEST:
        raise entry.refusal(f"{entry.place} has a norm that is no finite number, or too large")
    room = norm * (1.0 + _ROUNDING) + _UNDERFLOW
    bound = min(math.sqrt(math.prod(found.shape)) * room, _LARGEST)
    if not bool(np.all(np.abs(decoded(found.sketch)) <= bound)):  # what is no number is not either
        raise entry.refusal(f"{entry.place} has a sketch that no tensor of its norm can have")


# Reports and runs.


@dataclasses.dataclass(frozen=True)
class Worst:
    """The worst number of a report, and where it is.

    Attributes:
        value: The number, infinite where one could not be had; None where there is none to be had.
        tap: Its tap.
    """

    value: float | None = None
    tap: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evidence:
    """One report.

    Attributes:
        check: The verb that made it.
        verdict: Its answer.
        environment: Versions and settings that it was made under.
        code: Version and digest of the code.
        about: What was compared: weights, config, inputs, and how much of it was planned. Only
            reports in which all of it is the same can be compared.
        float64: The largest error of a float64 row that is compared with the float64 bound.
        ratio: The largest ratio of our rounding to Hugging Face's.
        why: What kept it from being a pass.
        fingerprints: In network order; empty where none were asked for.
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
    """What one environment left: a report of each check.

    Attributes:
        label: The row's name.
        reports: By check; empty where the row was not run.
    """

    label: str
    reports: Mapping[str, Evidence]

    @property
    def environment(self) -> dict[str, str]:
        """What its reports were made under, the code included."""
        found: dict[str, str] = {}
        for report in self.reports.values():
            found = report.made_under | found
        return found


LARGEST = 128 << 20
"""Bytes of a report; that of training at full size with all fingerprints has a tenth."""

_OUTCOMES = {"ties", "not_run"}
"""Entries of `inputs` that a run found or left out; what was planned says the same."""

_LONGEST = 300
"""Characters of another report's words that are repeated."""


def read_report(path: Path) -> Evidence:
    """Return what a report says.

    Raises:
        InputRejectedError: It is no JSON, cut off, too large, or no report of this schema.
        ParityError: It cannot be opened.
    """
    whole = _document(path)
    try:
        return _evidence(whole)
    except (RecursionError, ValueError) as error:
        raise whole.refusal(str(error)) from error


def _document(path: Path) -> Document:
    """Return the file's object, once it says that it is a report of this schema."""
    with mapped_errors(), open_regular(path) as file:
        text = file.read(LARGEST + 1) or b""
    empty = Document({}, path)
    if len(text) > LARGEST:
        raise empty.refusal(f"it has more than {LARGEST:,} bytes")
    try:
        found = strict_io.load_strict_json(text)
    except ValueError as error:
        raise empty.refusal(f"it is no JSON, or not all of it: {error}") from error
    if not isinstance(found, dict) or "check" not in found:
        raise empty.refusal("it is JSON, but no report")
    document = Document(found, path)
    version = document.whole("schema_version")
    if version != SCHEMA_VERSION:
        raise document.refusal(
            f"its schema_version is {version}, this program reads {SCHEMA_VERSION}"
        )
    if document.text("check") == "drift":
        raise document.refusal("it is the answer of drift, not the evidence for one")
    return document


def _evidence(whole: Document) -> Evidence:
    identity, environment = whole.part("identity"), whole.part("environment").texts()
    packages = identity.part("packages").texts() if "packages" in identity.held else {}
    rows = list(whole.parts("results"))
    verdict = _verdict(whole, rows)
    return Evidence(
        check=whole.text("check"),
        verdict=verdict,
        environment=packages | environment,
        code=identity.text("code") if "code" in identity.held else "not stated",
        about=_about(whole, identity),
        float64=_worst_float64(rows),
        ratio=_worst((row, row.number("ratio")) for row in rows if row.number("ratio") is not None),
        why="" if verdict is Verdict.PASS else _why(whole)[:_LONGEST],
        fingerprints=tuple(read_fingerprints(whole)),
    )


def _verdict(whole: Document, rows: Sequence[Document]) -> Verdict:
    """Return the report's verdict, once the rest of the report agrees with it."""
    said, code = whole.text("verdict"), whole.whole("exit_code")
    if said not in set(Verdict):
        raise whole.refusal("its verdict is none")
    if code not in set(ExitCode) or verdict_for(ExitCode(code)) != said:
        raise whole.refusal(f"its verdict is {said}, and its exit_code {code}")
    against = _against(whole, rows) if said == Verdict.PASS else []
    if against:
        raise whole.refusal(f"its verdict is pass, and it says that {against[0]}")
    return Verdict(said)


def _against(whole: Document, rows: Sequence[Document]) -> list[str]:
    """Return what a report says that no pass can say."""
    plan = whole.part("plan")
    planned, compared = plan.whole("planned"), plan.whole("compared")
    failing = [row for row in rows if row.text("status") not in _HARMLESS]
    found = {
        f"{compared} of {planned} were compared": not planned == compared > 0,
        "there is a reason against it": any(whole.parts("reasons")),
        "the sides diverge": whole.held.get("first_divergence") is not None,
        **{f"{row.text('tap')} is {row.text('status')}": True for row in failing[:1]},
    }
    return [words for words, applies in found.items() if applies]


_HARMLESS = {Status.PASS, Status.NOT_RUN}
"""What a row of a passing report may be: what was planned and not run, the plan knows."""


def _about(whole: Document, identity: Document) -> dict[str, str]:
    """Return what was compared, a line each; the values as JSON, which tells 1 from "1"."""
    inputs = dict(whole.part("inputs").held)
    if "candidate_file" in inputs:  # its contents say which it is; elsewhere it has another path
        inputs.pop("candidate", None)
    parts: dict[str, Mapping[str, object]] = {"inputs": inputs}
    for name in ("config", "weights", "vocabulary"):
        if name in identity.held:
            parts[name] = identity.part(name).held
    kept = {
        f"{name}.{key}": json.dumps(value, sort_keys=True)
        for name, part in parts.items()
        for key, value in part.items()
        if key not in _OUTCOMES and _DECIDES.get(name, {key}) & {key}
    }
    planned = whole.part("plan").part("per_backend")
    return kept | {f"planned.{path}": str(planned.sizes(path)[:1]) for path in planned.held}


_DECIDES = {"weights": {"sha256", "dtype"}, "vocabulary": {"digest", "tokens"}}
"""Entries that say which weights and vocabulary; the others say where they came from."""


def _worst_float64(rows: list[Document]) -> Worst:
    """Return the largest error of those rows that are held to the bound of identity.

    The slopes of the gradients' check are measured by differences, and have a bound of their own.
    """
    held = [row for row in rows if row.text("mode") == Mode.FLOAT64]
    bound = Bounds().float64
    return _worst((row, row.number("error_ours")) for row in held if _bound(row) <= bound)


def _bound(row: Document) -> float:
    bound = row.number("bound")
    return math.inf if bound is None else bound


def _worst(numbers: Iterator[tuple[Document, float | None]]) -> Worst:
    """Return the largest number and its tap; one that could not be had is the largest."""
    found = [(math.inf if n is None else n, row.text("tap")) for row, n in numbers]
    return Worst(*max(found)) if found else Worst()


def _why(whole: Document) -> str:
    """Return what kept a report from being a pass, in its own words."""
    if whole.held.get("first_divergence") is not None:
        first = whole.part("first_divergence")
        return f"{first.text('tap')}: {first.text('why')}"
    return next((reason.text("what") for reason in whole.parts("reasons")), "it does not say why")


# Labels: the shortest end of a path that is unique.


def label_runs(paths: Sequence[Path]) -> list[str]:
    """Return a label for each path: a folder's name, a file's without its suffix.

    Where two would be called the same, the folders that they are in stand before it.

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
    return [_shortest(parts, named) for parts in named]


def _shortest(parts: tuple[str, ...], all_of_them: Sequence[tuple[str, ...]]) -> str:
    """Return the end of a path that no other path has."""
    length = next(
        length
        for length in range(1, len(parts) + 1)
        if sum(other[-length:] == parts[-length:] for other in all_of_them) == 1
    )
    return "/".join(parts[-length:])


# From paths to runs: a folder of reports, a file, or a folder of such folders.


def gather_reports(paths: Sequence[Path], expected: Sequence[str], progress: Progress) -> list[Run]:
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
        InputRejectedError: A file is no report, or two are of one check; or nobody can say whether
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
    for done, (label, place) in enumerate(zip(label_runs(places), places, strict=True)):
        progress(f"reading {label}", done, len(places))
        found.append(Run(label, _reports(place)))
    there = {row.label for row in found} | {place.name for place in places}
    absent = [name for name in dict.fromkeys(expected) if name not in there]
    return found + [Run(name, {}) for name in absent]


def _rows_in(path: Path, expected: Sequence[str]) -> list[Path]:
    """Return the rows that a path stands for."""
    if not path.exists():
        if path.name in expected:
            return [path]
        raise UsageError(
            "there is no such file or folder",
            where=str(path),
            fix="check the path; a row that may be missing has to be named by --require",
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
        raise InputRejectedError(
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


def _files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(place.glob("*.json"))
    elif place.exists():
        yield place
