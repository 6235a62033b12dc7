"""Fetching across processes: one that was killed, and two at once."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import pytest

from reference import hub
from reference.hub import FetchedFolder

pytestmark = pytest.mark.allow_hosts(["127.0.0.1"])

RELEASED = "openai-community/openai-gpt"
WEIGHTS = bytes(range(256)) * 4000
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS, "vocab.json": b"{}"}


class Fake(Protocol):
    """What these tests ask of a fake hub."""

    address: str


Serve = Callable[..., Fake]
Fetch = Callable[..., FetchedFolder]


def started(fake: Fake, cache: Path) -> "subprocess.Popen[str]":
    """Start another process that fetches the released model and prints its commit."""
    source = f"""
    from pathlib import Path
    from reference import hub
    from reference.hub import Hub

    at = Hub(endpoint={fake.address!r}, cache=Path({str(cache)!r}))
    print(hub.fetch({RELEASED!r}, hub=at).commit)
    """
    home = str(Path(hub.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(source)],
        env=os.environ | {"PYTHONPATH": home},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition: Callable[[], object]) -> None:
    """Wait until `condition` holds, half a minute at most."""
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_download_is_taken_up_again(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """What was left of it does no harm, and the next run says where it lies or finishes it."""
    slow = serve(files=FILES, pace=0.02)
    with started(slow, tmp_path) as process:
        wait_for(lambda: any(p.stat().st_size for p in tmp_path.glob("*/blobs/*.incomplete")))
        process.send_signal(signal.SIGKILL)
    left = list(tmp_path.glob("*/blobs/*.incomplete"))
    assert left
    fetched = fetch(serve(files=FILES), tmp_path)
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS
    assert [path for path in left if path.exists()] == list(fetched.unfinished)


@pytest.mark.slow  # two interpreters are started
def test_two_processes_fetch_at_once(serve: Serve, fetch: Fetch, tmp_path: Path) -> None:
    """Both have it in the end, and the cache is sound."""
    fake = serve(files=FILES, pace=0.002)
    with started(fake, tmp_path) as first, started(fake, tmp_path) as second:
        said = [process.communicate(timeout=30) for process in (first, second)]
    assert [first.returncode, second.returncode] == [0, 0], said
    fetched = fetch(serve(files={}), tmp_path)
    assert fetched.paths["model.safetensors"].read_bytes() == WEIGHTS
