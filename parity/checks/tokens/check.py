"""The tokenizer check: compares two tokenizers of one vocabulary.

Ids and offsets of texts come first, then what else people use (`parity.checks.tokens.parts`).

With `huggingface` the reference is Hugging Face's tokenizer. With `original` it is an independent
re-implementation of the released code, because Hugging Face's version 5 has no such pretokenizer.
With the released vocabulary, published ids are compared too. A differing string is shortened, and
reported with the first step that differs.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from parity.checks.tokens.diagnosis import Cause, cause_of, encoded, part
from parity.checks.tokens.parts import Part, parts
from parity.checks.tokens.runners import (
    CandidateTokenizer,
    NotMadeError,
    Raised,
    ReferenceTokenizer,
    attempt,
)
from parity.core.environment import environment
from parity.core.fingerprints import Fingerprints
from parity.core.metrics import Status
from parity.core.results import FirstDivergence, Mode, Plan, Reason, Report, Row, Section, finish
from parity.errors import ExitCode
from reference.published_token_ids import PublishedIds
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.unicode import character_classes


@dataclasses.dataclass
class Counts:
    """Counts of one source; written to the details of its row.

    Attributes:
        ids: Number of the reference's ids.
        unknown: Number of those that are the unknown token.
        dropped: Characters that the pretokenizer removes: control characters, zero-width ones,
            soft hyphens; None in `original`, where ftfy removes them and does not report it.
        differing: Strings whose ids or offsets differ.
        places: Whether offsets were compared, not ids alone.
    """

    strings: int = 0
    characters: int = 0
    ids: int = 0
    unknown: int = 0
    dropped: int | None = 0
    differing: int = 0
    places: bool = True


TAKEN_APART = 40
"""Differing strings of one source whose cause is searched; the others are only counted."""

_AT_ONCE = 500
"""Strings of one batch."""

_IN_A_BATCH, _SHORT = 300, 500
"""Strings of one source in a batch, and characters of the longest."""

_PARTS_TAKEN_APART = 3
"""Differing inputs of a part whose cause is searched."""

_USED_AGAIN = 2_500
"""Strings of one source whose ids are decoded, too."""


class Comparison:
    """A comparison of two tokenizers in progress."""

    def __init__(
        self,
        ours: CandidateTokenizer,
        theirs: ReferenceTokenizer,
        progress: Progress,
        fingerprints: Fingerprints | None = None,
        taken_apart: int = TAKEN_APART,
    ) -> None:
        self.ours, self.theirs = ours, theirs
        self.fingerprints = fingerprints or Fingerprints()
        self.rows: list[Row] = []
        self.differences: list[Row] = []
        self.others: list[Row] = []
        self.texts: list[str] = []
        self.ids: list[tuple[int, ...]] = []
        self._progress, self._taken_apart = progress, taken_apart
        self._unknown = ours.tokenizer.vocabulary.ids[UNKNOWN]
        self._pretokenizer = ours.tokenizer.pretokenizer

    def source(self, name: str, strings: Sequence[str]) -> None:
        """Compare every string of a source."""
        counts, differing = Counts(), []
        ids: dict[str, list[Sequence[int]]] = {self.ours.name: [], self.theirs.name: []}
        for start in range(0, len(strings), _AT_ONCE):
            self._progress(name, start, len(strings))
            differing += self._compared(strings[start : start + _AT_ONCE], counts, ids)
        for side, texts in ids.items():
            self.fingerprints.take_ids(f"{side}/ids", name, texts)
        self.texts += [text for text in strings[:_IN_A_BATCH] if len(text) <= _SHORT]
        self.ids += map(tuple, ids[self.theirs.name][:_USED_AGAIN])
        self._close(
            name, self.theirs.name, counts, self._causes(name, differing[: self._taken_apart])
        )

    def other(self, part: Part) -> None:
        """Compare another use of the tokenizer."""
        self._progress(part.name, 0, 1)
        differing = [given for given in part.inputs if part.differs(given)]
        row = Row(
            tap=part.name,
            status=Status.FAIL if differing else Status.PASS,
            error_ours=float(len(differing)),
            required_tolerance=float(len(differing)),
            details={"inputs": len(part.inputs)},
            **_common(part.against),
        )
        self.others.append(row)
        causes = dict.fromkeys(
            map(part.cause, differing[: min(_PARTS_TAKEN_APART, self._taken_apart)]), 1
        )
        self._differences(part.name, part.against, causes)

    def published(self, rows: Iterable[PublishedIds]) -> None:
        """Compare our ids with published ones of the released vocabulary."""
        counts = Counts(places=False)
        causes: dict[Cause, int] = {}
        for row in rows:
            wanted = getattr(row, self._pretokenizer)
            if wanted is None:
                continue
            mine = attempt(self.ours.tokenizer.encode, row.text)
            self._count(row.text, wanted, counts)
            if mine != wanted:
                counts.differing += 1
                cause = Cause(
                    step="published",
                    why=f"our encode raises {mine.error}"
                    if isinstance(mine, Raised)
                    else "the ids that were published are others",
                    character="the text as it was published",
                    text=ascii(row.text),
                    ids_ours=() if isinstance(mine, Raised) else tuple(mine),
                    ids_theirs=tuple(wanted),
                )
                causes[cause] = 1
        self._close("published ids", "published", counts, causes)

    def _compared(
        self, strings: Sequence[str], counts: Counts, ids: Mapping[str, list[Sequence[int]]]
    ) -> list[str]:
        """Update the counts, append all ids, and return the strings that differ."""
        sides = encoded(self.ours, strings), encoded(self.theirs, strings)
        for kept, encodings in zip(ids.values(), sides, strict=True):
            kept += [encoding.ids for encoding in encodings]
        differing = []
        for text, mine, other in zip(strings, *sides, strict=True):
            self._count(text, other.ids, counts)
            counts.places &= other.offsets is not None
            if part(mine, other):
                counts.differing += 1
                differing.append(text)
        return differing

    def _count(self, text: str, ids: Sequence[int], counts: Counts) -> None:
        counts.strings += 1
        counts.characters += len(text)
        counts.ids += len(ids)
        counts.unknown += sum(number == self._unknown for number in ids)
        if self._pretokenizer == "original":
            counts.dropped = None
        elif counts.dropped is not None and not (text.isascii() and text.isprintable()):
            removed = character_classes().removed
            counts.dropped += sum(ord(character) in removed for character in text)

    def _close(self, name: str, against: str, counts: Counts, causes: Mapping[Cause, int]) -> None:
        """Add the row of a source, and one for each cause of its differences."""
        details = dataclasses.asdict(counts)
        wrong = float(details.pop("differing"))
        status = Status.FAIL if wrong else Status.PASS
        row = Row(tap=name, status=status, error_ours=wrong, details=details, **_common(against))
        self.rows.append(dataclasses.replace(row, required_tolerance=wrong))
        self._differences(name, against, causes)

    def _differences(self, name: str, against: str, causes: Mapping[Cause, int]) -> None:
        self.differences += [
            Row(
                tap=f"{name}/{cause.step}",
                status=Status.FAIL,
                detail=f"{cause.why}; {cause.character}" if cause.character else cause.why,
                details={"cause": cause, "strings": strings},
                **_common(against),
            )
            for cause, strings in causes.items()
        ]

    def _causes(self, name: str, differing: Sequence[str]) -> Mapping[Cause, int]:
        """Return the causes of differences, each with its number of strings."""
        found: dict[Cause, int] = {}
        for number, text in enumerate(differing):
            self._progress(f"{name}: taking differences apart", number, len(differing))
            cause = cause_of(text, self.ours, self.theirs)
            found[cause] = found.get(cause, 0) + 1
        return found


def _common(against: str) -> dict[str, Any]:
    """Return the fields that are equal in every row of a reference."""
    of_both = {"backend": against, "against": against}
    return {"dtype": "ids", "mode": Mode.EXACT, "bound": 0.0, **of_both}


NOT_COMPARED: Mapping[str, Mapping[str, str]] = {
    "huggingface": {},
    "original": {
        "places in the text": "the release gives none; ours are places in the repaired text",
        "Hugging Face's tokenizer": "its version 5 has no such splitting, and 4 pads backslashes",
        "the ids of 2018": "spaCy 2.0 had other exceptions, and its ids were not published",
    },
}
"""For each pretokenizer, what is not compared, and why."""


def tokens(  # noqa: PLR0913 - a check's entry point; all but three have defaults
    ours: CandidateTokenizer,
    theirs: ReferenceTokenizer,
    sources: Mapping[str, Sequence[str]],
    *,
    whole: bool = False,
    first_alone: bool = False,
    seed: int = 0,
    published: Sequence[PublishedIds] = (),
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Compare two tokenizers of one vocabulary; inconclusive if there was nothing to compare.

    Args:
        ours: Our side.
        theirs: The reference tokenizer.
        sources: Strings to compare, by source.
        whole: Whether everything that people use is compared, and not only these strings.
        first_alone: Whether the check ends at the first difference, and takes one string apart.
        seed: Of what is drawn beside the strings.
        published: Strings with published ids of this vocabulary.
        fingerprints: Whether the report has those of each source's ids.
        identity: Vocabulary and code, for the report.
        inputs: Description of the strings, for the report.
        progress: Called as the check goes on.
    """
    taken_apart = 1 if first_alone else TAKEN_APART
    run = Comparison(ours, theirs, progress, Fingerprints(wanted=fingerprints), taken_apart)
    for name, strings in sources.items():
        if not (first_alone and run.differences):
            run.source(name, strings)
    pretokenizer = ours.tokenizer.pretokenizer
    if published:
        run.published(published)
    for other in parts(ours, theirs, run.texts, run.ids, seed=seed, whole=whole):
        if first_alone and run.differences:
            break
        run.other(other)
    planned = sum(map(len, sources.values())) + sum(
        getattr(row, pretokenizer) is not None for row in published
    )
    reasons = _reasons(run)
    plan = _plan(run, planned, pretokenizer)
    tables = sections(run, plan.exempt, identity or {}, inputs or {})
    return finish(
        "tokens",
        rows=[*run.rows, *run.others, *run.differences],
        plan=plan,
        identity=identity,
        environment=environment(),
        reasons=reasons,
        first_divergence=_first(run),
        inputs=inputs or {},
        fingerprints=run.fingerprints.taken,
        sections=list(tables),
    )


