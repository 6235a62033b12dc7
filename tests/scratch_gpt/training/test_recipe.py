"""A recipe's defaults, ranges and kept fields."""

import dataclasses
from typing import Any

import pytest

from scratch_gpt.training.recipe import HELP, RECIPES, Recipe, kept_fields

INVALID = {
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
    """Radford et al. 2018, section 4.1."""
    paper = Recipe()
    assert (paper.n_layer, paper.n_embd, paper.n_head, paper.n_positions) == (12, 768, 12, 512)
    assert (paper.learning_rate, paper.schedule) == (2.5e-4, "cosine")
    assert (paper.batch_size, paper.epochs, paper.merges) == (64, 100.0, 40_000)
    assert (paper.dropout, paper.weight_decay, paper.clip_norm) == (0.1, 0.01, 1.0)
    assert paper.initializer_range == 0.02
    assert RECIPES["paper"] == paper


def test_every_field_has_a_range_and_a_help_text() -> None:
    """A new field needs an entry in `INVALID`."""
    fields = dataclasses.fields(Recipe)
    assert {field.name for field in fields} == set(INVALID)
    assert all(field.metadata[HELP] for field in fields)


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_value_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must be .*, got ") as caught:
        dataclasses.replace(Recipe(), **{name: INVALID[name]})
    assert repr(INVALID[name]) in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": True}, r"seed must be a whole number from 0 .*, got True"),
        ({"n_head": 7}, "n_embd must be a multiple of n_head, got 768 and 7"),
        ({"steps": 8, "warmup": 8}, "warmup must be below steps, 8, got 8"),
    ],
)
def test_values_that_do_not_fit_are_rejected(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(**changes)


def test_the_warm_up_may_end_with_the_last_step_but_one() -> None:
    assert Recipe(steps=9, warmup=8).warmup == 8


def test_fields_without_effect_on_the_results_may_change() -> None:
    free = {field.name for field in dataclasses.fields(Recipe)} - set(kept_fields())
    intervals = {"evaluate_every", "checkpoint_every", "sample_every"}
    assert free == intervals | {"evaluation_windows", "keep", "sample_tokens"}
