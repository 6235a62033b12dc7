"""A model whose invariants are checked: its calls, and the first place where two calls differ.

A model that shows taps is placed by them. Of any other, every operation is watched, and the axes of
its tensors are found by their sizes.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from parity.core import candidates
from parity.core.inputs import Inputs
from parity.core.taps import Axes, Tap, taps
from parity.errors import InconclusiveError
from parity.watch import Event, Number, Site, watch
from parity.watch.calling import Way, find_way, logits_in
from parity.watched import described
from scratch_gpt.config import GPTConfig
from scratch_gpt.tap import Tap as TapFunction
from scratch_gpt.tap import no_tap

Run = Callable[[TapFunction], Tensor]
"""Runs a model with a tap; returns its logits `[batch time vocab]`."""

ALL = slice(None)


class At(NamedTuple):
    """Some tokens of some rows of a call."""

    rows: slice = ALL
    places: slice = ALL


Pairs = Sequence[tuple[At, At]]
"""Tokens of one call, and those of another call that must have the same numbers."""


Runs = tuple[Run, Run]
Shapes = tuple[Sequence[int], Sequence[int]]
"""Batch and time of both."""


class Place(NamedTuple):
    """Where a violation shows first.

    Attributes:
        name: The tap; or the operation of a model without taps; "" if it was not found.
        site: File and line of a model without taps.
    """

    name: str = ""
    site: Site | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sizes:
    """The sizes of a model, for its inputs.

    Attributes:
        dropout: Share of each kind of dropout: embeddings, attention, residual.
    """

    vocab_size: int
    n_positions: int
    n_layer: int = 0
    n_head: int = 1
    dropout: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, config: GPTConfig) -> "Sizes":
        """Return the sizes of a config."""
        return cls(
            vocab_size=config.vocab_size,
            n_positions=config.n_positions,
            n_layer=config.n_layer,
            n_head=config.n_head,
            dropout=(config.embd_pdrop, config.attn_pdrop, config.resid_pdrop),
        )


class Subject:
    """A model in evaluation mode, and how it is called.

    Attributes:
        name: Its backend, or `candidate`.
        way: How a model without taps is called; None for one that shows taps.
        last_only: Whether its logits are those of the last position alone.
    """

    def __init__(
        self,
        name: str,
        model: nn.Module,
        sizes: Sizes,
        dtype: torch.dtype = torch.float64,
        call: str | None = None,
    ) -> None:
        """Find out how the model is called.

        Raises:
            InconclusiveError: No way of calling it gives logits.
            UsageError: `call` cannot be used.
        """
        self.name, self.model, self.sizes, self.dtype = name, model, sizes, dtype
        self.device = next(iter(model.parameters()), torch.empty(0)).device
        self.way: Way | None = None
        self.last_only = False
        self._narrow: torch.dtype | str | None = "unknown"
        self._mask_dtype = torch.bool
        if not candidates.shows_taps(model):
            few = torch.tensor([[1, 0, 2, 3, 1], [2, 1, 0, 0, 3]], device=self.device)
            few %= sizes.vocab_size
            self.way = find_way(model, few, sizes.vocab_size, call)
            with torch.no_grad():
                found = logits_in(
                    self.way.call(model, Inputs(token_ids=few)), few, sizes.vocab_size
                )
            self.last_only = found.tensor.shape[1] == 1

    def run(self, inputs: Inputs) -> Run:
        """Return the run of a call."""
        mask = inputs.attention_mask
        if mask is not None:
            inputs = dataclasses.replace(inputs, attention_mask=mask.to(self._mask_dtype))

        def run(tap: TapFunction) -> Tensor:
            # A copy: a model that writes to its ids must not change those of the next call.
            return self.call(dataclasses.replace(inputs, token_ids=inputs.token_ids.clone()), tap)

        return run

    def call(self, inputs: Inputs, tap: TapFunction = no_tap) -> Tensor:
        """Return the logits of a call."""
        if self.way is None:
            return candidates.call(self.model, inputs, tap)
        result = self.way.call(self.model, inputs)
        found = logits_in(result, inputs.token_ids, self.sizes.vocab_size, self.way.layout)
        return found.tensor.clone()

    def refuses(self, **given: Tensor) -> str:
        """Return why the model cannot be called with positions or a mask; "" if it can."""
        ids = torch.zeros(2, 5, dtype=torch.int64, device=self.device)
        forms = (torch.bool, torch.int64, self.dtype) if "attention_mask" in given else (None,)
        why = ""
        for form in forms:
            self._mask_dtype = form or torch.bool
            try:
                self.run(Inputs(token_ids=ids, **given))(no_tap)
            except InconclusiveError:
                return "its forward takes none"
            except Exception as error:  # noqa: BLE001 - a model may want another form of mask
                if self.way is None:
                    return ""  # ours and tapped models are documented to take both
                why = why or f"with it, it raises {type(error).__name__}"
            else:
                return ""
        return why

    @property
    def taps(self) -> list[Tap]:
        """Every tap that a model with taps may show, in network order."""
        return [tap for tap in taps(self.sizes.n_layer) if tap.name != "loss"]

    @property
    def narrow(self) -> torch.dtype | None:
        """The narrowest dtype below the model's own that its operations use; None without one."""
        if self._narrow == "unknown":
            ids = torch.arange(5, device=self.device)[None] % self.sizes.vocab_size
            found: list[torch.dtype] = []
            with contextlib.suppress(InconclusiveError):
                trace = watch(self.model, lambda: self.run(Inputs(token_ids=ids))(no_tap))
                found = [one.narrow for one in trace.events if one.narrow is not None]
            self._narrow = max(found, key=lambda dtype: torch.finfo(dtype).eps, default=None)
        return self._narrow  # type: ignore[return-value]


