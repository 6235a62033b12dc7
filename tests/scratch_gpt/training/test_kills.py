"""A run killed at any moment loses nothing, and what it cannot write costs nothing."""

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scratch_gpt.training import checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="a run is a forked process here"),
]

Arguments = Callable[..., list[str]]
Numbers = Callable[[Path], list[dict[str, Any]]]
Runs = Callable[..., list[dict[str, Any]]]

OFTEN = {"steps": 150, "checkpoint_every": 2, "evaluate_every": 5, "sample_every": 0, "warmup": 5}
"""A run that spends much of its time writing."""

KILLS = 50

CALLS = {"os.fsync": (0, 3, 9, 20), "pathlib.Path.rename": (0, 1, 2), "shutil.rmtree": (0, 1)}
"""What the file system hears of, and how many of these calls are let through before a kill."""


def weights(output: Path) -> bytes:
    """Return the trained model's file."""
    return (output / "model" / "model.safetensors").read_bytes()


@pytest.mark.timeout(1_200)
def test_fifty_kills_lose_nothing(
    arguments: Arguments, runs: Runs, numbers: Numbers, tmp_path: Path
) -> None:
    """Killed at random moments, in writing too, it ends bit for bit where an undisturbed one does.

    Moments count from when a run begins its steps, every fifth from when it is started. They are
    drawn anew until fifty runs were killed at work; each run goes on from the one before. A
    checkpoint is never seen half-written: nothing is passed over.
    """
    moments = random.Random(20180611)  # noqa: S311 - no secret
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    count, said = 0, ""
    assert runs({"argv": arguments(whole, **OFTEN)})[0]["codes"] == [0]
    while count < KILLS:
        place = killed / str(count)
        kills = [[moments.randint(1, 400), number % 5 != 4] for number in range(KILLS - count)]
        phase = {"argv": arguments(place, **OFTEN), "kills": kills}
        [outcome] = runs(phase | {"begun": str(place / "log.jsonl")})
        assert outcome["codes"] == [0], outcome["said"]
        assert outcome["killed"] > 0
        assert numbers(whole) == numbers(place)
        assert weights(whole) == weights(place)
        count, said = count + outcome["killed"], said + outcome["said"]
    assert "passed over" not in said
    assert said.count("going on from step") > KILLS // 4
    left = [p for place in killed.iterdir() for p in (place / "checkpoints").iterdir()]
    assert left
    assert all(path.name.startswith("step-") for path in left)


@pytest.mark.timeout(1_200)
def test_a_kill_in_each_moment_of_writing(
    arguments: Arguments, runs: Runs, numbers: Numbers, tmp_path: Path
) -> None:
    """Before a flush, before a renaming, before a removal: one run after the other."""
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
    assert numbers(whole) == numbers(place)
    assert weights(whole) == weights(place)


def test_a_disk_that_fills_leaves_the_last_checkpoint(
    arguments: Arguments, runs: Runs, numbers: Numbers, tmp_path: Path
) -> None:
    """Exit code 5; with room again the run goes on from there, bit for bit."""
    whole, place = tmp_path / "whole", tmp_path / "full"
    run = {"argv": arguments(place, steps=6)}
    more = {"argv": arguments(whole, steps=6)}
    limit = 30_000  # the first part of a checkpoint of 3 MB
    begun, full, after, undisturbed = runs(
        run | {"inject_fault": {"what": "terminate", "step": 3}}, run | {"limit": limit}, run, more
    )
    assert begun["codes"] == [130]
    assert full["codes"] == [5], full["said"]
    assert "larger than is allowed" in full["said"]
    assert after["codes"] == undisturbed["codes"] == [0]
    assert "going on from step 4" in after["said"]
    assert numbers(whole) == numbers(place)
    assert weights(whole) == weights(place)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_time_ends_with_130(
    number: signal.Signals, arguments: Arguments, runs: Runs, tmp_path: Path
) -> None:
    """Before the first step as well as between two; what is there is a whole checkpoint."""
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
    assert "stopped after step" in outcomes[-1]["said"]
    newest = checkpoints.checkpoints_by_step(tmp_path / "3" / "checkpoints")
    assert checkpoints.read_checkpoint(next(iter(newest.values()))).state.step == next(iter(newest))


def test_a_second_signal_does_not_wait(arguments: Arguments, runs: Runs, tmp_path: Path) -> None:
    """In a step that never ends it is the only way out; the checkpoint before it is whole."""
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
    assert "interrupted" in outcome["said"]
    newest = checkpoints.newest_checkpoint(tmp_path / "run" / "checkpoints", pytest.fail)
    assert newest is not None
    assert newest.state.step == 2
