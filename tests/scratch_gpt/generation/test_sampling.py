"""The rules that change logits, one by one and together, and the choice of the next token."""

import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from scratch_gpt.generation.sampling import (
    Draws,
    Rules,
    apply_temperature,
    choose,
    forbid_repeated_ngrams,
    keep_top_k,
    keep_top_p,
    penalize_repetition,
)

OUT = -math.inf


def logits(*values: float) -> Tensor:
    return torch.tensor([values], dtype=torch.float64)


def kept(row: Tensor) -> list[int]:
    return torch.isfinite(row[0]).nonzero()[:, 0].tolist()


def test_a_penalty_divides_above_zero_and_multiplies_below() -> None:
    """It is applied once to a token that occurs twice, and not to one that does not occur."""
    expected = logits(1.0, -8.0, 3.0, 0.0)
    actual = penalize_repetition(logits(2.0, -4.0, 3.0, 0.0), torch.tensor([[1, 0, 1, 3]]), 2.0)
    assert torch.equal(expected, actual)


@pytest.mark.parametrize(
    ("size", "excluded"), [(1, [1, 2, 3]), (2, [2, 3]), (3, [3]), (4, []), (6, []), (7, [])]
)
def test_a_token_that_repeats_an_n_gram_is_excluded(size: int, excluded: list[int]) -> None:
    """Of 1 2 3 1 3 1: after 1 came 2 and 3; after 3 1 came 3; after 1 3 1 nothing yet."""
    text = torch.tensor([[1, 2, 3, 1, 3, 1]])
    row = forbid_repeated_ngrams(logits(*range(5)), text, size)
    assert [token for token in range(5) if token not in excluded] == kept(row)


def test_one_window_does_not_allow_a_token_that_another_excludes() -> None:
    """Of 1 2 3 2 1 the 2 follows a 1, and later a 3: it stays excluded after a 1."""
    row = forbid_repeated_ngrams(logits(*range(4)), torch.tensor([[1, 2, 3, 2, 1]]), 2)
    assert kept(row) == [0, 1, 3]


def test_each_row_has_its_own_text() -> None:
    given = torch.tensor([[0.5, -1.5, 2.5], [3.5, -4.5, 5.5]])
    rows = forbid_repeated_ngrams(given, torch.tensor([[0, 1], [2, 2]]), 1)
    assert rows.tolist() == [[OUT, OUT, 2.5], [3.5, -4.5, OUT]]


def test_a_temperature_divides() -> None:
    assert torch.equal(logits(4.0, -2.0), apply_temperature(logits(2.0, -1.0), 0.5))


@pytest.mark.parametrize(("k", "ids"), [(1, [2]), (2, [0, 2, 3]), (3, [0, 2, 3]), (5, [*range(5)])])
def test_top_k_keeps_ties(k: int, ids: list[int]) -> None:
    assert ids == kept(keep_top_k(logits(1.0, 0.0, 3.0, 1.0, -1.0), k))


@pytest.mark.parametrize(
    ("p", "ids"),
    [
        *((1e-9, [1]), (0.49, [1]), (0.51, [1, 3]), (0.79, [1, 3])),
        *((0.81, [0, 1, 3]), (0.96, [*range(4)])),
    ],
)
def test_top_p_keeps_the_token_that_reaches_p(p: float, ids: list[int]) -> None:
    """Of probabilities 0.15 0.5 0.05 0.3 the fewest whose sum is at least `p`."""
    assert ids == kept(keep_top_p(torch.log(logits(0.15, 0.5, 0.05, 0.3)) + 7.0, p))


def test_top_p_removes_lower_ids_first_and_keeps_excluded_tokens_excluded() -> None:
    assert kept(keep_top_p(logits(2.0, 2.0, 2.0, 2.0), 0.5)) == [2, 3]
    assert kept(keep_top_p(logits(0.0, OUT, 0.0, OUT), 0.6)) == [0, 2]


def test_sums_over_a_whole_vocabulary_are_not_rounded() -> None:
    """In float32 a sum over GPT-1's vocabulary is off by more than one token's share."""
    row = torch.zeros(1, 40_478)
    row[0, -1] = 1.0
    for share in (0.25, 0.5, 0.75):
        total = 40_477 + math.e
        assert len(kept(keep_top_p(row, share))) == 1 + math.ceil(share * total - math.e)


