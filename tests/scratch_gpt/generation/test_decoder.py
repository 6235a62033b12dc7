"""The decoder: a prompt and then token by token, as the model that reads all of it again."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.generation.decoder import Decoder

Same = Callable[..., None]
Loud = Callable[[nn.Module], nn.Module]


@pytest.fixture
def model(config: GPTConfig, loud: Loud) -> GPT:
    """Return a model left in training mode by its plain path, with loud dropout."""
    return loud(GPT(config)).train()


@pytest.fixture
def ids() -> Tensor:
    """Return ids `[2, 11]`: as many positions as the model has."""
    return torch.tensor(
        [[3, 36, 0, 7, 3, 19, 2, 9, 35, 4, 3], [12, 5, 21, 30, 1, 8, 8, 8, 0, 36, 6]]
    )


@pytest.mark.parametrize("prompt", [1, 2, 5, 10])
def test_every_step_equals_the_whole_model(
    prompt: int, model: GPT, ids: Tensor, assert_same: Same
) -> None:
    """After the prompt and after each token to the last position: the model's logits there."""
    expected = model.eval()(ids)
    decoder = Decoder(model.train(), batch=2)
    assert_same(expected[:, prompt - 1], decoder.start(ids[:, :prompt]))
    for place in range(prompt, ids.shape[1]):
        assert place == decoder.length
        assert_same(expected[:, place], decoder.step(ids[:, place]))


def test_the_model_is_left_as_it_was(model: GPT, ids: Tensor) -> None:
    """Its mode and its parameters' wish for gradients stay, and no result wants one."""
    decoder = Decoder(model, batch=2)
    logits = decoder.start(ids[:, :3]), decoder.step(ids[:, 3])
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(x.requires_grad for x in logits)


def test_logits_are_not_overwritten(model: GPT, ids: Tensor) -> None:
    """What a step returned stays what it was after the next one."""
    decoder = Decoder(model, batch=2)
    first = decoder.start(ids[:, :3])
    kept = first.clone()
    second = decoder.step(ids[:, 3])
    kept_second = second.clone()
    decoder.step(ids[:, 4])
    assert torch.equal(kept, first)
    assert torch.equal(kept_second, second)


def test_starting_again_forgets(model: GPT, ids: Tensor) -> None:
    """A second prompt gives what it gives to a fresh decoder."""
    decoder = Decoder(model, batch=2)
    decoder.start(ids)
    expected = Decoder(model, batch=2).start(ids[:, 4:7])
    assert torch.equal(expected, decoder.start(ids[:, 4:7]))


def test_rows_go_on_from_others(model: GPT, ids: Tensor, assert_same: Same) -> None:
    """After reordering, row 0 continues row 1's text and row 1 its own."""
    decoder = Decoder(model, batch=2)
    decoder.start(ids[:, :4])
    decoder.step(ids[:, 4])
    decoder.reorder(torch.tensor([1, 1]))
    actual = decoder.step(ids[:, 5])
    texts = torch.cat([ids[[1, 1], :5], ids[:, 5:6]], dim=1)
    assert_same(model.eval()(texts)[:, -1], actual)


def test_a_full_room_is_refused(model: GPT, ids: Tensor) -> None:
    """One token too many: an error, and the tokens before it stay good."""
    decoder = Decoder(model, batch=2, capacity=3)
    decoder.start(ids[:, :3])
    with pytest.raises(ValueError, match="the cache 3 of at most 3"):
        decoder.step(ids[:, 3])
    assert decoder.length == 3


@pytest.mark.parametrize("value", [-1, 37])
def test_an_id_outside_the_vocabulary_is_refused(value: int, model: GPT, ids: Tensor) -> None:
    """Indexing would wrap a negative one round."""
    decoder = Decoder(model, batch=2)
    decoder.start(ids[:, :3])
    with pytest.raises(ValueError, match=f"is {value}, which is not in"):
        decoder.step(torch.tensor([1, value]))


def test_in_half_precision_keys_are_kept_in_float32(model: GPT, ids: Tensor) -> None:
    """On a CPU the core works in float32, and would convert every key for every token."""
    decoder = Decoder(model.bfloat16(), batch=2)
    assert torch.float32 is decoder.cache.keys.dtype
    logits = decoder.start(ids[:, :3]), decoder.step(ids[:, 3])
    assert {torch.bfloat16} == {x.dtype for x in logits}
