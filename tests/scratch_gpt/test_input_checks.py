"""Checks of the model's inputs."""

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig

IDS = [[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]]


@pytest.fixture
def model(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return loud(GPT(config)).eval()


def ids_with(value: int) -> Tensor:
    ids = torch.tensor(IDS)
    ids[1, 3] = value
    return ids


def zeros(*shape: int) -> Tensor:
    return torch.zeros(shape, dtype=torch.int64)


def mask(*shape: int) -> Tensor:
    return torch.ones(shape, dtype=torch.bool)


REJECTED = [
    (ids_with(37), "token_ids[1, 3] is 37, which is not in [0, 37)"),
    (ids_with(-1), "token_ids[1, 3] is -1, which is not in [0, 37)"),
    (zeros(2, 12), "token_ids has 12 tokens a row; this model has max 11"),
    (zeros(2, 0), "token_ids is empty: shape [2, 0]"),
    (zeros(0, 5), "token_ids is empty: shape [0, 5]"),
    (zeros(5), "token_ids must be [batch time], got shape [5]"),
    (zeros(1, 2, 5), "token_ids must be [batch time], got shape [1, 2, 5]"),
    (zeros(2, 5).to("meta"), "token_ids is on the meta device and holds no values"),
    *(
        (zeros(2, 5).to(dtype), f"token_ids must be int32 or int64, got {dtype}")
        for dtype in (torch.float32, torch.bool, torch.uint8, torch.int8, torch.int16)
    ),
    (torch.tensor([[0, 1, 2, 3, 11]]), "positions[0, 4] is 11, which is not in [0, 11)"),
    (torch.tensor([[0, 1, -2, 3, 4]]), "positions[0, 2] is -2, which is not in [0, 11)"),
    (zeros(1, 4), "positions must have shape [1, 5] or [2, 5], got [1, 4]"),
    (zeros(3, 5), "positions must have shape [1, 5] or [2, 5], got [3, 5]"),
    (zeros(5), "positions must be [batch time], got shape [5]"),
    (zeros(1, 5).float(), "positions must be int32 or int64, got torch.float32"),
    (mask(2, 5).float(), "attention_mask must be bool, got torch.float32; use mask.bool()"),
    (mask(2, 5).long(), "attention_mask must be bool, got torch.int64; use mask.bool()"),
    (mask(1, 5), "attention_mask must have shape [2, 5], got [1, 5]"),
    (mask(2, 5, 5), "attention_mask must have shape [2, 5], got [2, 5, 5]"),
    (mask(2, 5).to("meta"), "attention_mask is on the meta device and holds no values"),
]


@pytest.mark.parametrize(("value", "message"), REJECTED, ids=[message for _, message in REJECTED])
def test_an_invalid_input_is_rejected(value: Tensor, message: str, model: GPT) -> None:
    argument = re.match(r"\w+", message)[0]
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(**{"token_ids": torch.tensor(IDS), argument: value})


def test_ids_on_another_device_are_rejected(model: GPT, meta: torch.device) -> None:
    message = "token_ids is on cpu, the model's weights are on meta"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model.to(meta)(torch.tensor(IDS))


def test_the_longest_input_is_accepted(model: GPT) -> None:
    assert model(torch.full((1, 11), 36), torch.full((1, 11), 10)).shape == (1, 11, 37)


def test_int32_equals_int64(model: GPT) -> None:
    ids, positions = torch.tensor(IDS), torch.tensor([[4, 0, 10, 2, 1]])
    assert torch.equal(model(ids, positions), model(ids.int(), positions.int()))


def test_ids_that_are_not_contiguous_equal_their_copy(model: GPT) -> None:
    view = torch.tensor(IDS).T.contiguous().T
    assert not view.is_contiguous()
    assert torch.equal(model(view.contiguous()), model(view))


@pytest.mark.cuda
@pytest.mark.parametrize("value", [37, -1])
def test_bad_ids_do_not_reach_a_gpus_kernels(value: int, model: GPT) -> None:
    if not torch.cuda.is_available():
        pytest.skip("not run: no CUDA")
    model, good = model.cuda(), torch.tensor(IDS).cuda()
    message = f"token_ids[1, 3] is {value}, which is not in [0, 37)"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(ids_with(value).cuda())
    message = "token_ids is on cpu, the model's weights are on cuda:0"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        model(torch.tensor(IDS))
    assert bool(model(good).isfinite().all())