RULES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "penalty": lambda x, ids: penalize_repetition(x, ids, 1.7),
    "n-grams": lambda x, ids: forbid_repeated_ngrams(x, ids, 2),
    "temperature": lambda x, _: apply_temperature(x, 0.6),
    "top-k": lambda x, _: keep_top_k(x, 9),
    "top-p": lambda x, _: keep_top_p(x, 0.8),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_rule_does_not_modify_its_logits(
    rule: str, dtype: torch.dtype, draw: Callable[..., Tensor]
) -> None:
    x = draw(3, 31).to(dtype)
    before = x.clone()
    result = RULES[rule](x, torch.tensor([[1, 2], [3, 3], [0, 6]]))
    assert torch.equal(before, x)
    assert dtype == result.dtype
    assert not torch.equal(before, result)


DRAWS = 10_000

SIX_DEVIATIONS = 6.0
"""By chance a sum of squares is this far above its mean less than once in a million runs."""


def test_without_rules_there_is_no_copy() -> None:
    x = torch.randn(2, 5)
    assert x is Rules().processed(x, torch.zeros(2, 1, dtype=torch.long))
    assert x is Rules(sampled=True, top_p=1.0).processed(x, torch.zeros(2, 1, dtype=torch.long))


def test_the_rules_are_applied_in_order(draw: Callable[..., Tensor]) -> None:
    """Penalty, n-grams, temperature, top-k, top-p; another order gives other logits."""
    ids = torch.tensor([[1, 2, 1], [3, 3, 3], [0, 9, 0], [8, 7, 8]])
    x = draw(4, 31).scatter(-1, ids, 2.0)  # the rules of the text meet what is likely
    of_text = {"repetition_penalty": 1.7, "no_repeat_ngram_size": 2}
    rules = Rules(**of_text, temperature=0.6, top_k=9, top_p=0.8, sampled=True)

    def applied(order: list[int]) -> Tensor:
        result = x
        for index in order:
            result = list(RULES.values())[index](result, ids)
        return result

    assert torch.equal(applied([0, 1, 2, 3, 4]), rules.processed(x, ids))
    for wrong in ([0, 1, 2, 4, 3], [0, 1, 4, 3, 2], [1, 2, 3, 4, 0], [0, 2, 3, 1, 4]):
        assert not torch.equal(applied(wrong), rules.processed(x, ids))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_become_float32_first(dtype: torch.dtype) -> None:
    given = torch.tensor([[1.1, -2.3, 0.7]], dtype=dtype)
    result = Rules(temperature=0.7, sampled=True).processed(given, torch.tensor([[2]]))
    assert result.dtype is torch.float32
    assert result.tolist() == (given.float() / 0.7).tolist()


REJECTED: list[dict[str, Any]] = [
    *({"temperature": value} for value in (0.0, -1.0, math.nan, math.inf)),
    *({"top_k": value} for value in (0, -1, True)),
    *({"top_p": value} for value in (0.0, -0.1, 1.1, math.nan)),
    *({"repetition_penalty": value} for value in (0.0, -2.0, math.nan, math.inf)),
    *({"no_repeat_ngram_size": value} for value in (-1, True)),
]


@pytest.mark.parametrize("bad", REJECTED, ids=str)
def test_a_value_out_of_range_is_rejected(bad: dict[str, Any]) -> None:
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; allowed: .+"):
        Rules(**{"sampled": True} | bad)


