"""Every forward fault, evaluated directly: its first differing tap and its description."""

import copy
import math
import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from parity.core import inputs
from parity.core.lockstep import capture
from parity.core.metrics import visible_entries
from parity.core.taps import taps
from parity.core.tolerances import MEASURED_SMALLEST_FAULT, Bounds
from parity.faults.forward import FORWARD_FAULTS, inject
from parity.operations import OPERATIONS, Call, Trace, split_name
from scratch_gpt import GPT

BLOCK, LAYERS, TIME = 3, 12, 11
IDS = inputs.seeded(batch=2, time=TIME, vocab_size=211, seed=5).token_ids
AXES = {tap.name: tap.kind.axes for tap in taps(LAYERS)}

Taps = dict[str, Tensor]


def run(model: GPT) -> Taps:
    return capture(lambda tap: model(IDS, tap=tap))


def relative(tap: str, found: Tensor, expected: Tensor) -> float:
    """Return the largest difference over the RMS, over the entries that count."""
    if found.shape != expected.shape:
        return math.inf
    visible = visible_entries(AXES[tap], None, TIME)
    counts = torch.ones_like(expected) if visible is None else visible.expand_as(expected)
    scale = (expected * counts).square().sum().div(counts.sum()).sqrt()
    return float(((found - expected) * counts).abs().max() / scale)


@pytest.fixture(scope="module")
def right(ours: GPT) -> GPT:
    return copy.deepcopy(ours).double()


@pytest.fixture(scope="module")
def right_taps(right: GPT) -> Taps:
    return run(right)


@pytest.fixture(scope="module", params=FORWARD_FAULTS)
def name(request: pytest.FixtureRequest) -> str:
    """The name of each fault in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def wrong_taps(name: str, right: GPT) -> Taps:
    return run(inject(right, name, BLOCK))


def test_a_fault_changes_its_tap_first(name: str, right_taps: Taps, wrong_taps: Taps) -> None:
    """All before is equal to the bit, and the logits differ too."""
    at = FORWARD_FAULTS[name].first_seen(BLOCK)
    names = list(right_taps)
    assert list(wrong_taps) == names
    assert all(tensor.dtype == torch.float64 for tensor in wrong_taps.values())
    assert all(bool(tensor.isfinite().all()) for tensor in wrong_taps.values())
    for tap in names[: names.index(at)]:
        assert torch.equal(right_taps[tap], wrong_taps[tap]), tap
    for tap in (at, "logits"):
        assert relative(tap, wrong_taps[tap], right_taps[tap]) > MEASURED_SMALLEST_FAULT


def test_a_fault_is_its_operations(name: str, right: GPT, wrong_taps: Taps) -> None:
    """The table of operations computes the same from each block's input."""
    fault = FORWARD_FAULTS[name]
    held = dict(right.named_parameters())
    call = Call(
        parameters=held | dict(fault.tensors(held, BLOCK)),
        n_layer=LAYERS,
        n_head=right.config.n_head,
        epsilon=right.config.layer_norm_epsilon,
        token_ids=IDS,
    )
    trace = Trace(call)
    for tap, expected in wrong_taps.items():
        block, kind = split_name(tap)
        table = {**OPERATIONS, **fault.operations} if block in (None, BLOCK) else OPERATIONS
        with torch.no_grad():
            assert relative(tap, table[kind](trace.op(tap)), expected) < 1e-9, tap
        trace.seen[tap] = expected


def test_no_two_faults_are_equal(right: GPT) -> None:
    """A cause has one name: the faults differ in the block, or outside the blocks."""
    signatures: dict[str, Tensor] = {}
    for name in FORWARD_FAULTS:
        wrong = run(inject(right, name, BLOCK)).values()
        sums = [
            tensor.flatten() @ torch.arange(tensor.numel()).cos().to(tensor) for tensor in wrong
        ]
        signatures[name] = torch.stack(sums)
        for other, known in signatures.items():
            apart = float((signatures[name] - known).abs().max())
            assert name == other or apart > Bounds().float64, f"{name} and {other}"


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