def not_made(error: NotMadeError, inputs: Mapping[str, Any]) -> Report:
    """Return the report of a run whose tokenizer could not be made."""
    method, why = error.args
    row = Row(
        tap=f"{method}/exception",
        status=Status.FAIL,
        error_ours=1.0,
        required_tolerance=1.0,
        detail=why,
        **_common("documentation"),
    )
    return finish(
        "tokens",
        rows=[row],
        plan=Plan.of({"other inputs": (1, 1)}),
        environment=environment(),
        first_divergence=FirstDivergence(tap=row.tap, why=why, suspects="", row=row),
        inputs=inputs,
    )


def _reasons(run: Comparison) -> list[Reason]:
    """Return a reason for each source that gave only unknown tokens.

    Two tokenizers that map every character to the unknown token always agree.
    """
    silent = [
        row.tap
        for row in run.rows
        if row.status is Status.PASS and row.details["ids"] == row.details["unknown"]
    ]
    if not run.rows:
        silent = ["no source"]
    return [
        Reason(
            what=f"no token that is known was compared of {name}"
            if run.rows
            else "not one id was compared",
            where=name,
            fix="give text that has words in it, in the vocabulary's language",
            code=ExitCode.INCONCLUSIVE,
        )
        for name in silent
    ]


def _plan(run: Comparison, planned: int, pretokenizer: str) -> Plan:
    compared: dict[str, int] = {}
    for row in run.rows:
        kind = f"strings with {row.against}"
        compared[kind] = compared.get(kind, 0) + row.details["strings"]
    others = sum(row.details["inputs"] for row in run.others)
    compared["other inputs"] = others
    exempt = [
        {"backend": run.theirs.name, "tap": what, "reason": why}
        for what, why in {**NOT_COMPARED[pretokenizer], **run.theirs.exempt}.items()
    ]
    return Plan(
        planned=planned + others,
        compared=sum(compared.values()),
        per_backend={name: (count, count) for name, count in compared.items()},
        exempt=exempt,
    )


