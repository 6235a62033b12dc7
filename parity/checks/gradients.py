"""Does every parameter's and every tap's gradient agree?"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.layerwise import by_path, conclude, silent
from parity.compare import Status
from parity.comparison import Progress
from parity.explain import Explainer
from parity.fingerprints import Fingerprints
from parity.gradients.comparison import GradientComparison
from parity.inputs import Inputs
from parity.results import FirstDivergence, Mode, Report
from parity.taps import never_formed
from parity.tolerances import FEWEST_PREDICTIONS, PRECISIONS, Bounds, bounds_for


def gradients(  # noqa: PLR0913 - as layerwise
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
    dtype: str = "float32",
    select: str = "*",
    bounds: Bounds | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a candidate's gradients with Hugging Face's, from the loss back to the embeddings.

    The loss is the mean next-token loss over all real tokens that are predicted. In float64 the
    gradients of every tap and parameter must be Hugging Face's, and those of the parameters
    must have the slope of the oracle's loss; in the dtype judged, their error to the float64
    gradients must be no worse than Hugging Face's own.

    Args:
        candidate: As for `layerwise`. Its parameters are compared under our names.
        reference: Hugging Face's model.
        token_ids: `[batch time]`.
        positions: `[batch time]` or `[1 time]`; 0, 1, 2, ... where None.
        attention_mask: `[batch time]`, bool, False at padding.
        dtype: Dtype whose rounding is judged; with `float64` identity alone is.
        select: Pattern of the taps and parameters to compare, as of a shell.
        bounds: Other bounds than the dtype's own; refused if they could not tell a fault.
        fingerprints: Whether the report holds those of all tensors that are compared.
        identity: What the verdict says about weights, config and code.
        progress: Called as the passes go on.

    Raises:
        ParityError: The comparison could not be begun, or the settings were moved meanwhile.
    """
    run = GradientComparison(
        candidates=by_path(candidate),
        reference=reference,
        inputs=Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask),
        precision=PRECISIONS.get(dtype),
        modes=frozenset(
            {Mode.IDENTITY, Mode.PROPAGATED} if dtype in PRECISIONS else {Mode.IDENTITY}
        ),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(None),
        progress=progress or silent,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
    )
    report = conclude(run, identity or {}, check="gradients")
    return dataclasses.replace(
        report,
        plan=dataclasses.replace(report.plan, exempt=_exempt(run)),
        inputs={**report.inputs, **_unjudged(run)},
        first_divergence=_of_gradient(report.first_divergence),
    )


def _unjudged(run: GradientComparison) -> dict[str, str]:
    """Return what the report says where rounding was asked for and cannot be judged."""
    if run.precision is None or run.rounds is not None:
        return {}
    few = f"not judged below {FEWEST_PREDICTIONS} predicted tokens"
    return {"rounding": few}


def _exempt(run: GradientComparison) -> list[dict[str, str]]:
    """Return what was not planned, each with its path and the reason."""
    n_layer = run.reference.config.n_layer
    return [
        {"attention": attention, "tap": tap, "reason": why}
        for attention in run.candidates
        for tap, why in (never_formed(attention, n_layer) | run.exempt).items()
    ]


_WHY = {
    Mode.IDENTITY: "in float64 the gradient differs from Hugging Face's by {row.error_ours:.2g} of "
    "its RMS; right code stays within {row.bound:g}",
    Mode.PROPAGATED: "in {row.dtype} the gradient's error to the float64 one is {row.ratio:.3g} "
    "times Hugging Face's own; the bound is {row.bound:g}",
}
_WHY_SLOPE = (
    "gradient and direction have the inner product {row.value_ours:.8g}, and the oracle's loss "
    "the slope {row.value_witness:.8g}; right code stays within {row.bound:g} of what is usual"
)


def _of_gradient(first: FirstDivergence | None) -> FirstDivergence | None:
    """Return the first divergence in words that say that a gradient is meant."""
    if first is None or first.row.status is not Status.FAIL or first.row.error_ours is None:
        return first
    row = first.row
    words = _WHY_SLOPE if row.witness == "oracle" else _WHY[row.mode]
    return dataclasses.replace(first, why=words.format(row=row))
