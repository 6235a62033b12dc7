"""The oracle against GPT-1 worked through number by number, in loops, with `math` alone."""

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import mul
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reference import oracle
from reference.surrogate import Surrogate

Row = list[float]
Rows = list[Row]
Tensors = Mapping[str, Any]
Shown = Iterator[tuple[str, Any]]

N_LAYER, N_HEAD, HEAD_WIDTH, WIDTH = 2, 3, 7, 21
IDS = [[3, 210, 0, 7, 3], [12, 5, 21, 30, 1]]
COUNTED = [[0, 1, 2, 3, 4]]
SCATTERED = [[4, 3, 388, 3, 0], [0, 0, 1, 2, 7]]
ALL_REAL = [[True] * 5, [True] * 5]
WITH_HOLES = [[True] * 5, [False, True, False, True, False]]


def forward(
    tensors: Tensors, ids: list[int], places: list[int], real: list[bool], epsilon: float
) -> Shown:
    """Yield every tap of one text as nested lists, and go on with what is sent back."""
    tokens, positions = tensors["tokens_embed.weight"], tensors["positions_embed.weight"]
    of_tokens = yield "embeddings.tokens", [tokens[token] for token in ids]
    of_places = yield "embeddings.positions", [positions[place] for place in places]
    x = yield "embeddings", added(of_tokens, of_places)
    for index in range(N_LAYER):
        x = yield from block(tensors, f"h.{index}", x, real, epsilon)
    logits = yield "logits", [[dot(row, word) for word in tokens] for row in x]
    chances = [shares(row) for row in logits]
    yield "loss", [-math.log(chances[at][token]) for at, token in enumerate(ids[1:])]


def block(tensors: Tensors, name: str, x: Rows, real: list[bool], epsilon: float) -> Shown:
    context = yield from attend(tensors, f"{name}.attn", x, real)
    a = yield f"{name}.attn", mapped(tensors, f"{name}.attn.c_proj", context)
    a = yield f"{name}.ln_1.input", added(x, a)
    n = yield f"{name}.ln_1", normed(tensors, f"{name}.ln_1", a, epsilon)
    m = yield f"{name}.mlp.c_fc", mapped(tensors, f"{name}.mlp.c_fc", n)
    m = yield f"{name}.mlp.gelu", [[gelu(number) for number in row] for row in m]
    m = yield f"{name}.mlp", mapped(tensors, f"{name}.mlp.c_proj", m)
    m = yield f"{name}.ln_2.input", added(n, m)
    return (yield f"{name}.ln_2", normed(tensors, f"{name}.ln_2", m, epsilon))


def attend(tensors: Tensors, name: str, x: Rows, real: list[bool]) -> Shown:
    """Yield attention's taps: each position looks at itself, and at the real ones before it."""
    joined = mapped(tensors, f"{name}.c_attn", x)
    query = yield f"{name}.query", heads(joined, 0)
    key = yield f"{name}.key", heads(joined, WIDTH)
    value = yield f"{name}.value", heads(joined, 2 * WIDTH)
    scores = yield (
        f"{name}.scores",
        [
            [[dot(q, k) / math.sqrt(HEAD_WIDTH) for k in key[head]] for q in query[head]]
            for head in range(N_HEAD)
        ],
    )
    weights = yield (
        f"{name}.weights",
        [[looks(row, at, real) for at, row in enumerate(square)] for square in scores],
    )
    gathered = [
        [[dot(row, [v[d] for v in value[head]]) for d in range(HEAD_WIDTH)] for row in square]
        for head, square in enumerate(weights)
    ]
    return (yield f"{name}.context", [[*chain(*parts)] for parts in zip(*gathered, strict=True)])


def heads(joined: Rows, start: int) -> list[Rows]:
    """Return `[head time head_width]`: each head takes the next run of features."""
    starts = [start + head * HEAD_WIDTH for head in range(N_HEAD)]
    return [[row[at : at + HEAD_WIDTH] for row in joined] for at in starts]


