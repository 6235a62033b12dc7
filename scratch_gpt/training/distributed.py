"""Several processes that train one model: sums over them, and who speaks for all.

They are started by `torchrun`, which gives each its rank and says where the first one listens.
One process is a group of its own, for which everything here is trivial.
"""

import contextlib
import datetime as dt
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from scratch_gpt.cli import as_cli_error
from scratch_gpt.errors import EnvironmentUnfitError, ExitCode, ReportedElsewhereError, UsageError

_ADDRESS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_START = "start all processes by torchrun --nproc-per-node 2 -m scratch_gpt.train ..."

T = TypeVar("T")


class Group:
    """The processes of a run, as one of them sees them.

    Attributes:
        rank: This process's number, from 0.
        processes: How many there are.
        device: Where this process computes.
    """

    def __init__(self, rank: int = 0, processes: int = 1, device: str = "cpu") -> None:
        self.rank = rank
        self.processes = processes
        self.device = torch.device(device)

    @property
    def is_first(self) -> bool:
        """Whether this process speaks and writes for all."""
        return self.rank == 0

    def summed(self, numbers: list[float]) -> list[float]:
        """Return the sums over all processes, in float64."""
        if self.processes == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with _told(self):
            distributed.all_reduce(sums)
        return [float(number) for number in sums.tolist()]

    def by_first(self, action: Callable[[], T]) -> T:
        """Let the first process act, and return to all what it returned.

        Raises:
            ToldElsewhereError: It raised; its own error goes on in it alone.
        """
        if self.processes == 1:
            return action()
        outcome: list[Any] = [None, None]
        failure: Exception | None = None
        if self.is_first:
            try:
                outcome = [action(), None]
            except Exception as error:  # noqa: BLE001 - raised again below, after all were told
                failure, outcome = error, [None, int(as_cli_error(error).exit_code)]
        with _told(self):
            distributed.broadcast_object_list(outcome, src=0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise ReportedElsewhereError(ExitCode(outcome[1]))
        result: T = outcome[0]
        return result

    def wrapped(self, model: nn.Module) -> nn.Module:
        """Return the model as one whose backward averages gradients over the processes."""
        return model if self.processes == 1 else DistributedDataParallel(model)

    @contextlib.contextmanager
    def exchanging(self, model: nn.Module, *, now: bool) -> Iterator[None]:
        """Run a forward and its backward; exchange gradients only where that is asked for."""
        later = isinstance(model, DistributedDataParallel) and not now
        silent = model.no_sync() if later else contextlib.nullcontext()  # type: ignore[operator]
        with silent, _told(self):
            yield


@contextlib.contextmanager
def join_group(environment: Mapping[str, str], *, device: str, timeout: float) -> Iterator[Group]:
    """Join the group that the environment describes, and leave it at the end.

    Args:
        environment: What torchrun sets: WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT.
        device: `cpu` or `cuda`; each process takes the device of its local rank.
        timeout: Seconds after which a process that does not answer counts as lost.

    Raises:
        UsageError: The environment describes no group, or not wholly.
        EnvironmentUnfitError: The processes cannot find each other, or there are fewer devices
            than processes.
    """
    rank, size = rank_and_size(environment)
    if size == 1:
        yield Group(device=device)
        return
    here = _own_device(environment) if device == "cuda" else device
    backend = "nccl" if device == "cuda" else "gloo"
    group = Group(rank, size, here)
    with _told(group):
        patience = dt.timedelta(seconds=timeout)
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=patience)
    try:
        yield group
    finally:
        distributed.destroy_process_group()


def _own_device(environment: Mapping[str, str]) -> str:
    """Return the CUDA device of this process, which is from now on its current one.

    NCCL and every allocation without a device would use the first one in all processes.
    """
    local, devices = _number(environment, "LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= devices:
        raise EnvironmentUnfitError(
            f"process {local} of this machine has no device of its own: there are {devices}",
            where=f"LOCAL_RANK {local}",
            fix=f"start at most {devices} processes here: torchrun --nproc-per-node {devices}",
        )
    torch.cuda.set_device(local)
    return f"cuda:{local}"


def rank_and_size(environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Return this process's rank and the number of processes, before they have met.

    Raises:
        UsageError: One is no number, or none that can be, or there are several processes and no
            way to meet.
    """
    size = _number(environment, "WORLD_SIZE", 1, least=1)
    if size == 1:
        return 0, 1
    if missing := [name for name in _ADDRESS if not environment.get(name)]:
        raise UsageError(
            f"WORLD_SIZE is {size} and {', '.join(missing)} is not set",
            where="the environment",
            fix=f"{_START}, or unset WORLD_SIZE",
        )
    _number(environment, "MASTER_PORT", 0, most=2**16 - 1)
    return _number(environment, "RANK", 0, most=size - 1), size


def _number(
    environment: Mapping[str, str], name: str, default: int, *, least: int = 0, most: int = 2**31
) -> int:
    text = environment.get(name) or str(default)
    if not text.isdecimal():
        raise UsageError(f"{name} is {text!r}, no number", where="the environment", fix=_START)
    if not least <= int(text) <= most:
        what = f"{name} is {text}, not between {least} and {most}"
        raise UsageError(what, where="the environment", fix=_START)
    return int(text)


@contextlib.contextmanager
def _told(group: Group) -> Iterator[None]:
    """Say what it means that the processes cannot reach each other.

    Gloo and NCCL raise `RuntimeError` for every trouble; only in a group can it mean this one.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        found = [fix for sign, fix in _TROUBLES.items() if sign in text]
        if group.processes == 1 or not found:
            raise
        raise EnvironmentUnfitError(
            f"process {group.rank} of {group.processes} has lost the others: {text[:200]}",
            where=f"rank {group.rank}",
            fix=found[0],
        ) from error


_AGAIN = "see the first error of another process; started again, the run goes on"
_TROUBLES = {
    "EADDRINUSE": "choose another port: torchrun --master-port N",
    "imed out": "another process hangs or was never started; raise --timeout if it is only slow",
    "losed by peer": _AGAIN,
    "onnection reset": _AGAIN,
    "roken pipe": _AGAIN,
    "onnection refused": _AGAIN,
    "Connection was likely closed": _AGAIN,
}
"""Signs in an error's text, and what to do."""
