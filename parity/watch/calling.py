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
import contextlib
import dataclasses
import inspect
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

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
_FILLED = {
    **{name: kind for kind, names in _SPELLINGS.items() for name in names},
    **dict.fromkeys(_TARGETS, "ids"),
    "tap": "lambda name, x: x",
    "start_pos": "0",
    "offset": "0",
    "training": "False",
}
"""What a required argument gets; any other gets None."""
_EXAMPLE = "say how it is called: --call 'model(ids, cache=None)[0]'"


@dataclasses.dataclass(frozen=True)
class Way:
    """A way to call a model.

    Attributes:
        text: The call in Python. Positions and a mask are added when the inputs have them.
        call: Takes the model and the inputs; returns what the model returns. It raises
            `InconclusiveError` if the inputs have positions or a mask, and the call passes none.
        layout: How the logits lie in what it returns, as in `Logits`; None if that is not known.
    """

    text: str
    call: Callable[[nn.Module, Inputs], object]
    layout: str | None = None


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


def logits_in(
    result: object, token_ids: Tensor, vocab_size: int, layout: str | None = None
) -> Logits:
    """Return the logits among what a model returned; `layout` is theirs, if it is known.

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
        with contextlib.suppress(InconclusiveError):
            found_in = partial(logits_in, token_ids=token_ids[:1], vocab_size=vocab_size)
            joined = torch.cat([found_in(row).tensor for row in result])
            return Logits(tensor=joined, raw=joined, layout="row by row")
    sizes = {"b": batch, "t": time, "n": batch * time, "1": 1}
    leaves = list(_leaves(result))
    found: list[tuple[tuple[object, ...], Logits]] = []
    for order, (name, leaf) in enumerate(leaves):
        for rank, (axes, words) in enumerate(_LAYOUTS):
            lengths = dict(zip(axes, leaf.shape, strict=False))
            count = lengths.pop("v", 0)
            is_fitting = len(axes) == leaf.ndim and lengths.items() <= sizes.items()
            if count < vocab_size or not is_fitting or (axes == "v" and batch > 1):
                continue
            if layout is not None and words != re.sub(r"(, )?\d+ more columns$", "", layout):
                continue
            more = count - vocab_size
            layout_found = ", ".join(filter(None, [words, f"{more} more columns" * bool(more)]))
            tensor = _canonical(leaf, axes, batch)[..., :vocab_size]
            likely = ("logits" not in name, more, rank, _is_probability(tensor), order)
            found.append((likely, Logits(tensor=tensor, raw=leaf, layout=layout_found)))
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
    return leaf if axes in ("btv", "b1v") else leaf.view(batch, -1, leaf.shape[-1])


def _is_probability(tensor: Tensor) -> bool:
    row = tensor[0, 0].detach()
    return bool((row >= 0).all()) and abs(float(row.sum()) - 1) < 1e-3  # noqa: PLR2004


def _leaves(result: object, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield every floating-point tensor with its name, "" if it has none."""
    if isinstance(result, Tensor):
        if result.is_floating_point():
            yield name, result
        return
    members: Iterable[tuple[object, object]] = ()
    if isinstance(result, Mapping):  # transformers' ModelOutput is one
        members = result.items()
    elif dataclasses.is_dataclass(result):
        members = [
            (field.name, getattr(result, field.name)) for field in dataclasses.fields(result)
        ]
    elif isinstance(result, list | tuple):
        names = getattr(result, "_fields", [name] * len(result))  # of a named tuple
        members = zip(names, result, strict=True)
    elif hasattr(result, "logits"):
        members = [("logits", result.logits)]
    for key, value in members:
        yield from _leaves(value, str(key))


