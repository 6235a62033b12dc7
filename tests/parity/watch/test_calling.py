"""Every way in which people's models are called, and every form in which they return logits."""

import dataclasses
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from transformers.modeling_outputs import CausalLMOutput

from parity.core.inputs import Inputs
from parity.errors import InconclusiveError, UsageError
from parity.watch.calling import find_way, logits_in

BATCH, TIME, VOCAB, WIDTH = 3, 5, 37, 8


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


IDS = torch.randint(VOCAB, (BATCH, TIME), generator=torch.Generator().manual_seed(2))
LOGITS = random(BATCH, TIME, VOCAB)


class Base(nn.Module):
    """One head of causal attention; each test gives it another signature."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(random(VOCAB, WIDTH, seed=3))
        self.places = nn.Parameter(random(TIME, WIDTH, seed=4))

    def run(
        self, ids: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Return the logits; `mask` is added to the scores."""
        time = ids.shape[-1]
        positions = torch.arange(time) if positions is None else positions
        x = self.table[ids] + self.places[positions]
        causal = torch.full((time, time), -torch.inf).triu(1)
        scores = x @ x.mT + (causal if mask is None else mask)
        return (x + scores.softmax(-1) @ x) @ self.table.T


def added(may_look: Tensor) -> Tensor:
    return torch.zeros(may_look.shape).masked_fill(~may_look, -torch.inf)


class Plain(Base):
    def forward(self, ids: Tensor) -> Tensor:
        return self.run(ids)


class Targets(Base):
    """Returns all logits with targets only."""

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        logits = self.run(idx)
        return (logits[:, [-1]], None) if targets is None else (logits, logits.mean())


class LaterTargets(Base):
    def forward(self, one: Tensor, another: Tensor) -> Tensor:
        assert another.shape == one.shape
        return self.run(one).flatten(0, 1)


class Named(Base):
    def forward(self, cache: object = None, *, token_ids: Tensor) -> dict[str, object]:
        return {"hidden": self.table[token_ids], "cache": cache, "out": self.run(token_ids)}


class Positions(Base):
    def forward(self, ids: Tensor, position_ids: Tensor) -> Tensor:
        return self.run(ids, position_ids)


