"""Does every tap agree, and where is the first that does not?"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.core.comparison import Comparison, check_worthwhile
from parity.core.environment import environment, pinned_settings
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprints
from parity.core.inputs import Inputs
from parity.core.results import (
    Mode,
    Reason,
    Report,
    count,
    exit_code,
    first_divergence,
    verdict_for,
)
from parity.core.taps import NEVER_FORMED
from parity.core.tolerances import PRECISIONS, Bounds, bounds_for
from parity.errors import InconclusiveError, ParityError
from scratch_gpt.progress import Progress


def layerwise(  # noqa: PLR0913 - the harness's one entry point; all but three have defaults
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
    dtype: str = "float32",
    modes: Sequence[Mode] = tuple(Mode),
    select: str = "*",
    bounds: Bounds | None = None,
    explain: str | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare a candidate with Hugging Face's model and the oracle, tap by tap.

    Args:
        candidate: Called as `model(token_ids, positions, attention_mask, tap=tap)`. Several,
            under the names of their attention paths, are judged together; a single one's path is
            its attribute `attention`, or `plain`.
        reference: Hugging Face's model; its weights are the oracle's too.
        token_ids: `[batch time]`.
        positions: `[batch time]` or `[1 time]`; 0, 1, 2, ... where None.
        attention_mask: `[batch time]`, bool, False at padding.
        dtype: Dtype whose rounding is judged: float32, bfloat16 or float16; with `float64`
            identity alone is.
        modes: Which gates to run.
        select: Pattern of the taps to compare, as of a shell.
        bounds: Other bounds than the dtype's own; refused if they could not tell a fault.
        explain: A tap to be looked at closely.
        fingerprints: Whether the report holds those of all tensors that are compared.
        identity: What the verdict says about weights, config and code.
        progress: Called as the passes go on.

    Returns:
        A report whose verdict is inconclusive where nothing could be compared.

    Raises:
        ParityError: The comparison could not be begun, or the settings were moved meanwhile.
    """
    run = Comparison(
        candidates=by_backend(candidate),
        reference=reference,
        inputs=Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask),
        precision=PRECISIONS.get(dtype),
        modes=_modes(modes, dtype),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(explain),
        progress=progress or no_progress,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
    )
    return conclude(run, identity or {}, check="layerwise")


def conclude(run: Comparison, identity: Mapping[str, Any], *, check: str) -> Report:
    """Run every pass of a comparison, settings pinned and dropout off, and sum up as `check`."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(pinned_settings())
        stack.enter_context(_evaluating([*run.candidates.values(), run.reference]))
        settings = environment()
        try:
            run.reasons += check_worthwhile(run)
            run.compare()
        except InconclusiveError as error:
            run.reasons.append(reason(error))
    plan = {backend: run.planned(backend) for backend in run.candidates}
    counted = count(
        plan,
        run.rows,
        n_layer=run.reference.config.n_layer,
        time=run.inputs.token_ids.shape[1],
    )
    code, reasons = exit_code(counted, run.rows, run.reasons, run.life.blocks())
    return Report(
        check=check,
        verdict=verdict_for(code),
        exit_code=code,
        identity=identity,
        environment=settings,
        plan=counted,
        first_divergence=first_divergence(plan, run.rows),
        results=run.rows,
        reasons=reasons,
        consequences=run.consequences,
        liveness=run.life.blocks(),
        inputs=_described(run.inputs),
        explanation=run.explainer.explanation(),
        fingerprints=run.fingerprints.taken,
    )


def by_backend(candidate: nn.Module | Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Return candidates under their paths' names; one that does not say its own is `plain`."""
    if isinstance(candidate, Mapping):
        return dict(candidate)
    path = getattr(candidate, "backend", "plain")
    return {path if path in NEVER_FORMED else "plain": candidate}


def _modes(modes: Sequence[Mode], dtype: str) -> frozenset[Mode]:
    return frozenset(modes) & (frozenset(Mode) if dtype in PRECISIONS else {Mode.FLOAT64})


def _described(inputs: Inputs) -> dict[str, Any]:
    """Return what a report says about its inputs."""
    batch, time = inputs.token_ids.shape
    mask = inputs.attention_mask
    padded = 0 if mask is None else int((~mask).sum())
    return {"batch": batch, "time": time, "padded_positions": padded, **inputs.digests()}


def no_progress(_what: str, _done: int, _total: int) -> None:
    """Show no progress."""


def reason(error: ParityError) -> Reason:
    """Return an error as a reason in a report."""
    return Reason(what=error.what, where=error.where, fix=error.fix, code=error.exit_code)


@contextlib.contextmanager
def _evaluating(models: Sequence[nn.Module]) -> Iterator[None]:
    """Put models into evaluation mode, and back into what each was afterwards."""
    before = [(part, part.training) for model in models for part in model.modules()]
    try:
        for model in models:
            model.eval()
        yield
    finally:
        for part, training in before:
            part.training = training
