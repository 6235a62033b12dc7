"""From rows to a verdict: what was planned, what was compared, and where the sides part first."""

from collections.abc import Mapping, Sequence

from parity.compare import Status
from parity.errors import ExitCode
from parity.liveness import BlockLife
from parity.results import FirstDivergence, Mode, Plan, Reason, Row, worst
from parity.taps import Tap, exempt, never_formed

_NOT_COMPARED = (Status.MISSING, Status.NOT_RUN)
_DECIDING_ORDER = (Mode.IDENTITY, Mode.ISOLATED, Mode.PROPAGATED)
"""float64 says what is wrong; isolated points at the one bad operation; propagated comes last."""


def count(
    plan: Mapping[str, Sequence[Tap]], rows: Sequence[Row], *, n_layer: int, time: int
) -> Plan:
    """Return how many taps were planned on each path, and of how many every row was compared."""
    incomplete = {(row.attention, row.tap) for row in rows if row.status in _NOT_COMPARED}
    compared = {(row.attention, row.tap) for row in rows} - incomplete
    per_path = {
        attention: (len(taps), sum((attention, tap.name) in compared for tap in taps))
        for attention, taps in plan.items()
    }
    left_out = [
        {"attention": attention, "tap": tap, "reason": why}
        for attention in plan
        for tap, why in (never_formed(attention, n_layer) | exempt(time)).items()
    ]
    return Plan(
        planned=sum(planned for planned, _ in per_path.values()),
        compared=sum(done for _, done in per_path.values()),
        per_path=per_path,
        exempt=left_out,
    )


def first_divergence(
    plan: Mapping[str, Sequence[Tap]], rows: Sequence[Row]
) -> FirstDivergence | None:
    """Return the first failing tap in network order; None where every row passes.

    The modes are asked in the order in which they can be trusted to point.
    """
    # The path that forms the most knows where each tap stands.
    paths = sorted(plan.values(), key=len, reverse=True)
    suspects = {tap.name: tap.kind.suspects for taps in paths for tap in taps}
    place = {name: at for at, name in enumerate(suspects)}
    for mode in _DECIDING_ORDER:
        failing = [row for row in rows if row.mode is mode and row.status is not Status.PASS]
        if failing:
            row = min(failing, key=lambda row: place.get(row.tap, len(place)))
            return FirstDivergence(
                tap=row.tap, why=_why(row), suspects=suspects.get(row.tap, ""), row=row
            )
    return None


def first_exact_difference(rows: Sequence[Row]) -> FirstDivergence | None:
    """Return the first tensor that is not the source's, in the order of the rows."""
    failing = next((row for row in rows if row.status is not Status.PASS), None)
    if failing is None:
        return None
    return FirstDivergence(
        tap=failing.tap,
        why=_why(failing),
        suspects="a transposed, swapped or cast tensor; a name that the mapping does not have",
        row=failing,
    )


def _why(row: Row) -> str:
    """Return what was found, in one phrase with its numbers."""
    if row.status is not Status.FAIL:
        return f"{row.status}: {row.detail}" if row.detail else row.status.value
    if row.minimum_tolerance is None:
        return f"its error to the {row.witness} is no finite number"
    if row.mode is Mode.EXACT:
        return f"{row.error_ours:,.0f} of its elements differ from the {row.witness}'s"
    if row.mode is Mode.IDENTITY:
        return (
            f"in float64 it differs from the {row.witness} by {row.error_ours:.2g} of its RMS; "
            f"right code stays within {row.bound:g}"
        )
    return (
        f"in {row.dtype} ({row.mode}) its error to the oracle is {row.ratio:.3g} times "
        f"Hugging Face's; the bound is {row.bound:g}"
    )


def exit_code(
    counted: Plan, rows: Sequence[Row], reasons: Sequence[Reason], blocks: Sequence[BlockLife]
) -> tuple[ExitCode, list[Reason]]:
    """Return the exit code, and every reason why there is no pass beside the rows' own."""
    found = [*reasons, *_dead(blocks)]
    codes = [reason.code for reason in found]
    if counted.compared == 0:
        found.append(_nothing_compared(counted))
        # Whatever is missing then is missing throughout: no difference was seen.
        return worst([*codes, ExitCode.INCONCLUSIVE]), found
    if any(row.status not in (Status.PASS, Status.NOT_RUN) for row in rows):
        codes.append(ExitCode.FAIL)
    if counted.compared != counted.planned:
        codes.append(ExitCode.INCONCLUSIVE)
    return worst(codes), found


def _nothing_compared(counted: Plan) -> Reason:
    return Reason(
        what="nothing was compared",
        where=f"{counted.planned} taps were planned",
        fix="check that the model shows its taps under the names of parity/taps.py",
        code=ExitCode.INCONCLUSIVE,
    )


def _dead(blocks: Sequence[BlockLife]) -> list[Reason]:
    dead = [sign for block in blocks if (sign := block.dead) is not None]
    if not dead:
        return []
    return [
        Reason(
            what="the model is dead at depth: faults inside such a block do not show",
            where="; ".join(dead[:3]),
            fix="compare on trained or surrogate weights, and on ids that differ",
            code=ExitCode.INCONCLUSIVE,
        )
    ]
