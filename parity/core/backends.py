"""The backends and devices of a check, whether this machine has them, and a user's own kernel."""

import contextlib
import re
import runpy
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor

from parity.core.candidates import beside, running, site_of_frame
from parity.core.results import Reason
from parity.errors import (
    EnvironmentUnfitError,
    ExitCode,
    InputRejectedError,
    UsageError,
    message_of,
)
from scratch_gpt.attention import AttentionKernel, plain_attention
from scratch_gpt.kernels.backends import (
    BACKENDS,
    BUILT_IN,
    KERNEL_TAPS,
    check_signature,
    place_of,
    register_attention,
    result_problem,
    why_not_compiled,
)
from scratch_gpt.options import require_path

DEFAULT = ("plain", "fused")
"""The formulas, and the fast default of the model, which contains the tiled kernel."""

EAGER = tuple(name for name, one in BACKENDS.items() if name != "triton" and not one.compiled)
"""The backends that run on every machine."""


def why_unavailable(name: str, device: torch.device) -> str | None:
    """Return why a backend cannot run on a device; None where it can."""
    if name == "triton":
        from scratch_gpt.kernels.triton_attention import unavailable

        return unavailable(device)
    return why_not_compiled(device) if BACKENDS[name].compiled else None


def chosen_backends(backend: str, device: torch.device) -> tuple[list[str], Mapping[str, str]]:
    """Return the backends that `--backend` selects, and those left out, each with the reason.

    Raises:
        EnvironmentUnfitError: The requested backend cannot run here.
    """
    if backend == "default":
        return list(DEFAULT), {}
    wanted = list(BUILT_IN) if backend == "all" else [backend]
    absent = {name: why for name in wanted if (why := why_unavailable(name, device)) is not None}
    if backend in absent:
        raise EnvironmentUnfitError(
            f"the backend {backend} cannot run here: {absent[backend]}",
            where=f"--backend {backend}",
            fix=f"use {' or '.join(DEFAULT)}, or a machine that has what is missing",
        )
    return [name for name in wanted if name not in absent], absent


def resolve_device(name: str) -> torch.device:
    """Return the device for `cpu`, `cuda` or `auto`.

    Raises:
        EnvironmentUnfitError: There is no such device, or it has no float64.
    """
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise EnvironmentUnfitError(
            "there is no CUDA device here",
            where="--device cuda",
            fix="use --device cpu, or install a CUDA build of torch on a machine with a GPU",
        )
    device = torch.device("cuda" if has_cuda and name in ("auto", "cuda") else "cpu")
    check_float64(device)
    return device


def check_float64(device: torch.device) -> None:
    """Require float64 on the device: mode float64 needs it.

    Raises:
        EnvironmentUnfitError: A float64 tensor cannot be made there.
    """
    try:
        torch.ones(1, dtype=torch.float64, device=device).add_(1.0)
    except (TypeError, RuntimeError, NotImplementedError) as error:
        raise EnvironmentUnfitError(
            f"{device} has no float64: {error}",
            where=f"device {device}",
            fix="use --device cpu",
        ) from error


# A user's own kernel.

KERNEL = "kernel"
"""The backend of `--kernel`, and its name beside other kernels that are timed."""


def load_kernel(name: str) -> AttentionKernel:
    """Return the function `FILE.py:NAME`.

    Raises:
        UsageError: There is no such file or function.
        InputRejectedError: The file raised, or the function has another signature.
    """
    where, match = f"--kernel {name}", re.fullmatch(r"(.*\.py)(?::(\w+))?", name, re.DOTALL)
    if match is None:
        fix = "name a Python file and the kernel in it: my_kernel.py:attention"
        raise UsageError("it is not FILE.py:NAME", where=where, fix=fix)
    require_path(match[1], where=where)
    with beside(match[1]), running(name, "run it alone to see what is wrong", KERNEL):
        namespace = runpy.run_path(match[1])
    if match[2] and match[2] in namespace:
        kernel: AttentionKernel = namespace[match[2]]
        check_signature(kernel)
        return kernel
    functions = [
        key
        for key, found in namespace.items()
        if callable(found) and getattr(found, "__module__", "") == namespace["__name__"]
    ]
    near = get_close_matches(match[2] or "", functions, n=1)
    fix = f"did you mean {match[1]}:{near[0]}?" if near else "name one of its functions: "
    raise UsageError(
        f"the file has no {match[2]}" if match[2] else "it does not say which function is meant",
        where=where,
        fix=fix if near else fix + (", ".join(functions) or "it has none"),
    )


