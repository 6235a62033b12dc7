"""Token and position embeddings."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt.embeddings import Embedding, embed
from scratch_gpt.tap import no_tap

Tables = tuple[Embedding, Embedding]


@pytest.fixture
def tables(loud: Callable[[nn.Module], nn.Module]) -> Tables:
    return loud(Embedding(37, 21)), loud(Embedding(11, 21))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_looks_up_rows(dtype: torch.dtype, tables: Tables, token_ids: Tensor) -> None:
    table, _ = tables
    rows = table.weight.tolist()
    expected = [[rows[i] for i in row] for row in token_ids.tolist()]
    assert table(token_ids.to(dtype)).tolist() == expected


def test_a_repeated_id_gathers_its_gradients(tables: Tables, token_ids: Tensor) -> None:
    table, _ = tables
    table(token_ids).sum().backward()
    flat = token_ids.flatten().tolist()
    assert table.weight.grad.tolist() == [[float(flat.count(i))] * 21 for i in range(37)]


@pytest.mark.parametrize(
    "positions",
    [None, [[9, 2, 10, 2, 0]], [[9, 2, 10, 2, 0], [1, 3, 5, 7, 9]]],
    ids=["from zero", "one row for the batch", "a row each"],
)
def test_adds_the_positions_rows(
    positions: list[list[int]] | None, tables: Tables, token_ids: Tensor
) -> None:
    tokens, places = (table.weight for table in tables)
    rows = torch.tensor(positions or [[0, 1, 2, 3, 4]]).expand(2, 5)
    expected = torch.stack(
        [tokens[i] + places[j] for i, j in zip(token_ids.flatten(), rows.flatten(), strict=True)]
    )
    given = None if positions is None else torch.tensor(positions)
    assert torch.equal(expected.view(2, 5, 21), embed(*tables, token_ids, given, no_tap))
