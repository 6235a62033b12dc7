"""Hugging Face's model in another order: the same function, other rounding errors."""

import copy

import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients.backward import backward, of_huggingface
from parity.core import inputs
from parity.core.inputs import Inputs
from parity.core.lockstep import capture
from parity.core.metrics import difference
from parity.core.reordered import Reordered
from parity.core.runners import huggingface_run


@pytest.fixture(scope="module")
def given() -> Inputs:
    return inputs.seeded(batch=2, time=5, vocab_size=211, seed=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_it_is_the_same_function_with_other_rounding(
    theirs: OpenAIGPTLMHeadModel, given: Inputs, dtype: torch.dtype
) -> None:
    model = copy.deepcopy(theirs).to(dtype)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    right = capture(huggingface_run(model, given))
    for seed in range(2):
        other = Reordered(model, seed)
        found = capture(other.in_old_order(huggingface_run(other.model, given), rounds=False))
        assert list(found) == list(right)
        gaps = {
            name: difference(found[name], right[name], dtype=dtype).relative_largest
            for name in right
            if "scores" not in name  # hidden ones are a constant
        }
        assert max(gaps.values()) < {torch.float64: 1e-11, torch.float32: 1e-2}[dtype]
        assert sum(gap > 0.0 for gap in gaps.values()) > 0.9 * len(gaps)
    assert all(torch.equal(model.state_dict()[name], before[name]) for name in before)


def test_a_replaced_tap_is_replaced_in_its_order(
    theirs: OpenAIGPTLMHeadModel, given: Inputs
) -> None:
    other = Reordered(copy.deepcopy(theirs).double(), 0)
    right = capture(huggingface_run(copy.deepcopy(theirs).double(), given))
    found = {}

    def tap(name: str, value: torch.Tensor) -> torch.Tensor:
        found[name] = value
        return right[name]

    with torch.no_grad():
        other.in_old_order(huggingface_run(other.model, given), rounds=False)(tap)
    kept = [name for name in right if "scores" not in name]
    gaps = [
        difference(found[name], right[name], dtype=torch.float64).relative_largest for name in kept
    ]
    assert max(gaps) < 1e-13  # of single operations, on equal inputs


def test_gradients_come_in_the_old_order(theirs: OpenAIGPTLMHeadModel, given: Inputs) -> None:
    model = copy.deepcopy(theirs).double()
    other = Reordered(model, 3)
    right, found = (of_model(one, given) for one in (model, other.model))
    assert len(right) == 173 - 1 + 146
    for name, gradient in right.items():
        own = other.reordered(name, found[name], back=True)
        assert difference(own, gradient, dtype=torch.float64).relative_largest < 1e-10, name
    moved = [name for name in right if not torch.allclose(found[name], right[name])]
    assert len(moved) > 300


def of_model(model: OpenAIGPTLMHeadModel, given: Inputs) -> dict[str, torch.Tensor]:
    """Return the gradient of every tap and parameter under our names."""
    found: dict[str, torch.Tensor] = {}
    named = {name.removeprefix("transformer."): p for name, p in model.named_parameters()}
    backward(of_huggingface(model, given), named, see=lambda n, g: found.update({n: g.clone()}))
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_every_second_model_rounds_each_elementary_operation(
    theirs: OpenAIGPTLMHeadModel, given: Inputs, dtype: torch.dtype
) -> None:
    """In half precision that is much coarser than PyTorch's functions, which use float32 inside."""
    truth = capture(huggingface_run(copy.deepcopy(theirs).double(), given))["h.0.ln_2"]
    errors = []
    for seed in range(4):
        other = Reordered(copy.deepcopy(theirs).to(dtype), seed)
        found = capture(other.in_old_order(huggingface_run(other.model, given), rounds=False))[
            "h.0.ln_2"
        ]
        errors.append(difference(found, truth, dtype=dtype).relative_rms)
    assert min(errors[1], errors[3]) > (1.1 if dtype == torch.float16 else 0.5) * max(
        errors[0], errors[2]
    )


def test_random_rounding_makes_samples_in_half_precision(
    theirs: OpenAIGPTLMHeadModel, given: Inputs
) -> None:
    """There the order of a sum hardly matters: every run has the same error."""
    model = copy.deepcopy(theirs).bfloat16()
    truth = capture(huggingface_run(copy.deepcopy(theirs).double(), given))["h.11.ln_2"]

    def error(seed: int, *, rounds: bool) -> float:
        other = Reordered(model, seed)
        run = other.in_old_order(huggingface_run(other.model, given), rounds=rounds)
        return difference(capture(run)["h.11.ln_2"], truth, dtype=torch.bfloat16).relative_rms

    alike = [error(seed, rounds=False) for seed in (0, 2, 4)]
    moved = [error(seed, rounds=True) for seed in (0, 2, 4)]
    assert max(moved) - min(moved) > 3 * (max(alike) - min(alike))
    assert max(moved) < 5 * max(alike)  # it is the rounding of the dtype still