def select(tensor: Tensor, axes: Axes, batch: int, at: At) -> Tensor:
    """Return the part of a tap's tensor that belongs to some tokens."""
    if axes is Axes.HEADS:
        return tensor[at.rows][:, :, at.places]
    if axes in (Axes.SCORES, Axes.WEIGHTS):
        return tensor[at.rows][:, :, at.places, at.places]
    if axes is Axes.POSITIONS:
        tensor = tensor.expand(batch, -1, -1)
    return tensor[at.rows][:, at.places]


def select_by_size(tensor: Tensor, shape: Sequence[int], at: At) -> Tensor | None:
    """Return the same of a tensor whose axes are not known; None if no axis is of tokens.

    `shape` is that of the token ids. An axis may be batch times time.
    """
    batch, time = shape
    index: list[slice] = []
    sizes: list[int] = []
    for size in tensor.shape:
        if size == batch * time > max(time, batch):
            index += [at.rows, at.places]
            sizes += [batch, time]
        else:
            some = batch > 1 and at.rows != ALL
            if some and size not in (batch, time) and size % batch == 0:
                return None  # rows and heads may be joined
            index.append(at.places if size == time > 1 else at.rows if size == batch else ALL)
            sizes.append(size)
    if time > 1 and at.places not in index:
        return None
    return tensor.reshape(sizes)[tuple(index)]


def differs(one: Tensor, other: Tensor, bound: float) -> bool:
    """Return whether two tensors differ: in a bit, or by more than `bound` times the RMS.

    NaN differs from everything. Minus infinity, which a mask puts in, is equal to itself.
    """
    if bound == 0.0:
        return not torch.equal(one, other)
    mine, its = (x.double().nan_to_num(nan=torch.nan, neginf=0.0) for x in (one, other))
    rms = float(its.square().mean().sqrt())
    return not float((mine - its).abs().amax()) <= bound * rms


