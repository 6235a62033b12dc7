"""What the project holds itself to: one row per figure, with its bound. A table, and no code.

Bounds were set before anything was built, and are moved with a reason or not at all: a row that
misses its bound says so. A row without a bound is reported.
"""

import dataclasses
from collections.abc import Iterator

from bench.shapes import Shape


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """What several contestants do: attention alone, or the whole model.

    Attributes:
        room: `core` or `model`.
        shape: Batch, time, dtype and direction.
        device: Where.
        rounds: How often each contestant is measured.
    """

    room: str
    shape: Shape
    device: str = "cpu"
    rounds: int = 15

    def __str__(self) -> str:
        """Return the first part of the names of its rows."""
        shape = self.shape
        direction = "both" if shape.backward else "forward"
        where = "" if self.device == "cpu" else f"{self.device}-"
        dtype = "" if shape.dtype == "float32" else f"{shape.dtype}/"
        return f"{self.room}/{where}{direction}/{dtype}{shape.batch}x{shape.time}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """One figure.

    Attributes:
        task: What is done.
        ours: Whose figure stands above the line.
        against: Whose stands below it.
        bound: The largest ratio held to; None where it is only reported.
        figure: `time`, `memory` or `exponent`.
        quick: Whether `--quick` has it.
    """

    task: Task
    ours: str
    against: str
    bound: float | None = None
    figure: str = "time"
    quick: bool = False

    @property
    def name(self) -> str:
        """What `--rows` selects by."""
        kind = "" if self.figure == "time" else f"{self.figure}-"
        return f"{self.task}/{kind}{self.ours}:{self.against}"


def core(batch: int, time: int, *, dtype: str = "float32", backward: bool = False) -> Task:
    """Return an attention task on the CPU."""
    return Task(room="core", shape=Shape(batch=batch, time=time, dtype=dtype, backward=backward))


def model(batch: int, time: int, *, backward: bool = False, rounds: int = 7) -> Task:
    """Return a task of the whole model on the CPU, in float32."""
    shape = Shape(batch=batch, time=time, backward=backward)
    return Task(room="model", shape=shape, rounds=rounds)


GPU = Task(room="core", shape=Shape(batch=32, time=512, dtype="bfloat16"), device="cuda")
SDPA_TIMES = (128, 192, 256, 384, 512)
OTHER_TIMES = (1, 64)
TO_HUGGINGFACE = {128: 0.90, 512: 0.30}


def _core_rows() -> Iterator[Row]:
    for batch in (1, 4):
        for time in (*OTHER_TIMES, *SDPA_TIMES):
            task, quick = core(batch, time), time in TO_HUGGINGFACE
            bound = TO_HUGGINGFACE.get(time)
            yield Row(task=task, ours="tiled", against="huggingface", bound=bound, quick=quick)
            bound = 1.10 if time in SDPA_TIMES else None
            yield Row(task=task, ours="tiled", against="sdpa", bound=bound, quick=quick)
            yield Row(task=task, ours="tiled", against="products", quick=quick)
        for peer in ("sdpa-flash", "sdpa-math"):
            yield Row(task=core(batch, 512), ours="tiled", against=peer)
        both = core(batch, 512, backward=True)
        yield Row(task=both, ours="tiled", against="sdpa", bound=1.25)
        yield Row(task=both, ours="tiled", against="huggingface")


ROWS = (
    *_core_rows(),
    Row(task=model(1, 1, rounds=15), ours="fused", against="huggingface", quick=True),
    Row(task=model(1, 1, rounds=15), ours="fused", against="bare read", quick=True),
    Row(task=model(1, 512), ours="fused", against="huggingface", bound=0.92),
    Row(task=model(1, 512), ours="fused", against="products alone", bound=1.12),
    Row(task=model(1, 512), ours="plain", against="huggingface"),
    Row(task=model(1, 512), ours="tiled", against="huggingface"),
    Row(task=model(1, 512), ours="fused in bfloat16", against="fused", bound=0.55),
    Row(task=model(4, 512, rounds=5), ours="fused", against="huggingface", bound=0.70),
    Row(task=model(4, 512, rounds=5), ours="fused", against="products alone", bound=1.12),
    Row(
        task=model(2, 512, backward=True, rounds=5),
        ours="fused",
        against="huggingface",
        bound=0.88,
    ),
    Row(
        task=model(2, 512, backward=True),
        ours="fused",
        against="huggingface",
        bound=0.75,
        figure="memory",
    ),
    Row(task=core(1, 8192), ours="tiled", against="time", bound=1.05, figure="exponent"),
    Row(task=GPU, ours="triton", against="huggingface", bound=0.25),
    Row(task=GPU, ours="triton", against="sdpa", bound=1.3),
    Row(task=GPU, ours="tiled", against="huggingface"),
)
"""Every figure, in the order of the report."""

SOMEWHERE_BELOW = 1.0
"""Of the rows against scaled_dot_product_attention one at least stands below this."""
