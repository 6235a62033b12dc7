"""Runs `python -m scratch_gpt.train` many times over, importing torch once: each run is a fork.

Standard input has one JSON list of phases; standard output gets one of outcomes. A phase:

    argv     the command's arguments
    world    number of processes
    kills    [milliseconds, counted from where] after which one run after the other is killed;
             from its start, or, where that is true, from when it begins its steps; then one is
             left alone
    begun    file that is another one once a run begins its steps
    signals  [milliseconds, number] of signals sent to a run that is not killed
    await    path that has to be there before the milliseconds of the first signal begin
    plant    what goes wrong: {"what": one of `PLANTS`, "step": when, "rank": where, or "all"}
    die_in   {"call": a function's full name, "after": how many calls of it are let through}
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
from scratch_gpt.training import trainer as step_module
from scratch_gpt.training.trainer import Trainer

LONGEST = 240.0
"""Seconds until a run that does not end is killed."""


def fail() -> None:
    """Raise what nobody expects."""
    raise RuntimeError("planted")


def poison() -> None:
    """Make all gradients of the next backward nonsense."""
    PLANTED[0].model.tokens_embed.weight.data.fill_(float("nan"))


PLANTED: list[Trainer] = []
PLANTS: dict[str, Callable[[], None]] = {
    "raise": fail,
    "die": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "hang": lambda: time.sleep(3_600),
    "poison": poison,
    "hang for 15 s": lambda: time.sleep(15),
    "mean of means": lambda: setattr(step_module, "predicted", lambda _ids: 1),
    "terminate": lambda: os.kill(os.getpid(), signal.SIGTERM),
}


def plant(fault: dict[str, Any]) -> None:
    """Let something go wrong before a step."""
    advance = Trainer.advance

    def planted(trainer: Trainer) -> Any:  # noqa: ANN401
        is_here = fault.get("rank", 0) in {trainer.group.rank, "all"}
        if is_here and trainer.step == fault["step"]:
            PLANTED.append(trainer)
            PLANTS[fault["what"]]()
        return advance(trainer)

    Trainer.advance = planted


def die_in(call: str, after: int) -> None:
    """Be killed instead of calling a function once more."""
    owner, _, name = call.rpartition(".")
    home = pkgutil.resolve_name(owner)
    original, left = getattr(home, name), [after]

    def planted(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return original(*args, **kwargs)

    setattr(home, name, planted)


def free_port() -> str:
    """Return a port that nobody listened at a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return str(listener.getsockname()[1])


def settings(rank: int, world: int, port: str) -> dict[str, str]:
    """Return what torchrun would set."""
    if world == 1:
        return {}
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
    return {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), **address}


def child(phase: dict[str, Any], rank: int, port: str, errors: int) -> None:
    """Be the command, and end as it ends."""
    os.dup2(errors, 2)
    os.environ |= settings(rank, phase.get("world", 1), port)
    if "inject_fault" in phase:
        plant(phase["inject_fault"])
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


def fork(phase: dict[str, Any], rank: int, port: str, errors: int) -> int:
    """Start one process of a run."""
    process = os.fork()
    if process == 0:
        child(phase, rank, port, errors)
    return process


def wait(process: int, seconds: float) -> int | None:
    """Return how a process ended, negative for a signal; None where it still runs."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def end(process: int) -> int:
    """Kill a process; return how it ended."""
    os.kill(process, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def killed(phase: dict[str, Any], errors: int) -> int:
    """Start and kill runs; return how many were still at work."""
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
    """Return what tells a file from the one that had its name before."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_ctime_ns


def outcome(phase: dict[str, Any]) -> dict[str, Any]:
    """Run a phase; return exit codes by rank, how many runs were killed, and what was said."""
    with tempfile.TemporaryFile() as errors:
        count = killed(phase, errors.fileno())
        port = free_port()
        processes = [fork(phase, r, port, errors.fileno()) for r in range(phase.get("world", 1))]
        while not Path(phase.get("await", "/")).exists():
            time.sleep(0.002)
        for milliseconds, number in phase.get("signals", ()):
            time.sleep(milliseconds / 1_000)
            os.kill(processes[0], number)
        codes = [wait(process, LONGEST) for process in processes]
        codes = [end(p) if c is None else c for p, c in zip(processes, codes, strict=True)]
        errors.seek(0)
        return {"codes": codes, "killed": count, "said": errors.read().decode()}


if __name__ == "__main__":
    assert run_module, matplotlib.figure  # torch and matplotlib are there before the first fork
    torch.set_num_threads(1)
    phases = json.loads(sys.stdin.read())
    Path("/dev/stdout").write_text(json.dumps([outcome(phase) for phase in phases]), "utf-8")
