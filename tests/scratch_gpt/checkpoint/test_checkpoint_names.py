"""A checkpoint's names held against the model's, from both sides."""

import pytest
import torch
from torch import Tensor

from scratch_gpt.checkpoint.checkpoint import match_names
from scratch_gpt.errors import CheckpointError

WANTED = {
    "tokens_embed.weight": (5, 3),
    "positions_embed.weight": (4, 3),
    "h.0.attn.c_attn.weight": (3, 9),
    "h.0.attn.c_proj.weight": (3, 3),
    "h.0.ln_1.bias": (3,),
}


def file_of(prefix: str = "", **others: Tensor) -> dict[str, Tensor]:
    return {prefix + name: torch.ones(shape) for name, shape in WANTED.items()} | others


def refusal_of(found: dict[str, Tensor]) -> CheckpointError:
    with pytest.raises(CheckpointError) as refusal:
        match_names(found, WANTED, "the file")
    assert refusal.value.where == "the file"
    assert str(refusal.value).isprintable()
    return refusal.value


@pytest.mark.parametrize("prefix", ["", "transformer."])
def test_finds_every_name(prefix: str) -> None:
    expected = {name: prefix + name for name in WANTED}
    assert expected == match_names(file_of(prefix), WANTED, "the file")


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("buffer", ["h.0.attn.bias", "h.11.attn.bias", "position_ids"])
def test_passes_over_buffers(prefix: str, buffer: str) -> None:
    found = file_of(prefix, **{prefix + buffer: torch.ones(1, 1, 4, 4, dtype=torch.uint8)})
    assert prefix + buffer not in match_names(found, WANTED, "the file").values()


@pytest.mark.parametrize("prefix", ["", "transformer."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_takes_a_head_that_is_the_embedding(prefix: str, dtype: torch.dtype) -> None:
    embedding = torch.arange(15.0).reshape(5, 3).to(dtype)
    found = file_of(prefix, **{"lm_head.weight": embedding.clone()})
    found[prefix + "tokens_embed.weight"] = embedding
    assert set(match_names(found, WANTED, "the file")) == set(WANTED)


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(torch.tensor([[-0.0, 1, 2]] * 5), id="a sign of zero"),
        pytest.param(torch.tensor([[0.0, 1, 2 + 1e-6]] * 5), id="a last bit"),
        pytest.param(torch.tensor([[0.0, 1, 2]] * 4), id="a row short"),
        pytest.param(torch.tensor([[0.0, 1, 2]] * 5, dtype=torch.float16), id="dtype"),
        pytest.param(torch.tensor([[0.0, 1, 2]] * 5).view(torch.int32), id="bits of another dtype"),
    ],
)
def test_refuses_a_head_of_its_own(head: Tensor) -> None:
    found = file_of(**{"lm_head.weight": head})
    found["tokens_embed.weight"] = torch.tensor([[0.0, 1, 2]] * 5)
    expected = "untied: lm_head.weight differs from tokens_embed.weight, which is the head here"
    assert refusal_of(found).what.endswith(expected)


def test_says_all_that_is_wrong_at_once() -> None:
    found = file_of("transformer.")
    del found["transformer.h.0.ln_1.bias"]
    found["transformer.h.1.ln_1.bias"] = torch.ones(3)
    found["transformer.h.0.attn.c_proj.weight"] = torch.ones(9)
    found["transformer.positions_embed.weight"] = torch.ones(4, 3, dtype=torch.int8)
    expected = (
        "its tensors are not this model's: 1 missing: 'transformer.h.0.ln_1.bias'; "
        "1 unexpected: 'transformer.h.1.ln_1.bias'; "
        "1 of another shape: transformer.h.0.attn.c_proj.weight is [9], expected [3, 3]; "
        "1 of a dtype that is not float32, float16 or bfloat16: "
        "transformer.positions_embed.weight is torch.int8"
    )
    assert expected == refusal_of(found).what


@pytest.mark.parametrize(
    "name", ["extra", "h.0.attn.c_attn.weigh", "h.0.attn.bias.weight", "h.0.ln_1.bias\x1b[31m"]
)
def test_refuses_any_other_name(name: str) -> None:
    assert f"1 unexpected: {name!r}" in refusal_of(file_of(**{name: torch.ones(3)})).what


def test_a_name_in_both_forms_is_refused() -> None:
    found = file_of("transformer.", **{"h.0.ln_1.bias": torch.ones(3)})
    assert "1 unexpected: 'h.0.ln_1.bias'" in refusal_of(found).what


@pytest.mark.parametrize("dtype", [torch.float64, torch.int8, torch.int64, torch.bool])
def test_refuses_other_dtypes(dtype: torch.dtype) -> None:
    found = file_of(**{"h.0.ln_1.bias": torch.ones(3, dtype=dtype)})
    assert refusal_of(found).what.endswith(f"h.0.ln_1.bias is {dtype}")


@pytest.mark.parametrize(
    "prefix", ["model.", "module.transformer.", "transformer.transformer.", "_orig_mod."]
)
def test_guesses_a_strange_prefix(prefix: str) -> None:
    refusal = refusal_of(file_of(prefix))
    assert "5 missing: " in refusal.what
    assert f"all would without the prefix {prefix!r}" in refusal.fix


def test_guesses_nothing_where_names_differ_otherwise() -> None:
    found = file_of("model.")
    del found["model.h.0.ln_1.bias"]
    assert refusal_of(found).fix == "check that the file and its config.json belong together"


def test_a_square_matrix_is_not_guessed_to_be_transposed() -> None:
    """Nor a vector: their shapes read the same from behind."""
    found = file_of()
    del found["tokens_embed.weight"]
    assert refusal_of(found).fix == "check that the file and its config.json belong together"


def test_guesses_a_transposed_matrix() -> None:
    found = file_of(**{"h.0.attn.c_attn.weight": torch.ones(9, 3)})
    refusal = refusal_of(found)
    assert "h.0.attn.c_attn.weight is [9, 3], expected [3, 9]" in refusal.what
    assert refusal.fix.startswith("transpose h.0.attn.c_attn.weight and its like: weights are [in")


def test_a_long_list_is_cut() -> None:
    extra = {f"extra.{index}": torch.ones(1) for index in range(1000)}
    what = refusal_of(file_of(**extra)).what
    assert "1000 unexpected: 'extra.0', " in what
    assert what.endswith("'extra.11' and 988 more")
