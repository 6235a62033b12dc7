"""What can go wrong with one row while the others go on."""

import contextlib
from collections.abc import Iterator

import torch

from bench.kernels import Subject
from bench.outcome import Status
from bench.proof import WrongKernelError
from bench.shapes import Shape


class NoTimeError(Exception):
    """A row that gets no time.

    Attributes:
        status: Which kind.
        why: One phrase.
    """

    def __init__(self, status: Status, why: str) -> None:
        super().__init__(f"{status}: {why}")
        self.status = status
        self.why = why


@contextlib.contextmanager
def attempted(*, ours: bool) -> Iterator[None]:
    """Turn what a kernel may raise into the reason why it gets no time.

    Args:
        ours: Whether any other error is raised as it is: of others' kernels it is a reason, for
            they may lack a dtype, a direction or a device.
    """
    try:
        yield
    except NoTimeError:
        raise
    except WrongKernelError as error:
        raise NoTimeError(Status.WRONG, str(error)) from error
    except Exception as error:
        if out_of_memory(error):
            raise NoTimeError(Status.OOM, first_line(error)) from error
        if ours:
            raise
        raise NoTimeError(Status.NOT_RUN, first_line(error)) from error


def out_of_memory(error: BaseException) -> bool:
    """Return whether memory was lacking. On the CPU torch says so in words alone."""
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or "DefaultCPUAllocator: can't allocate memory" in str(error)


def first_line(error: BaseException) -> str:
    """Return an error in one phrase."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def check_planned(subject: Subject, shape: Shape, device: torch.device, memory: int) -> None:
    """Require that a kernel is to be run at a shape on a device at all.

    Raises:
        NoTimeError: It is not, and why.
    """
    if subject.device not in {None, device.type}:
        raise NoTimeError(Status.NOT_RUN, f"no {str(subject.device).upper()}")
    if why := shape.unplanned(subject.squares, memory):
        raise NoTimeError(Status.NOT_PLANNED, why.removeprefix("not planned: "))


def memory_for(device: torch.device) -> int:
    """Return the bytes that one row may plan with: half of what is free."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _available() // 2


def _available() -> int:
    """Return the memory that the system could give; 8 GB where it does not say."""
    with contextlib.suppress(OSError), open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123 - no file to be found, a question to the kernel
        for line in lines:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return 8 << 30
