"""Judging a model against a list of tensors, whatever its architecture is."""

import copy
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from parity.align import Target
from parity.core.candidates import Profile
from parity.core.inputs import Inputs
from parity.errors import InconclusiveError
from parity.watch import Event
from parity.watch.calling import find_way
from parity.watch.fingerprint import fingerprint_of
from parity.watched import (
    Explainer,
    Explanation,
    Judgement,
    WatchedModel,
    hint_for,
    in_dtype,
    judge,
    segments_of,
)

VOCABULARY, WIDTH, BLOCKS = 13, 6, 3
IDS = torch.randint(VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))

Activation = Callable[[Tensor], Tensor]


class Block(nn.Module):
    def __init__(self, activation: Activation) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, 9), nn.Linear(9, WIDTH)
        self.activation = activation
        self.sign = 1.0

    def forward(self, x: Tensor) -> Tensor:
        made = self.activation(self.first(x))
        return x + self.sign * self.second(made)


class Toy(nn.Module):
    """No GPT: tokens, three blocks and a head."""

    def __init__(self, activations: Mapping[int, Activation] | None = None) -> None:
        super().__init__()
        chosen = activations or {}
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(Block(chosen.get(i, torch.tanh)) for i in range(BLOCKS))
        self.head = nn.Linear(WIDTH, VOCABULARY)
        generator = torch.Generator().manual_seed(2)
        for parameter in self.parameters():
            parameter.data.normal_(generator=generator)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def targets() -> list[Target]:
    """Return the right tensors, by their formulas, from the same weights."""
    state = {name: tensor.double() for name, tensor in Toy().state_dict().items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = state["embed.weight"][IDS]
    made = [Target(name="embed", value=x)]
    for i in range(BLOCKS):
        name = f"blocks.{i}"
        before = made[-1].name
        inner = linear(x, f"{name}.first")
        x = x + linear(inner.tanh(), f"{name}.second")
        made += [
            Target(name=f"{name}.inner", value=inner, inputs=[before]),
            Target(name=f"{name}.active", value=inner.tanh(), inputs=[f"{name}.inner"]),
            Target(name=f"{name}.out", value=x, inputs=[before, f"{name}.active"]),
        ]
    return [*made, Target(name="logits", value=linear(x, "head"), inputs=[made[-1].name])]


NAMES = [target.name for target in targets()]


def judged(model: nn.Module, explainer: Explainer | None = None) -> Judgement:
    with in_dtype(model.eval(), torch.float64):
        way = find_way(model, IDS[:, :5], VOCABULARY)
        return judge(model, way, Inputs(token_ids=IDS), targets(), explainer)


def sine(x: Tensor) -> Tensor:
    return torch.sin(x)  # the line of the sine


def cosine(x: Tensor) -> Tensor:
    return torch.cos(x)  # the line of the cosine


def line_of(text: str) -> int:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    return next(n for n, line in enumerate(lines, 1) if line.endswith(f"# the line of {text}"))


def test_a_right_model_has_every_target_and_no_mistake() -> None:
    found = judged(Toy())
    assert set(found.places) == set(NAMES)
    assert (list(found.mistakes), found.unseen, dict(found.narrow)) == ([], "", {})
    assert max(place.error for places in found.places.values() for place in places) < 1e-12


def test_mistakes_of_two_blocks_are_placed_and_what_follows_is_compared() -> None:
    found = judged(Toy({0: sine, 2: cosine}))
    assert [one.target for one in found.mistakes] == ["blocks.0.active", "blocks.2.active"]
    sites = [(one.event and one.event.operation, one.sites[0].line) for one in found.mistakes]
    assert sites == [
        ("torch.sin", line_of("the sine")),
        ("torch.cos", line_of("the cosine")),
    ]
    assert [one.event and one.event.module for one in found.mistakes] == ["blocks.0", "blocks.2"]
    assert found.unseen == ""
    assert {"blocks.1.inner", "blocks.1.active", "logits"} <= set(found.places)


@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_wrong_sum_is_placed(block: int) -> None:
    model = Toy()
    model.blocks[block].sign = -1.0
    found = judged(model)
    assert [one.target for one in found.mistakes] == [f"blocks.{block}.out"]
    assert "logits" in found.places


def test_a_wrong_head_is_the_logits() -> None:
    model = Toy()
    model.head.weight.data[3, 2] += 0.01
    found = judged(model)
    assert [one.target for one in found.mistakes] == ["logits"]
    assert set(found.places) == set(NAMES) - {"logits"}


class Named:
    """Names an activation; `shown` changes the values that it says the mistake gives."""

    def __init__(self, name: str, function: Activation, shown: Activation = lambda x: x) -> None:
        self.name, self.function, self.shown = name, function, shown
        self.rejected: list[str] = []

    def explain(
        self, names: Sequence[str], events: Sequence[Event], expected: Mapping[str, Target]
    ) -> Explanation | None:
        block = ".".join(names[0].split(".")[:2])
        if not names[0].endswith(".active") or block in self.rejected:
            return None
        state = {name: tensor.double() for name, tensor in Toy().state_dict().items()}
        value = self.function(expected[f"{block}.inner"].value)
        if not any(event.fingerprint.is_like(fingerprint_of(value)) for event in events):
            return None
        before = expected[expected[f"{block}.inner"].inputs[0]].value
        out = before + value @ state[f"{block}.second.weight"].T + state[f"{block}.second.bias"]
        changed = {f"{block}.active": self.shown(value), f"{block}.out": self.shown(out)}
        return Explanation(
            name=self.name,
            what="another activation",
            right="it is the tangent",
            fix="torch.tanh(x)",
            targets=[
                dataclasses.replace(expected[name], value=new) for name, new in changed.items()
            ],
        )

    def reject(self, name: str) -> None:
        self.rejected.append(".".join(name.split(".")[:2]))


def test_a_known_mistake_is_named_and_measured() -> None:
    explainer = Named("sine", torch.sin)
    found = judged(Toy({0: sine, 1: cosine, 2: sine}), explainer)
    names = [one.explanation and one.explanation.name for one in found.mistakes]
    assert names == ["sine", None, "sine"]
    assert [one.target for one in found.mistakes] == [f"blocks.{i}.active" for i in range(BLOCKS)]
    first = found.mistakes[0]
    assert first.reproduced is not None
    assert first.reproduced < 1e-12
    assert first.gap is not None
    assert 1e-3 < first.gap < 10
    assert explainer.rejected == []
    assert "logits" in found.places


def test_an_explanation_with_the_same_numbers_in_another_order_is_taken_back() -> None:
    explainer = Named("sine", torch.sin, shown=lambda x: x.flip(-1))
    found = judged(Toy({1: sine}), explainer)
    assert explainer.rejected == ["blocks.1"]
    assert [(one.target, one.explanation) for one in found.mistakes] == [("blocks.1.active", None)]


def drop(x: Tensor) -> Tensor:
    return functional.dropout(x.tanh(), 0.3, training=True)  # the line of the draw


def test_random_numbers_are_inconclusive() -> None:
    with pytest.raises(InconclusiveError, match="two runs of the candidate") as caught:
        judged(Toy({1: drop}))
    assert f"test_watched.py:{line_of('the draw')}" in caught.value.where
    assert "dropout" in caught.value.where


def test_a_scripted_part_is_rejected() -> None:
    model = Toy()
    with warnings.catch_warnings(action="ignore"):  # newer ones say that it is deprecated
        model.head = torch.jit.script(model.head)
    with pytest.raises(InconclusiveError, match="head is scripted"):
        judged(model)


def narrow(x: Tensor) -> Tensor:
    return x.float().tanh().to(x.dtype)  # the line of float32


def test_a_narrower_dtype_is_noted_with_its_line() -> None:
    found = judged(Toy({1: narrow}))
    assert list(found.mistakes) == []
    assert {event.stack[0].line for event in found.narrow.values()} == {line_of("float32")}
    assert "logits" in found.places


# Hints.


def for_two_ids(x: Tensor) -> Tensor:
    wrong = x.clone()
    wrong[0, 1] += 0.5
    wrong[1, 3] -= 0.5
    return wrong


HINTS: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "a factor": (lambda x: x * 1.1, "it is the right one times 1.1"),
    "a bias": (lambda x: x + torch.arange(WIDTH), "the same vector at every token, as by a bias"),
    "some rows": (
        for_two_ids,
        f"12 of 14 rows are equal; the others are ids {IDS[0, 1]}, {IDS[1, 3]}",
    ),
    "float32": (
        lambda x: x.float().double(),
        "all of its values are numbers of float32: an operation computes in it",
    ),
    "NaN": (lambda x: x.masked_fill(x > x.mean(), torch.nan), "of its elements are not finite"),
    "another order": (lambda x: (x * 1.1).transpose(0, 1), "it is the right one times 1.1"),
}


