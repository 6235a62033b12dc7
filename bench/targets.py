"""The performance targets: one row per figure, with its bound.

Bounds were set before the code was written. Changing one needs a reason; a row that misses its
bound reports so. A row without a bound is only reported.
"""

import dataclasses
from collections.abc import Iterator

from bench.shapes import Shape

_NONE = Shape(batch=1, time=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """A task that several contenders perform."""

    workload: str  # a key of `bench.runner.WORKLOADS`
    shape: Shape = _NONE  # unused for tokenizers
    label: str = ""  # in the row's name; derived from the shape if empty
    device: str = "cpu"
    rounds: int = 15  # measurements of each contender

    def __str__(self) -> str:
        """Return the first part of its rows' names."""
        if self.label:
            return f"{self.workload}/{self.label}"
        shape = self.shape
        direction = "both" if shape.backward else "forward"
        where = "" if self.device == "cpu" else f"{self.device}-"
        dtype = "" if shape.dtype == "float32" else f"{shape.dtype}/"
        return f"{self.workload}/{where}{direction}/{dtype}{shape.batch}x{shape.time}"


@dataclasses.dataclass(frozen=True)
class Target:
    """One row: the ratio of our figure to another."""

    task: Task
    ours: str  # the contender in the numerator
    against: str  # the contender in the denominator, or the size of an exponent
    bound: float | None = None  # the largest ratio that meets the target
    figure: str = "time"  # or "memory", or "exponent"
    quick: bool = False  # whether `--quick` includes it

    @property
    def compiles(self) -> bool:
        """Whether a contender is compiled first, which takes minutes."""
        return self.against.startswith(("torch.compile", "compiled", "flex"))

    @property
    def name(self) -> str:
        """The name that `--rows` matches."""
        kind = "" if self.figure == "time" else f"{self.figure}-"
        return f"{self.task}/{kind}{self.ours}:{self.against}"


def core(batch: int, time: int, *, backward: bool = False) -> Task:
    """Return an attention task on the CPU in float32."""
    return Task(workload="core", shape=Shape(batch=batch, time=time, backward=backward))


def model(batch: int, time: int, *, backward: bool = False, rounds: int = 7) -> Task:
    """Return a task of the whole model on the CPU in float32."""
    shape = Shape(batch=batch, time=time, backward=backward)
    return Task(workload="model", shape=shape, rounds=rounds)


def decode(batch: int, time: int) -> Task:
    """Return the task of decoding one token: the last of `time` tokens."""
    return Task(workload="decode", shape=Shape(batch=batch, time=time), label=f"{batch}x{time}")


def train(batch: int, time: int, *, dropout: bool = False) -> Task:
    """Return the task of a training step: forward, backward, clipping, optimizer."""
    shape = Shape(batch=batch, time=time, backward=True)
    label = f"{batch}x{time}" + ("-dropout" if dropout else "")
    return Task(workload="train", shape=shape, label=label, rounds=5)


def tokens(label: str) -> Task:
    """Return an encoding task; see `bench.workloads.tokenizer`."""
    return Task(workload="tokens", label=label, rounds=7)


OPTIMIZER = Task(workload="optimizer", label="whole", rounds=7)
GPU = Task(workload="core", shape=Shape(batch=32, time=512, dtype="bfloat16"), device="cuda")
TO_HUGGINGFACE = {128: 0.90, 512: 0.30}
TO_SDPA = {
    1: {16: 1.5, 64: 1.3, 128: 1.35, 192: 1.2, 256: 1.1, 384: 1.0, 512: 0.9},
    4: {128: 1.2, 192: 0.9, 256: 0.9, 384: 0.9, 512: 0.85},
}
"""Bounds of the attention kernel by batch and length."""

MODEL_PEERS = (
    *("huggingface", "textbook"),
    *("torch.compile(huggingface)", "torch.compile(textbook)"),
)
"""Other models of the same function, as `bench.models` makes them."""

MODEL_BOUNDS = {
    model(1, 128, rounds=15): 0.97,
    model(1, 512): 0.92,
    model(4, 512, rounds=5): 0.92,
    model(2, 512, backward=True, rounds=5): 0.95,
}
"""The largest ratio of the default backend to every peer."""


def _core_rows() -> Iterator[Target]:
    for batch in (1, 4):
        for time in (1, 16, 64, 128, 192, 256, 384, 512):
            task, quick = core(batch, time), time in TO_HUGGINGFACE
            yield Target(task, "tiled", "huggingface", TO_HUGGINGFACE.get(time), quick=quick)
            yield Target(task, "tiled", "sdpa", TO_SDPA[batch].get(time), quick=quick)
            yield Target(task, "tiled", "products", quick=quick)
        for time in (128, 512):
            for peer in ("sdpa-flash", "sdpa-math", "flex", "compiled-tiled"):
                yield Target(core(batch, time), "tiled", peer)
        both = core(batch, 512, backward=True)
        yield Target(both, "tiled", "sdpa", 1.25)
        yield Target(both, "tiled", "huggingface")


def _model_rows() -> Iterator[Target]:
    for task, bound in MODEL_BOUNDS.items():
        for peer in MODEL_PEERS:
            yield Target(task, "fused", peer, bound)


TARGETS = (
    *_core_rows(),
    Target(model(1, 1, rounds=15), "fused", "huggingface", quick=True),
    Target(model(1, 1, rounds=15), "fused", "bare read", quick=True),
    *_model_rows(),
    Target(model(1, 512), "fused", "products alone", 1.06),
    Target(model(1, 512), "plain", "huggingface"),
    Target(model(1, 512), "tiled", "huggingface"),
    Target(model(1, 512), "fused in bfloat16", "fused", 0.55),
    Target(model(4, 512, rounds=5), "fused", "products alone", 1.12),
    Target(model(2, 512, backward=True, rounds=5), "fused", "huggingface", 0.60, "memory"),
    Target(core(1, 8192), "tiled", "time", 1.05, "exponent"),
    Target(GPU, "triton", "huggingface", 0.25),
    Target(GPU, "triton", "sdpa", 1.3),
    Target(GPU, "tiled", "huggingface"),
    Target(decode(1, 64), "fused", "huggingface", 0.30),
    Target(decode(1, 64), "fused", "bare read", 1.05),
    Target(decode(1, 64), "fused", "shared read"),
    Target(decode(1, 64), "fused in bfloat16", "fused", 0.65),
    Target(decode(1, 448), "fused", "huggingface", 0.06),
    Target(decode(1, 448), "fused", "bare read"),
    Target(decode(1, 448), "fused in bfloat16", "fused"),
    Target(decode(8, 64), "fused", "huggingface", 0.20),
    Target(train(2, 512), "fused", "huggingface", 0.90),
    Target(train(2, 512, dropout=True), "fused", "huggingface"),
    Target(train(2, 512), "fused", "huggingface", 0.80, "memory"),
    Target(OPTIMIZER, "adamw", "torch foreach"),
    Target(OPTIMIZER, "adamw", "torch fused"),
    Target(OPTIMIZER, "openai", "torch foreach"),
    Target(OPTIMIZER, "openai", "torch fused"),
    Target(tokens("warm"), "scratch_gpt", "huggingface", 2.5),
    Target(tokens("cold"), "scratch_gpt", "huggingface", 2.5),
    Target(tokens("drawn-word"), "scratch_gpt", "length", 1.15, "exponent"),
    Target(tokens("one-letter-word"), "scratch_gpt", "length", 1.15, "exponent"),
)
"""Every row, in the order of the report."""

PEERS = ("huggingface", "sdpa", "plain", "tiled", "products")

KERNEL_TARGETS = tuple(
    Target(
        task,
        "kernel",
        peer,
        quick=task.shape in (Shape(batch=1, time=128), Shape(batch=1, time=512)),
    )
    for task in (
        *(core(batch, time) for batch in (1, 4) for time in (1, 64, 128, 256, 512)),
        *(core(batch, 512, backward=True) for batch in (1, 4)),
    )
    for peer in PEERS
)
"""The rows of `--kernel`: a user's own attention kernel beside the others; none has a bound."""

SMALLEST_SDPA_RATIO = 1.0
"""At least one ratio to scaled_dot_product_attention is to be below this."""
