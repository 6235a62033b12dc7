"""One pass forward and backward: every gradient shown once, complete, and nothing left behind."""

import pytest
import torch
from torch import Tensor, nn

from parity.checks.gradients.backward import backward
from parity.core.lockstep import TapFunction

VALUES = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64)
TIED = {"w": nn.Parameter(VALUES.clone())}


def tied(tap: TapFunction) -> Tensor:
    square = tap("square", TIED["w"] * TIED["w"])
    return tap("product", square * TIED["w"]).sum() + square.sum()


def seen_in(
    loss_of: object, parameters: dict[str, nn.Parameter], **more: float
) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}

    def see(name: str, gradient: Tensor) -> None:
        assert name not in seen
        seen[name] = gradient.clone()

    backward(loss_of, parameters, see, **more)  # type: ignore[arg-type]
    return seen


def test_all_paths_are_summed_before_a_gradient_is_shown() -> None:
    """The parameter's gradient is 3w^2 + 2w, that of the tap, which is used twice, w + 1."""
    seen = seen_in(tied, TIED)
    assert torch.equal(3 * VALUES**2 + 2 * VALUES, seen["w"])
    assert torch.equal(VALUES + 1, seen["square"])
    assert torch.equal(torch.ones_like(VALUES), seen["product"])


def test_gradients_are_shown_from_the_loss_backwards() -> None:
    assert list(seen_in(tied, TIED)) == ["product", "square", "w"]


def test_the_loss_is_returned_as_it_is() -> None:
    losses = [backward(tied, TIED, lambda *_: None, scale=scale) for scale in (1.0, 8.0)]
    assert [float((VALUES**3 + VALUES**2).sum())] * 2 == losses


def test_a_scale_makes_every_gradient_so_many_times_as_large() -> None:
    once, scaled = seen_in(tied, TIED), seen_in(tied, TIED, scale=8.0)
    assert once.keys() == scaled.keys()
    assert all(torch.equal(8.0 * once[name], scaled[name]) for name in once)


def test_the_way_forward_can_be_looked_at() -> None:
    looked: dict[str, Tensor] = {}
    backward(tied, TIED, lambda *_: None, look=looked.__setitem__)
    assert torch.equal(VALUES**2, looked["square"])
    assert not looked["square"].requires_grad


@pytest.mark.parametrize("required", [True, False])
def test_parameters_are_left_as_they_were(*, required: bool) -> None:
    parameter = nn.Parameter(VALUES.clone(), requires_grad=required)
    parameter.grad = 7.0 * VALUES
    seen = seen_in(lambda tap: tap("square", parameter * parameter).sum(), {"w": parameter})
    assert torch.equal(2 * VALUES, seen["w"])
    assert torch.equal(7.0 * VALUES, parameter.grad)
    assert (parameter.requires_grad, len(parameter._backward_hooks or {})) == (required, 0)


def test_parameters_are_left_as_they_were_by_a_model_that_raises() -> None:
    parameter, seen = nn.Parameter(VALUES.clone()), list[str]()

    def broken(_tap: TapFunction) -> Tensor:
        message = "broken"
        raise RuntimeError(message)

    with pytest.raises(RuntimeError, match="broken"):
        backward(broken, {"w": parameter}, lambda name, _gradient: seen.append(name))
    parameter.sum().backward()
    assert parameter.grad is not None
    assert seen == []


def test_a_tensor_without_history_shows_no_gradient() -> None:
    seen = seen_in(lambda tap: (tap("constant", VALUES) * TIED["w"]).sum(), TIED)
    assert {"w"} == set(seen)
