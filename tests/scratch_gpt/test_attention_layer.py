"""The attention layer around its core."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt.attention import Attention, merge_heads, split_heads
from scratch_gpt.config import GPTConfig
from scratch_gpt.kernels.backends import BACKENDS

Draw = Callable[..., Tensor]
Same = Callable[..., None]


def test_a_head_is_a_run_of_consecutive_features(draw: Draw) -> None:
    """Head j holds the features from 7 j to 7 j + 6."""
    x = draw(2, 5, 21)
    expected = torch.stack([x[..., :7], x[..., 7:14], x[..., 14:]], dim=1)
    assert torch.equal(expected, split_heads(x, 3))


def test_merged_heads_lie_side_by_side(draw: Draw) -> None:
    """Merging puts the features of head 0 first, then those of head 1, and so on."""
    heads = draw(2, 3, 5, 7)
    expected = torch.cat([heads[:, 0], heads[:, 1], heads[:, 2]], dim=-1)
    assert torch.equal(expected, merge_heads(heads))


@pytest.fixture
def layer(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> Attention:
    """Return a layer of width 21 and 3 heads that drops out where it trains."""
    return loud(Attention(config, BACKENDS["plain"]))


def test_the_layer_equals_the_library(
    layer: Attention,
    draw: Draw,
    attention_formula: Callable[..., Tensor],
    assert_same: Same,
) -> None:
    """Projecting, splitting, attending, merging and projecting give torch's own attention."""
    x = draw(2, 5, 21)
    expected = attention_formula(x, layer, 3)
    assert_same(expected, layer.eval()(x))


def test_the_layer_shows_its_steps_in_order(
    layer: Attention, draw: Draw, watch: Callable[..., Tensor]
) -> None:
    """Queries, keys, values, scores, weights, context and result carry their names and shapes."""
    output = layer(draw(2, 5, 21), tap=watch)
    expected = {
        "attn.query": (2, 3, 5, 7),
        "attn.key": (2, 3, 5, 7),
        "attn.value": (2, 3, 5, 7),
        "attn.scores": (2, 3, 5, 5),
        "attn.weights": (2, 3, 5, 5),
        "attn.context": (2, 5, 21),
        "attn": (2, 5, 21),
    }
    actual = {name: tuple(value.shape) for name, value in watch.seen.items()}
    assert list(expected.items()) == list(actual.items())
    assert torch.equal(output, watch.seen["attn"])


@pytest.mark.parametrize(
    ("training", "probability"),
    [pytest.param(True, 0.375, id="training"), pytest.param(False, 0.0, id="evaluating")],
)
def test_the_layer_tells_its_core_what_it_needs(
    training: bool,  # noqa: FBT001
    probability: float,
    config: GPTConfig,
    loud: Callable[[nn.Module], nn.Module],
    draw: Draw,
) -> None:
    """The core is given the mask, and the dropout probability only while training."""
    given = []

    def core(*inputs: object) -> Tensor:
        given.extend(inputs)
        return inputs[2]

    mask = torch.ones(2, 5, dtype=torch.bool)
    layer = loud(Attention(config, replace(BACKENDS["plain"], attention=core))).train(training)
    layer(draw(2, 5, 21), mask)
    _query, _key, _value, actual_mask, _tap, actual = given
    assert mask is actual_mask
    assert probability == actual
