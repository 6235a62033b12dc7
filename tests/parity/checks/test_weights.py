"""The weights check: every tensor, bit for bit."""

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import verbs
from parity.checkpoints.weights import Weights
from parity.checks import weights as module
from parity.checks.weights import weights as check_weights
from parity.core.results import Report
from parity.core.runners import build_huggingface, build_ours
from scratch_gpt import GPT
from scratch_gpt.checkpoint import checkpoint

Change = Callable[[nn.Module], object]


@pytest.fixture
def checked(
    weights: Weights, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> Callable[[Change, str], Report]:
    def run(change: Change, side: str) -> Report:
        models = {"ours": ours, "huggingface": theirs}
        models[side] = copy.deepcopy(models[side])
        with torch.no_grad():
            change(models[side])
        return check_weights(weights, models["ours"], models["huggingface"], {})

    return run


Checked = Callable[[Change, str], Report]


def differing(report: Report) -> dict[tuple[str, str], tuple[str, float | None]]:
    return {
        (row.against, row.tap): (row.status.value, row.error_ours)
        for row in report.results
        if row.status.value != "pass"
    }


def prefix(side: str) -> str:
    return {"ours": "", "huggingface": "transformer."}[side]


SIDES = pytest.mark.parametrize("side", ["ours", "huggingface"])


def test_right_models_pass(checked: Checked) -> None:
    report = checked(lambda _model: None, "ours")
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
def test_one_bit_is_found(name: str, side: str, checked: Checked) -> None:
    report = checked(lambda m: flip_one_bit(m.get_parameter(prefix(side) + name).data), side)
    assert report.first_divergence is not None
    assert report.exit_code == 1
    assert report.verdict.value == "fail"
    assert differing(report) == {(side, name): ("fail", 1.0)}
    assert report.first_divergence.tap == name


def transpose(layer: nn.Module) -> None:
    layer.weight.copy_(layer.weight.T.clone())  # type: ignore[operator, union-attr]


def drop(layer: nn.Module) -> None:
    layer.bias = None  # type: ignore[assignment]


def add(layer: nn.Module) -> None:
    layer.register_parameter("scale", nn.Parameter(torch.ones(1)))


def replaced(change: Callable[[Tensor], Tensor]) -> Change:
    def replace(layer: nn.Module) -> None:
        layer.bias = nn.Parameter(change(layer.bias.data))  # type: ignore[operator, union-attr]

    return replace


NORM = "h.4.ln_1"


@SIDES
@pytest.mark.parametrize(
    ("module_name", "change", "tensor", "status"),
    [
        # The shape does not show the transposition, and the diagonal stays equal.
        ("h.5.attn.c_proj", transpose, "weight", ("fail", 21.0 * 20.0)),
        (NORM, drop, "bias", ("missing", None)),
        (NORM, add, "scale", ("extra", None)),
        (NORM, replaced(lambda p: p.double()), "bias", ("dtype", None)),
        (NORM, replaced(lambda p: p.half()), "bias", ("dtype", None)),
        (NORM, replaced(lambda p: p[None]), "bias", ("shape", None)),
        (NORM, replaced(lambda p: p[:1]), "bias", ("shape", None)),
    ],
    ids=["transposed", "missing", "extra", "float64", "float16", "an axis more", "broadcasts"],
)
def test_a_wrong_tensor_is_named_with_its_status(  # noqa: PLR0913 - a table and its fixtures
    module_name: str,
    change: Change,
    tensor: str,
    status: tuple[str, float | None],
    side: str,
    checked: Checked,
) -> None:
    report = checked(lambda model: change(model.get_submodule(prefix(side) + module_name)), side)
    owner = prefix(side) if tensor == "scale" else ""  # an extra tensor keeps its own name
    assert report.exit_code == 1
    assert differing(report) == {(side, f"{owner}{module_name}.{tensor}"): status}


@SIDES
def test_swapped_blocks_are_found(side: str, checked: Checked) -> None:
    def swap(model: nn.Module) -> None:
        blocks = model.get_submodule(prefix(side) + "h")
        blocks[2], blocks[10] = blocks[10], blocks[2]  # type: ignore[operator, index]

    report = checked(swap, side)
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


ARRAY = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize(
    ("wanted", "found", "status"),
    [
        (
            np.array([0.0, -0.0, np.nan], np.float32),
            np.array([-0.0, -0.0, np.nan], np.float32),
            ("fail", 1.0),
        ),
        (ARRAY, np.asfortranarray(ARRAY), ("pass", 0.0)),
    ],
    ids=["zeros with two signs", "another memory layout"],
)
def test_bits_are_compared(wanted: Any, found: Any, status: tuple[str, float]) -> None:  # noqa: ANN401
    assert module._status(wanted, found) == status


def test_an_untied_head_is_found(checked: Checked) -> None:
    """Its bits are the embedding's."""

    def untie(model: nn.Module) -> None:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.clone())  # type: ignore[union-attr, operator]

    report = checked(untie, "huggingface")
    assert report.exit_code == 1
    assert report.verdict.value == "fail"
    assert differing(report) == {}
    assert [reason.where for reason in report.reasons] == [
        "lm_head.weight, transformer.tokens_embed.weight"
    ]