def looks(scores: Row, at: int, real: list[bool]) -> Row:
    """Return one row of attention weights: 0 at all that is hidden."""
    seen = [key for key in range(at + 1) if real[key] or key == at]
    weights = [0.0] * len(scores)
    for key, weight in zip(seen, shares([scores[key] for key in seen]), strict=True):
        weights[key] = weight
    return weights


def shares(scores: Row) -> Row:
    parts = [math.exp(score) for score in scores]
    return [part / sum(parts) for part in parts]


def gelu(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def dot(x: Row, y: Row) -> float:
    return sum(map(mul, x, y))


def added(x: Rows, y: Rows) -> Rows:
    return [[p + q for p, q in zip(*pair, strict=True)] for pair in zip(x, y, strict=True)]


def mapped(tensors: Tensors, name: str, x: Rows) -> Rows:
    columns = list(zip(*tensors[f"{name}.weight"], strict=True))
    bias = tensors[f"{name}.bias"]
    return [[dot(row, column) + b for column, b in zip(columns, bias, strict=True)] for row in x]


def normed(tensors: Tensors, name: str, x: Rows, epsilon: float) -> Rows:
    """Return each row without its mean and with its biased deviation made 1, then scaled."""
    gain, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    rows = []
    for row in x:
        mean = sum(row) / len(row)
        root = math.sqrt(sum((number - mean) ** 2 for number in row) / len(row) + epsilon)
        rows.append([(n - mean) / root * g + b for n, g, b in zip(row, gain, bias, strict=True)])
    return rows


def walked(taps: Iterator[Any], reply: Callable[[Any], Any]) -> dict[str, Any]:
    shown: dict[str, Any] = {}
    answer = None
    while True:
        try:
            name, value = taps.send(answer)
        except StopIteration:
            return shown
        assert name not in shown
        shown[name] = value
        answer = reply(value)


def bent(value: Any) -> Any:  # noqa: ANN401 - lists of lists, or an array
    return [bent(part) for part in value] if isinstance(value, list) else 0.75 * value + 0.125


@pytest.mark.parametrize("reply", [lambda value: value, bent], ids=["watched", "replaced"])
@pytest.mark.parametrize(
    ("places", "real", "epsilon"),
    [
        pytest.param(None, None, 1e-5, id="plain"),
        pytest.param(None, WITH_HOLES, 1e-5, id="padded"),
        pytest.param(SCATTERED, WITH_HOLES, 1e-5, id="padded, positions given"),
        pytest.param(None, None, 0.3, id="large epsilon"),
    ],
)
def test_every_tap_is_what_loops_give(  # noqa: PLR0913 - what is called, and what with
    reply: Callable[[Any], Any],
    places: list[list[int]] | None,
    real: list[list[bool]] | None,
    epsilon: float,
    tiny: Surrogate,
    released: Callable[..., list[NDArray[np.floating]]],
    assert_same: Callable[[Tensor, Tensor], None],
) -> None:
    """All taps are equal, in order, and so is all that follows from what is sent back."""
    weights = oracle.arrange(released(tiny.tensors, N_LAYER), n_head=N_HEAD)
    options = {
        "positions": None if places is None else np.array(places),
        "mask": None if real is None else np.array(real),
    }
    actual = walked(oracle.forward(weights, np.array(IDS), epsilon=epsilon, **options), reply)

    tensors = {name: tensor.tolist() for name, tensor in tiny.tensors.items()}
    texts = [
        walked(forward(tensors, ids, where, which, epsilon), reply)
        for ids, where, which in zip(IDS, places or COUNTED * 2, real or ALL_REAL, strict=True)
    ]
    assert list(texts[0]) == list(actual)
    for name, value in actual.items():
        expected = torch.tensor([text[name] for text in texts], dtype=torch.float64)
        assert_same(expected[: len(value)], torch.from_numpy(value))
