"""The generation check: verdicts, references, degenerate inputs and fingerprints."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Weights
from parity.checks.generation import check as check_module
from parity.checks.generation import rules
from parity.checks.generation.beams import SETTINGS
from parity.checks.generation.check import (
    GenerationInputs,
    check_prompts,
    degenerate_reasons,
    generation,
    generation_inputs,
    rows_of,
)
from parity.checks.generation.faults import GENERATION_FAULTS, inject
from parity.checks.generation.requests import CALLS, HALVES
from parity.checks.generation.rows import BACKEND
from parity.checks.generation.texts import (
    ALSO_UNCACHED,
    OWN_LOGITS,
    WAYS,
    Injected,
    draw_prompts,
)
from parity.core.fingerprints import Fingerprint
from parity.core.metrics import Status
from parity.core.results import Report, Row, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.core.tolerances import bounds_for
from parity.errors import ExitCode, UsageError
from parity.options import GenerationOptions
from scratch_gpt import GPT
from scratch_gpt.generation import generate, sampling
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Draws
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Prints = Mapping[tuple[str, str, str], Mapping[str, Fingerprint]]
FingerprintsOf = Callable[[Report], Prints]

REFERENCES = {"oracle", "huggingface", "uncached"}
FEW = (
    *("--weights", "tiny", "--token-ids", "210;5,9,5,0,77,9,12"),
    *("--max-new-tokens", "3", "--format", "json"),
)
HEALTHY = [[1, 2], [3, 2]]
ASKED = GenerationInputs(
    prompts=draw_prompts(2, longest=7, vocab_size=211, seed=0),
    new=8,
    searched=torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]]),
)
"""Two short prompts with so many new tokens that texts can end midway."""
FOUR = dataclasses.replace(ASKED, new=4)


def rows(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Any:  # noqa: ANN401 - an iterator of rows
    return rows_of(ours, theirs, ASKED, dtype="float32", bounds=bounds_for("float32"), seen=[])


def first_failing(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Row | None:
    return next((row for row in rows(ours, theirs) if row.status is not Status.PASS), None)


@pytest.fixture(scope="module")
def document(check: Callable[..., Any], strictly: Callable[[str], Any]) -> dict[str, Any]:
    """Return the JSON report of the right generator."""
    result = check("generation", *FEW)
    assert result.exit_code == ExitCode.PASS, result.stderr
    parsed: dict[str, Any] = strictly(result.stdout)
    return parsed


def test_the_right_generator_passes(document: dict[str, Any]) -> None:
    assert (document["verdict"], document["reasons"]) == ("pass", [])
    assert document["plan"]["planned"] == document["plan"]["compared"]
    assert tuple(document["inputs"][k] for k in ("prompts", "lengths", "ties")) == (2, "1 7", 0)


def test_every_text_is_compared_with_every_reference(document: dict[str, Any]) -> None:
    """In float64 with three references, in float32 with Hugging Face's `generate`."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in document["results"]:
        found.setdefault((row["tap"], row["dtype"]), set()).add(row["against"])
    for way in WAYS:
        for at in (0, 1):
            for what in ("logits", "ids"):
                assert found[f"{way.name}.{at}.{what}", "float64"] == REFERENCES
                checked = found.get((f"{way.name}.{at}.{what}", "float32"), set())
                right = {"oracle"} if what == "logits" else {OWN_LOGITS}
                shared = set() if way.sampled or what == "logits" else {"huggingface"}
                assert right | shared == checked
    for call in CALLS:
        assert found[f"{call}.logits", "float64"] == {"oracle"} == found[f"{call}.ids", "float64"]
    for setting in SETTINGS:
        assert found[f"beams.{setting.name}.texts", "float64"] == {"oracle"}
        checked = found.get((f"beams.{setting.name}.texts", "float32"), set())
        assert checked == ({"huggingface"} if setting.room is None else set())
    assert found["half.greedy.ids", "bfloat16"] == {OWN_LOGITS, "huggingface"}


