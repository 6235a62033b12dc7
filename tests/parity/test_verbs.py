"""The verbs, end to end on the tiny weights."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity import layerwise, verbs
from parity.checkpoints.weights import Weights
from parity.checks.gradients.check import gradients
from parity.checks.gradients.faults import BACKWARD_FAULTS
from parity.checks.training.runners import batches
from parity.core import runners
from parity.core.comparison import no_progress
from parity.core.inputs import Inputs, digest, parse, seeded
from parity.core.results import Mode, Report, Row
from parity.core.tolerances import FEWEST_PREDICTIONS
from parity.faults.forward import FORWARD_FAULTS
from parity.options import LayerwiseOptions, TrainingOptions, recorded_options
from reference import huggingface, surrogate
from scratch_gpt import GPT, GPTConfig
from scratch_gpt.options import options_of

Check = Callable[..., Any]
Strictly = Callable[[str], Any]

TINY = ("layerwise", "--weights", "tiny", "--backend", "plain", "--dtype", "float64")
"""The fastest layerwise check: one backend, float64 only. `--seq-len` must be added."""


@pytest.mark.parametrize(
    ("fault", "tap", "backend"),
    [
        ("erf-gelu@3", "h.3.mlp.gelu", "plain"),
        ("mask-off-by-one@0", "h.0.attn.weights", "plain"),
        ("mask-off-by-one@4", "h.4.attn.context", "tiled"),  # it has no scores and weights
        ("norm-inside-residual@11", "h.11.ln_1.input", "plain"),
        ("positions-from-one", "embeddings.positions", "plain"),
        ("string-order", "h.2.attn.query", "plain"),
        ("final-norm", "logits", "plain"),
        ("epsilon", "h.6.ln_1", "plain"),
    ],
)
def test_an_injected_fault_is_found_where_it_is(  # noqa: PLR0913 - a case, and fixtures
    fault: str, tap: str, backend: str, check: Check, strictly: Strictly, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    arguments = ("--inject-fault", fault, "--backend", backend, "--output", str(file))
    result = check(*TINY, "--seq-len", "5", *arguments)
    found = strictly(file.read_text(encoding="utf-8"))
    verdict = result.stdout.split("\n\n")[-1].split()
    assert (result.exit_code, found["verdict"]) == (1, "fail")
    assert found["first_divergence"]["tap"] == tap
    assert (verdict[0], verdict[-1]) == ("FAIL", tap)


def test_right_models_pass_in_every_mode(
    check: Check, strictly: Strictly, tap_counts: dict[str, int]
) -> None:
    result = check("layerwise", "--weights", "tiny", "--seq-len", "37", "--format", "json")
    found = strictly(result.stdout)
    assert result.exit_code == 0
    assert found["verdict"] == "pass"
    assert found["plan"]["per_backend"] == {
        backend: [tap_counts[backend]] * 2 for backend in ("plain", "fused")
    }
    assert found["first_divergence"] is None
    assert found["reasons"] == []


@pytest.mark.parametrize(
    ("arguments", "batch", "time", "padded"),
    [
        pytest.param(["--seq-len", "1"], 1, 1, 0, id="time 1"),
        pytest.param(["--batch-size", "4", "--seq-len", "7"], 4, 7, 0, id="batch 4"),
        pytest.param(["--token-ids", "5,210,0,17,3,9;12,7"], 2, 6, 4, id="unequal rows"),
        pytest.param(["--token-ids", "210"], 1, 1, 0, id="one id"),
        pytest.param(["--taps", "embeddings"], 1, 389, 0, id="the default time is too long"),
    ],
)
def test_the_inputs_are_the_given_ones(  # noqa: PLR0913 - a case, and fixtures
    arguments: list[str], batch: int, time: int, padded: int, check: Check, strictly: Strictly
) -> None:
    result = check(*TINY, *arguments, "--format", "json")
    found = strictly(result.stdout)
    assert result.exit_code == 0
    inputs = {name: found["inputs"][name] for name in ("batch", "time", "padded_positions")}
    assert inputs == {"batch": batch, "time": time, "padded_positions": padded}
    assert found["plan"]["compared"] == found["plan"]["planned"]


def test_a_pattern_selects_taps(check: Check, strictly: Strictly) -> None:
    found = strictly(
        check(*TINY, "--seq-len", "5", "--taps", "h.1?.mlp*", "--format", "json").stdout
    )
    assert {row["tap"] for row in found["results"]} == {
        f"h.{i}.{name}" for i in (10, 11) for name in ("mlp", "mlp.c_fc", "mlp.gelu")
    }


USAGE = {
    "unknown weights": (["--weights", "gpt5"], "gpt5"),
    "unknown fault": (["--inject-fault", "nope"], "'nope'"),
    "fault in no block": (["--inject-fault", "erf-gelu@12"], "0 to 11"),
    "fault in a block below 0": (["--inject-fault", "erf-gelu@-1"], "no block '-1'"),
    "fault in a block of that name": (["--inject-fault", "erf-gelu@last"], "no block 'last'"),
    "no number": (["--token-ids", "1,two"], "two"),
    "no id": (["--token-ids", ""], "--token-ids"),
    "an id left out": (["--token-ids", "1,,2"], "--token-ids"),
    "an empty row": (["--token-ids", "1;;2"], "--token-ids"),
    "id of a fraction": (["--token-ids", "1.5"], "1.5"),
    "id beyond the vocabulary": (["--token-ids", "1,211"], "211"),
    "id below 0": (["--token-ids=-1,2"], "0 to 210"),
    "time too long": (["--seq-len", "390"], "389"),
    "two lengths": (["--seq-len", "2", "--token-ids", "1,2"], "--seq-len with --token-ids"),
    "ids too many": (["--token-ids", ",".join(["1"] * 390)], "389"),
    "explanation of no tap": (["--explain", "h.3.gelu"], "h.3.gelu"),
    "explanation beyond the model": (["--explain", "h.12.mlp"], "h.12.mlp"),
    "explanation of the loss at time 1": (["--seq-len", "1", "--explain", "loss"], "loss"),
    "no candidate there": (["--candidate", "no_such_file.py"], "no_such_file.py"),
}


@pytest.mark.parametrize(
    ("verb", "number"),
    [("layerwise", 512), ("gradients", 512), ("training", 70), ("invariants", 129)],
)
def test_the_number_of_a_default_is_not_shortened_if_asked_for(
    verb: str, number: int, check: Check, tmp_path: Path
) -> None:
    config = GPTConfig(vocab_size=60, n_positions=24, n_embd=16, n_layer=1, n_head=2)
    GPT(config).save_pretrained(tmp_path)
    result = check(verb, "--weights", str(tmp_path), "--seq-len", str(number))
    assert result.exit_code == 2
    assert f"{number} tokens in a row" in result.stderr
    assert "24" in result.stderr


@pytest.mark.parametrize("mistake", USAGE)
def test_an_impossible_value_is_a_usage_error(mistake: str, check: Check) -> None:
    arguments, named = USAGE[mistake]
    has_length = any(word.startswith(("--seq-len", "--token-ids")) for word in arguments)
    short = [] if has_length else ["--seq-len", "5"]
    result = check(*TINY, *short, *arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert not result.stdout
    assert [line[:7].rstrip() for line in lines] == ["error:", "  where", "  fix"]
    assert named in result.stderr


def test_other_surrogate_bits_are_refused(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = surrogate.committed_digests()
    committed["sizes"]["tiny"]["digests"]["h.3.ln_1.bias"] = "0" * 64
    monkeypatch.setattr(surrogate, "committed_digests", lambda: committed)
    result = check(*TINY, "--seq-len", "5")
    assert (result.exit_code, result.stdout, "h.3.ln_1.bias" in result.stderr) == (4, "", True)
    stale = committed | {"recipe": surrogate.RECIPE + 1}
    monkeypatch.setattr(surrogate, "committed_digests", lambda: stale)
    assert check("weights", "--weights", "tiny").exit_code == 4


@pytest.mark.parametrize("verb", [TINY, ("doctor",)], ids=lambda verb: verb[0])
def test_a_fresh_model_is_inconclusive(
    verb: tuple[str, ...], check: Check, monkeypatch: pytest.MonkeyPatch, weights: Weights
) -> None:
    """Biases of 0 and gains of 1 hide faults: agreement on them is no pass."""
    state = GPT(GPTConfig.from_huggingface(dict(weights.config))).state_dict()
    tensors = {name: tensor.numpy() for name, tensor in state.items()}
    other = dataclasses.replace(weights, tensors=tensors)
    monkeypatch.setattr(verbs, "load_weights", lambda *_given, **_named: other)
    result = check(*verb, "--seq-len", "5", "--format", "json")
    assert (result.exit_code, json.loads(result.stdout)["verdict"]) == (3, "inconclusive")


def test_a_load_report_that_is_not_empty_ends_the_run(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lossy(config: dict[str, Any], state: dict[str, Any]) -> OpenAIGPTLMHeadModel:
        del state["transformer.h.3.ln_1.bias"]
        return build(config, state)

    build = huggingface.build
    monkeypatch.setattr(runners.huggingface, "build", lossy)
    result = check(*TINY, "--seq-len", "5")
    assert result.exit_code not in {0, 1, 3}
    assert not result.stdout
    assert "transformer.h.3.ln_1.bias" in result.stderr


def test_progress_goes_on_to_the_end(tap_counts: dict[str, int]) -> None:
    steps: list[tuple[str, int, int]] = []
    options = LayerwiseOptions(weights="tiny", seq_len=5, backend="plain")
    verbs.layerwise(options, lambda *step: steps.append(step))
    walked = [(done, total) for what, done, total in steps if what.startswith(("h.", "lo", "em"))]
    total = 2 * tap_counts["plain"]
    assert walked == [(number + 1, total) for number in range(total)]


RECORDED = {field.name for field in options_of(LayerwiseOptions) if field.metadata["records"]}


@pytest.mark.parametrize(
    ("arguments", "recorded"),
    [
        (["--inject-fault", "erf-gelu@3"], {"inject_fault": "erf-gelu@3"}),
        (["--taps", "h.0.*"], {"taps": "h.0.*"}),
        (["--seed", "7"], {"seed": 7}),
        (["--token-ids", "1,2,3,4,5"], {"token_ids": "1,2,3,4,5"}),
        ([], {}),
    ],
    ids=str,
)
def test_a_report_records_the_options(
    arguments: list[str], recorded: dict[str, object], check: Check, strictly: Strictly
) -> None:
    always = {"backend": "plain", "dtype": "float64"}
    words = [*TINY, *([] if "--token-ids" in arguments else ["--seq-len", "5"]), *arguments]
    inputs = strictly(check(*words, "--format", "json").stdout)["inputs"]
    assert recorded | always == {k: v for k, v in inputs.items() if k in RECORDED}
    text = check(*words).stdout
    assert not [value for value in recorded.values() if str(value) not in text]


# Gradients.


GRADIENTS = ("gradients", "--weights", "tiny", "--backend", "plain", "--dtype", "float64")
"""The fastest check: one backend, float64 only. `--seq-len` must be added."""


def test_right_models_pass(check: Check, strictly: Strictly, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = check("gradients", "--weights", "tiny", "--seq-len", "37", "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    assert (result.exit_code, found["check"], found["verdict"]) == (0, "gradients", "pass")
    assert found["plan"]["per_backend"] == {"plain": [333, 333], "fused": [285, 285]}
    assert (found["first_divergence"], found["reasons"]) == (None, [])
    last = " ".join(result.stdout.split("\n\n")[-1].split())
    assert last == ("PASS 333 of 333 gradients on plain, 285 of 285 gradients on fused compared")
    key = ("tap", "backend", "dtype", "mode", "against")
    keys = [tuple(row[name] for name in key) for row in found["results"]]
    assert len(keys) == len(set(keys))
    assert ("h.3.ln_1.weight", "plain", "float64", "float64", "huggingface") in keys


@pytest.mark.parametrize(
    ("fault", "tap", "cause"),
    [
        ("norm-without-mean@3", "h.3.ln_1.input", "the term that subtracts the gradient's mean"),
        ("head-detached", "tokens_embed.weight", "only one of its two paths"),
        ("delta-missing@0", "h.0.attn.scores", "(delta)"),
        ("loss-not-divided", "logits", "not divided by the number of targets"),
        ("doubled", "h.6.mlp.c_proj.weight", "the product of the operation's input"),
    ],
)
def test_a_backward_fault_is_found_where_it_is(  # noqa: PLR0913 - a case, and fixtures
    fault: str, tap: str, cause: str, check: Check, strictly: Strictly, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    result = check(*GRADIENTS, "--seq-len", "5", "--inject-fault", fault, "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    text = " ".join(result.stdout.split())
    assert (result.exit_code, found["verdict"]) == (1, "fail")
    assert found["first_divergence"]["tap"] == text.split()[-1] == tap
    assert cause in found["first_divergence"]["suspects"]
    assert cause in text
    assert fault == found["inputs"]["inject_fault"]


def test_a_forward_fault_is_recognized(check: Check) -> None:
    result = check(*GRADIENTS, "--seq-len", "5", "--inject-fault", "erf-gelu@3")
    text = " ".join(result.stdout.split())
    assert result.exit_code == 1
    assert "the loss itself differs" in text
    assert "layerwise" in text


@pytest.mark.parametrize(
    ("verb", "faults"),
    [(TINY, FORWARD_FAULTS), (GRADIENTS, FORWARD_FAULTS | BACKWARD_FAULTS)],
    ids=["layerwise", "gradients"],
)
def test_an_unknown_fault_counts_them_all(
    verb: tuple[str, ...], faults: dict[str, object], check: Check
) -> None:
    result = check(*verb, "--seq-len", "5", "--inject-fault", "nonsense")
    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith(f"describes all {len(faults)}")


@pytest.mark.parametrize(
    ("verb", "backend", "words"),
    [
        ("layerwise", "plain", "no fault is called 'doubled'"),  # it would pass
        ("gradients", "fused", "the backend fused does not form"),
    ],
)
def test_a_fault_that_cannot_be_found_is_rejected(
    verb: str, backend: str, words: str, check: Check
) -> None:
    arguments = ("--weights", "tiny", "--seq-len", "5", "--backend", backend)
    result = check(verb, *arguments, "--inject-fault", "doubled")
    assert (result.exit_code, words in result.stderr) == (2, True)


@pytest.mark.parametrize(
    ("verb", "arguments", "words"),
    [
        (TINY, ("--seq-len", "5", "--taps", "h.99.mlp"), "h.99.mlp"),
        (TINY, ("--seq-len", "5", "--taps", "h.99.mlp", "--format", "json"), "h.99.mlp"),
        (GRADIENTS, ("--seq-len", "1"), "no next token is predicted"),
        (GRADIENTS, ("--seq-len", "5", "--taps", "h.99.*"), "no tap was selected"),
        (GRADIENTS, ("--token-ids", "7;9"), "no next token is predicted"),
    ],
)
def test_nothing_compared_is_no_pass(
    verb: tuple[str, ...], arguments: tuple[str, ...], words: str, check: Check
) -> None:
    result = check(*verb, *arguments)
    text = " ".join(result.stdout.split())
    assert result.exit_code == 3
    assert words in text
    assert "INCONCLUSIVE" in text.upper()


def test_taps_select_parameters_too(check: Check, strictly: Strictly) -> None:
    result = check(*GRADIENTS, "--seq-len", "5", "--taps", "h.3.ln_?.*", "--format", "json")
    found = strictly(result.stdout)
    names = [f"h.3.ln_{n}.{part}" for n in (2, 1) for part in ("weight", "bias", "input")]
    assert (0, names) == (result.exit_code, [row["tap"] for row in found["results"]])


@pytest.mark.parametrize("backend", ["plain", "tiled", "fused"])
def test_padding_passes_on_every_backend(check: Check, backend: str) -> None:
    ids = ("--token-ids", "5,9,210,5,0;7,1,1", "--backend", backend)
    result = check("gradients", "--weights", "tiny", "--dtype", "float64", *ids)
    assert result.exit_code == 0, result.stdout


RENAMED = """return Renamed(model)