def find_way(model: nn.Module, token_ids: Tensor, vocab_size: int, call: str | None = None) -> Way:
    """Return the best way to call a model, or the one that `call` gives in Python.

    Every way is tried on the ids, and on others with one token changed. In the best one the token
    changes other positions of its own row, then none before it, and there are logits for all
    positions. So a model that wants time first, or a mask, is found by its numbers. Of equals the
    first is taken: `model(ids)`.

    Raises:
        InconclusiveError: No way gives logits. The message has the line where the model raised, or
            every way and what came of it.
        UsageError: `call` is no Python, fails by itself or gives no logits.
    """
    inputs = Inputs(token_ids=token_ids)
    if call is not None:
        given = _checked(Way(call, partial(_evaluate, call)), model, inputs, vocab_size)
        return _with_layout(given, model, inputs, vocab_size)
    best: tuple[tuple[bool, ...], Way] | None = None
    tried: list[str] = []
    raised: dict[str, BaseException] = {}
    plain, reshaped = _ways(model)
    for way in plain + reshaped:
        found = _attempt(way, model, inputs, vocab_size)
        if isinstance(found, BaseException):
            words = f"{type(found).__name__}: {message_of(found)}"
            words = found.what if isinstance(found, InconclusiveError) else words
            tried.append(f"{way.text}: {words}")
            if way in plain and (site := _site(found)):
                raised.setdefault(site, found)
        elif (way in plain or found[0]) and (best is None or found > best[0]):
            best = found, way
            if all(found):
                break
    if best is not None:
        return _with_layout(best[1], model, inputs, vocab_size)
    if len(raised) == 1:
        (first,) = raised.values()
        raise broken(first, after="its start") from first
    raise InconclusiveError(
        "no way to call the candidate gives logits", where="; ".join(tried), fix=_EXAMPLE
    )


def _with_layout(way: Way, model: nn.Module, inputs: Inputs, vocab_size: int) -> Way:
    with torch.no_grad():
        logits = logits_in(way.call(model, inputs), inputs.token_ids, vocab_size)
    return way if "row by row" in logits.layout else dataclasses.replace(way, layout=logits.layout)


def _checked(way: Way, model: nn.Module, inputs: Inputs, vocab_size: int) -> Way:
    """Return the user's way, if it gives logits."""
    try:
        with torch.no_grad():
            logits_in(way.call(model, inputs), inputs.token_ids, vocab_size)
    except (Exception, SystemExit) as error:
        if _site(error) and not isinstance(error, InconclusiveError):
            raise broken(error, after="its start") from error
        raise UsageError(
            f"the call cannot be used: {type(error).__name__}: {message_of(error)}",
            where=f"--call {quote(way.text)}",
            fix="use the names model, ids, positions, mask, causal and torch, and give the logits: "
            "--call 'model(ids, cache=None)[0]'",
        ) from error
    return way


def _site(error: BaseException) -> str:
    return site_of(traceback.extract_tb(error.__traceback__))


def _ways(model: nn.Module) -> tuple[list[Way], list[Way]]:
    """Return the ways to call a model, the likeliest first; its arguments' names decide.

    Those of the second list guess the form of the ids or of a mask, so an error may be the guess's.
    """
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
    fixed = {name: _FILLED.get(name, "None") for name in required if name != (place or required[0])}
    target = next((n for n in _TARGETS if n in named), "")
    targets = {target: "ids"} if target else {}
    mask = next((n for n in _CAUSAL if n in named), "")
    forms = [*_FORMS, "None"] if mask in required else _FORMS if mask else ()
    spelled = {
        kind: next((n for n in names if n in named), names[0] if open_kinds[1] in kinds else "")
        for kind, names in _SPELLINGS.items()
    }

    def way(*arguments: str) -> Way:
        text = f"model({', '.join(arguments)})"
        return Way(text, partial(_extended, arguments, spelled))

    def ways(ids: str, *changes: Mapping[str, str]) -> list[Way]:
        texts = [[f"{k}={v}" for k, v in {**fixed, **change}.items()] for change in changes]
        return [way(ids, *text) for text in texts]

    plain = [one for ids in starts for one in ways(ids, {}, targets)]
    if not fixed.keys() <= _FILLED.keys() | set(_CAUSAL):
        plain += [way("ids", "ids")]
    guessed = ways(starts[0], *({**targets, mask: form} for form in forms))
    for name in _IDS:
        guessed += [way(f"{{{name!r}: ids, 'attention_mask': mask, 'position_ids': positions}}")]
    rows = "[model(row) for row in ids]"
    return plain, [*guessed, *ways("ids.T", {}), Way(rows, partial(_evaluate, rows))]


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


def _attempt(
    way: Way, model: nn.Module, inputs: Inputs, vocab_size: int
) -> tuple[bool, bool, bool] | BaseException:
    """Return how good a way is, or why it is none."""
    try:
        with torch.no_grad():
            return _quality(partial(way.call, model), inputs, vocab_size)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a wrong way may raise anything
        return error


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
