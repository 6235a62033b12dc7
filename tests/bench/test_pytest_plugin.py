"""`pytest bench` rejects parallel runs and hides the host's name."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import pytest_plugin

pytestmark = pytest.mark.once


@pytest.mark.parametrize(
    ("distribution", "environment"),
    [("load", {}), ("each", {}), (None, {"PYTEST_XDIST_WORKER": "gw0"})],
)
def test_parallel_runs_are_rejected(distribution: str | None, environment: dict[str, str]) -> None:
    """pytest-benchmark would disable itself, and every benchmark would pass."""
    with pytest.raises(pytest.UsageError, match="one at a time"):
        pytest_plugin.refuse_xdist(distribution, environment)
    for accepted in (None, "no"):
        pytest_plugin.refuse_xdist(accepted, {})


def test_the_host_name_is_removed() -> None:
    machine = {"node": "a host", "machine": "x86_64"}
    pytest_plugin.without_names(machine)
    assert machine == {"machine": "x86_64"}


def bench(home: Path, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if "XDIST" not in name}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q", "-o", "addopts=",
         str(home / "test_attention.py"), *options],
        capture_output=True, text=True, check=False, env=inherited | environment,
    )  # fmt: skip


@pytest.mark.slow
def test_a_kernel_is_timed_without_naming_the_host(
    home_of: Callable[[str], Path], tmp_path: Path
) -> None:
    path = tmp_path / "bench.json"
    done = bench(home_of("bench"), "-k", "tiled-float32-1x1-forward and not compiled",
                 f"--benchmark-json={path}")  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    assert "node" not in document["machine_info"]
    assert f'"{platform.node()}"' not in text
    (timed,) = document["benchmarks"]
    promised = {"error", "flops", "bytes", "percent_of_matrix_rate", "peak_bytes"}
    assert promised == set(timed["extra_info"])
    assert timed["extra_info"]["peak_bytes"] > 0


def test_an_xdist_worker_is_rejected(home_of: Callable[[str], Path]) -> None:
    done = bench(home_of("bench"), PYTEST_XDIST_WORKER="gw0")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "one at a time" in done.stderr


EXAMPLE = Path(__file__).parents[2] / "examples" / "my_attention.py"


def test_a_kernel_of_ones_own_is_among_the_kernels(home_of: Callable[[str], Path]) -> None:
    smoke = ("--grid", "smoke", "--jaxtyping-packages=", "--kernel")
    some = ("-k", "[kernel-", "--benchmark-disable")
    done = bench(home_of("bench"), *smoke, f"{EXAMPLE}:attention", *some)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout
    done = bench(home_of("bench"), *smoke, f"{EXAMPLE}:atention", *some)
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"fix: did you mean {EXAMPLE}:attention?" in done.stderr