import torch
class Renamed(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, *given, tap):
        return self.inner(*given, tap=tap)
"""
DETACHED = """model.__class__ = Detached
    return model

class Detached(GPT):
    def forward(self, *given, tap):
        return super().forward(*given, tap=tap).detach()
"""


@pytest.mark.parametrize(
    ("last", "code", "words"),
    [
        ("return model", 0, ["PASS 333 of 333"]),
        (
            RENAMED,
            3,
            [
                "146 parameters' gradients were not compared, only those of taps",
                "it has inner.tokens_embed.weight",
                "INCONCLUSIVE compared 172 of 333",
            ],
        ),
        (DETACHED, 3, ["forward or backward raised RuntimeError"]),
    ],
    ids=["right", "other names", "without gradients"],
)
def test_gradients_of_a_candidate(
    last: str, code: int, words: list[str], check: Check, candidate: Callable[..., str]
) -> None:
    result = check(*GRADIENTS, "--seq-len", "5", "--candidate", candidate(last=last))
    text = " ".join(result.stdout.split())
    assert result.exit_code == code
    assert not [word for word in words if word not in text]


# Reported inputs.


GIVEN = "5,210,0,17;12,7"
JSON = ("--weights", "tiny", "--dtype", "float64", "--format", "json")


@pytest.mark.parametrize("verb", ["layerwise", "gradients"])
def test_ids_and_mask_are_reported(verb: str, check: Check, strictly: Strictly) -> None:
    result = check(verb, *JSON, "--backend", "plain", "--token-ids", GIVEN)
    inputs = strictly(result.stdout)["inputs"]
    expected = parse(GIVEN).digests()
    assert set(expected) == {"ids", "attention_mask"}
    assert expected == {name: inputs[name] for name in expected}
    assert "positions" not in inputs


def test_positions_are_reported(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> None:
    places = torch.arange(token_ids.shape[1])[None] + 2
    report = layerwise(
        ours, theirs, token_ids, positions=places, modes=[Mode.FLOAT64], select="loss"
    )
    expected = Inputs(token_ids=token_ids, positions=places).digests()
    assert expected == {name: report.inputs[name] for name in expected}


@pytest.mark.parametrize(("blocks", "reported"), [(2, "the first 2"), (99, None)])
def test_the_first_blocks_alone_are_trained(
    blocks: int, reported: str | None, ours: GPT, tmp_path: Path
) -> None:
    """The report says so; `all` trains a model of full size in this way."""
    ours.save_pretrained(tmp_path / "model")
    options = TrainingOptions(
        weights=str(tmp_path / "model"),
        backend="plain",
        dtype="float64",
        steps=2,
        seq_len=5,
        taps="adamw.2.weight.*",
    )
    report = verbs.training(options, no_progress, blocks=blocks)
    assert report.exit_code == 0
    assert report.inputs.get("blocks") == reported
    names = {row.tap for row in report.results}
    assert any("h.1." in name for name in names)
    assert any("h.2." in name for name in names) is (reported is None)


def test_every_batch_of_training_is_reported(check: Check, strictly: Strictly) -> None:
    short = ("--steps", "2", "--seq-len", "3", "--taps", "adamw.*")
    result = check("training", *JSON, "--backend", "plain", *short)
    made = batches(steps=2, parts=2, batch=2, time=3, vocab_size=211, seed=0)
    assert strictly(result.stdout)["inputs"]["ids"] == digest(made) != digest(made[:1])


def test_prompts_and_searched_prompts_are_reported(
    check: Check, strictly: Strictly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts of the beam searches are drawn, whatever prompts are given."""
    searched = torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]])
    monkeypatch.setattr("parity.checks.generation.check._searched", lambda *_: searched)
    result = check("generation", *JSON, "--token-ids", "210;5,9,5", "--max-new-tokens", "3")
    prompts = [torch.tensor([[210]]), torch.tensor([[5, 9, 5]])]
    assert strictly(result.stdout)["inputs"]["ids"] == digest([*prompts, searched])


