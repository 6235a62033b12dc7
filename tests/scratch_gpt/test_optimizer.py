"""Adam: both forms beside an independent transcription and beside torch, and what it refuses."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference import training_oracle
from reference.training_oracle import Constants
from scratch_gpt.gradient_clipping import GradientError, clip_global_norm
from scratch_gpt.optimizer import Adam

SHAPES = {"matrix": (7, 5), "gain": (5,), "table": (11, 3), "bias": (13,)}
LONG = {"matrix": (3, 70_001), "gain": (50_003,)}
STEPS = 12

Draw = Callable[..., Tensor]
Parameters = dict[str, nn.Parameter]


@pytest.fixture
def parameters(draw: Draw) -> Parameters:
    """Return two matrices and two vectors, float64."""
    return {name: nn.Parameter(draw(*shape)) for name, shape in SHAPES.items()}


def copied(parameters: Parameters) -> Parameters:
    """Return parameters of the same values with storage of their own."""
    return {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}


def arrays(parameters: Parameters) -> dict[str, np.ndarray]:
    """Return the values as NumPy arrays."""
    return {name: p.detach().numpy().copy() for name, p in parameters.items()}


def set_gradients(draw: Draw, *sides: Parameters, scale: float = 1.0) -> None:
    """Give every side the same fresh gradients, each in its own copy."""
    for name, p in sides[0].items():
        gradient = scale * draw(*p.shape).to(p.dtype)
        for side in sides:
            side[name].grad = gradient.clone()


def rate(step: int) -> float:
    """Return a rate that is another one each step, the first of them 0."""
    return 0.1 * step / STEPS


@pytest.mark.parametrize("vectors", [False, True], ids=["matrices", "all"])
@pytest.mark.parametrize("form", ["released", "adamw"])
def test_many_steps_are_the_transcription_s(
    form: str,
    vectors: bool,  # noqa: FBT001
    parameters: Parameters,
    draw: Draw,
    assert_same: Callable[..., None],
) -> None:
    """Parameters and both moments agree after each of a dozen steps, clipped and unclipped."""
    constants = Constants(form=form, b1=0.8, b2=0.95, e=0.01, l2=0.3, vector_l2=vectors)
    ours = Adam(
        parameters.items(),
        betas=(0.8, 0.95),
        epsilon=0.01,
        weight_decay=0.3,
        decay_vectors=vectors,
        form=form,
    )
    state = training_oracle.begin(arrays(parameters))
    for step in range(STEPS):
        set_gradients(draw, parameters, scale=1.0 if step % 2 else 0.01)
        gradients = {name: p.grad.numpy().copy() for name, p in parameters.items()}
        clip_global_norm(parameters.items(), constants.max_grad_norm)
        ours.step(rate(step))
        state = training_oracle.step(state, gradients, rate(step), constants)
        found = ours.state_dict()
        for name, p in parameters.items():
            assert_same(state.parameters[name], p)
            assert_same(state.first[name], found[f"first_moment.{name}"])
            assert_same(state.second[name], found[f"second_moment.{name}"])
    assert state.t == ours.steps == STEPS


@pytest.mark.parametrize("foreach", [False, True], ids=["single", "foreach"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_the_adamw_form_is_torch_s_to_the_bit(
    dtype: torch.dtype,
    foreach: bool,  # noqa: FBT001
    draw: Draw,
) -> None:
    """Matrices that decay and vectors that do not are AdamW's bits, with ours in runs."""
    ours = {name: nn.Parameter(draw(*shape).to(dtype)) for name, shape in LONG.items()}
    theirs = copied(ours)
    optimizer = Adam(ours.items(), form="adamw")
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": 0.01},
        {"params": [theirs["gain"]], "weight_decay": 0.0},
    ]
    against = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, foreach=foreach)
    for step in range(3):
        set_gradients(draw, ours, theirs)
        for group in against.param_groups:
            group["lr"] = rate(step)
        optimizer.step(rate(step))
        against.step()
    assert all(torch.equal(theirs[name], p) for name, p in ours.items())


def test_the_forms_part_by_a_quarter_of_the_way(parameters: Parameters, draw: Draw) -> None:
    """Of gradients of 1e-6, five steps as released have gone about a quarter another way."""
    other, before = copied(parameters), copied(parameters)
    ours = Adam(parameters.items(), weight_decay=0.0)
    adamw = Adam(other.items(), weight_decay=0.0, form="adamw")
    for _ in range(5):
        set_gradients(draw, parameters, other, scale=1e-6)
        ours.step(1e-3)
        adamw.step(1e-3)
    apart, way = distance(parameters, other), distance(other, before)
    assert way / 5 < apart < way / 3


def distance(one: Parameters, other: Parameters) -> float:
    """Return the length of the difference of two sets of parameters."""
    return math.hypot(*(float((p - other[name]).detach().norm()) for name, p in one.items()))


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    """Tensors longer than a run come out as with one thread, the norm too."""
    assert steps_with(threads) == steps_with(1)


