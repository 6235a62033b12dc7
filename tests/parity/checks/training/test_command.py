"""`training` on the command line, end to end on the tiny weights: verdicts, and refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.faults.training import TRAINING_FAULTS

Check = Callable[..., Any]

TINY = ("training", "--weights", "tiny", "--backend", "plain", "--dtype", "float64")
SHORT = (*TINY, "--steps", "2", "--seq-len", "3")


def test_a_fault_ends_with_code_1_and_is_told(
    check: Check, strictly: Callable[[str], Any], tmp_path: Path
) -> None:
    """Text and JSON name the first place and the reason; the table says from which step on."""
    file = tmp_path / "r.json"
    result = check(*SHORT, "--inject-fault", "decay-on-vectors", "--output", str(file))
    found = strictly(file.read_text(encoding="utf-8"))
    text = " ".join(result.stdout.split())
    assert (result.exit_code, found["check"], found["verdict"]) == (1, "training", "fail")
    assert found["first_divergence"]["tap"] == "openai.2.weight.h.11.ln_2.weight"
    assert found["plan"]["per_backend"] == {"plain": [1190, 1190]}
    assert found["inputs"]["inject_fault"] == "decay-on-vectors"
    assert "DIFFERS from step 2" in text
    assert "biases and gains alone: weight decay on them" in text
    assert "1190 of 1190 quantities on plain compared" in text


@pytest.mark.slow
def test_right_models_pass_and_say_what_was_left_out(check: Check) -> None:
    """With dropout the path plain alone is run; fused is named, with the reason."""
    arguments = ("training", "--weights", "tiny", "--steps", "2", "--seq-len", "5", "--dropout")
    result = check(*arguments)
    text = " ".join(result.stdout.split())
    assert result.exit_code == 0
    assert "not run fused: its attention draws tile by tile" in text
    assert "PASS 1194 of 1194 quantities on plain compared" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--inject-fault", "nonsense"), "no fault is called 'nonsense'"),
        (("--dropout", "--backend", "tiled"), "cannot be compared with dropout"),
        (("--inject-fault", "dropout-on-norm"), "does not show without it"),
        (
            ("--inject-fault", "parts-not-averaged", "--micro-batches", "1"),
            "cannot be averaged wrongly",
        ),
        (("--seq-len", "1"), "1 tokens in a row"),
        (("--seq-len", "5000"), "5000 tokens in a row"),
    ],
    ids=str,
)
def test_what_cannot_be_asked_is_refused(
    arguments: tuple[str, ...], message: str, check: Check
) -> None:
    """A usage error, before anything is trained."""
    result = check(*TINY, *arguments)
    assert (result.exit_code, message in result.stderr) == (2, True)


def test_an_unknown_fault_lists_all(check: Check) -> None:
    """Each with what it is."""
    result = check(*TINY, "--inject-fault", "nonsense")
    assert all(f"{name} (" in result.stderr for name in TRAINING_FAULTS)
