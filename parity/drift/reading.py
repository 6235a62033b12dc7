"""Reading a report back: what is no report of ours, whole and of this schema, is refused."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from parity.drift.document import Document
from parity.drift.evidence import Evidence, Worst
from parity.fingerprints import Fingerprint
from parity.refusals import coded
from parity.results import SCHEMA_VERSION, Mode, Verdict
from parity.sketch import decoded
from parity.tolerances import Bounds
from scratch_gpt.files import strict_json
from scratch_gpt.files.regular_file import opened

LARGEST = 128 << 20
"""Bytes of a report; that of training at full size with all fingerprints has a tenth."""

_OUTCOMES = {"ties", "not_run"}
"""Entries of `inputs` that a run found or left out; what was planned says the same."""

_LONGEST = 300
"""Characters of another report's words that are repeated."""


def read(path: Path) -> Evidence:
    """Return what a report says.

    Raises:
        InputRefusedError: It is no JSON, cut off, too large, or no report of this schema.
        ParityError: It cannot be opened.
    """
    whole = _document(path)
    try:
        return _evidence(whole)
    except (RecursionError, ValueError) as error:
        raise whole.refusal(str(error)) from error


def _document(path: Path) -> Document:
    """Return the file's object, once it says that it is a report of this schema."""
    with coded(), opened(path) as file:
        text = file.read(LARGEST + 1) or b""
    empty = Document({}, path)
    if len(text) > LARGEST:
        raise empty.refusal(f"it has more than {LARGEST:,} bytes")
    try:
        found = strict_json.loads(text)
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
    verdict = whole.text("verdict")
    if verdict not in set(Verdict):
        raise whole.refusal("its verdict is none")
    identity, environment = whole.part("identity"), whole.part("environment").texts()
    packages = identity.part("packages").texts() if "packages" in identity.held else {}
    rows = list(whole.parts("results"))
    return Evidence(
        check=whole.text("check"),
        verdict=Verdict(verdict),
        environment=packages | environment,
        code=identity.text("code") if "code" in identity.held else "not stated",
        about=_about(whole, identity),
        identity=_worst_identity(rows),
        ratio=_worst((row, row.number("ratio")) for row in rows if row.number("ratio") is not None),
        why="" if verdict == Verdict.PASS else _why(whole)[:_LONGEST],
        fingerprints=tuple(_fingerprints(whole)) if "fingerprints" in whole.held else (),
    )


def _about(whole: Document, identity: Document) -> dict[str, str]:
    """Return what was compared, a line each; the values as JSON, which tells 1 from "1"."""
    parts: dict[str, Mapping[str, object]] = {"inputs": whole.part("inputs").held}
    for name in ("config", "weights", "vocabulary"):
        if name in identity.held:
            parts[name] = identity.part(name).held
    kept = {
        f"{name}.{key}": json.dumps(value, sort_keys=True)
        for name, part in parts.items()
        for key, value in part.items()
        if key not in _OUTCOMES and _DECIDES.get(name, {key}) & {key}
    }
    planned = whole.part("plan").part("per_path")
    return kept | {f"planned.{path}": str(planned.sizes(path)[:1]) for path in planned.held}


_DECIDES = {"weights": {"sha256", "dtype"}, "vocabulary": {"digest", "tokens"}}
"""Entries that say which weights and vocabulary; the others say where they came from."""


def _worst_identity(rows: list[Document]) -> Worst:
    """Return the largest error of those rows that are held to the bound of identity.

    The slopes of the gradients' check are measured by differences, and have a bound of their own.
    """
    held = [row for row in rows if row.text("mode") == Mode.IDENTITY]
    bound = Bounds().identity
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


def _fingerprints(whole: Document) -> Iterator[Fingerprint]:
    seen = set()
    for entry in whole.parts("fingerprints"):
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
    """Require a norm and a sketch, or neither, that a change can be estimated from."""
    if (found.norm is None) != (found.sketch == ""):
        raise entry.refusal(
            f"{entry.place} has a norm without a sketch, or a sketch without a norm"
        )
    if found.norm is None:
        return
    sums = decoded(found.sketch)
    if not (math.isfinite(found.norm) and found.norm >= 0 and all(map(math.isfinite, sums))):
        raise entry.refusal(f"{entry.place} has a norm or a sketch that is no finite number")
