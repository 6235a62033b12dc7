"""Settings of `pytest bench`; the functions are in `bench.pytest_plugin`."""

from collections.abc import Iterator, MutableMapping
from typing import Any

import jaxtyping
import pytest

from bench import pytest_plugin

# Shape checks would be timed too.
jaxtyping.config.update("jaxtyping_disable", True)

pytest_addoption = pytest_plugin.add_options


def pytest_configure(config: pytest.Config) -> None:
    """Reject parallel test processes; add a user's kernel."""
    pytest_plugin.refuse_xdist(config.getoption("dist", None))
    if config.getoption("--kernel"):
        pytest_plugin.add_kernel(config.getoption("--kernel"), config.getoption("--bench-device"))


def pytest_benchmark_update_machine_info(machine_info: MutableMapping[str, Any]) -> None:
    """Remove the host's name from the JSON."""
    pytest_plugin.without_names(machine_info)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Time kernels on a GPU with events."""
    if config.getoption("--bench-device") == "cuda":
        from bench.timing import EventTimer, cuda

        cuda()
        timer = EventTimer()
        for item in items:
            item.add_marker(pytest.mark.benchmark(timer=timer))


@pytest.fixture(autouse=True)
def threads_restored() -> Iterator[None]:
    """Restore the number of threads."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