class Padding(Base):
    def forward(self, x: Tensor, pos: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        visible = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()
        visible = visible if mask is None else visible & mask[:, None, :]
        return self.run(x, pos, added(visible))


class Integers(Base):
    """Its mask is of numbers, as Hugging Face's."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.run(input_ids) + 0 * (1 - attention_mask)[..., None]


class MayLook(Base):
    """Leaves causality to the caller."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.run(x, None, torch.zeros(()) if mask is None else added(mask != 0))


class MayNotLook(Base):
    def forward(self, src: Tensor, src_mask: Tensor) -> Tensor:
        assert src_mask.dtype == torch.bool
        return self.run(src, None, added(~src_mask))


class Added(Base):
    def forward(self, src: Tensor, src_mask: Tensor) -> Tensor:
        assert src_mask.is_floating_point()
        return self.run(src, None, src_mask)


class Extra(Base):
    def forward(self, tokens: Tensor, start_pos: int, cache: object) -> Tensor:
        assert start_pos == 0
        assert cache is None
        return self.run(tokens)


class Batch(Base):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.run(batch["input_ids"])


class TimeFirst(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.run(x.T).transpose(0, 1)


class OneRow(Base):
    def forward(self, ids: Tensor) -> Tensor:
        assert ids.ndim == 1
        return self.run(ids)


class Anything(Base):
    def forward(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401 - anything
        return self.run(*args, kwargs.get("positions"))


WAYS: dict[type[Base], tuple[str, str]] = {
    Plain: ("model(ids)", ""),
    Targets: ("model(ids, targets=ids)", ""),
    LaterTargets: ("model(ids, another=None)", "[(batch time) vocab]"),
    Named: ("model(token_ids=ids)", ""),
    Positions: ("model(ids, position_ids=positions)", ""),
    Padding: ("model(ids)", ""),
    Integers: ("model(ids, attention_mask=mask.long())", ""),
    MayLook: ("model(ids, mask=causal)", ""),
    MayNotLook: ("model(ids, src_mask=~causal)", ""),
    Added: ("model(ids, src_mask=causal.to(next(model.parameters()).dtype).log())", ""),
    Extra: ("model(ids, start_pos=0, cache=None)", ""),
    Batch: (
        "model({'input_ids': ids, 'attention_mask': mask, 'position_ids': positions})",
        "",
    ),
    TimeFirst: ("model(ids.T)", "time first"),
    OneRow: ("[model(row) for row in ids]", "row by row"),
    Anything: ("model(ids)", ""),
}


@pytest.mark.parametrize("kind", WAYS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("batch", [1, BATCH])
def test_each_signature_is_called_and_gives_the_right_logits(kind: type[Base], batch: int) -> None:
    model, ids = kind(), IDS[:batch]
    text, layout = WAYS[kind]
    if kind is LaterTargets:
        text = "model(ids, ids)"
    way = find_way(model, ids, VOCAB)
    assert way.text == text
    found = logits_in(way.call(model, Inputs(token_ids=ids)), ids, VOCAB)
    torch.testing.assert_close(found.tensor, model.run(ids))
    if kind is OneRow and batch == 1:
        layout = "[(batch time) vocab]"
    assert found.layout == layout


def test_a_way_is_a_line_that_may_be_given() -> None:
    for kind in WAYS:
        model = kind()
        way = find_way(model, IDS, VOCAB)
        assert find_way(model, IDS, VOCAB, call=way.text).text == way.text


POSITIONS = torch.arange(TIME).flip(0).expand(BATCH, TIME)
MASK = torch.arange(TIME) < torch.tensor([5, 3, 4])[:, None]


def test_positions_and_mask_are_passed() -> None:
    model = Padding()
    inputs = Inputs(token_ids=IDS, positions=POSITIONS, attention_mask=MASK)
    given = find_way(model, IDS, VOCAB).call(model, inputs)
    assert torch.equal(given, model(IDS, POSITIONS, MASK))
    assert not torch.allclose(given, model(IDS))
    assert not torch.allclose(given, model(IDS, POSITIONS))
    for kind in (Positions, Anything):
        other = kind()
        called = find_way(other, IDS, VOCAB).call(other, Inputs(token_ids=IDS, positions=POSITIONS))
        assert torch.equal(called, other.run(IDS, POSITIONS))


@pytest.mark.parametrize("kind", [Plain, Positions, MayLook, TimeFirst, OneRow, Targets])
def test_a_mask_that_the_model_cannot_take_is_inconclusive(kind: type[Base]) -> None:
    model = kind()
    way = find_way(model, IDS, VOCAB)
    with pytest.raises(InconclusiveError, match="have mask, and the candidate takes none"):
        way.call(model, Inputs(token_ids=IDS, attention_mask=MASK))


def test_hugging_face_is_called_as_it_is() -> None:
    config = OpenAIGPTConfig(vocab_size=VOCAB, n_positions=TIME, n_embd=8, n_layer=1, n_head=2)
    model = OpenAIGPTLMHeadModel(config).eval()
    way = find_way(model, IDS, VOCAB)
    result = way.call(model, Inputs(token_ids=IDS, attention_mask=MASK, positions=POSITIONS))
    expected = model(IDS, attention_mask=MASK, position_ids=POSITIONS).logits
    assert way.text == "model(ids)"
    assert torch.equal(logits_in(result, IDS, VOCAB).tensor, expected)


def test_a_compiled_model_is_called_by_its_own_signature() -> None:
    model = torch.compile(Padding(), backend="eager")
    way = find_way(model, IDS, VOCAB)
    with torch.compiler.set_stance("force_eager"):
        given = way.call(model, Inputs(token_ids=IDS, attention_mask=MASK))
    assert torch.equal(given, model(IDS, None, MASK))


@pytest.mark.parametrize("kind", [Targets, MayLook])
def test_without_attention_the_first_way_is_taken(
    kind: type[Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is wrong is called all the same."""
    model = kind()
    monkeypatch.setattr(model, "run", lambda ids, *_: model.table[ids] @ model.table.T)
    expected = "model(ids, targets=ids)" if kind is Targets else "model(ids)"
    assert find_way(model, IDS, VOCAB).text == expected


def test_a_model_that_is_not_causal_is_called_with_its_targets() -> None:
    model = Targets()
    run = model.run
    model.run = lambda ids: run(ids, None, torch.zeros(()))  # type: ignore[method-assign]
    assert find_way(model, IDS, VOCAB).text == "model(ids, targets=ids)"


def test_one_token_is_enough() -> None:
    assert find_way(Plain(), IDS[:, :1], VOCAB).text == "model(ids)"


# A call that is given.


def test_the_given_call_is_used() -> None:
    class Strange(Base):
        def forward(self, ids: Tensor, cache: object) -> list[Tensor]:
            assert cache == 3
            return [self.run(ids), self.run(ids) + 1]

    model = Strange()
    way = find_way(model, IDS, VOCAB, call=" model(ids, cache=3)[1]")
    assert torch.equal(way.call(model, Inputs(token_ids=IDS)), model.run(IDS) + 1)  # type: ignore[arg-type]


UNUSABLE = {
    "model(ids": "SyntaxError",
    "x = model(ids)": "SyntaxError",
    "model(tokens)": "NameError: name 'tokens'",
    "model(ids, 7)": "TypeError",
    "model(ids)[9]": "IndexError",
    "model.table": "no logits of 37 columns",
    "ids": "no logits",
    "": "SyntaxError",
}


@pytest.mark.parametrize("call", UNUSABLE)
def test_a_call_that_cannot_be_used_is_a_usage_error(call: str) -> None:
    with pytest.raises(UsageError, match="the call cannot be used") as caught:
        find_way(Plain(), IDS, VOCAB, call=call)
    assert UNUSABLE[call] in caught.value.what
    assert "--call" in caught.value.where


def test_a_given_call_without_the_mask_is_inconclusive() -> None:
    model = Padding()
    padded = Inputs(token_ids=IDS, attention_mask=MASK)
    way = find_way(model, IDS, VOCAB, call="model(ids)")
    with pytest.raises(InconclusiveError, match="have mask"):
        way.call(model, padded)
    way = find_way(model, IDS, VOCAB, call="model(ids, mask=mask)")
    assert torch.equal(way.call(model, padded), model(IDS, None, MASK))  # type: ignore[arg-type]


# A model that fails.


class Raising(Base):
    def forward(self, ids: Tensor, targets: Tensor | None = None) -> object:
        return self.table[ids] @ self.table, targets  # the line that raises


class NoLogits(Base):
    def forward(self, ids: Tensor) -> Tensor:
        return self.table[ids]


class TooShort(Base):
    """Raises for more than three positions, so only the texts turned round fit."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.run(ids + 0 * self.places[:3, 0].long())


class RaisingOften(Base):
    def forward(self, _ids: Tensor, targets: Tensor | None = None) -> Tensor:
        if targets is None:
            raise ValueError("give targets")
        raise ValueError("give none")


@pytest.mark.parametrize("call", [None, "model(ids)"])
def test_a_model_that_raises_is_reported_with_its_line(call: str | None) -> None:
    lines = Path(__file__).read_text(encoding="utf-8").splitlines()
    line = next(n for n, text in enumerate(lines, 1) if "# the line that raises" in text)
    with pytest.raises(InconclusiveError, match="forward raised RuntimeError") as caught:
        find_way(Raising(), IDS, VOCAB, call=call)
    assert f"test_calling.py:{line}" in caught.value.where


def test_another_form_of_the_ids_does_not_hide_an_error() -> None:
    """Time first it runs, and gives numbers that mean nothing."""
    model = TooShort()
    assert model(IDS.T).shape == (TIME, BATCH, VOCAB)
    with pytest.raises(InconclusiveError, match="must match the size") as caught:
        find_way(model, IDS, VOCAB)
    assert "test_calling.py:" in caught.value.where


@pytest.mark.parametrize(
    ("kind", "words"), [(NoLogits, "no logits of 37"), (RaisingOften, "ValueError: give targets")]
)
def test_without_a_way_all_are_listed(kind: type[Base], words: str) -> None:
    with pytest.raises(InconclusiveError, match="no way to call") as caught:
        find_way(kind(), IDS, VOCAB)
    assert f"model(ids): {words}" in caught.value.where
    assert "model(ids.T): " in caught.value.where
    assert "--call" in caught.value.fix


# What is returned.


@dataclasses.dataclass
class Output:
    loss: Tensor
    scores: Tensor


class Slots:
    __slots__ = ("logits",)

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


Pair = namedtuple("Pair", ["first", "logits"])  # noqa: PYI024
HIDDEN = random(BATCH, TIME, 64, seed=5)
OTHER = random(BATCH, TIME, VOCAB, seed=6)


def padded(x: Tensor) -> Tensor:
    return torch.cat([x, random(*x.shape[:-1], 7)], -1)


FORMS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "tensor": (lambda x: x, ""),
    "tuple with a loss": (lambda x: (x.mean(), x), ""),
    "hidden states": (lambda x: (HIDDEN, [HIDDEN, HIDDEN], x), ""),
    "a hidden state beside padding": (
        lambda x: {"h": HIDDEN, "logits": padded(x)},
        "7 more columns",
    ),
    "dictionary": (lambda x: {"other": OTHER, "logits": x}, ""),
    "nested": (lambda x: {"out": {"lm_logits": x}, "first": OTHER}, ""),
    "ModelOutput": (lambda x: CausalLMOutput(loss=x.mean(), logits=x, hidden_states=(OTHER,)), ""),
    "dataclass": (lambda x: Output(loss=x.mean(), scores=x), ""),
    "object": (Slots, ""),
    "named tuple": (lambda x: Pair(OTHER, x), ""),
    "probabilities": (lambda x: (x.softmax(-1), x), ""),
    "time first": (lambda x: x.transpose(0, 1), "time first"),
    "vocab in the middle": (lambda x: x.mT, "[batch vocab time]"),
    "padded": (padded, "7 more columns"),
    "time first and padded": (lambda x: padded(x.transpose(0, 1)), "time first, 7 more columns"),
    "joined": (lambda x: x.flatten(0, 1), "[(batch time) vocab]"),
    "joined and padded": (
        lambda x: padded(x.flatten(0, 1)),
        "[(batch time) vocab], 7 more columns",
    ),
    "the last beside all": (lambda x: (x[:, [-1]], x), ""),
}
LAST: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "last": (lambda x: x[:, -1:], "last position only"),
    "last without its axis": (lambda x: (x[:, -1], None), "last position only"),
    "last, time first": (lambda x: x[:, -1:].transpose(0, 1), "time first, last position only"),
    "last, padded": (lambda x: padded(x[:, -1]), "last position only, 7 more columns"),
}


@pytest.mark.parametrize("form", FORMS | LAST)
def test_logits_are_found_in_what_is_returned(form: str) -> None:
    make, layout = (FORMS | LAST)[form]
    result = make(LOGITS)
    found = logits_in(result, IDS, VOCAB)
    assert torch.equal(found.tensor, LOGITS[:, -1:] if form in LAST else LOGITS)
    assert found.layout == layout
    assert found.tensor.untyped_storage().data_ptr() == found.raw.untyped_storage().data_ptr()
    if isinstance(result, Tensor):
        assert found.raw is result


def test_of_equal_batch_and_time_batch_is_first() -> None:
    logits = random(4, 4, VOCAB)
    found = logits_in(logits, torch.zeros(4, 4, dtype=torch.long), VOCAB)
    assert torch.equal(found.tensor, logits)


def test_one_text_without_axes_of_batch_or_time() -> None:
    ids = IDS[:1]
    assert logits_in(LOGITS[0, -1], ids, VOCAB).tensor.shape == (1, 1, VOCAB)
    assert logits_in(LOGITS[0], ids, VOCAB).tensor.shape == (1, TIME, VOCAB)


@pytest.mark.parametrize(
    "result",
    [None, 3, {}, LOGITS.long(), LOGITS[..., 1:], LOGITS[:, 1:], LOGITS[1:], LOGITS.mean(), "ab"],
    ids=str,
)
def test_no_logits_are_inconclusive(result: object) -> None:
    with pytest.raises(InconclusiveError, match="no logits of 37 columns") as caught:
        logits_in(result, IDS, VOCAB)
    assert f"it returned {type(result).__name__}" in caught.value.where
