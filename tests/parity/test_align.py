"""Parameters are found by value, however a model names, cuts, turns and joins them."""

import pytest
import torch
from torch import Tensor

from parity.align import match_parameters
from parity.checkpoints.weights import Weights

BLOCK = "h.3.attn.c_attn"


@pytest.fixture(scope="module")
def reference(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in weights.tensors.items()}


def lines(candidate: dict[str, Tensor], reference: dict[str, Tensor]) -> list[str]:
    return [str(match) for match in match_parameters(candidate, reference)]


def test_slices_turned_and_joined_tensors_are_found(reference: dict[str, Tensor]) -> None:
    weight, bias = reference[f"{BLOCK}.weight"], reference[f"{BLOCK}.bias"]
    width, heads = weight.shape[0], 3
    query, key, value = weight.split(width, 1)
    tables = [reference["tokens_embed.weight"], reference["positions_embed.weight"]]
    projection = reference["h.3.attn.c_proj.weight"]
    head = width // heads
    candidate = {
        "q": query.T.double(),
        "k": key,
        "k_bias": bias[width : 2 * width],
        "all_bias": bias,
        "q_by_head": query.unflatten(1, (heads, -1)).permute(1, 0, 2),
        "q_bias_by_head": bias[:width].view(heads, -1),
        "third_head": query[:, 2 * head :].T,
        "in_proj": weight.T,
        "swapped": torch.cat([key, query, value], 1).T,
        "out_by_head": projection.view(heads, -1, width),
        "out": projection.T,
        "table": torch.cat(tables),
        "padded": torch.cat([tables[0], torch.zeros(7, width)]),
        "norms": torch.cat([reference["h.1.ln_1.bias"], reference["h.1.ln_2.bias"]]),
    }
    assert lines(candidate, reference) == [
        f"q = {BLOCK}.weight[:, :21].T",
        f"k = {BLOCK}.weight[:, 21:42]",
        f"k_bias = {BLOCK}.bias[21:42]",
        f"all_bias = {BLOCK}.bias",
        f"q_by_head = {BLOCK}.weight[:, :21]",
        f"q_bias_by_head = {BLOCK}.bias[:21]",
        f"third_head = {BLOCK}.weight[:, 14:21].T",
        f"in_proj = {BLOCK}.weight.T",
        (
            f"swapped = cat({BLOCK}.weight[:, 21:42].T, {BLOCK}.weight[:, :21].T, "
            f"{BLOCK}.weight[:, 42:63].T)"
        ),
        "out_by_head = h.3.attn.c_proj.weight",
        "out = h.3.attn.c_proj.weight.T",
        "table = cat(tokens_embed.weight, positions_embed.weight)",
        "padded = tokens_embed.weight, 7 more lines",
        "norms = cat(h.1.ln_1.bias, h.1.ln_2.bias)",
    ]


def test_what_matches_nothing_is_reported(reference: dict[str, Tensor]) -> None:
    """One wrong element is enough."""
    wrong = reference["h.3.mlp.c_fc.weight"].clone()
    wrong[4, 5] += 1e-6
    candidate = {
        "wrong": wrong,
        "wrong_bias": reference["h.3.mlp.c_fc.bias"] * 1.1,
        "mask": torch.ones(5, 5),
        "steps": torch.tensor([3]),
    }
    assert lines(candidate, reference) == [
        "wrong [21, 84]: no match",
        "wrong_bias [84]: no match",
        "mask [5, 5]: 1 throughout",
    ]
