"""The backends and devices of a check."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity import layerwise
from parity.core import backends, comparison
from parity.core.backends import DEFAULT, EAGER, chosen_backends, why_unavailable
from parity.errors import EnvironmentUnfitError, ExitCode
from scratch_gpt import GPT, register_attention
from scratch_gpt.attention import plain_attention
from scratch_gpt.kernels import backends as kernels
from scratch_gpt.kernels.backends import BACKENDS, why_not_compiled

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", EAGER)
def test_the_eager_ones_run_everywhere(name: str) -> None:
    assert why_unavailable(name, CPU) is None
    assert chosen_backends(name, CPU) == ([name], {})


def test_the_default_is_two_of_them() -> None:
    assert chosen_backends("default", CPU) == (list(DEFAULT), {})
    assert set(DEFAULT) < set(EAGER)


def test_all_lists_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    run, left_out = chosen_backends("all", CPU)
    assert set(EAGER) == set(run)
    assert set(BACKENDS) == {*run, *left_out}
    assert left_out["compiled"] == "there is no C++ compiler"
    assert all(left_out.values())
    with pytest.raises(EnvironmentUnfitError, match="there is no C"):
        chosen_backends("compiled", CPU)


def test_triton_needs_a_gpu(check: Callable[..., Any]) -> None:
    result = check("layerwise", "--weights", "tiny", "--backend", "triton")
    assert result.exit_code == ExitCode.ENVIRONMENT
    assert "the backend triton cannot run here" in result.stderr


def test_the_triton_core_passes_in_the_interpreter(command: Callable[..., Any]) -> None:
    if (why := why_unavailable("triton", CPU)) is not None and "interpret" not in why.lower():
        pytest.skip(f"not run: {why}")
    arguments = ("--weights", "tiny", "--seq-len", "17", "--backend", "triton")
    done = command("layerwise", *arguments, env={"TRITON_INTERPRET": "1"})
    assert done.returncode == ExitCode.PASS, done.stdout + done.stderr
    assert "125 of 125 taps on triton" in done.stdout


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_compiled_blocks_pass(command: Callable[..., Any]) -> None:
    why = why_not_compiled(CPU)
    if why is not None:
        pytest.skip(f"not run: {why}")
    arguments = ("--weights", "tiny", "--seq-len", "17", "--backend", "compiled")
    done = command("layerwise", *arguments, timeout=1_000)
    assert done.returncode == ExitCode.PASS, done.stderr
    assert "17 of 17 taps on compiled" in done.stdout


# Devices.


Check = Callable[..., Any]


@pytest.mark.parametrize(
    ("name", "has_cuda", "device"),
    [
        ("cpu", False, "cpu"),
        ("cpu", True, "cpu"),
        ("auto", False, "cpu"),
        ("auto", True, "cuda"),
        ("cuda", True, "cuda"),
    ],
)
def test_a_name_stands_for_a_device(
    name: str,
    has_cuda: bool,  # noqa: FBT001 - a case
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_cuda)
    if device == "cuda":
        monkeypatch.setattr(backends, "check_float64", lambda _device: None)
    assert torch.device(device) == backends.resolve_device(name)


@pytest.mark.parametrize("form", ["text", "json"])
def test_no_such_device_is_the_environments_fault(
    form: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    result = check("layerwise", "--weights", "tiny", "--device", "cuda", "--format", form)
    assert result.exit_code == 5
    assert "CUDA" in result.stderr
    assert bool(result.stdout) == (form == "json")


@pytest.mark.parametrize(
    "error",
    [
        TypeError("Cannot convert a MPS Tensor to float64"),
        RuntimeError("float64 is not supported"),
        NotImplementedError("no kernel"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_device_without_float64_is_the_environments_fault(
    error: Exception, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ones(*_arguments: object, **_named: object) -> None:
        raise error

    stand_in = SimpleNamespace(
        cuda=torch.cuda, device=torch.device, float64=torch.float64, ones=ones
    )
    monkeypatch.setattr(backends, "torch", stand_in)
    result = check("layerwise", "--weights", "tiny", "--seq-len", "5")
    assert (result.exit_code, result.stdout, "float64" in result.stderr) == (5, "", True)


def test_the_check_of_float64_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device may make a float64 tensor and lack the arithmetic."""

    class Inert:
        def add_(self, _other: float) -> None:
            message = "no kernel"
            raise RuntimeError(message)

    monkeypatch.setattr(torch, "ones", lambda *_arguments, **_named: Inert())
    with pytest.raises(EnvironmentUnfitError, match="no float64"):
        backends.check_float64(torch.device("cpu"))