def first_difference(
    subject: Subject, runs: Runs, shapes: Shapes, pairs: Pairs, bound: float
) -> Place:
    """Return where two runs differ first at tokens that must have the same numbers."""
    # Calls on other ids: what a call leaves behind must differ between the two.
    subject.call(Inputs(token_ids=torch.zeros(1, 1, dtype=torch.int64, device=subject.device)))
    if subject.way is not None:
        return _first_operation(subject, runs, shapes, pairs, bound)
    kinds = {tap.name: tap.kind for tap in subject.taps}
    one, other = (_shown(run, kinds.keys()) for run in runs)
    for name, kind in kinds.items():
        if name not in one or name not in other:
            continue
        for first, second in pairs:
            if kind.axes is Axes.WEIGHTS and _looks_elsewhere(one[name], first):
                return Place(name)
            mine = select(one[name], kind.axes, shapes[0][0], first)
            its = select(other[name], kind.axes, shapes[1][0], second)
            if mine.shape == its.shape and differs(mine, its, bound):
                return Place(name)
    return Place("logits")


def first_unchanged(subject: Subject, runs: Runs, pairs: Pairs, skip: str) -> Place:
    """Return the first tap at which a change does not show, although it should.

    `skip` is the embedding that the change does not concern.
    """
    if subject.way is not None:
        return Place()
    one, other = (_shown(run, [tap.name for tap in subject.taps]) for run in runs)
    for tap in subject.taps:
        if tap.name == skip or tap.kind.axes in (Axes.SCORES, Axes.WEIGHTS, Axes.HEADS):
            continue
        if tap.name in one and tap.name in other:
            for first, second in pairs:
                sides = [
                    select(values[tap.name], tap.kind.axes, len(values["logits"]), at)
                    for values, at in ((one, first), (other, second))
                ]
                if torch.equal(*sides):
                    return Place(tap.name)
    return Place("logits")


def _looks_elsewhere(weights: Tensor, at: At) -> bool:
    """Return whether tokens give weight to keys that are none of them: later ones, or padding."""
    others = weights[at.rows][:, :, at.places].clone()
    others[..., at.places] = 0.0
    return bool(others.any())


def _shown(run: Run, names: Collection[str]) -> dict[str, Tensor]:
    """Return every tensor that a run shows; those of a tap called several times are joined."""
    parts: dict[str, list[Tensor]] = {}

    def tap(name: str, value: Tensor, /) -> Tensor:
        if name in names:
            parts.setdefault(name, []).append(value.detach().clone())
        return value

    logits = run(tap)
    joined: dict[str, Tensor] = {}
    for name, values in parts.items():
        if len(values) == 1:
            joined[name] = values[0]
        elif values[0].ndim == 3:  # noqa: PLR2004 - [batch time width], of chunks of one text
            joined[name] = torch.cat(values, dim=1)
        elif not name.endswith(("scores", "weights")):
            joined[name] = torch.cat(values, dim=2)
    return {**joined, "logits": logits}


def _first_operation(
    subject: Subject, runs: Runs, shapes: Shapes, pairs: Pairs, bound: float
) -> Place:
    kept: dict[Number, list[Tensor | None]] = {}
    found: list[Number] = []

    def keep(number: Number, tensor: Tensor) -> None:
        parts = (select_by_size(tensor, shapes[0], one) for one, _ in pairs)
        kept[number] = [None if part is None else part.clone() for part in parts]

    def compare(number: Number, tensor: Tensor) -> None:
        if found or number not in kept:
            return
        for mine, (_, at) in zip(kept[number], pairs, strict=True):
            its = select_by_size(tensor, shapes[1], at)
            if mine is None or its is None or mine.shape != its.shape:
                continue
            if differs(mine, its, bound):
                found.append(number)
                return

    try:
        trace = watch(subject.model, lambda: runs[0](no_tap), keep)
        watch(subject.model, lambda: runs[1](no_tap), compare)
    except InconclusiveError:  # scripted: it cannot be watched
        return Place()
    events: Mapping[Number, Event] = {event.number: event for event in trace.events}
    event = events.get(found[0]) if found else None
    if event is None:
        return Place()
    return Place(described(event, event.stack[:1]), event.stack[0] if event.stack else None)
