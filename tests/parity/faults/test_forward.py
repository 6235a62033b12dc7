"""Faults of the forward pass: at full size, operation by operation, and in copies."""

import copy
import functools
import gc
import random
from collections.abc import Callable

import pytest
import torch

from parity.checkpoints.load import load_weights
from parity.checks.layerwise import layerwise
from parity.core import inputs
from parity.core.metrics import Status
from parity.core.results import Mode, Report, Row
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode
from parity.faults.forward import FORWARD_FAULTS, inject
from parity.faults.registry import expected_at
from scratch_gpt.model import GPT

LAYERS = 12
BLOCKS = {name: random.Random(name).randrange(LAYERS) for name in FORWARD_FAULTS}  # noqa: S311
"""A block drawn at random for each fault, the same in every run."""

Check = Callable[..., Report]
LONG = 1_200
"""Seconds after which a full-size test hangs: a busy machine takes minutes for some."""


def checker(size: str, time: int) -> Check:
    weights = load_weights(size)
    right, theirs = build_ours(weights), build_huggingface(weights)
    drawn = inputs.seeded(batch=1, time=time, vocab_size=weights.config["vocab_size"], seed=5)

    @functools.cache
    def check(backend: str, fault: str | None, modes: tuple[Mode, ...]) -> Report:
        model = right.with_backend(backend)
        if fault is not None:
            gc.collect()  # a model with a fault refers to itself, and a full-size one has 2 GB
            model = inject(model, fault, BLOCKS[fault])
        return layerwise({backend: model}, theirs, drawn.token_ids, modes=modes)

    return check


@pytest.fixture(scope="module")
def tiny() -> Check:
    return checker("tiny", 37)


@pytest.fixture(scope="module")
def full() -> Check:
    return checker("surrogate", 40)


def failing(report: Report) -> list[str]:
    return list(dict.fromkeys(row.tap for row in report.results if row.status is not Status.PASS))


def before(report: Report, tap: str) -> list[Row]:
    names = [row.tap for row in report.results]
    return list(report.results)[: names.index(tap)]


def assert_caught_at(tap: str, report: Report) -> None:
    """Assert that the verdict fails, names `tap` first, and that all before it passed."""
    assert report.first_divergence is not None
    assert tap == report.first_divergence.tap
    assert report.exit_code == ExitCode.FAIL
    assert all(row.status is Status.PASS for row in before(report, tap))
    assert tap == failing(report)[0]


@pytest.mark.slow
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("fault", FORWARD_FAULTS)
def test_full_size_fault_is_named(full: Check, fault: str) -> None:
    faulty = full("plain", fault, (Mode.FLOAT64,))
    twin = full("plain", None, (Mode.FLOAT64,))

    assert_caught_at(expected_at(fault, BLOCKS[fault], "plain"), faulty)
    assert twin.exit_code == ExitCode.PASS


SINGLE_OPERATION = (
    *("erf-gelu", "bias-dropped", "projection-transposed", "mask-off-by-one", "scale-missing"),
    *("positions-from-one", "untied-head", "final-norm"),
)
"""Faults that make one operation wrong, and no other."""


@pytest.mark.parametrize("fault", SINGLE_OPERATION)
def test_isolated_mode_points_at_nothing_else(tiny: Check, fault: str) -> None:
    """Given clean input, the one wrong operation fails and every other one passes."""
    wanted = {expected_at(fault, BLOCKS[fault], "plain")}

    assert wanted == set(failing(tiny("plain", fault, (Mode.PER_OP,))))


def test_injection_leaves_the_right_model_alone() -> None:
    model = build_ours(load_weights("tiny"))
    state = copy.deepcopy(model.state_dict())
    ids = inputs.seeded(batch=1, time=9, vocab_size=211, seed=1).token_ids
    logits = model(ids)

    for name in FORWARD_FAULTS:
        inject(model, name, BLOCKS[name])

    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())
    assert torch.equal(logits, model(ids))


def test_a_fault_survives_a_copy_in_float64() -> None:
    model = inject(build_ours(load_weights("tiny")), "erf-gelu", 3)
    twin: GPT = copy.deepcopy(model).double()

    assert twin.forward.__self__ is twin
