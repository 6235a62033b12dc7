"""Training steps are verified; wrong ones are rejected."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench import training_steps
from bench.contest import NotTimedError
from bench.models import Measurement, Models
from bench.results import Status
from bench.targets import train
from bench.training_steps import OurAdam, TorchAdamW, Training
from bench.verify import WrongKernelError
from bench.workloads.training import make, training_side, verified

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
SIDES = ["fused", "huggingface"]
Fault = Callable[[Training], None]


@pytest.mark.parametrize(
    "name", [*SIDES, *(pytest.param(name, marks=pytest.mark.slow) for name in ("plain", "tiled"))]
)
def test_each_step_is_verified(name: str, run: Measurement) -> None:
    before = [p.detach().clone() for p in run.models.ours.parameters()]
    ready = make(name, train(2, 37), CPU, run)
    assert ready.check is not None
    losses = [ready.run() for _ in range(3)]
    assert losses[0] > losses[1] > losses[2]
    assert ready.check() == pytest.approx(ready.error) != 0.0
    assert all(map(torch.equal, before, run.models.ours.parameters()))


@pytest.mark.parametrize("name", SIDES)
def test_dropout_is_on(name: str, run: Measurement) -> None:
    ready = make(name, train(2, 37, dropout=True), CPU, run)
    assert ready.error > 0.0
    assert len({ready.run() for _ in range(2)}) == 2


@pytest.mark.parametrize("name", SIDES)
def test_missing_dropout_is_inconclusive(name: str, models: Models, ids: Tensor) -> None:
    side = training_side(models, name)
    train_mode = side.model.train
    side.model.train = lambda _mode=True: train_mode(False)  # type: ignore[method-assign]
    with pytest.raises(NotTimedError, match="no dropout") as refusal:
        verified(models, side, ids, dropout=True)
    assert refusal.value.status is Status.INCONCLUSIVE


def unclipped(side: Training) -> None:
    side.optimizer.clip = lambda _maximum: None  # type: ignore[method-assign]


def frozen(side: Training) -> None:
    bias = side.parameters["h.3.mlp.c_fc.bias"]
    step = side.optimizer.step

    def stepping() -> None:
        before = bias.detach().clone()
        step()
        bias.data.copy_(before)

    side.optimizer.step = stepping  # type: ignore[method-assign]


class Uncleared(dict[str, nn.Parameter]):
    """Parameters whose gradients are not cleared before a step, which takes the values."""

    def values(self) -> Any:  # noqa: ANN401 - no values
        return ()


def summed(side: Training) -> None:
    side.parameters = Uncleared(side.parameters)


def fewer_targets(side: Training) -> None:
    loss = side._loss
    side._loss = lambda token_ids: loss(token_ids[:, :-1])  # type: ignore[method-assign]


def wrong_gain(side: Training) -> None:
    """Multiply one gain's gradient by 1.001: a ten-thousandth of its change."""
    gain = side.parameters["h.7.ln_1.weight"]
    gain.register_hook(lambda gradient: gradient * 1.001)


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("fused", unclipped),
        ("huggingface", unclipped),
        ("huggingface", frozen),
        ("fused", summed),
        ("fused", fewer_targets),
        ("fused", wrong_gain),
    ],
)
def test_a_wrong_step_is_rejected(name: str, fault: Fault, models: Models, ids: Tensor) -> None:
    side = training_side(models, name)
    fault(side)
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        verified(models, side, ids, dropout=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("variant", "openai"),
        ("weight_decay", 0.0),
        ("decay_vectors", True),
        ("betas", (0.9, 0.99)),
        ("epsilon", 1e-5),
    ],
)
def test_a_wrong_constant_of_adam_is_rejected(
    name: str, value: object, models: Models, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = training_steps.Adam

    def wrong(parameters: object, **constants: object) -> object:
        return made(parameters, **{**constants, name: value})  # type: ignore[arg-type]

    monkeypatch.setattr(training_steps, "Adam", wrong)
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        verified(models, training_side(models, "fused"), ids, dropout=False)


def test_each_side_has_its_optimizer(models: Models) -> None:
    ours, theirs = (training_side(models, name).optimizer for name in SIDES)
    assert isinstance(ours, OurAdam)
    assert isinstance(theirs, TorchAdamW)
    assert theirs.optimizer.defaults["foreach"] is True
    assert ours.parameters.keys() == theirs.parameters.keys()
