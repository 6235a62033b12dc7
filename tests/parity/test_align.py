"""Parameters and activations are found by value, however a model names and arranges them."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.align import (
    Alignment,
    Cuts,
    Layout,
    Place,
    Target,
    allowed_rounding,
    departures,
    events_before,
    find_activations,
    find_layout,
    fitting,
    is_canonical,
    match_parameters,
    write_target,
)
from parity.checkpoints.weights import Weights
from parity.watch import Number, Trace, replay, watch

BLOCK = "h.3.attn.c_attn"
NO_CUTS: Cuts = MappingProxyType({})


@pytest.fixture(scope="module")
def reference(weights: Weights) -> dict[str, Tensor]:
    return {name: torch.tensor(array) for name, array in weights.tensors.items()}


def lines(candidate: dict[str, Tensor], reference: dict[str, Tensor]) -> list[str]:
    return [str(match) for match in match_parameters(candidate, reference)]


def test_slices_turned_and_joined_tensors_are_found(reference: dict[str, Tensor]) -> None:
    weight, bias = reference[f"{BLOCK}.weight"], reference[f"{BLOCK}.bias"]
    width, heads = weight.shape[0], 3
    query, key, value = weight.split(width, 1)
    tables = [reference["tokens_embed.weight"], reference["positions_embed.weight"]]
    projection = reference["h.3.attn.c_proj.weight"]
    head = width // heads
    candidate = {
        "q": query.T.double(),
        "k": key,
        "k_bias": bias[width : 2 * width],
        "all_bias": bias,
        "q_by_head": query.unflatten(1, (heads, -1)).permute(1, 0, 2),
        "q_bias_by_head": bias[:width].view(heads, -1),
        "third_head": query[:, 2 * head :].T,
        "in_proj": weight.T,
        "swapped": torch.cat([key, query, value], 1).T,
        "out_by_head": projection.view(heads, -1, width),
        "out": projection.T,
        "table": torch.cat(tables),
        "padded": torch.cat([tables[0], torch.zeros(7, width)]),
        "norms": torch.cat([reference["h.1.ln_1.bias"], reference["h.1.ln_2.bias"]]),
    }
    assert lines(candidate, reference) == [
        f"q = {BLOCK}.weight[:, :21].T",
        f"k = {BLOCK}.weight[:, 21:42]",
        f"k_bias = {BLOCK}.bias[21:42]",
        f"all_bias = {BLOCK}.bias",
        f"q_by_head = {BLOCK}.weight[:, :21]",
        f"q_bias_by_head = {BLOCK}.bias[:21]",
        f"third_head = {BLOCK}.weight[:, 14:21].T",
        f"in_proj = {BLOCK}.weight.T",
        (
            f"swapped = cat({BLOCK}.weight[:, 21:42].T, {BLOCK}.weight[:, :21].T, "
            f"{BLOCK}.weight[:, 42:63].T)"
        ),
        "out_by_head = h.3.attn.c_proj.weight",
        "out = h.3.attn.c_proj.weight.T",
        "table = cat(tokens_embed.weight, positions_embed.weight)",
        "padded = tokens_embed.weight, 7 more lines",
        "norms = cat(h.1.ln_1.bias, h.1.ln_2.bias)",
    ]


def test_what_matches_nothing_is_reported(reference: dict[str, Tensor]) -> None:
    """One wrong element is enough."""
    wrong = reference["h.3.mlp.c_fc.weight"].clone()
    wrong[4, 5] += 1e-6
    candidate = {
        "wrong": wrong,
        "wrong_bias": reference["h.3.mlp.c_fc.bias"] * 1.1,
        "mask": torch.ones(5, 5),
        "steps": torch.tensor([3]),
    }
    assert lines(candidate, reference) == [
        "wrong [21, 84]: no match",
        "wrong_bias [84]: no match",
        "mask [5, 5]: 1 throughout",
    ]


def test_a_vector_is_made_of_vectors_alone(reference: dict[str, Tensor]) -> None:
    """Not of a row or a column of a matrix."""
    weight = reference["h.3.attn.c_proj.weight"]
    bias = reference["h.3.attn.c_proj.bias"]
    candidate = {"row": weight[2], "column": weight[:, 2], "bias": bias}
    found = match_parameters(candidate, reference)
    assert [str(match) for match in found] == [
        "row [21]: no match",
        "column [21]: no match",
        "bias = h.3.attn.c_proj.bias",
    ]
    assert [(match.padding, match.axis) for match in found] == [(0, 0)] * 3


# Activations.


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Model(nn.Module):
    def __init__(self, function: Callable[[], object]) -> None:
        super().__init__()
        self.function = function

    def forward(self) -> object:
        return self.function()


def aligned(
    function: Callable[[], object], targets: Sequence[Target], cuts: Cuts = NO_CUTS
) -> tuple[Trace, Alignment]:
    model = Model(function)

    def write(number: Number, tensor: Tensor) -> None:
        if number in cuts:
            write_target(tensor, *cuts[number])

    trace = watch(model, model, write)
    return trace, find_activations(trace, targets, partial(replay, model, model), cuts)


def departed(
    function: Callable[[], object], targets: Sequence[Target], cuts: Cuts = NO_CUTS
) -> dict[str, str | None]:
    """Return the kernel of the operation at each target that is missing."""
    trace, alignment = aligned(function, targets, cuts)
    right = events_before(trace, alignment, cuts)
    found = departures(trace, targets, alignment, cuts, right)
    return {one.target: one.event and one.event.kernel for one in found}


HEADS = random(2, 3, 5, 4)
"""Batch, head, time, head width: no two are equal."""

ARRANGED = {
    "as it is": HEADS,
    "[batch time head width]": HEADS.transpose(1, 2).contiguous(),
    "[batch time (head width)]": HEADS.transpose(1, 2).reshape(2, 5, 12),
    "[batch head width time]": HEADS.transpose(2, 3),
    "[(batch head) time width]": HEADS.reshape(6, 5, 4),
    "[time batch (head width)]": HEADS.permute(2, 0, 1, 3).reshape(5, 2, 12),
    "one row": HEADS.reshape(-1),
}
REORDERED = {
    "[head time width] read as [time width]": HEADS.reshape(2, 5, 12),
    "heads reversed": HEADS.flip(1),
    "heads interleaved": HEADS.permute(0, 2, 3, 1).reshape(2, 5, 12).unflatten(-1, (3, 4)),
    "time reversed": HEADS.flip(2),
    "one element changed": HEADS + 1e-8 * HEADS.eq(HEADS.max()),
}


@pytest.mark.parametrize("name", ARRANGED)
def test_a_tensor_is_found_in_any_arrangement(name: str) -> None:
    target = Target(name="heads", value=HEADS)
    _, alignment = aligned(lambda: ARRANGED[name] * 1.0, [target])
    (place,) = alignment.found["heads"]
    assert place.error == 0.0
    assert torch.equal(place.layout.restore(ARRANGED[name]), HEADS)
    assert torch.equal(place.layout.arrange(HEADS, ARRANGED[name].shape), ARRANGED[name])


@pytest.mark.parametrize("name", REORDERED)
def test_the_same_numbers_in_another_order_are_not_found(name: str) -> None:
    _, alignment = aligned(lambda: REORDERED[name] * 1.0, [Target(name="heads", value=HEADS)])
    assert "heads" not in alignment.found


@pytest.mark.parametrize(
    ("sizes", "shape", "expected"),
    [
        ((2, 3, 5, 4), (2, 3, 20), True),
        ((2, 3, 5, 4), (30, 4), True),
        ((2, 60), (2, 3, 5, 4), True),  # an axis is split
        ((2, 3, 5, 4), (2, 1, 3, 5, 4), True),
        ((2, 3, 5, 4), (2, 5, 12), False),
        ((2, 3, 5, 4), (4, 30), False),
    ],
)
def test_whole_axes_are_joined_or_split(
    sizes: Sequence[int], shape: Sequence[int], *, expected: bool
) -> None:
    assert is_canonical(sizes, shape) is expected


@pytest.mark.parametrize(("axis", "count"), [(0, 2), (1, 3)], ids=["rows", "heads"])
@pytest.mark.parametrize("wrong", [None, 1])
def test_rows_and_heads_may_be_computed_one_by_one(
    wrong: int | None, axis: int, count: int
) -> None:
    target = Target(name="heads", value=HEADS, heads=1)
    parts = [HEADS.select(axis, i) + (1e-6 if i == wrong else 0.0) for i in range(count)]
    _, alignment = aligned(lambda: [part * 1.0 for part in parts], [target])
    found = [place.part for place in alignment.found.get("heads", ())]
    assert found == ([(axis, i) for i in range(count)] if wrong is None else [])


@pytest.mark.parametrize(
    ("row", "causal", "expected"),
    [(None, True, True), (3, True, False), (None, False, False)],
)
def test_above_the_diagonal_a_mask_may_hold_anything(
    row: int | None, *, causal: bool, expected: bool
) -> None:
    scores = random(2, 5, 5)
    masked = scores.masked_fill(~torch.ones(5, 5).tril().bool(), -1e4)
    if row is not None:
        masked[1, row, 2] += 1e-6
    target = Target(name="scores", value=scores, causal=causal)
    _, alignment = aligned(lambda: masked * 1.0, [target])
    assert ("scores" in alignment.found) is expected


def test_of_a_causal_target_only_entries_below_the_diagonal_count() -> None:
    target = Target(name="scores", value=random(2, 5, 5))
    assert target.counts().all()
    counts = Target(name="scores", value=target.value, causal=True).counts()
    assert torch.equal(counts, torch.ones(5, 5).tril().bool().expand(2, 5, 5))


X = random(2, 5, 6)
CHAIN = [
    Target(name="a", value=X.exp()),
    Target(name="b", value=X.exp().sin(), inputs=["a"]),
    Target(name="c", value=X.exp().sin().tanh(), inputs=["b"]),
    Target(name="d", value=X.exp().sin().tanh() + X.exp(), inputs=["a", "c"]),
]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        pytest.param(lambda: X.exp().sin().tanh() + X.exp(), {}, id="right"),
        pytest.param(lambda: CHAIN[2].value * 1.0 + X.exp(), {}, id="b is not formed"),
        pytest.param(lambda: X.exp().cos().tanh() + X.exp(), {"b": "cos"}, id="cos for sin"),
        pytest.param(lambda: X.exp().tanh() + X.exp(), {"b": "tanh"}, id="no sin"),
        pytest.param(lambda: X.exp().sin().tanh() + X, {"d": "add"}, id="another sum"),
        pytest.param(lambda: X.exp().sin().tanh(), {"d": None}, id="nothing behind c"),
        pytest.param(lambda: X.cosh().sin().tanh(), {"a": "cosh"}, id="nothing right"),
    ],
)
def test_a_departure_is_the_first_missing_target_with_its_inputs(
    function: Callable[[], object], expected: Mapping[str, str | None]
) -> None:
    assert departed(function, CHAIN) == expected


def test_what_follows_a_replaced_output_is_no_proof_of_what_is_before_it() -> None:
    """In a row of a, b, c and d, b is wrong and c is replaced; d is right, and b is not."""
    row = [*CHAIN[:3], Target(name="d", value=CHAIN[2].value.cosh(), inputs=["c"])]

    def wrong() -> Tensor:
        return X.exp().cos().tanh().cosh()

    trace, _ = aligned(wrong, row)
    (made,) = (event.number for event in trace.events if event.kernel == "tanh")
    layout = Layout((0, 1, 2), tuple(X.shape))
    cuts = {made: (row[2], Place(number=made, layout=layout, part=None, error=0.0))}
    _, alignment = aligned(wrong, row, cuts)
    assert list(alignment.found) == ["a", "d"]
    assert departed(wrong, row, cuts) == {"b": "cos"}


Q, K, V = (random(2, 5, 8, seed=seed) for seed in (1, 2, 3))
NORM = nn.LayerNorm(8, eps=1e-5).double().requires_grad_(False)
SCORES = Q @ K.mT
CONTEXT = SCORES.softmax(-1) @ V
NARROW = [
    Target(name="scores", value=SCORES),
    Target(name="weights", value=SCORES.softmax(-1), inputs=["scores"]),
    Target(name="context", value=CONTEXT, inputs=["weights"]),
    Target(name="norm", value=NORM(CONTEXT), inputs=["context"]),
    Target(name="gelu", value=functional.gelu(NORM(CONTEXT), approximate="tanh"), inputs=["norm"]),
]


def narrow_inside(
    eps: float = 1e-5, approximate: str = "tanh", factor: float = 1.0, nudge: float = 0.0
) -> Callable[[], Tensor]:
    """Return a forward pass with its softmax in float32."""

    def run() -> Tensor:
        weights = (Q @ K.mT).float().softmax(-1)
        if nudge:
            weights[0, 1, 2] += nudge
        weights = weights.double() * factor
        normed = functional.layer_norm(weights @ V, (8,), NORM.weight, NORM.bias, eps)
        return functional.gelu(normed, approximate=approximate)

    return run


def test_float32_inside_is_accepted_and_named() -> None:
    trace, alignment = aligned(narrow_inside(), NARROW)
    assert list(alignment.found) == [target.name for target in NARROW]
    made = {event.number: event for event in trace.events}
    assert {alignment.narrow[number] for number in alignment.narrow} == {"scores", "weights"}
    assert {str(made[number].narrow) for number in alignment.narrow} == {"torch.float32"}
    for name in ("context", "norm", "gelu"):  # behind it the run goes on with the right weights
        assert max(place.error for place in alignment.found[name]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("by_head", [False, True])
def test_half_precision_inside_is_accepted_as_well(dtype: torch.dtype, *, by_head: bool) -> None:
    """It moves a tensor by more than its fingerprint may differ in float32."""
    parts = list(HEADS.unbind(1)) if by_head else [HEADS]
    target = Target(name="heads", value=HEADS, heads=1)
    _, alignment = aligned(lambda: [part.to(dtype).double() for part in parts], [target])
    assert {place.part for place in alignment.found["heads"]} == (
        {(1, i) for i in range(3)} if by_head else {None}
    )
    assert set(alignment.narrow.values()) == {"heads"}


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({"approximate": "none"}, {"gelu": "gelu"}),
        ({"eps": 2e-5}, {"norm": "native_layer_norm"}),
        ({"factor": 1.0 + 1e-5}, {"context": "mul"}),
        ({"nudge": 1e-5}, {"context": "add_"}),
    ],
)
def test_a_fault_behind_float32_is_found(
    wrong: Mapping[str, Any], expected: Mapping[str, str]
) -> None:
    assert departed(narrow_inside(**wrong), NARROW) == expected


# The limits, from both sides.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_a_narrow_operation_may_be_32_roundings_off(dtype: torch.dtype) -> None:
    assert allowed_rounding(dtype) == 32 * torch.finfo(dtype).eps / 2


@pytest.mark.parametrize(("times", "found"), [(0.9, True), (1.1, False)])
@pytest.mark.parametrize("limit", [None, 1e-4])
@pytest.mark.parametrize("size", [1e-100, 1.0, 1e3])
def test_a_tensor_may_be_off_by_a_limit_over_its_rms(
    size: float, limit: float | None, times: float, *, found: bool
) -> None:
    value = HEADS * size
    step = times * (limit or 1e-9) * float(HEADS.square().mean().sqrt()) * size
    given = value.transpose(1, 2).clone()
    given[1, 2, 0, 3] -= step
    layout, error = find_layout(given, value, **({} if limit is None else {"limit": limit}))
    assert layout == (Layout((0, 2, 1, 3), (2, 3, 5, 4)) if found else None)
    assert math.isclose(error, times * (limit or 1e-9), rel_tol=1e-3) if found else error > 1.0


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_a_value_in_float32_is_measured_in_float64(size: float) -> None:
    """Its squares do not fit into float32."""
    value = HEADS.float() * size
    layout, error = find_layout(value.double() * (1 + 1e-6), value, limit=1e-5)
    assert layout == Layout((0, 1, 2, 3), (2, 3, 5, 4))
    assert 1e-6 < error < 1e-5
    assert find_layout(value.double() * 1.1, value) == (None, math.inf)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_the_same_number_that_is_not_finite_is_no_difference(number: float) -> None:
    value = HEADS.clone()
    value[0, 1, 2, 3] = number
    assert find_layout(value.clone(), value) == (Layout((0, 1, 2, 3), (2, 3, 5, 4)), 0.0)
    for given in (HEADS, -value, value.roll(1)):
        assert find_layout(given, value) == (None, math.inf)


def test_another_number_of_elements_or_the_wrong_axes_have_no_layout() -> None:
    assert find_layout(HEADS[:1], HEADS) == (None, math.inf)
    assert find_layout(HEADS.reshape(4, 30), HEADS) == (None, math.inf)
    zeros = torch.zeros_like(HEADS)
    assert find_layout(zeros, zeros) == (Layout((0, 1, 2, 3), (2, 3, 5, 4)), 0.0)
    assert find_layout(zeros + 1e-300, zeros)[0] is None


def test_a_causal_tensor_is_measured_over_the_entries_that_count() -> None:
    scores = random(2, 5, 5)
    counts = torch.ones(5, 5).tril().bool()
    rms = float(scores[:, counts].square().mean().sqrt())
    masked = scores.masked_fill(~counts, -1e4)
    masked[1, 4, 4] += 1e-6
    layout, error = find_layout(masked, scores.masked_fill(~counts, 1e4), causal=True, limit=1e-4)
    assert layout == Layout((0, 1, 2), (2, 5, 5))
    assert math.isclose(error, 1e-6 / rms, rel_tol=1e-6)


def test_an_event_may_be_a_target_by_its_shape() -> None:
    target = Target(name="heads", value=HEADS)
    functions = {
        (2, 5, 12): Layout((0, 2, 1, 3), (2, 3, 5, 4)),
        (2, 3, 20): Layout((0, 1, 2, 3), (2, 3, 5, 4)),
        (4, 30): Layout((3, 0, 1, 2), (2, 3, 5, 4)),
        (8, 15): Layout((0, 3, 1, 2), (2, 3, 5, 4)),
        (7, 18): None,
    }
    for shape, expected in functions.items():
        trace, _ = aligned(lambda shape=shape: torch.ones(shape, dtype=torch.float64).sin(), [])
        event = next(one for one in trace.events if one.kernel == "sin")
        assert fitting(event, target) == expected


def test_a_target_is_written_as_the_candidate_has_it() -> None:
    layout = Layout((0, 2, 1, 3), (2, 3, 5, 4))
    place = Place(number=0, layout=layout, part=None, error=0.0)
    tensor = torch.zeros(2, 5, 12, dtype=torch.float32)
    write_target(tensor, Target(name="heads", value=HEADS), place)
    assert torch.equal(tensor, HEADS.transpose(1, 2).reshape(2, 5, 12).float())
    repeated = torch.zeros(1, 1, 1, dtype=torch.float64).expand(2, 5, 12)
    write_target(repeated, Target(name="heads", value=HEADS), place)
    assert not repeated.any()
    head = Place(number=0, layout=Layout((0, 1, 2), (2, 5, 4)), part=(1, 2), error=0.0)
    tensor = torch.zeros(2, 5, 4, dtype=torch.float64)
    write_target(tensor, Target(name="heads", value=HEADS, heads=1), head)
    assert torch.equal(tensor, HEADS[:, 2])


def test_what_a_mask_holds_stays_when_a_causal_target_is_written() -> None:
    scores = random(2, 5, 5)
    place = Place(number=0, layout=Layout((1, 0, 2), (2, 5, 5)), part=None, error=0.0)
    tensor = torch.full((5, 2, 5), -7.0, dtype=torch.float64)
    write_target(tensor, Target(name="scores", value=scores, causal=True), place)
    counts = torch.ones(5, 5).tril().bool()
    assert torch.equal(tensor.transpose(0, 1), scores.where(counts, torch.tensor(-7.0).double()))


def test_behind_a_narrow_operation_the_result_may_be_off_by_its_rounding() -> None:
    _, right = aligned(lambda: HEADS * 1.0, [Target(name="heads", value=HEADS)])
    assert (right.limit, right.narrow) == (1e-9, {})
    for dtype in (torch.float32, torch.bfloat16):
        _, narrow = aligned(lambda dtype=dtype: (HEADS.to(dtype) * 3.0).sin(), [])
        assert narrow.limit == allowed_rounding(dtype)
        assert narrow.result.dtype is dtype


def test_the_first_place_alone_is_looked_for() -> None:
    target = Target(name="heads", value=HEADS)
    model = Model(lambda: (HEADS * 1.0 * 1.0).transpose(1, 2) * 1.0)
    trace = watch(model, model, lambda *_seen: None)
    numbers = []
    for first in (False, True):
        again = partial(replay, model, model)
        found = find_activations(trace, [target], again, NO_CUTS, first=first).found
        numbers.append([place.number for place in found["heads"]])
    every, one = numbers
    assert len(every) > 1
    assert one == every[:1]


def test_a_wrong_mask_is_named_and_not_what_takes_the_masked_scores() -> None:
    scores = random(2, 5, 5, seed=4)
    hidden = ~torch.ones(5, 5).tril().bool()
    right = scores.masked_fill(hidden, -1e4).softmax(-1)
    targets = [
        Target(name="scores", value=scores, causal=True),
        Target(name="weights", value=right, inputs=["scores"]),
    ]
    a_line_off = hidden.roll(1, 1)
    expected = {"weights": "masked_fill"}
    made = departed(
        lambda: (scores * 1.0).masked_fill(a_line_off.tril(-9), 0.0).softmax(-1), targets
    )
    assert made == expected


def test_a_right_mask_is_not_named_for_what_takes_the_masked_scores() -> None:
    """Softmax is over the queries, and the mask hides all that is ahead."""
    scores = random(2, 5, 5, seed=4)
    hidden = ~torch.ones(5, 5).tril().bool()
    targets = [
        Target(name="scores", value=scores, causal=True),
        Target(
            name="weights", value=scores.masked_fill(hidden, -1e4).softmax(-1), inputs=["scores"]
        ),
    ]
    made = departed(lambda: (scores * 1.0).masked_fill(hidden, -1e4).softmax(-2), targets)
    assert made == {"weights": "_softmax"}


def test_a_view_that_exchanges_elements_departs() -> None:
    """Not the operation that takes the view."""
    turned = X.exp().transpose(1, 2)
    targets = [
        Target(name="a", value=X.exp()),
        Target(name="b", value=turned.tanh(), inputs=["a"]),
    ]
    assert departed(lambda: X.exp().transpose(1, 2).tanh(), targets) == {}
    assert departed(lambda: X.exp().view(2, 6, 5).tanh(), targets) == {"b": "view"}


def test_what_is_computed_without_inputs_departs_where_it_begins() -> None:
    """As a table of positions that is made of numbers alone."""
    targets = [
        Target(name="tokens", value=X.exp()),
        Target(name="positions", value=X.sin()),
        Target(name="sum", value=X.exp() + X.sin(), inputs=["tokens", "positions"]),
    ]
    assert departed(lambda: X.exp() + X.sin(), targets) == {}
    assert departed(lambda: X.exp() + X.cos().tanh(), targets) == {"positions": "cos"}


def test_padding_is_counted_and_a_constant_is_named(reference: dict[str, Tensor]) -> None:
    (padded, number) = match_parameters(
        {
            "padded": torch.cat([reference["tokens_embed.weight"], torch.full((3, 21), 2.0)]),
            "number": torch.full((2, 3), -1.5),
        },
        reference,
    )
    rows = len(reference["tokens_embed.weight"]) + 3
    assert (padded.padding, padded.axis, padded.shape) == (3, 1, (rows, 21))
    assert (number.constant, number.parts, number.shape) == (-1.5, (), (2, 3))
    different = torch.cat([reference["tokens_embed.weight"], torch.arange(63.0).view(3, 21)])
    assert lines({"different": different}, reference) == [
        f"different {list(different.shape)}: no match"
    ]


def test_where_nothing_is_right_what_reads_a_parameter_alone_departs() -> None:
    """Not an operation before it that reads none, as that of a mask."""
    model = Model(lambda: (X.tanh(), model.table.cos()))
    model.table = nn.Parameter(X.clone(), requires_grad=False)
    targets = [Target(name="embedding", value=X.sin())]
    trace = watch(model, model, lambda *_seen: None)
    alignment = find_activations(trace, targets, partial(replay, model, model), NO_CUTS)
    (one,) = departures(trace, targets, alignment, NO_CUTS, set())
    assert (one.target, one.event and one.event.kernel) == ("embedding", "cos")


def test_a_departure_may_take_any_of_its_targets_inputs() -> None:
    """Not what takes a right tensor that is none of them, though it comes first."""

    def run() -> tuple[Tensor, ...]:
        a = X.exp()
        b = a.sin()
        return b.square(), b.tanh(), a.cosh()

    assert departed(run, CHAIN) == {"d": "cosh"}
