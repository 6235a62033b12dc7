"""The forward check: compares every tap and names the first that differs."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.watching import Watching
from parity.core.comparison import Comparison, by_backend, conclude, no_progress
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprints
from parity.core.inputs import Inputs
from parity.core.results import Mode, Report
from parity.core.tolerances import PRECISIONS, Bounds, bounds_for, precision_of
from scratch_gpt.progress import Progress

MODES = (Mode.FLOAT64, Mode.END_TO_END, Mode.PER_OP)
"""The modes that run by default. After a failure in float64, float64-per-op runs as well."""


def layerwise(  # noqa: PLR0913 - the harness's one entry point; all but three have defaults
    candidate: nn.Module | Mapping[str, nn.Module],
    reference: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
    dtype: str = "float32",
    modes: Sequence[Mode] = MODES,
    select: str = "*",
    bounds: Bounds | None = None,
    explain: str | None = None,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    call: str | None = None,
    keep: Callable[[str, str, Tensor], None] | None = None,
) -> Report:
    """Compare a candidate with Hugging Face's model and the oracle, tap by tap.

    Args:
        candidate: Called as `model(token_ids, positions, attention_mask, tap=tap)`. A mapping has
            several by backend; the backend of a single one is its attribute `backend`, or `plain`.
        reference: Hugging Face's model; its weights are the oracle's too.
        token_ids: `[batch time]`.
        positions: `[batch time]` or `[1 time]`; 0, 1, 2, ... where None.
        attention_mask: `[batch time]`, bool, False at padding.
        dtype: The checked dtype: float32, bfloat16 or float16; `float64` for mode float64 alone.
        modes: Modes to run. Mode float64-per-op, if it is not among them, runs where mode float64
            fails, and corrects the place of the first divergence.
        select: Shell pattern of the taps to compare.
        bounds: Instead of the dtype's own; bounds that cannot detect a fault are rejected.
        explain: Tap whose errors are reported in detail.
        fingerprints: Whether the report has the fingerprints of all compared tensors.
        identity: Weights, config and code, for the report.
        progress: Called at every tap.
        call: How a candidate without taps is called, as `model(ids, targets=ids)`. None: find out.
        keep: Called with (run, tap, tensor) for every compared tensor of the runs as a whole; a
            run is named `ours/BACKEND/DTYPE` or `huggingface/DTYPE`.

    Returns:
        A report; inconclusive if nothing could be compared.

    Raises:
        ParityError: The comparison cannot start, or torch settings changed during it.
    """
    watching = Watching(call)
    run = Comparison(
        candidates=by_backend(candidate),
        reference=reference,
        inputs=Inputs(token_ids=token_ids, positions=positions, attention_mask=attention_mask),
        precision=precision_of(dtype),
        modes=frozenset(modes)
        & (frozenset(Mode) if dtype in PRECISIONS else {Mode.FLOAT64, Mode.FLOAT64_PER_OP}),
        select=select,
        bounds=bounds or bounds_for(dtype),
        explainer=Explainer(explain),
        progress=progress or no_progress,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
        locates=True,
        prepare=watching.prepare,
        keep=keep,
    )
    return watching.reported(conclude(run, identity or {}, check="layerwise"))