# A kernel of one's own.

SDPA = Path(__file__).parents[3] / "examples" / "my_attention.py"
FORMULAS = """import torch


def attention(query, key, value, mask=None, tap=None, dropout_probability=0.0):
    tap = tap or (lambda name, x: x)
    scores = tap("scores", query @ key.mT / query.shape[-1] ** 0.5)
    time_q, time_k = scores.shape[-2:]
    own = torch.arange(time_k - time_q, time_k)[:, None]
    keys = torch.arange(time_k)
    hidden = keys > own
    if mask is not None:
        hidden = hidden | (~mask[:, None, None] & (keys != own))
    weights = tap("weights", scores.masked_fill(hidden, float("-inf")).softmax(-1))
    return torch.dropout(weights, dropout_probability, True) @ value
"""
TINY = ("--weights", "tiny", "--seq-len", "5", "--dtype", "float64")


@pytest.fixture
def kernel(tmp_path: Path) -> Callable[..., str]:
    """Return a function that writes the kernel with an edit, and returns its `FILE.py:NAME`."""

    def write(old: str = "", new: str = "", source: str = FORMULAS) -> str:
        assert old in source
        (tmp_path / "mine.py").write_text(source.replace(old, new, 1), encoding="utf-8")
        return f"{tmp_path / 'mine.py'}:attention"

    return write


Kernel = Callable[..., str]


@pytest.mark.parametrize("verb", ["layerwise", "gradients"])
def test_a_right_kernel_passes(verb: str, check: Check, kernel: Kernel) -> None:
    """Beside `plain`, on padded rows; every tap that it forms is compared."""
    for name, taps in ((f"{SDPA}:attention", "149"), (kernel(), "173")):
        arguments = ("--weights", "tiny", "--token-ids", "5,210,0,17,3;12,7,9", "--kernel", name)
        result = check(verb, *arguments)
        assert result.exit_code == 0, result.stdout + result.stderr
        last = result.stdout.splitlines()[-1]
        assert "on plain" in last
        assert verb == "gradients" or f"{taps} of {taps} taps on kernel" in last
        assert name in "".join(result.stdout.split())
    assert "kernel" not in BACKENDS


@pytest.mark.parametrize(
    ("old", "new", "tap"),
    [
        pytest.param("keys > own", "keys > own + 1", "weights", id="mask off by one"),
        pytest.param(" / query.shape[-1] ** 0.5", "", "scores", id="scale missing"),
        pytest.param(
            'scores.masked_fill(hidden, float("-inf"))',
            'torch.randn_like(scores).masked_fill(hidden, float("-inf"))',
            "weights",
            id="random weights",
        ),
        pytest.param(" @ value", " @ value.flip(-1)", "context", id="value reversed"),
        pytest.param(" @ value", " @ value * float('nan')", "context", id="NaN"),
    ],
)
def test_a_wrong_kernel_fails_where_it_is_wrong(  # noqa: PLR0913 - a case, and fixtures
    old: str, new: str, tap: str, check: Check, kernel: Kernel, strictly: Callable[[str], Any]
) -> None:
    result = check("layerwise", *TINY, "--kernel", kernel(old, new), "--format", "json")
    found = strictly(result.stdout)
    assert (result.exit_code, found["first_divergence"]["tap"]) == (1, f"h.0.attn.{tap}")
    assert {row["backend"] for row in found["results"] if row["status"] != "pass"} == {"kernel"}
    assert found["reasons"] == []


