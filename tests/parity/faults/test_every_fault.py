"""Every fault of the registry is found by its check, first where it is expected."""

import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation.check import GenerationInputs, rows_of
from parity.checks.generation.texts import draw_prompts
from parity.checks.gradients import slope
from parity.checks.gradients.check import gradients
from parity.checks.gradients.taps import gradient_names
from parity.checks.layerwise import layerwise
from parity.checks.tokens import check as tokens_check
from parity.checks.tokens.check import tokens
from parity.checks.tokens.strings import HAND_PICKED, words_of_tokens
from parity.checks.training.check import training
from parity.checks.training.runners import VARIANTS, batches
from parity.core import inputs
from parity.core.backends import EAGER
from parity.core.metrics import Status
from parity.core.results import Mode, Report
from parity.core.taps import taps
from parity.core.tolerances import FAULT_MARGIN, MEASURED_SMALLEST_FAULT, Bounds, bounds_for
from parity.errors import ExitCode
from parity.faults import backward, forward, generation, tokenizer
from parity.faults import training as training_faults
from parity.faults.backward import BACKWARD_FAULTS
from parity.faults.forward import FORWARD_FAULTS
from parity.faults.generation import GENERATION_FAULTS
from parity.faults.registry import Fault, expected_at, faults_of
from parity.faults.tokenizer import TOKENIZER_FAULTS
from parity.faults.training import TRAINING_FAULTS
from scratch_gpt import GPT
from scratch_gpt.tokenizer.bpe import END

LAYERS = 12
BLOCKS = {name: random.Random(name).randrange(LAYERS) for name in faults_of(Fault)}  # noqa: S311
"""A block drawn at random for each fault, the same in every run."""
QUICK = {
    *("targets-not-shifted", "parts-not-averaged", "clip-per-parameter", "decay-on-vectors"),
    *("epsilon-inside-root", "schedule-off-by-one", "no-attention-dropout", "keep-probability"),
    *("newest-key-unseen", "cache-stale", "temperature-twice", "top-p-stops-short"),
    "second-likeliest",
}
"""Faults of training and of generation, some of each kind; the others are slow tests."""


def variants(name: str) -> tuple[str, ...]:
    """Return the backends, forms or pretokenizers with which a fault is tried."""
    if name in FORWARD_FAULTS:
        return EAGER
    if name in BACKWARD_FAULTS:
        return ("plain", "tiled")
    if name in TRAINING_FAULTS:
        return tuple(VARIANTS)
    return TOKENIZER_FAULTS[name].of if name in TOKENIZER_FAULTS else ("cached",)


def is_slow(name: str, variant: str) -> bool:
    """Return whether a case is left to the slow tests."""
    if name in TOKENIZER_FAULTS:
        return variant == "original" and TOKENIZER_FAULTS[name].merging
    return name in {**TRAINING_FAULTS, **GENERATION_FAULTS} and name not in QUICK


CASES = [
    pytest.param(name, variant, marks=[pytest.mark.slow] if is_slow(name, variant) else [])
    for name in faults_of(Fault)
    for variant in variants(name)
]


@pytest.mark.parametrize("name", faults_of(Fault))
def test_an_entry_is_complete(name: str) -> None:
    """It says what is wrong and why, and its location exists."""
    entry = faults_of(Fault)[name]
    assert all((entry.what, entry.cause, entry.at))
    places = {tap.name for tap in taps(LAYERS)}
    if name in BACKWARD_FAULTS:
        places = {place.name for place in gradient_names(LAYERS)}
    if name in {**FORWARD_FAULTS, **BACKWARD_FAULTS}:
        assert places >= {expected_at(name, 3, backend) for backend in EAGER}


@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_fault_is_found_where_it_is_expected(
    name: str, variant: str, request: pytest.FixtureRequest
) -> None:
    """Its check fails, names its location first, and passes before it."""
    finders = {
        "find_forward": FORWARD_FAULTS,
        "find_backward": BACKWARD_FAULTS,
        "find_training": TRAINING_FAULTS,
        "find_token": TOKENIZER_FAULTS,
        "find_generated": GENERATION_FAULTS,
    }
    finder = next(fixture for fixture, faults in finders.items() if name in faults)
    request.getfixturevalue(finder)(name, variant)


Find = Callable[[str, str], None]


def assert_caught_at(place: str, report: Report) -> float:
    """Assert that the verdict fails at a place and that all before it passed; return its error."""
    assert report.first_divergence is not None
    assert place == report.first_divergence.tap
    assert report.exit_code == ExitCode.FAIL
    names = [row.tap for row in report.results]
    assert all(row.status is Status.PASS for row in report.results[: names.index(place)])
    assert report.first_divergence.suspects
    error = report.first_divergence.row.error_ours
    assert error is not None
    return error


