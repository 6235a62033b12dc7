"""From what a kernel raises to why it gets no time."""

import pytest
import torch

from bench.contest import (
    NotTimedError,
    check_planned,
    first_line,
    mapped_errors,
    memory_for,
    out_of_memory,
)
from bench.kernels import ATTENTION_KERNELS
from bench.results import Status
from bench.shapes import Shape
from bench.verify import WrongKernelError

CPU = torch.device("cpu")
ALLOCATOR = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (WrongKernelError("off"), Status.WRONG),
        (MemoryError(), Status.OOM),
        (torch.OutOfMemoryError("CUDA out of memory"), Status.OOM),
        (RuntimeError(ALLOCATOR), Status.OOM),
        (NotTimedError(Status.NOT_PLANNED, "large"), Status.NOT_PLANNED),
        (NotImplementedError("no backward"), Status.NOT_RUN),
    ],
)
def test_an_error_is_a_reason(error: Exception, status: Status) -> None:
    """Each kind of its own; the words are kept."""
    with pytest.raises(NotTimedError) as refusal, mapped_errors(ours=False):
        raise error
    assert status is refusal.value.status
    assert refusal.value.why


def test_our_own_failure_is_no_excuse() -> None:
    """A kernel of ours that cannot run is an error, and not a row without a time."""
    with pytest.raises(NotImplementedError), mapped_errors(ours=True):
        raise NotImplementedError


def test_another_failure_is_not_memory() -> None:
    """Words that do not say so are not taken for it."""
    assert not out_of_memory(RuntimeError("no kernel"))


def test_a_reason_is_one_line() -> None:
    """The first that says something, with the kind of error."""
    expected = "ValueError: what"
    assert expected == first_line(ValueError("\n what \n where"))
    assert first_line(ValueError()) == "ValueError"


@pytest.mark.parametrize(
    ("name", "shape", "status"),
    [
        ("triton", Shape(batch=1, time=8), Status.NOT_RUN),
        ("tiled", Shape(batch=64, time=1024), Status.NOT_PLANNED),
        ("huggingface", Shape(batch=4, time=8192), Status.NOT_PLANNED),
    ],
)
def test_what_is_not_planned_is_not_begun(name: str, shape: Shape, status: Status) -> None:
    """No GPU, too many tokens, or matrices of scores that no memory holds."""
    with pytest.raises(NotTimedError) as refusal:
        check_planned(ATTENTION_KERNELS[name], shape, CPU, 1 << 30)
    assert status is refusal.value.status


def test_what_forms_no_matrix_is_planned_longer() -> None:
    """The tiled core fits where Hugging Face's does not; and what fits is planned."""
    check_planned(ATTENTION_KERNELS["tiled"], Shape(batch=4, time=8192), CPU, 1 << 30)
    check_planned(ATTENTION_KERNELS["huggingface"], Shape(batch=4, time=512), CPU, 1 << 30)


def test_memory_to_plan_with_is_some() -> None:
    """More than nothing, and less than no machine has."""
    assert 1 << 26 < memory_for(CPU) < 1 << 50
