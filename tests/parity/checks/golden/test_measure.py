"""Prompts that are run together, and the norms of matrices."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from parity.checks.golden import measure
from parity.checks.golden.measure import STATISTICS, Prompt, last_logits, matrices, quantities
from parity.faults.forward import inject
from reference.published import QUANTITIES
from reference.published import STATISTICS as NAMES
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


def worst_difference(model: GPT, prompts: list[Prompt]) -> float:
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
    right, leaking = (
        worst_difference(double, prompts),
        worst_difference(inject(double, "mask-off-by-one", 5), prompts),
    )
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
    counts: list[tuple[int, int]] = []
    with torch.no_grad():
        last_logits(ours, prompts, lambda done, total: counts.append((done, total)))
    distinct = len(set(prompts))
    assert distinct == len(prompts) - 1
    assert counts[-1] == (distinct, distinct)


def test_no_prompt_is_no_run(ours: GPT) -> None:
    assert last_logits(ours, []) == {}


def of_singular_values(values: list[float], rows: int, columns: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    left, right = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        for n in (rows, columns)
    )
    middle = torch.zeros(rows, columns, dtype=torch.float64)
    middle.diagonal()[: len(values)] = torch.tensor(values, dtype=torch.float64)
    return left @ middle @ right


@pytest.mark.parametrize(("rows", "columns"), [(7, 3), (3, 7), (4, 4)], ids=["tall", "wide", "4"])
def test_norms_are_those_of_the_singular_values(rows: int, columns: int) -> None:
    """With singular values 3, 2 and 0.5 every quantity follows by hand."""
    found = quantities(of_singular_values([0.5, 3.0, 2.0], rows, columns))
    squared = 9.0 + 4.0 + 0.25
    expected = {
        "rms": math.sqrt(squared / (rows * columns)),
        "frobenius_over_sqrt2": math.sqrt(squared / 2.0),
        "half_sigma_max_squared": 4.5,
        "stable_rank": squared / 9.0,
    }
    assert set(QUANTITIES) == set(expected)
    assert found == pytest.approx(expected, rel=1e-12)


def test_float32_is_widened_first() -> None:
    """A sum of a million squares would lose digits in float32."""
    matrix = torch.full((1000, 1000), 1.1, dtype=torch.float32)
    value = float(torch.tensor(1.1))
    assert quantities(matrix)["rms"] == pytest.approx(value, rel=1e-12)


def test_a_matrix_of_zeros_has_no_rank() -> None:
    assert math.isnan(quantities(torch.zeros(3, 2))["stable_rank"])


def test_the_matrices_are_the_published_fifty(ours: GPT) -> None:
    own = matrices(ours)
    a_block = [name.removeprefix("h.7.") for name in own if name.startswith("h.7.")]
    assert (len(own), a_block[:2]) == (50, ["attn.c_attn.weight", "attn.c_proj.weight"])
    assert {"tokens_embed.weight", "positions_embed.weight"} < set(own)


def test_one_number_is_made_of_many() -> None:
    found = {name: STATISTICS[name]([4.0, 1.0, 2.5]) for name in NAMES}
    assert found == {"least": 1.0, "largest": 4.0, "mean": 2.5}
