"""A candidate model: built from a file, called whatever its signature is, examined before a check.

`--candidate FILE.py` runs the file; `MODULE:NAME` is imported. `parity.core.building` calls the
function or class that is there. If it does not take the weights, they are copied into the model's
parameters, as `parity.core.loading` decides. `forward` takes token ids and a tap, and if it has
them, positions and a mask.

`examine` runs the model on a few tokens first: what raises, draws random numbers, computes in
another dtype or ignores a tap's answer is reported by file and line, before anything is compared.
"""

import contextlib
import copy
import dataclasses
import importlib
import inspect
import logging
import os
import re
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parity.checkpoints.weights import Weights
from parity.core.building import Maker, maker_of, model_classes
from parity.core.inputs import Inputs
from parity.core.loading import load
from parity.core.mapping import read_map_file
from parity.core.results import Reason
from parity.core.taps import Tap
from parity.errors import (
    ExitCode,
    InconclusiveError,
    InputRejectedError,
    UsageError,
    message_of,
)
from scratch_gpt.checkpoint.names import listed
from scratch_gpt.errors import quote
from scratch_gpt.tap import Tap as TapFunction

_log = logging.getLogger(__name__)

_BUILDERS: WeakKeyDictionary[nn.Module, Callable[[torch.dtype], nn.Module]] = WeakKeyDictionary()
"""How a candidate is built again, in another dtype."""
_NOTES: WeakKeyDictionary[nn.Module, Sequence[str]] = WeakKeyDictionary()

# Build.


def build_candidate(
    candidate: str | Callable[..., object], weights: Weights, mapping: str | Path | None = None
) -> nn.Module:
    """Return the candidate `FILE.py`, `FILE.py:NAME` or `MODULE:NAME`, in evaluation mode.

    The name is a function, a class or a module. A file without a name has a function `build`, or
    one class of a model. What does not take the weights and does not hold them gets them copied in.

    Args:
        candidate: Its name; or the function, class or module itself, which is copied.
        weights: Given as float32 copies, or as copies in the dtype of `rebuilt`.
        mapping: A file that says what parameters are made of; it goes before what is found.

    Raises:
        UsageError: There is no such function, class or module, or an argument of it is not known;
            or it is ambiguous which weights a parameter holds.
        InputRejectedError: The file or the function raised, or did not return a module.
    """
    if isinstance(candidate, str):
        name = candidate
        with beside(name):
            make = _maker(name)
    elif isinstance(candidate, nn.Module):
        name, module = type(candidate).__name__, candidate
        make = Maker(text=name, call=lambda *_: copy.deepcopy(module), takes_weights=False)
    else:
        name = str(getattr(candidate, "__qualname__", candidate))
        make = maker_of(candidate, name)
    if make.takes_weights and mapping is not None:
        raise UsageError(
            "the candidate takes the weights itself, so the mapping would not be used",
            where=f"--map {mapping} with --candidate {name}",
            fix="leave --map out, or take only the config",
        )
    file = None if mapping is None else read_map_file(mapping)
    given = None if file is None else file.mapping
    notes: Sequence[str] = ()

    def build(dtype: torch.dtype) -> nn.Module:
        nonlocal notes
        state = {key: torch.tensor(array, dtype=dtype) for key, array in weights.tensors.items()}
        model = _made(name, make.text, lambda: make.call(weights.config, state))
        if not make.takes_weights:
            done, *table = load(model, state, weights.config["n_head"], given)
            named = (*model.named_parameters(remove_duplicate=False), *model.named_buffers())
            unused = file.unused(name for name, _ in named) if file else []
            misfits = f"in the map, and not in the model: {listed(map(quote, unused))}"
            notes = [done, *([misfits] if unused else []), *table]
        return model

    model = build(torch.float32)
    _require_whole_precision(model, name)
    _BUILDERS[model] = lambda dtype: build(dtype).to(dtype)
    _NOTES[model] = notes
    return model


def build_as_given(name: str, config: object, weights: Mapping[str, Tensor]) -> nn.Module:
    """Return a candidate of any architecture, in evaluation mode.

    The name is a function `build(config, weights)`, which gets both as they are, or a module.

    Raises:
        UsageError: There is no such function or module.
        InputRejectedError: The file or the function raised, or did not return a module.
        InconclusiveError: The function rounded the weights.
    """
    file, _, attribute = _split(name)
    with beside(name):
        found = _in_file(name) if file else _in_module(name)
    is_class = inspect.isclass(found)  # its arguments may be any, and the weights are not copied
    if is_class or not callable(found):
        raise _absent(name, f"{attribute or 'build'} is no function build(config, weights)")
    model = _made(
        name,
        "build(config, weights)",
        lambda: found if isinstance(found, nn.Module) else found(config, weights),
    )
    _require_whole_precision(model, name)
    return model


