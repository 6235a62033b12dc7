"""A right model in the wrappings that people have: the verdict and the words of its report."""

import contextlib
import inspect
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Provenance, Weights
from parity.checks.gradients.check import gradients
from parity.checks.layerwise import layerwise
from parity.core.candidates import build_candidate
from parity.core.results import Report
from parity.core.runners import build_huggingface
from parity.report.text import render
from scratch_gpt import GPT, GPTConfig
from scratch_gpt.errors import CommandError

SOURCE = Path(__file__).with_name("strange_gpt.py")
RAISING = next(
    number
    for number, line in enumerate(SOURCE.read_text(encoding="utf-8").splitlines(), 1)
    if "the line that raises" in line
)
CONFIG = GPTConfig(vocab_size=37, n_positions=19, n_embd=14, n_layer=2, n_head=2)
"""Small sizes, of which none is a multiple of another but for the heads."""


@pytest.fixture(scope="module")
def small() -> Weights:
    """Return random weights: no gain is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: (0.3 * torch.randn(parameter.shape, generator=generator)).numpy()
        + ("ln_" in name and name.endswith("weight"))
        for name, parameter in GPT(CONFIG).named_parameters()
    }
    provenance = Provenance(source="random", revision="none", sha256="0" * 64)
    return Weights(config=CONFIG.to_huggingface(), tensors=tensors, provenance=provenance)


@pytest.fixture(scope="module")
def huggingface(small: Weights) -> OpenAIGPTLMHeadModel:
    return build_huggingface(small)


@pytest.fixture(scope="module")
def ids() -> Tensor:
    return torch.randint(37, (1, 11), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def check(
    small: Weights,
    huggingface: OpenAIGPTLMHeadModel,
    ids: Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Report]:
    """Return the function that checks the model of a kind."""

    def run(kind: str, verb: Callable[..., Report] = layerwise) -> Report:
        monkeypatch.setenv("KIND", kind)
        return verb(build_candidate(str(SOURCE), small), huggingface, ids)

    return run


def text_of(report: Report) -> str:
    stream = io.StringIO()
    render(report, Console(file=stream, width=200))
    return stream.getvalue()


EXPECTED: dict[str, tuple[int, list[str]]] = {
    "right": (0, ["33 of 33 taps on candidate"]),
    "sdpa": (0, ["29 of 29 taps", "not shown", "h.*.attn.scores, h.*.attn.weights"]),
    "few": (1, ["at h.0.ln_2", "any operation after embeddings: the taps between are not shown"]),
    "last": (1, ["at logits", "of the last position alone"]),
    "padded": (1, ["7 columns more than the vocabulary; return logits[..., :37]"]),
    "time first": (1, ["they are [time batch vocab]; return logits.transpose(0, 1)"]),
    "tuple": (0, ["33 of 33"]),
    "dict": (0, ["33 of 33"]),
    "only ids": (0, ["33 of 33"]),
    "logits not shown": (0, ["33 of 33"]),
    "other logits": (1, ["the model returned something else than it showed at the tap logits"]),
    "dropout": (3, ["two runs of the candidate", "differ, first at h.0", "strange_gpt.py:"]),
    "float32 softmax": (0, ["float32 enters at", "strange_gpt.py:", "Hugging Face's error in"]),
    "float32 softmax and epsilon": (1, ["float32 enters at", "at h.0.ln_1"]),
    "float32 scale and erf": (1, ["float32 enters at", "at h.0.mlp.gelu", "approximate='tanh'"]),
    "closure": (0, ["33 of 33"]),
    "raises": (3, [f"strange_gpt.py:{RAISING}, after h.0.ln_2", "RuntimeError"]),
    "answer unused": (3, ["does not continue with what tap('h.0.mlp.c_fc', ...) returns"]),
    "flat heads": (1, ["shape [1, 11, 14], expected [batch head time head_width]"]),
    "other names": (1, ["did you mean h.0."]),
    "nothing shown": (3, ["the candidate shows no tap"]),
}
"""The exit code of `layerwise`, and words of its report."""


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_wrapping_gets_its_answer(kind: str, check: Callable[..., Report]) -> None:
    code, words = EXPECTED[kind]
    report = check(kind)
    text = text_of(report)
    assert int(report.exit_code) == code, text
    assert [word for word in words if word not in text] == [], text
    assert len(text.splitlines()) < 70
    shapes = kind in ("last", "padded", "time first", "flat heads", "other names")
    assert not (shapes and "likely cause" in text)


@pytest.mark.parametrize("kind", ["right", "sdpa", "closure", "only ids", "tuple"])
def test_gradients_take_the_same_wrappings(kind: str, check: Callable[..., Report]) -> None:
    report = check(kind, gradients)
    missing = [row for row in report.results if row.status == "missing"]
    assert missing == []


def test_rounded_weights_are_reported_before_anything_runs(check: Callable[..., Report]) -> None:
    with pytest.raises(CommandError, match=r"holds torch\.float16 weights") as caught:
        check("half")
    assert caught.value.exit_code == 3


def test_a_module_that_takes_no_token_ids_is_inconclusive(
    huggingface: OpenAIGPTLMHeadModel, ids: Tensor
) -> None:
    report = layerwise(torch.nn.Linear(3, 3), huggingface, ids)
    assert int(report.exit_code) == 3
    assert "candidate" in text_of(report)


def test_positions_and_masks_need_an_argument(
    check: Callable[..., Report],
) -> None:
    report = check(
        "only ids",
        lambda m, hf, ids: layerwise(m, hf, ids, attention_mask=torch.ones(1, 11).bool()),
    )
    assert int(report.exit_code) == 3
    assert "the candidate's forward takes none" in text_of(report)


Command = Callable[..., Any]


@pytest.mark.once
@pytest.mark.parametrize("kind", ["prints", "leaves", "raises"])
def test_the_command_guards_its_output_and_its_end(kind: str, command: Command) -> None:
    options = ("--weights", "tiny", "--seq-len", "9", "--candidate", str(SOURCE))
    ended = command("layerwise", *options, "--format", "json", "--debug", env={"KIND": kind})
    document = json.loads(ended.stdout)
    if kind == "prints":
        assert (ended.returncode, document["verdict"]) == (0, "pass")
        assert "12.3M parameters" in ended.stderr
        assert "and through the descriptor" in ended.stderr
    elif kind == "leaves":
        assert (ended.returncode, document["exit_code"]) == (4, 4)
        assert "os._exit(0) was called" in ended.stderr
    else:
        assert (ended.returncode, document["verdict"]) == (3, "inconclusive")
        assert f'strange_gpt.py", line {RAISING}' in ended.stderr


STRANGE_ENDS = {
    "raise GeneratorExit": "the candidate raised GeneratorExit",
    "raise type('Own', (BaseException,), {})('x')": "the candidate raised Own: x",
    "raise type('Mute', (Exception,), {'__str__': None})": "its message could not be made",
    "build(config, weights)": "the candidate raised RecursionError",
    "raise MemoryError": "the candidate raised MemoryError",
    "return model.to('meta')": "is on the meta device, or has no shape yet",
    "model.last = torch.nn.LazyLinear(3); return model": "is on the meta device, or has no shape",
    "torch.set_default_device('meta'); return model": "changed torch's default device to meta",
}


@pytest.mark.parametrize("last", STRANGE_ENDS)
def test_a_candidate_that_cannot_be_built_is_rejected(
    last: str, small: Weights, candidate: Callable[..., str]
) -> None:
    file = candidate(last=f"import torch; {last}")
    try:
        with pytest.raises(CommandError) as caught:
            build_candidate(file, small)
    finally:
        torch.set_default_device(None)
        with contextlib.suppress(AttributeError):  # torch 2.6 does not name a default of None
            del torch._GLOBAL_DEVICE_CONTEXT.device_context
    assert caught.value.exit_code == 4
    assert STRANGE_ENDS[last] in caught.value.what


RAISING_BELOW = {
    "raise GeneratorExit": "GeneratorExit",
    "raise type('Mute', (Exception,), {'__str__': None})": "its message could not be made",
    "raise MemoryError": "MemoryError",
    "import sys; sys.exit(0)": "SystemExit",
}


@pytest.mark.parametrize("act", RAISING_BELOW)
@pytest.mark.parametrize("call", [1, 4])
def test_whatever_a_forward_pass_raises_is_no_verdict(
    call: int, act: str, small: Weights, huggingface: OpenAIGPTLMHeadModel, ids: Tensor
) -> None:
    """At the first call it is examined, at a later one compared."""
    calls = []

    class Raising(GPT):
        def forward(self, *given: Any, **named: Any) -> Any:  # noqa: ANN401
            calls.append(1)
            if len(calls) >= call:
                exec(act)  # noqa: S102 - each is a line above
            return super().forward(*given, **named)

        forward.__signature__ = inspect.signature(GPT.forward)  # type: ignore[attr-defined]

    model = Raising(CONFIG)
    model.load_state_dict({name: torch.tensor(array) for name, array in small.tensors.items()})
    report = layerwise({"candidate": model.eval()}, huggingface, ids)
    assert int(report.exit_code) == 3
    assert RAISING_BELOW[act] in text_of(report)


STAYING = """
import atexit, os, sys, threading, time
import torch
from scratch_gpt import GPT

