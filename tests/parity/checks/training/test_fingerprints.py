"""Fingerprints of training steps: gradients and weights of every step, of both sides."""

from collections.abc import Callable, Mapping

import pytest
from transformers import OpenAIGPTLMHeadModel

from parity.checks.training.check import training
from parity.checks.training.runners import batches
from parity.checks.training.steps import parse_quantity
from parity.core.fingerprints import Fingerprint
from parity.core.results import Report
from parity.faults.training import TRAINING_FAULTS
from scratch_gpt import GPT

Key = tuple[str, str, str]
Of = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]
Check = Callable[..., Report]

PARAMETERS = 26
"""Of two blocks and the embeddings."""


@pytest.fixture(scope="module")
def check(two_ours: GPT, two_theirs: OpenAIGPTLMHeadModel) -> Check:
    """Return the check of two paths, of two steps of AdamW."""
    paths = {path: two_ours.with_backend(path) for path in ("plain", "tiled")}
    ids = batches(steps=2, parts=2, batch=1, time=5, vocab_size=211, seed=0)
    return lambda **named: training(paths, two_theirs, ids, forms=["adamw"], **named)


@pytest.fixture(scope="module")
def right(check: Check) -> Report:
    """Return the run with fingerprints."""
    return check(fingerprints=True)


def test_every_gradient_and_weight_has_one(right: Report, fingerprints_of: Of) -> None:
    """Of two steps, each quantity of each parameter: in both dtypes, of both sides."""
    runs = [
        (side, dtype, mode)
        for side in ("ours/plain", "ours/tiled", "huggingface")
        for dtype, mode in (("float64", "float64"), ("float32", "end-to-end"))
    ]
    found = fingerprints_of(right)
    assert set(runs) == set(found)
    for places in map(list, found.values()):
        steps = [(parse_quantity(place).step, parse_quantity(place).quantity) for place in places]
        kinds = [(step, quantity) for step in (1, 2) for quantity in ("gradient", "weight")]
        assert [kind for kind in kinds for _ in range(PARAMETERS)] == steps
        assert len(set(places)) == 4 * PARAMETERS


def test_all_runs_have_one_order(right: Report, fingerprints_of: Of) -> None:
    """Gradients from the loss backwards, whoever's and in whatever order they were made."""
    (order,) = {tuple(found) for found in fingerprints_of(right).values()}
    gradients = [parse_quantity(place).parameter for place in order[:PARAMETERS]]
    assert (gradients[0], gradients[-1]) == ("h.1.ln_2.bias", "positions_embed.weight")
    blocks = [name.split(".")[1] for name in gradients if name.startswith("h.")]
    assert blocks == ["1"] * 12 + ["0"] * 12


def test_watching_changes_nothing(right: Report, check: Check) -> None:
    """Rows are what they are without fingerprints, to the bit."""
    without = check()
    assert (repr(right.results), right.verdict) == (repr(without.results), without.verdict)
    assert list(without.fingerprints) == []


def test_a_step_moves_every_weight(right: Report, fingerprints_of: Of) -> None:
    """What was taken are the weights after each step, not one and the same tensor."""
    for found in fingerprints_of(right).values():
        for place, entry in found.items():
            if place.startswith("adamw.1.weight"):
                assert entry.digest != found[place.replace("adamw.1", "adamw.2")].digest


def test_a_fault_in_the_step_moves_no_gradient_before_it(
    right: Report, check: Check, fingerprints_of: Of
) -> None:
    """Decay in the gradient: ours are as they were up to the first weights, and all of theirs."""
    procedure = TRAINING_FAULTS["decay-in-gradient"].procedure()
    wrong = fingerprints_of(check(procedure=procedure, fingerprints=True))
    for key, found in fingerprints_of(right).items():
        changed = [place for place, entry in found.items() if entry != wrong[key][place]]
        moved = {(parse_quantity(place).step, parse_quantity(place).quantity) for place in changed}
        theirs = key[0] == "huggingface"
        assert moved == (set() if theirs else {(1, "weight"), (2, "gradient"), (2, "weight")})
