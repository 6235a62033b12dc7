"""Runs `python -m scratch_gpt.train` many times, each in a fork, so that torch is imported once.

Standard input has one JSON list of phases; standard output gets one of outcomes. A phase:

    argv     the command's arguments
    world    number of processes
    kills    list of [milliseconds, whether from the first step]: each starts a run and kills it
             that long after its start or its first step; the last run is not killed
    begun    file that a run replaces when it begins its steps
    signals  [milliseconds, number] of signals to the run that is not killed
    await    path that must exist before the milliseconds of the first signal begin
    inject_fault  {"what": one of `FAULTS`, "step": when, "rank": where, or "all"}
    die_in   {"call": full name of a function, "after": number of calls before the kill}
    limit    largest file in bytes
"""

import json
import os
import pkgutil
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib.figure
import torch

from scratch_gpt import train
from scratch_gpt.training import run as run_module
from scratch_gpt.training import trainer as trainer_module
from scratch_gpt.training.trainer import Trainer

TIMEOUT = 240.0
"""Seconds after which a run is killed."""


def fail(_trainer: Trainer) -> None:
    raise RuntimeError("injected")


FAULTS: dict[str, Callable[[Trainer], object]] = {
    "raise": fail,
    "die": lambda _trainer: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda _trainer: time.sleep(3_600),
    "poison": lambda trainer: trainer.model.tokens_embed.weight.data.fill_(float("nan")),
    "hang for 15 s": lambda _trainer: time.sleep(15),
    "mean of means": lambda _trainer: setattr(trainer_module, "count_predictions", lambda _ids: 1),
    "terminate": lambda _trainer: os.kill(os.getpid(), signal.SIGTERM),
}


def inject(fault: dict[str, Any]) -> None:
    advance = Trainer.advance

    def advance_or_fail(trainer: Trainer) -> Any:  # noqa: ANN401
        is_here = fault.get("rank", 0) in {trainer.group.rank, "all"}
        if is_here and trainer.step == fault["step"]:
            FAULTS[fault["what"]](trainer)
        return advance(trainer)

    Trainer.advance = advance_or_fail


def die_in(call: str, after: int) -> None:
    """Kill this process instead of a call of a function."""
    owner, _, name = call.rpartition(".")
    home = pkgutil.resolve_name(owner)
    original, left = getattr(home, name), [after]

    def call_or_die(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return original(*args, **kwargs)

    setattr(home, name, call_or_die)


def free_port() -> str:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def settings(rank: int, world: int, port: str) -> dict[str, str]:
    """Return the variables that torchrun sets."""
    if world == 1:
        return {}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), **address}


def fork(phase: dict[str, Any], rank: int, port: str, errors: int) -> int:
    """Start one process of a run; it exits with the command's code."""
    if process := os.fork():
        return process
    os.dup2(errors, 2)
    os.environ |= settings(rank, phase.get("world", 1), port)
    if "inject_fault" in phase:
        inject(phase["inject_fault"])
    if "die_in" in phase:
        die_in(**phase["die_in"])
    if "limit" in phase:
        resource.setrlimit(resource.RLIMIT_FSIZE, (phase["limit"], phase["limit"]))
    code = 70
    try:
        train.app(phase["argv"], prog_name="train")
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        sys.stderr.flush()
        os._exit(code)


def wait(process: int, seconds: float) -> int | None:
    """Return a process's exit code, negative for a signal; None if it still runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def end(process: int) -> int:
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(phase: dict[str, Any], errors: int) -> int:
    """Start and kill runs; return how many of them had not ended before."""
    count = 0
    for milliseconds, from_its_steps in phase.get("kills", ()):
        before = identity(phase["begun"])
        process = fork(phase, 0, "0", errors)
        ended = None
        while from_its_steps and ended is None and identity(phase["begun"]) == before:
            ended = wait(process, 0.005)
        if ended is None and wait(process, milliseconds / 1_000) is None:
            count += end(process) == -signal.SIGKILL
    return count


def identity(path: str) -> tuple[int, int] | None:
    """Return what distinguishes a file from an earlier one of the same name."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def outcome(phase: dict[str, Any]) -> dict[str, Any]:
    """Run a phase; return exit codes by rank, the number of killed runs, and stderr."""
    with tempfile.TemporaryFile() as errors:
        count = killed(phase, errors.fileno())
        port = free_port()
        processes = [fork(phase, r, port, errors.fileno()) for r in range(phase.get("world", 1))]
        while not Path(phase.get("await", "/")).exists():
            time.sleep(0.002)
        for milliseconds, number in phase.get("signals", ()):
            time.sleep(milliseconds / 1_000)
            os.kill(processes[0], number)
        codes = [wait(process, TIMEOUT) for process in processes]
        codes = [end(p) if c is None else c for p, c in zip(processes, codes, strict=True)]
        errors.seek(0)
        return {"codes": codes, "killed": count, "stderr": errors.read().decode()}


if __name__ == "__main__":
    assert run_module, matplotlib.figure  # torch and matplotlib are imported before the first fork
    torch.set_num_threads(1)
    phases = json.loads(sys.stdin.read())
    Path("/dev/stdout").write_text(json.dumps([outcome(phase) for phase in phases]), "utf-8")
