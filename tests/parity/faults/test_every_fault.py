"""Every fault of the registry is found by its check, first where it is expected."""

import copy
import gc
import math
import random
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.checks.generation import faults as generation
from parity.checks.generation.check import GenerationInputs, rows_of
from parity.checks.generation.faults import GENERATION_FAULTS, GenerationFault
from parity.checks.generation.texts import draw_prompts
from parity.checks.gradients import faults as backward
from parity.checks.gradients import slope
from parity.checks.gradients.check import gradients
from parity.checks.gradients.faults import BACKWARD_FAULTS, BackwardFault
from parity.checks.gradients.taps import gradient_names
from parity.checks.invariants.faults import InvariantFault
from parity.checks.layerwise import layerwise
from parity.checks.selftest import (
    Models,
    backward_runner,
    forward_runner,
    part_of,
    tried,
    with_epsilon,
)
from parity.checks.tokens import check as tokens_check
from parity.checks.tokens import faults as tokenizer
from parity.checks.tokens.check import tokens
from parity.checks.tokens.faults import TOKENIZER_FAULTS, TokenizerFault
from parity.checks.tokens.runners import CandidateTokenizer, ReferenceTokenizer
from parity.checks.tokens.strings import HAND_PICKED, long_words, many_words, words_of_tokens
from parity.checks.training import faults as training_faults
from parity.checks.training.check import training
from parity.checks.training.faults import TRAINING_FAULTS, TrainingFault
from parity.checks.training.runners import batches
from parity.checks.training.taps import VARIANTS
from parity.core import inputs
from parity.core.backends import EAGER
from parity.core.metrics import Status
from parity.core.results import Mode, Report
from parity.core.runners import build_huggingface, build_ours
from parity.core.taps import taps
from parity.core.tolerances import FAULT_MARGIN, bounds_for
from parity.errors import ExitCode, UsageError
from parity.faults import forward
from parity.faults.forward import FORWARD_FAULTS, ForwardFault
from parity.faults.registry import Fault, faults_of, parse
from scratch_gpt import GPT
from scratch_gpt.generation import generate, sampling
from scratch_gpt.tokenizer.bpe import END

Sides = tuple[CandidateTokenizer, ReferenceTokenizer]
FAULTS = {n: one for n, one in faults_of(Fault).items() if not isinstance(one, InvariantFault)}
"""Every fault but those of properties, which `checks/invariants` tests."""
LAYERS = 12
BLOCKS = {name: random.Random(name).randrange(LAYERS) for name in FAULTS}  # noqa: S311
"""A block drawn at random for each fault, the same in every run."""
QUICK = {
    *("targets-not-shifted", "parts-not-averaged", "clip-per-parameter", "decay-on-vectors"),
    *("epsilon-inside-root", "schedule-off-by-one", "no-attention-dropout", "keep-probability"),
    *("last-micro-batch-dropped", "linear-for-cosine", "correction-stops", "moments-in-half"),
    *("mean-of-rows", "resumed-at-the-first-window", "tile-dropout-backward-unscaled"),
    *("masks-repeat", "loss-in-half"),
    *("newest-key-unseen", "cache-stale", "temperature-twice", "top-p-stops-short"),
    "second-likeliest",
    *("positions-from-one", "dropout-left-on", "query-key-swapped", "heads-interleaved"),
    *("heads-more", "scale-missing", "mask-off-by-one", "projection-transposed", "pre-norm"),
    *("norm-inside-residual", "no-mlp-residual", "epsilon", "unbiased-variance"),
    *("affine-ignored", "norms-swapped", "bias-dropped", "weight-off", "erf-gelu"),
    *("block-skipped", "string-order", "final-norm", "untied-head"),
}
"""Faults of the forward pass, of training and of generation, some of each kind.

The others run before a release; `test_forward_faults.py` has a fast one for each forward fault, and
`selftest --weights tiny`, which .ci/run calls, runs every fault.
"""

SLOW = {
    *("cache-evicts-wrong", "cache-by-hash", "cache-given-away", "counts-not-lowered"),
    *("words-counted-once", "long-unknown", "long-cut-before-end"),
}
"""Faults of tokenizers that take 4 to 24 s each; they run before a release, too."""


def variants(name: str) -> tuple[str, ...]:
    if name in FORWARD_FAULTS:
        return EAGER
    if name in BACKWARD_FAULTS:
        return ("plain", "tiled")
    if name in TRAINING_FAULTS:
        return VARIANTS if TRAINING_FAULTS[name].is_of_steps else VARIANTS[:1]
    return TOKENIZER_FAULTS[name].of if name in TOKENIZER_FAULTS else ("cached",)


