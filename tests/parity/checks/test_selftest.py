"""The self-test finds what it must, and fails where a check or the registry is wrong."""

import dataclasses
import math
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from parity import options, verbs
from parity.checkpoints.weights import Weights
from parity.checks import selftest as module
from parity.checks.gradients.faults import BACKWARD_FAULTS
from parity.checks.invariants.faults import INVARIANT_FAULTS
from parity.checks.selftest import (
    LONGEST,
    Parts,
    Runner,
    Trial,
    backward_runner,
    forward_runner,
    invariants_runner,
    part_of,
    results,
    selected,
    selftest,
    tried,
)
from parity.core.comparison import no_progress
from parity.core.inputs import seeded
from parity.core.metrics import Status
from parity.core.results import Report
from parity.core.runners import build_ours
from parity.core.tolerances import Bounds
from parity.errors import ExitCode, UsageError
from parity.faults.forward import FORWARD_FAULTS, INPUTS
from parity.faults.registry import Fault, faults_of
from parity.known_faults import known_faults
from scratch_gpt import GPT
from scratch_gpt.errors import MissingExtraError

pytestmark = pytest.mark.fault

FEW = ("erf-gelu", "mask-missing", "positions-from-one", "padding-ignored", "tile-last-empty")


@pytest.fixture(scope="module")
def parts(weights: Weights) -> Parts:
    return Parts(weights)


def named(*names: str) -> dict[str, list[Fault]]:
    return {"forward": [FORWARD_FAULTS[name] for name in names]}


@pytest.fixture(scope="module")
def run(parts: Parts) -> Callable[..., Report]:
    runners = {
        "forward": forward_runner(parts),
        "backward": backward_runner(parts),
        "invariants": invariants_runner(parts),
    }
    return lambda faults: with_runners(faults, runners)


def with_runners(faults: dict[str, list[Fault]], runners: dict[str, Runner]) -> Report:
    with_right = {kind: [None, *members] for kind, members in faults.items()}
    return selftest(faults, results(with_right, runners))


def test_faults_of_every_input_are_killed_placed_and_named(run: Callable[..., Report]) -> None:
    of_inputs = {fault.inputs: fault.name for fault in FORWARD_FAULTS.values() if not fault.proof}
    assert of_inputs.keys() == INPUTS.keys()
    faults = named(*FEW, *of_inputs.values())
    faults["backward"] = [BACKWARD_FAULTS["doubled"], BACKWARD_FAULTS["residual-cut"]]
    report = run(faults)
    assert (report.exit_code, report.first_divergence) == (ExitCode.PASS, None)
    count = len(FEW) + len(of_inputs)
    assert {"forward": (count, count), "backward": (2, 2)} == report.plan.per_backend
    rows = {row.tap: row.details for row in report.results if row.details["family"] != "right code"}
    assert len(report.results) == len(set(FEW) | {*of_inputs.values()}) + 4
    assert all(row["killed"] and row["placed"] and row["named"] for row in rows.values())
    assert all(row["margin"] > 1.0 for row in rows.values())
    assert report.summary.startswith(f"{count + 2} live faults: {count + 2} killed, ")


def test_a_fault_that_survives_fails(run: Callable[..., Report]) -> None:
    """One row of ids does not show that padding is ignored."""
    harmless = dataclasses.replace(FORWARD_FAULTS["padding-ignored"], inputs="one row")
    report = run({"forward": [harmless]})
    assert report.exit_code == ExitCode.FAIL
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "padding-ignored"
    assert report.first_divergence.why == "it survives; it must be seen at h.0.attn.weights"
    assert report.summary == "1 live faults: 0 killed, 0 placed, 0 named; wrong: padding-ignored"


def test_a_misplaced_fault_fails(run: Callable[..., Report]) -> None:
    elsewhere = dataclasses.replace(FORWARD_FAULTS["erf-gelu"], at="h.{i}.mlp")
    report = run({"forward": [elsewhere, FORWARD_FAULTS["erf-gelu"]]})
    _, wrong, right = report.results
    assert (report.exit_code, right.status) == (ExitCode.FAIL, Status.PASS)
    assert wrong.detail == "it is seen at h.0.mlp.gelu, not at h.0.mlp"
    assert (wrong.details["killed"], wrong.details["placed"]) == (True, False)


def test_a_fault_with_other_words_passes_and_is_listed(run: Callable[..., Report]) -> None:
    other = dataclasses.replace(FORWARD_FAULTS["erf-gelu"], look_for="the phase of the moon")
    report = run({"forward": [other]})
    assert report.exit_code == ExitCode.PASS
    assert "1 placed, 0 named" in report.summary
    assert "the phase of the moon" in str(report)


