"""What the project holds itself to: one row per figure, with its bound. A table, and no code.

Bounds were set before anything was built, and are moved with a reason or not at all: a row that
misses its bound says so. A row without a bound is reported.
"""

from collections.abc import Iterator

from bench.shapes import Shape
from bench.task import Row, Task


def core(batch: int, time: int, *, dtype: str = "float32", backward: bool = False) -> Task:
    """Return an attention task on the CPU."""
    return Task(room="core", shape=Shape(batch=batch, time=time, dtype=dtype, backward=backward))


def model(batch: int, time: int, *, backward: bool = False, rounds: int = 7) -> Task:
    """Return a task of the whole model on the CPU, in float32."""
    shape = Shape(batch=batch, time=time, backward=backward)
    return Task(room="model", shape=shape, rounds=rounds)


def decode(batch: int, time: int) -> Task:
    """Return the task of one more token behind a text: the last of `time` tokens."""
    shape = Shape(batch=batch, time=time)
    return Task(room="decode", shape=shape, label=f"{batch}x{time}", rounds=15)


def train(batch: int, time: int, *, dropout: bool = False) -> Task:
    """Return the task of a whole training step: forward, backward, clipping, optimizer."""
    shape = Shape(batch=batch, time=time, backward=True)
    label = f"{batch}x{time}" + ("-dropout" if dropout else "")
    return Task(room="train", shape=shape, label=label, rounds=5)


def tokens(label: str) -> Task:
    """Return a task of encoding; see `bench.tokens`."""
    return Task(room="tokens", label=label, rounds=7)


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


TO_DECODE = {(1, 64): 0.30, (1, 448): 0.06, (8, 64): 0.20}
BESIDE: dict[tuple[int, int], tuple[tuple[str, str, float | None], ...]] = {
    (1, 64): (
        ("fused", "bare read", 1.15),
        ("fused", "shared read", None),
        ("fused in bfloat16", "fused", 0.85),
    ),
    (1, 448): (("fused", "bare read", None), ("fused in bfloat16", "fused", None)),
}


def _decode_rows() -> Iterator[Row]:
    for (batch, time), bound in TO_DECODE.items():
        task = decode(batch, time)
        yield Row(task=task, ours="fused", against="huggingface", bound=bound)
        for ours, peer, held in BESIDE.get((batch, time), ()):
            yield Row(task=task, ours=ours, against=peer, bound=held)


def _train_rows() -> Iterator[Row]:
    for task, bound in ((train(2, 512), 0.90), (train(2, 512, dropout=True), None)):
        yield Row(task=task, ours="fused", against="huggingface", bound=bound)
    task = train(2, 512)
    yield Row(task=task, ours="fused", against="huggingface", bound=0.80, figure="memory")
    optimizer = Task(room="optimizer", label="whole", rounds=7)
    for ours in ("adamw", "released"):
        for peer in ("torch foreach", "torch fused"):
            yield Row(task=optimizer, ours=ours, against=peer)


def _token_rows() -> Iterator[Row]:
    for cache in ("warm", "cold"):
        yield Row(task=tokens(cache), ours="bert", against="huggingface", bound=2.5)
    for word in ("drawn-word", "one-letter-word"):
        yield Row(task=tokens(word), ours="bert", against="length", bound=1.15, figure="exponent")


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
    *_decode_rows(),
    *_train_rows(),
    *_token_rows(),
)
"""Every figure, in the order of the report."""

SOMEWHERE_BELOW = 1.0
"""Of the rows against scaled_dot_product_attention one at least stands below this."""