def test_another_seed_is_other_ids(check: Check, strictly: Strictly) -> None:
    short = ("--backend", "plain", "--seq-len", "5", "--taps", "loss")
    found = [
        strictly(check("layerwise", *JSON, *short, "--seed", seed).stdout)["inputs"]["ids"]
        for seed in ("0", "0", "1")
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("verb", ["layerwise", "gradients", "training"])
def test_a_candidates_file_is_reported(
    verb: str, check: Check, strictly: Strictly, candidate: Callable[..., str]
) -> None:
    name = candidate()
    short = {"training": ("--steps", "2", "--seq-len", "3")}.get(verb, ("--seq-len", "5"))
    inputs = strictly(check(verb, *JSON, *short, "--candidate", name).stdout)["inputs"]
    sha = hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
    assert (inputs["candidate"], inputs["candidate_file"]) == (name, f"sha256 {sha}")


def test_the_file_of_a_mapping_is_recorded_with_its_digest(
    candidate: Callable[..., str], tmp_path: Path
) -> None:
    """The name behind the file of the candidate is no part of the path."""
    name, file = candidate(), tmp_path / "map.txt"
    file.write_text("head.weight = 0", encoding="utf-8")
    options = LayerwiseOptions(candidate=f"{name}:build", map=file, call="model(ids)")
    shas = [hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16] for path in (name, file)]
    assert recorded_options(options) == {
        "candidate": f"{name}:build",
        "candidate_file": f"sha256 {shas[0]}",
        "map": str(file),
        "map_file": f"sha256 {shas[1]}",
        "call": "model(ids)",
    }


