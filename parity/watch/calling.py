"""How a model is called on token ids, and where the logits are in what it returns.

Every way is one line of Python, such as `model(ids, targets=ids)`. `find_way` tries those that
people use, and `--call` gives one. A line may use these names:

- `model`
- `ids`: `[batch time]`, int64
- `positions`: `[batch time]` or `[1 time]`, int64; 0, 1, 2, ... unless others are given
- `mask`: `[batch time]`, bool, False at padding
- `causal`: `[time time]`, bool, True where a token may look
- `torch`
"""

import ast
import dataclasses
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from parity.core.candidates import broken, site_of
from parity.core.inputs import Inputs
from parity.errors import InconclusiveError, UsageError, message_of
from scratch_gpt.errors import quote

_IDS = (
    *("input_ids", "idx", "ids", "token_ids", "tokens", "x", "inputs", "input", "indices"),
    *("src", "inp", "input_tokens", "sequence"),
)
_TARGETS = ("targets", "target", "labels", "y", "lm_labels", "tgt", "target_ids")
_SPELLINGS = {
    "positions": ("positions", "position_ids", "pos"),
    "mask": ("attention_mask", "mask", "padding_mask"),
}
_CAUSAL = ("mask", "attention_mask", "attn_mask", "src_mask", "tgt_mask", "causal_mask")
_FORMS = ("causal", "~causal", "causal.to(next(model.parameters()).dtype).log()", "mask.long()")
"""What models take as a mask: may look, may not look, is added to the scores; padding."""
_FILLED = {"tap": "lambda name, x: x", "start_pos": "0", "offset": "0", "training": "False"}
_EXAMPLE = "say how it is called: --call 'model(ids, cache=None)[0]'"


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to call a model.

    Attributes:
        text: The call in Python. Positions and a mask are added when the inputs have them.
        call: Takes the model and the inputs; returns what the model returns. It raises
            `InconclusiveError` if the inputs have positions or a mask, and the call passes none.
    """

    text: str
    call: Callable[[nn.Module, Inputs], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logits:
    """The logits among what a model returned.

    Attributes:
        tensor: `[batch time vocab]`; `[batch 1 vocab]` if the model returns the last position only.
        raw: The model's own tensor, of which `tensor` is a view. Of rows that were run one at a
            time it is their concatenation.
        layout: How `raw` differs from `tensor`, in words; "" if it does not.
    """

    tensor: Tensor
    raw: Tensor
    layout: str


_LAYOUTS = (
    ("btv", ""),
    ("tbv", "time first"),
    ("bvt", "[batch vocab time]"),
    ("nv", "[(batch time) vocab]"),
    ("b1v", "last position only"),
    ("1bv", "time first, last position only"),
    ("bv", "last position only"),
    ("v", "last position only"),
)
"""The axes of logits: batch, time, vocab, n = batch times time, 1; the likeliest first."""


def logits_in(result: object, token_ids: Tensor, vocab_size: int) -> Logits:
    """Return the logits among what a model returned.

    A tensor that has "logits" in its name goes first, then one with exactly `vocab_size` columns,
    then one for all positions, then one that is not probabilities, then the first.

    Sizes do not decide everything. Of equal batch and time, batch is first. Joined rows are taken
    as `(batch time)`. Of equal time and vocab, vocab is last. Of more columns than the vocabulary,
    the first are its own.

    Raises:
        InconclusiveError: There are none.
    """
    batch, time = token_ids.shape
    if isinstance(result, list) and 1 < len(result) == batch:
        try:
            rows = [
                logits_in(r, token_ids[i : i + 1], vocab_size).tensor for i, r in enumerate(result)
            ]
        except InconclusiveError:
            pass
        else:
            return Logits(tensor=(joined := torch.cat(rows)), raw=joined, layout="row by row")
    leaves = list(_leaves(result))
    sizes = {"b": batch, "t": time, "n": batch * time, "1": 1}
    found: list[tuple[tuple[object, ...], Logits]] = []
    for order, (name, leaf) in enumerate(leaves):
        for rank, (axes, words) in enumerate(_LAYOUTS):
            if len(axes) != leaf.ndim or axes == "v" and batch > 1:
                continue
            count = leaf.shape[axes.index("v")]
            if count < vocab_size or any(
                size != sizes[axis]
                for axis, size in zip(axes, leaf.shape, strict=True)
                if axis != "v"
            ):
                continue
            more = count - vocab_size
            layout = ", ".join(filter(None, [words, f"{more} more columns" * bool(more)]))
            tensor = _canonical(leaf, axes, batch)[..., :vocab_size]
            likely = ("logits" not in name, more, rank, _is_probability(tensor), order)
            found.append((likely, Logits(tensor=tensor, raw=leaf, layout=layout)))
            break
    if not found:
        shapes = ", ".join(f"{name or 'a tensor'} {list(leaf.shape)}" for name, leaf in leaves)
        raise InconclusiveError(
            f"no logits of {vocab_size} columns in what the model returned",
            where=f"it returned {type(result).__name__} with {shapes or 'no floats'}",
            fix=_EXAMPLE,
        )
    return min(found, key=lambda one: one[0])[1]


def _canonical(leaf: Tensor, axes: str, batch: int) -> Tensor:
    """Return a view `[batch time vocab]`."""
    if axes in ("tbv", "1bv"):
        return leaf.transpose(0, 1)
    if axes == "bvt":
        return leaf.transpose(1, 2)
    rows = leaf.reshape(-1, leaf.shape[-1])  # a view, as only leading axes are joined
    return leaf if leaf.ndim == len("btv") else rows.unflatten(0, (batch, -1))


def _is_probability(tensor: Tensor) -> bool:
    total = tensor[:1, :1].detach().sum(-1)
    return bool((tensor[:1, :1] >= 0).all()) and bool(((total - 1).abs() < 1e-3).all())  # noqa: PLR2004


def _leaves(result: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every floating-point tensor with the name that it has."""
    if isinstance(result, Tensor):
        if result.is_floating_point():
            yield name, result
    elif isinstance(result, Mapping):  # transformers' ModelOutput is one
        for key, value in result.items():
            yield from _leaves(value, str(key))
    elif dataclasses.is_dataclass(result):
        for field in dataclasses.fields(result):
            yield from _leaves(getattr(result, field.name), field.name)
    elif isinstance(result, tuple) and hasattr(result, "_fields"):
        for key, value in zip(result._fields, result, strict=True):
            yield from _leaves(value, key)
    elif isinstance(result, list | tuple):
        for value in result:
            yield from _leaves(value, name)
    elif hasattr(result, "logits"):
        yield from _leaves(result.logits, "logits")


