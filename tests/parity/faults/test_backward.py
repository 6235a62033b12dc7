"""Faults of the backward pass: outputs hide them, and copies keep them."""

import copy
import functools
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity import layerwise
from parity.checkpoints.load import load_weights
from parity.checks.gradients.check import gradients
from parity.core import inputs
from parity.core.metrics import Status
from parity.core.results import Mode, Report
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode
from parity.faults.backward import BACKWARD_FAULTS, grafted, inject
from parity.faults.registry import expected_at
from scratch_gpt import GPT

LAYERS = 12
BLOCKS = {name: random.Random(name).randrange(LAYERS) for name in BACKWARD_FAULTS}  # noqa: S311
"""A block drawn at random for each fault, the same in every run."""
PATHS = ("plain", "tiled")
LONG = 1_200
"""Seconds after which a full-size test hangs: a busy machine takes minutes for some."""

Check = Callable[..., Report]


def checker(size: str, batch: int, time: int) -> Check:
    weights = load_weights(size)
    right, theirs = build_ours(weights), build_huggingface(weights)
    drawn = inputs.seeded(batch=batch, time=time, vocab_size=weights.config["vocab_size"], seed=5)

    @functools.cache
    def check(backend: str, fault: str, select: str = "*") -> Report:
        model = inject(right.with_backend(backend), fault, BLOCKS[fault])
        return gradients({backend: model}, theirs, drawn.token_ids, dtype="float64", select=select)

    return check


def assert_caught_at(place: str, report: Report) -> None:
    assert report.first_divergence is not None
    assert place == report.first_divergence.tap
    assert report.exit_code == ExitCode.FAIL
    names = [row.tap for row in report.results]
    assert all(row.status is Status.PASS for row in report.results[: names.index(place)])
    assert report.first_divergence.suspects


@pytest.mark.slow
@pytest.mark.parametrize("backend", PATHS)
@pytest.mark.parametrize("fault", BACKWARD_FAULTS)
def test_nothing_forward_shows_a_fault(fault: str, backend: str, ours: GPT, theirs: object) -> None:
    """Logits are the right model's to the bit, with gradients and without, and layerwise passes."""
    right = ours.with_backend(backend)
    faulty = inject(right, fault, BLOCKS[fault])
    ids = inputs.seeded(batch=2, time=5, vocab_size=211, seed=5).token_ids
    report = layerwise({backend: faulty}, theirs, ids, modes=[Mode.FLOAT64])  # type: ignore[arg-type]

    assert torch.equal(right(ids), faulty(ids))
    with torch.no_grad():
        assert torch.equal(right(ids), faulty(ids))
    assert report.exit_code == ExitCode.PASS


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("fault", ["erf-derivative", "delta-missing", "norm-without-mean"])
def test_full_size_fault_is_named(fault: str) -> None:
    check = checker("surrogate", 1, 37)
    assert_caught_at(expected_at(fault, BLOCKS[fault], "tiled"), check("tiled", fault, "[!d]*"))


@pytest.mark.parametrize("name", ["doubled", "transpose-missing"])
def test_a_fault_at_a_tap_that_is_not_formed_is_refused(name: str, ours: GPT) -> None:
    with pytest.raises(ValueError, match=f"{name} is injected at .* does not form"):
        inject(ours.with_backend("fused"), name, 3)


def test_injection_leaves_the_right_model_alone(ours: GPT) -> None:
    state = copy.deepcopy(ours.state_dict())
    for name in BACKWARD_FAULTS:
        inject(ours, name, BLOCKS[name])
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    assert "forward" not in vars(ours)


def test_a_fault_survives_a_copy() -> None:
    model = inject(build_ours(load_weights("tiny")), "doubled", 3)
    twin = copy.deepcopy(model).double()
    assert twin.forward.__self__ is twin


def test_a_graft_has_the_values_of_one_and_the_gradient_of_the_other() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    other = torch.tensor([5.0, 7.0], requires_grad=True)
    graft = grafted(value, other * other)
    graft.sum().backward()
    assert torch.equal(value, graft)
    assert other.grad is not None
    assert torch.equal(2 * other, other.grad)
    assert value.grad is None


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(1, 2), torch.ones(())])
def test_a_graft_of_another_shape_is_refused(other: Tensor) -> None:
    with pytest.raises(ValueError, match="cannot take the gradient"):
        grafted(torch.ones(2), other)