def is_slow(name: str, variant: str) -> bool:
    if name in TOKENIZER_FAULTS:
        in_both = len(TOKENIZER_FAULTS[name].of) > 1
        return (variant == "original" and in_both) or name in SLOW
    return name in FORWARD_FAULTS | TRAINING_FAULTS | GENERATION_FAULTS and name not in QUICK


RELEASE = [pytest.mark.slow, pytest.mark.release]
CASES = [
    pytest.param(name, variant, marks=RELEASE if is_slow(name, variant) else [])
    for name in FAULTS
    for variant in variants(name)
]


@pytest.mark.parametrize("name", FAULTS)
def test_an_entry_is_complete(name: str) -> None:
    entry = FAULTS[name]
    assert all((entry.what, entry.at, entry.group))
    places = {tap.name for tap in taps(LAYERS)}
    if name in BACKWARD_FAULTS:
        places = {place.name for place in gradient_names(LAYERS)}
    if name in {**FORWARD_FAULTS, **BACKWARD_FAULTS}:
        assert places >= {FAULTS[name].first_seen(3, backend) for backend in EAGER}


@pytest.mark.fault
@pytest.mark.parametrize(("name", "variant"), CASES)
def test_a_fault_is_found_where_it_is_expected(
    name: str, variant: str, request: pytest.FixtureRequest
) -> None:
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
    """Assert that the verdict fails at `place` and that all before it passed; return its error.

    Another shape is an infinite error.
    """
    assert report.first_divergence is not None
    assert place == report.first_divergence.tap
    assert report.exit_code == ExitCode.FAIL
    names = [row.tap for row in report.results]
    assert all(row.status is Status.PASS for row in report.results[: names.index(place)])
    row = report.first_divergence.row
    if row.status is Status.SHAPE:
        assert row.detail.startswith("shape ")
        return math.inf
    assert report.first_divergence.suspects
    assert row.error_ours is not None
    return row.error_ours


@pytest.fixture(scope="module")
def models(weights: Weights, ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Models:
    other = with_epsilon(weights)
    pair = build_ours(other), build_huggingface(other)
    return lambda fault: pair if part_of(fault) == "epsilon" else (ours, theirs)


@pytest.fixture(scope="module")
def find_forward(models: Models) -> Find:
    def find(name: str, backend: str) -> None:
        fault, block = FAULTS[name], BLOCKS[name]
        trial = tried(fault, "forward", forward_runner(models, backend, block), backend, block)
        assert trial.wrong == ""
        # The bounds assume that the smallest fault is so large; rounding to float32 is smaller.
        assert fault.proof or trial.margin >= (10 if fault.group == "precision" else FAULT_MARGIN)

    return find


@pytest.fixture
def find_backward(models: Models, monkeypatch: pytest.MonkeyPatch) -> Find:
    """The oracle's slope must show the fault too, unless it rounds, or a gradient is missing."""
    monkeypatch.setattr(slope, "SMALL_MODEL", 0)  # one direction in all parameters

    def find(name: str, backend: str) -> None:
        fault, block, reports = FAULTS[name], BLOCKS[name], list[Report]()
        run = backward_runner(models, backend, block, select="*")

        def kept(fault: Fault | None) -> Report:
            reports.append(run(fault))
            return reports[0]

        trial = tried(fault, "backward", kept, backend, block)
        assert trial.wrong == ""
        rows = {row.tap: row for row in reports[0].results if row.against == "oracle"}
        if fault.group != "precision" and math.isfinite(trial.margin):
            assert trial.margin >= FAULT_MARGIN
            assert rows["direction"].status is Status.FAIL

    return find


@pytest.fixture(scope="module")
def find_training(two_models: tuple[GPT, OpenAIGPTLMHeadModel]) -> Find:
    ours, theirs = two_models
    ids = batches(steps=2, parts=2, batch=1, time=3, vocab_size=211, seed=0)

    def find(name: str, variant: str) -> None:
        entry = TRAINING_FAULTS[name]
        run = entry.at.split(".")[0]
        with training_faults.injected(name):
            report = training(
                ours,
                theirs,
                ids,
                forms=[variant],
                dtype="float64",
                trainer=not entry.is_of_steps,
                select="*" if entry.is_of_steps else f"{run}.*",
            )
        assert (report.exit_code, report.reasons) == (ExitCode.FAIL, [])
        assert report.first_divergence is not None
        assert FAULTS[name].first_seen(variant=variant, last=1) == report.first_divergence.tap
        assert entry.look_for in report.first_divergence.suspects

    return find


@pytest.fixture
def find_token(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Find]:
    monkeypatch.setattr(tokens_check, "TAKEN_APART", 3)  # a wrong tokenizer differs everywhere

    def find(name: str, pretokenizer: str) -> None:
        right, against = request.getfixturevalue(f"{pretokenizer}_sides")
        known, expected = right.tokenizer.vocabulary.tokens, FAULTS[name].first_seen()
        strings = {"hand-picked": list(HAND_PICKED), "words": words_of_tokens(known, END)}
        if expected in ("long words", "word cache"):
            strings["long words"] = long_words(known, seed=0)
        if name == "cache-evicts-wrong":
            strings["many words"] = many_words()
        whole = FAULTS[name].at in ("decode", "encode_batch", "training", "files", *MORE)
        side = tokenizer.inject(right.tokenizer, name)
        report = tokens(side, against, strings, whole=whole)
        first = report.first_divergence
        assert report.exit_code == ExitCode.FAIL
        assert first is not None
        assert first.tap.partition("/")[2] == expected
        assert first.row.detail

    return find


MORE = ("ids", "exception", "other inputs")
"""Steps that other uses than encoding show, too."""


@pytest.fixture(scope="module")
def find_generated(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Find:
    """Nothing is run after the first failing row."""

    def find(name: str, _cached: str) -> None:
        given = GenerationInputs(
            prompts=draw_prompts(2, longest=7, vocab_size=211, seed=0),
            new=8,
            searched=torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]]),
        )
        options: dict[str, Any] = {"dtype": "float32", "bounds": bounds_for("float32"), "seen": []}
        rows = rows_of(ours, theirs, given, injected=partial(generation.inject, name), **options)
        row = next(row for row in rows if row.status is not Status.PASS)
        assert FAULTS[name].first_seen() == row.tap
        assert row.detail

    return find


