"""How a model wants to be called, and where its logits are in what it returns."""

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from parity.core.candidates import broken
from parity.errors import InconclusiveError, message_of

Call = Callable[[nn.Module, Tensor], Any]

_IDS = ("input_ids", "idx", "ids", "token_ids", "tokens", "x", "inputs", "input", "src")
_TARGETS = ("targets", "target", "labels", "y", "lm_labels")
_POSITIONS = ("position_ids", "positions", "pos", "position")


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to call a model on ids [batch time].

    Attributes:
        text: The call as one would write it.
        call: Called with the model and the ids.
    """

    text: str
    call: Call


def ways(model: nn.Module) -> Iterator[Way]:
    """Yield the ways to call a model, the likeliest first.

    The names of its arguments decide; what is not named is tried.
    """
    parameters = inspect.signature(model.forward).parameters
    required = [
        p.name for p in parameters.values() if p.default is p.empty and p.kind <= p.KEYWORD_ONLY
    ]
    named = [p.name for p in parameters.values() if p.kind == p.KEYWORD_ONLY]
    ids = next((name for name in _IDS if name in parameters), "")
    extra = [name for name in required[1:] if name in _POSITIONS]
    if ids in named:
        yield Way(f"model({ids}=ids)", lambda m, x: m(**{ids: x}))
    yield Way("model(ids)", lambda m, x: m(x))
    for name in extra:
        yield Way(f"model(ids, {name}=positions)", partial(_with, name, _positions))
    for name in (name for name in _TARGETS if name in parameters):
        yield Way(f"model(ids, {name}=ids)", partial(_with, name, lambda x: x))
    yield Way("model(ids, ids)", lambda m, x: m(x, x))
    yield Way('model({"input_ids": ids})', lambda m, x: m({"input_ids": x}))
    yield Way("model(ids.T)", lambda m, x: m(x.T))
    yield Way("model(ids[0])", lambda m, x: m(x[0]))


def _with(name: str, made: Callable[[Tensor], Tensor], model: nn.Module, ids: Tensor) -> object:
    return model(ids, **{name: made(ids)})


def _positions(ids: Tensor) -> Tensor:
    return torch.arange(ids.shape[1], device=ids.device).expand(ids.shape)


def candidates_for_logits(result: object, ids: Tensor, vocab_size: int) -> list[Tensor]:
    """Return the floating-point tensors in a result that may be logits, the likeliest first.

    They have at least `vocab_size` columns, and a row for each id or for each text's last one.
    """
    if isinstance(result, Mapping) and isinstance(result.get("logits"), Tensor):
        first: Sequence[object] = [result["logits"]]
    else:
        first = []
    found = []
    for leaf in [*first, *_leaves(result)]:
        if not isinstance(leaf, Tensor) or not leaf.is_floating_point() or leaf.ndim < 1:
            continue
        rows = leaf.numel() // max(leaf.shape[-1], 1)
        if leaf.shape[-1] >= vocab_size and rows in (ids.numel(), ids.shape[0]):
            found.append(leaf)
    return list(dict.fromkeys(found))


def _leaves(result: object) -> list[object]:
    if isinstance(result, Mapping):  # ModelOutput is one, which a tree does not open
        return [leaf for value in result.values() for leaf in tree_leaves(value)]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        values = [getattr(result, field.name) for field in dataclasses.fields(result)]
        return [leaf for value in values for leaf in tree_leaves(value)]
    return tree_leaves(result)


def find_way(model: nn.Module, ids: Tensor, vocab_size: int) -> Way:
    """Return the first way to call a model that gives logits.

    Raises:
        InconclusiveError: None does; the message has every way and what came of it.
    """
    tried: list[str] = []
    first: BaseException | None = None
    for way in ways(model):
        try:
            with torch.no_grad():
                result = way.call(model, ids)
        except Exception as error:  # noqa: BLE001 - a wrong way may raise whatever it likes
            first = first or error
            tried.append(f"{way.text}: {message_of(error)}")
            continue
        if candidates_for_logits(result, ids, vocab_size):
            return way
        tried.append(f"{way.text}: no logits of {vocab_size} columns in what it returns")
    if first is not None and len({text.partition(": ")[2] for text in tried}) == 1:
        raise broken(first, after="its start") from first
    raise InconclusiveError(
        "no way to call the candidate gives logits",
        where="; ".join(tried),
        fix="say how it is called: --call 'model(ids, cache=None)[0]'",
    )
