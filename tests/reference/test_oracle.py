"""The oracle's rules: what it is made of, what it sees, and what it refuses."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from reference import oracle
from reference.oracle import Weights
from reference.surrogate import Surrogate

Listed = list[NDArray[np.floating]]
Released = Callable[..., Listed]

IDS = np.array([[3, 210, 0, 7, 3], [12, 5, 21, 30, 1]])


@pytest.fixture(scope="module")
def listed(tiny: Surrogate, released: Released) -> Listed:
    return released(tiny.tensors, 2)


@pytest.fixture(scope="module")
def weights(listed: Listed) -> Weights:
    return oracle.arrange(listed, n_head=3)


def test_imports_numpy_alone(home_of: Callable[[str], Path | None]) -> None:
    source = """
        import sys
        before = set(sys.modules)
        import reference.oracle
        loaded = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(loaded - sys.stdlib_module_names))
    """
    done = subprocess.run(
        [sys.executable, "-c", re.sub(r"\n +", "\n", source)],
        cwd=home_of("reference").parent,
        capture_output=True,
        text=True,
        check=True,
    )
    expected = "['numpy', 'reference']"
    assert expected == done.stdout.strip()


def test_one_matrix_holds_tokens_then_positions(tiny: Surrogate, weights: Weights) -> None:
    """Position `p` is the row after the last token, and `p` more."""
    assert 211 == weights.n_vocab  # noqa: SIM300 - expected first
    assert np.array_equal(tiny.tensors["tokens_embed.weight"], weights.we[:211])
    assert np.array_equal(tiny.tensors["positions_embed.weight"], weights.we[211:])


def test_a_block_takes_the_next_twelve(listed: Listed, weights: Weights) -> None:
    expected = [[id(tensor) for tensor in listed[at : at + 12]] for at in (2, 14)]
    assert expected == [[id(tensor) for tensor in block] for block in weights.blocks]


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
        dict(oracle.forward(weights, IDS))


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
    shown = dict(oracle.forward(oracle.arrange(loud, n_head=3), IDS))
    assert np.abs(shown["h.0.attn.scores"]).max() > 1e4
    assert not shown["h.0.attn.weights"][:, :, ~np.tri(5, dtype=bool)].any()
    assert all(np.isfinite(value).all() for value in shown.values())


@pytest.mark.parametrize("strip", [1, 50, 210, 211, 212])
def test_logits_are_whole_however_they_are_cut(
    strip: int, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracle, "_STRIP", strip)
    shown = dict(oracle.forward(weights, IDS))
    hidden, head = shown["h.1.ln_2"], weights.we[:211].astype(np.float64)
    expected = np.einsum("btw,vw->btv", hidden, head)
    np.testing.assert_allclose(expected, shown["logits"], rtol=1e-12, atol=1e-12)


def test_padding_changes_no_row_of_text(weights: Weights) -> None:
    mask = np.array([[True] * 5, [True, True, True, False, False]])
    other = IDS.copy()
    other[1, 3:] = [200, 0]
    shown = [dict(oracle.forward(weights, ids, mask=mask))["logits"] for ids in (IDS, other)]
    assert np.array_equal(shown[0][mask], shown[1][mask])
    assert not np.array_equal(shown[0][~mask], shown[1][~mask])


def test_one_token_has_no_loss(weights: Weights) -> None:
    shown = dict(oracle.forward(weights, IDS[:, :1]))
    assert "logits" == list(shown)[-1]  # noqa: SIM300 - expected first
    assert np.array_equal(np.ones((2, 3, 1, 1)), shown["h.0.attn.weights"])


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_every_tap_is_float64(dtype: type[np.floating], listed: Listed) -> None:
    narrow = [tensor.astype(dtype) for tensor in listed]
    wide = [tensor.astype(np.float64) for tensor in narrow]
    found, expected = (
        dict(oracle.forward(oracle.arrange(tensors, n_head=3), IDS)) for tensors in (narrow, wide)
    )
    assert {np.dtype(np.float64)} == {value.dtype for value in found.values()}
    assert all(np.array_equal(expected[name], value) for name, value in found.items())