def _made(name: str, text: str, make: Callable[[], object]) -> nn.Module:
    """Return what a candidate's function makes, in evaluation mode."""
    device = torch.empty(0).device  # torch 2.6 fails to name the default after it was reset
    with beside(name), running(name, f"it is called as {text}"):
        model = make()
    if (changed := torch.empty(0).device) != device:
        raise InputRejectedError(
            f"the candidate changed torch's default device to {changed}",
            where=f"--candidate {name}",
            fix="use `with torch.device(...)`, which ends; --device moves the model",
        )
    if not isinstance(model, nn.Module):
        raise InputRejectedError(
            f"the candidate's function returned {type(model).__name__}, not a torch module",
            where=f"--candidate {name}",
            fix="return a torch.nn.Module called as model(ids, positions, mask, tap=tap)",
        )
    with running(name, "its parameters must have values when it is built"):
        model.eval()  # it may be overridden and return nothing
        named = model.named_parameters()
        if empty := [n for n, p in named if is_lazy(p) or p.is_meta]:
            message = f"{empty[0]} is on the meta device, or has no shape yet"
            raise ValueError(message)
    return model


def loading_notes(model: nn.Module) -> Sequence[str]:
    """Return how the weights came into a candidate that does not take them; nothing otherwise.

    First what is special in a sentence each, then the table, a line for each parameter.
    """
    return _NOTES.get(model, ())


def rebuilt(model: nn.Module, dtype: torch.dtype) -> nn.Module | None:
    """Return a candidate built anew from weights in `dtype`; None if no function builds it.

    A copy would not do: closures and plain tensors keep the original's dtype.
    """
    build = _BUILDERS.get(model)
    if isinstance(model, PreparedCandidate):
        return model.in_dtype(dtype)
    return None if build is None else build(dtype)


def is_built(model: nn.Module) -> bool:
    """Return whether `build_candidate` made the model."""
    return model in _BUILDERS


def _require_whole_precision(model: nn.Module, name: str) -> None:
    """Require that the weights were not rounded.

    Raises:
        InconclusiveError: A parameter or buffer is narrower than float32.
    """
    named = [*model.named_parameters(), *model.named_buffers()]
    narrow = [(n, t) for n, t in named if t.dtype in (torch.float16, torch.bfloat16)]
    if narrow:
        raise InconclusiveError(
            f"the candidate holds {narrow[0][1].dtype} weights: building it rounded them",
            where=f"--candidate {name}: {narrow[0][0]} and {len(narrow) - 1} more",
            fix="build it in float32; --dtype bfloat16 or float16 converts it for the check",
        )


def _maker(name: str) -> Maker:
    """Return what makes the candidate.

    Raises:
        UsageError: It is not there, or an argument of it is not known.
        InputRejectedError: Its file or its module raised.
    """
    file, _, attribute = _split(name)
    found = _in_file(name) if file else _in_module(name)
    if isinstance(found, nn.Module):
        # A file is run again, as closures of a copy would keep the original's tensors.
        again = partial(_in_file, name) if file else partial(copy.deepcopy, found)
        return Maker(text=attribute, call=lambda _fields, _state: again(), takes_weights=False)
    if not callable(found):
        kind = "it has none" if found is None else f"it is of type {type(found).__name__}"
        raise _absent(name, f"{attribute or 'build'} is no function, class or module: {kind}")
    return maker_of(found, name)


def _split(name: str) -> tuple[str, str, str]:
    """Return file, module and attribute; "" for what the name does not have."""
    if match := re.fullmatch(r"(.*\.py)(?::(\w+))?", name, re.DOTALL):
        return match[1], "", match[2] or ""
    module, _, attribute = name.partition(":")
    return "", module, attribute


