"""Calling the Triton kernels: errors, compilation for a GPU, runs on a GPU."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from parity.core.tolerances import PRECISIONS
from scratch_gpt.attention import plain_attention
from scratch_gpt.kernels import triton_attention
from scratch_gpt.kernels.backends import KERNELS
from scratch_gpt.kernels.triton_attention import OLDEST, PLANS, WIDEST, attend, unavailable

Draw = Callable[..., Tensor]
Made = dict[str, dict[str, int]]

CPU, CUDA = torch.device("cpu"), torch.device("cuda")

SHARED_OF_AN_H200 = 227 * 1024
"""Bytes of shared memory that one program may have."""

DTYPES = [str(dtype).removeprefix("torch.") for dtype in PLANS]


@pytest.fixture
def triton() -> None:
    reason = unavailable(CPU)
    if reason is not None and "GPU" not in reason:
        pytest.skip(f"not run: {reason}")


def run_python(*arguments: object, **settings: str) -> str:
    """Return the output of a fresh interpreter."""
    env = os.environ | {"PYTHONPATH": str(Path(triton_attention.__file__).parents[2])} | settings
    command = [sys.executable, *arguments]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert not result.returncode, result.stderr[-2000:]
    return result.stdout.strip()


def test_triton_is_not_imported_before_the_first_call() -> None:
    source = """
import sys
import scratch_gpt.kernels.triton_attention
from scratch_gpt import GPT, GPTConfig
GPT(GPTConfig(n_layer=1, n_embd=12, n_head=3, vocab_size=37, n_positions=11), backend="triton")
print("triton" in sys.modules, "scratch_gpt.kernels.triton_kernels" in sys.modules)
"""
    assert run_python("-c", source) == "False False"


@pytest.mark.usefixtures("triton")
def test_the_first_call_imports_triton() -> None:
    source = """
import sys, torch
from scratch_gpt.kernels.triton_attention import attend
attend(*torch.zeros(3, 1, 1, 2, 4))
print("triton" in sys.modules)
"""
    assert run_python("-c", source, TRITON_INTERPRET="1") == "True"


def some(draw: Draw, width: int = 7) -> list[Tensor]:
    return [draw(2, 3, 5, width) for _ in range(3)]


def test_without_triton_an_extra_is_named(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(RuntimeError, match=r"pip install 'gpt1-parity\[triton\]'"):
        attend(*some(draw))
    assert unavailable(CUDA) is not None


def test_an_old_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: object())
    monkeypatch.setitem(sys.modules, "triton", SimpleNamespace(__version__="3.1.0+git"))
    wanted = ".".join(map(str, OLDEST))
    expected = f"the Triton kernels need Triton {wanted} or newer, this is 3.1.0+git"
    assert expected == unavailable(CUDA)


@pytest.mark.usefixtures("triton")
def test_tensors_on_the_cpu_are_rejected(draw: Draw) -> None:
    with pytest.raises(
        RuntimeError, match=r"run on a GPU, the tensors are on cpu: use the backend fused"
    ):
        KERNELS["triton"](*some(draw))


@pytest.mark.usefixtures("triton")
def test_a_gpu_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    for there in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert there == (unavailable(CUDA) is None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param({"dtype": torch.float8_e5m2}, "multiply .* got torch.float8", id="8 bits"),
        pytest.param(
            {"width": WIDEST + 1}, "up to 128 wide, got 129: use the backend fused", id="too wide"
        ),
        pytest.param({"other": torch.float32}, "one dtype on one device, got", id="two dtypes"),
    ],
)
def test_unfit_inputs_are_rejected(change: dict[str, Any], message: str, draw: Draw) -> None:
    inputs = [x.to(change.get("dtype", x.dtype)) for x in some(draw, change.get("width", 7))]
    inputs[2] = inputs[2].to(change.get("other", inputs[2].dtype))
    with pytest.raises(ValueError, match=message):
        attend(*inputs)


def test_shapes_that_do_not_fit_are_rejected(draw: Draw) -> None:
    query, key, _ = some(draw)
    with pytest.raises(ValueError, match="attention needs 1 <= time_q <= time_k, got 5 and 4"):
        attend(query, key[:, :, :4], key[:, :, :4])


@pytest.fixture
def compiled(tmp_path: Path) -> Callable[..., Made]:
    script = Path(__file__).with_name("triton_compiler.py")
    usual = {"width": 64, "masked": False, "dropout": 0.0, "tiles": None, "columns_apart": False}

    def run(**job: object) -> Made:
        made = run_python(script, json.dumps(usual | job), TRITON_CACHE_DIR=str(tmp_path))
        return json.loads(made)

    return run


def worst(made: Made, what: str) -> int:
    assert {"forward", "query_gradient", "key_gradient"} == set(made)
    return max(kernel[what] for kernel in made.values())


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("width", [64, WIDEST])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_compiles_for_an_h200(dtype: str, width: int, compiled: Callable[..., Made]) -> None:
    """With mask and dropout, up to the widest head, each kernel fits in shared memory."""
    made = compiled(dtype=dtype, width=width, masked=True, dropout=0.1)
    assert worst(made, "shared") <= SHARED_OF_AN_H200


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
@pytest.mark.parametrize("dtype", DTYPES)
def test_keeps_its_sums_in_registers(dtype: str, compiled: Callable[..., Made]) -> None:
    """At GPT-1's head width no register is spilled, and loads of views are wide."""
    made = compiled(dtype=dtype)
    assert not worst(made, "stack")
    assert not worst(made, "narrow_loads")
    # Float32 would use the matrix units only as TF32.
    assert (dtype != "float32") == worst(made, "matrix_units")