@contextlib.contextmanager
def own_kernel(
    name: str, device: torch.device, *, gradients: bool = False
) -> Iterator[Sequence[Reason]]:
    """Make the kernel `FILE.py:NAME` the backend `kernel`, as long as the context is entered.

    It is called on few random tokens first. Yield the reasons why it is no kernel for every use,
    beside the numbers that a check compares.

    Raises:
        UsageError: There is no such file or function.
        InputRejectedError: It is no kernel, or a call raises, returns another shape or dtype, or
            writes into an input.
    """
    kernel = load_kernel(name)
    formed = call_once(name, kernel, device)
    absent = [tap for tap in KERNEL_TAPS if tap not in formed]
    register_attention(KERNEL, kernel, never_forms=absent, replace_registered=True)
    try:
        yield list(_limits(kernel, device, formed, gradients=gradients))
    finally:
        BACKENDS.pop(KERNEL, None)


def call_once(
    name: str, kernel: AttentionKernel, device: torch.device, dtype: torch.dtype = torch.float64
) -> list[str]:
    """Call the kernel of `--kernel` on random numbers without padding; return the taps it called.

    Raises:
        InputRejectedError: It raises, returns another shape or dtype, writes into an input, or
            calls a tap that no kernel has.
    """
    query, key, value = triple = _random(device, dtype)
    before = [x.clone() for x in triple]
    called: list[str] = []

    def tap(tap_name: str, value: Tensor, /) -> Tensor:
        called.append(tap_name)
        return value

    fix = f"call it alone on tensors [batch head time head_width] in {str(dtype)[6:]}"
    with running(name, fix, KERNEL), torch.no_grad():
        context = kernel(query, key, value, None, tap, 0.0)
    problem, fix = result_problem(context, query), "return a new tensor like query"
    if not problem:
        first = context.clone()
        with running(name, "tap is None where nothing is watched", KERNEL), torch.no_grad():
            kernel(key, value, query, None, None, 0.0)
        if not torch.equal(first.nan_to_num(), context.nan_to_num()):
            problem = "returns memory that its next call overwrites"
    if not all(torch.equal(*pair) for pair in zip(triple, before, strict=True)):
        problem, fix = "writes into its inputs", "compute with copies: query * scale, not query *= "
    if unknown := sorted({*called} - {*KERNEL_TAPS}):
        problem = f"calls the tap {unknown[0]!r}"
        fix = f"a kernel has the taps {' and '.join(KERNEL_TAPS)}"
    if problem:
        raise InputRejectedError(
            f"the kernel {problem}", where=f"--kernel {name}, {_site(kernel)}", fix=fix
        )
    return called


