"""Fixtures of all tests: numbers compared, operations recorded, Python started, a vocabulary."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scratch_gpt import Tokenizer

FLOAT64_IDENTITY = 1e-12
"""Largest difference of two correct float64 computations, relative to the largest number expected.

Measured over this suite: correct computations differ by at most 1.3e-15. The weakest of 200 faults
injected into the model, GELU's 0.044715 rounded to 0.04471, changes its results by 3e-6.
"""


@pytest.fixture(scope="session")
def assert_same() -> Callable[[Tensor | np.ndarray, Tensor], None]:
    """Return the assertion that two float64 tensors are the same but for rounding."""

    def check(expected: Tensor | np.ndarray, actual: Tensor) -> None:
        expected, actual = torch.as_tensor(expected).detach(), actual.detach()
        assert (torch.float64, torch.float64) == (expected.dtype, actual.dtype)
        assert expected.shape == actual.shape
        assert bool(expected.isfinite().all())
        error = float((expected - actual).abs().amax())
        bound = FLOAT64_IDENTITY * max(1.0, float(expected.abs().amax()))
        assert error <= bound, f"differs by {error:.3g}, more than {bound:.3g}"

    return check


class Operations(TorchDispatchMode):
    """Keeps the name of every aten operation that runs while it is on, and the shapes it made."""

    def __init__(self) -> None:
        super().__init__()
        self.ran: list[tuple[str, tuple[int, ...]]] = []

    def __torch_dispatch__(
        self,
        func: OpOverload,
        _types: object,
        args: tuple[object, ...] = (),
        kwargs: dict[str, object] | None = None,
    ) -> object:
        result = func(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.ran += [(func.overloadpacket.__name__, tuple(tensor.shape)) for tensor in made]
        return result


@pytest.fixture(scope="session")
def recorded() -> type[Operations]:
    """Return the context in which operations are recorded, those of a backward pass too."""
    with Operations():
        pass  # torch loads its compiler when a mode is first entered: seconds that no test caused
    return Operations


@pytest.fixture(scope="session")
def home_of() -> Callable[[str], Path | None]:
    """Return the function that gives the folder a package is imported from, None if it is not."""

    def find(package: str) -> Path | None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(next(iter(spec.submodule_search_locations)))

    return find


@pytest.fixture(scope="session")
def python(home_of: Callable) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs Python with some arguments, and returns how it ended.

    Modules are looked up in `folders` first, then where the package under test is. `check=False`
    allows any exit code.
    """

    def run(
        *arguments: object, folders: Sequence[Path] = (), check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        path = os.pathsep.join(map(str, [*folders, home_of("scratch_gpt").parent]))
        command = [sys.executable, *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": path}
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert not (check and result.returncode), result.stderr
        return result

    return run


@pytest.fixture(scope="session", autouse=True)
def a_thread_a_worker() -> None:
    """Give each of several workers one thread: with more, they would wait for each other."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def a_width_for_all() -> None:
    """Forget the width of pytest's terminal: some workers get it as `COLUMNS`."""
    os.environ.pop("COLUMNS", None)


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let one thread work: on small tensors a second one only waits for a busy core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def small_text() -> str:
    return (Path(__file__).parent / "small_text.txt").read_text(encoding="utf-8")


@pytest.fixture(scope="session")
def small_vocabulary(small_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a vocabulary of 500 merges, learned from that page read twice."""
    folder = tmp_path_factory.mktemp("small_vocabulary")
    Tokenizer.train([small_text] * 2, merges=500).save_pretrained(folder)
    return folder