def _in_file(name: str) -> object:
    """Return the object of `FILE.py` or `FILE.py:NAME`; None if the file does not have it."""
    file, _, attribute = _split(name)
    if not Path(file).is_file():
        raise _absent(name, "there is no such file")
    with running(name, "run it alone to see what is wrong"):
        namespace = runpy.run_path(file)
    if attribute or "build" in namespace:
        return namespace.get(attribute or "build")
    names = model_classes(namespace, file)
    if len(names) > 1:
        raise UsageError(
            f"the file has no function build, and {len(names)} models",
            where=f"--candidate {name}",
            fix=f"name one: {', '.join(f'{name}:{one}' for one in names)}",
        )
    return namespace[names[0]] if names else None


def _in_module(name: str) -> object:
    """Return the object `MODULE:NAME`; None if the module does not have it."""
    _, module, attribute = _split(name)
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise _absent(name, "it is neither FILE.py nor MODULE:NAME")
    with running(name, "import it alone to see what is wrong"):
        try:
            return getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, and one of its own imports does not
            raise _absent(name, f"there is no module {error.name}") from error


def _absent(name: str, why: str) -> UsageError:
    return UsageError(
        f"no candidate there: {why}",
        where=f"--candidate {name}",
        fix="name a FILE.py with a function build(config, weights) or one model, FILE.py:NAME, or "
        "MODULE:NAME",
    )


