"""A process that runs Triton's kernels in the interpreter: it reads jobs and writes results.

Triton decides when it is imported whether kernels are compiled or interpreted, and by the time a
test runs torch may have imported it already. So the tests start this file with TRITON_INTERPRET=1
and talk to it in pickles.

The interpreter of Triton 3.7 keeps bfloat16 as bare 16 bits: it cuts the rest off a float32 rather
than rounding, and multiplies the bits as integers. Both are put right here.
"""

import importlib
import pickle
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch
import triton.language as tl
from jaxtyping import install_import_hook
from torch import Tensor
from triton.runtime import interpreter
from triton.runtime.interpreter import TensorHandle, interpreter_builder

Job = dict[str, Any]

BUILDER = type(interpreter_builder)


def rounding_bfloat16(cast: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    """Return the interpreter's conversion with float32 rounded to the nearest bfloat16."""

    def convert(builder: object, source: TensorHandle, kind: tl.dtype) -> TensorHandle:
        if (source.dtype.scalar, kind.scalar) != (tl.float32, tl.bfloat16):
            return cast(builder, source, kind)
        rounded = torch.from_numpy(np.array(source.data)).bfloat16().view(torch.uint16)
        return TensorHandle(rounded.numpy(), tl.bfloat16)

    return convert


def multiplying_bfloat16(dot: Callable[..., TensorHandle]) -> Callable[..., TensorHandle]:
    """Return the interpreter's product with bfloat16 operands as the numbers they stand for."""

    def widened(operand: TensorHandle) -> TensorHandle:
        if operand.dtype.scalar != tl.bfloat16:
            return operand
        bits = operand.data.astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def multiply(builder: object, left: TensorHandle, right: TensorHandle, *rest: Any) -> Any:  # noqa: ANN401
        return dot(builder, widened(left), widened(right), *rest)

    return multiply


class Patched:
    """The interpreter's patches of Triton's language, which stay: nothing is compiled here."""

    def __init__(self, patch: Callable[..., object]) -> None:
        self.patch, self.done = patch, set()

    def __call__(self, function: Any) -> "Patched":  # noqa: ANN401 - whatever Triton wraps
        """Patch the function's module once: at every call, patching would take most of the time."""
        module = function.__globals__["__name__"]
        if module not in self.done:
            self.done.add(module)
            self.patch(function)
        return self

    def restore(self) -> None:
        """Leave all as it is."""


def tiled_plans(kernel: ModuleType, tiles: tuple[int, int] | None) -> dict[torch.dtype, Any]:
    """Return the module's plans, or plans with tiles of these sizes, in both orders."""
    if tiles is None:
        return dict(kernel.PLANS)
    wide, narrow = kernel.Tiles(*tiles, 4, 1), kernel.Tiles(*reversed(tiles), 4, 1)
    return dict.fromkeys(kernel.PLANS, kernel.Plan(wide, wide, narrow))


def run(job: Job) -> dict[str, Any]:
    package = job["package"]
    importlib.invalidate_caches()
    kernel = importlib.import_module(f"{package}.triton_attention")
    kernel.PLANS = tiled_plans(kernel, job["tiles"])
    inputs = [x.detach().requires_grad_() for x in job["inputs"]]
    kept: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        kept.append(x)
        return x

    torch.manual_seed(job["seed"])
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        context = kernel.attend(*inputs, job["mask"], dropout_probability=job["dropout"])
    gradients = torch.autograd.grad(context, inputs, job["upstream"])
    return {
        "context": context.detach(),
        "gradients": [x.detach() for x in gradients],
        "strides": [tuple(x.stride()) for x in (context, *gradients)],
        "kept": [tuple(x.shape) for x in kept],
    }


def main() -> None:
    torch.set_num_threads(1)
    interpreter._patch_lang = Patched(interpreter._patch_lang)
    BUILDER.cast_impl = rounding_bfloat16(BUILDER.cast_impl)
    BUILDER.create_dot = multiplying_bfloat16(BUILDER.create_dot)
    with install_import_hook("scratch_gpt", "beartype.beartype"):
        importlib.import_module("scratch_gpt.kernels.triton_attention")
        importlib.import_module("scratch_gpt.kernels.triton_kernels")
    while True:
        try:
            job = pickle.load(sys.stdin.buffer)  # noqa: S301 - from the test that started us
        except EOFError:
            return
        try:
            answer = run(job)
        except Exception as error:  # noqa: BLE001 - any error is sent to the test
            answer = {"error": f"{type(error).__name__}: {error}"}
        pickle.dump(answer, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