@pytest.mark.parametrize("name", HINTS)
def test_a_hint_says_what_two_tensors_have_in_common(name: str) -> None:
    change, words = HINTS[name]
    target = targets()[3]
    _, hint = hint_for(change(target.value), target, IDS)
    assert hint.endswith(words)
    _, other = hint_for(target.value.sin() * 3.0, target, IDS)
    assert other.startswith("the nearest tensor differs by")
    assert ";" not in other


def test_a_mistake_without_a_name_has_a_hint() -> None:
    found = judged(Toy({1: lambda x: 1.25 * x.sinh() / x.cosh()}))
    (mistake,) = found.mistakes
    assert "it is the right one times 1.25" in mistake.hint


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (NAMES, ["start", *"000111222", "end"]),
        (["wte", "h.0: add", "h.0.ln", "h.1: add", "ln_f"], ["start", *"001", "end"]),
        (["ln_1", "h.10.mlp.3.fc", "head"], ["start", "10", "end"]),
    ],
)
def test_segments_are_the_start_the_blocks_and_the_end(
    names: Sequence[str], expected: Sequence[str]
) -> None:
    assert list(segments_of(names).values()) == expected


# The model with taps.


def watched(model: nn.Module, dtype: torch.dtype = torch.float64) -> WatchedModel:
    found = judged(model)
    return WatchedModel(
        model,
        find_way(model, IDS[:, :5], VOCABULARY),
        found.places,
        order=NAMES[:-1],
        vocab_size=VOCABULARY,
        profile=Profile(shown=NAMES),
        last_only=False,
        causal=(),
        dtype=dtype,
    ).eval()


