"""A process that compiles the Triton kernels for an H200, on a machine without one.

It replaces the driver, so that Triton needs no GPU, and the launch, so that nothing is started; the
arguments are those of a real call. Its own argument is a job in JSON: dtype, width, whether masked,
chance of dropout, and the tiles or null. It prints the compiler's figures for each kernel.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

from scratch_gpt.attention import split_heads
from scratch_gpt.kernels import triton_attention

HOPPER = GPUTarget("cuda", 90, 32)
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"


def stack(cubin: bytes) -> int:
    """Return the bytes of stack that a thread needs because its registers do not suffice."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [CUOBJDUMP, "--dump-resource-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (found,) = re.findall(r"STACK:(\d+)", usage)
    return int(found)


class OnlyCompiled:
    """A kernel that is compiled for the arguments of a launch, and not launched."""

    def __init__(self, kernel: triton.JITFunction, made: dict[str, object]) -> None:
        self.kernel, self.made = kernel, made

    def __getitem__(self, grid: tuple[int, int, int]) -> Any:  # noqa: ANN401 - a launcher
        def compile_for(*arguments: object, **named: object) -> None:
            compiled = self.kernel.run(*arguments, grid=grid, warmup=True, **named)
            ptx = compiled.asm["ptx"]
            self.made[self.kernel.__name__] = {
                "shared": compiled.metadata.shared,
                "stack": stack(compiled.asm["cubin"]),
                "matrix_units": "mma" in ptx,
                "narrow_loads": len(re.findall(r"ld\.global[.\w]*\.b16\b", ptx)),
            }

        return compile_for


def projections(job: dict[str, Any]) -> list[Tensor]:
    width, heads = job["width"], 12
    joined = torch.zeros(1, 512, 3 * heads * width, dtype=getattr(torch, job["dtype"]))
    views = [split_heads(part, heads).requires_grad_() for part in joined.chunk(3, dim=-1)]
    if job["columns_apart"]:
        return [x.detach().repeat(1, 1, 1, 2)[..., ::2].requires_grad_() for x in views]
    return views


def main() -> None:
    job = json.loads(sys.argv[1])
    made: dict[str, object] = {}
    launch, plans = triton_attention.launch, triton_attention.PLANS
    driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: HOPPER,
            get_current_device=lambda: 0,
            get_current_stream=lambda _device: 0,
        )
    )
    triton_attention.unavailable = lambda _device: None
    triton_attention.launch = lambda kernel, *rest: launch(OnlyCompiled(kernel, made), *rest)
    if job["tiles"]:
        tiles = triton_attention.Tiles(*job["tiles"])
        plans.update(dict.fromkeys(plans, triton_attention.Plan(tiles, tiles, tiles)))
    inputs = projections(job)
    mask = torch.ones(1, 512, dtype=torch.bool) if job["masked"] else None
    context = triton_attention.attend(*inputs, mask, dropout_probability=job["dropout"])
    context.backward(torch.zeros_like(context))
    json.dump(made, sys.stdout)


if __name__ == "__main__":
    main()
