"""A group of processes, as one of them sees it; `training/test_processes` has real ones."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from scratch_gpt.errors import EnvironmentUnfitError, ExitCode, ReportedElsewhereError, UsageError
from scratch_gpt.training import distributed as module
from scratch_gpt.training.distributed import Group, join_group, rank_and_size

MET = {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}


@pytest.fixture
def second() -> Group:
    """Return the second of two processes."""
    return Group(rank=1, processes=2)


def test_one_process_is_a_group() -> None:
    """Sums are its own numbers, and it acts for all."""
    with join_group({}, device="cpu", timeout=1.0) as group:
        assert (group.rank, group.processes, group.is_first) == (0, 1, True)
        assert group.summed([1.5, 2.0]) == [1.5, 2.0]
        assert group.by_first(lambda: 7) == 7
        model = nn.Module()
        assert group.wrapped(model) is model


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, (0, 1)), ({"WORLD_SIZE": "1"}, (0, 1)), (MET | {"WORLD_SIZE": "4"}, (1, 4))],
)
def test_the_environment_says_where_one_is(
    environment: dict[str, str], expected: tuple[int, int]
) -> None:
    """As torchrun sets it, or not at all."""
    assert expected == rank_and_size(environment)


@pytest.mark.parametrize("name", MET)
def test_what_the_environment_lacks_is_named(name: str) -> None:
    """One variable or another."""
    environment = {key: value for key, value in MET.items() if key != name}
    with pytest.raises(UsageError, match=f"WORLD_SIZE is 2 and {name} is not set") as told:
        rank_and_size(environment | {"WORLD_SIZE": "2"})
    assert "torchrun" in told.value.fix


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("WORLD_SIZE", "0", "WORLD_SIZE is 0, not between 1"),
        ("RANK", "2", "RANK is 2, not between 0 and 1"),
        ("MASTER_PORT", "abc", "MASTER_PORT is 'abc', no number"),
        ("MASTER_PORT", "65536", "MASTER_PORT is 65536, not between 0 and 65535"),
    ],
)
def test_a_place_that_cannot_be_is_told(name: str, text: str, said: str) -> None:
    """Before anybody waits for it."""
    with pytest.raises(UsageError, match=said):
        rank_and_size(MET | {"WORLD_SIZE": "2", name: text})


def test_a_number_has_to_be_one() -> None:
    """In whichever variable."""
    with pytest.raises(UsageError, match="WORLD_SIZE is 'two', no number"):
        rank_and_size({"WORLD_SIZE": "two"})


@pytest.mark.parametrize(
    ("text", "fix"),
    [
        ("Timed out waiting 5000ms for recv", "raise --timeout"),
        ("Connection closed by peer [127.0.0.1]:3", "the run goes on"),
        ("... EADDRINUSE ...", "--master-port"),
    ],
)
def test_trouble_between_processes_is_told(
    text: str, fix: str, second: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the process that met it and what to do."""

    def fail(*_others: object, **_more: object) -> None:
        raise RuntimeError(text)

    monkeypatch.setattr(module.distributed, "all_reduce", fail)
    with pytest.raises(EnvironmentUnfitError, match="process 1 of 2 has lost the others") as told:
        second.summed([1.0])
    assert fix in told.value.fix


def test_other_trouble_is_none_between_processes(
    second: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in a shape is not told as a lost connection."""

    def fail(*_others: object) -> None:
        raise RuntimeError("size mismatch")

    monkeypatch.setattr(module.distributed, "all_reduce", fail)
    with pytest.raises(RuntimeError, match="size mismatch"):
        second.summed([1.0])


def test_sums_are_in_float64(second: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """A count of tokens beyond 2^24 is none in float32."""
    monkeypatch.setattr(module.distributed, "all_reduce", lambda sums: sums.mul_(2))
    assert second.summed([2.0**40 + 1.0]) == [2.0**41 + 2.0]


def broadcast(sent: list[Any]) -> Callable[..., None]:
    """Return a broadcast in which the first process sends this."""

    def receive(outcome: list[Any], *, src: int) -> None:
        assert src == 0
        if sent:
            outcome[:] = sent
        sent[:] = outcome

    return receive


def test_the_first_acts_and_all_have_the_result(
    second: Group, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one does not act."""
    channel: list[Any] = []
    monkeypatch.setattr(module.distributed, "broadcast_object_list", broadcast(channel))
    assert Group(rank=0, processes=2).by_first(lambda: "done") == "done"
    assert second.by_first(pytest.fail) == "done"


def test_an_error_of_the_first_ends_all(second: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told by the first; the others end with its code."""

    def fail() -> None:
        raise UsageError("no", where="here", fix="yes")

    channel: list[Any] = []
    monkeypatch.setattr(module.distributed, "broadcast_object_list", broadcast(channel))
    with pytest.raises(UsageError):
        Group(rank=0, processes=2).by_first(fail)
    with pytest.raises(ReportedElsewhereError) as told:
        second.by_first(pytest.fail)
    assert told.value.exit_code is ExitCode.USAGE


def test_gradients_travel_when_asked(second: Group, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the last micro-batch, and not before."""

    class Pretended(nn.Module):
        """A wrapped model that counts its silences."""

        silences = 0

        def no_sync(self) -> torch.no_grad:
            """Count."""
            Pretended.silences += 1
            return torch.no_grad()

    monkeypatch.setattr(module, "DistributedDataParallel", Pretended)
    for now in (False, False, True):
        with second.exchanging(Pretended(), now=now):
            assert torch.is_grad_enabled() is now
    assert Pretended.silences == 2


@pytest.fixture
def on_two_devices(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what is called, in order, where a group is joined on a machine of two devices."""
    called: list[object] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", called.append)
    for name in ("init_process_group", "destroy_process_group"):
        monkeypatch.setattr(
            module.distributed, name, lambda *how, of=name, **_: called.append((of, *how))
        )
    return called


def test_each_process_has_its_own_device(on_two_devices: list[object]) -> None:
    """From before the processes meet: NCCL asks which device is the current one."""
    with join_group(MET | {"WORLD_SIZE": "2"}, device="cuda", timeout=1.0) as group:
        assert group.device == torch.device("cuda:1")
    assert on_two_devices == [1, ("init_process_group", "nccl"), ("destroy_process_group",)]


def test_more_processes_than_devices_are_told(on_two_devices: list[object]) -> None:
    """Before anybody waits for anybody."""
    environment = MET | {"WORLD_SIZE": "3", "LOCAL_RANK": "2"}
    with (
        pytest.raises(EnvironmentUnfitError, match=r"process 2 .* no device .* are 2") as told,
        join_group(environment, device="cuda", timeout=1.0),
    ):
        pass
    assert "--nproc-per-node 2" in told.value.fix
    assert on_two_devices == []
