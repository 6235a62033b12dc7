"""Models are verified; wrong ones are rejected."""

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bench import runner
from bench.contest import NotTimedError
from bench.models import Measurement, Models, forward_backward, verify_backward, verify_forward
from bench.results import Status
from bench.shapes import Shape
from bench.targets import MODEL_PEERS, TARGETS, Task
from bench.verify import WrongKernelError
from bench.workloads import model as passes
from scratch_gpt.model import GPT

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TASK = Task(workload="model", shape=Shape(batch=1, time=37))
BOTH = dataclasses.replace(TASK, shape=Shape(batch=1, time=37, backward=True))


@pytest.fixture
def wrong(models: Models) -> Iterator[GPT]:
    """Return a model with one gain of the last block off by a thousandth."""
    model = models.with_backend("plain")
    gain = model.get_parameter("h.11.ln_2.weight")
    before = gain.detach().clone()
    copied = torch.nn.Parameter(before * 1.001)
    model.h[11].ln_2.weight = copied
    yield model
    assert torch.equal(before, models.ours.get_parameter("h.11.ln_2.weight"))


@pytest.mark.parametrize("name", ["plain", "tiled", "fused"])
def test_every_backend_is_verified(name: str, models: Models, ids: Tensor) -> None:
    before = ids.clone()
    for dtype in ("float32", "bfloat16"):
        model = models.with_backend(name, getattr(torch, dtype))
        run, error = verify_forward(models, model, ids, dtype)
        assert error > 0.0
        assert run().shape == (2, 37, models.vocab_size)
    _, error = verify_backward(models, models.with_backend(name), ids)
    assert error > 0.0
    assert torch.equal(before, ids)


@pytest.mark.parametrize("name", [name for name in MODEL_PEERS if "compile" not in name])
def test_every_peer_is_verified(name: str, models: Models, ids: Tensor) -> None:
    peer = models.peer(name)
    assert 0.0 < verify_forward(models, peer, ids, "float32")[1] < 1e-5
    assert 0.0 < verify_backward(models, peer, ids)[1] < 1e-4


def test_a_wrong_peer_is_rejected(models: Models, ids: Tensor) -> None:
    """Another epsilon is another model, forward and backward."""
    peer = models.peer("textbook")
    for block in peer.h:  # type: ignore[union-attr]
        block.ln_1.eps = 1e-3  # type: ignore[union-attr]
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        verify_forward(models, peer, ids, "float32")
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        verify_backward(models, peer, ids)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODEL_PEERS if "compile" in name])
@pytest.mark.filterwarnings("ignore")
def test_every_compiled_peer_is_verified(name: str, models: Models, ids: Tensor) -> None:
    """Compiling changes neither the model that it is made of nor its weights."""
    before = models.peer(name.removeprefix("torch.compile(").removesuffix(")"))
    assert verify_forward(models, models.peer(name), ids, "float32")[1] < 1e-5
    assert before._compiled_call_impl is None


def test_the_cache_holds_one_shape(models: Models) -> None:
    made = iter(range(9))
    keys = [("a", 1), ("b", 1), ("a", 1), ("a", 2), ("a", 1)]
    assert [models.cached(key, lambda: next(made)) for key in keys] == [0, 1, 0, 2, 3]


@pytest.mark.parametrize("verify", [verify_backward, verify_forward], ids=["both", "forward"])
def test_a_wrong_model_is_rejected(
    verify: Callable[..., object], wrong: GPT, models: Models, ids: Tensor
) -> None:
    more = ("float32",) if verify is verify_forward else ()
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        verify(models, wrong, ids, *more)


def test_a_model_that_caches_its_answer_is_rejected(
    models: Models, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cached answer to other tokens was overwritten with NaN."""
    model = models.with_backend("plain")
    kept: dict[int, Tensor] = {}
    forward = model.forward

    def keeping(token_ids: Tensor) -> Tensor:
        return kept.setdefault(token_ids.data_ptr(), forward(token_ids))

    monkeypatch.setattr(model, "forward", keeping)
    with pytest.raises(WrongKernelError, match="not finite"):
        verify_forward(models, model, ids, "float32")


def test_a_missing_gradient_is_rejected(models: Models, ids: Tensor) -> None:
    model = models.with_backend("plain")
    bias = model.h[0].mlp.c_fc.bias.detach().clone()
    model.h[0].mlp.c_fc.bias = torch.nn.Parameter(bias, requires_grad=False)
    with pytest.raises(WrongKernelError, match=r"h\.0\.mlp\.c_fc\.bias: .* shape \[0\]"):
        verify_backward(models, model, ids)


def test_a_step_begins_without_gradients(models: Models, ids: Tensor) -> None:
    model = models.with_backend("tiled")
    forward_backward(model, ids)
    first = model.tokens_embed.weight.grad
    assert first is not None
    first = first.clone()
    forward_backward(model, ids)
    assert torch.equal(first, model.tokens_embed.weight.grad)


@pytest.mark.parametrize("task", [TASK, BOTH], ids=str)
@pytest.mark.parametrize("name", ["fused", "huggingface"])
def test_models_are_verified_contenders(name: str, task: Task, run: Measurement) -> None:
    contender = passes.make(name, task, CPU, run)
    contender.run()
    assert contender.check is not None
    assert contender.error > 0.0
    assert contender.check() > 0.0


@pytest.mark.parametrize("name", passes.LIMITS)
def test_limits_have_no_results_to_verify(name: str, run: Measurement) -> None:
    contender = passes.make(name, TASK, CPU, run)
    contender.run()
    assert (contender.check, contender.error) == (None, 0.0)
    with pytest.raises(NotTimedError) as refusal:
        passes.make(name, BOTH, CPU, run)
    assert refusal.value.status is Status.NOT_PLANNED


@pytest.mark.parametrize(
    ("name", "why"), [("triton", "no CUDA"), ("fused in bfloat16", "no AVX512-BF16")]
)
def test_a_model_without_its_device_is_not_run(
    name: str, why: str, run: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without AVX512-BF16 a processor would compute in float32 and round."""
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    with pytest.raises(NotTimedError, match=why) as refusal:
        passes.make(name, TASK, CPU, run)
    assert refusal.value.status is Status.NOT_RUN


@pytest.mark.parametrize(("workload", "job"), [("model", "step"), ("train", "train")])
def test_peak_memory_is_a_ratio_of_processes(
    workload: str, job: str, run: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = next(row for row in TARGETS if (row.figure, row.task.workload) == ("memory", workload))
    asked: list[str] = []

    def in_fresh_process(name: str, side: str, folder: str, *sizes: str) -> int:
        assert (name, sizes) == (job, ("2", "512"))
        assert Path(folder, "model.safetensors").exists()
        asked.append(side)
        return {"fused": 60, "huggingface": 100}[side]

    monkeypatch.setattr(passes.memory, "in_fresh_process", in_fresh_process)
    (outcome,) = runner.measure([row], run)
    assert asked == ["fused", "huggingface"] * 3
    assert outcome.ratio is not None
    assert (outcome.status, outcome.ratio.median, outcome.unit) == (Status.MET, 0.6, "byte")
