"""Wrong attention kernels are rejected."""

import functools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bench import verify
from bench.kernels import ATTENTION_KERNELS, AttentionKernel, Kernel
from bench.shapes import Shape
from bench.verify import WrongKernelError, YardstickError, verified
from scratch_gpt.kernels.backends import KERNELS
from scratch_gpt.kernels.tiled_attention import tiled_attention

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SHAPE = Shape(batch=1, time=41)


def entry(kernel: Kernel) -> AttentionKernel:
    return AttentionKernel(make=lambda _shape, _device: kernel)


Kept = dict[object, Tensor]
"""Memory of a faulty kernel between its calls."""


def slightly_wrong(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return tiled_attention(query * 1.001, key, value)


def sees_the_future(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.softmax(query @ key.transpose(-2, -1) / 8, -1) @ value


def one_bad_element(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Change one number so little that no mean shows it."""
    context = tiled_attention(query, key, value)
    context[..., -1, -1] += 3e-5
    return context


def not_finite(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    context = tiled_attention(query, key, value)
    context[0, 0, 0, 0] = math.nan
    return context


def narrower(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return tiled_attention(query.bfloat16(), key.bfloat16(), value.bfloat16()).float()


def other_dtype(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return tiled_attention(query, key, value).double()


def nothing(_kept: Kept, query: Tensor, _key: Tensor, _value: Tensor) -> None:
    query.sum()


def scales_its_input(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    right = tiled_attention(query, key, value)
    query *= query.shape[-1] ** -0.5
    return right


def transposed(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return tiled_attention(query, key, value).transpose(1, 2)


def right_at_one_shape(_kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Set the rows beyond full tiles of 41 to zero."""
    context = tiled_attention(query, key, value)
    context[:, :, : context.shape[2] % 41] = 0.0
    return context


def stale(kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute once per shape, and then return the same buffer."""
    if query.shape not in kept:
        kept[query.shape] = tiled_attention(query, key, value)
    return kept[query.shape]


def keeps_by_address(kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    if query.data_ptr() not in kept:
        kept[query.data_ptr()] = tiled_attention(query, key, value)
    return kept[query.data_ptr()].clone()


def last_row_unwritten(kept: Kept, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    context = tiled_attention(query, key, value)
    buffer = kept.setdefault(query.shape, context.clone())
    buffer[:, :, :-1] = context[:, :, :-1]
    return buffer


@pytest.mark.parametrize(
    "fault",
    [
        *(slightly_wrong, sees_the_future, one_bad_element, not_finite, narrower, transposed),
        *(other_dtype, nothing, scales_its_input),
        *(right_at_one_shape, stale, keeps_by_address, last_row_unwritten),
    ],
)
def test_a_wrong_kernel_is_rejected(fault: Callable[..., Tensor]) -> None:
    with pytest.raises(WrongKernelError, match=r"context|inputs"):
        verified(entry(functools.partial(fault, {})), SHAPE, CPU)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("backward", [False, True], ids=["forward", "both"])
@pytest.mark.parametrize("name", ["plain", "tiled", "huggingface", "sdpa-math", "products"])
def test_a_right_kernel_is_verified(name: str, backward: bool, dtype: str) -> None:  # noqa: FBT001
    """It is verified at one token, at the ragged shape, and again after timing."""
    shape = Shape(batch=1, time=1, dtype=dtype, backward=backward)
    kernel = verified(ATTENTION_KERNELS[name], shape, CPU)
    assert kernel.check(kernel.run()) == kernel.error


def test_a_wrong_gradient_is_rejected() -> None:
    def halved(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return tiled_attention(query, (key + key.detach()) / 2, value)

    with pytest.raises(WrongKernelError, match="gradient of key"):
        verified(entry(halved), Shape(batch=1, time=41, backward=True), CPU)


@pytest.mark.parametrize("row", [0, 127, 512, 599])
def test_a_long_text_is_sampled_where_kernels_break(row: int) -> None:
    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        context = tiled_attention(query, key, value)
        if len(context[0, 0]) == 600:
            context[:, :, row] = 0.0
        return context

    with pytest.raises(WrongKernelError, match="context"):
        verified(entry(kernel), Shape(batch=1, time=600), CPU)


def test_a_later_wrong_answer_is_found() -> None:
    looking = [True]

    def kernel(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return tiled_attention(query, key, value) if looking else query

    kernel = verified(entry(kernel), SHAPE, CPU)
    looking.clear()
    with pytest.raises(WrongKernelError, match="context"):
        kernel.check(kernel.run())


def test_missing_gradients_are_rejected() -> None:
    kernel = verified(ATTENTION_KERNELS["tiled"], Shape(batch=1, time=41, backward=True), CPU)
    with pytest.raises(WrongKernelError, match=r"have shapes .*, expected"):
        kernel.check(kernel.run()[:1])


def test_a_wrong_yardstick_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {"attention": lambda _shape, _device: functools.partial(sees_the_future, {})}
    monkeypatch.setattr(verify, "YARDSTICKS", broken)
    with pytest.raises(YardstickError, match="larger than rounding"):
        verified(ATTENTION_KERNELS["tiled"], Shape(batch=1, time=43), CPU)


def test_our_kernels_are_timed_and_also_compiled_except_triton() -> None:
    ours = {name for name, entry in ATTENTION_KERNELS.items() if entry.ours}
    assert {*KERNELS, *(f"compiled-{name}" for name in KERNELS if name != "triton")} == ours
