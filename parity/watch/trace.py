"""Every operation of a forward pass: its module, file and line, inputs, and result's fingerprint.

A `TorchDispatchMode` sees what reaches the kernels, whatever Python wrote: `x @ w`, a module or a
closure. Composite operations that would hide their parts are opened: SDPA runs by its formula and
`nn.MultiheadAttention` without its fast path. `torch.compile` is left out, so that a compiled
module runs eagerly.
"""

import contextlib
import dataclasses
import threading
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as hooks
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parity.core.candidates import site_of_frame
from parity.errors import InconclusiveError
from parity.watch.fingerprint import Fingerprint, fingerprint_of

Number = tuple[int, int]
"""An event's place in a run, and the number of conversions to another dtype since.

A run in another dtype needs other conversions; the first part is the same in both. It is -1 for
converted parameters and inputs.
"""

Visit = Callable[[Number, Tensor], None]
"""Called with every tensor when it is made. It may write to the tensor, and must not keep it."""


class Site(NamedTuple):
    """A line of the user's code; `function` is the first line of the function that it is in."""

    file: str
    line: int
    function: int

    def __str__(self) -> str:
        """Return `FILE:LINE`."""
        return f"{self.file}:{self.line}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A floating-point tensor that an operation made.

    Attributes:
        operation: The function that the code calls, such as `torch.nn.functional.gelu`, or the
            kernel's name, such as `gelu`, if the code calls none.
        kernel: The kernel's name.
        module: Path of the module that ran it, such as `blocks.3.mlp`; "" for the model's own.
        stack: The user's code that called it, the innermost first.
        inputs: Numbers of the events that made its inputs.
        leaves: Names of the parameters and buffers among its inputs.
        shares: Whether it is a view: the numbers are another event's.
        narrow: The dtype narrower than float64 among its inputs or its own; None without one.
        is_random: Whether the operation draws random numbers.
    """

    number: Number
    operation: str
    kernel: str
    module: str
    stack: tuple[Site, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: tuple[Number, ...]
    leaves: tuple[str, ...]
    shares: bool
    narrow: torch.dtype | None
    is_random: bool
    fingerprint: Fingerprint

    @property
    def site(self) -> str:
        """`FILE:LINE` of the innermost user's code; "" if there is none."""
        return str(self.stack[0]) if self.stack else ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """A watched run.

    Attributes:
        events: In the order in which they were made.
        result: What the model returned.
        made: The events that made the tensors in the result, by the tensor's id.
    """

    events: Sequence[Event]
    result: Any
    made: Mapping[int, Number]


def watch(model: nn.Module, run: Callable[[], Any], change: Visit | None = None) -> Trace:
    """Run a model, which `run` calls, and record every tensor that it makes.

    `change` may write to the tensors, after they were recorded.

    Raises:
        InconclusiveError: A part of the model is scripted: it runs outside of Python, unseen.
    """
    watcher = _Watcher(model, change)
    with _opened(model), watcher.following_modules(), watcher.calls, watcher, torch.no_grad():
        result = run()
    made = {id(leaf): watcher.number_of(leaf) for leaf in leaves_of(result)}
    return Trace(
        events=watcher.events,
        result=result,
        made={key: number for key, number in made.items() if number is not None},
    )


def replay(model: nn.Module, run: Callable[[], Any], visit: Visit) -> Any:  # noqa: ANN401
    """Run a model again as `watch` did, call `visit` at every event, and return its result."""
    watcher = _Watcher(model, visit, records=False)
    with _opened(model), watcher.calls, watcher, torch.no_grad():
        return run()


def leaves_of(result: object) -> list[Tensor]:
    """Return the tensors in what a model returned: in tuples, mappings and dataclasses, too."""
    if isinstance(result, Mapping):  # a ModelOutput is one, which a tree does not open
        return [leaf for value in result.values() for leaf in leaves_of(value)]
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        values = [getattr(result, field.name) for field in dataclasses.fields(result)]
        return [leaf for value in values for leaf in leaves_of(value)]
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


one_run_at_a_time = threading.RLock()
"""Taken by every watched run: settings of torch hold for all threads."""


@contextlib.contextmanager
def _opened(model: nn.Module) -> Iterator[None]:
    """Let composite operations run as their parts, and compiled modules eagerly."""
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise InconclusiveError(
                f"{name or 'the model'} is scripted: its operations cannot be watched",
                where=f"it is of type {type(part).__name__}",
                fix="give the module as it was before torch.jit",
            )
    with one_run_at_a_time:
        fast = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
                yield
        finally:
            torch.backends.mha.set_fastpath_enabled(fast)


