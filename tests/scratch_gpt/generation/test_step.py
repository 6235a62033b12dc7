"""One token through the model in few calls."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.generation import decoder as step
from scratch_gpt.generation.decoder import Decoder

Same = Callable[..., None]


@pytest.fixture
def model(config: GPTConfig, loud: Callable[[nn.Module], nn.Module]) -> GPT:
    """Return a model that evaluates."""
    return loud(GPT(config)).eval()


def stepped(model: GPT) -> Tensor:
    """Return the logits after three steps of two texts."""
    decoder = Decoder(model, batch=2)
    decoder.start(torch.tensor([[3, 36], [12, 5]]))
    return [decoder.step(torch.tensor(ids)) for ids in ([0, 21], [7, 30], [3, 1])][-1]


def whole(model: GPT) -> Tensor:
    """Return the same of the model that reads all of it."""
    with torch.no_grad():
        return model(torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]]))[:, -1]


def test_works_in_the_same_rooms_for_every_token(model: GPT) -> None:
    """Whatever a step makes, but its scores and logits, lies where the last one's lay."""
    decoder = Decoder(model, batch=2)
    decoder.start(torch.tensor([[3, 36], [12, 5]]))
    rooms = {name: x.data_ptr() for name, x in vars(decoder._step.buffers).items()
             if isinstance(x, Tensor)}  # fmt: skip
    decoder.step(torch.tensor([0, 21]))
    assert rooms == {name: getattr(decoder._step.buffers, name).data_ptr() for name in rooms}
    assert len(set(rooms.values())) > 6


def test_reads_the_models_own_weights(model: GPT, assert_same: Same) -> None:
    """Nothing but the head is copied: a weight changed in place counts at once."""
    decoder = Decoder(model, batch=2)
    decoder.start(torch.tensor([[3, 36, 0, 7], [12, 5, 21, 30]]))
    with torch.no_grad():
        model.h[1].mlp.c_proj.weight.mul_(2.0)
    assert_same(whole(model), decoder.step(torch.tensor([3, 1])))


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_is_the_model_with_any_number_of_threads(
    threads: int, model: GPT, assert_same: Same
) -> None:
    """Products cut among threads are the same products; the narrowing one is cut here."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        decoder = Decoder(model, batch=2)
        assert threads == len(decoder._step.blocks[0].mlp_proj.weight)
        assert_same(whole(model), stepped(model))
    finally:
        torch.set_num_threads(before)


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "cubic term": lambda patch: patch.setattr(step, "CUBIC", 0.0447),
    "scale": lambda patch: patch.setattr(step, "LOG_2", 0.7),
    "variance": lambda patch: patch.setattr(
        torch, "var_mean", lambda x, *_, **__: (x.var(-1, keepdim=True), x.mean(-1, True))
    ),
    "no residual": lambda patch: patch.setattr(
        step.Product, "added", lambda product, _residual, x, out: product(x, out)
    ),
    "no bias": lambda patch: patch.setattr(
        step.Product, "__call__", lambda it, x, out: out.copy_(step.split_product(x, it.weight))
    ),
    "a position late": lambda patch: patch.setattr(
        step.KVCache, "views", _late(step.KVCache.views)
    ),
}


def _late(right: Callable[..., object]) -> Callable[..., object]:
    """Return what writes keys one place after their own."""

    def views(cache: step.KVCache, seen: int) -> object:
        return (right(cache, seen + 1)[0], *right(cache, seen)[1:])

    return views


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_step_shows(
    fault: str, model: GPT, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each part of the step, a little wrong, moves the logits past the identity bound."""
    expected = whole(model)
    assert_same(expected, stepped(model))
    FAULTS[fault](monkeypatch)
    with pytest.raises(AssertionError, match=r"differs by|isfinite"):
        assert_same(expected, stepped(model))
