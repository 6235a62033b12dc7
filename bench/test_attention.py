"""The attention cores beside Hugging Face's, timed only after each was proved right.

Run it with `make bench`. Inputs are fresh for each round's first call and shared by all cores of
one shape; the core that is timed has just been held against float64 on the very same tensors.
"""

from collections.abc import Callable

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor
from transformers import OpenAIGPTConfig
from transformers.models.openai.modeling_openai import Attention

from parity.compare import Held
from parity.tolerances import PRECISIONS
from scratch_gpt.attention import CORES

HEADS, HEAD_WIDTH, LONGEST = 12, 64, 512
Core = Callable[[Tensor, Tensor, Tensor], Tensor]


def huggingface_core() -> Core:
    """Return Hugging Face's eager core, which takes its keys transposed."""
    config = OpenAIGPTConfig(attn_pdrop=0.0, resid_pdrop=0.0)
    layer = Attention(HEADS * HEAD_WIDTH, LONGEST, config, scale=True).eval()
    return lambda query, key, value: layer._attn(query, key.transpose(-2, -1), value)[0]  # noqa: SLF001


SUBJECTS: dict[str, Core] = {**CORES, "huggingface": huggingface_core()}


def truth(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return the context in float64, by PyTorch's own softmax."""
    query, key, value = query.double(), key.double(), value.double()
    scores = query @ key.transpose(-2, -1) / HEAD_WIDTH**0.5
    future = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return torch.softmax(scores.masked_fill(future, float("-inf")), -1) @ value


@pytest.mark.parametrize("batch", [1, 4], ids="batch={}".format)
@pytest.mark.parametrize("time", [1, 37, 128, 512], ids="time={}".format)
@pytest.mark.parametrize("core", SUBJECTS, ids="core={}".format)
def test_attention_core(benchmark: BenchmarkFixture, core: str, time: int, batch: int) -> None:
    """The core rounds no worse than Hugging Face's may, and then its time is taken."""
    generator = torch.Generator().manual_seed(time)
    shape = (batch, HEADS, time, HEAD_WIDTH)
    inputs = [torch.randn(shape, generator=generator) for _ in range(3)]
    run = SUBJECTS[core]
    precision = PRECISIONS["float32"]
    with torch.no_grad():
        right = Held(truth(*inputs))
        theirs = right.difference(SUBJECTS["huggingface"](*inputs), dtype=torch.float32)
        apart = right.difference(run(*inputs), dtype=torch.float32)
        floor = max(theirs.relative_rms, precision.unit)
        assert apart.relative_rms <= precision.quality * floor
        benchmark.extra_info.update(error=apart.relative_rms, flops=4 * batch * time**2 * 768)
        benchmark(run, *inputs)
