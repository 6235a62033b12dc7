"""The environment check: what it inspects, and what makes it inconclusive."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Weights
from parity.checks import doctor as module
from parity.checks.doctor import doctor
from parity.core import environment, inputs
from parity.core.inputs import Inputs
from parity.core.results import Report
from parity.core.runners import build_huggingface

Check = Callable[..., Any]


@pytest.fixture(scope="module")
def long(weights: Weights) -> Inputs:
    return inputs.seeded(batch=1, time=40, vocab_size=weights.config["vocab_size"], seed=0)


@pytest.fixture(scope="module")
def healthy(theirs: OpenAIGPTLMHeadModel, long: Inputs) -> Report:
    return doctor(theirs, long, {})


def unfit(report: Report) -> list[str]:
    return [finding.name for finding in report.findings if finding.fit is False]


def test_the_tiny_weights_are_fit(healthy: Report) -> None:
    inspected = sum(finding.fit is not None for finding in healthy.findings)
    assert healthy.exit_code == 0
    assert healthy.verdict.value == "pass"
    assert unfit(healthy) == []
    assert healthy.plan.planned == inspected
    assert healthy.plan.compared == inspected


def test_every_setting_that_moves_numbers_is_listed(healthy: Report) -> None:
    found = {finding.name: finding.found for finding in healthy.findings}
    silent = {k.name for k in environment.SETTINGS if str(k.wanted) not in found.get(k.name, "")}
    assert set() == silent


def test_the_versions_are_listed(healthy: Report) -> None:
    found = {finding.name: finding.found for finding in healthy.findings}
    wanted = {"torch": torch.__version__, "numpy": np.__version__}
    assert wanted == {name: found[name] for name in wanted}
    assert {"python", "transformers", "threads", "cores"} <= set(found)


def test_the_notes_of_the_weights_are_listed(theirs: OpenAIGPTLMHeadModel, long: Inputs) -> None:
    identity = {"weights": {"notes": ["'x' left out", "config.json: colour ignored"]}}
    found = [f.found for f in doctor(theirs, long, identity).findings if "note" in f.name]
    assert found == identity["weights"]["notes"]


def test_no_user_or_machine_is_named(healthy: Report) -> None:
    import getpass
    import platform

    words = " ".join(finding.found for finding in healthy.findings).split()
    assert not {getpass.getuser(), platform.node()} & set(words)


def test_every_block_is_listed(healthy: Report) -> None:
    blocks = [finding for finding in healthy.findings if finding.name.endswith("healthy")]
    assert [finding.name for finding in blocks] == [f"h.{index} healthy" for index in range(12)]
    assert all("attention" in finding.found and "cosine" in finding.found for finding in blocks)


def test_the_command_prints_a_line_for_each_finding(check: Check) -> None:
    result = check("doctor", "--weights", "tiny", "--seq-len", "40", env={"COLUMNS": "300"})
    lines = result.stdout.splitlines()
    alive = [line for line in lines if " healthy " in line and line.rstrip().endswith("ok")]
    assert (result.exit_code, len(alive), lines[-1].startswith("PASS")) == (0, 12, True)


def changed(weights: Weights, change: Callable[[str, Any], Any]) -> OpenAIGPTLMHeadModel:
    tensors: Mapping[str, Any] = {
        name: np.ascontiguousarray(change(name, tensor.copy()), dtype=np.float32)
        for name, tensor in weights.tensors.items()
    }
    return build_huggingface(dataclasses.replace(weights, tensors=tensors))


def alike(name: str, tensor: Any) -> Any:  # noqa: ANN401 - an array in, an array out
    return np.repeat(tensor[:1], len(tensor), axis=0) if "embed" in name else tensor


def blunt(name: str, tensor: Any) -> Any:  # noqa: ANN401 - an array in, an array out
    if "c_attn" in name:
        tensor[..., :42] *= 1e-6
    return tensor


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(alike, "alike", id="every position alike"),
        pytest.param(blunt, "uniform", id="attention uniform"),
    ],
)
def test_a_degenerate_model_is_unfit(
    change: Callable[[str, Any], Any], why: str, weights: Weights, long: Inputs
) -> None:
    report = doctor(changed(weights, change), long, {})
    reasons = [finding.why for finding in report.findings if finding.fit is False]
    assert report.exit_code == 3
    assert report.verdict.value == "inconclusive"
    assert unfit(report) == [f"h.{index} healthy" for index in range(12)]
    assert all(why in reason for reason in reasons)


@pytest.mark.parametrize(
    ("name", "value"),
    [("h.3.ln_1.weight", 1.0), ("h.11.mlp.c_fc.bias", 0.0), ("h.0.attn.c_proj.weight", 0.5)],
)
def test_a_constant_tensor_is_unfit(
    name: str, value: float, theirs: OpenAIGPTLMHeadModel, long: Inputs
) -> None:
    model = copy.deepcopy(theirs)
    model.get_parameter(f"transformer.{name}").data.fill_(value)
    report = doctor(model, long, {})
    finding = next(f for f in report.findings if f.name == "tensors that hold one value")
    assert (report.exit_code, finding.fit, name in finding.found) == (3, False, True)


def test_a_product_in_float32_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    true = torch.from_numpy
    monkeypatch.setattr(module.torch, "from_numpy", lambda array: true(array).float().double())
    false = module._float64().fit
    monkeypatch.undo()
    assert (false, module._float64().fit) == (False, True)


def test_a_setting_that_cannot_be_pinned_is_unfit(monkeypatch: pytest.MonkeyPatch) -> None:
    stuck = dataclasses.replace(
        environment.SETTINGS[0], read=lambda: "stuck", write=lambda _value: None
    )
    monkeypatch.setattr(module.environment, "SETTINGS", (stuck,))
    monkeypatch.setattr(module.environment, "assert_settings_pinned", lambda: None)
    (finding,) = module._settings()
    assert not finding.fit
    assert finding.why == environment.SETTINGS[0].why
    assert "stuck" in finding.found


def test_the_settings_are_left_as_they_were(theirs: OpenAIGPTLMHeadModel, long: Inputs) -> None:
    before = [setting.read() for setting in environment.SETTINGS]
    doctor(theirs, long, {})
    assert before == [setting.read() for setting in environment.SETTINGS]


def test_an_unfit_finding_is_printed_with_its_consequence(
    check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.liveness, "constant_tensors", lambda _state: ["h.3.ln_1.bias"])
    result = check("doctor", "--weights", "tiny", "--seq-len", "5", env={"COLUMNS": "300"})
    line = next(line for line in result.stdout.splitlines() if "h.3.ln_1.bias" in line)
    assert result.exit_code == 3
    assert "hides" in line
    assert line.rstrip().endswith("PROBLEM")
    assert result.stdout.splitlines()[-1].split()[0] == "INCONCLUSIVE"


def test_a_padded_batch_is_fit(theirs: OpenAIGPTLMHeadModel) -> None:
    padded = inputs.parse("5,17,210,3,9,44,101,7;12,7")
    assert unfit(doctor(theirs, padded, {})) == []
