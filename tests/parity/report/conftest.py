"""Reports that are as large, or as hostile, as a page must bear."""

import random
from collections.abc import Callable, Iterator

import pytest

from parity.core.metrics import Status
from parity.core.results import FirstDivergence, Mode, Report, Row, count, finish
from parity.core.taps import NEVER_FORMED, Tap, never_formed, taps

LAYERS, WRONG = 12, "h.3.mlp.gelu"

Rename = Callable[[str], str]


def rows_of(backend: str, planned: list[Tap], rename: Rename) -> Iterator[Row]:
    """Yield the rows of one backend in every mode; all taps after one differ."""
    chance = random.Random(0)  # noqa: S311 - no secret
    place = [tap.name for tap in planned].index(WRONG) if planned else 0
    pairs = [(Mode.FLOAT64, "oracle"), (Mode.FLOAT64, "huggingface")]
    for mode, against in [*pairs, (Mode.END_TO_END, "oracle"), (Mode.PER_OP, "oracle")]:
        exact = mode is Mode.FLOAT64
        for n, tap in enumerate(planned):
            fails = n == place if mode is Mode.PER_OP else n >= place
            theirs = chance.uniform(1, 9) * (1e-15 if exact else 1e-7)
            ours = theirs * chance.uniform(0.5, 1.5) * (1e3 if fails else 1)
            ours = 1e-4 * chance.uniform(1, 9) if fails and exact else ours
            yield Row(
                tap=rename(tap.name),
                backend=rename(backend),
                dtype="float64" if exact else "float32",
                mode=mode,
                against=against,
                shape=(1, 512, 3072),
                status=Status.FAIL if fails else Status.PASS,
                error_ours=ours,
                error_reference=theirs if against == "oracle" else None,
                ratio=None if exact else ours / theirs,
                bound=1e-9 if exact else 4.0,
                amplification=1.5,
                worst_index=(0, 511, n),
                value_ours=-0.123456789,
                value_against=0.987654321,
                required_tolerance=ours if exact else ours / theirs,
            )


def made(backends: list[str], rename: Rename = str) -> Report:
    """Return a failing report of the released size, its names changed by `rename`."""
    plan = {
        name: [tap for tap in taps(LAYERS) if tap.name not in never_formed(name, LAYERS)]
        for name in backends
    }
    rows = [row for name, planned in plan.items() for row in rows_of(name, planned, rename)]
    wrong = next(row for row in rows if row.status is Status.FAIL)
    renamed = {
        rename(name): [Tap(rename(tap.name), tap.kind, ()) for tap in planned]
        for name, planned in plan.items()
    }
    absent = {
        rename(name): {rename(k): why for k, why in never_formed(name, LAYERS).items()}
        for name in plan
    }
    return finish(
        "layerwise",
        rows=rows,
        plan=count(renamed, rows, absent),
        identity={"weights": {"source": rename("weights"), "revision": "1", "sha256": "0" * 64}},
        environment={"torch": "2.6", "transformers": "4.57", "threads": "1", "host": rename("x")},
        first_divergence=FirstDivergence(
            tap=wrong.tap, why=rename("why"), suspects=rename("a cause"), row=wrong
        ),
        inputs={"batch": 1, rename("time"): 512},
    )


@pytest.fixture(scope="session")
def full_size() -> Report:
    """A failing report of every backend that forms the wrong tap, in all modes."""
    return made([name for name in NEVER_FORMED if WRONG not in never_formed(name, LAYERS)])


@pytest.fixture(scope="session")
def renamed() -> Callable[[Rename], Report]:
    """Return a function: a failing report of one backend whose names were changed."""
    return lambda rename: made(["plain"], rename)
