"""The table of names and layouts, compared with both models and the release's own list."""

import math

import pytest
import torch
from torch import nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import ALIASES, BUFFERS, Form, Side, is_buffer, rows, shape_sizes
from scratch_gpt import GPT, GPTConfig

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = {"vocab_size": 40_478, "n_positions": 512, "n_embd": 768, "n_layer": 12, "n_head": 12}

RELEASED = [
    ("attn/c_attn/w", (1, 768, 2304)),
    ("attn/c_attn/b", (2304,)),
    ("attn/c_proj/w", (1, 768, 768)),
    ("attn/c_proj/b", (768,)),
    ("ln_1/g", (768,)),
    ("ln_1/b", (768,)),
    ("mlp/c_fc/w", (1, 768, 3072)),
    ("mlp/c_fc/b", (3072,)),
    ("mlp/c_proj/w", (1, 3072, 768)),
    ("mlp/c_proj/b", (768,)),
    ("ln_2/g", (768,)),
    ("ln_2/b", (768,)),
]
"""A block as the release's params_shapes.json and graph have it."""


@pytest.fixture(scope="module")
def theirs() -> OpenAIGPTLMHeadModel:
    with torch.device("meta"):
        return OpenAIGPTLMHeadModel(OpenAIGPTConfig())


def written(side: Side, n_layer: int = 12) -> dict[str, tuple[int, ...]]:
    return {row.name(side): row.shape(side, shape_sizes(CONFIG)) for row in rows(n_layer)}


def shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_ours_are_our_models_names_and_shapes() -> None:
    with torch.device("meta"):
        model = GPT(GPTConfig())
    assert shapes(model) == written(Side.OURS)


def test_theirs_are_hugging_faces_names_and_shapes(theirs: OpenAIGPTLMHeadModel) -> None:
    expected = shapes(theirs)
    named = written(Side.HUGGINGFACE)
    again = {alias: named[name] for alias, name in ALIASES[Side.HUGGINGFACE].items()}
    assert expected == named | again


def test_the_release_is_in_its_own_order() -> None:
    """Its shards hold no names: positions, tokens, and twelve a block, in this order."""
    blocks = [(f"model/h{i}/{name}", shape) for i in range(12) for name, shape in RELEASED]
    tables = [("model/we[positions]", (512, 768)), ("model/we[tokens]", (40_478, 768))]
    assert [*tables, *blocks] == list(written(Side.RELEASE).items())


@pytest.mark.parametrize("side", Side)
def test_all_of_the_model_is_there(side: Side) -> None:
    assert sum(map(math.prod, written(side).values())) == 116_534_784


@pytest.mark.parametrize("side", Side)
@pytest.mark.parametrize("n_layer", [0, 1, 12])
def test_no_name_stands_twice(side: Side, n_layer: int) -> None:
    expected = 2 + 12 * n_layer
    assert expected == len(rows(n_layer)) == len(written(side, n_layer))


def test_a_row_is_one_tensor_on_all_sides(theirs: OpenAIGPTLMHeadModel) -> None:
    parts = {"w": "weight", "b": "bias", "g": "weight"}
    blocks = [row for row in rows(12) if row.ours.startswith("h.")]
    assert len(blocks) == 144
    for row in blocks:
        *path, part = row.release.removeprefix("model/h").split("/")
        assert f"h.{'.'.join(path)}.{parts[part]}" == row.ours
        assert f"transformer.{row.ours}" == row.huggingface
        assert (
            theirs.get_parameter(row.huggingface).shape[-1:]
            == row.shape(Side.RELEASE, shape_sizes(CONFIG))[-1:]
        )


def test_only_the_blocks_matrices_are_convolutions() -> None:
    matrices = ("c_attn.weight", "c_proj.weight", "c_fc.weight")
    assert {row.ours for row in rows(12) if row.form is Form.CONVOLUTION} == {
        row.ours for row in rows(12) if row.ours.endswith(matrices)
    }


def test_the_head_is_an_alias_because_it_is_tied(theirs: OpenAIGPTLMHeadModel) -> None:
    alias, name = next(iter(ALIASES[Side.HUGGINGFACE].items()))
    assert theirs.get_parameter(alias) is theirs.get_parameter(name)
    assert len(list(theirs.parameters())) == len(theirs.state_dict()) - 1
    assert not ALIASES[Side.OURS] | ALIASES[Side.RELEASE]


def test_their_buffers_are_known(theirs: OpenAIGPTLMHeadModel) -> None:
    names = [name for name, _ in theirs.named_buffers()]
    assert names
    assert all(is_buffer(Side.HUGGINGFACE, name) for name in names)


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (Side.HUGGINGFACE, "transformer.h.0.attn.c_attn.bias"),
        (Side.HUGGINGFACE, "transformer.h.0.attn.c_proj.bias"),
        (Side.HUGGINGFACE, "transformer.h.0.ln_1.bias"),
        (Side.HUGGINGFACE, "h.0.attn.bias"),
        (Side.HUGGINGFACE, "lm_head.weight"),
        (Side.OURS, "transformer.h.0.attn.bias"),
        (Side.RELEASE, "transformer.position_ids"),
    ],
)
def test_a_weight_is_no_buffer(side: Side, name: str) -> None:
    assert not is_buffer(side, name)
    assert set(BUFFERS) == set(Side)