def _first(run: Comparison) -> FirstDivergence | None:
    first = next(iter(run.differences), None)
    if first is None:
        failing = next((row for row in run.rows if row.error_ours), None)
        if failing is None:
            return None
        why = "ids that were published are others, and both sides agree on them"
        return FirstDivergence(tap=failing.tap, why=why, suspects=_SUSPECT, row=failing)
    cause: Cause = first.details["cause"]
    of_ids = cause.ids_ours or cause.ids_theirs
    ours: list[object] = [*(cause.ids_ours if of_ids else cause.words_ours)]
    theirs: list[object] = [*(cause.ids_theirs if of_ids else cause.words_theirs)]
    of = f" ({cause.character})" if cause.character else ""
    why = f"{cause.why}: {cause.text} gives {ours}, and the reference has {theirs}{of}"
    return FirstDivergence(tap=first.tap, why=why, suspects=f"the step: {cause.step}", row=first)


_SUSPECT = "the vocabulary's files, or another version of what prepares text"


_SHOWN = 2
"""Differences of one source and step in the text report; the JSON report has all."""


def sections(
    run: Comparison,
    exempt: Sequence[Mapping[str, str]],
    identity: Mapping[str, Any],
    inputs: Mapping[str, Any],
) -> Iterator[Section]:
    """Yield vocabulary and strings, a line for each row, and differences with their cause."""
    yield Section(rows=list(_facts(identity, inputs)), folds=(1,))
    yield Section(
        columns=("source", "reference", *_COLUMNS, ""),
        rows=[_cells(row) for row in run.rows],
        right=range(2, 2 + len(_COLUMNS)),
        lines=[f"not compared, {entry['tap']}: {entry['reason']}" for entry in exempt],
    )
    yield Section(
        columns=("other use", "reference", "inputs", "mismatches", ""),
        rows=[
            [row.tap, row.against, f"{row.details['inputs']:,}", *_mismatches(row)]
            for row in run.others
        ],
        right=(2, 3),
    )
    for tap in dict.fromkeys(row.tap for row in run.differences):
        of_it = [row for row in run.differences if row.tap == tap]
        yield from map(_difference, of_it[:_SHOWN])
        if len(of_it) > _SHOWN:
            more = f"and {len(of_it) - _SHOWN} more of {tap}; --format json has them all"
            yield Section(lines=[more])


