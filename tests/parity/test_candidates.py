"""A right model in the wrappings that people have: the verdict and words of its report."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).with_name("strange_gpt.py")
RAISING = next(
    number
    for number, line in enumerate(SOURCE.read_text(encoding="utf-8").splitlines(), 1)
    if "the line that raises" in line
)

EXPECTED: dict[str, tuple[int, list[str]]] = {
    "right": (0, []),
    "sdpa": (0, ["attn.scores", "the candidate does not show it"]),
    "few": (1, ["h.0.ln_2"]),
    "last": (1, ["of the last position alone"]),
    "padded": (1, ["7 columns more than the vocabulary; return logits[..., :"]),
    "time first": (1, ["they are [time batch vocab]"]),
    "tuple": (0, []),
    "dict": (0, []),
    "only ids": (0, []),
    "logits not shown": (0, []),
    "other logits": (1, ["returned something else than it showed at the tap logits"]),
    "dropout": (3, ["two runs of the candidate on the same ids differ", "strange_gpt.py:"]),
    "float32 softmax": (0, ["float32 enters at", "strange_gpt.py:"]),
    "float32 scale and erf": (1, ["float32 enters at", "h.0.mlp.gelu", "approximate='tanh'"]),
    "half": (3, ["torch.float16 weights: building it rounded them"]),
    "closure": (0, []),
    "raises": (3, [f"strange_gpt.py:{RAISING}", "RuntimeError"]),
    "answer unused": (3, ["does not continue with what tap('h.0.mlp.c_fc', ...) returns"]),
    "flat heads": (1, ["h.0.attn.query: shape", "expected [batch head time head_width]"]),
    "other names": (1, ["did you mean h.0.attn.query"]),
    "leaves": (4, ["the candidate raised"]),
    "prints": (0, []),
}
"""The exit code of `layerwise`, and words of its report."""


@pytest.mark.parametrize("kind", EXPECTED)
def test_each_wrapping_gets_its_answer(
    kind: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, words = EXPECTED[kind]
    monkeypatch.setenv("KIND", kind)
    ended = command("layerwise", "--weights", "tiny", "--seq-len", "23", "--candidate", SOURCE)
    report = ended.stdout + ended.stderr
    assert code == ended.returncode, report
    assert [word for word in words if word not in report] == [], report
    assert "none" not in report.replace("none of", "").split()


def test_what_a_candidate_prints_stays_out_of_json(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIND", "prints")
    ended = command(
        *("layerwise", "--weights", "tiny", "--seq-len", "23", "--candidate", SOURCE),
        *("--format", "json"),
    )
    assert json.loads(ended.stdout)["verdict"] == "pass"
    assert "12.3M parameters" in ended.stderr
    assert "and through the descriptor" in ended.stderr


def test_a_run_that_raises_is_short_and_has_a_traceback_on_demand(
    command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIND", "raises")
    options = ("layerwise", "--weights", "tiny", "--seq-len", "23", "--candidate", SOURCE)
    ended = command(*options)
    assert len(ended.stdout.splitlines()) < 40
    assert "Traceback" not in ended.stderr
    assert f'strange_gpt.py", line {RAISING}' in command(*options, "--debug").stderr


@pytest.mark.parametrize("kind", ["right", "sdpa", "closure"])
def test_gradients_take_the_same_wrappings(
    kind: str, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIND", kind)
    ended = command("gradients", "--weights", "tiny", "--seq-len", "11", "--candidate", SOURCE)
    assert ended.returncode == 0, ended.stdout + ended.stderr