@pytest.mark.slow
@pytest.mark.usefixtures("triton")
def test_too_large_tiles_and_strided_columns_are_detected(compiled: Callable[..., Made]) -> None:
    assert worst(compiled(dtype="float32", tiles=[64, 64, 4, 2]), "stack")
    assert worst(compiled(dtype="bfloat16", columns_apart=True), "narrow_loads")


@pytest.fixture
def on_gpu() -> torch.device:
    if not torch.cuda.is_available():
        pytest.skip("not run: no CUDA")
    return CUDA


def outcome(
    kernel: Callable[..., Tensor], drawn: list[Tensor], mask: Tensor | None
) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in drawn[:3]]
    context = kernel(*inputs, mask)
    return [context.detach(), *torch.autograd.grad(context, inputs, drawn[3])]


def rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())


@pytest.mark.cuda
@pytest.mark.parametrize("mask", ["no mask", "mask"])
@pytest.mark.parametrize("past", [0, 37], ids=["square", "37 keys in the past"])
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_on_a_gpu_it_rounds_no_worse_than_plain(
    dtype: str, past: int, mask: str, draw: Draw, on_gpu: torch.device
) -> None:
    """Its error stays within a bound relative to plain's, and two runs agree bit for bit."""
    precision, times = PRECISIONS[dtype], (300, 300 + past, 300 + past, 300)
    drawn = [draw(2, 3, time, 64).to(on_gpu, precision.dtype) for time in times]
    third = torch.arange(300 + past, device=on_gpu).expand(2, -1) % 3 > 0
    given = third if mask == "mask" else None
    truth = outcome(plain_attention, [x.double() for x in drawn], given)
    reference, ours = outcome(plain_attention, drawn, given), outcome(attend, drawn, given)
    for true, plains, actual in zip(truth, reference, ours, strict=True):
        noise = max(rms(plains - true), precision.unit * rms(true))
        assert rms(actual - true) <= precision.quality * noise
    again = outcome(attend, drawn, given)
    assert all(torch.equal(*pair) for pair in zip(ours, again, strict=True))


@pytest.mark.cuda
@pytest.mark.parametrize("width", [7, 21, 64, 128])
def test_on_a_gpu_float64_is_plains(
    width: int, draw: Draw, on_gpu: torch.device, assert_same: Callable[..., None]
) -> None:
    drawn = [draw(2, 3, 53, width).to(on_gpu) for _ in range(4)]
    mask = torch.arange(53, device=on_gpu).expand(2, -1) % 3 > 0
    for pair in zip(
        outcome(plain_attention, drawn, mask), outcome(attend, drawn, mask), strict=True
    ):
        assert_same(*pair)
