"""Every forward fault, evaluated directly: its first differing tap and its description."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from parity.checkpoints.weights import Weights
from parity.checks.selftest import with_epsilon
from parity.core import inputs
from parity.core.lockstep import capture
from parity.core.metrics import visible_entries
from parity.core.runners import build_ours
from parity.core.taps import taps
from parity.core.tolerances import MEASURED_SMALLEST_FAULT, Bounds
from parity.faults.forward import FORWARD_FAULTS, INPUTS, inject
from parity.operations import OPERATIONS, Call, Trace, split_name
from scratch_gpt import GPT

BLOCK, LAYERS = 3, 12
LIVE = {name: fault for name, fault in FORWARD_FAULTS.items() if not fault.proof}
IDS = inputs.seeded(batch=2, time=11, vocab_size=211, seed=5)
GIVEN = {name: make(211, 5) for name, make in INPUTS.items()} | {"one row": IDS}
AXES = {tap.name: tap.kind.axes for tap in taps(LAYERS)}

Taps = dict[str, Tensor]


def run(model: GPT, name: str = "one row") -> Taps:
    given = GIVEN[name]
    return capture(
        lambda tap: model(given.token_ids, given.positions, given.attention_mask, tap=tap)
    )


def relative(tap: str, found: Tensor, expected: Tensor, name: str = "one row") -> float:
    """Return the largest difference over the RMS, over the entries that count."""
    if found.shape != expected.shape:
        return math.inf
    given = GIVEN[name]
    visible = visible_entries(AXES[tap], given.attention_mask, given.token_ids.shape[1])
    counts = torch.ones_like(expected) if visible is None else visible.expand_as(expected)
    scale = (expected * counts).square().sum().div(counts.sum()).sqrt()
    return float(((found - expected) * counts).abs().max() / scale)


@pytest.fixture(scope="module")
def right_models(weights: Weights) -> dict[str, GPT]:
    """Our model by the name of the inputs that it gets."""
    usual, other = (build_ours(one).double() for one in (weights, with_epsilon(weights)))
    return {name: other if name == "another epsilon" else usual for name in INPUTS}


@pytest.fixture(scope="module")
def right_taps(right_models: dict[str, GPT]) -> dict[str, Taps]:
    return {name: run(model, name) for name, model in right_models.items()}


@pytest.fixture(scope="module", params=FORWARD_FAULTS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each fault in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def wrong_taps(name: str, right_models: dict[str, GPT]) -> Taps:
    given = FORWARD_FAULTS[name].inputs
    return run(inject(right_models[given], name, BLOCK), given)


@pytest.mark.fault
def test_a_fault_changes_its_tap_first(
    name: str, right_taps: dict[str, Taps], wrong_taps: Taps
) -> None:
    """All before is equal to the bit, and the logits differ too; an equivalent changes nothing.

    Rounding to float32 changes a number by 6e-8.
    """
    fault = FORWARD_FAULTS[name]
    right, at = right_taps[fault.inputs], fault.first_seen(BLOCK)
    names = list(right)
    assert list(wrong_taps) == names
    assert all(tensor.dtype == torch.float64 for tensor in wrong_taps.values())
    assert all(bool(tensor.isfinite().all()) for tensor in wrong_taps.values())
    for tap in names[: names.index(at)]:
        assert torch.equal(right[tap], wrong_taps[tap]), tap
    if fault.proof:
        for tap in names:
            assert relative(tap, wrong_taps[tap], right[tap]) < EQUAL, tap
        return
    least = 10 * Bounds().float64 if fault.group == "precision" else MEASURED_SMALLEST_FAULT
    for tap in (at, "logits"):
        assert relative(tap, wrong_taps[tap], right[tap], fault.inputs) > least


EQUAL = 1e-12
"""Largest difference of two right forms: rounding in float64, a thousandth of the bound."""


def test_a_fault_is_its_operations(
    name: str, right_models: dict[str, GPT], wrong_taps: Taps
) -> None:
    """The table of operations computes the same from each block's input."""
    fault = FORWARD_FAULTS[name]
    right, given = right_models[fault.inputs], GIVEN[fault.inputs]
    held = dict(right.named_parameters())
    call = Call(
        parameters=held | dict(fault.tensors(held, BLOCK)),
        n_layer=LAYERS,
        n_head=right.config.n_head,
        epsilon=right.config.layer_norm_epsilon,
        token_ids=given.token_ids,
        positions=given.positions,
        mask=given.attention_mask,
    )
    trace = Trace(call)
    for tap, expected in wrong_taps.items():
        block, kind = split_name(tap)
        table = {**OPERATIONS, **fault.operations} if block in (None, BLOCK) else OPERATIONS
        with torch.no_grad():
            made = table[kind](trace.op(tap))
            assert relative(tap, made, expected, fault.inputs) < 1e-9, tap
        trace.seen[tap] = expected


@pytest.mark.fault
def test_no_two_faults_are_equal(right_models: dict[str, GPT]) -> None:
    """A cause has one name: the faults differ in the block, or outside the blocks."""
    signatures: dict[tuple[str, str], Tensor] = {}
    for name, fault in LIVE.items():
        model = right_models[fault.inputs]
        wrong = run(inject(model, name, BLOCK), fault.inputs).values()
        sums = [
            tensor.flatten() @ torch.arange(tensor.numel()).cos().to(tensor) for tensor in wrong
        ]
        signatures[fault.inputs, name] = torch.stack(sums)
        for (given, other), known in signatures.items():
            if given == fault.inputs and other != name:
                apart = float((signatures[given, name] - known).abs().max())
                assert apart > Bounds().float64, f"{name} and {other}"


def test_a_fault_is_described(name: str) -> None:
    """`what`, a semicolon and `right` are one sentence; `fix` is code, or what to do."""
    fault = FORWARD_FAULTS[name]
    assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)*", name)
    for text in (fault.what, fault.right, fault.fix):
        assert 0 < len(text) <= 100
        assert text == text.strip()
        assert not text.endswith((".", ";"))
        assert not re.search(r"<x|\{i\}|\bop\b|\btap\b|\.input\b|oracle", text)
    assert ";" not in fault.what + fault.right
    assert len(fault.what) <= 60
    whats = [other.what for other in FORWARD_FAULTS.values()]
    assert whats.count(fault.what) == 1


def test_the_documents_have_every_fault() -> None:
    text = (Path(__file__).parents[3] / "docs" / "tolerances.md").read_text(encoding="utf-8")
    table = text.partition("| first tap that differs | faults |\n")[2].partition("\n\n")[0]
    columns = "".join(row.split("|")[2] for row in table.splitlines())
    assert sorted(re.findall("`(.+?)`", columns)) == sorted(FORWARD_FAULTS)
