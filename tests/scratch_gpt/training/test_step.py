"""A step's gradients are those of one mean over all its tokens."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.loss import next_token_loss
from scratch_gpt.training import trainer
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.trainer import IGNORED, accumulate, check_known_tokens

Gradients = dict[str, Tensor]


@pytest.fixture
def uneven() -> list[Tensor]:
    """Return micro-batches of unequal size and of unequally many targets."""
    ids = torch.arange(5 * 6).reshape(5, 6) * 7 % 37
    ids[0, 3:] = IGNORED
    return [ids[:1], ids[1:3], ids[3:]]


@pytest.fixture
def trained(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> GPT:
    """Return a float64 model that trains without dropout."""
    quiet = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    return loud(GPT(GPTConfig(**(vars(config) | quiet)))).train()


def gradients_of(model: GPT) -> Gradients:
    """Take the gradients away from a model."""
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.fixture
def one_batch(trained: GPT, uneven: list[Tensor]) -> tuple[float, Gradients]:
    """Return loss and gradients of all micro-batches in one."""
    joined = torch.cat(uneven)
    loss = next_token_loss(trained(check_known_tokens(joined)), joined)
    loss.backward()
    return float(loss.detach()), gradients_of(trained)


def test_micro_batches_make_one_batch(
    trained: GPT,
    uneven: list[Tensor],
    one_batch: tuple[float, Gradients],
    assert_same: Callable[..., None],
) -> None:
    """Loss, tokens and every gradient."""
    loss, tokens = accumulate(trained, uneven, Group())
    assert tokens == 5 * 5 - 3
    assert_same(torch.tensor(one_batch[0]).double(), torch.tensor(loss).double())
    for name, gradient in gradients_of(trained).items():
        assert_same(one_batch[1][name], gradient)


def test_a_mean_of_means_is_found(
    trained: GPT,
    uneven: list[Tensor],
    one_batch: tuple[float, Gradients],
    assert_same: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where every micro-batch weighs the same, every gradient differs."""
    monkeypatch.setattr(trainer, "count_predictions", lambda _ids: 1)
    accumulate(trained, uneven, Group())
    for name, gradient in gradients_of(trained).items():
        with pytest.raises(AssertionError, match="differs by"):
            assert_same(one_batch[1][name], gradient)


def test_each_micro_batch_is_announced(trained: GPT, uneven: list[Tensor]) -> None:
    """So that it can have its own dropout."""
    seen: list[int] = []
    accumulate(trained, uneven, Group(), before=seen.append)
    assert seen == [0, 1, 2]


class Pretended(Group):
    """The second of two processes, whose other one predicted 44 tokens at a loss of 0.25."""

    def __init__(self) -> None:
        super().__init__(rank=1, processes=2)
        self.asked: list[bool] = []

    def summed(self, numbers: list[float]) -> list[float]:
        """Add what the other one would have sent."""
        other = 44.0 if numbers[0] == int(numbers[0]) else 0.25
        return [numbers[0] + other]

    def exchanging(self, model: nn.Module, *, now: bool) -> Any:  # noqa: ANN401
        """Keep when gradients were to be exchanged."""
        self.asked.append(now)
        return super().exchanging(model, now=now)


def test_a_process_weighs_by_all_tokens(
    trained: GPT,
    uneven: list[Tensor],
    one_batch: tuple[float, Gradients],
    assert_same: Callable[..., None],
) -> None:
    """Of 22 + 44 tokens ours are a third; the exchange halves, so the process doubles."""
    group = Pretended()
    loss, tokens = accumulate(trained, uneven, group)
    assert tokens == 22 + 44
    assert_same(torch.tensor(one_batch[0] / 3 + 0.25).double(), torch.tensor(loss).double())
    for name, gradient in gradients_of(trained).items():
        assert_same(one_batch[1][name] / 3 * 2, gradient)
    assert group.asked == [False, False, True]
