"""Adam: both variants agree with an independent transcription and with torch; invalid input."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference import training_oracle
from reference.training_oracle import Constants
from scratch_gpt.errors import CheckpointError
from scratch_gpt.gradient_clipping import GradientError, clip_global_norm
from scratch_gpt.optimizer import Adam, OptimizerStateError

SHAPES = {"matrix": (7, 5), "gain": (5,), "table": (11, 3), "bias": (13,)}
LONG = {"matrix": (3, 70_001), "gain": (50_003,)}
STEPS = 12

Draw = Callable[..., Tensor]
Same = Callable[..., None]
Parameters = dict[str, nn.Parameter]
State = dict[str, Tensor | int]


@pytest.fixture
def parameters(draw: Draw) -> Parameters:
    return {name: nn.Parameter(draw(*shape)) for name, shape in SHAPES.items()}


def copied(parameters: Parameters) -> Parameters:
    return {name: nn.Parameter(p.detach().clone()) for name, p in parameters.items()}


def arrays(parameters: Parameters) -> dict[str, np.ndarray]:
    return {name: p.detach().numpy().copy() for name, p in parameters.items()}


def set_gradients(draw: Draw, *sides: Parameters, scale: float = 1.0) -> None:
    for name, p in sides[0].items():
        gradient = scale * draw(*p.shape).to(p.dtype)
        for side in sides:
            side[name].grad = gradient.clone()


def rate(step: int) -> float:
    return 0.1 * step / STEPS


@pytest.mark.parametrize("decayed", ["matrices", "all"])
@pytest.mark.parametrize("variant", ["openai", "adamw"])
def test_steps_agree_with_the_oracle(
    variant: str, decayed: str, parameters: Parameters, draw: Draw, assert_same: Same
) -> None:
    """Parameters and both moments agree after each of 12 steps, clipped and not."""
    vectors = decayed == "all"
    constants = Constants(variant=variant, b1=0.8, b2=0.95, e=0.01, l2=0.3, vector_l2=vectors)
    named = {"betas": (0.8, 0.95), "epsilon": 0.01, "weight_decay": 0.3, "variant": variant}
    ours = Adam(parameters.items(), decay_vectors=vectors, **named)
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


@pytest.mark.parametrize("form", ["single", "foreach"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
def test_adamw_equals_torch_bitwise(dtype: torch.dtype, form: str, draw: Draw) -> None:
    """Matrices that decay, vectors that do not; all longer than a run."""
    ours = {name: nn.Parameter(draw(*shape).to(dtype)) for name, shape in LONG.items()}
    theirs = copied(ours)
    optimizer = Adam(ours.items(), variant="adamw")
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": 0.01},
        {"params": [theirs["gain"]], "weight_decay": 0.0},
    ]
    against = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, foreach=form == "foreach")
    for step in range(3):
        set_gradients(draw, ours, theirs)
        for group in against.param_groups:
            group["lr"] = rate(step)
        optimizer.step(rate(step))
        against.step()
    assert all(torch.equal(theirs[name], p) for name, p in ours.items())


def test_the_variants_differ_at_small_gradients(parameters: Parameters, draw: Draw) -> None:
    """With gradients of 1e-6, five steps differ by about a quarter of their length."""
    other, before = copied(parameters), copied(parameters)
    ours = Adam(parameters.items(), weight_decay=0.0)
    adamw = Adam(other.items(), weight_decay=0.0, variant="adamw")
    for _ in range(5):
        set_gradients(draw, parameters, other, scale=1e-6)
        ours.step(1e-3)
        adamw.step(1e-3)
    apart, way = (
        math.hypot(*(float((one[name] - other[name]).detach().norm()) for name in one))
        for one in (parameters, before)
    )
    assert way / 5 < apart < way / 3


@pytest.mark.parametrize("threads", [2, 3])
def test_the_number_of_threads_changes_no_bit(threads: int) -> None:
    assert steps_with(threads) == steps_with(1)


def steps_with(threads: int) -> list[object]:
    """Return the norms, and the parameters' bytes after two steps, with this many threads."""
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


