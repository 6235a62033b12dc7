"""A model with a cache against the same model without one."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.kv_cache import BlockCache, KVCache

Same = Callable[..., None]

TIME = 5


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    """Record no gradients: a cache rejects that."""
    with torch.no_grad():
        yield


@pytest.fixture(params=["plain", "tiled", "fused"])
def model(request: pytest.FixtureRequest, config: GPTConfig, loud: Callable[..., GPT]) -> GPT:
    return loud(GPT(config, backend=request.param)).eval()


@pytest.fixture
def ids() -> Tensor:
    return torch.tensor([[3, 36, 0, 7, 3, 19], [12, 5, 21, 30, 1, 8]])


def new_cache(model: GPT, batch: int = 2, capacity: int | None = None) -> KVCache:
    return KVCache(model.config, batch=batch, capacity=capacity, dtype=torch.float64)


def in_chunks(model: GPT, ids: Tensor, ends: tuple[int, ...], **named: Tensor) -> Tensor:
    """Return the logits of a text read in chunks that end at `ends`."""
    cache, parts = new_cache(model), []
    for start, end in itertools.pairwise((0, *ends)):
        given = {name: value[:, :end] for name, value in named.items()}
        if "positions" in given:
            given["positions"] = given["positions"][:, start:]
        parts.append(model(ids[:, start:end], cache=cache, **given))
    assert ends[-1] == cache.length
    return torch.cat(parts, dim=1)


SPLITS = [
    (*inner, TIME)
    for count in range(TIME)
    for inner in itertools.combinations(range(1, TIME), count)
]
"""Every way to split a text of five tokens: 16."""


def test_every_split_gives_the_same_logits(model: GPT, ids: Tensor, assert_same: Same) -> None:
    ids = ids[:, :TIME]
    expected = model(ids)
    assert len(SPLITS) == 16
    for ends in SPLITS:
        assert_same(expected, in_chunks(model, ids, ends))


@pytest.mark.parametrize("kept", [torch.float32, None], ids=["float32", "the model's"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_a_half_precision_model_takes_both_caches(
    dtype: torch.dtype, kept: torch.dtype | None, model: GPT, ids: Tensor
) -> None:
    """float32 is the default, and what the decoder uses."""
    exact = model(ids)
    narrow = GPT(model.config, backend=model.backend).to(dtype).eval()
    narrow.load_state_dict(model.state_dict())
    cache = KVCache(model.config, batch=2, dtype=dtype if kept is None else kept)
    parts = [narrow(chunk, cache=cache) for chunk in ids.split(2, dim=1)]
    assert {part.dtype for part in parts} == {dtype}
    error = (torch.cat(parts, dim=1).double() - exact).norm() / exact.norm()
    assert error < 8 * torch.finfo(dtype).eps


@pytest.mark.parametrize("ends", [(1, 2, 3, 4, 5, 6), (3, 6), (4, 5, 6)], ids=str)
def test_cached_padding_is_hidden(
    ends: tuple[int, ...], model: GPT, ids: Tensor, assert_same: Same
) -> None:
    mask = torch.tensor([[False, False, True, True, True, True], [True] * 6])
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    actual = in_chunks(model, ids, ends, attention_mask=mask, positions=positions)
    assert_same(model(ids[:1, 2:]), actual[:1, 2:])
    assert_same(model(ids[1:]), actual[1:])


def test_taps_of_a_chunk_are_those_of_the_whole(
    model: GPT, ids: Tensor, watch: Callable[..., Tensor], assert_same: Same
) -> None:
    whole, cache = type(watch)(), new_cache(model)
    model(ids, tap=whole)
    model(ids[:, :4], cache=cache)
    model(ids[:, 4:], cache=cache, tap=watch)
    assert list(whole.seen) == list(watch.seen)
    shown = {n: x for n, x in whole.seen.items() if not n.endswith(("scores", "weights"))}
    for name, expected in shown.items():
        assert_same(expected.narrow(-2, 4, 2), watch.seen[name])


def test_the_cache_stores_the_taps_result(model: GPT, ids: Tensor) -> None:
    def louder(name: str, value: Tensor) -> Tensor:
        return 2 * value if name == "h.0.attn.value" else value

    caches = [new_cache(model), new_cache(model)]
    model(ids[:, :4], cache=caches[0])
    model(ids[:, :4], cache=caches[1], tap=louder)
    first, second = (model(ids[:, 4:], cache=cache) for cache in caches)
    assert not torch.allclose(first, second)


def test_nothing_is_copied(model: GPT, ids: Tensor) -> None:
    """Memory is allocated once, and a block attends to a view of it."""
    cache = new_cache(model)
    places = cache.keys.data_ptr(), cache.values.data_ptr()
    model(ids[:, :4], cache=cache)
    before = [cache.keys[1, :, :, :4].clone(), cache.values[1, :, :, :4].clone()]
    newest = torch.randn(2, 2, 3, 1, 7, dtype=torch.float64)
    seen = cache.block(1).extended(*newest)
    assert places == (cache.keys.data_ptr(), cache.values.data_ptr())
    assert [cache.keys[1].data_ptr(), cache.values[1].data_ptr()] == [x.data_ptr() for x in seen]
    assert {(2, 3, 5, 7)} == {tuple(x.shape) for x in seen}
    for old, new, found in zip(before, newest, seen, strict=True):
        assert torch.equal(torch.cat([old, new], dim=2), found)


FAULTS: dict[str, Callable[[BlockCache, Tensor], None]] = {
    "one place too early": lambda part, key: part.key[:, :, part.start - 1 : -1].copy_(
        torch.nn.functional.pad(key, (0, 0, 0, part.key.shape[2] - part.start - key.shape[2]))
    ),
    "keys not kept": lambda part, _: part.key[:, :, part.start :].zero_(),
    "values not kept": lambda part, _: part.value[:, :, part.start :].zero_(),
    "of another row": lambda part, _: part.key[:].copy_(part.key.flip(0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_wrong_cache_shows(
    fault: str, model: GPT, ids: Tensor, assert_same: Same, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = BlockCache.extended

    def wrong(part: BlockCache, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        seen = right(part, key, value)
        if part.start > 0:
            FAULTS[fault](part, key)
        return seen

    expected = model(ids)
    assert_same(expected, in_chunks(model, ids, (3, 5, 6)))
    monkeypatch.setattr(BlockCache, "extended", wrong)
    with pytest.raises(AssertionError, match="differs by"):
        assert_same(expected, in_chunks(model, ids, (3, 5, 6)))


@pytest.mark.parametrize("rows", [[1, 0], [1, 1], [0, 0], [0, 1]], ids=str)
def test_reordered_rows_continue_other_texts(
    rows: list[int], model: GPT, ids: Tensor, assert_same: Same
) -> None:
    cache = new_cache(model)
    model(ids[:, :4], cache=cache)
    cache.reorder(torch.tensor(rows))
    texts = torch.cat([ids[rows, :4], ids[:, 4:]], dim=1)
    assert_same(model(texts)[:, 4:], model(ids[:, 4:], cache=cache))


def test_a_cleared_cache_is_empty(model: GPT, ids: Tensor) -> None:
    cache = new_cache(model)
    model(ids, cache=cache)
    cache.clear()
    assert torch.equal(model(ids.flip(0)), model(ids.flip(0), cache=cache))


def test_a_rejected_chunk_changes_nothing(model: GPT, ids: Tensor, assert_same: Same) -> None:
    cache = new_cache(model)
    first = model(ids[:, :4], cache=cache)
    with pytest.raises(ValueError, match="token_ids"):
        model(torch.full((2, 1), 37), cache=cache)
    assert cache.length == 4
    assert_same(model(ids), torch.cat([first, model(ids[:, 4:], cache=cache)], dim=1))


def test_a_chunk_that_does_not_fit_is_rejected(model: GPT, ids: Tensor) -> None:
    cache = new_cache(model, capacity=7)
    model(ids, cache=cache)
    other = GPT(dataclasses.replace(model.config, embd_pdrop=0.0)).double()
    short = torch.ones(2, 1, dtype=torch.bool)
    rejected = [
        (
            lambda: model(ids[:, :1], attention_mask=short, cache=cache),
            r"attention_mask must have shape \[2, 7\], got \[2, 1\]",
        ),
        (lambda: model(ids[:, :2], cache=cache), "2 tokens a row and the cache 6 of at most 7"),
        (lambda: model(ids[:1, :1], cache=cache), "token_ids has 1 rows, the cache .* for 2"),
        (lambda: other(ids[:, :1], cache=cache), "the cache was made for GPTConfig.*the model has"),
        (lambda: model.float()(ids[:, :1], cache=cache), "cache is torch.float64 on cpu.*float32"),
        (lambda: new_cache(model, capacity=0), "capacity of at least 1, got 2, 0"),
    ]
    for call, message in rejected:
        with pytest.raises(ValueError, match=message):
            call()


def test_positions_beyond_the_model_are_rejected(model: GPT, ids: Tensor) -> None:
    cache = new_cache(model, capacity=20)
    model(ids, cache=cache)
    with pytest.raises(ValueError, match=r"6 tokens a row after 6 in the cache.*has max 11"):
        model(ids, cache=cache)
    model(ids, torch.arange(6)[None], cache=cache)
    assert cache.length == 12


def test_recording_gradients_is_rejected(model: GPT, ids: Tensor) -> None:
    with torch.enable_grad(), pytest.raises(ValueError, match=r"inside torch.no_grad\(\)"):
        model(ids, cache=new_cache(model))


def test_the_compiled_backend_takes_no_cache(config: GPTConfig, loud: Callable[..., GPT]) -> None:
    model: nn.Module = loud(GPT(config, backend="compiled"))
    with pytest.raises(ValueError, match=r"'compiled' takes no cache; use with_backend"):
        model(torch.tensor([[1]]), cache=new_cache(model, batch=1))
