"""One backward pass: the losses, the order of gradients, and their comparison."""

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients import backward as losses
from parity.checks.gradients.backward import REFERENCE, TRUTH, GradientComparator, backward
from parity.checks.gradients.taps import gradient_names
from parity.core.inputs import Inputs, from_rows
from parity.core.lockstep import Observations, TapFunction
from parity.core.metrics import Reference, Status
from parity.errors import InconclusiveError
from scratch_gpt import GPT

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


def test_the_forward_taps_can_be_observed() -> None:
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


LEFT = Inputs(
    token_ids=torch.tensor([[0, 0, 5, 9], [3, 8, 1, 2]]),
    positions=torch.tensor([[0, 0, 0, 1], [0, 1, 2, 3]]),
    attention_mask=torch.tensor([[False, False, True, True], [True] * 4]),
)
RIGHT = from_rows([[5, 9, 210], [3, 8, 1, 2]])
WHOLE = Inputs(token_ids=torch.tensor([[5, 9, 210, 0], [3, 8, 1, 2]]))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (WHOLE, [[True] * 3] * 2),
        (RIGHT, [[True, True, False], [True] * 3]),
        (LEFT, [[False, False, True], [True] * 3]),
    ],
    ids=["whole", "right", "left"],
)
def test_what_is_predicted(inputs: Inputs, expected: list[list[bool]]) -> None:
    assert expected == losses.predicted(inputs).tolist()


def mean_by_hand(logits: Tensor, inputs: Inputs) -> Tensor:
    each = [
        torch.logsumexp(logits[row, at], -1) - logits[row, at, inputs.token_ids[row, at + 1]]
        for row, at in losses.predicted(inputs).nonzero().tolist()
    ]
    return torch.stack(each).mean()


@pytest.mark.parametrize("inputs", [WHOLE, RIGHT, LEFT], ids=["whole", "right", "left"])
def test_both_sides_take_the_same_mean(
    inputs: Inputs, ours: GPT, theirs: OpenAIGPTLMHeadModel, assert_same: Callable[..., None]
) -> None:
    mine, other = copy.deepcopy(ours).double(), copy.deepcopy(theirs).double()
    for loss_of in (losses.of_candidate(mine, inputs), losses.of_huggingface(other, inputs)):
        shown: dict[str, Tensor] = {}
        loss = loss_of(shown.setdefault)
        assert_same(mean_by_hand(shown["logits"], inputs), loss)


def test_padding_does_not_change_the_loss(ours: GPT) -> None:
    other = RIGHT.token_ids.clone()
    other[0, 3] = 77
    changed = Inputs(token_ids=other, attention_mask=RIGHT.attention_mask)
    pair = [
        losses.of_candidate(ours, given)(lambda _name, value: value) for given in (RIGHT, changed)
    ]
    assert torch.equal(*pair)


def test_other_logits_than_tapped_are_rejected(ours: GPT) -> None:
    class Deceptive(torch.nn.Module):
        def forward(self, *given: object, tap: object) -> Tensor:
            return ours(*given, tap=tap) + 1.0  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="something else"):
        losses.of_candidate(Deceptive(), WHOLE)(lambda _name, value: value)


@pytest.mark.parametrize("rows", [[[5]], [[5], [9]]], ids=["one row", "two rows"])
def test_nothing_to_predict_is_refused(rows: list[list[int]]) -> None:
    with pytest.raises(InconclusiveError, match="no next token"):
        losses.check_predicted(from_rows(rows))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (from_rows([[5, 9]]), True),
        (from_rows([[5, 9], [7]]), True),
        (from_rows([[5, 9, 1]]), False),
        (from_rows([[5, 9], [7, 1, 1]]), False),
        (LEFT, False),
        (Inputs(token_ids=LEFT.token_ids[:1], attention_mask=LEFT.attention_mask[:1]), True),  # type: ignore[index]
    ],
)
def test_predictions_from_a_token_that_sees_itself_alone(inputs: Inputs, *, expected: bool) -> None:
    """With two real tokens in a row there is nothing to attend to."""
    assert expected is losses.sees_one_token(inputs)


