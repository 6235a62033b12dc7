"""The oracle against GPT-1 worked out in loops with `math` alone; its rules and rejections."""

import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from operator import mul
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reference import oracle
from reference.oracle import Weights
from reference.surrogate import Surrogate

Row = list[float]
Rows = list[Row]
Tensors = Mapping[str, Any]
Shown = Iterator[tuple[str, Any]]
Listed = list[NDArray[np.floating]]
Released = Callable[..., Listed]

N_LAYER, N_HEAD, HEAD_WIDTH, WIDTH = 2, 3, 7, 21
IDS = [[3, 210, 0, 7, 3], [12, 5, 21, 30, 1]]
COUNTED = [[0, 1, 2, 3, 4]]
SCATTERED = [[4, 3, 388, 3, 0], [0, 0, 1, 2, 7]]
ALL_REAL = [[True] * 5, [True] * 5]
WITH_HOLES = [[True] * 5, [False, True, False, True, False]]


def forward(
    tensors: Tensors, ids: list[int], places: list[int], real: list[bool], epsilon: float
) -> Shown:
    """Yield every tap of one text as nested lists; continue with the value that is sent back."""
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
def test_every_tap_equals_the_loops(  # noqa: PLR0913 - a call and its arguments
    reply: Callable[[Any], Any],
    places: list[list[int]] | None,
    real: list[list[bool]] | None,
    epsilon: float,
    tiny: Surrogate,
    released: Released,
    assert_same: Callable[[Tensor, Tensor], None],
) -> None:
    """All taps are equal, in order; with replaced values, too."""
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


# Rules and rejections.

TWO_TEXTS = np.array(IDS)


@pytest.fixture(scope="module")
def listed(tiny: Surrogate, released: Released) -> Listed:
    return released(tiny.tensors, 2)


@pytest.fixture(scope="module")
def weights(listed: Listed) -> Weights:
    return oracle.arrange(listed, n_head=3)


@pytest.mark.parametrize(
    "name", ["oracle", "attention_oracle", "training_oracle", "generation_oracle"]
)
def test_an_oracle_imports_numpy_alone(name: str, home_of: Callable[[str], Path | None]) -> None:
    source = f"""
import sys
before = set(sys.modules)
import reference.{name}
loaded = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(sorted(loaded - sys.stdlib_module_names))
"""
    done = subprocess.run(
        [sys.executable, "-c", source],
        cwd=home_of("reference").parent,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['numpy', 'reference']"


@pytest.mark.parametrize("count", [0, 1, 2, 3, 13, 15, 25])
def test_a_list_of_another_length_is_refused(count: int, listed: Listed) -> None:
    with pytest.raises(ValueError, match=rf"^expected 2 \+ 12 n_layer tensors, got {count}$"):
        oracle.arrange(listed[:count], n_head=3)


def test_a_wider_convolution_is_refused(listed: Listed) -> None:
    """The release's convolutions look at one position; no other is computed as if it did."""
    listed = [*listed[:2], np.concatenate([listed[2]] * 2), *listed[3:14]]
    weights = oracle.arrange(listed, n_head=3)
    message = r"expected a receptive field of 1, got weights of shape \(2, 21, 63\)"
    with pytest.raises(ValueError, match=message):
        dict(oracle.forward(weights, TWO_TEXTS))


def test_attention_sees_no_future(
    weights: Weights, assert_same: Callable[[NDArray[np.float64], Tensor], None]
) -> None:
    ids = np.arange(37)[None] * 5
    shown = dict(oracle.forward(weights, ids))
    for name in ("h.0.attn.weights", "h.1.attn.weights"):
        found = shown[name]
        assert_same(np.ones((1, 3, 37)), torch.from_numpy(found.sum(-1)))
        assert not found[:, :, ~np.tri(37, dtype=bool)].any()
        assert found[:, :, np.tri(37, dtype=bool)].all()


def test_scores_beyond_ten_thousand_leak_nothing(listed: Listed) -> None:
    """Where Hugging Face's mask of -1e4 lets the future through, this one does not."""
    loud = [*listed[:2], listed[2] * np.float32(300), *listed[3:]]
    shown = dict(oracle.forward(oracle.arrange(loud, n_head=3), TWO_TEXTS))
    assert np.abs(shown["h.0.attn.scores"]).max() > 1e4
    assert not shown["h.0.attn.weights"][:, :, ~np.tri(5, dtype=bool)].any()
    assert all(np.isfinite(value).all() for value in shown.values())


@pytest.mark.parametrize("strip", [1, 50, 210, 211, 212])
def test_logits_are_whole_however_they_are_cut(
    strip: int, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "_STRIP", strip)
    shown = dict(oracle.forward(weights, TWO_TEXTS))
    hidden, head = shown["h.1.ln_2"], weights.we[:211].astype(np.float64)
    expected = np.einsum("btw,vw->btv", hidden, head)
    np.testing.assert_allclose(expected, shown["logits"], rtol=1e-12, atol=1e-12)


def test_padding_changes_no_row_of_text(weights: Weights) -> None:
    mask = np.array([[True] * 5, [True, True, True, False, False]])
    other = TWO_TEXTS.copy()
    other[1, 3:] = [200, 0]
    shown = [dict(oracle.forward(weights, ids, mask=mask))["logits"] for ids in (TWO_TEXTS, other)]
    assert np.array_equal(shown[0][mask], shown[1][mask])
    assert not np.array_equal(shown[0][~mask], shown[1][~mask])


def test_one_token_has_no_loss(weights: Weights) -> None:
    shown = dict(oracle.forward(weights, TWO_TEXTS[:, :1]))
    assert list(shown)[-1] == "logits"
    assert np.array_equal(np.ones((2, 3, 1, 1)), shown["h.0.attn.weights"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_tap_is_float64(dtype: type[np.floating], listed: Listed) -> None:
    narrow = [tensor.astype(dtype) for tensor in listed]
    wide = [tensor.astype(np.float64) for tensor in narrow]
    found, expected = (
        dict(oracle.forward(oracle.arrange(tensors, n_head=3), TWO_TEXTS))
        for tensors in (narrow, wide)
    )
    assert {np.dtype(np.float64)} == {value.dtype for value in found.values()}
    assert all(np.array_equal(expected[name], value) for name, value in found.items())
