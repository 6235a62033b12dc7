"""Continuing prompts: greedy, sampled, by beams, and at the last position."""

import contextlib
import itertools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.generation import generate
from scratch_gpt.generation.beam_search import Settings, beam_search
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.generate import Request
from scratch_gpt.generation.sampling import Rules

DRAWN = {"sampled": True, "temperature": 3.0}


@pytest.fixture
def model(config: GPTConfig, loud: Callable[..., GPT]) -> GPT:
    return loud(GPT(config)).train()


@pytest.fixture
def ids() -> Tensor:
    return torch.tensor([[3, 36, 0, 7], [12, 5, 21, 30]])


def greedy(
    model: GPT, ids: Tensor, count: int, *, half: int = 5, rules: Rules | None = None
) -> Tensor:
    """Return the texts of the model without a cache."""
    model, ids = model.with_backend("plain").eval(), ids.clone()
    window_start = 0
    for _ in range(count):
        if ids.shape[1] - window_start > model.config.n_positions:
            window_start = ids.shape[1] - half
        with torch.no_grad():
            logits = model(ids[:, window_start:])[:, -1]
        left = (rules or Rules()).processed(logits, ids)
        ids = torch.cat([ids, left.argmax(-1, keepdim=True)], dim=1)
    return ids


def test_greedy_equals_the_uncached_model(model: GPT, ids: Tensor) -> None:
    expected = greedy(model, ids, 7)
    assert len(set(expected[:, 4:].flatten().tolist())) > 2, "a constant text"
    assert torch.equal(expected, model.generate(ids, max_new_tokens=7))
    actual = model.generate(ids.int(), max_new_tokens=7)
    assert torch.equal(expected, actual)
    assert not actual.requires_grad
    assert model.training


@pytest.mark.parametrize(
    "rules",
    [Rules(no_repeat_ngram_size=1), Rules(repetition_penalty=3.0)],
    ids=["n-gram", "penalty"],
)
def test_rules_apply_to_the_text_so_far_only(rules: Rules, model: GPT, ids: Tensor) -> None:
    """Unused memory does not count as tokens 0: 0 can be chosen."""
    with torch.no_grad():
        model.tokens_embed.weight[0] = 1.1 * model.tokens_embed.weight[31]
    prompt = ids.clamp(min=1)
    expected = greedy(model, prompt, 7, rules=rules)
    assert 0 in expected
    assert torch.equal(expected, model.generate(prompt, max_new_tokens=7, rules=rules))


@pytest.mark.parametrize(("overflow", "count"), [("stop", 7), ("slide", 30)], ids=["stop", "slide"])
def test_past_the_last_position(overflow: str, count: int, model: GPT, ids: Tensor) -> None:
    expected = greedy(model, ids, count)
    assert torch.equal(expected, model.generate(ids, max_new_tokens=30, overflow=overflow))


def test_a_long_prompt_slides(model: GPT, ids: Tensor) -> None:
    prompt = ids.repeat(1, 4)
    actual = model.generate(prompt, max_new_tokens=3, overflow="slide")
    expected = torch.cat([prompt, greedy(model, prompt[:, -5:], 3)[:, 5:]], dim=1)
    assert torch.equal(expected, actual)


def test_a_full_prompt_stops_or_slides(model: GPT) -> None:
    prompt = torch.arange(11)[None]
    assert torch.equal(prompt, model.generate(prompt, max_new_tokens=3))
    actual = model.generate(prompt, max_new_tokens=3, overflow="slide")
    assert torch.equal(greedy(model, prompt, 3), actual)


@pytest.mark.parametrize("options", [{}, {"beams": 2}, DRAWN], ids=["greedy", "beams", "drawn"])
def test_no_new_tokens_is_the_prompt(options: dict[str, Any], model: GPT, ids: Tensor) -> None:
    assert torch.equal(ids, model.generate(ids, max_new_tokens=0, **options))
    assert list(generate.stream(model, ids, Request(max_new_tokens=0))) == []


REJECTED: list[tuple[dict[str, Any], str]] = [
    ({"max_new_tokens": -1}, "max_new_tokens is -1; allowed: a whole number"),
    ({"max_new_tokens": True}, "max_new_tokens is True"),
    (
        {"max_new_tokens": 8, "overflow": "error"},
        "4 tokens of prompt and max_new_tokens=8 are more than the model's 11 positions",
    ),
    ({"overflow": "crop"}, "overflow is 'crop'; allowed: 'stop'"),
    ({"overflow": "slide", "beams": 2}, "overflow is"),
    ({"samples": 2}, "samples is 2; allowed: 1, or"),
    ({"beams": 2, **DRAWN}, "beams is 2; allowed: .* draws"),
    ({"end_id": -1}, "end_id is -1"),
    ({"beams": 2, "samples": 3}, "samples is 3 and beams"),
    ({"length_penalty": float("inf")}, "length_penalty is inf"),
    ({"seed": -1}, "seed is -1"),
    ({"seed": 1 << 64}, "seed is 18446744073709551616"),
    ({"streams": (0, -1)}, r"streams is \(0, -1\)"),
    ({"streams": (1,), **DRAWN}, "streams has 1 numbers, there are 2 texts"),
    ({"sampled": True, "temperature": 0.0}, "temperature is 0"),
    ({"sampled": True, "top_k": 38}, "top_k is 38"),
]


