"""A run killed at any moment resumes bitwise; full disks and signals leave a checkpoint."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from scratch_gpt.training.checkpoints import checkpoints_by_step

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks here"),
]


OFTEN = {"steps": 150, "checkpoint_every": 2, "evaluate_every": 5, "sample_every": 0, "warmup": 5}
"""A run that often writes."""

KILLS = 50

CALLS = {"os.fsync": (0, 3, 9, 20), "pathlib.Path.rename": (0, 1, 2), "shutil.rmtree": (0, 1)}
"""Functions that write, and the numbers of calls before a kill."""


@pytest.mark.release
@pytest.mark.timeout(1_200)
def test_a_run_killed_fifty_times_is_bitwise_the_same(
    arguments: Callable, runs: Callable, assert_same_run: Callable, tmp_path: Path
) -> None:
    """Killed at random moments, also while it writes, it ends like an uninterrupted run.

    Moments are counted from a run's first step, every fifth from its start. They are drawn until
    fifty runs were killed before their end; each run resumes the one before. No checkpoint is
    ever half-written: none is skipped.
    """
    moments = random.Random(20180611)  # noqa: S311 - no secret
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    count, stderr = 0, ""
    assert runs({"argv": arguments(whole, **OFTEN)})[0]["codes"] == [0]
    while count < KILLS:
        place = killed / str(count)
        kills = [[moments.randint(1, 400), number % 5 != 4] for number in range(KILLS - count)]
        phase = {"argv": arguments(place, **OFTEN), "kills": kills}
        [outcome] = runs(phase | {"begun": str(place / "log.jsonl")})
        assert outcome["codes"] == [0], outcome["stderr"]
        assert outcome["killed"] > 0
        assert_same_run(whole, place)
        count, stderr = count + outcome["killed"], stderr + outcome["stderr"]
    assert "is skipped" not in stderr
    assert stderr.count("resuming from step") > KILLS // 4
    left = [p for place in killed.iterdir() for p in (place / "checkpoints").iterdir()]
    assert left
    assert all(path.name.startswith("step-") for path in left)


@pytest.mark.timeout(1_200)
def test_a_kill_at_each_moment_of_writing(
    arguments: Callable, runs: Callable, assert_same_run: Callable, tmp_path: Path
) -> None:
    whole, place = tmp_path / "whole", tmp_path / "killed"
    short = OFTEN | {"steps": 20}
    plans = [{"call": call, "after": after} for call in CALLS for after in CALLS[call]]
    again = {"argv": arguments(place, **short)}
    first, *killed, last = runs(
        {"argv": arguments(whole, **short)}, *[again | {"die_in": plan} for plan in plans], again
    )
    assert first["codes"] == last["codes"] == [0]
    ends = [outcome["codes"][0] for outcome in killed]
    assert ends.count(-signal.SIGKILL) > len(plans) // 2
    assert_same_run(whole, place)


def test_a_full_disk_leaves_the_last_checkpoint(
    arguments: Callable, runs: Callable, assert_same_run: Callable, tmp_path: Path
) -> None:
    whole, place = tmp_path / "whole", tmp_path / "full"
    run = {"argv": arguments(place, steps=6)}
    more = {"argv": arguments(whole, steps=6)}
    limit = 30_000  # the first part of a checkpoint of 3 MB
    begun, full, after, uninterrupted = runs(
        run | {"inject_fault": {"what": "terminate", "step": 3}}, run | {"limit": limit}, run, more
    )
    assert begun["codes"] == [130]
    assert full["codes"] == [5], full["stderr"]
    assert "larger than is allowed" in full["stderr"]
    assert after["codes"] == uninterrupted["codes"] == [0]
    assert "resuming from step 4" in after["stderr"]
    assert_same_run(whole, place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_at_any_time_ends_with_130(
    number: signal.Signals,
    arguments: Callable,
    runs: Callable,
    newest_step: Callable,
    tmp_path: Path,
) -> None:
    """Before the first step and between two; every checkpoint is complete."""
    moments = ("training.lock", "vocabulary", "tokens/manifest.json", "checkpoints/step-00000002")
    phases = [
        {
            "argv": arguments(tmp_path / str(at), **(OFTEN | {"steps": 100_000})),
            "await": str(tmp_path / str(at) / moment),
            "signals": [[10 * at, int(number)]],
        }
        for at, moment in enumerate(moments)
    ]
    outcomes = runs(*phases)
    assert [outcome["codes"] for outcome in outcomes] == [[130]] * len(moments)
    assert "stopped after step" in outcomes[-1]["stderr"]
    assert newest_step(tmp_path / "3") == max(checkpoints_by_step(tmp_path / "3" / "checkpoints"))


def test_a_second_signal_does_not_wait(
    arguments: Callable, runs: Callable, newest_step: Callable, tmp_path: Path
) -> None:
    argv = arguments(tmp_path / "run", **OFTEN)
    [outcome] = runs(
        {
            "argv": argv,
            "inject_fault": {"what": "hang", "step": 2},
            "await": str(tmp_path / "run" / "checkpoints" / "step-00000002"),
            "signals": [[300, int(signal.SIGINT)], [300, int(signal.SIGINT)]],
        }
    )
    assert outcome["codes"] == [130]
    assert "interrupted" in outcome["stderr"]
    assert newest_step(tmp_path / "run") == 2
