"""Both models with the small weights."""

import pytest
from torch import Tensor

from bench.models import Measurement, Models
from bench.shapes import Shape


@pytest.fixture(scope="module")
def models() -> Models:
    return Models("tiny")


@pytest.fixture
def ids(models: Models) -> Tensor:
    """Return token ids `[2 37]`."""
    return models.ids(Shape(batch=2, time=37))


@pytest.fixture
def run(models: Models) -> Measurement:
    measurement = Measurement(1, lambda *_: None)
    measurement.__dict__["models"] = models
    return measurement