@pytest.mark.parametrize(("options", "message"), REJECTED, ids=str)
def test_a_setting_out_of_range_is_rejected(
    options: dict[str, Any], message: str, model: GPT, ids: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(ids, **{"max_new_tokens": 1} | options)


def test_bad_prompts_are_rejected(model: GPT) -> None:
    for prompt, message in (
        (torch.zeros(1, 0, dtype=torch.long), "empty prompt"),
        (torch.zeros(1, 12, dtype=torch.long), "12 tokens a row; this model has max 11"),
        (torch.tensor([[1, 37]]), "is 37, which is not in"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(prompt, max_new_tokens=1)
    forgotten = torch.tensor([[37, *range(12)]])
    with pytest.raises(ValueError, match="is 37, which is not in"):
        model.generate(forgotten, max_new_tokens=1, overflow="slide")
    for prompt, slide in itertools.product((torch.tensor(1), torch.tensor([1, 3])), (True, False)):
        with pytest.raises(ValueError, match=r"must be \[batch time\]"):
            generate._check_prompts(model, prompt, any_length=slide)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("length_penalty", True),
        ("length_penalty", "1"),
        ("early_stopping", "ever"),
        ("early_stopping", 1),
        ("streams", 3),
        ("seed", 1.0),
    ],
)
def test_values_of_other_types_are_rejected(name: str, value: object) -> None:
    """Outside of tests only the request checks types."""
    fields = vars(Request(max_new_tokens=1)) | {name: value}
    with pytest.raises(ValueError, match=f"^{name} is {value!r}; allowed"):
        Request.__post_init__(SimpleNamespace(**fields))


def test_memory_grows_with_the_text(model: GPT, ids: Tensor) -> None:
    endless = Request(max_new_tokens=10**13, overflow="slide")
    tokens = itertools.islice(generate.stream(model, ids, endless), 30)
    new = torch.stack(list(tokens), dim=1)
    assert torch.equal(greedy(model, ids, 30)[:, 4:], new)


def test_rules_are_given_in_one_way(model: GPT, ids: Tensor) -> None:
    rules = Request.of(1, **DRAWN).rules
    assert Request.of(1, rules=rules) == Request.of(1, **DRAWN)
    with pytest.raises(TypeError, match="give rules, or"):
        model.generate(ids, max_new_tokens=1, rules=rules, sampled=True)
    with pytest.raises(TypeError, match="temprature"):
        model.generate(ids, max_new_tokens=1, temprature=1.0)


def test_a_seed_determines_the_text(model: GPT, ids: Tensor) -> None:
    first, again, other = (
        model.generate(ids, max_new_tokens=7, seed=seed, **DRAWN) for seed in (5, 5, 6)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_text_does_not_depend_on_its_batch(model: GPT, ids: Tensor) -> None:
    every = model.generate(ids, max_new_tokens=7, samples=2, **DRAWN)
    assert len({tuple(row) for row in every.tolist()}) == 4
    for row, text in enumerate(every):
        prompt = ids[row // 2 : row // 2 + 1]
        alone = model.generate(prompt, max_new_tokens=7, streams=(row,), **DRAWN)
        assert torch.equal(text[None], alone)


def test_a_finished_text_is_padded_with_its_end(model: GPT, ids: Tensor) -> None:
    whole = model.generate(ids, max_new_tokens=7)
    ends = (whole[:, 4:] == whole[0, 6]).long()
    end, other = int(whole[0, 6]), int(ends[1].argmax()) if bool(ends[1].any()) else 7
    actual = model.generate(ids, max_new_tokens=7, end_id=end)
    first = int(ends[0].argmax())
    assert torch.equal(whole[0, : 5 + first], actual[0, : 5 + first])
    assert {end} == set(actual[0, 5 + first :].tolist() or [end])
    alone = model.generate(ids[:1], max_new_tokens=7, end_id=end)
    assert alone.shape[1] == 5 + first
    assert torch.equal(whole[1, : 4 + other], actual[1, : 4 + other])


def test_beams_search_with_a_decoder(model: GPT, ids: Tensor) -> None:
    actual = model.generate(ids, max_new_tokens=5, beams=3, samples=2)
    decoder = Decoder(model, batch=6)
    expected = beam_search(decoder, ids, Settings(beams=3, max_new_tokens=5, returned=2))
    assert tuple(actual.shape) == (4, 9)
    assert torch.equal(expected, actual)
    request = Request(max_new_tokens=5, beams=3)
    with pytest.raises(ValueError, match="a beam search cannot stream"):
        next(generate.stream(model, ids, request))


def test_stream_yields_at_once(model: GPT, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = itertools.count()
    right = Decoder.step

    def counted(decoder: Decoder, tokens: Tensor) -> Tensor:
        next(steps)
        return right(decoder, tokens)

    monkeypatch.setattr(Decoder, "step", counted)
    tokens = generate.stream(model, ids, Request(max_new_tokens=5))
    next(tokens)
    assert next(steps) == 0


def test_a_stale_cache_shows(model: GPT, ids: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = greedy(model, ids, 30)
    right = Decoder.start

    def stale(decoder: Decoder, tokens: Tensor) -> Tensor:
        kept = decoder.cache.kept.clone()
        logits = right(decoder, tokens)
        decoder.cache.kept.copy_(kept)
        return logits

    monkeypatch.setattr(Decoder, "start", stale)
    found = None
    with contextlib.suppress(ValueError):  # uninitialised memory may hold NaN
        found = model.generate(ids, max_new_tokens=30, overflow="slide")
    assert found is None or not torch.equal(expected, found)