def test_takes_a_strided_gradient(parameters: Parameters, draw: Draw, assert_same: Same) -> None:
    other = copied(parameters)
    set_gradients(draw, parameters, other)
    other["matrix"].grad = other["matrix"].grad.T.contiguous().T
    assert not other["matrix"].grad.is_contiguous()
    for side in (parameters, other):
        clip_global_norm(side.items(), 0.5)
        Adam(side.items()).step(0.1)
    assert_same(parameters["matrix"], other["matrix"])


@pytest.mark.parametrize("what", ["has no gradient", "is sparse"])
def test_a_bad_gradient_changes_nothing(what: str, parameters: Parameters, draw: Draw) -> None:
    set_gradients(draw, parameters)
    sparse = torch.ones(SHAPES["bias"]).double().to_sparse()
    parameters["bias"].grad = sparse if what == "is sparse" else None
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
        ({"variant": "sgd"}, "variant must be one of"),
    ],
    ids=str,
)
def test_a_constant_out_of_range_is_rejected(
    named: dict[str, object], message: str, parameters: Parameters
) -> None:
    with pytest.raises(ValueError, match=message):
        Adam(parameters.items(), **named)


@pytest.mark.parametrize("wrong", [-0.1, math.nan, math.inf])
def test_an_invalid_learning_rate_is_rejected(wrong: float, parameters: Parameters) -> None:
    with pytest.raises(ValueError, match="the learning rate must be"):
        Adam(parameters.items()).step(wrong)


Pairs = list[tuple[str, nn.Parameter]]


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        (lambda _p: [], "no parameter"),
        (lambda p: [("a", p), ("b", p)], "b is the same tensor as a"),
        (lambda p: [("a", p), ("b", nn.Parameter(p.detach().view(-1)))], "b is the same tensor"),
        (lambda p: [("a", p), ("a", nn.Parameter(torch.ones(1)))], "a is the same tensor as a"),
        (lambda p: [("a", nn.Parameter(p.detach().T))], "contiguous"),
    ],
    ids=["none", "tied", "view", "one name", "strided"],
)
def test_invalid_parameters_are_rejected(
    pairs: Callable[[nn.Parameter], Pairs], message: str, parameters: Parameters
) -> None:
    with pytest.raises(ValueError, match=message):
        Adam(pairs(parameters["matrix"]))


def test_zero_grad_frees_all_gradients(parameters: Parameters, draw: Draw) -> None:
    set_gradients(draw, parameters)
    Adam(parameters.items()).zero_grad()
    assert all(p.grad is None for p in parameters.values())


def stepped(draw: Draw, steps: int) -> Adam:
    optimizer = Adam([("matrix", nn.Parameter(draw(3, 5))), ("bias", nn.Parameter(draw(7)))])
    for _ in range(steps):
        advance(optimizer, draw)
    return optimizer


def advance(optimizer: Adam, draw: Draw) -> None:
    for parameter in optimizer.parameters.values():
        parameter.grad = draw(*parameter.shape)
    optimizer.step(0.1)


def copied_state(state: State) -> State:
    return {name: v.clone() if isinstance(v, Tensor) else v for name, v in state.items()}


def test_a_resumed_optimizer_is_bitwise_the_same(draw: Draw) -> None:
    whole = stepped(draw, 2)
    state = copied_state(whole.state_dict())
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


def test_a_loaded_state_is_copied(draw: Draw) -> None:
    optimizer = stepped(draw, 1)
    state = copied_state(optimizer.state_dict())
    before = copied_state(state)
    optimizer.load_state_dict(state)
    advance(optimizer, draw)
    assert all(torch.equal(before[n], v) for n, v in state.items() if isinstance(v, Tensor))


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
def test_an_unfit_state_is_rejected(change: dict[str, object], message: str, draw: Draw) -> None:
    optimizer = stepped(draw, 1)
    before = copied_state(optimizer.state_dict())
    wrong = copied_state(stepped(draw, 2).state_dict()) | change
    state = {name: value for name, value in wrong.items() if value is not None}
    with pytest.raises(OptimizerStateError, match=message) as caught:
        optimizer.load_state_dict(state)
    assert isinstance(caught.value, CheckpointError)
    assert optimizer.steps == 1
    after = optimizer.state_dict()
    assert all(torch.equal(v, after[n]) for n, v in before.items() if isinstance(v, Tensor))


def test_many_problems_are_counted(draw: Draw) -> None:
    with pytest.raises(OptimizerStateError, match="; and 1 more"):
        stepped(draw, 1).load_state_dict({})
