"""Lower bounds of a model's time: which products they make, and in which layout."""

import math
from collections.abc import Callable

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench import limits
from bench.limits import READS, fastest, matrices, product_flops, products_alone
from bench.models import Models

Recorded = Callable[[], TorchDispatchMode]
PRODUCTS = {"mm", "mv", "addmv", "bmm", "_linear_pointwise"}


@pytest.fixture(autouse=True)
def no_flush(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "cache_flusher", lambda _device: lambda: None)


def test_a_step_reads_every_matrix_once(models: Models, recorded: Recorded) -> None:
    """The position table is not read: a step reads one row of it."""
    weights = matrices(models.ours)
    assert 2 * sum(weight.numel() for weight in weights) == product_flops(models.ours, 1, 1)
    read = fastest(weights, READS["bare read"], rounds=1)
    with recorded() as operations:
        read()
    made = [math.prod(shape) for name, shape in operations.ran if name in PRODUCTS]
    assert sorted(made) == sorted(weight.shape[1] for weight in weights)


def test_the_products_of_a_forward_pass(models: Models, recorded: Recorded) -> None:
    run = products_alone(models.ours, 2, 5)
    with torch.no_grad(), recorded() as operations:
        run()
    made = [math.prod(shape) for name, shape in operations.ran if name in PRODUCTS]
    assert sorted(made) == sorted(10 * out for out in [63, 21, 84, 21] * 12 + [211])
    per_row = 12 * (21 * 63 + 21 * 21 + 2 * 21 * 84) + 21 * 211
    assert product_flops(models.ours, 2, 5) == 2 * 10 * per_row


def test_every_layout_computes_the_product(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    """A layout that multiplied another matrix would be no limit."""
    monkeypatch.setattr(limits, "_drawn", lambda rows, weight: torch.ones(rows, weight.shape[0]))
    weight = matrices(models.ours)[0].clone()
    wanted = weight.sum(0)
    of_rows = (
        limits._by_rows,
        limits._by_columns,
        limits._turned,
        limits._in_blocks,
        limits._by_onednn,
    )
    for layout in of_rows:
        product = layout(weight, rows=3)()
        joined = torch.cat(list(product), dim=1) if isinstance(product, list) else product
        rows = joined.T if joined.shape[0] == len(wanted) else joined
        torch.testing.assert_close(rows, wanted.expand(3, -1))
    torch.testing.assert_close(limits._by_vector(weight)(), wanted)
    torch.testing.assert_close(limits._added(weight)(), wanted + 1.0)
    torch.testing.assert_close(limits._by_threads(weight)().sum(0)[0], wanted)


@pytest.mark.parametrize(("place", "made"), [(0, "mm"), (1, "mv"), (2, "addmv"), (3, "bmm")])
def test_the_fastest_layout_is_taken(
    place: int, made: str, models: Models, monkeypatch: pytest.MonkeyPatch, recorded: Recorded
) -> None:
    layouts = READS["shared read"]
    clock = iter([abs(place - at) + 1.0 for _ in range(5) for at in range(len(layouts))])
    monkeypatch.setattr(limits, "seconds", lambda *_, **__: next(clock))
    with recorded() as operations:
        fastest(matrices(models.ours), layouts, rounds=1)()
    assert {name for name, _ in operations.ran} & PRODUCTS == {made}
