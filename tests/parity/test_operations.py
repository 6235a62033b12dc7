"""The table of operations computes GPT-1: it is the control of every injected fault."""

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.core.backends import EAGER
from parity.core.inputs import Inputs
from parity.core.lockstep import capture
from parity.core.runners import candidate_run, oracle_run
from parity.core.taps import taps
from parity.faults.forward import with_tap
from parity.operations import OPERATIONS, Call, Op, Trace, replacing, split_name
from scratch_gpt import GPT

BOUND = 1e-11
"""Of differences in float64."""

INPUTS = {
    "plain": Inputs(token_ids=torch.tensor([[3, 210, 0, 17, 17, 9], [8, 9, 210, 4, 5, 100]])),
    "padded": Inputs(
        token_ids=torch.tensor([[3, 210, 0, 17, 17, 9], [8, 9, 210, 4, 5, 100]]),
        positions=torch.tensor([[0, 1, 2, 3, 4, 5], [0, 0, 0, 1, 2, 3]]),
        attention_mask=torch.tensor([[True] * 6, [False] * 2 + [True] * 4]),
    ),
}


def call(model: GPT, given: Inputs) -> Call:
    return Call(
        parameters={name: p.detach().double() for name, p in model.named_parameters()},
        n_layer=model.config.n_layer,
        n_head=model.config.n_head,
        epsilon=model.config.layer_norm_epsilon,
        token_ids=given.token_ids,
        positions=given.positions,
        mask=given.attention_mask,
    )


def test_every_kind_of_tap_has_an_operation() -> None:
    kinds = [split_name(tap.name)[1] for tap in taps(1)]
    assert kinds == list(OPERATIONS)


@pytest.mark.parametrize("given", INPUTS)
def test_the_table_reproduces_the_oracle(
    given: str, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Each operation, given the oracle's inputs, computes the oracle's tap in float64."""
    chosen = INPUTS[given]
    trace = Trace(call(ours, chosen))
    worst: dict[str, float] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        computed = OPERATIONS[split_name(name)[1]](trace.op(name))
        assert computed.shape == value.shape
        worst[name] = float((computed - value).abs().max())
        trace.seen[name] = value
        return value

    oracle_run(theirs, chosen)(tap)
    assert [tap.name for tap in taps(ours.config.n_layer)] == list(worst)
    assert {name for name, error in worst.items() if error > BOUND} == set()


@pytest.mark.parametrize("given", INPUTS)
@pytest.mark.parametrize("backend", EAGER)
def test_right_operations_in_place_of_a_backends_change_nothing(
    given: str, backend: str, ours: GPT
) -> None:
    chosen = INPUTS[given]
    right = ours.with_backend(backend)
    replaced = with_tap(right, lambda made, tap: replacing(OPERATIONS, made, tap)).double()
    expected = capture(candidate_run(with_tap(right, lambda _, tap: tap).double(), chosen))
    found = capture(candidate_run(replaced, chosen))
    assert list(expected) == list(found)
    errors = {name: float((found[name] - expected[name]).abs().max()) for name in expected}
    assert {name for name, error in errors.items() if error > BOUND} == set()


@pytest.mark.parametrize(
    ("replaced", "backend", "first"),
    [
        ("attn.scores", "plain", "h.3.attn.scores"),
        ("attn.scores", "fused", "h.3.attn.context"),
        ("attn", "fused", "h.3.ln_1.input"),
        ("mlp", "fused", "h.3.ln_2.input"),
        ("mlp", "tiled", "h.3.mlp"),
    ],
)
def test_an_operation_whose_tensor_is_not_formed_changes_the_next_tap(
    replaced: str, backend: str, first: str, ours: GPT
) -> None:
    """And nothing before it, nor another block's own operation."""

    def doubled(op: Op) -> Tensor:
        return 2.0 * OPERATIONS[replaced](op)

    right = ours.with_backend(backend)
    faulty = with_tap(right, lambda made, tap: replacing({replaced: doubled}, made, tap, 3))
    given = INPUTS["plain"]
    expected, found = capture(candidate_run(right, given)), capture(candidate_run(faulty, given))
    changed = [name for name in expected if not torch.equal(expected[name], found[name])]
    assert first == changed[0]


def test_a_faulty_model_runs_without_a_tap_and_with_gradients(ours: GPT) -> None:
    faulty = with_tap(ours, lambda made, tap: replacing(OPERATIONS, made, tap))
    ids = INPUTS["plain"].token_ids
    assert torch.equal(faulty(ids), faulty(ids, tap=lambda _name, value: value))
    faulty(ids).sum().backward()
    assert all(parameter.grad is not None for parameter in faulty.parameters())
