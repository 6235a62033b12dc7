"""The Triton kernels, run in Triton's interpreter."""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import scratch_gpt
from scratch_gpt.kernels.triton_attention import unavailable

ROOT = Path(scratch_gpt.__path__[0]).parent


@pytest.fixture(scope="session")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder in which the interpreter finds copies of the kernels."""
    return tmp_path_factory.mktemp("copies")


@pytest.fixture(scope="session")
def interpreted(copies: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """Return a function that runs the Triton kernels in Triton's interpreter, in a process.

    It takes the three inputs and the context's gradient. Tiles are 8 by 4 by default: short inputs
    do not fill them, and the two sizes differ, so that neither is mistaken for the other.
    """
    reason = unavailable(torch.device("cuda"))
    if reason is not None and "GPU" not in reason:
        pytest.skip(f"not run: {reason}")
    search = os.pathsep.join(map(str, (ROOT, copies)))
    settings = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": search}
    command = [sys.executable, Path(__file__).with_name("triton_worker.py")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    defaults = {
        "package": "scratch_gpt.kernels",
        "mask": None,
        "tiles": (8, 4),
        "dropout": 0.0,
        "seed": 0,
    }
    with subprocess.Popen(command, env=settings, **pipes) as process:

        def run(inputs: list[Tensor], upstream: Tensor, **named: object) -> dict[str, Any]:
            pickle.dump(defaults | {"inputs": inputs, "upstream": upstream} | named, process.stdin)
            process.stdin.flush()
            answer = pickle.load(process.stdout)  # noqa: S301 - from the worker
            if "error" in answer:
                pytest.fail(answer["error"])
            return answer

        yield run
        process.stdin.close()
        assert not process.wait()
