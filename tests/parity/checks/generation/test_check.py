"""The check of generation: the right one passes, and every planted fault is seen at its place."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation.beams import SETTINGS
from parity.checks.generation.check import GenerationInputs, rows_of
from parity.checks.generation.continuations import WAYS, draw_prompts
from parity.core.metrics import Status
from parity.core.results import Row
from parity.core.tolerances import bounds_for
from parity.errors import ExitCode
from parity.faults.generation import GENERATION_FAULTS, inject
from scratch_gpt import GPT
from scratch_gpt.generation.decoder import Decoder

WITNESSES = {"oracle", "huggingface", "uncached"}
PROMPTS = ("--token-ids", "210;5,9,5,0,77,9,12")
FEW = ("--weights", "tiny", *PROMPTS, "--max-new-tokens", "3", "--format", "json")


def asked(plant: str | None) -> GenerationInputs:
    """Return two short prompts, continued by so many tokens that texts can end midway."""
    return GenerationInputs(
        prompts=draw_prompts(2, longest=7, vocab_size=211, seed=0),
        new=8,
        searched=torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]]),
        inject_fault=plant,
    )


def first_failing(ours: GPT, theirs: OpenAIGPTLMHeadModel, plant: str | None) -> Row | None:
    """Return the first row that does not pass; what comes after it is not run."""
    rows = rows_of(
        ours, theirs, asked(plant), dtype="float32", bounds=bounds_for("float32"), seen=[]
    )
    return next((row for row in rows if row.status is not Status.PASS), None)


@pytest.fixture(scope="module")
def document(check: Callable[..., Any], strictly: Callable[[str], Any]) -> dict[str, Any]:
    """Return what the command line writes of the right generator."""
    result = check("generation", *FEW)
    assert result.exit_code == ExitCode.PASS, result.stderr
    parsed: dict[str, Any] = strictly(result.stdout)
    return parsed


def test_the_right_generator_passes(document: dict[str, Any]) -> None:
    """Every comparison that was planned was made, and none had to be excused."""
    assert (document["verdict"], document["reasons"]) == ("pass", [])
    assert document["plan"]["planned"] == document["plan"]["compared"]
    assert tuple(document["inputs"][k] for k in ("prompts", "lengths", "ties")) == (2, "1 7", 0)


def test_every_step_is_met_by_every_witness(document: dict[str, Any]) -> None:
    """Logits and ids of each text in float64 by three, in float32 by Hugging Face's generate."""
    found: dict[tuple[str, str], set[str]] = {}
    for row in document["results"]:
        found.setdefault((row["tap"], row["dtype"]), set()).add(row["against"])
    for way in WAYS:
        for at in (0, 1):
            for what in ("logits", "ids"):
                assert found[f"{way.name}.{at}.{what}", "float64"] == WITNESSES
                judged = found.get((f"{way.name}.{at}.{what}", "float32"), set())
                right = {"oracle"} if what == "logits" else {"huggingface"}
                assert (set() if way.sampled else right) == judged
    for setting in SETTINGS:
        assert found[f"beams.{setting.name}.texts", "float64"] == {"oracle"}
        assert found[f"beams.{setting.name}.texts", "float32"] == {"huggingface"}


def test_agreement_is_of_numbers_that_were_computed(document: dict[str, Any]) -> None:
    """Cached logits are not the uncached ones to the bit: nothing was compared with itself."""
    rows = [row for row in document["results"] if row["mode"] == "float64"]
    cached = [row for row in rows if row["tap"].endswith(".logits")]
    assert cached
    assert all(0.0 < row["error_ours"] <= row["bound"] for row in cached)


def test_ties_are_excused_and_counted(
    check: Callable[..., Any], strictly: Callable[[str], Any]
) -> None:
    """In bfloat16 choices that are as good as equal fall differently; the report says how many."""
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
"""Faults of rules, of the choice and of searches: of what a witness might have in common."""


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("second-likeliest", "not-drawn")
        else pytest.param(name, marks=[pytest.mark.slow])
        for name in SHARED
    ],
)
def test_no_witness_shares_a_fault(name: str, ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """In whatever runs, and not in our functions alone, it is seen at the same place."""
    with inject(name):
        row = first_failing(ours, theirs, None)
    assert row is not None
    assert GENERATION_FAULTS[name].at == row.tap


def test_a_wrong_search_is_no_tie_in_float32(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """Also where it is wrong in whatever runs: how close a call was is told by the oracle alone."""
    with inject("beams-all-alike"):
        rows = list(
            rows_of(
                ours, theirs, asked(None), dtype="float32", bounds=bounds_for("float32"), seen=[]
            )
        )
    wrong = {(row.tap, row.dtype, row.against) for row in rows if row.status is not Status.PASS}
    assert ("beams.plain.texts", "float32", "huggingface") in wrong
    assert not [row.detail for row in rows if "a tie" in row.detail]


@pytest.mark.slow
def test_nothing_planted_fails_nowhere(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """The same run without a fault has no failing row."""
    assert first_failing(ours, theirs, None) is None


def test_a_fault_is_gone_when_it_is_not_wanted_any_more() -> None:
    """Also where the run raised an error."""
    right = Decoder.step

    def failing() -> None:
        with inject("positions-stuck"):
            assert Decoder.step is not right
            raise RuntimeError

    with pytest.raises(RuntimeError):
        failing()
    assert Decoder.step is right


def test_an_error_in_our_decoder_is_a_failing_row(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no end of the run: the report says which prompt, and what was raised."""

    def step(_decoder: Decoder, _token_ids: object) -> None:
        message = "no room"
        raise ValueError(message)

    monkeypatch.setattr(Decoder, "step", step)
    row = first_failing(ours, theirs, None)
    assert row is not None
    assert (row.tap, row.detail) == ("greedy.0.logits", "ours raised ValueError: no room")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--inject-fault", "nothing"], "no fault is called 'nothing'"),
        (["--max-new-tokens", "1"], "no cache is ever read"),
        (["--max-new-tokens", "389"], "leave no room in 389 positions"),
        (["--token-ids", "1,2", "--max-new-tokens", "388"], "go past the model's 389 positions"),
        (["--token-ids", "1,211"], "outside the vocabulary of 211"),
        (["--text", "the"], "a text needs a vocabulary"),
    ],
)
def test_what_cannot_be_asked_is_a_usage_error(
    options: list[str], said: str, check: Callable[..., Any]
) -> None:
    """Each says what is wrong in one line."""
    result = check("generation", "--weights", "tiny", *options)
    assert result.exit_code == ExitCode.USAGE
    assert said in result.stderr
