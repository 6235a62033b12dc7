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
    """A task that several contenders perform.

    Attributes:
        workload: A key of `bench.runner.WORKLOADS`.
        shape: Batch, time, dtype and direction; unused for tokenizers.
        label: The part of the row's name after the workload; derived from the shape if empty.
        device: `cpu` or `cuda`.
        rounds: Measurements of each contender.
    """

    workload: str
    shape: Shape = _NONE
    label: str = ""
    device: str = "cpu"
    rounds: int = 15

    def __str__(self) -> str:
        """Return the first part of its rows' names."""
        if self.label:
            return f"{self.workload}/{self.label}"
        shape = self.shape
        direction = "both" if shape.backward else "forward"
        where = "" if self.device == "cpu" else f"{self.device}-"
        dtype = "" if shape.dtype == "float32" else f"{shape.dtype}/"
        return f"{self.workload}/{where}{direction}/{dtype}{shape.batch}x{shape.time}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
    """One row: the ratio of our figure to another.

    Attributes:
        ours: The contender in the numerator.
        against: The contender in the denominator, or what an exponent is measured over.
        bound: Largest ratio that meets the target; None if the row has no target.
        figure: `time`, `memory` or `exponent`.
        quick: Whether `--quick` includes it.
    """

    task: Task
    ours: str
    against: str
    bound: float | None = None
    figure: str = "time"
    quick: bool = False

    @property
    def name(self) -> str:
        """The name that `--rows` matches."""
        kind = "" if self.figure == "time" else f"{self.figure}-"
        return f"{self.task}/{kind}{self.ours}:{self.against}"


def core(batch: int, time: int, *, dtype: str = "float32", backward: bool = False) -> Task:
    """Return an attention task on the CPU."""
    return Task(
        workload="core", shape=Shape(batch=batch, time=time, dtype=dtype, backward=backward)
    )


def model(batch: int, time: int, *, backward: bool = False, rounds: int = 7) -> Task:
    """Return a task of the whole model on the CPU in float32."""
    shape = Shape(batch=batch, time=time, backward=backward)
    return Task(workload="model", shape=shape, rounds=rounds)


def decode(batch: int, time: int) -> Task:
    """Return the task of decoding one token: the last of `time` tokens."""
    shape = Shape(batch=batch, time=time)
    return Task(workload="decode", shape=shape, label=f"{batch}x{time}", rounds=15)


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
SDPA_TIMES = (128, 192, 256, 384, 512)
OTHER_TIMES = (1, 64)
TO_HUGGINGFACE = {128: 0.90, 512: 0.30}


def _core_rows() -> Iterator[Target]:
    for batch in (1, 4):
        for time in (*OTHER_TIMES, *SDPA_TIMES):
            task, quick = core(batch, time), time in TO_HUGGINGFACE
            bound = TO_HUGGINGFACE.get(time)
            yield Target(task=task, ours="tiled", against="huggingface", bound=bound, quick=quick)
            bound = 1.10 if time in SDPA_TIMES else None
            yield Target(task=task, ours="tiled", against="sdpa", bound=bound, quick=quick)
            yield Target(task=task, ours="tiled", against="products", quick=quick)
        for peer in ("sdpa-flash", "sdpa-math"):
            yield Target(task=core(batch, 512), ours="tiled", against=peer)
        both = core(batch, 512, backward=True)
        yield Target(task=both, ours="tiled", against="sdpa", bound=1.25)
        yield Target(task=both, ours="tiled", against="huggingface")


TO_DECODE = {(1, 64): 0.30, (1, 448): 0.06, (8, 64): 0.20}
OTHER_DECODE_ROWS: dict[tuple[int, int], tuple[tuple[str, str, float | None], ...]] = {
    (1, 64): (
        ("fused", "bare read", 1.15),
        ("fused", "shared read", None),
        ("fused in bfloat16", "fused", 0.85),
    ),
    (1, 448): (("fused", "bare read", None), ("fused in bfloat16", "fused", None)),
}


def _decode_rows() -> Iterator[Target]:
    for (batch, time), bound in TO_DECODE.items():
        task = decode(batch, time)
        yield Target(task=task, ours="fused", against="huggingface", bound=bound)
        for ours, peer, other_bound in OTHER_DECODE_ROWS.get((batch, time), ()):
            yield Target(task=task, ours=ours, against=peer, bound=other_bound)


def _train_rows() -> Iterator[Target]:
    for task, bound in ((train(2, 512), 0.90), (train(2, 512, dropout=True), None)):
        yield Target(task=task, ours="fused", against="huggingface", bound=bound)
    task = train(2, 512)
    yield Target(task=task, ours="fused", against="huggingface", bound=0.80, figure="memory")
    for ours in ("adamw", "openai"):
        for peer in ("torch foreach", "torch fused"):
            yield Target(task=OPTIMIZER, ours=ours, against=peer)


def _token_rows() -> Iterator[Target]:
    for cache in ("warm", "cold"):
        yield Target(task=tokens(cache), ours="scratch_gpt", against="huggingface", bound=2.5)
    for word in ("drawn-word", "one-letter-word"):
        yield Target(
            task=tokens(word), ours="scratch_gpt", against="length", bound=1.15, figure="exponent"
        )


TARGETS = (
    *_core_rows(),
    Target(task=model(1, 1, rounds=15), ours="fused", against="huggingface", quick=True),
    Target(task=model(1, 1, rounds=15), ours="fused", against="bare read", quick=True),
    Target(task=model(1, 512), ours="fused", against="huggingface", bound=0.92),
    Target(task=model(1, 512), ours="fused", against="products alone", bound=1.12),
    Target(task=model(1, 512), ours="plain", against="huggingface"),
    Target(task=model(1, 512), ours="tiled", against="huggingface"),
    Target(task=model(1, 512), ours="fused in bfloat16", against="fused", bound=0.55),
    Target(task=model(4, 512, rounds=5), ours="fused", against="huggingface", bound=0.70),
    Target(task=model(4, 512, rounds=5), ours="fused", against="products alone", bound=1.12),
    Target(
        task=model(2, 512, backward=True, rounds=5),
        ours="fused",
        against="huggingface",
        bound=0.88,
    ),
    Target(
        task=model(2, 512, backward=True),
        ours="fused",
        against="huggingface",
        bound=0.75,
        figure="memory",
    ),
    Target(task=core(1, 8192), ours="tiled", against="time", bound=1.05, figure="exponent"),
    Target(task=GPU, ours="triton", against="huggingface", bound=0.25),
    Target(task=GPU, ours="triton", against="sdpa", bound=1.3),
    Target(task=GPU, ours="tiled", against="huggingface"),
    *_decode_rows(),
    *_train_rows(),
    *_token_rows(),
)
"""Every row, in the order of the report."""

SMALLEST_SDPA_RATIO = 1.0
"""At least one ratio to scaled_dot_product_attention is to be below this."""