def test_a_false_claim_to_be_equivalent_fails(run: Callable[..., Report]) -> None:
    liar = dataclasses.replace(FORWARD_FAULTS["erf-gelu"], proof="erf is tanh")
    report = run({"forward": [liar]})
    assert report.exit_code == ExitCode.FAIL
    assert report.results[1].detail == "it claims to be equivalent, and differs at h.0.mlp.gelu"


EQUIVALENT = [fault.name for fault in FORWARD_FAULTS.values() if fault.proof]


def test_equivalent_forms_are_counted_apart(run: Callable[..., Report]) -> None:
    """`test_forward_faults.py` shows that their tensors are equal."""
    report = run(named(*EQUIVALENT))
    assert report.exit_code == ExitCode.PASS
    assert report.summary == "0 live faults: 0 killed, 0 placed; 5 equivalent"
    assert "(1 + tanh u) / 2 = sigmoid(2u)" in str(report)


def test_right_code_that_fails_fails(parts: Parts) -> None:
    """Else a check that fails always would kill every fault."""
    broken = forward_runner(parts)
    always = {"forward": lambda _fault: broken(FORWARD_FAULTS["erf-gelu"])}
    report = with_runners(named("erf-gelu"), always)
    clean, fault = report.results
    assert (report.exit_code, fault.status) == (ExitCode.FAIL, Status.PASS)
    assert clean.detail.startswith("right code fails at h.0.mlp.gelu: in float64 it differs")


def test_a_missing_package_leaves_its_faults_out(parts: Parts) -> None:
    right = forward_runner(parts)

    def run(fault: Fault | None) -> Report:
        if fault is not None and fault.name == "relu":
            raise MissingExtraError("ftfy", purpose="it", fix="pip install it")
        return right(fault)

    report = with_runners(named("erf-gelu", "relu"), {"forward": run})
    assert report.exit_code == ExitCode.PASS
    assert report.plan.per_backend == {"forward": (1, 1)}
    assert [one["tap"] for one in report.plan.exempt] == ["relu"]
    assert "ftfy" in str(report)


def test_margins_tell_the_weakest_of_a_family(parts: Parts) -> None:
    trials = [
        tried(FORWARD_FAULTS[name], "forward", forward_runner(parts))
        for name in ("gelu-cubic", "erf-gelu", "gelu-root-rounded")
    ]
    (family, every) = module.table(trials)
    assert family[:2] == ("forward", "mlp")
    assert family[2:] == every[2:]
    weakest = min(trials, key=lambda trial: trial.margin)
    assert family[6:] == (weakest.fault.name, f"{weakest.margin:.2g}")
    assert 1.0 < weakest.margin < math.inf
    error = weakest.margin * Bounds().float64
    assert error == pytest.approx(4.2e-4, rel=0.5)  # the erf form's, as documented


# The parts of a model.


def test_a_part_is_what_the_fault_needs() -> None:
    places = {
        "erf-gelu": "block",
        "positions-from-one": "ends",
        "head-bias": "ends",
        "string-order": "whole",
        "epsilon-fixed": "epsilon",
    }
    assert {name: part_of(FORWARD_FAULTS[name]) for name in places} == places
    assert part_of(BACKWARD_FAULTS["residual-cut"]) == "ends"


def test_the_block_gets_its_own_clean_input(parts: Parts) -> None:
    """Its weights are those of the middle block, and so is its output on the same ids."""
    whole, _ = parts.models("whole")
    block, theirs = parts.models("block")
    config = block.config
    assert (config.n_layer, config.vocab_size, whole.config.n_layer) == (1, LONGEST, 12)
    ids = torch.arange(LONGEST)[None]
    before: dict[str, torch.Tensor] = {}
    drawn = seeded(batch=1, time=LONGEST, vocab_size=211, seed=0).token_ids

    def tap(name: str, value: torch.Tensor) -> torch.Tensor:
        before[name] = value
        return value

    with torch.no_grad():
        build_ours(parts.weights)(drawn, tap=tap)
        after = block.hidden(ids)
    assert torch.allclose(before["h.6.ln_2"], after, atol=1e-5)
    assert torch.equal(theirs.transformer.tokens_embed.weight, block.tokens_embed.weight)


# Selection, and the command.


def test_faults_are_selected_by_name_kind_or_family() -> None:
    faults: dict[str, list[Fault]] = {
        "forward": [*FORWARD_FAULTS.values()],
        "backward": [*BACKWARD_FAULTS.values()],
    }
    assert [*selected(faults, "erf-gelu")] == ["forward"]
    assert selected(faults, "backward") == {"backward": faults["backward"]}
    dropout = selected(faults, "dropout")["forward"]
    assert {fault.group for fault in dropout} == {"dropout"}
    assert len(dropout) == 6
    assert selected(faults, "no-such") == {}


