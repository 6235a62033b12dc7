"""Continuing prompts: greedy, sampled, by beams, and at the last position."""

import contextlib
import dataclasses
import itertools
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
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
from scratch_gpt.model import GenerateOptions

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
        ("end_id", [7]),
    ],
)
def test_values_of_other_types_are_rejected(name: str, value: object) -> None:
    """Outside of tests only the request checks types."""
    fields = vars(Request(max_new_tokens=1)) | {name: value}
    with pytest.raises(ValueError, match=rf"^{name} is {re.escape(repr(value))}; allowed"):
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


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"do_sample": True}, {"sampled": True}),
        ({"do_sample": False}, {}),
        ({"num_beams": 3}, {"beams": 3}),
        ({"num_beams": 3, "num_return_sequences": 2}, {"beams": 3, "samples": 2}),
        ({"do_sample": True, "num_return_sequences": 2}, {"sampled": True, "samples": 2}),
        ({"eos_token_id": 7}, {"end_id": 7}),
        ({"temperature": 0.7}, {"sampled": True, "temperature": 0.7}),
        ({"temperature": 1.0}, {"sampled": True}),
        ({"top_k": 3}, {"sampled": True, "top_k": 3}),
        ({"top_p": 0.5, "seed": 3}, {"sampled": True, "top_p": 0.5, "seed": 3}),
        ({"temperature": None, "top_k": None, "top_p": None}, {}),
        ({"do_sample": False, "temperature": 1.0}, {}),
        ({"num_beams": 3, "temperature": 1.0}, {"beams": 3}),
        ({"repetition_penalty": 1.3}, {"rules": Rules(repetition_penalty=1.3)}),
    ],
    ids=str,
)
def test_options_have_hugging_faces_names_and_imply_sampling(
    theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    assert Request.of(4, **theirs) == Request.of(4, **ours)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"do_sample": False, "temperature": 0.7},
            "temperature is 0.7; .* where do_sample is False",
        ),
        ({"do_sample": False, "top_k": 5}, "top_k is 5; .* where do_sample is False"),
        ({"do_sample": True, "num_beams": 2}, "num_beams is 2; .* with do_sample=True, because"),
        (
            {"num_beams": 2, "top_p": 0.5},
            "top_p is 0.5 and num_beams is 2; allowed: one of the two",
        ),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "no more num_return_sequences than num_beams",
        ),
        ({"num_return_sequences": 2}, "num_return_sequences is 2; .* do_sample=True or num_beams"),
        ({"eos_token_id": -1}, "eos_token_id is -1; allowed: an id, or None"),
        ({"num_beams": 0}, "num_beams is 0"),
        ({"beams": 2, "samples": 3}, "no more samples than beams"),
    ],
    ids=str,
)
def test_a_contradiction_names_the_options_as_they_were_given(
    options: dict[str, Any], message: str, model: GPT, ids: Tensor
) -> None:
    with pytest.raises(ValueError, match=message):
        model.generate(ids, max_new_tokens=2, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temprature": 1.0}, "no option 'temprature'; did you mean temperature?"),
        ({"num_beam": 2}, "did you mean num_beams?"),
        ({"pad_token_id": 2}, "no option 'pad_token_id'; options are do_sample, temperature, "),
        ({"num_beams": 2, "beams": 2}, "num_beams and beams are one option"),
        ({"samples": 2, "num_return_sequences": 2}, "num_return_sequences and samples are one"),
    ],
    ids=str,
)
def test_an_option_that_does_not_exist_is_named(
    options: dict[str, Any], message: str, model: GPT, ids: Tensor
) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        model.generate(ids, max_new_tokens=2, **options)


def test_the_declared_options_are_those_of_a_request() -> None:
    fields = {field.name for kind in (Request, Rules) for field in dataclasses.fields(kind)}
    declared = {*GenerateOptions.__annotations__}
    assert declared == fields - {"max_new_tokens"} | {*generate._HUGGINGFACE}
    assert {*generate._HUGGINGFACE.values()} < fields


@pytest.mark.skipif(find_spec("mypy") is None, reason="not run: mypy is not installed")
def test_a_type_checker_finds_a_misspelt_option(
    tmp_path: Path, home_of: Callable[[str], Path]
) -> None:
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\n[mypy-torch.*,jaxtyping.*,numpy.*]\nfollow_imports = skip\n"
        "ignore_missing_imports = True\n",
        encoding="utf-8",
    )
    (tmp_path / "use.py").write_text(
        "from scratch_gpt import GPT\n"
        "def use(model: GPT, ids: object) -> None:\n"
        "    model.generate(ids, max_new_tokens=1, temperature=0.7, eos_token_id=3)\n"
        "    model.generate(ids, max_new_tokens=1, temprature=0.7)\n"
        "    model.generate(ids, max_new_tokens=1, num_beams='2')\n",
        encoding="utf-8",
    )
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "use.py"]
    environment = os.environ | {"MYPYPATH": str(home_of("scratch_gpt").parent)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    found = [line.split(": ", 2) for line in done.stdout.splitlines() if ": error:" in line]
    assert [place for place, _, _ in found] == ["use.py:4", "use.py:5"], done.stdout
    assert 'Unexpected keyword argument "temprature"' in found[0][2]
    assert 'expected "int"' in found[1][2]


@pytest.mark.reference
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"do_sample": False, "eos_token_id": 0},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2},
        {"num_beams": 3},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "num_return_sequences": 2, "eos_token_id": 0},
        {"num_beams": 3, "eos_token_id": 0, "length_penalty": 2.0, "early_stopping": True},
    ],
    ids=str,
)
def test_hugging_face_gives_the_same_ids(
    options: dict[str, Any], model: GPT, ids: Tensor, tmp_path: Path
) -> None:
    """An `eos_token_id` of 0 stands for the third new token of the greedy text."""
    import transformers

    model.float().save_pretrained(tmp_path / "model")
    ours = GPT.from_pretrained(tmp_path / "model").double()
    theirs = transformers.OpenAIGPTLMHeadModel.from_pretrained(tmp_path / "model").double().eval()
    if "eos_token_id" in options:
        options = options | {"eos_token_id": int(greedy(ours, ids, 3)[0, -1])}
    expected = theirs.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=6,
        pad_token_id=options.get("eos_token_id"),
        **{"do_sample": False, **options},
    )
    actual = ours.generate(ids, max_new_tokens=6, **options)
    assert len(set(actual[:, 4:].flatten().tolist())) > 2, "a constant text"
    assert torch.equal(expected, actual)


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
