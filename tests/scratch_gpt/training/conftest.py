"""Fixtures of the training tests: a tiny recipe, data, checkpoint and corpus; ways to run."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import scratch_gpt
from scratch_gpt import GPT, GPTConfig, train
from scratch_gpt.data import TokenData
from scratch_gpt.data.dataset import Manifest
from scratch_gpt.data.dataset import Recipe as Prepared
from scratch_gpt.training import log
from scratch_gpt.training.checkpoints import Checkpoint, State, newest_checkpoint
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.trainer import Trainer

HOME = Path(scratch_gpt.__path__[0])


@pytest.fixture
def checkpoint(config: GPTConfig, loud: Callable) -> Checkpoint:
    """Return a checkpoint at step 7 in which all numbers differ."""
    model = loud(GPT(config)).float()
    weights = {name: p.detach() for name, p in model.named_parameters()}
    moments = {f"first_moment.{name}": torch.randn(p.shape) for name, p in weights.items()}
    state = State(step=7, windows=28, best=(3.5, 6), settings={"seed": 1, "torch": "2"})
    return Checkpoint(state=state, config=config, weights=weights, optimizer=moments | {"step": 7})


@pytest.fixture
def flip() -> Callable[[Path], None]:
    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change


TINY = Recipe(
    n_layer=1,
    n_embd=21,
    n_head=3,
    n_positions=11,
    dropout=0.25,
    initializer_range=0.3,
    batch_size=4,
    micro_batch=2,
    steps=8,
    warmup=2,
    learning_rate=0.01,
    dtype="float64",
    evaluation_windows=5,
    evaluate_every=4,
    checkpoint_every=3,
    sample_every=4,
    sample_tokens=3,
    threads=1,
)
"""A run of eight steps of two micro-batches."""


@pytest.fixture
def recipe() -> Recipe:
    return TINY


@pytest.fixture
def data(tmp_path: Path) -> TokenData:
    """Return learnable tokens: each depends on the one before."""
    generator = np.random.Generator(np.random.Philox(7))
    tokens = np.cumsum(generator.integers(1, 4, size=700)) % 37
    manifest = Manifest(
        format=1,
        recipe=Prepared(
            vocabulary="a",
            pretokenizer="huggingface",
            vocab_size=37,
            errors="strict",
            validation_fraction=0.2,
        ),
        tokens=700,
        validation=140,
        unknown=0,
        characters=700,
        replaced=0,
        sha256="b",
        sampled_sha256="c",
        sources=(),
    )
    parts = tokens.astype(np.uint16)
    return TokenData(
        directory=tmp_path, manifest=manifest, train=parts[:560], validation=parts[560:]
    )


@pytest.fixture
def start(data: TokenData) -> Callable[..., Trainer]:
    def new(**changes: object) -> Trainer:
        return Trainer(dataclasses.replace(TINY, **changes), 37, data, Group())

    return new


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    generator = np.random.Generator(np.random.Philox(11))
    words = ["the cat", "a dog", "sat on", "ran to", "the mat", "a tree", "and then", "it was"]
    lines = [" ".join(words[i] for i in row) for row in generator.integers(0, 8, size=(200, 6))]
    path.write_text(".\n".join(lines) + ".\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def arguments(corpus: Path) -> Callable[..., list[str]]:
    """Return a function that gives the command's arguments for the tiny recipe; None omits one."""

    def make(output: Path, **changes: object) -> list[str]:
        fields = dataclasses.asdict(TINY) | {"merges": 40, "data": corpus, "output": output}
        pairs = (
            (f"--{name.replace('_', '-')}", str(value))
            for name, value in (fields | changes).items()
            if value is not None
        )
        return [text for pair in pairs for text in pair]

    return make


@pytest.fixture(scope="session")
def command(arguments: Callable) -> Callable[..., str]:
    """Return a function that runs the command for the tiny recipe, and returns its stderr.

    It requires the exit code `code`. Other keywords change options.
    """

    def run(output: Path, *others: str, code: int = 0, **changes: object) -> str:
        result = CliRunner().invoke(train.app, [*arguments(output, **changes), *others])
        assert result.exit_code == code, result.stderr
        return result.stderr

    return run


@pytest.fixture(scope="session")
def runs() -> Callable[..., list[dict[str, Any]]]:
    """Return a function that runs phases in turn, and returns their outcomes; see `worker.py`."""

    def run(*phases: dict[str, Any]) -> list[dict[str, Any]]:
        result = subprocess.run(
            [sys.executable, Path(__file__).with_name("worker.py")],
            input=json.dumps(phases),
            env=os.environ | {"PYTHONPATH": str(HOME.parent), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert not result.returncode, result.stderr
        return json.loads(result.stdout)

    return run


@pytest.fixture(scope="session")
def numbers() -> Callable[[Path], list[dict[str, Any]]]:
    """Return a function that reads a run's log without the times."""

    def read(output: Path) -> list[dict[str, Any]]:
        volatile = {"seconds", "tokens_per_second"}
        lines = log.read_log(output / "log.jsonl")
        return [{k: v for k, v in line.items() if k not in volatile} for line in lines]

    return read


@pytest.fixture(scope="session")
def assert_same_run(numbers: Callable) -> Callable[[Path, Path], None]:
    """Return the assertion that two runs are bitwise the same: their logs and their models."""

    def check(one: Path, other: Path) -> None:
        assert numbers(one) == numbers(other)
        weights = [(run / "model" / "model.safetensors").read_bytes() for run in (one, other)]
        assert weights[0] == weights[1]

    return check


@pytest.fixture(scope="session")
def newest_step() -> Callable[[Path], int]:
    """Return a function that gives the step of a run's newest checkpoint; none may be damaged."""

    def read(output: Path) -> int:
        newest = newest_checkpoint(output / "checkpoints", pytest.fail)
        assert newest is not None
        return newest.state.step

    return read
