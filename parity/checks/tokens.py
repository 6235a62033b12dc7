"""Do both tokenizers give the same ids?

Ours and a witness are given the same strings, and every id and place has to be equal. In `bert`
the witness is Hugging Face's tokenizer; in `original` it is a second telling of the release's code,
because Hugging Face's version 5 cannot split so any more. Where the vocabulary is the released
one, the ids that others published of it are a witness more.

A difference is made as short as it gets, and said with the first step at which the sides part.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from parity.errors import ExitCode
from parity.fingerprints import Fingerprints
from parity.knobs import environment
from parity.results import FirstDivergence, Plan, Reason, Report, verdict_for, worst
from parity.tokens.comparison import Comparison
from parity.tokens.rows import DifferenceRow
from parity.tokens.sides import Ours, Witness
from reference.published_token_ids import PublishedIds
from scratch_gpt.command.progress import Progress

EXEMPT: Mapping[str, Mapping[str, str]] = {
    "bert": {},
    "original": {
        "places in the text": "the release gives none; ours are places in the repaired text",
        "Hugging Face's tokenizer": "its version 5 has no such splitting, and 4 pads backslashes",
        "the ids of 2018": "spaCy 2.0 had other exceptions for English, and nobody kept the ids",
    },
}
"""What is not compared, whatever the witness, and why."""


def tokens(  # noqa: PLR0913 - a check's entry point; all but three have defaults
    ours: Ours,
    theirs: Witness,
    sources: Mapping[str, Sequence[str]],
    *,
    published: Sequence[PublishedIds] = (),
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    inputs: Mapping[str, Any] | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> Report:
    """Compare two tokenizers of one vocabulary.

    Args:
        ours: Our side.
        theirs: What it is held against.
        sources: Strings to compare, by the name of where they come from.
        published: Strings whose ids of this vocabulary were published.
        fingerprints: Whether the report holds those of each source's ids.
        identity: What the verdict says about vocabulary and code.
        inputs: What it says about the strings.
        progress: Called as the check goes on.

    Returns:
        A report; inconclusive where there was nothing to compare.
    """
    run = Comparison(ours, theirs, progress, Fingerprints(wanted=fingerprints))
    for name, strings in sources.items():
        run.source(name, strings)
    splitting = ours.tokenizer.splitting
    if published:
        run.published(published)
    planned = sum(map(len, sources.values())) + sum(
        getattr(row, splitting) is not None for row in published
    )
    reasons = _reasons(run)
    failed = any(row.error_ours for row in run.rows)
    code = worst([*(reason.code for reason in reasons), *([ExitCode.FAIL] if failed else [])])
    return Report(
        check="tokens",
        verdict=verdict_for(code),
        exit_code=code,
        identity=identity or {},
        environment=environment(),
        plan=_plan(run, planned, splitting),
        first_divergence=_first(run),
        results=[*run.rows, *run.differences],
        reasons=reasons,
        inputs=inputs or {},
        fingerprints=run.fingerprints.taken,
    )


def _reasons(run: Comparison) -> list[Reason]:
    """Return a reason for each source of which nothing but unknown tokens was compared.

    Whoever gives every character the unknown token agrees with anybody who does.
    """
    silent = [row.tap for row in run.rows if not row.error_ours and row.ids == row.unknown]
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


def _plan(run: Comparison, planned: int, splitting: str) -> Plan:
    """Return what was to be compared, by witness."""
    compared = sum(row.strings for row in run.rows)
    witnesses = dict.fromkeys(row.witness for row in run.rows)
    per_path = {
        name: (count, count)
        for name in witnesses
        for count in [sum(row.strings for row in run.rows if row.witness == name)]
    }
    exempt = [
        {"attention": run.theirs.name, "tap": what, "reason": why}
        for what, why in {**EXEMPT[splitting], **run.theirs.exempt}.items()
    ]
    return Plan(planned=planned, compared=compared, per_path=per_path, exempt=exempt)


def _first(run: Comparison) -> FirstDivergence | None:
    """Return the first difference with its cause."""
    first = next(iter(run.differences), None)
    if first is None:
        failing = next((row for row in run.rows if row.error_ours), None)
        if failing is None:
            return None
        why = "ids that were published are others, and both sides agree on them"
        return FirstDivergence(tap=failing.tap, why=why, suspects=_SUSPECT, row=failing)
    return FirstDivergence(
        tap=first.tap, why=_why(first), suspects=f"the step: {first.cause.step}", row=first
    )


_SUSPECT = "the vocabulary's files, or another version of what prepares text"


def _why(row: DifferenceRow) -> str:
    cause = row.cause
    return (
        f"{cause.why}: {cause.text} is {list(cause.ids_ours)}, and {list(cause.ids_theirs)} to the "
        f"witness ({cause.character})"
    )
