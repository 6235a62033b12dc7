"""The table of names and layouts, compared with both models and the release's own list."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import (
    ALIASES,
    BUFFERS,
    Form,
    Side,
    convert,
    is_buffer,
    rows,
    shape_sizes,
)
from parity.errors import ExitCode, InputRejectedError
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
    """116,534,784 parameters in 2 tensors and 12 a block, all with different names."""
    assert sum(map(math.prod, written(side).values())) == 116_534_784
    for n_layer in (0, 1, 12):
        assert len(rows(n_layer)) == len(written(side, n_layer)) == 2 + 12 * n_layer


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


@pytest.mark.parametrize(
    ("side", "name"),
    [
        (Side.HUGGINGFACE, "transformer.h.0.attn.c_attn.bias"),
        (Side.HUGGINGFACE, "transformer.h.0.attn.c_proj.bias"),
        (Side.HUGGINGFACE, "transformer.h.0.ln_1.bias"),
        (Side.HUGGINGFACE, "h.0.attn.bias"),
        (Side.HUGGINGFACE, "transformer.h.0.attn.bias_of_ours"),
        (Side.HUGGINGFACE, "transformer.position_ids.weight"),
        (Side.HUGGINGFACE, "model.transformer.position_ids"),
        (Side.HUGGINGFACE, "lm_head.weight"),
        (Side.OURS, "transformer.h.0.attn.bias"),
        (Side.RELEASE, "transformer.position_ids"),
    ],
)
def test_buffers_are_not_weights(side: Side, name: str, theirs: OpenAIGPTLMHeadModel) -> None:
    assert not is_buffer(side, name)
    assert set(BUFFERS) == set(Side)
    buffers = [buffer for buffer, _ in theirs.named_buffers()]
    assert buffers
    assert all(is_buffer(Side.HUGGINGFACE, buffer) for buffer in buffers)


# Conversion.


SMALL = {"vocab_size": 37, "n_positions": 11, "n_embd": 21, "n_layer": 2}
HEAD, TOKENS = "lm_head.weight", "transformer.tokens_embed.weight"

State = dict[str, Tensor]


def drawn(side: Side, dtype: torch.dtype = torch.float32) -> State:
    """Return a state in that side's names and forms, NaN, -0.0 and a denormal among its numbers."""
    generator = torch.Generator().manual_seed(20180611)
    state = {}
    for row in rows(2):
        shape = row.shape(side, shape_sizes(SMALL))
        tensor = torch.randn(shape, generator=generator).to(dtype)
        tensor.view(-1)[:4] = torch.tensor([float("nan"), -0.0, float("-inf"), 1e-41]).to(dtype)
        state[row.name(side)] = tensor
    return state


def bits(tensor: Tensor) -> bytes:
    return tensor.contiguous().view(torch.uint8).numpy().tobytes()


def ids_of(pair: tuple[Side, Side]) -> str:
    return f"{pair[0].value} to {pair[1].value}"


@pytest.mark.parametrize("pair", list(product(Side, Side)), ids=ids_of)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_there_and_back_is_the_same(pair: tuple[Side, Side], dtype: torch.dtype) -> None:
    source, target = pair
    state = drawn(source, dtype)
    there = convert(state, SMALL, source=source, target=target)
    assert list(there) == [row.name(target) for row in rows(2)]
    for row in rows(2):
        found = there[row.name(target)]
        assert tuple(found.shape) == row.shape(target, shape_sizes(SMALL))
        assert bits(found) == bits(state[row.name(source)])
    back = convert(there, SMALL, source=target, target=source)
    assert list(state) == list(back)
    for name, tensor in state.items():
        assert (tensor.shape, dtype) == (back[name].shape, back[name].dtype)
        assert bits(tensor) == bits(back[name])


def test_numpy_arrays_are_converted_too() -> None:
    state = {name: tensor.numpy() for name, tensor in drawn(Side.OURS).items()}
    there = convert(state, SMALL, source=Side.OURS, target=Side.RELEASE)
    assert all(isinstance(array, np.ndarray) for array in there.values())
    old, new = state["h.1.mlp.c_fc.weight"], there["model/h1/mlp/c_fc/w"]
    assert (1, *old.shape) == new.shape
    assert np.shares_memory(old, new)


def test_the_callers_state_is_left_alone() -> None:
    state = drawn(Side.HUGGINGFACE) | {"transformer.position_ids": torch.arange(11)}
    state[TOKENS] = state[HEAD] = torch.randn(37, 21)
    before = {name: (id(tensor), tensor.shape, bits(tensor)) for name, tensor in state.items()}
    convert(state, SMALL, source=Side.HUGGINGFACE, target=Side.RELEASE)
    after = {name: (id(tensor), tensor.shape, bits(tensor)) for name, tensor in state.items()}
    assert list(before.items()) == list(after.items())


def refused(state: State, source: Side = Side.HUGGINGFACE) -> InputRejectedError:
    with pytest.raises(InputRejectedError) as refusal:
        convert(state, SMALL, source=source, target=Side.OURS)
    assert refusal.value.exit_code == ExitCode.REFUSED
    return refusal.value


