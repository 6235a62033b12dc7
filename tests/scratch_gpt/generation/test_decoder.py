"""The decoder, its one-token step, and its products with few rows."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.generation import decoder as step
from scratch_gpt.generation.decoder import Decoder, Head, split_product, split_weight
from scratch_gpt.kernels import onednn

Same = Callable[..., None]
Loud = Callable[[nn.Module], nn.Module]


@pytest.fixture
def model(config: GPTConfig, loud: Loud) -> GPT:
    return loud(GPT(config)).train()


@pytest.fixture
def ids() -> Tensor:
    """Return as many ids as the model has positions."""
    first, second = [3, 36, 0, 7, 3, 19, 2, 9, 35, 4, 3], [12, 5, 21, 30, 1, 8, 8, 8, 0, 36, 6]
    return torch.tensor([first, second])


@pytest.mark.parametrize("prompt", [1, 2, 5, 10])
def test_equals_the_whole_model(prompt: int, model: GPT, ids: Tensor, assert_same: Same) -> None:
    expected = model.eval()(ids)
    decoder = Decoder(model.train(), batch=2)
    assert_same(expected[:, prompt - 1], decoder.start(ids[:, :prompt]))
    for place in range(prompt, ids.shape[1]):
        assert place == decoder.length
        assert_same(expected[:, place], decoder.step(ids[:, place]))


def test_the_model_is_not_modified(model: GPT, ids: Tensor) -> None:
    decoder = Decoder(model, batch=2)
    logits = decoder.start(ids[:, :3]), decoder.step(ids[:, 3])
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(x.requires_grad for x in logits)


def test_logits_are_not_overwritten(model: GPT, ids: Tensor) -> None:
    decoder = Decoder(model, batch=2)
    results = [decoder.start(ids[:, :3])]
    copies = [results[0].clone()]
    for place in (3, 4):
        results.append(decoder.step(ids[:, place]))
        copies.append(results[-1].clone())
    assert all(torch.equal(*pair) for pair in zip(results, copies, strict=True))


def test_start_clears_the_cache(model: GPT, ids: Tensor) -> None:
    decoder = Decoder(model, batch=2)
    decoder.start(ids)
    expected = Decoder(model, batch=2).start(ids[:, 4:7])
    assert torch.equal(expected, decoder.start(ids[:, 4:7]))


def test_reordered_rows_continue_other_texts(model: GPT, ids: Tensor, assert_same: Same) -> None:
    decoder = Decoder(model, batch=2)
    decoder.start(ids[:, :4])
    decoder.step(ids[:, 4])
    decoder.reorder(torch.tensor([1, 1]))
    actual = decoder.step(ids[:, 5])
    texts = torch.cat([ids[[1, 1], :5], ids[:, 5:6]], dim=1)
    assert_same(model.eval()(texts)[:, -1], actual)


def test_a_full_cache_rejects_a_token(model: GPT, ids: Tensor) -> None:
    decoder = Decoder(model, batch=2, capacity=3)
    decoder.start(ids[:, :3])
    with pytest.raises(ValueError, match="the cache 3 of at most 3"):
        decoder.step(ids[:, 3])
    assert decoder.length == 3


@pytest.mark.parametrize("value", [-1, 37])
def test_an_id_outside_the_vocabulary_is_rejected(value: int, model: GPT, ids: Tensor) -> None:
    decoder = Decoder(model, batch=2)
    decoder.start(ids[:, :3])
    with pytest.raises(ValueError, match=f"is {value}, which is not in"):
        decoder.step(torch.tensor([1, value]))


def test_in_half_precision_keys_are_kept_in_float32(model: GPT, ids: Tensor) -> None:
    """On a CPU the kernel computes in float32; this avoids converting every key for every token."""
    decoder = Decoder(model.bfloat16(), batch=2)
    assert torch.float32 is decoder.cache.keys.dtype
    logits = decoder.start(ids[:, :3]), decoder.step(ids[:, 3])
    assert {torch.bfloat16} == {x.dtype for x in logits}


def stepped(model: GPT, ids: Tensor) -> Tensor:
    """Return the logits after a prompt of two tokens and three steps."""
    decoder = Decoder(model, batch=2)
    decoder.start(ids[:, :2])
    return [decoder.step(ids[:, place]) for place in (2, 3, 4)][-1]


def whole(model: GPT, ids: Tensor) -> Tensor:
    """Return the logits of the model that reads the same five tokens at once."""
    with torch.no_grad():
        return model.eval()(ids[:, :5])[:, -1]


def test_a_step_reuses_its_buffers(model: GPT, ids: Tensor) -> None:
    """All intermediate results but scores and logits stay in place."""
    decoder = Decoder(model, batch=2)

    def addresses() -> dict[str, int]:
        buffers = vars(decoder._step.buffers).items()
        return {name: x.data_ptr() for name, x in buffers if isinstance(x, Tensor)}

    decoder.start(ids[:, :2])
    before = addresses()
    decoder.step(ids[:, 2])
    assert before == addresses()
    assert len(set(before.values())) > 6


def test_reads_the_models_own_weights(model: GPT, ids: Tensor, assert_same: Same) -> None:
    """Only the head is copied: a weight changed in place has an effect at once."""
    decoder = Decoder(model, batch=2)
    decoder.start(ids[:, :4])
    with torch.no_grad():
        model.h[1].mlp.c_proj.weight.mul_(2.0)
    assert_same(whole(model, ids), decoder.step(ids[:, 4]))


@pytest.mark.parametrize("threads", [1, 2, 4], indirect=True)
def test_is_the_model_with_any_number_of_threads(
    threads: int, model: GPT, ids: Tensor, assert_same: Same
) -> None:
    """Products are split among threads; `mlp.c_proj` is split here."""
    assert threads == len(Decoder(model, batch=2)._step.blocks[0].mlp_proj.weight)
    assert_same(whole(model, ids), stepped(model, ids))


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "cubic term": lambda patch: patch.setattr(step, "CUBIC", 0.0447),
    "scale": lambda patch: patch.setattr(step, "LOG_2", 0.7),
    "variance": lambda patch: patch.setattr(
        torch, "var_mean", lambda x, *_, **__: (x.var(-1, keepdim=True), x.mean(-1, True))
    ),
    "no residual": lambda patch: patch.setattr(
        step.Product, "add_to", lambda product, _residual, x, out: product(x, out)
    ),
    "no bias": lambda patch: patch.setattr(
        step.Product, "__call__", lambda it, x, out: out.copy_(step.split_product(x, it.weight))
    ),
    "a position late": lambda patch: patch.setattr(
        step.KVCache, "views", _late(step.KVCache.views)
    ),
}


def _late(right: Callable[..., object]) -> Callable[..., object]:
    """Return a function that writes keys one position late."""

    def views(cache: step.KVCache, seen: int) -> object:
        return (right(cache, seen + 1)[0], *right(cache, seen)[1:])

    return views


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_step_is_detected(
    fault: str, model: GPT, ids: Tensor, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(model, ids)
    assert_same(expected, stepped(model, ids))
    FAULTS[fault](monkeypatch)
    with pytest.raises(AssertionError, match=r"differs by|isfinite"):
        assert_same(expected, stepped(model, ids))


@pytest.fixture(params=[1, 2, 3, 4, 64])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def whole_numbers(*shape: int) -> Tensor:
    """Return whole numbers, whose products are exact in every dtype."""
    generator = torch.Generator().manual_seed(20180611)
    return torch.randint(-3, 4, shape, generator=generator).double()


@pytest.fixture
def weight() -> Tensor:
    return whole_numbers(24, 7)


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
def test_split_product_is_the_product(rows: int, threads: int, weight: Tensor) -> None:
    x = torch.arange(rows * 24).reshape(rows, 24).double() % 5
    actual = split_product(x, split_weight(weight, rows=rows))
    assert (True, threads) == (torch.equal(x @ weight, actual), torch.get_num_threads())


def test_there_is_a_part_for_each_thread(threads: int, weight: Tensor) -> None:
    """As a power of two that divides the inner axis, at most eight."""
    assert len(split_weight(weight, rows=1)) == {1: 1, 2: 2, 3: 2, 4: 4, 64: 8}[threads]


@pytest.mark.parametrize("threads", [2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_a_weight_is_split_only_if_that_helps(weight: Tensor) -> None:
    cut = [(weight, 16), (weight, 17), (weight.bfloat16(), 1), (weight[:23], 1)]
    assert [len(split_weight(each, rows=rows)) for each, rows in cut] == [2, 1, 1, 1]
    single = weight.float()
    by_onednn = onednn.suits(single)  # which takes two rows or more whole
    assert [len(split_weight(single, rows=rows)) for rows in (1, 2)] == [2, 1 if by_onednn else 2]


def test_split_weight_copies_nothing(threads: int, weight: Tensor) -> None:
    parts = split_weight(weight, rows=1)
    assert weight.data_ptr() == parts.data_ptr()
    assert torch.equal(weight, parts.flatten(0, 1))
    assert threads == torch.get_num_threads()


@pytest.mark.parametrize("threads", [1, 2], indirect=True)
@pytest.mark.usefixtures("threads")
def test_a_wrong_split_is_detected(weight: Tensor) -> None:
    x = torch.arange(24).reshape(1, 24).double()
    wrong = split_weight(weight, rows=1).flip(0).flip(1)
    assert not torch.equal(x @ weight, split_product(x, wrong))


@pytest.fixture
def table() -> Tensor:
    return whole_numbers(37, 21)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("rows", [1, 3])
def test_head_is_the_product_with_the_table(rows: int, dtype: torch.dtype, table: Tensor) -> None:
    x = table[5 : 5 + rows]
    expected = torch.einsum("rw,vw->rv", x, table)
    assert torch.equal(expected.to(dtype), Head(table.to(dtype), rows=rows)(x.to(dtype)))


def test_head_copies_the_table_in_float32_only(
    table: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not for oneDNN, which reads either layout of two rows or more equally fast."""
    if onednn.suits(table.float()):
        assert Head(table.float(), rows=2).copied_bytes == 0
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    copied = Head(table.float(), rows=1)
    assert copied.weight.flatten(0, 1).is_contiguous()
    assert table.numel() * 4 == copied.copied_bytes
    view = Head(table, rows=1)
    assert view.weight.data_ptr() == table.data_ptr()
    assert view.copied_bytes == 0