def _random(device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Return a query, a key and a value `[2 3 7 5]`, the same in every call."""
    draws = torch.Generator().manual_seed(0)
    made = (torch.randn(2, 3, 7, 5, generator=draws, dtype=torch.float64) for _ in range(3))
    return [x.to(device, dtype) for x in made]


def _site(kernel: AttentionKernel) -> str:
    file, _, line = place_of(kernel).rpartition(":")
    return (site_of_frame(file, int(line)) if line.isdigit() else "") or place_of(kernel)


_EQUAL = 1e-9
"""Largest difference of two right kernels in float64, in units of the largest number."""


def _limits(
    kernel: AttentionKernel, device: torch.device, formed: Sequence[str], *, gradients: bool
) -> Iterator[Reason]:
    """Yield a reason for everything that a kernel must do and this one does not.

    Padding and cached keys are compared only where the kernel is right without them: otherwise the
    check finds it wrong by itself.
    """
    query, key, value = _random(device, torch.float64)
    where = _site(kernel)
    mask = torch.ones(2, 7, dtype=torch.bool, device=device)
    mask[0, :2] = mask[1, 5:] = False
    real = mask[:, None, :, None]

    def reason(what: str, fix: str, code: ExitCode = ExitCode.FAIL) -> Reason:
        return Reason(what=f"the kernel {what}", where=where, fix=fix, code=code)

    with torch.no_grad():
        alone = kernel(query, key, value, None, None, 0.0)
        is_right = _equal(alone, plain_attention(query, key, value))
        for tap_name in dict.fromkeys(formed):

            def replaced(name: str, x: Tensor, /, tap_name: str = tap_name) -> Tensor:
                return x + torch.arange(x.shape[-1], device=device) if name == tap_name else x

            if torch.equal(alone, kernel(query, key, value, None, replaced, 0.0)):
                yield reason(
                    f"does not continue with what tap({tap_name!r}, ...) returns",
                    "write x = tap(name, x), so that each operation can be checked alone",
                    ExitCode.INCONCLUSIVE,
                )
        cases = {
            "a padding mask": (query, mask, real, "hide the keys where mask is False"),
            "cached keys": (query[:, :, 4:], None, None, _OFFSET),
            "one query and cached keys": (query[:, :, 6:], None, None, _OFFSET),
        }
        for what, (few, hiding, shown, fix) in cases.items() if is_right else ():
            try:
                context = kernel(few, key, value, hiding, None, 0.0)
            except Exception as error:  # noqa: BLE001 - whatever the kernel raises
                yield reason(
                    f"does not take {what}: {type(error).__name__}: {message_of(error)}",
                    fix,
                    ExitCode.INCONCLUSIVE,
                )
                continue
            right = plain_attention(few, key, value, hiding)
            if problem := result_problem(context, few):
                yield reason(f"with {what} {problem}", fix)
            elif not _equal(context, right, shown):
                ignored = hiding is not None and _equal(context, alone)
                yield reason(f"ignores {what}" if ignored else f"is wrong with {what}", fix)
    if gradients and (problem := _derivative_problem(kernel, (query, key, value))):
        yield reason(problem, "use operations of torch, or a torch.autograd.Function with backward")


_OFFSET = "query t attends to the keys up to t + time_k - time_q"


def _equal(found: Tensor, right: Tensor, shown: Tensor | None = None) -> bool:
    """Return whether two results are equal where `shown` is True, and finite everywhere."""
    apart = (found - right).abs()
    if shown is not None:
        apart = apart.nan_to_num(torch.inf) * shown if found.isfinite().all() else apart + torch.inf
    return bool(apart.max() <= _EQUAL * right.abs().max())


def _derivative_problem(kernel: AttentionKernel, triple: Sequence[Tensor]) -> str:
    """Return why no gradient comes back through a kernel; "" if it does."""
    query, key, value = leaves = [x.clone().requires_grad_() for x in triple]
    try:
        context = kernel(query, key, value, None, None, 0.0)
        if not context.requires_grad:
            return "has no derivative: its context has no history"
        found = torch.autograd.grad(context.sum(), leaves, allow_unused=True)
    except Exception as error:  # noqa: BLE001 - whatever the kernel raises
        return f"has no derivative: {type(error).__name__}: {message_of(error)}"
    names = ("query", "key", "value")
    absent = [name for name, one in zip(names, found, strict=True) if one is None]
    return f"has no derivative by {' and '.join(absent)}" if absent else ""