@pytest.mark.parametrize("verb", ["layerwise", "gradients"])
def test_a_mapping_is_passed_on(
    verb: str, check: Check, candidate: Callable[..., str], tmp_path: Path
) -> None:
    file = tmp_path / "map.txt"
    file.write_text("a line", encoding="utf-8")
    name = candidate("def build(config): ...")
    result = check(verb, *TINY[1:], "--candidate", name, "--map", file)
    assert (result.exit_code, "line 1" in result.stderr) == (2, True)


@pytest.mark.parametrize("option", ["--call", "--map"])
def test_options_of_a_candidate_need_one(option: str, check: Check) -> None:
    result = check(*TINY, option, "model(ids)")
    assert (result.exit_code, f"{option} model(ids)" in result.stderr) == (2, True)


# Selected taps.


Run = Callable[..., Report]


def keyed(report: Report) -> dict[tuple[str, str, str, Mode], Row]:
    return {(row.tap, row.backend, row.against, row.mode): row for row in report.results}


@pytest.fixture(scope="module")
def checks(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> dict[str, Run]:
    few, many = (
        seeded(batch=1, time=time, vocab_size=211, seed=0).token_ids
        for time in (3, FEWEST_PREDICTIONS + 1)
    )
    return {
        "layerwise": lambda select: layerwise(ours, theirs, token_ids, select=select),
        "few tokens": lambda select: layerwise(ours, theirs, few, select=select),
        "gradients": lambda select: gradients(ours, theirs, many, select=select),
    }


@pytest.mark.parametrize(
    ("check", "select"),
    [
        *(("layerwise", select) for select in ("h.3.ln_1", "h.11.attn.*")),
        ("few tokens", "loss"),
        *(("gradients", select) for select in ("h.3.ln_1.weight", "h.11.attn.*")),
    ],
)
def test_a_row_is_the_same(check: str, select: str, checks: dict[str, Run]) -> None:
    every, some = (keyed(checks[check](pattern)) for pattern in ("*", select))
    assert 0 < len(some) < len(every)
    for key, row in some.items():
        whole = every[key]
        assert (whole.status, whole.error_ours) == (row.status, row.error_ours)
        assert (whole.error_reference, whole.ratio) == (row.error_reference, row.ratio)