def test_right_models_and_tokenizers_pass(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, huggingface_sides: Sides
) -> None:
    """Also after faults were injected into copies."""
    drawn = inputs.seeded(batch=1, time=37, vocab_size=ours.config.vocab_size, seed=5)
    paths = {backend: ours.with_backend(backend) for backend in EAGER}
    report = layerwise(paths, theirs, drawn.token_ids, modes=[Mode.FLOAT64])
    assert report.exit_code == ExitCode.PASS

    right, against = huggingface_sides
    for name, entry in TOKENIZER_FAULTS.items():
        if "huggingface" in entry.of:
            tokenizer.inject(right.tokenizer, name).encode_batch(["A b"])
    assert tokens(right, against, strings_for(right)).exit_code == ExitCode.PASS


def test_the_right_original_tokenizer_passes(original_sides: Sides) -> None:
    right, against = original_sides
    assert tokens(right, against, strings_for(right)).exit_code == ExitCode.PASS


def strings_for(side: CandidateTokenizer) -> dict[str, list[str]]:
    words = words_of_tokens(side.tokenizer.vocabulary.tokens, END)
    return {"hand-picked": list(HAND_PICKED), "tokens as words": words}


def test_every_kind_has_its_faults() -> None:
    kinds = (
        *(FORWARD_FAULTS, BACKWARD_FAULTS, TRAINING_FAULTS, TOKENIZER_FAULTS, GENERATION_FAULTS),
    )
    assert [len(faults) for faults in kinds] == [191, 30, 50, 48, 61]
    assert sorted(name for faults in kinds for name in faults) == sorted(FAULTS)


SINGLE_OPERATION = (
    *("erf-gelu", "bias-dropped", "projection-transposed", "mask-off-by-one", "scale-missing"),
    *("positions-from-one", "untied-head", "final-norm"),
)
"""Faults that make one operation wrong, and no other."""


