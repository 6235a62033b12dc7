"""The tables of kernels and backends, and compiled blocks."""

import dataclasses
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scratch_gpt.attention import Backend, plain_attention
from scratch_gpt.kernels.backends import BACKENDS, KERNELS, backend_named, why_not_compiled
from scratch_gpt.kernels.tiled_attention import tiled_attention


def test_kernels_have_their_names() -> None:
    assert KERNELS["plain"] is plain_attention
    assert KERNELS["tiled"] is tiled_attention
    assert {backend.attention for backend in BACKENDS.values()} == set(KERNELS.values())


def test_a_backend_is_fixed() -> None:
    backend = backend_named("plain")
    assert isinstance(backend, Backend)
    with pytest.raises(dataclasses.FrozenInstanceError):
        backend.compiled = True


CPU = torch.device("cpu")

# In a process of its own: the shape checks of these tests would be compiled too.
COMPARE = """
    import sys, torch
    from scratch_gpt import GPT, GPTConfig
    from scratch_gpt.loss import next_token_loss

    torch.manual_seed(0)
    config = GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=3, n_head=3)
    plain = GPT(config).double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter.copy_(torch.randn_like(parameter) / 3)
    compiled = plain.with_backend("compiled")
    ids = torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])
    mask = torch.tensor([[False, True, True, True, True], [True] * 5])

    def step(model):
        model.zero_grad()
        logits = model(ids, attention_mask=mask)
        next_token_loss(logits, ids).backward()
        return [logits.detach(), *(p.grad.clone() for p in model.parameters())]

    torch.save([step(plain), step(compiled)], sys.argv[1])
"""


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_compiled_blocks_compute_the_same(
    tmp_path: Path, assert_same: Callable[[Tensor, Tensor], None]
) -> None:
    why = why_not_compiled(CPU)
    if why is not None:
        pytest.skip(f"not run: {why}")
    made = tmp_path / "made.pt"
    command = [sys.executable, "-c", textwrap.dedent(COMPARE), str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    by_formula, compiled = torch.load(made, weights_only=True)
    assert len(by_formula) == 1 + 2 + 12 * 3
    for expected, actual in zip(by_formula, compiled, strict=True):
        assert_same(expected, actual)


def test_a_missing_compiler_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    monkeypatch.delenv("CXX", raising=False)
    expected = "there is no C++ compiler"
    assert expected == why_not_compiled(CPU)
    monkeypatch.undo()
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert expected == why_not_compiled(CPU)


def test_a_gpu_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert why_not_compiled(cuda) == "Triton is not installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert why_not_compiled(cuda) is None