def find_way(model: nn.Module, token_ids: Tensor, vocab_size: int, call: str | None = None) -> Way:
    """Return the best way to call a model, or the one that `call` gives in Python.

    Of the ways that give logits, the best one gives logits in which a token changes its own row's
    other positions, then none before it, and then logits for all positions. So a model that wants
    time first is found by its numbers. The first of equals is taken, and a model without attention
    is called as `model(ids)`.

    Args:
        token_ids: `[batch time]`, int64; a few tokens do, as every way runs on them twice.

    Raises:
        InconclusiveError: No way gives logits; the message has every way and what came of it, or
            the model's own error with its line.
        UsageError: `call` is no Python, or fails, or gives no logits.
    """
    inputs = Inputs(token_ids=token_ids)
    if call is not None:
        way = Way(call, partial(_evaluate, call))
        try:
            with torch.no_grad():
                result = way.call(model, inputs)
        except (Exception, SystemExit) as error:
            if _site(error):
                raise broken(error, after="its start") from error
            raise _unusable(call, f"{type(error).__name__}: {message_of(error)}") from error
        try:
            logits_in(result, token_ids, vocab_size)
        except InconclusiveError as error:
            raise _unusable(call, f"{error.what}: {error.where}") from error
        return way
    best: tuple[tuple[bool, ...], Way] | None = None
    tried: list[str] = []
    raised: dict[str, BaseException] = {}
    ways = _ways(model)
    for way in ways.plain + ways.reshaped:
        try:
            with torch.no_grad():
                quality = _quality(partial(way.call, model), inputs, vocab_size)
        except InconclusiveError as error:
            tried.append(f"{way.text}: {error.what}")
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a wrong way may raise anything
            tried.append(f"{way.text}: {type(error).__name__}: {message_of(error)}")
            if way in ways.plain and (site := _site(error)):
                raised.setdefault(site, error)
        else:
            if best is None or quality > best[0]:
                best = quality, way
            if all(quality):
                break
    if best is not None:
        return best[1]
    if len(raised) == 1:
        error = next(iter(raised.values()))
        raise broken(error, after="its start") from error
    raise InconclusiveError(
        "no way to call the candidate gives logits", where="; ".join(tried), fix=_EXAMPLE
    )


def _site(error: BaseException) -> str:
    return site_of(traceback.extract_tb(error.__traceback__))


def _unusable(call: str, why: str) -> UsageError:
    return UsageError(
        f"the given call cannot be used: {why}",
        where=f"--call {quote(call)}",
        fix="use the names model, ids, positions, mask, causal and torch, and return the logits: "
        "--call 'model(ids, cache=None)[0]'",
    )


class _Ways(NamedTuple):
    plain: list[Way]
    reshaped: list[Way]
    """Ways in which most models fail somewhere inside."""