@pytest.fixture(scope="module")
def find_forward(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Find:
    """Return the search for a fault of the forward pass, on a backend."""
    drawn = inputs.seeded(batch=1, time=37, vocab_size=ours.config.vocab_size, seed=5)

    def find(name: str, backend: str) -> None:
        faulty = forward.inject(ours.with_backend(backend), name, BLOCKS[name])
        report = layerwise({backend: faulty}, theirs, drawn.token_ids, modes=[Mode.FLOAT64])
        error = assert_caught_at(expected_at(name, BLOCKS[name], backend), report)
        # The bounds assume that the smallest fault is so large.
        assert error >= MEASURED_SMALLEST_FAULT
        assert error >= FAULT_MARGIN * Bounds().float64

    return find


@pytest.fixture
def find_backward(ours: GPT, theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch) -> Find:
    """Return the search for a fault of the backward pass; the oracle's slope must show it too."""
    drawn = inputs.seeded(batch=2, time=5, vocab_size=ours.config.vocab_size, seed=5)
    monkeypatch.setattr(slope, "SMALL_MODEL", 0)  # one direction in all parameters

    def find(name: str, backend: str) -> None:
        faulty = backward.inject(ours.with_backend(backend), name, BLOCKS[name])
        report = gradients({backend: faulty}, theirs, drawn.token_ids, dtype="float64")
        error = assert_caught_at(expected_at(name, BLOCKS[name], backend), report)
        assert error >= FAULT_MARGIN * Bounds().float64
        rows = {row.tap: row for row in report.results if row.against == "oracle"}
        assert rows["direction"].status is Status.FAIL

    return find


@pytest.fixture(scope="module")
def find_training(two_models: tuple[GPT, OpenAIGPTLMHeadModel]) -> Find:
    """Return the search for a fault of training, with a variant of the optimizer."""
    ours, theirs = two_models
    ids = batches(steps=2, parts=2, batch=1, time=3, vocab_size=211, seed=0)

    def find(name: str, variant: str) -> None:
        entry = TRAINING_FAULTS[name]
        report = training(
            training_faults.inject(ours, name),
            theirs,
            ids,
            dropout=entry.dropout,
            forms=[variant],
            procedure=entry.procedure(),
            dtype="float64",
        )
        assert (report.exit_code, report.reasons) == (ExitCode.FAIL, [])
        assert report.first_divergence is not None
        assert expected_at(name, n_layer=2, variant=variant) == report.first_divergence.tap
        assert entry.look_for in report.first_divergence.suspects

    return find


@pytest.fixture
def find_token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Find]:
    """Return the search for a fault of a tokenizer, with a pretokenizer."""
    monkeypatch.setattr(tokens_check, "TAKEN_APART", 3)  # a wrong tokenizer differs everywhere

    def find(name: str, pretokenizer: str) -> None:
        right, against = request.getfixturevalue(f"{pretokenizer}_sides")
        strings = {"hand-picked": list(HAND_PICKED)}
        if pretokenizer == "huggingface" or TOKENIZER_FAULTS[name].merging:
            strings["tokens as words"] = words_of_tokens(right.tokenizer.vocabulary.tokens, END)
        side = tokenizer.inject(right.tokenizer, right.pretokenizer, name)
        report = tokens(side, against, strings)
        steps = {row.details["cause"].step for row in report.results if "cause" in row.details}
        expected, first = expected_at(name), report.first_divergence
        assert report.exit_code == ExitCode.FAIL
        if pretokenizer == "huggingface":
            assert {expected} == steps
        elif TOKENIZER_FAULTS[name].merging:
            assert expected in steps
        else:
            assert first is not None
            assert f"hand-picked/{expected}" == first.tap

    return find


@pytest.fixture(scope="module")
def find_generated(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Find:
    """Return the search for a fault of generation; nothing is run after the first failing row."""

    def find(name: str, _cached: str) -> None:
        asked = GenerationInputs(
            prompts=draw_prompts(2, longest=7, vocab_size=211, seed=0),
            new=8,
            searched=torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]]),
        )
        options: dict[str, Any] = {"dtype": "float32", "bounds": bounds_for("float32"), "seen": []}
        rows = rows_of(ours, theirs, asked, injected=partial(generation.inject, name), **options)
        row = next(row for row in rows if row.status is not Status.PASS)
        assert expected_at(name) == row.tap
        assert row.detail

    return find


def test_right_models_and_tokenizers_pass(request: pytest.FixtureRequest, ours: GPT) -> None:
    """Without a fault the same runs pass, also after faults were injected into copies."""
    theirs = request.getfixturevalue("theirs")
    drawn = inputs.seeded(batch=1, time=37, vocab_size=ours.config.vocab_size, seed=5)
    paths = {backend: ours.with_backend(backend) for backend in EAGER}
    report = layerwise(paths, theirs, drawn.token_ids, modes=[Mode.FLOAT64])
    assert report.exit_code == ExitCode.PASS

    right, against = request.getfixturevalue("huggingface_sides")
    for name, entry in TOKENIZER_FAULTS.items():
        if "huggingface" in entry.of:
            tokenizer.inject(right.tokenizer, right.pretokenizer, name).encode_batch(["A b"])
    strings = {
        "hand-picked": list(HAND_PICKED),
        "tokens as words": words_of_tokens(right.tokenizer.vocabulary.tokens, END),
    }
    assert tokens(right, against, strings).exit_code == ExitCode.PASS


def test_the_right_original_tokenizer_passes(request: pytest.FixtureRequest) -> None:
    """Without a fault the original words are the transcription's."""
    right, against = request.getfixturevalue("original_sides")
    words = words_of_tokens(right.tokenizer.vocabulary.tokens, END)
    report = tokens(right, against, {"hand-picked": list(HAND_PICKED), "tokens as words": words})
    assert report.exit_code == ExitCode.PASS


def test_every_kind_has_its_faults() -> None:
    """The registry holds the faults that the documentation counts."""
    found = [
        len(faults)
        for faults in (
            FORWARD_FAULTS,
            BACKWARD_FAULTS,
            TRAINING_FAULTS,
            TOKENIZER_FAULTS,
            GENERATION_FAULTS,
        )
    ]
    assert found == [18, 14, 23, 18, 25]
    assert sum(found) == len(faults_of(Fault))
    assert generation.GENERATION_FAULTS.keys().isdisjoint(FORWARD_FAULTS)
