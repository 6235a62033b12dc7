"""Optimizers are verified; wrong ones are rejected."""

import pytest
import torch

from bench import training_steps
from bench.models import Measurement
from bench.targets import OPTIMIZER
from bench.verify import WrongKernelError
from bench.workloads import optimizer as optimizing
from bench.workloads.optimizer import make, ours

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
NAMES = ["adamw", "openai", "torch foreach", "torch fused"]


@pytest.mark.parametrize("name", NAMES)
def test_each_optimizer_is_verified(name: str, run: Measurement) -> None:
    before = [p.detach().clone() for p in run.models.ours.parameters()]
    ready = make(name, OPTIMIZER, CPU, run)
    for _ in range(3):
        ready.run()
    assert ready.check is not None
    assert ready.check() == pytest.approx(ready.error) != 0.0
    assert all(map(torch.equal, before, run.models.ours.parameters()))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("constant", "value"), [("RATE", 2.501e-4), ("BETAS", (0.9, 0.998)), ("EPSILON", 1e-6)]
)
def test_a_wrong_constant_is_rejected(
    name: str, constant: str, value: object, run: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = optimizing.optimizer_named

    def wrong(name: str, parameters: object) -> object:
        with monkeypatch.context() as patch:
            patch.setattr(training_steps, constant, value)
            found = made(name, parameters)  # type: ignore[arg-type]
        step = found.step

        def stepping() -> None:
            with monkeypatch.context() as patch:
                patch.setattr(training_steps, constant, value)
                step()

        found.step = stepping  # type: ignore[method-assign]
        return found

    monkeypatch.setattr(optimizing, "optimizer_named", wrong)
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        make(name, OPTIMIZER, CPU, run)


def test_the_variants_are_distinguished(run: Measurement, monkeypatch: pytest.MonkeyPatch) -> None:
    made = optimizing.optimizer_named
    monkeypatch.setattr(optimizing, "optimizer_named", lambda _name, p: made("torch foreach", p))
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        make("openai", OPTIMIZER, CPU, run)


def test_the_formula_is_pytorchs_in_float64() -> None:
    drawn = torch.Generator().manual_seed(0)
    values = {
        name: torch.randn(shape, generator=drawn, dtype=torch.float64)
        for name, shape in (("matrix", (5, 7)), ("vector", (7,)))
    }
    parameters = {name: torch.nn.Parameter(value.clone()) for name, value in values.items()}
    start = training_steps.initial_state(values, {"matrix": 0.3, "vector": 2.0})
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=drawn, dtype=torch.float64)
    optimizer = training_steps.TorchAdamW(parameters, "foreach")
    found = optimizing.stepped(optimizer, start)
    for name, parameter in parameters.items():
        assert parameter.grad is not None
        right = training_steps.expected_change(name, parameter.grad, start)
        torch.testing.assert_close(found[name], right)


def test_our_variants_are_ours() -> None:
    assert [ours(name) for name in NAMES] == [True, True, False, False]