def steps_with(threads: int) -> list[object]:
    """Return the norms and the bytes of parameters after steps made with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        generator = torch.Generator().manual_seed(3)
        made = {n: nn.Parameter(torch.randn(s, generator=generator)) for n, s in LONG.items()}
        optimizer, norms = Adam(made.items()), []
        for _ in range(2):
            for p in made.values():
                p.grad = torch.randn(p.shape, generator=generator)
            norms.append(clip_global_norm(made.items(), 1.0))
            optimizer.step(0.01)
        return [*norms, *(p.detach().numpy().tobytes() for p in made.values())]
    finally:
        torch.set_num_threads(before)


def test_half_precision_steps_in_float32(draw: Draw) -> None:
    """A bfloat16 parameter is the float32 one's step, rounded; its moments stay float32."""
    narrow = {"matrix": nn.Parameter(draw(7, 5).bfloat16())}
    wide = {"matrix": nn.Parameter(narrow["matrix"].detach().float())}
    gradient = draw(7, 5).bfloat16()
    narrow["matrix"].grad, wide["matrix"].grad = gradient, gradient.float()
    optimizers = [Adam(side.items()) for side in (narrow, wide)]
    for optimizer in optimizers:
        optimizer.step(0.1)
    assert torch.equal(narrow["matrix"], wide["matrix"].bfloat16())
    first, second = (optimizer.state_dict() for optimizer in optimizers)
    assert all(torch.equal(first[n], second[n]) for n in second if n != "step")
    assert first["first_moment.matrix"].dtype == torch.float32


def test_a_gradient_of_another_layout_is_read_by_place(
    parameters: Parameters, draw: Draw, assert_same: Callable[..., None]
) -> None:
    """A transposed gradient steps each element by its own."""
    other = copied(parameters)
    set_gradients(draw, parameters, other)
    other["matrix"].grad = other["matrix"].grad.T.contiguous().T
    assert not other["matrix"].grad.is_contiguous()
    for side in (parameters, other):
        clip_global_norm(side.items(), 0.5)
        Adam(side.items()).step(0.1)
    assert_same(parameters["matrix"], other["matrix"])


@pytest.mark.parametrize(
    ("broken", "what"),
    [
        pytest.param(lambda p: setattr(p, "grad", None), "has no gradient", id="none"),
        pytest.param(
            lambda p: setattr(p, "grad", torch.ones(p.shape).double().to_sparse()),
            "is sparse",
            id="sparse",
        ),
    ],
)
def test_a_step_without_every_gradient_changes_nothing(
    broken: Callable[[nn.Parameter], None], what: str, parameters: Parameters, draw: Draw
) -> None:
    """The parameter is named, and those before it have not moved."""
    set_gradients(draw, parameters)
    broken(parameters["bias"])
    before = arrays(parameters)
    optimizer = Adam(parameters.items())
    with pytest.raises(GradientError, match=what) as caught:
        optimizer.step(0.1)
    assert (caught.value.where, optimizer.steps) == ("bias", 0)
    assert all(np.array_equal(before[name], p.detach()) for name, p in parameters.items())


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"betas": (1.0, 0.9)}, "betas"),
        ({"betas": (0.9, -0.1)}, "betas"),
        ({"epsilon": 0.0}, "epsilon"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": math.nan}, "weight_decay"),
        ({"form": "sgd"}, "form must be one of"),
    ],
    ids=str,
)
def test_a_constant_outside_its_range_is_refused(
    named: dict[str, object], message: str, parameters: Parameters
) -> None:
    """The constant is named, with what was given."""
    with pytest.raises(ValueError, match=message):
        Adam(parameters.items(), **named)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_a_learning_rate_that_is_none_is_refused(wrong: float, parameters: Parameters) -> None:
    """A rate is finite and not negative."""
    with pytest.raises(ValueError, match="the learning rate must be"):
        Adam(parameters.items()).step(wrong)


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        pytest.param(lambda _p: [], "no parameter", id="none"),
        pytest.param(lambda p: [("a", p), ("b", p)], "b is the same tensor as a", id="tied"),
        pytest.param(
            lambda p: [("a", p), ("b", nn.Parameter(p.detach().view(-1)))],
            "b is the same tensor as a",
            id="view",
        ),
        pytest.param(
            lambda p: [("a", p), ("a", nn.Parameter(torch.ones(1)))],
            "a is the same tensor as a",
            id="one name",
        ),
        pytest.param(lambda p: [("a", nn.Parameter(p.detach().T))], "contiguous", id="strided"),
    ],
)
def test_parameters_that_would_go_wrong_are_refused(
    pairs: Callable[[nn.Parameter], list[tuple[str, nn.Parameter]]],
    message: str,
    parameters: Parameters,
) -> None:
    """A tied tensor is never stepped twice, and a layout that runs cannot follow is named."""
    with pytest.raises(ValueError, match=message):
        Adam(pairs(parameters["matrix"]))


def test_gradients_are_let_go(parameters: Parameters, draw: Draw) -> None:
    """After `zero_grad` there is no gradient left."""
    set_gradients(draw, parameters)
    Adam(parameters.items()).zero_grad()
    assert all(p.grad is None for p in parameters.values())
