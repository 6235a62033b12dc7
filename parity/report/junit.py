"""A report as JUnit XML, which continuous integration reads: a test case per tap and backend."""

import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree as ET

from parity.core.metrics import Status
from parity.core.results import Report, Row, Verdict, WrongOperation, difference_found
from parity.report.content import verdict_line


def render(report: Report) -> str:
    """Return the document. Its last case is the verdict, with the reasons that are not rows."""
    grouped: dict[str, dict[str, list[Row]]] = {}
    for row in report.results:
        grouped.setdefault(row.backend, {}).setdefault(row.tap, []).append(row)
    top = ET.Element("testsuites", {"name": "gpt1-parity"})
    wrong = {one.tap.partition(",")[0]: one for one in report.wrong}
    for backend, taps in grouped.items():
        suite = _suite(top, f"{report.check} {backend}")
        for tap, rows in taps.items():
            _compared(_case(suite, report, backend, tap), rows, wrong.get(tap))
        for entry in report.plan.exempt:
            if entry["backend"] == backend:
                skipped = _case(suite, report, backend, entry["tap"])
                ET.SubElement(skipped, "skipped", {"message": _xml(entry["reason"])})
    not_run: Mapping[str, str] = report.inputs.get("not_run", {})
    suite = _suite(top, f"{report.check} verdict")
    for backend, why in not_run.items():
        skipped = _case(suite, report, backend, "not run")
        ET.SubElement(skipped, "skipped", {"message": _xml(why)})
    _verdict(_case(suite, report, "report", "verdict"), report)
    if report.seconds is not None:
        top.set("time", f"{report.seconds:.3f}")
    for one in (top, *top):
        cases = list(one.iter("testcase"))
        one.set("tests", str(len(cases)))
        for outcome in ("failure", "error", "skipped"):
            count = sum(case.find(outcome) is not None for case in cases)
            one.set({"failure": "failures", "error": "errors"}.get(outcome, outcome), str(count))
    ET.indent(top)
    return f"<?xml version='1.0' encoding='utf-8'?>\n{ET.tostring(top, encoding='unicode')}\n"


def _suite(top: ET.Element, name: str) -> ET.Element:
    return ET.SubElement(top, "testsuite", {"name": _xml(name)})


def _case(suite: ET.Element, report: Report, backend: str, name: str) -> ET.Element:
    where = {"classname": _xml(f"parity.{report.check}.{backend}"), "name": _xml(name)}
    return ET.SubElement(suite, "testcase", where)


def _compared(case: ET.Element, rows: Sequence[Row], wrong: WrongOperation | None) -> None:
    """Add what was found at one tap of one backend."""
    failing = [row for row in rows if row.status is not Status.PASS]
    if not failing:
        return
    if all(row.status is Status.NOT_RUN for row in failing):
        ET.SubElement(case, "skipped", {"message": _xml(failing[0].detail or "not run")})
        return
    lines = [f"{row.mode} against {row.against}: {difference_found(row)}" for row in failing]
    if wrong is not None:
        place = wrong.place or "no operation takes its inputs"
        lines += [f"at {place}", wrong.diagnosis, wrong.fix and f"fix: {wrong.fix}"]
    failure = ET.SubElement(case, "failure", {"message": _xml(lines[0])})
    failure.text = _xml("\n".join(line for line in lines if line))


def _verdict(case: ET.Element, report: Report) -> None:
    line = f"{report.verdict.value.upper()}  {verdict_line(report)}"
    if report.verdict is Verdict.PASS:
        ET.SubElement(case, "system-out").text = _xml(line)
        return
    kind = "failure" if report.verdict is Verdict.FAIL else "error"
    found = ET.SubElement(case, kind, {"message": _xml(line)})
    reasons = [f"{one.what}\n  where  {one.where}\n  fix    {one.fix}" for one in report.reasons]
    found.text = _xml("\n".join(reasons))


def _xml(text: str) -> str:
    """Return text without the characters that no XML document may contain."""
    return re.sub("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text)