def _ways(model: nn.Module) -> _Ways:
    """Return the ways to call a model, the likeliest first; its arguments' names decide."""
    try:
        signature = inspect.signature(getattr(model, "_orig_mod", model).forward)
    except (TypeError, ValueError):  # compiled and scripted modules may have none
        signature = inspect.Signature()
    open_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    kinds = {p.kind for p in signature.parameters.values()}
    named = {n: p for n, p in signature.parameters.items() if p.kind not in open_kinds}
    required = [n for n, p in named.items() if p.default is p.empty]
    place = next((n for n in _IDS if n in named), "")
    by_name = [f"{place}=ids"] if place else []
    is_first = bool(named) and (not place or place == next(iter(named)))
    starts = ["ids", *by_name] if is_first or not named else [*by_name, "ids"]
    fixed = {name: _filled(name) for name in required if name != (place or required[0])}
    target = next((n for n in _TARGETS if n in named), "")
    mask = next((n for n in _CAUSAL if n in named), "")
    more: list[dict[str, str]] = [{}]
    with_targets = {target: "ids"} if target else {}
    more += [with_targets] if with_targets else []
    more += [{**with_targets, mask: form} for form in _FORMS if mask]
    more += [{**with_targets, mask: "None"}] if mask in required else []
    spelled = {
        kind: next((n for n in names if n in named), names[0] if open_kinds[1] in kinds else "")
        for kind, names in _SPELLINGS.items()
    }

    def way(*arguments: str) -> Way:
        text = f"model({', '.join(arguments)})"
        return Way(text, partial(_extended, arguments, spelled))

    plain = [
        way(start, *(f"{name}={value}" for name, value in {**fixed, **one}.items()))
        for start in starts
        for one in more
    ]
    plain += [way("ids", "ids")]
    rest = [f"{name}={value}" for name, value in fixed.items()]
    keys = (
        f"{{{name!r}: ids, 'attention_mask': mask, 'position_ids': positions}}" for name in _IDS
    )
    rows = "[model(row) for row in ids]"
    reshaped = [*map(way, keys), way("ids.T", *rest), Way(rows, partial(_evaluate, rows))]
    return _Ways(list(dict.fromkeys(plain)), reshaped)


def _filled(name: str) -> str:
    """Return what a required argument gets."""
    if name in _TARGETS:
        return "ids"
    kind = next((kind for kind, names in _SPELLINGS.items() if name in names), None)
    return kind or _FILLED.get(name, "None")


def _extended(
    arguments: Sequence[str], spelled: Mapping[str, str], model: nn.Module, inputs: Inputs
) -> object:
    """Call a model with arguments, and with positions and a mask if the inputs have them."""
    given = {"positions": inputs.positions, "mask": inputs.attention_mask}
    taken = {argument.partition("=")[0] for argument in arguments}
    more = [
        f"{spelled[kind]}={kind}"
        for kind, value in given.items()
        if value is not None and spelled[kind] and spelled[kind] not in taken
    ]
    return _evaluate(f"model({', '.join([*arguments, *more])})", model, inputs)


def _evaluate(text: str, model: nn.Module, inputs: Inputs) -> object:
    """Return the value of a line of Python.

    Raises:
        InconclusiveError: The inputs have positions or a mask, and the line does not use them.
    """
    tree = ast.parse(text.strip(), "<call>", "eval")
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    given = {"positions": inputs.positions, "mask": inputs.attention_mask}
    for name, value in given.items():
        if value is not None and name not in used:
            raise InconclusiveError(
                f"the inputs have {name}, and the candidate takes none",
                where=f"it is called as {text}",
                fix=f"add an argument {_SPELLINGS[name][0]}, or check it without "
                + ("padding" if name == "mask" else "positions"),
            )
    ids = inputs.token_ids
    counted = torch.arange(ids.shape[1], device=ids.device)
    names = {
        "model": model,
        "torch": torch,
        "ids": ids,
        "positions": counted.expand(ids.shape) if inputs.positions is None else inputs.positions,
        "mask": torch.ones_like(ids, dtype=torch.bool)
        if inputs.attention_mask is None
        else inputs.attention_mask,
        "causal": counted <= counted[:, None],
    }
    return eval(compile(tree, "<call>", "eval"), names)  # noqa: S307 - the user's own line


def _quality(
    call: Callable[[Inputs], object], inputs: Inputs, vocab_size: int
) -> tuple[bool, bool, bool]:
    """Return how good a call is, as `find_way` says: most important first."""
    ids = inputs.token_ids
    time = ids.shape[1]
    first = logits_in(call(inputs), ids, vocab_size).tensor
    is_whole = first.shape[1] == time
    if time == 1:
        return True, True, is_whole
    place = (time - 1) // 2
    other = ids.clone()
    other[0, place] = (other[0, place] + 1) % vocab_size
    second = logits_in(call(Inputs(token_ids=other)), ids, vocab_size).tensor
    changed = (first.nan_to_num() != second.nan_to_num()).any(-1)
    own, others = changed[0], changed[1:]
    elsewhere = own[torch.arange(time) != place] if is_whole else own
    is_connected = bool(elsewhere.any()) and not bool(others.any())
    return is_connected, is_whole and not bool(own[:place].any()), is_whole
