"""One registry of every fault that can be injected: what it is, its cause, where it shows first.

Each kind of fault has a module, which defines a subclass of `Fault` and how it is injected.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from parity.errors import UsageError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        name: Of `--inject-fault`.
        what: What is wrong, in a phrase.
        at: Where a check must see it first; `{i}` is the block.
        cause: The mistake in code that usually has this effect.
        code: What is wrong, as code; its type depends on the kind of fault.
    """

    name: str
    what: str
    at: str
    cause: str
    code: Any

    def first_seen(self, block: int, backend: str, *, n_layer: int, variant: str) -> str:  # noqa: ARG002
        """Return where a check must see the fault first."""
        return self.at.format(i=block)


F = TypeVar("F", bound=Fault)
Code = TypeVar("Code")

_FAULTS: dict[str, Fault] = {}


def fault(
    name: str,
    what: str,
    *,
    at: str,
    cause: str,
    kind: type[Fault],
    **details: Any,  # noqa: ANN401 - fields of the kind
) -> Callable[[Code], Code]:
    """Return a decorator that registers its function or class as the code of a fault.

    Args:
        name: As in `Fault`, like `what`, `at` and `cause`.
        what: In a phrase.
        at: Location.
        cause: Mistake.
        kind: The class of the entry.
        **details: The other fields of that class.
    """

    def register(code: Code) -> Code:
        if name in _FAULTS:
            message = f"two faults are called {name}"
            raise ValueError(message)
        _FAULTS[name] = kind(name=name, what=what, at=at, cause=cause, code=code, **details)
        return code

    return register


@dataclasses.dataclass(frozen=True)
class _FaultsOf(Mapping[str, F]):
    """A view of the registry: an entry below the line that made the view is in it, too."""

    kind: type[F]

    def __getitem__(self, name: str) -> F:
        entry = _FAULTS[name]
        if not isinstance(entry, self.kind):
            raise KeyError(name)
        return entry

    def __iter__(self) -> Iterator[str]:
        return (name for name, entry in _FAULTS.items() if isinstance(entry, self.kind))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def faults_of(kind: type[F]) -> Mapping[str, F]:
    """Return every fault of a kind by name, in the order of its module."""
    return _FaultsOf(kind)


def expected_at(
    name: str, block: int = 0, backend: str = "plain", *, n_layer: int = 12, variant: str = ""
) -> str:
    """Return where a check must see a fault first.

    Args:
        name: Of the fault.
        block: Where it is injected; ignored by faults that have one place.
        backend: Of the model: a tensor that it does not form shows in the next one.
        n_layer: Blocks of the model.
        variant: Of the optimizer, for faults of training.
    """
    return _FAULTS[name].first_seen(block, backend, n_layer=n_layer, variant=variant)


def listing(faults: Mapping[str, Fault]) -> str:
    """Return the names of faults, each with what is wrong."""
    return "; ".join(f"{name} ({entry.what})" for name, entry in faults.items())


def parse(
    text: str,
    kinds: Sequence[type[F]],
    *,
    n_layer: int | None = None,
    fits: Callable[[F], bool] = lambda _fault: True,
    where: str = "--inject-fault",
) -> tuple[F, int]:
    """Return the fault and the block of `NAME` or `NAME@BLOCK`; by default the middle block.

    Args:
        text: Value of the option.
        kinds: Kinds of faults that the check can see.
        n_layer: Blocks of the model; None where faults have no block.
        fits: Whether a fault can be injected in this run.
        where: The options that an error names.

    Raises:
        UsageError: No such fault, with a list of all, or no such block.
    """
    known = {
        name: entry for kind in kinds for name, entry in faults_of(kind).items() if fits(entry)
    }
    name, at, block = text.partition("@")
    if name not in known:
        raise UsageError(f"no fault is called {name!r}", where=where, fix=f"use {listing(known)}")
    if n_layer is None and at:
        raise UsageError(f"the fault {name} has no block", where=where, fix=f"use {name}")
    chosen = int(block) if block.isdecimal() else (n_layer or 0) // 2
    if n_layer is not None and ((at and not block.isdecimal()) or chosen >= n_layer):
        raise UsageError(
            f"there is no block {block!r}", where=where, fix=f"use a block from 0 to {n_layer - 1}"
        )
    return known[name], chosen