def test_only_float16_begins_larger() -> None:
    """With a power of two that is at least the number of losses, and that float16 holds."""
    scales = {d: losses.scale_for(d, WHOLE) for d in (torch.float64, torch.float32, torch.bfloat16)}
    assert {1.0} == set(scales.values())
    long = Inputs(token_ids=torch.zeros(64, 512, dtype=torch.long))
    for inputs, count in ((WHOLE, 6), (long, 64 * 511)):
        scale = losses.scale_for(torch.float16, inputs)
        assert math.log2(scale).is_integer()
        assert scale >= count
        assert math.isfinite(float(torch.tensor(scale, dtype=torch.float16)))


PLAN = [
    place for place in gradient_names(1) if place.name in ("logits", "h.0.ln_2", "h.0.ln_2.weight")
]
TRUE = torch.tensor([[3.0, -4.0]], dtype=torch.float64)


def comparator(dtype: torch.dtype = torch.float64, scale: float = 1.0) -> GradientComparator:
    return GradientComparator(
        name="ours",
        dtype=dtype,
        plan=PLAN,
        known=frozenset(place.name for place in gradient_names(1)),
        truths={place.name: Reference(TRUE) for place in PLAN},
        found=Observations(),
        look=lambda *_: None,
        scale=scale,
    )


def status(run: GradientComparator, name: str) -> Status:
    return run.found.differences[run.name, name, TRUTH].status


def test_a_float64_gradient_is_compared_with_both() -> None:
    run = comparator()
    run.see("logits", TRUE + 1e-3)
    seen = [run.found.differences["ours", "logits", side] for side in (TRUTH, REFERENCE)]
    assert all(math.isclose(1e-3, difference.rms) for difference in seen)


def test_a_float32_gradient_has_no_float64_row() -> None:
    run = comparator(torch.float32)
    run.see("logits", TRUE.float())
    assert list(run.found.differences) == [("ours", "logits", TRUTH)]


def test_another_dtype_is_its_own_finding() -> None:
    for scale in (1.0, 4.0):
        run = comparator(scale=scale)
        run.see("logits", TRUE.float())
        assert status(run, "logits") is Status.DTYPE


def test_a_scaled_gradient_is_brought_back_to_size() -> None:
    run = comparator(torch.float16, scale=2.0**14)
    tiny = TRUE * 2.0**-26
    run.truths = {"logits": Reference(tiny)}
    run.see("logits", (tiny * run.scale).half())
    assert run.found.differences["ours", "logits", TRUTH].largest == 0.0


def test_an_unknown_or_repeated_gradient_is_extra() -> None:
    run = comparator()
    for name in ("h.0.mlp.wrong", "logits", "logits", "h.0.attn"):
        run.see(name, TRUE)
    assert run.found.extras == {"ours": ["h.0.mlp.wrong", "logits"]}


def test_a_planned_gradient_that_never_came_is_missing() -> None:
    run = comparator()
    run.see("logits", TRUE)
    run.finish({}, None)
    assert [status(run, n) for n in ("logits", "h.0.ln_2")] == [Status.PASS, Status.MISSING]


def test_a_parameter_that_is_not_there_is_not_run() -> None:
    run = comparator()
    run.finish({"h.0.ln_2.weight": "no such parameter"}, None)
    seen = run.found.differences["ours", "h.0.ln_2.weight", TRUTH]
    assert (seen.status, seen.detail) == (Status.NOT_RUN, "no such parameter")


def test_the_rest_of_a_broken_run_is_not_run() -> None:
    run = comparator()
    run.see("logits", TRUE)
    run.finish({}, "RuntimeError: no")
    seen = run.found.differences["ours", "h.0.ln_2", TRUTH]
    assert (seen.status, "RuntimeError: no" in seen.detail) == (Status.NOT_RUN, True)
    assert status(run, "logits") is Status.PASS


def test_without_a_reference_nothing_is_compared() -> None:
    run = comparator()
    run.truths = {}
    run.see("logits", TRUE)
    run.finish({}, None)
    assert status(run, "logits") is Status.NOT_RUN


def test_not_a_number_is_its_own_finding() -> None:
    run = comparator()
    broken: Tensor = TRUE.clone()
    broken[0, 1] = math.nan
    run.see("logits", broken)
    assert status(run, "logits") is Status.NONFINITE
