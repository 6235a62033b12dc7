"""Several processes that train one model: joining, sums, broadcasts and gradient exchange.

`torchrun` starts the processes and passes each its rank and the address of the first. A single
process is a group of size 1, for which every operation here is trivial.
"""

import contextlib
import datetime as dt
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from scratch_gpt.cli import as_cli_error
from scratch_gpt.errors import EnvironmentUnfitError, ExitCode, ReportedElsewhereError, UsageError

T = TypeVar("T")


class Group:
    """The processes of a run, seen from the one with the number `rank`, from 0."""

    def __init__(self, rank: int = 0, processes: int = 1, device: str = "cpu") -> None:
        self.rank = rank
        self.processes = processes
        self.device = torch.device(device)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def sum(self, numbers: list[float]) -> list[float]:
        """Return the sums over all processes, in float64."""
        if self.processes == 1:
            return numbers
        sums = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        with _reporting_lost_processes(self):
            distributed.all_reduce(sums)
        return [float(number) for number in sums.tolist()]

    def on_first(self, action: Callable[[], T]) -> T:
        """Run an action in the first process; return its result in all.

        Raises:
            ReportedElsewhereError: The action failed in the first process, which raises the error
                itself.
        """
        if self.processes == 1:
            return action()
        outcome: list[Any] = [None, None]  # the result, the exit code of an error
        failure: Exception | None = None
        if self.is_first:
            try:
                outcome[0] = action()
            except Exception as error:  # noqa: BLE001 - raised below, after the broadcast
                failure, outcome[1] = error, int(as_cli_error(error).exit_code)
        with _reporting_lost_processes(self):
            distributed.broadcast_object_list(outcome, src=0)
        if failure is not None:
            raise failure
        if outcome[1] is not None:
            raise ReportedElsewhereError(ExitCode(outcome[1]))
        result: T = outcome[0]
        return result

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return the model with a backward that averages gradients over the processes."""
        return model if self.processes == 1 else DistributedDataParallel(model)

    @contextlib.contextmanager
    def exchange_gradients(self, model: nn.Module, *, now: bool) -> Iterator[None]:
        """Run a wrapped model's forward and backward; exchange gradients only if `now`."""
        is_local = isinstance(model, DistributedDataParallel) and not now
        local = model.no_sync() if is_local else contextlib.nullcontext()  # type: ignore[operator]
        with local, _reporting_lost_processes(self):
            yield


@contextlib.contextmanager
def _reporting_lost_processes(group: Group) -> Iterator[None]:
    """Raise a failed connection as an error with a fix.

    Gloo and NCCL raise `RuntimeError` for every failure, so the text has to decide.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = " ".join(str(error).split())
        fix = next((fix for sign, fix in _CONNECTION_ERRORS.items() if sign in text), None)
        if group.processes == 1 or fix is None:
            raise
        raise EnvironmentUnfitError(
            f"process {group.rank} of {group.processes} has lost the others: {text[:200]}",
            where=f"rank {group.rank}",
            fix=fix,
        ) from error


_RESTART = "see the first error of another process; restarted, the run resumes"
_CONNECTION_ERRORS = {
    "EADDRINUSE": "choose another port: torchrun --master-port N",
    "imed out": "another process hangs or was never started; raise --timeout if it is only slow",
    "losed by peer": _RESTART,
    "onnection reset": _RESTART,
    "roken pipe": _RESTART,
    "onnection refused": _RESTART,
    "Connection was likely closed": _RESTART,
}
"""Parts of an error's text, and the fix."""


@contextlib.contextmanager
def join_group(environment: Mapping[str, str], *, device: str, timeout: float) -> Iterator[Group]:
    """Join the group that the environment describes, and leave it at the end.

    `torchrun` sets WORLD_SIZE, RANK, LOCAL_RANK, MASTER_ADDR and MASTER_PORT. With `device="cuda"`
    each process takes the device of its local rank. A process that does not answer for `timeout`
    seconds counts as lost.

    Raises:
        UsageError: The environment's variables are incomplete or invalid.
        EnvironmentUnfitError: The processes cannot connect, or there are fewer devices than
            processes.
    """
    rank, size = rank_and_size(environment)
    if size == 1:
        yield Group(device=device)
        return
    is_cuda = device == "cuda"
    group = Group(rank, size, _own_cuda_device(environment) if is_cuda else device)
    with _reporting_lost_processes(group):
        limit = dt.timedelta(seconds=timeout)
        backend = "nccl" if is_cuda else "gloo"
        distributed.init_process_group(backend, rank=rank, world_size=size, timeout=limit)
    _CONNECTIONS.append(distributed.group.WORLD)
    try:
        yield group
    finally:
        distributed.destroy_process_group()


_CONNECTIONS: list[Any] = []
"""The groups of this process, kept until it exits.

Gloo's destructor joins its threads with Python's lock held, and a thread that releases the tensors
of the last exchange needs that lock. An error right after an exchange would wait for ever.
"""


def _own_cuda_device(environment: Mapping[str, str]) -> str:
    """Return this process's CUDA device, and make it the current one.

    Otherwise NCCL and allocations without a device would use the first one in all processes.
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


_ADDRESS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_START = "start all processes by torchrun --nproc-per-node 2 -m scratch_gpt.train ..."


def rank_and_size(environment: Mapping[str, str]) -> tuple[int, int]:
    """Return this process's rank and the number of processes, without connecting.

    A variable that is missing, not a number or out of range is a UsageError.
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
        raise UsageError(f"{name} is {text!r}, not a number", where="the environment", fix=_START)
    if not least <= int(text) <= most:
        what = f"{name} is {text}, not between {least} and {most}"
        raise UsageError(what, where="the environment", fix=_START)
    return int(text)
