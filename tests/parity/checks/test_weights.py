"""Every tensor in its place, bit for bit: what the check of weights finds, and names."""

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import verbs
from parity.checkpoints.weights import Weights
from parity.checks import weights as module
from parity.checks.weights import weights as check_weights
from parity.core.results import Report
from parity.core.runners import build_huggingface, build_ours
from scratch_gpt import GPT

Change = Callable[[nn.Module], object]


@pytest.fixture
def judged(
    weights: Weights, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> Callable[[Change, str], Report]:
    def run(change: Change, side: str) -> Report:
        models = {"ours": ours, "huggingface": theirs}
        models[side] = copy.deepcopy(models[side])
        with torch.no_grad():
            change(models[side])
        return check_weights(weights, models["ours"], models["huggingface"], {})

    return run


Judged = Callable[[Change, str], Report]


def differing(report: Report) -> dict[tuple[str, str], tuple[str, float | None]]:
    return {
        (row.against, row.tap): (row.status.value, row.error_ours)
        for row in report.results
        if row.status.value != "pass"
    }


def prefix(side: str) -> str:
    return {"ours": "", "huggingface": "transformer."}[side]


SIDES = pytest.mark.parametrize("side", ["ours", "huggingface"])


def test_right_models_pass(judged: Judged) -> None:
    report = judged(lambda _model: None, "ours")
    sides = dict.fromkeys(("ours", "huggingface", "release"), (146, 146))
    assert report.exit_code == 0
    assert report.verdict.value == "pass"
    assert differing(report) == {}
    assert report.plan.per_backend == sides
    assert report.first_divergence is None


def flip_one_bit(tensor: Tensor) -> None:
    bits = tensor.view(torch.int32).view(-1)
    bits[-1] ^= 1


@SIDES
@pytest.mark.parametrize(
    "name",
    ["tokens_embed.weight", "positions_embed.weight", "h.3.ln_1.bias", "h.11.mlp.c_fc.weight"],
)
def test_one_bit_is_found(name: str, side: str, judged: Judged) -> None:
    report = judged(lambda m: flip_one_bit(m.get_parameter(prefix(side) + name).data), side)
    assert report.first_divergence is not None
    assert report.exit_code == 1
    assert report.verdict.value == "fail"
    assert differing(report) == {(side, name): ("fail", 1.0)}
    assert report.first_divergence.tap == name


@SIDES
def test_a_transposed_square_is_found(side: str, judged: Judged) -> None:
    """The shape does not show the transposition, and the diagonal stays equal."""
    name = "h.5.attn.c_proj.weight"

    def transpose(model: nn.Module) -> None:
        parameter = model.get_parameter(prefix(side) + name)
        parameter.copy_(parameter.T.clone())

    assert differing(judged(transpose, side)) == {(side, name): ("fail", 21.0 * 20.0)}


@SIDES
def test_swapped_blocks_are_found(side: str, judged: Judged) -> None:
    def swap(model: nn.Module) -> None:
        blocks = model.get_submodule(prefix(side) + "h")
        blocks[2], blocks[10] = blocks[10], blocks[2]  # type: ignore[operator, index]

    report = judged(swap, side)
    found = {
        name.rsplit(".", 3 if "attn" in name or "mlp" in name else 2)[0]
        for _, name in differing(report)
    }
    assert (report.exit_code, found, len(differing(report))) == (1, {"h.2", "h.10"}, 24)


@SIDES
def test_minus_zero_is_not_zero(side: str, weights: Weights) -> None:
    name = "h.0.ln_2.bias"
    zeroed = weights.tensors | {name: np.zeros_like(weights.tensors[name])}  # type: ignore[operator]
    source = dataclasses.replace(weights, tensors=zeroed)
    models = {"ours": build_ours(source), "huggingface": build_huggingface(source)}
    with torch.no_grad():
        models[side].get_parameter(prefix(side) + name)[3] = -0.0
    report = check_weights(source, models["ours"], models["huggingface"], {})
    assert differing(report) == {(side, name): ("fail", 1.0)}


def test_bits_are_compared_and_not_values() -> None:
    wanted = np.array([0.0, -0.0, np.nan, 1.0], np.float32)
    held = np.array([-0.0, -0.0, np.nan, 1.0], np.float32)
    status, count = module._status(wanted, held)
    assert (status.value, count) == ("fail", 1.0)


def test_a_layout_is_no_difference() -> None:
    """The same bits in another memory layout are the same tensor."""
    wanted = np.arange(6, dtype=np.float32).reshape(2, 3)
    held = np.asfortranarray(wanted)
    status, count = module._status(wanted, held)
    assert (status.value, count) == ("pass", 0.0)


@SIDES
def test_a_missing_tensor_is_named(side: str, judged: Judged) -> None:
    def drop(model: nn.Module) -> None:
        model.get_submodule(f"{prefix(side)}h.4.ln_1").bias = None

    report = judged(drop, side)
    assert report.exit_code == 1
    assert differing(report) == {(side, "h.4.ln_1.bias"): ("missing", None)}


@SIDES
def test_an_extra_tensor_is_named(side: str, judged: Judged) -> None:
    def add(model: nn.Module) -> None:
        layer = model.get_submodule(f"{prefix(side)}h.4.ln_1")
        layer.register_parameter("scale", nn.Parameter(torch.ones(1)))

    report = judged(add, side)
    assert report.exit_code == 1
    assert differing(report) == {(side, f"{prefix(side)}h.4.ln_1.scale"): ("extra", None)}


@SIDES
@pytest.mark.parametrize(
    ("change", "status"),
    [
        pytest.param(lambda p: p.double(), "dtype", id="float64"),
        pytest.param(lambda p: p.half(), "dtype", id="float16"),
        pytest.param(lambda p: p[None], "shape", id="an axis more"),
        pytest.param(lambda p: p[:1], "shape", id="would broadcast"),
    ],
)
def test_another_type_or_shape_is_no_comparison(
    change: Callable[[Tensor], Tensor], status: str, side: str, judged: Judged
) -> None:
    def replace(model: nn.Module) -> None:
        layer = model.get_submodule(f"{prefix(side)}h.4.ln_1")
        layer.bias = nn.Parameter(change(layer.bias.data))  # type: ignore[operator, union-attr]

    assert differing(judged(replace, side)) == {(side, "h.4.ln_1.bias"): (status, None)}


def test_an_untied_head_is_found(judged: Judged) -> None:
    """Its bits are the embedding's."""

    def untie(model: nn.Module) -> None:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())  # type: ignore[union-attr, operator]

    report = judged(untie, "huggingface")
    assert report.exit_code == 1
    assert report.verdict.value == "fail"
    assert differing(report) == {}
    assert [reason.where for reason in report.reasons] == [
        "lm_head.weight, transformer.tokens_embed.weight"
    ]


def test_a_way_through_the_release_that_loses_a_bit_is_found(
    judged: Judged, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = module._through_release

    def lossy(source: Weights) -> dict[str, Any]:
        arrays = dict(through(source))
        arrays["h.7.mlp.c_proj.bias"] = arrays["h.7.mlp.c_proj.bias"] + np.float32(1e-3)
        return arrays

    monkeypatch.setattr(module, "_through_release", lossy)
    found = differing(judged(lambda _model: None, "ours"))
    assert found == {("release", "h.7.mlp.c_proj.bias"): ("fail", 21.0)}


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_names_the_tensor(
    form: str,
    check: Callable[..., Any],
    ours: GPT,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken = copy.deepcopy(ours)
    flip_one_bit(broken.h[9].attn.c_attn.bias.data)
    monkeypatch.setattr(verbs, "build_ours", lambda _source: broken)
    result = check("weights", "--weights", "tiny", "--format", form)
    assert result.exit_code == 1
    assert result.stderr == ""
    assert "h.9.attn.c_attn.bias" in result.stdout