class _Calls(TorchFunctionMode):
    """Notes which function of torch the model's code calls."""

    name = ""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - a function of torch
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the function returns
        """Run a function; its name is known while it runs."""
        self.name = resolve_name(func) or getattr(func, "__name__", "")
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.name = ""


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own base
    """Numbers the events of a run, records them and shows their tensors."""

    def __init__(self, model: nn.Module, visit: Visit | None, *, records: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.calls = _Calls()
        self._records = records
        self._visit = visit
        self._prints: dict[Number, Fingerprint] = {}
        self._count = 0
        self._conversions: Counter[int] = Counter()
        self._paths = {id(part): name for name, part in model.named_modules()}
        self._stack: list[str] = []
        named = [*model.named_parameters(), *model.named_buffers()]
        self._leaves = {tensor.untyped_storage().data_ptr(): name for name, tensor in named}
        self._makers: dict[int, tuple[weakref.ref[Tensor], Number]] = {}
        """Of a living tensor's id, the tensor and the event that gave it its numbers."""

    def number_of(self, tensor: Tensor) -> Number | None:
        """Return the event that gave a living tensor its numbers; None for a parameter."""
        maker = self._makers.get(id(tensor))
        return maker[1] if maker is not None and maker[0]() is tensor else None

    @contextlib.contextmanager
    def following_modules(self) -> Iterator[None]:
        """Note which module runs, through hooks of all modules."""

        def enter(part: nn.Module, _inputs: object) -> None:
            above = self._stack[-1] if self._stack else ""
            name = self._paths.get(id(part), f"{above}.({type(part).__name__})".lstrip("."))
            self._stack.append(name)

        def leave(_part: nn.Module, _inputs: object, _result: object) -> None:
            self._stack.pop()

        handles = [
            hooks.register_module_forward_pre_hook(enter),
            hooks.register_module_forward_hook(leave, always_call=True),
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def __torch_dispatch__(
        self,
        func: Any,  # noqa: ANN401 - an operation of torch
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the operation returns
        """Run an operation; record the floating-point tensors that it made or changed."""
        result = func(*args, **(kwargs or {}))
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        changed = _changed(func, args, kwargs or {}) if func._schema.is_mutable else []  # noqa: SLF001 - no public name
        for tensor in dict.fromkeys((*made, *changed, *self._aliases(changed))):
            if tensor.is_floating_point() and tensor.numel():
                self._record(func, tensor, given)
        return result

    def _aliases(self, changed: Sequence[Tensor]) -> list[Tensor]:
        """Return the other living tensors whose numbers changed with some."""
        written = {tensor.untyped_storage().data_ptr() for tensor in changed}
        in_order = sorted(self._makers.values(), key=lambda made: made[1])  # ids are no order
        living = [ref() for ref, _ in in_order] if written else []
        return [
            one for one in living if one is not None and one.untyped_storage().data_ptr() in written
        ]

    def _record(self, func: Any, tensor: Tensor, given: Sequence[Tensor]) -> None:  # noqa: ANN401
        makers = [self.number_of(one) for one in given]
        if func.overloadpacket is torch.ops.aten._to_copy:  # noqa: SLF001 - no public name
            source = -1 if makers[0] is None else makers[0][0]
            self._conversions[source] += 1
            number = source, self._conversions[source]
        else:
            number, self._count = (self._count, 0), self._count + 1
        self._makers[id(tensor)] = weakref.ref(tensor), number
        if self._records:
            event = self._event(func, number, tensor, given, makers)
            self._prints[number] = event.fingerprint
            self.events.append(event)
        if self._visit is not None:
            self._visit(number, tensor)

    def _event(
        self,
        func: Any,  # noqa: ANN401
        number: Number,
        tensor: Tensor,
        given: Sequence[Tensor],
        makers: Sequence[Number | None],
    ) -> Event:
        names = [self._leaves.get(one.untyped_storage().data_ptr()) for one in given]
        storage = tensor.untyped_storage().data_ptr()
        dtypes = {one.dtype for one in (*given, tensor) if one.is_floating_point()}
        return Event(
            number=number,
            operation=self.calls.name or func.overloadpacket.__name__,
            kernel=func.overloadpacket.__name__,
            module=self._stack[-1] if self._stack else "",
            stack=tuple(_stack()),
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            inputs=tuple(dict.fromkeys(maker for maker in makers if maker is not None)),
            # A view of a parameter counts as the parameter.
            leaves=tuple(dict.fromkeys(name for name in names if name is not None)),
            shares=not func._schema.is_mutable  # noqa: SLF001
            and any(storage == one.untyped_storage().data_ptr() for one in given),
            narrow=min(dtypes - {torch.float64}, key=str, default=None),
            is_random=torch.Tag.nondeterministic_seeded in func.tags,
            fingerprint=self._fingerprint(func, tensor, makers),
        )

    def _fingerprint(
        self,
        func: Any,  # noqa: ANN401
        tensor: Tensor,
        makers: Sequence[Number | None],
    ) -> Fingerprint:
        """Return the fingerprint of a tensor; a view of a whole tensor has that of the tensor."""
        source = self._prints.get(makers[0]) if makers and makers[0] is not None else None
        is_square = tensor.ndim > 1 and tensor.shape[-1] == tensor.shape[-2]
        is_view = func.is_view and source is not None and source.size == tensor.numel()
        if is_view and source is not None and not is_square and not source.causal:
            return source
        return fingerprint_of(tensor)


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:  # noqa: ANN401
    """Return the tensors that an operation wrote to."""
    declared = func._schema.arguments  # noqa: SLF001 - no public name
    named = dict(zip((a.name for a in declared), args, strict=False)) | dict(kwargs)
    written = [a.name for a in declared if a.alias_info and a.alias_info.is_write]
    leaves = tree_leaves([named.get(name) for name in written])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _stack() -> Iterator[Site]:
    for frame, line in traceback.walk_stack(None):
        if site := site_of_frame(frame.f_code.co_filename, line):
            yield Site(site.rpartition(":")[0], line, frame.f_code.co_firstlineno)