_COLUMNS = ("strings", "characters", "removed", "ids", "unknown", "mismatches")


def _cells(row: Row) -> list[str]:
    counts = row.details
    return [
        row.tap,
        row.against + ("" if counts["places"] else " (ids)"),
        f"{counts['strings']:,}",
        f"{counts['characters']:,}",
        "-" if counts["dropped"] is None else f"{counts['dropped']:,}",
        f"{counts['ids']:,}",
        f"{counts['unknown'] / counts['ids']:.2%}" if counts["ids"] else "-",
        *_mismatches(row),
    ]


def _mismatches(row: Row) -> list[str]:
    return [f"{row.error_ours or 0:,.0f}", "ok" if row.status is Status.PASS else "WRONG"]


def _facts(identity: Mapping[str, Any], inputs: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    vocabulary: Mapping[str, Any] = identity.get("vocabulary", {})
    yield "vocabulary", vocabulary.get("source", "unknown")
    if vocabulary:
        status = "as published" if vocabulary["released"] else "not the released one"
        added = f" ({vocabulary['added']:,} added)" if vocabulary["added"] else ""
        counts = f"{vocabulary['tokens']:,} tokens{added}, {vocabulary['merges']:,} merges"
        yield "", f"{counts}, digest {vocabulary['digest'][:16]}…, {status}"
        yield "", f"read from {', '.join(vocabulary['sha256'])}"
    yield "strings", ", ".join(f"{key} {value}" for key, value in inputs.items())
    packages = identity.get("packages", {})
    yield "environment", ", ".join(f"{name} {number}" for name, number in packages.items())


def _difference(row: Row) -> Section:
    """Return the section of a difference: step, shortest string, both sides' words and ids."""
    cause: Cause = row.details["cause"]
    sides = (cause.words_ours, cause.ids_ours), (cause.words_theirs, cause.ids_theirs)
    ours, theirs = (f"{' '.join(words)}  {list(ids) if ids else ''}" for words, ids in sides)
    facts = [
        ("why", cause.why),
        ("character", cause.character),
        ("shortest", cause.text),
        ("ours", ours),
        (row.against, theirs),
        ("strings", f"{row.details['strings']} of those that were shortened"),
    ]
    rows = [fact for fact in facts if fact[1].strip()]
    return Section(title=row.tap, failed=True, rows=rows, folds=(1,))
