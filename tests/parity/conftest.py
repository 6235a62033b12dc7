"""Fixtures: tiny weights, both models, and the command line."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
import zipapp
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel
from typer.testing import CliRunner

from parity import layerwise, verbs
from parity.check import app
from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core import inputs
from parity.core.fingerprints import Fingerprint
from parity.core.results import Mode, Report
from parity.core.runners import build_huggingface, build_ours
from parity.core.taps import NEVER_FORMED, never_formed, taps
from parity.faults.forward import inject
from scratch_gpt import GPT

PLAIN = {"COLUMNS": None, "FORCE_COLOR": None, "NO_COLOR": None}
"""Variables of the caller's environment that change colors and widths."""

Prints = dict[tuple[str, str, str], dict[str, Fingerprint]]


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread: on tensors this small a second one only waits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def weights() -> Weights:
    """The tiny weights; read only: `dataclasses.replace` makes others."""
    return load_weights("tiny")


@pytest.fixture(scope="session")
def ours(weights: Weights) -> GPT:
    """Our model with the tiny weights; read only: change a deep copy."""
    return build_ours(weights)


@pytest.fixture(scope="session")
def theirs(weights: Weights) -> OpenAIGPTLMHeadModel:
    """Hugging Face's model with the tiny weights; read only."""
    return build_huggingface(weights)


@pytest.fixture(scope="session")
def tap_counts(weights: Weights) -> dict[str, int]:
    """How many taps of the tiny model each backend forms."""
    layers = weights.config["n_layer"]
    return {name: len(taps(layers)) - len(never_formed(name, layers)) for name in NEVER_FORMED}


@pytest.fixture(scope="session")
def token_ids(weights: Weights) -> Tensor:
    """Ids `[1, 5]` that hold the first id once and the last one twice."""
    return inputs.seeded(batch=1, time=5, vocab_size=weights.config["vocab_size"], seed=0).token_ids


@pytest.fixture(scope="session")
def report(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> Report:
    """A failing report with an explanation: the erf GELU in block 3, float64 alone."""
    return layerwise(
        inject(ours, "erf-gelu", 3),
        theirs,
        token_ids,
        modes=[Mode.FLOAT64],
        explain="h.3.mlp.gelu",
        identity={"weights": {"source": "tiny", "revision": "1", "sha256": "0" * 64}},
    )


@pytest.fixture(scope="session")
def assert_same_bits() -> Callable[[Weights, Weights], None]:
    """Assert that two weights are equal to the bit, name for name."""

    def compare(found: Weights, expected: Weights) -> None:
        assert set(found.tensors) == set(expected.tensors)
        for name, array in expected.tensors.items():
            assert np.array_equal(array.view(np.uint32), found.tensors[name].view(np.uint32)), name
        assert found.provenance.sha256 == expected.provenance.sha256

    return compare


@pytest.fixture(scope="session")
def fingerprints_of() -> Callable[[Report], Prints]:
    """Return a function: a report's fingerprints by (subject, dtype, mode), then by tap."""

    def sort(report: Report) -> Prints:
        found: Prints = {}
        for entry in report.fingerprints:
            found.setdefault((entry.subject, entry.dtype, entry.mode), {})[entry.tap] = entry
        return found

    return sort


@pytest.fixture(scope="session")
def check() -> Callable[..., Any]:
    """Run `python -m parity.check ARGUMENTS` in this process: `exit_code`, `stdout`, `stderr`."""
    return lambda *arguments, env=None: CliRunner().invoke(
        app, list(arguments), env=PLAIN | (env or {})
    )


@pytest.fixture(scope="session")
def strictly() -> Callable[[str], Any]:
    """Parse strict JSON: NaN and Infinity are errors."""

    def refuse(literal: str) -> None:
        message = f"{literal} is no JSON"
        raise ValueError(message)

    return lambda text: json.loads(text, parse_constant=refuse)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[object], None]:
    """Set the outcome of the verb `weights`: a report, an exception, or a function to call."""

    def put(outcome: object) -> None:
        def verb(*_arguments: object) -> object:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome() if callable(outcome) else outcome

        monkeypatch.setattr(verbs, "weights", verb)

    return put


CANDIDATE = """
from scratch_gpt import GPT

def build(config, weights):
    model = GPT(config)
    model.load_state_dict(weights)
    return model
"""


@pytest.fixture
def candidate(tmp_path: Path) -> Callable[..., str]:
    """Write a candidate's file, ours if no text is given; return its name.

    `last` replaces the line that returns our model.
    """

    def write(text: str = CANDIDATE, name: str = "candidate_file.py", last: str = "") -> str:
        file = tmp_path / name
        content = text.replace("return model", last) if last else text
        file.write_text(content, encoding="utf-8")
        return str(file)

    return write


class FullDisk(io.StringIO):
    def write(self, _text: str) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk() -> io.StringIO:
    """A stream whose disk is full."""
    return FullDisk()


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Any]:
    """Run `python -m parity.check ARGUMENTS` in a process of its own, in an empty folder."""
    left_out = {*PLAIN, "PYTHONUNBUFFERED"}  # its users' Python buffers what it prints
    kept = {name: value for name, value in os.environ.items() if name not in left_out}

    def start(
        *arguments: str,
        python: Sequence[str] = ("-m", "parity.check"),
        env: Mapping[str, str] | None = None,
        stdout: int | IO[str] = subprocess.PIPE,
        stderr: int | IO[str] = subprocess.PIPE,
        timeout: int = 120,
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *python, *arguments],
            stdout=stdout,
            stderr=stderr,
            text=True,
            check=False,
            timeout=timeout,
            cwd=tmp_path,
            env=kept | {"HF_HUB_OFFLINE": "1"} | (env or {}),
        )

    return start


@pytest.fixture(scope="session")
def archive(
    home_of: Callable[[str], Path | None], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The packages zipped into one file that Python can run."""
    sources = tmp_path_factory.mktemp("sources")
    for package in ("parity", "reference", "scratch_gpt"):
        home = home_of(package)
        assert home is not None
        shutil.copytree(home, sources / package, ignore=shutil.ignore_patterns("__pycache__"))
    target = tmp_path_factory.mktemp("archive") / "check.pyz"
    zipapp.create_archive(sources, target, main="parity.check:main")
    return target
