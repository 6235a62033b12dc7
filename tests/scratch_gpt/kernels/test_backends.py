"""The tables of kernels and backends, and compiled blocks."""

import copy
import dataclasses
import functools
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scratch_gpt import GPT, GPTConfig, register_attention
from scratch_gpt.attention import Backend, plain_attention
from scratch_gpt.errors import KernelError, SettingError
from scratch_gpt.kernels import backends
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


# A kernel of one's own.


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> GPT:
    """Return a random model in float64; what a test registers is forgotten after it."""
    monkeypatch.setattr(backends, "BACKENDS", dict(BACKENDS))
    config = GPTConfig(vocab_size=37, n_positions=11, n_embd=21, n_layer=2, n_head=3)
    return GPT(config).double().eval()


IDS = torch.tensor([[3, 36, 0, 7, 3], [12, 5, 21, 30, 1]])


def ready_made(  # noqa: PLR0913 - the signature of an attention kernel
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    tap: object = None,  # noqa: ARG001
    dropout_probability: float = 0.0,
) -> Tensor:
    assert mask is None
    return torch.nn.functional.scaled_dot_product_attention(
        query, key, value, dropout_p=dropout_probability, is_causal=True
    )


def test_a_registered_kernel_is_a_backend(model: GPT, tmp_path: Path) -> None:
    """Its name is valid wherever a backend is named; copies of the model have it too."""
    register_attention("mine", ready_made, never_forms=("weights", "scores"))
    assert backend_named("mine").never_forms == ("scores", "weights")
    copy.deepcopy(model).float().save_pretrained(tmp_path / "model")
    loaded = GPT.from_pretrained(tmp_path / "model", backend="mine").double()
    for own in (loaded, model.with_backend("mine"), copy.deepcopy(model.with_backend("mine"))):
        assert own.backend == "mine"
        apart = own(IDS) - model(IDS)
        assert 0 < apart.abs().max() < (1e-4 if own is loaded else 1e-12)
    taps: list[str] = []
    loaded(IDS, tap=lambda name, x: taps.append(name) or x)
    assert "h.0.attn" in taps
    assert "h.0.attn.weights" not in taps


def test_a_registered_kernel_shows_its_taps(model: GPT) -> None:
    register_attention("mine", plain_attention)
    seen: dict[str, Tensor] = {}
    model.with_backend("mine")(IDS, tap=seen.setdefault)
    assert {"h.1.attn.scores", "h.1.attn.weights"} <= set(seen)


@pytest.mark.parametrize("name", ["plain", "fused", "default", "all", "candidate", "", "a b"])
def test_a_name_that_means_something_else_is_rejected(name: str, model: GPT) -> None:  # noqa: ARG001
    with pytest.raises(SettingError, match="name is"):
        register_attention(name, ready_made)


def test_a_name_is_registered_once_or_replaced(model: GPT) -> None:
    register_attention("mine", ready_made, never_forms=("scores", "weights"))
    old = model.with_backend("mine")
    with pytest.raises(SettingError, match="replace_registered=True"):
        register_attention("mine", plain_attention)
    register_attention("mine", lambda *_: None, replace_registered=True)
    assert torch.equal(old(IDS), old(IDS))
    with pytest.raises(SettingError, match="built-in"):
        register_attention("plain", plain_attention, replace_registered=True)


@pytest.mark.parametrize("never_forms", ["scores", ("score",), ("attn.scores",), ("context",)])
def test_a_tap_that_no_kernel_has_is_rejected(never_forms: object, model: GPT) -> None:  # noqa: ARG001
    with pytest.raises(SettingError, match="'scores', 'weights'"):
        register_attention("mine", ready_made, never_forms=never_forms)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ("query, key, value", "no parameter mask, tap, dropout_probability"),
        ("q, k, v, mask, *, tap, p", "no parameter tap, dropout_probability"),
        ("q, k, v, m, t, p, causal", "no caller gives .* parameter causal"),
        ("*all_six, causal", "no caller gives .* parameter causal"),
    ],
)
def test_another_signature_is_rejected(parameters: str, message: str, model: GPT) -> None:  # noqa: ARG001
    kernel = eval(f"lambda {parameters}: None")  # noqa: S307
    with pytest.raises(KernelError, match=message) as rejected:
        register_attention("mine", kernel)
    assert rejected.value.where == "<string>:1"
    assert "mask=None, tap=None, dropout_probability=0.0" in rejected.value.fix
    with pytest.raises(KernelError, match="of type int, and cannot be called"):
        backends.check_signature(7)


@pytest.mark.parametrize(
    ("kernel", "message"),
    [
        (lambda *_: None, "kernel mine returns None"),
        (lambda q, *_: q.transpose(1, 2), r"returns the shape \[2, 5, 3, 7\], expected .*3, 5, 7"),
        (lambda q, *_: q.float(), "returns torch.float32 on cpu, expected torch.float64"),
        (lambda q, *_: (q, None), "returns tuple"),
    ],
)
def test_another_result_is_an_error_with_the_line(kernel: object, message: str, model: GPT) -> None:
    register_attention("mine", kernel)
    with pytest.raises(KernelError, match=message) as rejected:
        model.with_backend("mine")(IDS)
    assert rejected.value.where.startswith(__file__)


def test_the_place_is_found_inside_wrappers(model: GPT) -> None:  # noqa: ARG001
    class Kernel(torch.nn.Module):
        def forward(self, *_: object) -> None: ...

    wrapped = functools.wraps(ready_made)(lambda *_: None)
    line = ready_made.__code__.co_firstlineno
    for kernel in (ready_made, functools.partial(ready_made), wrapped):
        assert backends.place_of(kernel) == f"{__file__}:{line}"
    assert backends.place_of(Kernel()).startswith(f"{__file__}:")
    assert backends.place_of(7) == "a kernel of type int"
