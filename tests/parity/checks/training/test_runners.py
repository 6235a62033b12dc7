"""Dropout masks: both sides use the same random numbers, for a batch and for micro-batches."""

import torch

from parity.checks.training.runners import DropoutMasks
from scratch_gpt.dropout import dropout

SHAPES = {"embeddings": (4, 3, 5), "h.0.attn.weights": (4, 2, 3, 3), "h.0.attn": (4, 3, 5)}


def run(draws: DropoutMasks) -> dict[str, torch.Tensor]:
    return {name: draws.keeps(name, torch.ones(shape), 0.5) for name, shape in SHAPES.items()}


def test_parts_draw_what_the_batch_drew() -> None:
    draws = DropoutMasks(7, 1, 4)
    kept = run(draws)
    for first in (0, 2):
        with draws.supplied_to_ours(first) as asked:
            found = {n: dropout(torch.ones(2, *s[1:]), 0.5) > 0.0 for n, s in SHAPES.items()}
        assert asked == list(SHAPES)
        assert all(torch.equal(kept[n][first : first + 2], found[n]) for n in SHAPES)


def test_seed_step_and_place_make_other_draws() -> None:
    one = run(DropoutMasks(7, 1, 4))
    assert not torch.equal(one["embeddings"], one["h.0.attn"])
    for other in (run(DropoutMasks(7, 2, 4)), run(DropoutMasks(8, 1, 4))):
        assert not torch.equal(one["embeddings"], other["embeddings"])
    assert all(torch.equal(one[name], again) for name, again in run(DropoutMasks(7, 1, 4)).items())


def test_a_place_left_out_and_one_too_many_are_seen() -> None:
    draws = DropoutMasks(7, 1, 4)
    run(draws)
    with draws.supplied_to_ours(0) as asked:
        for name in ("embeddings", "h.0.attn", "h.0.attn"):
            dropout(torch.ones(SHAPES[name]), 0.5)
    assert asked == ["embeddings", "h.0.attn", "nowhere"]


def test_afterwards_our_dropout_draws_for_itself() -> None:
    draws = DropoutMasks(7, 1, 4)
    with draws.supplied_to_ours(0):
        pass
    torch.manual_seed(0)
    assert 0 < int((dropout(torch.ones(100), 0.5) > 0.0).sum()) < 100