def test_all_problems_are_listed_at_once() -> None:
    state = drawn(Side.HUGGINGFACE)
    del state["transformer.h.1.ln_2.bias"], state["transformer.h.0.mlp.c_fc.weight"]
    state["transformer.h.2.ln_2.bias"] = torch.ones(21)
    state["score.weight"] = torch.ones(2, 21)
    state["transformer.h.0.ln_1.weight"] = torch.ones(22)
    state["transformer.positions_embed.weight"] = torch.ones(21, 11)
    state[HEAD] = torch.ones(37, 21)
    error = refused(state)
    expected = (
        "the weights do not fit a GPT-1 of 2 blocks: "
        "missing: transformer.h.0.mlp.c_fc.weight, transformer.h.1.ln_2.bias; "
        "unexpected: transformer.h.2.ln_2.bias, score.weight; "
        "shape: transformer.positions_embed.weight is [21, 11], expected [11, 21] "
        "(matrices are [in, out]), "
        "transformer.h.0.ln_1.weight is [22], expected [21]; "
        "untied: lm_head.weight differs from transformer.tokens_embed.weight"
    )
    assert expected == error.what
    assert error.where == "huggingface state of 27 tensors, 26 expected"


@pytest.mark.parametrize(
    ("name", "reshape"),
    [
        pytest.param("ln_1.bias", lambda t: t[:1], id="[1] for [n]"),
        pytest.param("ln_1.bias", lambda t: t[:, None], id="[n, 1] for [n]"),
        pytest.param("ln_1.bias", lambda t: t[None], id="[1, n] for [n]"),
        pytest.param("ln_1.bias", lambda t: t[0], id="scalar for [n]"),
        pytest.param("attn.c_proj.weight", lambda t: t.flatten(), id="flat for a matrix"),
        pytest.param("attn.c_proj.weight", lambda t: t[None], id="[1, in, out] for [in, out]"),
        pytest.param("attn.c_attn.weight", lambda t: t.T, id="transposed"),
        pytest.param("mlp.c_fc.weight", lambda t: t.T, id="[out, in] for [in, out]"),
        pytest.param("mlp.c_proj.weight", lambda t: t.view(21, 84), id="reshaped"),
        pytest.param("ln_1.bias", lambda t: t[:0], id="empty"),
    ],
)
@pytest.mark.parametrize("side", [Side.OURS, Side.HUGGINGFACE])
def test_another_shape_is_refused(
    name: str, reshape: Callable[[Tensor], Tensor], side: Side
) -> None:
    state = drawn(side)
    name = next(row.name(side) for row in rows(2) if row.ours == f"h.1.{name}")
    wanted = list(state[name].shape)
    state[name] = reshape(state[name])
    expected = f"shape: {name} is {list(state[name].shape)}, expected {wanted}"
    if len(wanted) == 2 and list(state[name].shape) == wanted[::-1]:
        expected += " (matrices are [in, out])"
    assert refused(state, side).what.endswith(f": {expected}")


@pytest.mark.parametrize("shape", [(21, 63), (2, 21, 63), (63, 21, 1)], ids=str)
def test_the_releases_convolutions_have_a_leading_one(shape: tuple[int, ...]) -> None:
    state = drawn(Side.RELEASE)
    state["model/h0/attn/c_attn/w"] = torch.ones(shape)
    expected = f"shape: model/h0/attn/c_attn/w is {list(shape)}, expected [1, 21, 63]"
    assert refused(state, Side.RELEASE).what.endswith(f": {expected}")


def test_a_prefix_of_every_name_is_reported() -> None:
    state = drawn(Side.HUGGINGFACE)
    error = refused({name.removeprefix("transformer."): t for name, t in state.items()})
    assert "missing: transformer.positions_embed.weight, " in error.what
    assert "unexpected: positions_embed.weight, " in error.what
    assert error.what.count("and 14 more") == 2
    assert error.what.endswith("; none of 26 names was found")

    error = refused({f"model.gpt.{name}": t for name, t in state.items()})
    assert error.what.endswith("; none of 26 names was found; without 'model.gpt.' 26 are")

    (name, tensor), *_ = state.items()
    assert "none of" not in refused({name: tensor}).what


@pytest.mark.parametrize("n_layer", [1, 3])
def test_another_number_of_blocks_is_refused(n_layer: int) -> None:
    with pytest.raises(InputRejectedError, match=f"a GPT-1 of {n_layer} blocks: (missing|unexpec)"):
        convert(drawn(Side.OURS), SMALL | {"n_layer": n_layer}, source=Side.OURS, target=Side.OURS)


def test_buffers_and_the_tied_head_are_accepted_and_left_out() -> None:
    """NaN differs from itself, and two names of one tensor do not."""
    state = drawn(Side.HUGGINGFACE)
    state[TOKENS] = torch.randn(37, 21).index_fill(0, torch.tensor(3), torch.nan)
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 11, 11)
    state["transformer.h.1.attn.bias"] = torch.ones(1, 1, 11, 11)
    state["transformer.position_ids"] = torch.arange(11)
    state[HEAD] = state[TOKENS].clone()
    there = convert(state, SMALL, source=Side.HUGGINGFACE, target=Side.HUGGINGFACE)
    assert [row.huggingface for row in rows(2)] == list(there)


@pytest.mark.parametrize("side", [Side.OURS, Side.RELEASE])
def test_another_sides_alias_is_unexpected(side: Side) -> None:
    assert refused(drawn(side) | {HEAD: torch.ones(37, 21)}, side).what.endswith(
        f"unexpected: {HEAD}"
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda t: t.index_fill(0, torch.tensor([36]), 0.0), id="one row"),
        pytest.param(lambda t: t[:36], id="a row less"),
        pytest.param(lambda t: t[None], id="another shape"),
        pytest.param(lambda t: t * float("nan"), id="not finite"),
    ],
)
def test_a_head_of_its_own_is_refused(change: Callable[[Tensor], Tensor]) -> None:
    state = drawn(Side.HUGGINGFACE)
    state[TOKENS] = torch.arange(37.0 * 21).reshape(37, 21) + 1
    state[HEAD] = change(state[TOKENS])
    assert refused(state).what.endswith(f"untied: {HEAD} differs from {TOKENS}")