@pytest.mark.parametrize("name", SINGLE_OPERATION)
def test_per_op_only_the_wrong_operation_fails(
    name: str, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    ids = inputs.seeded(batch=1, time=37, vocab_size=211, seed=5).token_ids
    faulty = forward.inject(ours, name, BLOCKS[name])
    report = layerwise({"plain": faulty}, theirs, ids, modes=[Mode.PER_OP])
    failing = {row.tap for row in report.results if row.status is not Status.PASS}
    assert failing == {FAULTS[name].first_seen(BLOCKS[name], "plain")}


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("backend", ["plain", "tiled"])
@pytest.mark.parametrize("name", BACKWARD_FAULTS)
def test_nothing_forward_shows_a_backward_fault(
    name: str, backend: str, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Logits are the right model's to the bit, with gradients and without, and layerwise passes."""
    right = ours.with_backend(backend)
    faulty = backward.inject(right, name, BLOCKS[name])
    ids = inputs.seeded(batch=2, time=5, vocab_size=211, seed=5).token_ids
    report = layerwise({backend: faulty}, theirs, ids, modes=[Mode.FLOAT64])
    assert torch.equal(right(ids), faulty(ids))
    with torch.no_grad():
        assert torch.equal(right(ids), faulty(ids))
    assert report.exit_code == ExitCode.PASS


# The released size.

LONG = 1_200
"""Seconds after which a full-size test hangs: a busy machine takes minutes for some."""
FullSize = tuple[GPT, OpenAIGPTLMHeadModel]


@pytest.fixture(scope="module")
def full_size() -> FullSize:
    weights = load_weights("surrogate")
    return build_ours(weights), build_huggingface(weights)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("name", [None, *(name for name in FORWARD_FAULTS if name in QUICK)])
def test_a_full_size_forward_fault_is_found(name: str | None, full_size: FullSize) -> None:
    right, theirs = full_size
    gc.collect()  # a model with a fault refers to itself, and a full-size one has 2 GB
    model = right if name is None else forward.inject(right, name, BLOCKS[name])
    ids = inputs.seeded(batch=1, time=40, vocab_size=right.config.vocab_size, seed=5).token_ids
    report = layerwise({"plain": model}, theirs, ids, modes=[Mode.FLOAT64])
    if name is None:
        assert report.exit_code == ExitCode.PASS
    else:
        assert_caught_at(FAULTS[name].first_seen(BLOCKS[name], "plain"), report)


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.timeout(LONG)
@pytest.mark.parametrize("name", ["erf-derivative", "delta-missing", "norm-without-mean"])
def test_a_full_size_fault_of_a_derivative_is_found(name: str, full_size: FullSize) -> None:
    right, theirs = full_size
    faulty = backward.inject(right.with_backend("tiled"), name, BLOCKS[name])
    ids = inputs.seeded(batch=1, time=37, vocab_size=right.config.vocab_size, seed=5).token_ids
    report = gradients({"tiled": faulty}, theirs, ids, dtype="float64", select="[!d]*")
    assert_caught_at(FAULTS[name].first_seen(BLOCKS[name], "tiled"), report)


# How faults are injected.


@pytest.mark.parametrize(
    ("name", "block", "backend", "expected"),
    [
        ("scale-missing", 3, "plain", "h.3.attn.scores"),
        ("scale-missing", 3, "tiled", "h.3.attn.context"),
        ("projection-transposed", 0, "fused", "h.0.ln_1.input"),
        ("string-order", 9, "fused", "h.2.attn.query"),
        ("untied-head", 9, "fused", "logits"),
        ("delta-missing", 3, "plain", "h.3.attn.scores"),
        ("delta-missing", 3, "tiled", "h.3.attn.key"),
        ("delta-missing", 0, "fused", "h.0.attn.key"),
        ("residual-cut", 0, "plain", "embeddings"),
        ("residual-cut", 5, "plain", "h.4.ln_2"),
    ],
)
def test_a_tensor_that_is_not_formed_shows_in_the_next_one(
    name: str, block: int, backend: str, expected: str
) -> None:
    assert FAULTS[name].first_seen(block, backend) == expected


@pytest.mark.parametrize("name", ["doubled", "transpose-missing"])
def test_a_fault_at_a_tap_that_is_not_formed_is_refused(name: str, ours: GPT) -> None:
    with pytest.raises(ValueError, match=f"{name} is injected at .* does not form"):
        backward.inject(ours.with_backend("fused"), name, 3)


def test_injection_leaves_the_right_model_alone(ours: GPT) -> None:
    state = copy.deepcopy(ours.state_dict())
    ids = inputs.seeded(batch=1, time=9, vocab_size=211, seed=1).token_ids
    logits = ours(ids)
    for name in FORWARD_FAULTS:
        forward.inject(ours, name, BLOCKS[name])
    for name in BACKWARD_FAULTS:
        backward.inject(ours, name, BLOCKS[name])
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    assert torch.equal(logits, ours(ids))
    assert "forward" not in vars(ours)


@pytest.mark.parametrize(("kind", "name"), [(forward, "erf-gelu"), (backward, "doubled")])
def test_a_copy_of_a_faulty_model_has_the_fault(kind: Any, name: str, ours: GPT) -> None:  # noqa: ANN401
    twin = copy.deepcopy(kind.inject(ours, name, 3)).double()
    assert twin.forward.__self__ is twin


def test_a_graft_has_the_values_of_one_and_the_gradient_of_the_other() -> None:
    value = torch.tensor([1.0, 2.0], requires_grad=True)
    other = torch.tensor([5.0, 7.0], requires_grad=True)
    graft = backward.grafted(value, other * other)
    graft.sum().backward()
    assert torch.equal(value, graft)
    assert other.grad is not None
    assert torch.equal(2 * other, other.grad)
    assert value.grad is None


@pytest.mark.parametrize("other", [torch.ones(3), torch.ones(1, 2), torch.ones(())])
def test_a_graft_of_another_shape_is_refused(other: Tensor) -> None:
    with pytest.raises(ValueError, match="cannot take the gradient"):
        backward.grafted(torch.ones(2), other)


# The registry.


@pytest.mark.parametrize(
    ("text", "expected"), [("epsilon", 6), ("epsilon@0", 0), ("epsilon@11", 11)]
)
def test_a_name_has_a_block_or_the_middle_one(text: str, expected: int) -> None:
    found, block = parse(text, [ForwardFault], n_layer=12)
    assert ("epsilon", expected) == (found.name, block)


@pytest.mark.parametrize("text", ["epsilon@12", "epsilon@", "epsilon@-1", "epsilon@x"])
def test_a_block_must_exist(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, [ForwardFault], n_layer=12)
    assert "there is no block" in caught.value.what
    assert "0 to 11" in caught.value.fix


def test_a_fault_without_a_block_takes_none() -> None:
    with pytest.raises(UsageError, match="beta1 has no block"):
        parse("beta1@3", [TrainingFault])
    assert parse("beta1", [TrainingFault])[0].name == "beta1"


@pytest.mark.parametrize(
    "kinds", [[ForwardFault, BackwardFault], [TrainingFault], [TokenizerFault], [GenerationFault]]
)
def test_an_unknown_name_counts_the_faults_of_the_check(kinds: list[type[Fault]]) -> None:
    with pytest.raises(UsageError, match="no fault is called 'list'") as caught:
        parse("list", kinds)
    count = sum(len(faults_of(kind)) for kind in kinds)
    assert caught.value.fix.endswith(f"describes all {count}")


def test_a_fault_that_does_not_fit_is_unknown() -> None:
    original = {name: f for name, f in TOKENIZER_FAULTS.items() if "original" in f.of}
    for name in ("accents-kept", "9"):
        with pytest.raises(UsageError, match=f"no fault is called '{name}'") as caught:
            parse(name, [TokenizerFault], fits=lambda f: "original" in f.of, where="here")
        assert caught.value.fix.endswith(f"describes all {len(original)}")
    assert "accents-kept" not in original
    assert caught.value.where == "here"


def test_the_nearest_names_are_suggested() -> None:
    with pytest.raises(UsageError) as caught:
        parse("erfgelu", [ForwardFault])
    assert caught.value.fix.startswith("did you mean erf-gelu")


def test_a_function_gives_its_fault_name_and_words() -> None:
    assert TRAINING_FAULTS["masks-repeat"].what == "every step has the dropout masks of the first"
    assert BACKWARD_FAULTS["gelu-straight-through"].what == "GELU hands its gradient on as it is"


@pytest.mark.parametrize("everywhere", [False, True])
def test_a_replaced_function_comes_back(*, everywhere: bool) -> None:
    right = sampling.choose
    with GENERATION_FAULTS["not-drawn"].injected(everywhere=everywhere):
        assert sampling.choose is not right
        assert (generate.choose is right) is not everywhere
    assert sampling.choose is right
    assert generate.choose is right


def test_two_faults_cannot_share_a_name() -> None:
    with pytest.raises(ValueError, match="two faults are called epsilon"):
        ForwardFault.register("epsilon", "again", at="logits")(len)
    assert FORWARD_FAULTS["epsilon"].what != "again"