class Closures(nn.Module):
    """The same model, whose operations hold parameters out of a copy's reach."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Toy()
        weight = self.inner.head.weight
        self.head = lambda x: x @ weight.T + self.inner.head.bias
        self.steps = [block.forward for block in self.inner.blocks]

    def forward(self, ids: Tensor) -> Tensor:
        x = self.inner.embed(ids)
        for step in self.steps:
            x = step(x)
        return self.head(x)


class TimeFirst(nn.Module):
    """The same model, with time as the first axis inside."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Toy()

    def forward(self, ids: Tensor) -> Tensor:
        return self.inner(ids.T).transpose(0, 1)


MODELS: list[type[nn.Module]] = [Toy, Closures, TimeFirst]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_taps_are_shown_with_the_axes_of_the_reference(
    model: type[nn.Module], dtype: torch.dtype, bound: float
) -> None:
    shown: dict[str, Tensor] = {}
    logits = watched(model(), dtype)(IDS, tap=shown.setdefault)
    assert torch.equal(logits, shown["logits"])
    assert list(shown) == NAMES
    for target in targets():
        value = shown[target.name]
        assert value.dtype == dtype
        assert float((value - target.value).abs().max()) <= bound * float(target.value.std())
    same = torch.equal(logits.double(), targets()[-1].value)
    assert not (dtype == torch.float32 and same)


@pytest.mark.parametrize("model", MODELS)
def test_answers_reach_the_operations_behind(model: type[nn.Module]) -> None:
    """Each operation runs on the answer to the one before it, and not on its own input."""
    taps = watched(model(), torch.float64)
    taps.answers = {target.name: target.value.sin() for target in targets()}
    shown: dict[str, Tensor] = {}
    taps(IDS, tap=shown.setdefault)
    state = {name: tensor.double() for name, tensor in Toy().state_dict().items()}
    answers = taps.answers
    for i in range(BLOCKS):
        before = answers["embed" if i == 0 else f"blocks.{i - 1}.out"]
        weight, bias = state[f"blocks.{i}.first.weight"], state[f"blocks.{i}.first.bias"]
        torch.testing.assert_close(shown[f"blocks.{i}.inner"], before @ weight.T + bias)
        inner = answers[f"blocks.{i}.inner"]
        torch.testing.assert_close(shown[f"blocks.{i}.active"], inner.tanh())
    out = answers["blocks.2.out"] @ state["head.weight"].T + state["head.bias"]
    torch.testing.assert_close(shown["logits"], out)


def pointers_of(model: nn.Module) -> dict[str, tuple[int, int]]:
    return {name: (id(one), one.data_ptr()) for name, one in model.named_parameters()}


def hooks_of(model: nn.Module) -> Iterator[int]:
    for part in model.modules():
        yield len(part._forward_hooks) + len(part._forward_pre_hooks)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("raises", [True, False])
def test_the_users_model_is_left_as_it_was(*, training: bool, raises: bool) -> None:
    model = Toy()
    model.blocks[0].register_forward_hook(lambda _part, _inputs, result: result * 1.0)
    taps = watched(model, torch.float64)
    model.train(training)
    before = pointers_of(model)
    bits = copy.deepcopy(model.state_dict())
    count = list(hooks_of(model))

    def tap(_name: str, value: Tensor) -> Tensor:
        if raises:
            raise RuntimeError("no such kernel")
        return value

    if raises:
        with pytest.raises(RuntimeError, match="no such kernel"):
            taps(IDS, tap=tap)
    else:
        taps(IDS, tap=tap)
    assert pointers_of(model) == before
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert all(torch.equal(tensor, bits[name]) for name, tensor in model.state_dict().items())
    assert list(hooks_of(model)) == count
    assert model.training is training
    assert torch.backends.mha.get_fastpath_enabled()
