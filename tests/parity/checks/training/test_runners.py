"""Dropout masks, batches as windows, and orders of features: both sides get the same."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checks.training.runners import (
    DropoutMasks,
    Recipe,
    ReferenceRun,
    SuppliedNumbers,
    batches,
    data_of,
)
from reference.training_oracle import window_starts
from scratch_gpt.data import Windows
from scratch_gpt.dropout import dropout
from scratch_gpt.kernels.tiled_attention import tiled_attention

SHAPES = {"embeddings": (4, 3, 5), "h.0.attn.weights": (4, 2, 3, 3), "h.0.attn": (4, 3, 5)}


def run(draws: DropoutMasks) -> dict[str, torch.Tensor]:
    return {name: draws.keeps(name, torch.ones(shape), 0.5) for name, shape in SHAPES.items()}


def test_parts_draw_what_the_batch_drew() -> None:
    draws = DropoutMasks(7, 1, 4)
    kept = run(draws)
    with SuppliedNumbers(draws) as supplied:
        for first in (0, 2):
            supplied.begin(2)
            found = {n: dropout(torch.ones(2, *s[1:]), 0.5) > 0.0 for n, s in SHAPES.items()}
            assert supplied.sites == list(SHAPES)
            assert all(torch.equal(kept[n][first : first + 2], found[n]) for n in SHAPES)


@pytest.mark.parametrize("rows", [1, 3])
def test_tiles_get_the_numbers_of_the_whole(rows: int) -> None:
    heads, time, width = 2, 7, 4
    draws = DropoutMasks(7, 1, rows)
    probability = 0.3
    kept = draws.keeps("h.0.attn.weights", torch.ones(rows, heads, time, time), probability)
    query, key, value = torch.randn(3, rows, heads, time, width, dtype=torch.float64)
    with SuppliedNumbers(draws) as supplied:
        supplied.begin(rows)
        context = tiled_attention(query, key, value, None, None, probability, tile=3)
    hidden = torch.ones(time, time).triu(1).bool()
    scores = (query @ key.transpose(-2, -1) * width**-0.5).masked_fill(hidden, -torch.inf)
    right = scores.softmax(-1) * kept / (1.0 - probability) @ value
    assert supplied.sites == ["h.0.attn.weights"]
    torch.testing.assert_close(context, right, rtol=1e-12, atol=1e-12)


def test_seed_step_and_place_make_other_draws() -> None:
    one = run(DropoutMasks(7, 1, 4))
    assert not torch.equal(one["embeddings"], one["h.0.attn"])
    for other in (run(DropoutMasks(7, 2, 4)), run(DropoutMasks(8, 1, 4))):
        assert not torch.equal(one["embeddings"], other["embeddings"])
    assert all(torch.equal(one[name], again) for name, again in run(DropoutMasks(7, 1, 4)).items())


@pytest.mark.parametrize(
    "asked", [["embeddings", "h.0.attn", "nowhere"], ["h.0.attn.weights", "h.0.attn", "nowhere"]]
)
def test_a_place_left_out_and_one_too_many_are_seen(asked: list[str]) -> None:
    draws = DropoutMasks(7, 1, 4)
    run(draws)
    with SuppliedNumbers(draws) as supplied:
        supplied.begin(4)
        for name in (*asked[:2], "h.0.attn"):
            dropout(torch.ones(SHAPES[name]), 0.5)
    assert supplied.sites == asked


def test_afterwards_our_dropout_draws_for_itself() -> None:
    draws = DropoutMasks(7, 1, 4)
    with SuppliedNumbers(draws):
        pass
    torch.manual_seed(0)
    assert 0 < int((dropout(torch.ones(100), 0.5) > 0.0).sum()) < 100


@pytest.mark.parametrize("seed", [0, 3])
@pytest.mark.parametrize(("tokens", "time"), [(6, 6), (83, 6), (29, 2), (1_000, 37)])
def test_the_references_windows_are_those_of_the_trainer(tokens: int, time: int, seed: int) -> None:
    ids = np.arange(tokens)
    ours = Windows(ids, time=time, seed=seed)
    starts = [s for epoch in range(3) for s in window_starts(tokens, time, seed, epoch)]
    assert ours.rows(0, len(starts))[:, 0].tolist() == starts


@pytest.mark.parametrize("vocab_size", [11, 70_000])
def test_batches_are_read_from_prepared_text(vocab_size: int, tmp_path: Path) -> None:
    made = batches(steps=3, parts=2, batch=2, time=5, vocab_size=vocab_size, seed=4)
    data = data_of(tmp_path, made, 0, vocab_size)
    assert data.manifest.recipe.bytes_per_token == (2 if vocab_size < 1 << 16 else 4)
    assert torch.equal(Windows(data.train, time=5, seed=0).rows(0, 12), torch.cat(made))


def test_another_order_is_the_same_function(two_theirs: OpenAIGPTLMHeadModel) -> None:
    """In float64 the gradients agree; in float32 they round differently."""
    ids = batches(steps=1, parts=2, batch=1, time=9, vocab_size=211, seed=0)
    recipe = Recipe(variant="adamw", optimizer="adamw", batches=ids, dropout=True)
    largest = {}
    for dtype in (torch.float64, torch.float32):
        runs = [ReferenceRun(two_theirs, recipe, dtype, seed) for seed in (None, 0)]
        for one in runs:
            one.backward(0, DropoutMasks(0, 0, 2))
        found = [
            {n: one.usual(n, p.grad) for n, p in one.parameters.items() if p.grad is not None}
            for one in runs
        ]
        assert len(found[0]) == len(found[1]) == 26
        largest[dtype] = max(float((found[0][n] - found[1][n]).abs().max()) for n in found[0])
        assert not torch.equal(
            runs[0].parameters["h.0.ln_1.bias"], runs[1].parameters["h.0.ln_1.bias"]
        )
    assert largest[torch.float64] < 1e-13
    assert 1e-9 < largest[torch.float32] < 1e-5