def test_a_wrong_kernel_without_taps_fails_at_its_context(check: Check, kernel: Kernel) -> None:
    source = SDPA.read_text(encoding="utf-8")
    wrong = kernel("keys <= own", "keys <= own + 1", source)
    result = check("layerwise", *TINY, "--kernel", wrong)
    assert (result.exit_code, result.stdout.split()[-1]) == (1, "h.0.attn.context")


def line_of(text: str, source: str = FORMULAS) -> int:
    return source[: source.index(text)].count("\n") + 1


@pytest.mark.parametrize(
    ("old", "new", "code", "what"),
    [
        pytest.param("if mask is not None", "if False", 1, "ignores a padding mask", id="mask"),
        pytest.param("~mask", "mask", 1, "is wrong with a padding mask", id="mask inverted"),
        pytest.param(
            "& (keys != own)", "& (keys == keys)", 1, "is wrong with a padding mask", id="NaN"
        ),
        pytest.param(
            "if mask is not None:",
            "if mask is not None:\n        raise NotImplementedError('no padding')",
            3,
            "does not take a padding mask: NotImplementedError: no padding",
            id="no mask",
        ),
        pytest.param(
            "arange(time_k - time_q, time_k)", "arange(time_q)", 1, "with cached keys", id="cache"
        ),
        pytest.param(
            'tap("weights", scores.masked_fill(hidden, float("-inf")).softmax(-1))',
            'scores.masked_fill(hidden, float("-inf")).softmax(-1); tap("weights", weights)',
            3,
            "does not continue with what tap('weights', ...) returns",
            id="tap's answer",
        ),
    ],
)
def test_what_no_comparison_shows_is_a_reason(  # noqa: PLR0913 - a case, and fixtures
    old: str, new: str, code: int, what: str, check: Check, kernel: Kernel
) -> None:
    result = check("layerwise", *TINY, "--kernel", kernel(old, new), "--taps", "h.1.*")
    shown = " ".join(result.stdout.split())
    assert (result.exit_code, what in shown) == (code, True), result.stdout + result.stderr
    assert f"mine.py:{line_of('def attention')}" in shown


@pytest.mark.parametrize(
    ("old", "new", "what", "line"),
    [
        ("import torch", "import torsh", "No module named 'torsh'", "import"),
        ("key.mT", "key", "raised RuntimeError", "scores = "),
        ("return torch", "exit(3); torch", "raised SystemExit: 3", "return"),
        ("return torch", "torch", "returns None", "def "),
        ("@ value", "@ value[..., :2]", "returns the shape [2, 3, 7, 2]", "def "),
        ("@ value", "@ value, 1", "returns tuple", "def "),
        ("weights, ", "weights.float(), ", "raised RuntimeError", "return"),
        (" @ value", ".float() @ value.float()", "returns torch.float32 on cpu, expected", "def "),
        ("    time_q,", "    key *= 2\n    time_q,", "writes into its inputs", "def "),
        ('tap("weights"', 'tap("softmax"', "calls the tap 'softmax'", "def "),
        (", dropout_probability=0.0", "", "no parameter dropout_probability", "def "),
        ("def attention", "attention = 7\ndef other", "of type int", ""),
        ("tap = tap or", "_ = tap or", "'NoneType' object is not callable", "scores = "),
        (
            "return torch.dropout(weights, dropout_probability, True) @ value",
            "return vars(attention).setdefault('kept', query.clone()).copy_(weights @ value)",
            "returns memory that its next call overwrites",
            "def ",
        ),
    ],
)
def test_what_is_no_kernel_is_rejected_by_its_line(  # noqa: PLR0913 - a case, and fixtures
    old: str, new: str, what: str, line: str, check: Check, kernel: Kernel
) -> None:
    result = check("layerwise", *TINY, "--kernel", kernel(old, new))
    assert (result.exit_code, result.stdout, what in result.stderr) == (4, "", True), result.stderr
    assert not line or f"mine.py:{line_of(line)}\n" in result.stderr
    assert len(result.stderr.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("no_such.py:attention", "there is no such file"),
        ("mine", "it is not FILE.py:NAME"),
        ("{file}", "name one of its functions: attention"),
        ("{file}:atention", "did you mean {file}:attention?"),
        ("{file}:flash", "the file has no flash"),
    ],
)
def test_a_kernel_that_is_not_there_is_a_usage_error(
    name: str, what: str, check: Check, kernel: Kernel
) -> None:
    file = kernel().removesuffix(":attention")
    result = check("layerwise", *TINY, "--kernel", name.format(file=file))
    assert (result.exit_code, result.stdout) == (2, "")
    assert what.format(file=file) in result.stderr


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("@ value", "@ value.detach()", "has no derivative by value"),
        ("return torch", "weights, value = weights.detach(), value.detach()\n    return torch",
         "has no derivative: its context has no history"),
        ("@ value", "@ Broken.apply(value)", "has no derivative: NotImplementedError"),
    ],
)  # fmt: skip
def test_a_kernel_without_a_derivative_fails(
    old: str, new: str, what: str, check: Check, kernel: Kernel
) -> None:
    """Its values are right, so that `layerwise` passes."""
    broken = "class Broken(torch.autograd.Function):\n    @staticmethod\n"
    broken += "    def forward(ctx, x):\n        return x.clone()\n\n\ndef attention"
    name = kernel(old, new, FORMULAS.replace("def attention", broken))
    assert check("layerwise", *TINY, "--kernel", name).exit_code == 0
    result = check("gradients", *TINY, "--kernel", name)
    assert result.exit_code == 1
    assert what in " ".join(result.stdout.split())


