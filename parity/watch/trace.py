"""Every operation of a forward pass: its module, file and line, inputs, and result's fingerprint.

A `TorchDispatchMode` sees what reaches the kernels, whatever Python wrote: `x @ w`, a module or a
closure. Composite operations that would hide their parts are opened: SDPA runs by its formula and
`nn.MultiheadAttention` without its fast path. `torch.compile` is left out, so that a compiled
module runs eagerly.
"""

import contextlib
import dataclasses
import traceback
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from parity.core.candidates import site_of_frame
from parity.watch.fingerprint import Fingerprint, fingerprint_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Event:
    """A floating-point tensor that an operation made.

    Attributes:
        number: Its place in the run, from 0.
        operation: The operation's name, such as `gelu`.
        module: Path of the module that ran it, such as `blocks.3.mlp`; "" for the model's own.
        site: `FILE:LINE` of the user's code; "" if there is none.
        inputs: Numbers of the events that made its inputs.
        leaves: Names of the parameters and buffers among its inputs.
        shares: Whether it is a view: the numbers are another event's.
    """

    number: int
    operation: str
    module: str
    site: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    inputs: tuple[int, ...]
    leaves: tuple[str, ...]
    shares: bool
    fingerprint: Fingerprint


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trace:
    """A watched run.

    Attributes:
        events: In the order in which they were made.
        result: What the model returned.
    """

    events: Sequence[Event]
    result: Any


def watch(model: nn.Module, run: Callable[[], Any]) -> Trace:
    """Run a model, which `run` calls, and record every tensor that it makes.

    Raises:
        TypeError: A part of the model is scripted: it runs outside of Python, unseen.
    """
    watcher = _Watcher(model)
    with _opened(model), watcher.following_modules(), watcher, torch.no_grad():
        result = run()
    return Trace(events=watcher.events, result=result)


def fetch(model: nn.Module, run: Callable[[], Any], numbers: Collection[int]) -> dict[int, Tensor]:
    """Run a model again, and return copies of the tensors of some events by their numbers."""
    watcher = _Watcher(model, wanted=frozenset(numbers))
    with _opened(model), watcher.following_modules(), watcher, torch.no_grad():
        run()
    return watcher.tensors


@contextlib.contextmanager
def _opened(model: nn.Module) -> Iterator[None]:
    """Let composite operations run as their parts, and compiled modules eagerly."""
    for name, part in model.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise TypeError(f"{name or 'the model'} is scripted: its operations cannot be watched")
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Watcher(TorchDispatchMode):  # type: ignore[no-untyped-call] # torch's own base
    """Records the events of a run; keeps copies of the wanted ones instead of fingerprints."""

    def __init__(self, model: nn.Module, wanted: frozenset[int] | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.events: list[Event] = []
        self.tensors: dict[int, Tensor] = {}
        self._wanted = wanted
        self._count = 0
        self._paths = {id(part): name for name, part in model.named_modules()}
        self._stack: list[str] = []
        named = [*model.named_parameters(), *model.named_buffers()]
        self._leaves = {tensor.untyped_storage().data_ptr(): name for name, tensor in named}
        self._makers: dict[int, tuple[weakref.ref[Tensor], int]] = {}
        """Of a living tensor's id, the tensor and the event that gave it its numbers."""

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
        number, self._count = self._count, self._count + 1
        makers = [self._makers.get(id(one)) for one in given]
        self._makers[id(tensor)] = weakref.ref(tensor), number
        if self._wanted is not None:
            if number in self._wanted:
                self.tensors[number] = tensor.detach().clone()
            return
        inputs, leaves = [], []
        for one, maker in zip(given, makers, strict=True):
            name = self._leaves.get(one.untyped_storage().data_ptr())
            if maker is not None and maker[0]() is one:
                inputs.append(maker[1])
            if name is not None:  # a view of a parameter counts as the parameter
                leaves.append(name)
        storage = tensor.untyped_storage().data_ptr()
        self.events.append(
            Event(
                number=number,
                operation=func.overloadpacket.__name__,
                module=self._stack[-1] if self._stack else "",
                site=_site(),
                shape=tuple(tensor.shape),
                dtype=tensor.dtype,
                inputs=tuple(dict.fromkeys(inputs)),
                leaves=tuple(dict.fromkeys(leaves)),
                shares=not func._schema.is_mutable  # noqa: SLF001
                and any(storage == one.untyped_storage().data_ptr() for one in given),
                fingerprint=fingerprint_of(tensor),
            )
        )


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor]:  # noqa: ANN401
    """Return the tensors that an operation wrote to."""
    declared = func._schema.arguments  # noqa: SLF001 - no public name
    named = dict(zip((a.name for a in declared), args, strict=False)) | dict(kwargs)
    written = [a.name for a in declared if a.alias_info and a.alias_info.is_write]
    leaves = tree_leaves([named.get(name) for name in written])
    return [leaf for leaf in leaves if isinstance(leaf, Tensor)]


def _site() -> str:
    frames = traceback.walk_stack(None)
    return next(filter(None, (site_of_frame(f.f_code.co_filename, line) for f, line in frames)), "")