def test_agreement_is_of_numbers_that_were_computed(document: dict[str, Any]) -> None:
    """Cached and uncached logits differ in bits, so nothing was compared with itself."""
    exact = [row for row in document["results"] if row["mode"] == "float64"]
    cached = [row for row in exact if row["tap"].endswith(".logits")]
    assert cached
    assert all(0.0 < row["error_ours"] <= row["bound"] for row in cached)


def test_ties_are_excused_and_counted(
    check: Callable[..., Any], strictly: Callable[[str], Any]
) -> None:
    """In bfloat16 choices that are nearly equal differ."""
    result = check("generation", *FEW, "--dtype", "bfloat16")
    found = strictly(result.stdout)
    tied = [row for row in found["results"] if "a tie" in row["detail"]]
    assert (ExitCode.PASS, len(tied)) == (result.exit_code, found["inputs"]["ties"])
    assert tied
    assert all(row["error_ours"] > row["bound"] and row["dtype"] == "bfloat16" for row in tied)


SHARED = [
    name
    for name, fault in GENERATION_FAULTS.items()
    if fault.at.endswith((".ids", ".texts")) or fault.at.startswith(("rules", "beams"))
]
"""Faults of rules, of the choice and of searches, which a reference might have in common."""


@pytest.mark.release
@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("second-likeliest", "not-drawn")
        else pytest.param(name, marks=[pytest.mark.slow])
        for name in SHARED
    ],
)
def test_no_reference_shares_a_fault(name: str, ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """Injected for the whole run, not for our functions alone, it is found at the same row."""
    with inject(name):
        row = first_failing(ours, theirs)
    assert row is not None
    assert GENERATION_FAULTS[name].at == row.tap


@pytest.mark.parametrize("fault", [None, "beams-all-alike"])
def test_rounding_is_measured_again_only_if_float64_is_right(
    fault: str | None, ours: GPT, theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def rounding(*_given: object, differs: bool) -> list[Row]:
        seen.append(differs)
        return []

    monkeypatch.setattr(check_module.texts, "rounding_rows", rounding)
    monkeypatch.setattr(check_module.beams, "beam_rounding_rows", rounding)
    with inject(fault) if fault else contextlib.nullcontext():
        list(rows(ours, theirs))
    assert seen == [fault is not None] * 3


def test_a_wrong_search_is_no_tie_in_float32(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """The oracle alone decides how close two scores are, even if the references share the fault."""
    with inject("beams-all-alike"):
        found = list(rows(ours, theirs))
    wrong = {(row.tap, row.dtype, row.against) for row in found if row.status is not Status.PASS}
    assert ("beams.plain.texts", "float32", "huggingface") in wrong
    in_float32 = [row for row in found if row.dtype == "float32"]
    assert not [row.detail for row in in_float32 if "a tie" in row.detail]


@pytest.mark.slow
def test_without_a_fault_no_row_fails(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    assert first_failing(ours, theirs) is None


def test_a_fault_is_removed_after_an_error() -> None:
    right = Decoder.step

    def failing() -> None:
        with inject("positions-stuck"):
            assert Decoder.step is not right
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert Decoder.step is right


class OddError(Exception):
    """An error that no caller expects."""


PLACE = "prompt 0 (1 tokens), step 0, position 0"
RAISING = {
    "a rule": (sampling, "apply_temperature", "rules.temperature_low", "texts of 48 tokens"),
    "the choice": (generate, "choose", "greedy.0.logits", PLACE),
    "a step": (Decoder, "step", "greedy.0.logits", PLACE),
    "the prompt": (Decoder, "start", "greedy.0.logits", "prompt 0 (1 tokens)"),
    "the numbers": (Draws, "next", "sampled.0.logits", PLACE.replace(")", "), sample 0")),
}


@pytest.mark.parametrize(("owner", "name", "tap", "place"), RAISING.values(), ids=RAISING)
def test_any_error_of_ours_is_a_row_with_its_place(  # noqa: PLR0913 - a case, and fixtures
    owner: object,
    name: str,
    tap: str,
    place: str,
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_given: object) -> None:
        raise OddError("no\nroom")

    monkeypatch.setattr(owner, name, failing)
    row = first_failing(ours, theirs)
    assert row is not None
    assert (row.tap, row.detail) == (tap, f"{place}: ours raised OddError: no room")


WRONG_TEXTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "no prompt": (lambda ids: ids[:, 1:], "texts of shape [1, 8]; [1, 9] is due after 8 steps"),
    "a text more": (lambda ids: ids.repeat(2, 1), "texts of shape [2, 9]; [1, 9] is due"),
    "another prompt": (lambda ids: ids.roll(1, 1), "the texts do not begin with the prompts"),
    "no id": (lambda ids: ids + 211 * (ids == ids[0, -1]), "outside the vocabulary of 211"),
}


@pytest.mark.parametrize(("spoil", "message"), WRONG_TEXTS.values(), ids=WRONG_TEXTS)
def test_texts_that_cannot_be_compared_are_a_row(
    spoil: Callable[[Tensor], Tensor],
    message: str,
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = GPT.generate
    monkeypatch.setattr(GPT, "generate", lambda *given, **named: spoil(right(*given, **named)))
    row = first_failing(ours, theirs)
    assert row is not None
    assert row.tap == "greedy.0.logits"
    assert message in row.detail


def test_a_wrong_model_is_named_where_the_uncached_one_differs_as_well(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    wrong = copy.deepcopy(ours)
    wrong.h[3].ln_1.bias.data += 0.01
    row = first_failing(wrong, theirs)
    assert row is not None
    assert (row.tap, row.against) == ("greedy.0.logits", "oracle")
    assert row.detail.endswith(f"; {ALSO_UNCACHED}")
    first = check_module._first([row])
    assert first is not None
    assert "the model itself" in first.suspects


def test_a_wrong_cache_is_not_blamed_on_the_model(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    with inject("positions-stuck"):
        row = first_failing(ours, theirs)
    assert row is not None
    assert ALSO_UNCACHED not in row.detail
    first = check_module._first([row])
    assert first is not None
    assert first.suspects.startswith("what a decoder keeps")


def test_an_error_of_our_tokenizer_is_a_row(
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    small_vocabulary: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def encode(_tokenizer: Tokenizer, _text: str) -> None:
        raise OddError("no merge")

    monkeypatch.setattr(Tokenizer, "encode", encode)
    options = GenerationOptions(text="the fox", vocabulary=small_vocabulary)
    asked = generation_inputs(options, vocab_size=211, longest=389)
    report = generation(ours, theirs, asked)
    assert (report.exit_code, report.results[0].tap) == (ExitCode.FAIL, "text.ids")
    assert report.results[0].detail == "the text 'the fox': ours raised OddError: no merge"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--inject-fault", "nothing"], "no fault is called 'nothing'"),
        (["--max-new-tokens", "1"], "no cache is ever read"),
        (["--max-new-tokens", "389"], "leave no room in 389 positions"),
        (["--max-new-tokens", "389"], "use at most 384"),
        (["--max-new-tokens", "385"], "use at most 384"),
        (["--token-ids", "1,2", "--max-new-tokens", "388"], "go past the model's 389 positions"),
        (["--token-ids", "1,211"], "outside the vocabulary of 211"),
        (["--text", "the"], "a text needs a vocabulary"),
        (["--token-ids", ""], "something that is not a whole number"),
        (["--token-ids", "5;;7"], "something that is not a whole number"),
    ],
)
def test_impossible_options_are_a_usage_error(
    options: list[str], message: str, check: Callable[..., Any]
) -> None:
    result = check("generation", "--weights", "tiny", *options)
    assert result.exit_code == ExitCode.USAGE
    assert message in result.stderr


SMALL = 17


@pytest.mark.parametrize(
    ("longest", "prompts", "new"),
    [(7, None, 2), (8, None, 3), (13, None, 6), (64, None, 32), (512, None, 32), (64, [40], 24)],
)
def test_a_model_of_few_positions_gets_fewer_new_tokens(
    longest: int, prompts: list[int] | None, new: int
) -> None:
    given = None if prompts is None else [torch.ones(1, n, dtype=torch.long) for n in prompts]
    asked = generation_inputs(GenerationOptions(), vocab_size=211, longest=longest, prompts=given)
    assert asked.new == new
    check_prompts(asked, longest, 211)


def test_a_vocabulary_smaller_than_top_k_is_checked(weights: Weights) -> None:
    kept = {n: t for n, t in weights.tensors.items() if not n.startswith("h.") or n[:4] == "h.0."}
    kept["tokens_embed.weight"] = kept["tokens_embed.weight"][:SMALL]
    config = {**weights.config, "vocab_size": SMALL, "n_layer": 1}
    small = dataclasses.replace(weights, config=config, tensors=kept)
    prompts = draw_prompts(2, longest=7, vocab_size=SMALL, seed=0)
    searched = torch.tensor([[1, 5, 3, 0, 16], [2, 2, 9, 4, 11]])
    asked = GenerationInputs(prompts=prompts, new=4, searched=searched)
    right = build_ours(small), build_huggingface(small)
    report = generation(*right, asked, dtype="float64")
    assert (report.verdict, list(report.reasons)) == (Verdict.PASS, [])
    wrong = partial(inject, "top-k-cuts-ties")
    found = generation(*right, asked, dtype="float64", injected=wrong).first_divergence
    assert found is not None
    assert found.tap == "rules.top_k_tied"


@pytest.mark.parametrize("text", ["", "  \n"])
def test_a_text_without_a_token_is_a_usage_error(
    text: str, small_vocabulary: Path, check: Callable[..., Any]
) -> None:
    vocabulary = ("--vocabulary", str(small_vocabulary))
    result = check("generation", "--weights", "tiny", "--text", text, *vocabulary)
    assert result.exit_code == ExitCode.USAGE
    assert "the text has no token" in result.stderr


@pytest.mark.parametrize(
    "prompt", [torch.zeros(1, 0).long(), torch.tensor([5, 7]), torch.tensor([[5], [7]])], ids=str
)
def test_an_invalid_prompt_is_a_usage_error(
    prompt: Tensor, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    with pytest.raises(UsageError, match=r"prompt 1 is of shape"):
        generation(ours, theirs, dataclasses.replace(ASKED, prompts=[ASKED.prompts[0], prompt]))


def test_no_prompt_is_a_usage_error(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    with pytest.raises(UsageError, match="there is no prompt"):
        generation(ours, theirs, dataclasses.replace(ASKED, prompts=[]))


# Weights and inputs that could hide a fault.


def reasons(texts: list[list[int]], model: nn.Module) -> list[tuple[str, str]]:
    found = degenerate_reasons(model, texts, vocab_size=211, seed=0)
    return [(reason.what, reason.where) for reason in found]


def test_healthy_weights_and_texts_give_no_reason(theirs: OpenAIGPTLMHeadModel) -> None:
    assert reasons(HEALTHY, theirs) == []


@pytest.mark.parametrize(
    ("texts", "why"),
    [([[4, 4], [4, 4]], "one token over and over"), ([[1, 2], [1, 2]], "continued alike")],
)
def test_texts_that_could_not_differ_are_a_reason(
    texts: list[list[int]], why: str, theirs: OpenAIGPTLMHeadModel
) -> None:
    assert any(why in what for what, _ in reasons(texts, theirs))


def test_a_rule_without_effect_is_named(
    theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = rules.Case(name="never", fields={"no_repeat_ngram_size": 40})
    monkeypatch.setattr(rules, "CASES", (*rules.CASES, idle))
    assert reasons(HEALTHY, theirs) == [("1 rules change nothing on the logits drawn", "never")]


def test_degenerate_weights_are_inconclusive(weights: Weights) -> None:
    dead = {n: x * 0 if n.endswith("bias") else x for n, x in weights.tensors.items()}
    flat = dataclasses.replace(weights, tensors=dead)
    asked = GenerationInputs(
        prompts=[torch.tensor([[1, 2, 3]]), torch.tensor([[9]])],
        new=3,
        searched=torch.tensor([[5, 6]]),
    )
    report = generation(build_ours(flat), build_huggingface(flat), asked, dtype="float64")
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, ExitCode.INCONCLUSIVE)
    assert "hold one value throughout" in report.reasons[0].what
    assert report.first_divergence is None


# Fingerprints.


@pytest.fixture(scope="module")
def run(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Callable[..., Report]:
    def with_fault(
        injected: Injected = contextlib.nullcontext, *, fingerprints: bool = True
    ) -> Report:
        return generation(ours, theirs, FOUR, injected=injected, fingerprints=fingerprints)

    return with_fault


@pytest.fixture(scope="module")
def right(run: Callable[..., Report]) -> Report:
    return run()


def texts(*, sampled: bool) -> list[str]:
    ways = [way.name for way in WAYS if sampled or not way.sampled]
    return [f"{way}.{at}" for way in ways for at in range(len(FOUR.prompts))]


def searches(*, shared: bool) -> list[str]:
    return [f"beams.{setting.name}" for setting in SETTINGS if setting.room is None or not shared]


def test_every_text_has_fingerprints(right: Report, fingerprints_of: FingerprintsOf) -> None:
    """Of both sides in every dtype; Hugging Face's side has fewer calls, and draws nothing."""
    found = fingerprints_of(right)
    mine, its, checked = f"ours/{BACKEND}", "huggingface", "end-to-end"
    drawn, likeliest = texts(sampled=True), texts(sampled=False)
    expected = {
        (mine, "float64", "float64"): ([*drawn, *CALLS], searches(shared=False)),
        (its, "float64", "float64"): (drawn, []),
        (mine, "float32", checked): (drawn, searches(shared=True)),
        (its, "float32", checked): (likeliest, searches(shared=True)),
        (mine, "bfloat16", checked): (list(HALVES), []),
        (its, "bfloat16", checked): ([HALVES[0]], []),
    }
    for (side, dtype, mode), (written, searched) in expected.items():
        tensors = [
            *(f"{text}.logits" for text in written),
            *(f"{text}.scores" for text in searched),
        ]
        ids = [*(f"{text}.ids" for text in written), *(f"{text}.texts" for text in searched)]
        assert set(tensors) == set(found[side, dtype, mode])
        assert set(ids) == set(found[side, dtype, "exact"])
    assert len(found) == 2 * len(expected)


def test_fingerprints_are_of_every_step(right: Report, fingerprints_of: FingerprintsOf) -> None:
    for key, found in fingerprints_of(right).items():
        for tap, entry in found.items():
            name = tap.removesuffix(".logits").removesuffix(".ids")
            if name in texts(sampled=True):
                count = FOUR.new * (2 if name.startswith("sampled") else 1)
                assert entry.shape == ((count, 211) if tap.endswith(".logits") else (count,))
            assert (key[2] == "exact") == (entry.norm is None) == (entry.sketch == "")


def test_the_same_ids_have_the_same_digest(right: Report, fingerprints_of: FingerprintsOf) -> None:
    """This run has no ties."""
    found = fingerprints_of(right)
    mine, its = f"ours/{BACKEND}", "huggingface"
    for text in texts(sampled=False):
        digests = {found[side, "float64", "exact"][f"{text}.ids"].digest for side in (mine, its)}
        assert digests == {found[its, "float32", "exact"][f"{text}.ids"].digest}
        logits = f"{text}.logits"
        assert found[mine, "float64", "float64"][logits] != found[its, "float64", "float64"][logits]


def test_fingerprints_change_no_row(right: Report, run: Callable[..., Report]) -> None:
    without = run(fingerprints=False)
    assert (repr(right.results), right.verdict) == (repr(without.results), without.verdict)
    assert list(without.fingerprints) == []


def test_a_fault_changes_our_fingerprints_alone(
    right: Report, run: Callable[..., Report], fingerprints_of: FingerprintsOf
) -> None:
    """A key that is overwritten changes our logits from the first text on.

    Hugging Face's float64 logits are those of our texts, so they may change too.
    """
    before, after = fingerprints_of(right), fingerprints_of(run(partial(inject, "key-overwritten")))
    for key, found in before.items():
        changed = [tap for tap, entry in found.items() if entry != after[key][tap]]
        if key[:2] == ("huggingface", "float32"):
            assert changed == [tap for tap in changed if tap.startswith("sampled")]
        if key[0].startswith("ours") and key[1] != "bfloat16" and key[2] != "exact":
            assert changed[0] == "greedy.0.logits"