threading.Thread(target=lambda: time.sleep(10**6)).start()
atexit.register(lambda: os._exit(0))

class Copying(GPT):
    def forward(self, token_ids, positions=None, attention_mask=None, *, tap):
        if os.environ.pop("COPY", None) and os.fork() == 0:
            torch.set_num_threads(1)  # the copy lacks OpenMP's other threads, and waits for them
        return super().forward(token_ids, positions, attention_mask, tap=tap)

def build(config, weights):
    sys.__stdout__.close()
    model = Copying(config)
    model.load_state_dict(weights)
    model.h[2].ln_1.epsilon = 1e-4
    return model
"""


def test_nothing_of_a_candidate_delays_or_changes_the_end(
    command: Command, candidate: Callable[..., str]
) -> None:
    """Not a thread, an exit handler, a copy of the process, or a closed standard output."""
    options = ("--weights", "tiny", "--seq-len", "4", "--candidate", candidate(STAYING))
    ended = command("layerwise", *options, "--format", "json", env={"COPY": "1"})
    assert ended.returncode == 1, ended.stderr
    assert json.loads(ended.stdout)["verdict"] == "fail"  # one document


def test_a_backward_that_raises_is_one_message(
    small: Weights, huggingface: OpenAIGPTLMHeadModel, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIND", "raises backward")
    report = gradients(build_candidate(str(SOURCE), small), huggingface, ids)
    (reason,) = report.reasons
    assert reason.what.endswith("forward or backward raised RuntimeError: no derivative")
    assert "strange_gpt.py:" in reason.where
    assert (int(report.exit_code), report.results) == (3, [])