def test_a_way_through_the_release_that_loses_a_bit_is_found(
    checked: Checked, monkeypatch: pytest.MonkeyPatch
) -> None:
    through = module._through_release

    def lossy(source: Weights) -> dict[str, Any]:
        arrays = dict(through(source))
        arrays["h.7.mlp.c_proj.bias"] = arrays["h.7.mlp.c_proj.bias"] + np.float32(1e-3)
        return arrays

    monkeypatch.setattr(module, "_through_release", lossy)
    found = differing(checked(lambda _model: None, "ours"))
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


# The models of `from_pretrained`.


def swap_blocks(model: GPT) -> None:
    one, two = model.h[2].state_dict(), model.h[10].state_dict()
    copied = {name: tensor.clone() for name, tensor in one.items()}
    model.h[2].load_state_dict(two)
    model.h[10].load_state_dict(copied)


def fail(_model: GPT) -> None:
    raise KeyError("h.3")


LOADED: dict[str, tuple[Change, str]] = {
    "a square matrix transposed": (
        lambda m: transpose(m.h[5].attn.c_proj),
        "h.5.attn.c_proj.weight",
    ),
    "blocks swapped": (swap_blocks, "h.2."),
    "a bias dropped": (lambda m: drop(m.h[7].mlp.c_fc), "h.7.mlp.c_fc.bias"),
    "half precision": (lambda m: m.half(), "tokens_embed.weight"),
    "one bit": (lambda m: flip_one_bit(m.h[3].ln_1.bias.data), "h.3.ln_1.bias"),
    "an exception": (fail, "KeyError"),
    "training mode": (lambda m: m.train(), "in training mode"),
}  # type: ignore[assignment]


@pytest.mark.parametrize("fault", LOADED)
def test_a_fault_of_from_pretrained_is_found(
    fault: str, check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    change, named = LOADED[fault]
    right = checkpoint.from_pretrained

    def wrong(*given: Any, **how: Any) -> GPT:  # noqa: ANN401
        model = right(*given, **how)
        with torch.no_grad():
            change(model)
        return model

    monkeypatch.setattr(checkpoint, "from_pretrained", wrong)
    result = check("weights", "--weights", "tiny", "--format", "json")
    found = json.loads(result.stdout)
    differing = [row for row in found["results"] if row["status"] != "pass"]
    assert result.exit_code == 1
    assert named in result.stdout
    assert {row["against"] for row in differing} <= {"ours"}


def test_a_folder_is_loaded_where_it_is(
    weights: Weights, ours: GPT, tmp_path: Path, check: Callable[..., Any]
) -> None:
    ours.save_pretrained(tmp_path)
    result = check("weights", "--weights", tmp_path)
    assert (result.exit_code, "146 of 146 tensors of ours" in result.stdout) == (0, True)
    named = {"transformer." + name: torch.from_numpy(a) for name, a in weights.tensors.items()}
    prefixed = {"module." + name: tensor for name, tensor in named.items()}
    save_file(prefixed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert check("weights", "--weights", tmp_path).exit_code == 0