@pytest.mark.parametrize("idle", [{"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.9}], ids=str)
def test_a_sampling_rule_without_sampling_is_rejected(idle: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="where sampled is False"):
        Rules(**idle)
    assert Rules(**idle, sampled=True).sampled


OF_ANOTHER_TYPE = (
    *("temperature='1'", "temperature=True", "temperature=0", "top_k=1.5", "top_p='all'"),
    *("no_repeat_ngram_size=0.5", "repetition_penalty=None", "sampled=1"),
)


@pytest.fixture(scope="module")
def elsewhere() -> list[str]:
    """Return another process's output: errors of wrong types, and a seed's number."""
    lines = [
        f"try: Rules({wrong})\nexcept ValueError as error: print(str(error).split()[0])"
        for wrong in OF_ANOTHER_TYPE
    ]
    imports = "from scratch_gpt.generation.sampling import Draws, Rules"
    source = "\n".join([imports, *lines, "print(Draws(11, [5]).next().tolist())"])
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    return done.stdout.splitlines()


def test_a_value_of_another_type_is_rejected_without_type_checks(elsewhere: list[str]) -> None:
    assert [wrong.split("=")[0] for wrong in OF_ANOTHER_TYPE] == elsewhere[:-1]


def test_a_seed_gives_the_same_numbers_in_another_process(elsewhere: list[str]) -> None:
    assert str(Draws(11, [5]).next().tolist()) == elsewhere[-1]


def test_a_top_k_above_the_vocabulary_is_rejected() -> None:
    ids = torch.zeros(1, 1, dtype=torch.long)
    with pytest.raises(ValueError, match=r"^top_k is 6; allowed: at most the vocabulary's 5"):
        Rules(top_k=6, sampled=True).processed(torch.zeros(1, 5), ids)
    assert Rules(top_k=5, sampled=True).processed(torch.zeros(1, 5), ids).isfinite().all()


def test_of_equal_logits_the_lowest_id_is_taken() -> None:
    assert choose(torch.tensor([[1.0, 3.0, 3.0], [2.0, 2.0, 2.0]]), Rules()).tolist() == [1, 0]


@pytest.mark.parametrize("rules", [Rules(), Rules(sampled=True)], ids=["greedy", "sampled"])
@pytest.mark.parametrize(
    ("value", "why"), [(-math.inf, "excluded by the rules"), (math.nan, "nan"), (math.inf, "inf")]
)
def test_a_row_without_a_choice_is_named(value: float, why: str, rules: Rules) -> None:
    x = torch.zeros(3, 4)
    x[1] = value
    with pytest.raises(ValueError, match=f"row 1.*{why}"):
        choose(x, rules, Draws(0, 3))


def test_a_draw_needs_a_stream() -> None:
    with pytest.raises(ValueError, match=r"^draws is None"):
        choose(torch.zeros(1, 2), Rules(sampled=True))


@pytest.mark.parametrize("seed", [-1, 1 << 64, True])
def test_a_seed_out_of_range_is_rejected(seed: int) -> None:
    with pytest.raises(ValueError, match=f"^seed is {seed!r}; allowed"):
        Draws(seed, 1)


def drawn(seed: int, rows: int | list[int], steps: int = 5) -> list[list[float]]:
    draws = Draws(seed, rows)
    return torch.stack([draws.next() for _ in range(steps)], dim=1).tolist()


def test_each_row_has_its_own_stream() -> None:
    three = drawn(7, 3)
    assert [three[2], three[0]] == drawn(7, [2, 0])
    assert three[:1] == drawn(7, 1)
    numbers = [number for row in three + drawn(8, 3) for number in row]
    assert len(numbers) == len(set(numbers))
    assert all(0.0 <= number < 1.0 for number in numbers)


class Fixed(Draws):
    def __init__(self, number: float) -> None:
        self.number = number

    def next(self) -> Tensor:
        return torch.tensor([self.number], dtype=torch.float64)


ALMOST_ONE = math.nextafter(1.0, 0.0)


@pytest.mark.parametrize(
    ("number", "token"),
    [(0.0, 1), (0.24, 1), (0.26, 3), (0.74, 3), (0.76, 4), (ALMOST_ONE, 4)],
)
def test_the_first_sum_above_the_number_is_taken(number: float, token: int) -> None:
    """Of 0, 1/4, 0, 1/2, 1/4, 0 no token of probability 0 is chosen, at either end."""
    x = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]]).log()
    assert [token] == choose(x, Rules(sampled=True), Fixed(number)).tolist()


def deviation(temperature_drawn: float, temperature_expected: float) -> float:
    """Return by how many deviations the counts of many draws differ from the expected ones."""
    x = torch.tensor([1.5, -1.0, 0.5, 0.0, 2.0, -2.0, 0.25], dtype=torch.float64)
    rules = Rules(temperature=temperature_drawn, sampled=True)
    rows = rules.processed(x.expand(DRAWS, -1), torch.zeros(DRAWS, 1, dtype=torch.long))
    counts = np.bincount(choose(rows, rules, Draws(3, DRAWS)).numpy(), minlength=len(x))
    weights = np.exp(x.numpy() / temperature_expected)
    expected = DRAWS * weights / weights.sum()
    freedom = len(x) - 1
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def test_tokens_are_sampled_by_their_probability() -> None:
    assert abs(deviation(0.9, 0.9)) < SIX_DEVIATIONS
    assert deviation(0.9 * 1.1, 0.9) > SIX_DEVIATIONS
    assert deviation(0.9 * 0.9, 0.9) > SIX_DEVIATIONS