@contextlib.contextmanager
def beside(name: str) -> Iterator[None]:
    """Let a file import modules from its own folder."""
    before = list(sys.path)
    if file := _split(name)[0]:
        sys.path.insert(0, str(Path(file).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def running(name: str, fix: str, kind: str = "candidate") -> Iterator[None]:
    """Raise any error of the candidate's code, an exit too, as a rejection with its line.

    `kind` is the option that named the code, without its dashes.
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        site = site_of(traceback.extract_tb(error.__traceback__))
        raise InputRejectedError(
            f"the {kind} raised {type(error).__name__}: {message_of(error)}",
            where=f"--{kind} {name}" + (f", {site}" if site else ""),
            fix=f"{fix}; --debug shows the traceback",
        ) from error


# Call.

_POSITIONS = ("positions", "position_ids", "pos")
_MASK = ("attention_mask", "mask", "padding_mask")
_AXES = 3


def call(model: nn.Module, inputs: Inputs, tap: TapFunction) -> Tensor:
    """Run a candidate; return its logits.

    Positions and mask are passed if the model takes them; a tuple or a mapping is searched for the
    logits.

    Raises:
        InconclusiveError: The inputs have positions or a mask, and the model takes none.
        TypeError: It returned no tensor.
    """
    given = {"positions": inputs.positions, "attention_mask": inputs.attention_mask}
    parameters = inspect.signature(model.forward).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    if inspect.Parameter.VAR_POSITIONAL in kinds and inspect.Parameter.VAR_KEYWORD not in kinds:
        return logits_of(model(inputs.token_ids, *given.values(), tap=tap))
    others = [name for name in list(parameters)[1:] if name != "tap"]
    chosen: dict[str, Tensor | None] = {}
    for (name, value), spellings in zip(given.items(), (_POSITIONS, _MASK), strict=True):
        accepted = next((spelling for spelling in spellings if spelling in others), None)
        if accepted is None and value is not None and inspect.Parameter.VAR_KEYWORD in kinds:
            accepted = name
        if accepted is not None:
            chosen[accepted] = value
        elif value is not None:
            raise InconclusiveError(
                f"the inputs have {name}, and the candidate's forward takes none",
                where=f"its arguments are {list(parameters)}",
                fix=f"add an argument {spellings[0]}, or check it without "
                + ("padding" if name == "attention_mask" else "positions"),
            )
    return logits_of(model(inputs.token_ids, **chosen, tap=tap))


def logits_of(result: object) -> Tensor:
    """Return the logits among what a model returned: a tensor, or the first of three axes.

    Raises:
        TypeError: There is none.
    """
    if isinstance(result, Tensor):
        return result
    logits = result.get("logits") if isinstance(result, Mapping) else None
    if isinstance(logits, Tensor):
        return logits
    values = list(result.values()) if isinstance(result, Mapping) else result
    if isinstance(values, Sequence):
        tensors = [value for value in values if isinstance(value, Tensor)]
        found = next((tensor for tensor in tensors if tensor.ndim == _AXES), None)
        if found is not None:
            return found
    raise TypeError(f"the model returned {type(result).__name__}, and no logits in it")


# Examine.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Profile:
    """What a candidate does on a few tokens.

    Attributes:
        shown: The taps that it shows, in order.
        narrow: Where a dtype narrower than float64 enters a float64 run, and which; "" if nowhere.
        reasons: Why its verdict cannot be trusted.
    """

    shown: Sequence[str]
    narrow: str = ""
    reasons: Sequence[Reason] = ()


class PreparedCandidate(nn.Module):
    """A candidate that shows no taps itself; where they are in its run was found out before.

    It is called with a tap as other candidates are, on the inputs for which it was prepared.

    Attributes:
        profile: What it shows.
        last_only: Whether its logits are those of the last position alone.
        shows_loss: Whether it shows its own loss; else it is computed from its logits.
        answers: For each tap the tensor with which the run goes on instead of its own; None for
            its own.
    """

    profile: Profile
    last_only: bool = False
    shows_loss: bool = False
    answers: Mapping[str, Tensor] | None = None

    def in_dtype(self, dtype: torch.dtype) -> "PreparedCandidate":
        """Return the candidate in another dtype."""
        raise NotImplementedError


def shows_taps(model: nn.Module) -> bool:
    """Return whether a model's forward takes a tap."""
    try:
        return "tap" in inspect.signature(model.forward).parameters
    except ValueError:  # a traced one has none
        return False


def examine(model: nn.Module, inputs: Inputs, plan: Sequence[Tap]) -> Profile:
    """Run a candidate in float64 on the first tokens of the inputs, several times.

    Args:
        model: The candidate in float64.
        inputs: Only the first row's first tokens are used.
        plan: Every tap in network order.

    Raises:
        UsageError: Its forward has no argument `tap`.
        InconclusiveError: It raised, or two runs differ; the message has file and line.
    """
    if not shows_taps(model):
        raise UsageError(
            f"this check needs a model that shows taps, and {type(model).__name__}.forward has no "
            "argument named tap",
            where=f"its arguments are {list(inspect.signature(model.forward).parameters)}",
            fix="call tap(name, tensor) at each tap and go on with what it returns, as "
            "scratch_gpt/tap.py says; layerwise and gradients take a model without taps",
        )
    few = _few(inputs)
    first, second = _Watch(), _Watch()
    for watch in (first, second):
        with watch, torch.no_grad():
            _run(model, few, watch.tap)
    seen, again = first.values, second.values
    if not any(tap.name in seen for tap in plan):
        raise InconclusiveError(
            "the candidate shows no tap, so nothing can be placed",
            where=f"it showed {', '.join(list(seen)[:3]) or 'nothing'}",
            fix="call x = tap(name, x) at each tap; parity/core/taps.py has the names",
        )
    changed = [name for name in seen if not _equal(seen[name], again.get(name))]
    if changed:
        raise InconclusiveError(
            f"two runs of the candidate on the same ids differ, first at {changed[0]}",
            where=f"random numbers are drawn at {first.random or 'no operation of torch'}",
            fix="leave dropout off in evaluation: F.dropout(x, p, training=self.training)",
        )
    reasons = list(_unused_answers(model, few, plan, seen))
    return Profile(shown=list(seen), narrow=first.narrow, reasons=reasons)


_FEW_TOKENS = 7


def _few(inputs: Inputs) -> Inputs:
    def cut(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[:1, :_FEW_TOKENS]

    return Inputs(
        token_ids=inputs.token_ids[:1, :_FEW_TOKENS],
        positions=cut(inputs.positions),
        attention_mask=cut(inputs.attention_mask),
    )


class _StopError(BaseException):
    """Ends a forward pass whose remaining taps are not needed."""


def _run(model: nn.Module, inputs: Inputs, tap: TapFunction) -> None:
    """Run a candidate; an error becomes one message with file and line."""
    last = "its start"

    def following(name: str, value: Tensor, /) -> Tensor:
        nonlocal last
        last = name
        if not isinstance(value, Tensor):
            raise TypeError(f"the tap {name} got a {type(value).__name__}, not a tensor")
        return tap(name, value)

    try:
        call(model, inputs, following)
    except (InconclusiveError, KeyboardInterrupt, _StopError):
        raise
    except BaseException as error:
        raise broken(error, after=last) from error


def broken(error: BaseException, *, after: str, part: str = "forward") -> InconclusiveError:
    """Return the error of a candidate that raised, with the line of the user's file."""
    _log.debug("the candidate raised", exc_info=error)
    site = site_of(traceback.extract_tb(error.__traceback__))
    return InconclusiveError(
        f"the candidate's {part} raised {type(error).__name__}: {message_of(error)}",
        where=f"{site or f'its {part}'}, after {after}",
        fix="run the model alone on the same ids; --debug shows the traceback",
    )


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own base
    """Keeps every tap's value, and where random numbers or another dtype come in."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.values: dict[str, Tensor] = {}
        self.random = ""
        self.narrow = ""

    def tap(self, name: str, value: Tensor, /) -> Tensor:
        """Keep a copy of the value."""
        self.values[name] = value.detach().clone()
        return value

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation of torch
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the operation returns
        """Run an operation and look at its tensors."""
        result = func(*args, **(kwargs or {}))
        if not self.random and torch.Tag.nondeterministic_seeded in func.tags:
            self.random = _here(func)
        if not self.narrow:
            inputs = {t.dtype for t in tree_leaves((args, kwargs)) if _is_float(t)}
            made = {t.dtype for t in tree_leaves(result) if _is_float(t) and t.ndim}
            narrow = (made | (inputs if len(inputs) > 1 else set())) - {torch.float64}
            if narrow:
                kind = str(min(narrow, key=str)).removeprefix("torch.")
                self.narrow = f"{kind} enters at {_here(func)}"
        return result


def _is_float(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _here(func: Any) -> str:  # noqa: ANN401 - an operation of torch
    site = site_of(traceback.extract_stack())
    return f"{site}, {func.overloadpacket.__name__}" if site else str(func.overloadpacket.__name__)


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and torch.equal(one.nan_to_num(), other.nan_to_num())


_PACKAGES = tuple(
    os.path.dirname(os.path.abspath(str(sys.modules[name].__file__))) + os.sep  # noqa: PTH120, PTH100
    for name in ("torch", "parity", "scratch_gpt")
)
_LIBRARY = os.path.dirname(os.path.abspath(contextlib.__file__)) + os.sep  # noqa: PTH120, PTH100


def site_of(frames: Sequence[traceback.FrameSummary]) -> str:
    """Return `FILE:LINE` of the innermost frame of the user's code; "" if there is none."""
    sites = (site_of_frame(frame.filename, frame.lineno) for frame in reversed(frames))
    return next(filter(None, sites), "")


def site_of_frame(filename: str, line: int | None) -> str:
    """Return `FILE:LINE` of a frame; "" if it is not in the user's code."""
    path = os.path.abspath(filename)  # noqa: PTH100 - the name may not be a path
    if path.startswith((*_PACKAGES, _LIBRARY)) or filename.startswith("<"):
        return ""
    relative = os.path.relpath(path)
    return f"{relative if not relative.startswith('..') else path}:{line}"


def _unused_answers(
    model: nn.Module, inputs: Inputs, plan: Sequence[Tap], shown: Mapping[str, Tensor]
) -> Iterator[Reason]:
    """Yield a reason for the first tap whose answer the model does not continue with.

    The embeddings and the first block are tried: each answer is replaced, and the next tap that it
    feeds must change.
    """
    order = [tap for tap in plan if tap.name in shown]
    for tap in order:
        if tap.name.startswith("h.") and not tap.name.startswith("h.0."):
            continue
        fed = [other.name for other in order if tap.name in other.inputs]
        if not fed:
            continue
        changed = _changed_by(model, inputs, tap.name, fed, shown)
        if not changed:
            yield Reason(
                what=f"the model does not continue with what tap({tap.name!r}, ...) returns",
                where=f"{', '.join(fed)} did not change with it",
                fix="write x = tap(name, x), so that each operation can be checked alone",
                code=ExitCode.INCONCLUSIVE,
            )
            return


def _changed_by(
    model: nn.Module,
    inputs: Inputs,
    tap: str,
    fed: Sequence[str],
    shown: Mapping[str, Tensor],
) -> bool:
    """Return whether another answer to a tap changes one of the taps that it feeds."""
    changed = False

    def replacing(name: str, value: Tensor, /) -> Tensor:
        nonlocal changed
        if name in fed and not _equal(value, shown.get(name)):
            changed = True
        if changed or name == fed[-1]:
            raise _StopError
        if name != tap:
            return value
        draws = torch.Generator(device=value.device).manual_seed(1)
        noise = torch.randn(value.shape, generator=draws, dtype=value.dtype, device=value.device)
        return value + noise

    with torch.no_grad(), contextlib.suppress(_StopError):
        _run(model, inputs, replacing)
    return changed
