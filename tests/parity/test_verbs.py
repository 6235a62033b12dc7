"""The verbs, end to end on the tiny weights."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity import verbs
from parity.checkpoints.weights import Weights
from parity.core import runners
from parity.faults.forward import FORWARD_FAULTS
from parity.options import LayerwiseOptions
from reference import huggingface, surrogate
from scratch_gpt import GPT, GPTConfig
from scratch_gpt.options import options_of

Check = Callable[..., Any]
Strictly = Callable[[str], Any]

TINY = ("layerwise", "--weights", "tiny", "--backend", "plain", "--dtype", "float64")
"""The fastest layerwise check: one backend, float64 only. `--seq-len` must be added."""


@pytest.mark.parametrize(
    ("fault", "tap"),
    [
        ("erf-gelu@3", "h.3.mlp.gelu"),
        ("mask-off-by-one@0", "h.0.attn.weights"),
        ("norm-inside-residual@11", "h.11.ln_1.input"),
        ("positions-from-one", "embeddings.positions"),
        ("string-order", "h.2.attn.query"),
        ("final-norm", "logits"),
        ("epsilon", "h.6.ln_1"),
    ],
)
def test_an_injected_fault_is_found_where_it_is(
    fault: str, tap: str, check: Check, strictly: Strictly, tmp_path: Path
) -> None:
    file = tmp_path / "r.json"
    result = check(*TINY, "--seq-len", "5", "--inject-fault", fault, "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    verdict = result.stdout.split("\n\n")[-1].split()
    assert result.exit_code == 1
    assert found["verdict"] == "fail"
    assert found["first_divergence"]["tap"] == tap
    assert verdict[0] == "FAIL"
    assert verdict[-1] == tap


def test_right_models_pass_in_every_mode(check: Check, strictly: Strictly) -> None:
    result = check("layerwise", "--weights", "tiny", "--seq-len", "37", "--format", "json")
    found = strictly(result.stdout)
    assert result.exit_code == 0
    assert found["verdict"] == "pass"
    assert found["plan"]["per_backend"] == {"plain": [173, 173], "fused": [125, 125]}
    assert found["first_divergence"] is None
    assert found["reasons"] == []


def test_a_fault_is_found_without_the_tap_it_is_in(check: Check) -> None:
    """The tiled backend has no scores and weights: a wrong mask is found in the context."""
    arguments = ["layerwise", "--weights", "tiny", "--seq-len", "5", "--dtype", "float64"]
    result = check(*arguments, "--backend", "tiled", "--inject-fault", "mask-off-by-one@4")
    assert (result.exit_code, result.stdout.split()[-1]) == (1, "h.4.attn.context")


@pytest.mark.parametrize(
    ("arguments", "inputs"),
    [
        pytest.param(
            ["--seq-len", "1"], {"batch": 1, "time": 1, "padded_positions": 0}, id="time 1"
        ),
        pytest.param(
            ["--batch-size", "4", "--seq-len", "7"],
            {"batch": 4, "time": 7, "padded_positions": 0},
            id="batch 4",
        ),
        pytest.param(
            ["--token-ids", "5,210,0,17,3,9;12,7"],
            {"batch": 2, "time": 6, "padded_positions": 4},
            id="unequal rows",
        ),
        pytest.param(
            ["--token-ids", "210"], {"batch": 1, "time": 1, "padded_positions": 0}, id="one id"
        ),
        pytest.param(
            ["--taps", "embeddings"],
            {"batch": 1, "time": 389, "padded_positions": 0},
            id="the default gives way",
        ),
    ],
)
def test_the_inputs_are_the_given_ones(
    arguments: list[str], inputs: dict[str, int], check: Check, strictly: Strictly
) -> None:
    result = check(*TINY, *arguments, "--format", "json")
    found = strictly(result.stdout)
    expected = (0, inputs, found["plan"]["planned"])
    shape = {name: found["inputs"][name] for name in ("batch", "time", "padded_positions")}
    assert expected == (result.exit_code, shape, found["plan"]["compared"])


def test_another_seed_gives_other_ids(check: Check, strictly: Strictly) -> None:
    arguments = [*TINY, "--seq-len", "9", "--taps", "loss", "--format", "json", "--seed"]
    values = [
        strictly(check(*arguments, seed).stdout)["results"][0]["value_ours"]
        for seed in ("0", "0", "1")
    ]
    assert (values[0] == values[1], values[0] == values[2]) == (True, False)


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
    "fault in a block below 0": (["--inject-fault", "erf-gelu@-1"], "0 to 11"),
    "fault in a block of that name": (["--inject-fault", "erf-gelu@last"], "0 to 11"),
    "no number": (["--token-ids", "1,two"], "two"),
    "no id": (["--token-ids", ""], "--token-ids"),
    "an id left out": (["--token-ids", "1,,2"], "--token-ids"),
    "an empty row": (["--token-ids", "1;;2"], "--token-ids"),
    "id of a fraction": (["--token-ids", "1.5"], "1.5"),
    "id beyond the vocabulary": (["--token-ids", "1,211"], "211"),
    "id below 0": (["--token-ids=-1,2"], "0 to 210"),
    "time too long": (["--seq-len", "390"], "389"),
    "ids too many": (["--token-ids", ",".join(["1"] * 390)], "389"),
    "explanation of no tap": (["--explain", "h.3.gelu"], "h.3.gelu"),
    "explanation beyond the model": (["--explain", "h.12.mlp"], "h.12.mlp"),
    "explanation of the loss at time 1": (["--seq-len", "1", "--explain", "loss"], "loss"),
    "no candidate there": (["--candidate", "no_such_file.py"], "no_such_file.py"),
}


@pytest.mark.parametrize("mistake", USAGE)
def test_an_impossible_value_is_a_usage_error(mistake: str, check: Check) -> None:
    arguments, named = USAGE[mistake]
    result = check(*TINY, *(["--seq-len", "5"] if "--seq-len" not in arguments else []), *arguments)
    lines = result.stderr.splitlines()
    assert result.exit_code == 2
    assert not result.stdout
    assert [line[:7].rstrip() for line in lines] == ["error:", "  where", "  to do"]
    assert named in result.stderr


def test_an_unknown_fault_lists_them_all(check: Check) -> None:
    told = check(*TINY, "--inject-fault", "?").stderr
    assert set() == {name for name in FORWARD_FAULTS if name not in told}


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_tap_selected_is_inconclusive(form: str, check: Check) -> None:
    result = check(*TINY, "--seq-len", "5", "--taps", "mlp.gelu", "--format", form)
    assert (result.exit_code, "mlp.gelu" in result.stdout) == (3, True)


def test_other_surrogate_bits_are_refused(check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    committed = surrogate.committed_digests()
    committed["sizes"]["tiny"]["digests"]["h.3.ln_1.bias"] = "0" * 64
    monkeypatch.setattr(surrogate, "committed_digests", lambda: committed)
    result = check(*TINY, "--seq-len", "5")
    assert (result.exit_code, result.stdout, "h.3.ln_1.bias" in result.stderr) == (4, "", True)


def test_digests_of_another_recipe_are_refused(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = surrogate.committed_digests() | {"recipe": surrogate.RECIPE + 1}
    monkeypatch.setattr(surrogate, "committed_digests", lambda: stale)
    assert check("weights", "--weights", "tiny").exit_code == 4


def fresh(config: dict[str, Any]) -> dict[str, Any]:
    torch.manual_seed(0)
    state = GPT(GPTConfig.from_huggingface(config)).state_dict()
    return {name: tensor.numpy() for name, tensor in state.items()}


@pytest.mark.parametrize("verb", [TINY, ("doctor",)], ids=lambda verb: verb[0])
def test_a_fresh_model_is_inconclusive(
    verb: tuple[str, ...], check: Check, monkeypatch: pytest.MonkeyPatch, weights: Weights
) -> None:
    """Biases of 0 and gains of 1 hide faults: agreement on them is no pass."""
    tensors = fresh(dict(weights.config))
    other = dataclasses.replace(weights, tensors=tensors)
    monkeypatch.setattr(verbs, "load_weights", lambda *_arguments: other)
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
    expected = (False, "", True)
    passed = result.exit_code in {0, 1, 3}
    assert expected == (passed, result.stdout, "transformer.h.3.ln_1.bias" in result.stderr)


def test_progress_goes_on_to_the_end() -> None:
    steps: list[tuple[str, int, int]] = []
    options = LayerwiseOptions(weights="tiny", seq_len=5, backend="plain")
    verbs.layerwise(options, lambda *step: steps.append(step))
    walked = [(done, total) for what, done, total in steps if what.startswith(("h.", "lo", "em"))]
    assert walked == [(number + 1, 2 * 173) for number in range(2 * 173)]


RECORDED = {field.name for field in options_of(LayerwiseOptions) if field.metadata["records"]}


@pytest.mark.parametrize(
    ("arguments", "said"),
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
    arguments: list[str], said: dict[str, object], check: Check, strictly: Strictly
) -> None:
    always = {"backend": "plain", "dtype": "float64"}
    words = [*TINY, "--seq-len", "5", *arguments]
    inputs = strictly(check(*words, "--format", "json").stdout)["inputs"]
    assert said | always == {k: v for k, v in inputs.items() if k in RECORDED}
    text = check(*words).stdout
    assert not [value for value in said.values() if str(value) not in text]