def test_a_fault_of_a_property_has_a_place_and_no_words(run: Callable[..., Report]) -> None:
    """Its rows have the name of the property, and only that property runs."""
    names = ("future-seen", "padding-counted", "ids-in-int8", "cache-key-lost")
    report = run({"invariants": [INVARIANT_FAULTS[name] for name in names]})
    assert report.exit_code == ExitCode.PASS, str(report)
    assert report.summary == "4 live faults: 4 killed, 4 placed"
    assert all(row.details["named"] is None for row in report.results[1:])
    (family, *_) = (one for one in report.sections if one.title == "faults by family")
    assert family.rows[0][:6] == ("invariants", "causality", "1", "1", "1", "-")


def test_named_counts_the_faults_with_words() -> None:
    both = [FORWARD_FAULTS["erf-gelu"], INVARIANT_FAULTS["future-seen"]]
    trials = [
        Trial(fault=fault, kind="any", expected="", place="", killed=True, named=named, margin=2.0)
        for fault, named in zip(both, (True, None), strict=True)
    ]
    assert [row[5] for row in module.table(trials)] == ["1", "-", "1 of 1"]


def test_a_fault_is_sent_to_another_process_by_name() -> None:
    for fault in faults_of(Fault).values():
        assert pickle.loads(pickle.dumps(fault)) is fault  # noqa: S301 - made here


@pytest.mark.slow
def test_processes_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = options.SelftestOptions(weights="tiny", faults="mask")
    alone = verbs.selftest(asked, no_progress)
    monkeypatch.setattr(verbs, "_MANY", 0)
    shared = verbs.selftest(asked, no_progress)
    assert (alone.results, alone.summary) == (shared.results, shared.summary)


def test_every_kind_of_the_registry_has_a_runner() -> None:
    assert known_faults().keys() == {"forward", "backward", "invariants", *verbs._BY_VERB}
    assert {fault["name"] for faults in known_faults().values() for fault in faults} == {
        *faults_of(Fault)
    }


@pytest.mark.parametrize("name", ["beta1", "keep-probability", "cache-stale", "case-kept"])
def test_a_fault_of_each_verb_is_found(name: str) -> None:
    """Training with and without dropout, generation, and the tokenizer."""
    asked = options.SelftestOptions(weights="tiny", faults=name)
    report = verbs.selftest(asked, no_progress)
    assert report.exit_code == ExitCode.PASS, str(report)
    assert report.results[1].details["killed"]
    assert report.inputs["faults"] == name


def test_no_fault_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="no fault matches the pattern 'nothing'") as caught:
        verbs.selftest(options.SelftestOptions(weights="tiny", faults="nothing"), no_progress)
    assert ", ".join(known_faults()) in caught.value.fix
    assert "precision" in caught.value.fix


def test_every_form_has_the_table(check: Callable[..., Any], tmp_path: Path) -> None:
    files = [tmp_path / f"report.{suffix}" for suffix in ("txt", "json", "html", "md", "xml")]
    outputs = [word for file in files for word in ("--output", str(file))]
    result = check("selftest", "--weights", "tiny", "--faults", "relu*", "--quiet", *outputs)
    assert (result.exit_code, result.stdout) == (0, "")
    for file in files:
        assert "relu" in file.read_text(encoding="utf-8"), file


@pytest.fixture
def threads() -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield 2
    torch.set_num_threads(before)


def test_the_weights_may_be_a_folder(ours: GPT, tmp_path: Path) -> None:
    """Parts of them are tested, and the folder has the whole model."""
    ours.save_pretrained(tmp_path / "model")
    asked = options.SelftestOptions(weights=str(tmp_path / "model"), faults="relu")
    report = verbs.selftest(asked, no_progress)
    assert report.exit_code == ExitCode.PASS, str(report)


def test_threads_are_given_back(threads: int) -> None:
    verbs.selftest(options.SelftestOptions(weights="tiny", faults="relu"), no_progress)
    assert torch.get_num_threads() == threads


@pytest.mark.slow
@pytest.mark.release
@pytest.mark.parametrize("kind", ["backward", "training", "generation", "tokenizer", "invariants"])
def test_every_fault_of_a_kind(kind: str) -> None:
    """The forward ones are tests of their own."""
    report = verbs.selftest(options.SelftestOptions(weights="tiny", faults=kind), no_progress)
    assert report.exit_code == ExitCode.PASS, str(report)
    live = [row.details for row in report.results if row.details.get("named") is not None]
    assert sum(one["named"] for one in live) >= 0.9 * len(live)
