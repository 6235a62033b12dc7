"""Prompts run together: a batch changes what each of them gives by rounding alone."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.checks.golden import measure
from parity.checks.golden.measure import Prompt, last_logits
from parity.faults.forward import inject
from scratch_gpt import GPT


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    generator = torch.Generator().manual_seed(7)
    lengths = [9, 1, 30, 4, 17, 2, 30, 11]
    drawn = [tuple(torch.randint(211, (n,), generator=generator).tolist()) for n in lengths]
    return [*drawn, drawn[3]]


def alone(model: GPT, prompt: Prompt) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([prompt]))[0, -1]


@pytest.fixture(scope="module")
def double(ours: GPT) -> GPT:
    return copy.deepcopy(ours).double()


def worst(model: GPT, prompts: list[Prompt]) -> float:
    with torch.no_grad():
        together = last_logits(model, prompts)
    return max(float((together[p] - alone(model, p)).abs().amax()) for p in prompts)


@pytest.mark.parametrize("tokens", [1, 40, 512], ids="{} tokens a batch".format)
def test_a_batch_changes_nothing(
    tokens: int,
    double: GPT,
    prompts: list[Prompt],
    assert_same: Callable[[Tensor, Tensor], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measure, "TOKENS", tokens)
    with torch.no_grad():
        together = last_logits(double, prompts)
    assert set(together) == set(prompts)
    for prompt in prompts:
        assert_same(alone(double, prompt), together[prompt])


def test_padding_that_is_seen_shows(double: GPT, prompts: list[Prompt]) -> None:
    """A model that looks one position ahead sees the padding, so its batches differ."""
    right, leaking = worst(double, prompts), worst(inject(double, "mask-off-by-one", 5), prompts)
    assert (right < 1e-12, leaking > 1e-4) == (True, True)


@pytest.mark.parametrize("tokens", [1, 40, 60])
def test_a_batch_has_at_most_its_tokens(
    tokens: int, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "TOKENS", tokens)
    ordered = sorted(prompts, key=len)
    found = list(measure._batches(ordered))
    assert [prompt for batch in found for prompt in batch] == ordered
    assert all(len(b) == 1 or len(b) * len(b[-1]) <= tokens for b in found)


def test_each_prompt_is_run_once(ours: GPT, prompts: list[Prompt]) -> None:
    told: list[tuple[int, int]] = []
    with torch.no_grad():
        last_logits(ours, prompts, lambda done, total: told.append((done, total)))
    distinct = len(set(prompts))
    assert distinct == len(prompts) - 1
    assert told[-1] == (distinct, distinct)


def test_no_prompt_is_no_run(ours: GPT) -> None:
    assert last_logits(ours, []) == {}
