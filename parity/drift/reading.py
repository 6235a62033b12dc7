"""Reading a report back: what is no report of ours, whole and of this schema, is refused."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from parity.compare import Status
from parity.drift.document import Document
from parity.drift.evidence import Evidence, Worst
from parity.drift.reading_fingerprints import fingerprints
from parity.errors import ExitCode
from parity.refusals import coded
from parity.results import SCHEMA_VERSION, Mode, Verdict, verdict_for
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
        identity=_worst_identity(rows),
        ratio=_worst((row, row.number("ratio")) for row in rows if row.number("ratio") is not None),
        why="" if verdict is Verdict.PASS else _why(whole)[:_LONGEST],
        fingerprints=tuple(fingerprints(whole)),
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