def test_a_kernel_runs_beside_the_backend_that_is_named(check: Check) -> None:
    arguments = ("--kernel", f"{SDPA}:attention", "--backend", "fused", "--taps", "h.0.*")
    last = check("layerwise", *TINY, *arguments).stdout.splitlines()[-1]
    assert last == "PASS  10 of 10 taps on fused, 12 of 12 taps on kernel compared"


@pytest.mark.parametrize(
    ("fault", "tap"),
    [("mask-off-by-one", "attn.context"), ("erf-gelu", "mlp.gelu")],
)
def test_a_fault_is_injected_beside_a_kernel(
    fault: str, tap: str, check: Check, strictly: Callable[[str], Any]
) -> None:
    """The model with the kernel has it too, and differs first at a tap that the kernel forms."""
    arguments = ("--kernel", f"{SDPA}:attention", "--inject-fault", f"{fault}@1")
    found = strictly(check("layerwise", *TINY, *arguments, "--format", "json").stdout)
    failed = [row["tap"] for row in found["results"] if row["backend"] == "kernel"
              and row["status"] == "fail"]  # fmt: skip
    assert (found["verdict"], failed[0]) == ("fail", f"h.1.{tap}")


def test_a_kernel_is_of_our_model(check: Check, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text("{}", encoding="utf-8")
    name = ("--kernel", f"{SDPA}:attention", "--candidate", str(SDPA))
    for others in (TINY, ("--reference", str(tmp_path / "c.json"))):
        result = check("layerwise", *name, *others)
        assert (result.exit_code, result.stdout, "--kernel with" in result.stderr) == (2, "", True)


def test_a_registered_kernel_is_compared_by_its_name(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "BACKENDS", dict(BACKENDS))
    monkeypatch.setattr(comparison, "BACKENDS", kernels.BACKENDS)
    forms_nothing = lambda q, k, v, mask, _tap, p: plain_attention(q, k, v, mask, None, p)  # noqa: E731
    register_attention("mine", forms_nothing, never_forms=("scores", "weights"))
    report = layerwise(ours.with_backend("mine"), theirs, token_ids)
    assert (report.verdict, report.plan.per_backend) == ("pass", {"mine": (149, 149)})
    register_attention("mine", forms_nothing, replace_registered=True)
    undeclared = layerwise(ours.with_backend("mine"), theirs, token_ids)
    assert undeclared.first_divergence.tap == "h.0.attn.scores"
