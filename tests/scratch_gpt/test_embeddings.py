"""Token and position embeddings."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt.embeddings import Embedding, embed
from scratch_gpt.tap import no_tap

Draw = Callable[..., Tensor]


@pytest.fixture
def tables(loud: Callable[[nn.Module], nn.Module]) -> tuple[nn.Module, nn.Module]:
    return loud(Embedding(37, 21)), loud(Embedding(11, 21))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_looks_up_rows(
    dtype: torch.dtype, tables: tuple[Embedding, Embedding], token_ids: Tensor
) -> None:
    table, _ = tables
    rows = table.weight.tolist()
    expected = [[rows[i] for i in row] for row in token_ids.tolist()]
    actual = table(token_ids.to(dtype)).tolist()
    assert expected == actual


def test_a_repeated_id_gathers_its_gradients(
    tables: tuple[Embedding, Embedding], token_ids: Tensor
) -> None:
    table, _ = tables
    table(token_ids).sum().backward()
    flat = token_ids.flatten().tolist()
    expected = [[float(flat.count(i))] * 21 for i in range(37)]
    actual = table.weight.grad.tolist()
    assert expected == actual


@pytest.mark.parametrize(
    ("positions", "rows"),
    [
        pytest.param(None, [[0, 1, 2, 3, 4]] * 2, id="none counts from zero"),
        pytest.param([[9, 2, 10, 2, 0]], [[9, 2, 10, 2, 0]] * 2, id="one row serves the batch"),
        pytest.param(
            [[9, 2, 10, 2, 0], [1, 3, 5, 7, 9]],
            [[9, 2, 10, 2, 0], [1, 3, 5, 7, 9]],
            id="each row its own",
        ),
    ],
)
def test_adds_the_positions_rows(
    positions: list[list[int]] | None,
    rows: list[list[int]],
    tables: tuple[Embedding, Embedding],
    token_ids: Tensor,
) -> None:
    tokens, places = (table.weight.tolist() for table in tables)
    expected = [
        [
            [a + b for a, b in zip(tokens[token], places[place], strict=True)]
            for token, place in zip(*pair, strict=True)
        ]
        for pair in zip(token_ids.tolist(), rows, strict=True)
    ]
    given = None if positions is None else torch.tensor(positions)
    actual = embed(*tables, token_ids, given, no_tap).tolist()
    assert expected == actual


def test_taps_tokens_then_positions(tables: tuple[Embedding, Embedding], token_ids: Tensor) -> None:
    """First the tokens' rows, then the positions' rows with a batch axis of 1."""
    seen = []

    def watch(name: str, value: Tensor) -> Tensor:
        seen.append((name, list(value.shape)))
        return value

    embed(*tables, token_ids, None, watch)
    assert seen == [("embeddings.tokens", [2, 5, 21]), ("embeddings.positions", [1, 5, 21])]


@pytest.mark.parametrize("replaced", ["embeddings.tokens", "embeddings.positions"])
def test_uses_the_taps_result(
    replaced: str, tables: tuple[Embedding, Embedding], token_ids: Tensor
) -> None:
    parts = {}

    def silence(name: str, value: Tensor) -> Tensor:
        parts[name] = value
        return torch.zeros_like(value) if name == replaced else value

    actual = embed(*tables, token_ids, None, silence)
    (kept,) = (value for name, value in parts.items() if name != replaced)
    assert torch.equal(kept.expand_as(actual), actual)
