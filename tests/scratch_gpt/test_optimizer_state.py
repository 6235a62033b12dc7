"""An optimizer's state: taken up again, and refused in every point where it does not fit."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from scratch_gpt.errors import CheckpointError
from scratch_gpt.optimizer import Adam, OptimizerStateError

State = dict[str, Tensor | int]


def stepped(draw: Callable[..., Tensor], steps: int) -> Adam:
    """Return an optimizer of a matrix and a vector after some steps."""
    optimizer = Adam([("matrix", nn.Parameter(draw(3, 5))), ("bias", nn.Parameter(draw(7)))])
    for _ in range(steps):
        advance(optimizer, draw)
    return optimizer


def advance(optimizer: Adam, draw: Callable[..., Tensor]) -> None:
    """Make one step of fresh gradients."""
    for parameter in optimizer.parameters.values():
        parameter.grad = draw(*parameter.shape)
    optimizer.step(0.1)


def copied(state: State) -> State:
    """Return a state whose tensors are its own."""
    return {name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()}


def test_a_run_goes_on_as_if_never_stopped(draw: Callable[..., Tensor]) -> None:
    """Parameters and state taken up by a new optimizer give the same bits three steps later."""
    whole = stepped(draw, 2)
    state = copied(whole.state_dict())
    resumed = Adam((name, nn.Parameter(p.detach().clone())) for name, p in whole.parameters.items())
    resumed.load_state_dict(state)
    seed = torch.Generator().manual_seed(7)
    for _ in range(3):
        for name, p in whole.parameters.items():
            p.grad = torch.randn(p.shape, dtype=p.dtype, generator=seed)
            resumed.parameters[name].grad = p.grad.clone()
        whole.step(0.1)
        resumed.step(0.1)
    assert resumed.steps == whole.steps == 5
    assert all(torch.equal(p, resumed.parameters[name]) for name, p in whole.parameters.items())
    assert list(state) == [
        *("step", "first_moment.matrix", "second_moment.matrix"),
        *("first_moment.bias", "second_moment.bias"),
    ]


def test_what_was_taken_up_is_a_copy(draw: Callable[..., Tensor]) -> None:
    """The next step leaves the state that was given as it was."""
    optimizer = stepped(draw, 1)
    state = copied(optimizer.state_dict())
    kept = copied(state)
    optimizer.load_state_dict(state)
    advance(optimizer, draw)
    assert all(torch.equal(kept[n], v) for n, v in state.items() if isinstance(v, Tensor))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"step": None}, "step is missing"),
        ({"first_moment.bias": None}, "first_moment.bias is missing"),
        ({"first_moment.other": torch.ones(7)}, "'first_moment.other' belongs to no parameter"),
        ({"step": -1}, "step must be a whole number, at least 0, and is -1"),
        ({"step": True}, "step must be a whole number"),
        ({"step": torch.tensor(3)}, "step must be a whole number"),
        ({"first_moment.bias": 3}, "first_moment.bias must be a tensor and is 3"),
        ({"first_moment.matrix": torch.ones(5, 3).double()}, r"float64 \[5, 3\], expected"),
        ({"second_moment.bias": torch.ones(7)}, "is torch.float32 .* expected torch.float64"),
        (
            {"first_moment.bias": torch.full((7,), torch.nan).double()},
            "first_moment.bias has 7 values that are not finite",
        ),
        ({"second_moment.bias": -torch.ones(7).double()}, "second_moment.bias .* below 0"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_a_state_that_does_not_fit_is_refused_whole(
    change: dict[str, object], message: str, draw: Callable[..., Tensor]
) -> None:
    """What is wrong is named, the code is that of a refused input, and nothing was changed."""
    optimizer = stepped(draw, 1)
    before = copied(optimizer.state_dict())
    wrong = copied(stepped(draw, 2).state_dict()) | change
    state = {name: value for name, value in wrong.items() if value is not None}
    with pytest.raises(OptimizerStateError, match=message) as caught:
        optimizer.load_state_dict(state)
    assert isinstance(caught.value, CheckpointError)
    assert optimizer.steps == 1
    after = optimizer.state_dict()
    assert all(torch.equal(v, after[n]) for n, v in before.items() if isinstance(v, Tensor))


def test_all_that_is_wrong_is_counted(draw: Callable[..., Tensor]) -> None:
    """A state of nothing lacks every name: the first four in full, the rest as a number."""
    with pytest.raises(OptimizerStateError, match="; and 1 more"):
        stepped(draw, 1).load_state_dict({})
