"""What must hold before a comparison is worth making."""

from parity import liveness, subjects
from parity.comparison import Comparison
from parity.errors import ExitCode, InconclusiveError, UsageError
from parity.results import Reason


def check_worthwhile(run: Comparison) -> list[Reason]:
    """Refuse a comparison that could not have a verdict.

    Returns:
        Reasons why one that can be made will not be a pass.

    Raises:
        InconclusiveError: Bounds too coarse, sides that share storage, nothing to compare.
        UsageError: A candidate that cannot be watched; a tap that does not exist.
    """
    run.bounds.check(run.precision)
    for model in run.candidates.values():
        subjects.check_candidate(model)
    subjects.check_apart(run.candidates, run.reference)
    _check_selection(run)
    return _constant(run)


def _check_selection(run: Comparison) -> None:
    if run.inputs.token_ids.numel() == 0:
        raise InconclusiveError(
            f"the batch is empty: token_ids is {list(run.inputs.token_ids.shape)}",
            where="token_ids",
            fix="give at least one token",
        )
    if not any(run.planned(attention) for attention in run.candidates):
        raise InconclusiveError(
            "no tap was selected, so nothing was compared",
            where=f"the pattern {run.select!r}",
            fix="patterns are matched against names such as h.3.mlp.gelu; quote the *",
        )
    if run.explainer.tap is not None and run.explainer.tap not in {t.name for t in run.plan}:
        raise UsageError(
            f"there is no tap {run.explainer.tap!r}",
            where="--explain",
            fix=f"taps are named like {run.plan[0].name}, h.3.mlp.gelu, logits",
        )


def _constant(run: Comparison) -> list[Reason]:
    """Return a reason if some weights hold one value throughout."""
    constant = liveness.constant_tensors(dict(run.reference.named_parameters()))
    if not constant:
        return []
    return [
        Reason(
            what=f"{len(constant)} tensors hold one value throughout and can hide faults",
            where=f"the weights: {', '.join(constant[:3])}",
            fix="compare on trained or surrogate weights: gains not 1, biases not 0",
            code=ExitCode.INCONCLUSIVE,
        )
    ]
