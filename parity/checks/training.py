"""After optimizer steps, are the weights still the same?"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.layerwise import by_path, conclude, silent
from parity.compare import Status
from parity.comparison import Progress
from parity.explain import Explainer
from parity.fingerprints import Fingerprints
from parity.inputs import Inputs, digest
from parity.results import FirstDivergence, Mode, Report, Row
from parity.tolerances import PRECISIONS, Bounds, bounds_for
from parity.training.comparison import TrainingComparison
from parity.training.procedure import Procedure
from parity.training.reasons import reason, signs_of
from parity.training.recipe import FORMS, Recipe


def training(  # noqa: PLR0913 - as gradients
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    batches: Sequence[Tensor],
    *,
    parts: int = 2,
    dropout: bool = False,
    forms: Sequence[str] = tuple(FORMS),
    procedure: Procedure | None = None,
    dtype: str = "float32",
    select: str = "*",
    bounds: Bounds | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Train a candidate and Hugging Face's model on the same batches, and compare every step.

    Each form of the optimizer is a run of its own, from the same weights, its gradients clipped
    and its rate scheduled. Ours steps by `scratch_gpt.optimizer`, a batch in parts; Hugging Face's
    by the NumPy oracle in the released form and by `torch.optim.AdamW` in the other, the batch in
    one. Losses, gradients, moments and weights must agree in float64; in the dtype judged, the
    errors of gradients and weights to the float64 run must be no worse than Hugging Face's own.

    Args:
        candidate: As for `gradients`. It is copied, and not changed.
        reference: Hugging Face's model; copied likewise.
        batches: One `[rows time]` of ids for each step.
        parts: Into how many parts our side cuts a batch, and accumulates.
        dropout: Whether both drop, the same elements, with the probabilities of their configs.
        forms: Keys of `FORMS`.
        procedure: How our side trains; another has a fault.
        dtype: Dtype whose rounding is judged; with `float64` identity alone is.
        select: Pattern of the places to compare, such as `adamw.2.weight.*`.
        bounds: Other bounds than the dtype's own; refused if they could not tell a fault.
        fingerprints: Whether the report holds those of all tensors that are compared.
        identity: What the verdict says about weights, config and code.
        progress: Called as the steps go on.

    Raises:
        ParityError: The comparison could not be begun, or the settings were moved meanwhile.
    """
    made = tuple(batches)
    recipes = [Recipe(form=form, batches=made, parts=parts, dropout=dropout) for form in forms]
    run = TrainingComparison(
        candidates=by_path(candidate),
        reference=reference,
        inputs=Inputs(token_ids=made[0]),
        precision=PRECISIONS.get(dtype),
        modes=frozenset(
            {Mode.IDENTITY, Mode.PROPAGATED} if dtype in PRECISIONS else {Mode.IDENTITY}
        ),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(None),
        progress=progress or silent,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
        recipes=recipes,
        procedure=procedure or Procedure(),
    )
    report = conclude(run, identity or {}, check="training")
    return dataclasses.replace(
        report,
        plan=dataclasses.replace(report.plan, exempt=[]),
        inputs={
            **report.inputs,
            "ids": digest(made),  # of every step, and not of the first alone
            "steps": len(made),
            "parts": parts,
            "dropout": dropout,
        },
        first_divergence=_told(report.first_divergence, run.rows, recipes[0]),
    )


def _told(
    first: FirstDivergence | None, rows: Sequence[Row], recipe: Recipe
) -> FirstDivergence | None:
    """Return the first divergence with what it most likely comes from."""
    if first is None:
        return None
    row = first.row
    if row.status is not Status.FAIL or row.mode is not Mode.IDENTITY:
        return dataclasses.replace(first, suspects=_SUSPECTS.get(row.mode, ""))
    why = _WHY.format(row=row) if not row.detail else row.detail
    suspects = reason(signs_of(row, rows, peak=recipe.peak))
    return dataclasses.replace(first, why=why, suspects=suspects)


_WHY = (
    "in float64 it differs from the {row.witness}'s by {row.error_ours:.2g} of its size; right "
    "code stays within {row.bound:g}"
)
_SUSPECTS = {
    Mode.IDENTITY: "a run that broke off, or a tensor of another shape or type",
    Mode.PROPAGATED: "arithmetic in a narrower type than the parameters'; moments that are rounded",
}
