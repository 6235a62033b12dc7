"""Whole models, ours by every path and Hugging Face's, each timed only after it was proved right.

Run it with `make bench`. The weights are the full-size surrogate's.
"""

import dataclasses
import functools

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import NoTimeError, attempted
from bench.models import Models, prove_both, prove_forward
from bench.results import Status
from bench.shapes import MOST_TOKENS, Shape
from bench.timing import bare_read, product_flops, products_alone
from scratch_gpt.kernels.backends import BACKENDS

ROUNDS = {"smoke": 1, "default": 3, "whole": 5}
SUBJECTS = (*BACKENDS, "huggingface", "products alone", "bare read")
SLOW = ("compiled",)
"""Paths that are first compiled, for minutes: only with `--grid whole`."""

_BATCHES, _TIMES = (1, 4, 64), (1, 37, 64, 128, 256, 512)
SHAPES = {
    "smoke": (Shape(batch=1, time=37), Shape(batch=1, time=37, backward=True)),
    "default": (
        *(Shape(batch=1, time=time) for time in (1, 64, 512)),
        Shape(batch=1, time=128, backward=True),
    ),
    "whole": tuple(
        Shape(batch=batch, time=time, backward=backward)
        for batch in _BATCHES
        for time in _TIMES
        for backward in (False, True)
        if batch * time <= MOST_TOKENS // 8 and (time > 1 or not backward)
    ),
}
"""What is timed: `default` takes minutes. Logits of more than 4,096 tokens are 660 MB a copy."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the test every subject at every shape of the grid asked for."""
    grid = metafunc.config.getoption("--grid")
    cases = [
        pytest.param(subject, shape, id=f"{subject.replace(' ', '_')}-{shape.batch}x{shape.time}-"
                     f"{'both' if shape.backward else 'forward'}")
        for shape in SHAPES[grid]
        for subject in SUBJECTS
        if grid == "whole" or subject not in SLOW
    ]  # fmt: skip
    metafunc.parametrize(("subject", "shape"), cases)


@functools.cache
def models() -> Models:
    """Return both models; built once."""
    return Models()


def limit(subject: str, shape: Shape) -> tuple[object, float]:
    """Return what no model can beat, ready to be timed."""
    both = models()
    if subject == "bare read":
        return torch.no_grad()(bare_read(list(both.ours.parameters()))), 0.0
    return torch.no_grad()(products_alone(both.ours, shape.batch, shape.time)), 0.0


def ready(subject: str, shape: Shape) -> tuple[object, float]:
    """Return what is timed, and its error."""
    if subject in {"products alone", "bare read"}:
        return limit(subject, shape)
    if subject == "triton":
        raise NoTimeError(Status.NOT_RUN, "no CUDA")
    both = models()
    model = both.theirs if subject == "huggingface" else both.path(subject)
    prove = prove_both if shape.backward else functools.partial(prove_forward, dtype="float32")
    return prove(both, model, both.ids(shape))


@pytest.mark.timeout(1800)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")
def test_model(
    benchmark: BenchmarkFixture, subject: str, shape: Shape, pytestconfig: pytest.Config
) -> None:
    """The model is right, and its time is taken."""
    if subject in {"products alone", "bare read"} and shape.backward:
        pytest.skip("not planned: a limit of the forward pass alone")
    benchmark.group = f"model {shape.batch}x{shape.time} {shape.direction}"
    try:
        with attempted(ours=subject != "huggingface"):
            run, error = ready(subject, shape)
    except NoTimeError as refusal:
        (pytest.fail if refusal.status is Status.WRONG else pytest.skip)(str(refusal))
    rounds = ROUNDS[pytestconfig.getoption("--grid")]
    benchmark.pedantic(run, rounds=rounds, warmup_rounds=1)  # type: ignore[no-untyped-call]
    passes = 3 if shape.backward else 1
    flops = passes * product_flops(models().ours, shape.batch, shape.time)
    benchmark.extra_info.update(error=error, flops=flops, **dataclasses.asdict(shape))
