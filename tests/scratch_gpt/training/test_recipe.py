"""A recipe is a run that can be."""

import dataclasses

import pytest

from scratch_gpt.training.recipe import HELP, RECIPES, Recipe, kept_fields

OUTSIDE = {
    **dict.fromkeys(("n_layer", "n_embd", "n_head", "n_positions", "batch_size", "micro_batch"), 0),
    **dict.fromkeys(("evaluate_every", "evaluation_windows", "checkpoint_every", "keep"), 0),
    **dict.fromkeys(("merges", "steps", "threads", "sample_every"), -1),
    "warmup": -2,
    **dict.fromkeys(("dropout", "beta1", "beta2", "validation_fraction"), 1.0),
    **dict.fromkeys(
        ("initializer_range", "epochs", "learning_rate", "epsilon", "clip_norm"), float("inf")
    ),
    **dict.fromkeys(
        ("schedule", "optimizer", "pretokenizer", "dtype", "device", "backend"), "other"
    ),
    "seed": 2**64,
    "weight_decay": float("nan"),
    "sample_tokens": 0,
}


def test_the_defaults_are_the_papers() -> None:
    """Section 4.1: sizes, schedule, batch, regularisation."""
    paper = Recipe()
    assert (paper.n_layer, paper.n_embd, paper.n_head, paper.n_positions) == (12, 768, 12, 512)
    assert (paper.learning_rate, paper.schedule) == (2.5e-4, "cosine")
    assert (paper.batch_size, paper.epochs, paper.merges) == (64, 100.0, 40_000)
    assert (paper.dropout, paper.weight_decay, paper.clip_norm) == (0.1, 0.01, 1.0)
    assert paper.initializer_range == 0.02
    assert RECIPES["paper"] == paper


def test_every_field_has_a_range_and_a_meaning() -> None:
    """No field that nobody thought of."""
    fields = dataclasses.fields(Recipe)
    assert {field.name for field in fields} == set(OUTSIDE)
    assert all(field.metadata[HELP] for field in fields)


@pytest.mark.parametrize("name", OUTSIDE)
def test_what_cannot_be_is_refused(name: str) -> None:
    """By the field's name, with its value."""
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got ") as refusal:
        dataclasses.replace(Recipe(), **{name: OUTSIDE[name]})
    assert repr(OUTSIDE[name]) in str(refusal.value)


def test_a_truth_value_is_no_number() -> None:
    """Python would take True for 1."""
    with pytest.raises(ValueError, match=r"seed must be a whole number from 0 .*, got True"):
        Recipe(seed=True)


def test_heads_share_the_width() -> None:
    """Evenly."""
    with pytest.raises(ValueError, match="n_embd must be a multiple of n_head, got 768 and 7"):
        Recipe(n_head=7)


def test_a_warm_up_is_shorter_than_a_run_whose_length_is_given() -> None:
    """It would never reach its learning rate."""
    assert Recipe(steps=9, warmup=8).warmup == 8
    with pytest.raises(ValueError, match="warmup must be below steps, 8, got 8"):
        Recipe(steps=8, warmup=8)


def test_what_moves_no_number_may_change() -> None:
    """How often one looks, and how many checkpoints stay, is the user's at any time."""
    free = {field.name for field in dataclasses.fields(Recipe)} - set(kept_fields())
    often = {"evaluate_every", "checkpoint_every", "sample_every"}
    assert free == often | {"evaluation_windows", "keep", "sample_tokens"}
