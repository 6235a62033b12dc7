"""The validation loss is a mean over tokens, and leaves nothing behind."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.loss import next_token_loss
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.trainer import evaluation_mode, validation_loss


@pytest.fixture
def trained(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> GPT:
    """Return a model that trains, with dropout."""
    return loud(GPT(config)).train()


def test_it_is_one_mean_without_dropout(trained: GPT, assert_same: Callable[..., None]) -> None:
    """Whatever the micro-batches are; the model trains on, and no random number was drawn."""
    ids = torch.arange(30).reshape(5, 6) * 7 % 37
    state = torch.get_rng_state()
    loss = validation_loss(trained, [ids[:1], ids[1:]], Group())
    assert torch.equal(state, torch.get_rng_state())
    assert trained.training
    with torch.no_grad():
        expected = next_token_loss(trained.eval()(ids), ids)
    assert_same(expected, torch.tensor(loss, dtype=torch.float64))


def test_a_model_is_as_it_was_after_an_error(trained: GPT) -> None:
    """It trains on."""
    seen = []

    def fail() -> None:
        with evaluation_mode(trained):
            seen.append((trained.training, torch.is_grad_enabled()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [(False, False)]
    assert trained.training
