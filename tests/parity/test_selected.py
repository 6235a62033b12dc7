"""A row says the same whatever `--taps` leaves out beside it."""

from collections.abc import Callable

import pytest
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients.check import gradients
from parity.checks.layerwise import layerwise
from parity.core.inputs import seeded
from parity.core.results import Mode, Report, Row
from parity.core.tolerances import FEWEST_PREDICTIONS
from scratch_gpt import GPT

Run = Callable[..., Report]


def keyed(report: Report) -> dict[tuple[str, str, str, Mode], Row]:
    return {(row.tap, row.backend, row.against, row.mode): row for row in report.results}


@pytest.fixture(scope="module")
def checks(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> dict[str, Run]:
    few, many = (
        seeded(batch=1, time=time, vocab_size=211, seed=0).token_ids
        for time in (3, FEWEST_PREDICTIONS + 1)
    )
    return {
        "layerwise": lambda select: layerwise(ours, theirs, token_ids, select=select),
        "few tokens": lambda select: layerwise(ours, theirs, few, select=select),
        "gradients": lambda select: gradients(ours, theirs, many, select=select),
    }


@pytest.mark.parametrize(
    ("check", "select"),
    [
        *(("layerwise", select) for select in ("h.3.ln_1", "h.11.attn.*")),
        ("few tokens", "loss"),
        *(("gradients", select) for select in ("h.3.ln_1.weight", "h.11.attn.*")),
    ],
)
def test_a_row_is_the_same(check: str, select: str, checks: dict[str, Run]) -> None:
    every, some = (keyed(checks[check](pattern)) for pattern in ("*", select))
    assert 0 < len(some) < len(every)
    for key, row in some.items():
        whole = every[key]
        assert (whole.status, whole.error_ours) == (row.status, row.error_ours)
        assert (whole.error_reference, whole.ratio) == (row.error_reference, row.ratio)
