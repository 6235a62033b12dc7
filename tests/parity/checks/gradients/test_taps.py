"""The plan of a backward pass: everything once, and each gradient after what it is made from."""

import pytest

from parity.checkpoints.mapping import rows
from parity.checks.gradients.taps import (
    BLOCK,
    direction,
    gradient_names,
    is_parameter,
    kind_of,
    parameter_names,
)
from parity.core.taps import Tap, taps

LAYERS = 3
NAMES = [place.name for place in gradient_names(LAYERS)]


def test_every_tap_and_every_parameter_is_there_once() -> None:
    assert set(NAMES) == {tap.name for tap in taps(LAYERS)} - {"loss"} | {
        row.ours for row in rows(LAYERS)
    }
    assert len(NAMES) == len(set(NAMES))


def test_the_released_model_has_146_parameters() -> None:
    assert 146 == len(parameter_names(12)) == len(set(parameter_names(12)))


def test_taps_stand_in_the_reverse_of_the_networks_order() -> None:
    forward = [tap.name for tap in taps(LAYERS) if tap.name != "loss"]
    assert forward[::-1] == [name for name in NAMES if not is_parameter(name)]


@pytest.mark.parametrize("place", gradient_names(LAYERS), ids=lambda place: place.name)
def test_a_gradient_stands_behind_what_it_is_made_from(place: Tap) -> None:
    before = NAMES[: NAMES.index(place.name)]
    assert set(place.inputs) <= set(before)


@pytest.mark.parametrize(
    ("parameter", "given_out", "taken_in"),
    [
        ("h.1.ln_2.weight", "h.1.ln_2", "h.1.ln_2.input"),
        ("h.1.mlp.c_proj.bias", "h.1.mlp", "h.1.mlp.gelu"),
        ("h.1.mlp.c_fc.weight", "h.1.mlp.c_fc", "h.1.ln_1"),
        ("h.1.ln_1.bias", "h.1.ln_1", "h.1.ln_1.input"),
        ("h.1.attn.c_proj.weight", "h.1.attn", "h.1.attn.context"),
        ("h.1.attn.c_attn.bias", "h.1.attn.query", "h.0.ln_2"),
        ("positions_embed.weight", "embeddings.positions", "embeddings.tokens"),
    ],
)
def test_a_parameter_stands_at_its_operation(parameter: str, given_out: str, taken_in: str) -> None:
    place = NAMES.index(parameter)
    assert NAMES.index(given_out) < place < NAMES.index(taken_in)


def test_the_tied_embedding_comes_last() -> None:
    """Its gradient is complete only when both of its paths are."""
    assert NAMES[-1] == "tokens_embed.weight"
    assert {"logits", "embeddings.tokens"} == set(gradient_names(LAYERS)[-1].inputs)


def test_every_gradient_says_what_is_usually_wrong() -> None:
    assert all(place.kind.suspects for place in [*gradient_names(LAYERS), direction()])


def test_kinds_are_the_blocks_names_without_their_numbers() -> None:
    assert [
        kind_of("h.11.ln_1.weight"),
        kind_of("tokens_embed.weight"),
    ] == ["ln_1.weight", "tokens_embed.weight"]
    block = [name for name in NAMES if name.startswith("h.1.")]
    assert [gradient.name for gradient in BLOCK] == [kind_of(name) for name in block]


def test_a_direction_is_no_parameter() -> None:
    assert [is_parameter(direction(kind).name) for kind in (None, "ln_1.weight")] == [False, False]
