"""A group of processes with simulated peers; `test_processes` has real ones."""

import socket
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from scratch_gpt.errors import EnvironmentUnfitError, ExitCode, ReportedElsewhereError, UsageError
from scratch_gpt.training import distributed as module
from scratch_gpt.training.distributed import Group, join_group, rank_and_size

TORCHRUN = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}


@pytest.fixture
def second() -> Group:
    return Group(rank=1, processes=2)


def test_one_process_is_a_group() -> None:
    with join_group({}, device="cpu", timeout=1.0) as group:
        assert (group.rank, group.processes, group.is_first) == (0, 1, True)
        assert group.sum([1.5, 2.0]) == [1.5, 2.0]
        assert group.on_first(lambda: 7) == 7
        model = nn.Module()
        assert group.wrap(model) is model


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"WORLD_SIZE": "1"}, (0, 1)), (TORCHRUN | {"WORLD_SIZE": "4"}, (1, 4))],
)
def test_rank_and_size(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert expected == rank_and_size(environment)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        *((name, None, f"WORLD_SIZE is 2 and {name} is not set") for name in TORCHRUN),
        ("WORLD_SIZE", "0", "WORLD_SIZE is 0, not between 1"),
        ("WORLD_SIZE", "two", "WORLD_SIZE is 'two', not a number"),
        ("RANK", "2", "RANK is 2, not between 0 and 1"),
        ("MASTER_PORT", "abc", "MASTER_PORT is 'abc', not a number"),
        ("MASTER_PORT", "65536", "MASTER_PORT is 65536, not between 0 and 65535"),
    ],
)
def test_a_missing_or_invalid_variable_is_rejected(
    name: str, text: str | None, message: str
) -> None:
    environment = TORCHRUN | {"WORLD_SIZE": "2", name: text}
    if text is None:
        del environment[name]
    with pytest.raises(UsageError, match=message) as caught:
        rank_and_size(environment)
    assert "torchrun" in caught.value.fix


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("Timed out waiting 5000ms for recv", "raise --timeout"),
        ("Connection closed by peer [127.0.0.1]:3", "the run resumes"),
        ("... EADDRINUSE ...", "--master-port"),
    ],
)
def test_a_lost_connection_is_an_environment_error(
    text: str, fix: str, second: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.distributed, "all_reduce", Mock(side_effect=RuntimeError(text)))
    with pytest.raises(EnvironmentUnfitError, match="process 1 of 2 has lost the others") as caught:
        second.sum([1.0])
    assert fix in caught.value.fix


@pytest.mark.enable_socket
@pytest.mark.parametrize(
    ("rank", "fix"), [("0", "--master-port"), ("1", "raise --timeout")], ids=["in use", "no master"]
)
def test_a_port_without_a_first_process_is_an_environment_error(
    rank: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first process finds its port in use; another finds nothing there."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if rank == "0":
            other.listen()
        address = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": str(other.getsockname()[1])}
        environment = TORCHRUN | address
        for name, text in environment.items():
            monkeypatch.setenv(name, text)
        with (
            pytest.raises(EnvironmentUnfitError, match=f"process {rank} of 2 has lost") as caught,
            join_group(environment, device="cpu", timeout=0.5),
        ):
            pass
    assert fix in caught.value.fix


def test_other_errors_are_unchanged(second: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("size mismatch")
    monkeypatch.setattr(module.distributed, "all_reduce", Mock(side_effect=error))
    with pytest.raises(RuntimeError, match="size mismatch"):
        second.sum([1.0])


def test_sums_are_in_float64(second: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32 has no exact counts of tokens beyond 2^24."""
    monkeypatch.setattr(module.distributed, "all_reduce", lambda sums: sums.mul_(2))
    assert second.sum([2.0**40 + 1.0]) == [2.0**41 + 2.0]


@pytest.fixture
def first(monkeypatch: pytest.MonkeyPatch) -> Group:
    """Return the first of two processes; what it broadcasts, the next receiver gets."""
    sent: list[Any] = []

    def broadcast(outcome: list[Any], *, src: int) -> None:
        assert src == 0
        if sent:
            outcome[:] = sent
        sent[:] = outcome

    monkeypatch.setattr(module.distributed, "broadcast_object_list", broadcast)
    return Group(rank=0, processes=2)


def test_the_first_process_acts_and_all_get_the_result(first: Group, second: Group) -> None:
    assert first.on_first(lambda: "done") == "done"
    assert second.on_first(pytest.fail) == "done"


def test_an_error_in_the_first_process_ends_all(first: Group, second: Group) -> None:
    with pytest.raises(UsageError):
        first.on_first(Mock(side_effect=UsageError("no", where="here", fix="yes")))
    with pytest.raises(ReportedElsewhereError) as caught:
        second.on_first(pytest.fail)
    assert caught.value.exit_code is ExitCode.USAGE


def test_gradient_exchange(second: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrapped(nn.Module):
        local = 0

        def no_sync(self) -> torch.no_grad:
            Wrapped.local += 1
            return torch.no_grad()

    monkeypatch.setattr(module, "DistributedDataParallel", Wrapped)
    for now in (False, False, True):
        with second.exchange_gradients(Wrapped(), now=now):
            assert torch.is_grad_enabled() is now
    assert Wrapped.local == 2


@pytest.fixture
def on_two_devices(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Simulate two CUDA devices; return the calls made while a group is joined."""
    called: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", called.append)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(
            module.distributed, name, lambda *how, of=name, **_: called.append((of, *how))
        )
    return called


def test_each_process_has_its_own_device(on_two_devices: list[object]) -> None:
    """It is set before the processes connect: NCCL uses the current device."""
    with join_group(TORCHRUN | {"WORLD_SIZE": "2"}, device="cuda", timeout=1.0) as group:
        assert group.device == torch.device("cuda:1")
    assert on_two_devices == [1, ("init_process_group", "nccl"), ("destroy_process_group",)]


def test_more_processes_than_devices_are_rejected(on_two_devices: list[object]) -> None:
    environment = TORCHRUN | {"WORLD_SIZE": "3", "LOCAL_RANK": "2"}
    with (
        pytest.raises(EnvironmentUnfitError, match=r"process 2 .* no device .* are 2") as caught,
        join_group(environment, device="cuda", timeout=1.0),
    ):
        pass
    assert "--nproc-per-node 2" in caught.value.fix
    assert on_two_devices == []
