"""Reading weights, compared with the safetensors library on the same file.

Run it with `make bench`. The file is the full-size surrogate's, 466 MB. Times are measured in one
process with the file in the page cache. Memory is the peak resident size of a fresh process minus
its size before.
"""

import hashlib
import json
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from safetensors.torch import load_file, save_file

from reference import surrogate
from scratch_gpt.checkpoint import safetensors


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the full-size surrogate as a file."""
    drawn = surrogate.draw("surrogate")
    path = tmp_path_factory.mktemp("surrogate") / "model.safetensors"
    save_file({name: torch.from_numpy(array) for name, array in drawn.tensors.items()}, path)
    return path


def copied(path: Path) -> object:
    """Load with the library and copy each tensor."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def digested_and_scanned(path: Path) -> None:
    """Hash the file, then load it and check its tensors for NaN."""
    with path.open("rb") as file:
        hashlib.file_digest(file, "sha256").hexdigest()
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(path).values())


def read(path: Path) -> object:
    """Read as this project does: check the header, hash the file, check for NaN."""
    return safetensors.read_safetensors(path)


READERS: dict[str, Callable[[Path], Any]] = {
    "load_file and clone": copied,
    "sha256, then isfinite": digested_and_scanned,
    "all of it, as here": read,
}


def pedantic(benchmark: BenchmarkFixture) -> Callable[..., Any]:
    """Return `benchmark.pedantic`, which has no annotations, with a type."""
    measure: Callable[..., Any] = benchmark.pedantic
    return measure


@pytest.mark.benchmark(group="reading 466 MB of safetensors")
@pytest.mark.parametrize("reader", READERS)
def test_time_of_reading(benchmark: BenchmarkFixture, reader: str, path: Path) -> None:
    """Time each reader on the same file."""
    pedantic(benchmark)(READERS[reader], args=(path,), rounds=5, warmup_rounds=1)
    benchmark.extra_info["bytes"] = path.stat().st_size


_FRESH = """
    import json, sys
    from pathlib import Path

    import torch
    from scratch_gpt import GPT

    def kilobytes(field):
        line = next(l for l in open("/proc/self/status") if l.startswith(field))
        return int(line.split()[1])

    torch.ones(8).sum()  # initializes torch
    before = kilobytes("VmRSS")
    model = GPT.from_pretrained(sys.argv[1], backend="plain")
    print(json.dumps({"highest": kilobytes("VmHWM") - before,
                      "model": sum(p.nbytes for p in model.parameters()) // 1024}))
"""


def test_memory_of_loading(benchmark: BenchmarkFixture, path: Path, tmp_path: Path) -> None:
    """A loading process holds at most two copies of the model at once."""
    config = {**surrogate.SIZES["surrogate"], "model_type": "openai-gpt"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "model.safetensors").symlink_to(path)
    source = textwrap.dedent(_FRESH)

    def fresh() -> dict[str, int]:
        command = [sys.executable, "-c", source, str(tmp_path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - ours
        found: dict[str, int] = json.loads(done.stdout)
        return found

    found = pedantic(benchmark)(fresh, rounds=1)
    benchmark.extra_info.update(found)
    assert found["model"] <= found["highest"] <= 2.1 * found["model"]
