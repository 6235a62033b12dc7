"""Several processes train the same as one, and end together."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from scratch_gpt.training import checkpoints

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forks here"),
]

UNEVEN = {"batch_size": 7, "micro_batch": 2, "sample_every": 0}
"""Four micro-batches of 2, 2, 2 and 1 windows, with dropout."""


def losses(lines: list[dict[str, Any]]) -> Tensor:
    fields = ("loss", "gradient_norm", "learning_rate", "validation_loss")
    return torch.tensor(
        [line[name] for line in lines for name in fields if name in line], dtype=torch.float64
    )


def last_weights(output: Path) -> dict[str, Tensor]:
    newest = checkpoints.newest_checkpoint(output / "checkpoints", pytest.fail)
    assert newest is not None
    assert {tensor.dtype for tensor in newest.weights.values()} == {torch.float64}
    return dict(newest.weights)


@pytest.fixture
def assert_close_runs(numbers: Callable, assert_same: Callable) -> Callable[[Path, Path], None]:
    """Return the assertion that two runs agree up to rounding."""

    def check(one: Path, other: Path) -> None:
        assert len(numbers(one)) == len(numbers(other)) > 0
        assert_same(losses(numbers(one)), losses(numbers(other)))
        others = last_weights(other)
        for name, tensor in last_weights(one).items():
            assert_same(tensor, others[name])

    return check


@pytest.fixture
def run_pair(arguments: Callable, runs: Callable) -> Callable[..., dict[str, Any]]:
    """Return a function that runs two processes, with an injected fault, and gives the outcome."""

    def run(output: Path, fault: dict[str, Any] | None = None, **options: object) -> dict[str, Any]:
        phase = {"argv": arguments(output, **UNEVEN, **options), "world": 2}
        [outcome] = runs(phase | ({"inject_fault": fault} if fault else {}))
        return outcome

    return run


def test_two_processes_train_the_same_as_one(
    arguments: Callable, runs: Callable, assert_close_runs: Callable, tmp_path: Path
) -> None:
    """Losses, norms and weights, with uneven micro-batches, dropout and validation.

    Only one process writes. Two processes can resume a run of one and the reverse, if allowed.
    """
    places = [tmp_path / name for name in ("one", "two", "one-two", "two-one", "rejected")]
    one, two, one_two, two_one, _ = places
    argv = {place: arguments(place, **UNEVEN) for place in places}
    allow = ["--allow-changed", "world_size"]
    stop = {"what": "terminate", "step": 3}
    outcomes = runs(
        {"argv": argv[one]},
        {"argv": argv[two], "world": 2},
        {"argv": argv[one_two], "inject_fault": stop},
        {"argv": argv[one_two], "world": 2},
        {"argv": [*argv[one_two], *allow], "world": 2},
        {"argv": argv[two_one], "world": 2, "inject_fault": stop},
        {"argv": [*argv[two_one], *allow]},
    )
    codes = [outcome["codes"] for outcome in outcomes]
    assert codes == [[0], [0, 0], [130], [4, 4], [0, 0], [130, 130], [0]]
    assert "world_size was 1 and is 2" in outcomes[3]["stderr"]
    assert outcomes[1]["stderr"].count("step 8: loss") == 1
    for other in (two, one_two, two_one):
        assert_close_runs(one, other)


def test_a_mean_of_means_is_detected(
    arguments: Callable,
    runs: Callable,
    run_pair: Callable,
    assert_close_runs: Callable,
    tmp_path: Path,
) -> None:
    """If all processes weigh the same though one has fewer tokens, the runs differ."""
    one, two = tmp_path / "one", tmp_path / "two"
    fault = {"what": "mean of means", "step": 0, "rank": "all"}
    assert runs({"argv": arguments(one, **UNEVEN)})[0]["codes"] == [0]
    assert run_pair(two, fault)["codes"] == [0, 0]
    with pytest.raises(AssertionError, match="differs by"):
        assert_close_runs(one, two)


@pytest.mark.parametrize(
    ("fault", "rank", "codes", "message"),
    [
        ("raise", 0, [70, 5], "RuntimeError: injected"),
        ("raise", 1, [5, 70], "process 0 of 2 has lost the others"),
        ("die", 0, [-9, 5], "process 1 of 2 has lost the others"),
        ("die", 1, [5, -9], "restarted, the run resumes"),
        ("poison", 1, [1, 1], "training diverged in step 4"),
    ],
)
def test_a_process_that_ends_ends_all(  # noqa: PLR0913 - a case and fixtures
    fault: str,
    rank: int,
    codes: list[int],
    message: str,
    run_pair: Callable,
    newest_step: Callable,
    tmp_path: Path,
) -> None:
    outcome = run_pair(tmp_path / "run", {"what": fault, "step": 3, "rank": rank})
    assert (outcome["codes"], message in outcome["stderr"]) == (codes, True), outcome["stderr"]
    assert newest_step(tmp_path / "run") == 3


def test_a_hanging_process_ends_the_run(run_pair: Callable, tmp_path: Path) -> None:
    fault = {"what": "hang for 15 s", "step": 3, "rank": 1}
    outcome = run_pair(tmp_path / "run", fault, timeout=5.0)
    assert outcome["codes"][0] == 5
    assert "raise --timeout" in outcome["stderr"]
    assert "process 0 of 2 has lost the others" in outcome["stderr"]


def test_an_error_in_the_first_process_ends_all(run_pair: Callable, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    outcome = run_pair(tmp_path)
    assert outcome["codes"] == [2, 2]
    assert outcome["stderr"].count("no run was started in it") == 1
