"""Every planted fault of a training step is caught, first where it is, with its reason."""

import pytest
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.training.check import training
from parity.checks.training.runners import VARIANTS, batches
from parity.errors import ExitCode
from parity.faults.training import TRAINING_FAULTS, expected_at, inject
from scratch_gpt import GPT

BLOCKS = 2
QUICK = {
    *("targets-not-shifted", "parts-not-averaged", "clip-per-parameter", "decay-on-vectors"),
    *("epsilon-inside-root", "schedule-off-by-one", "no-attention-dropout", "keep-probability"),
}
"""One fault of each kind; the others take as long, and are slow tests."""


@pytest.fixture(scope="module")
def ids() -> tuple[Tensor, ...]:
    """Return ids of two steps, two rows of three tokens."""
    return batches(steps=2, parts=2, batch=1, time=3, vocab_size=211, seed=0)


@pytest.mark.parametrize("form", VARIANTS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in TRAINING_FAULTS
    ],
)
def test_a_fault_is_named_where_it_is(
    name: str,
    form: str,
    two_ours: GPT,
    two_theirs: OpenAIGPTLMHeadModel,
    ids: tuple[Tensor, ...],
) -> None:
    """The first row that differs is the fault's, and the reason says it."""
    fault = TRAINING_FAULTS[name]
    report = training(
        inject(two_ours, name),
        two_theirs,
        ids,
        dropout=fault.dropout,
        forms=[form],
        procedure=fault.procedure(),
        dtype="float64",
    )
    assert (report.exit_code, report.reasons) == (ExitCode.FAIL, [])
    assert report.first_divergence is not None
    assert expected_at(name, BLOCKS, form) == report.first_divergence.tap
    assert fault.look_for in report.first_divergence.suspects
