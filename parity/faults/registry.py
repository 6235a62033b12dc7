"""One registry of every fault that can be injected: what it is, and where it shows first.

Each kind of fault has a module, which defines a subclass of `Fault` and how it is injected.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

from parity.core.taps import BLOCK_KINDS, never_formed_kinds
from parity.errors import UsageError
from scratch_gpt.errors import quote

Code = TypeVar("Code")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        name: Of `--inject-fault`.
        what: The mistake, in a phrase.
        at: Where a check must see it first; `{i}` is the block.
        code: The mistake, as code; its type depends on the kind of fault.
        family: Faults that are alike have one; empty for that of the place, `group`.
        look_for: Words of the cause that the check must give.
        proof: Why it changes nothing, if it is equivalent to right code; else empty.
    """

    name: str
    what: str
    at: str
    code: Any
    family: str = ""
    look_for: str = ""
    proof: str = ""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how another process gets the fault: by name, because code cannot be sent."""
        return _called, (self.name,)

    @property
    def group(self) -> str:
        """The family, or where none is given the place: `at` without block, step and variant."""
        if self.family:
            return self.family
        parts = re.sub(r"\{\w+\}|(?<![\w-])\d+(?![\w-])", "", self.at.removeprefix("h.")).split(".")
        first = next(part for part in parts if part)
        return _GROUPS.get(first, first)

    @classmethod
    def register(
        cls,
        name: str = "",
        what: str = "",
        *,
        at: str,
        by: Callable[[Any], object] = lambda code: code,
        **details: Any,  # noqa: ANN401 - other fields of the kind
    ) -> Callable[[Code], Code]:
        """Return a decorator that registers its function or class as the code of a fault.

        By default the name and the docstring of the function are those of the fault. `by` returns
        the code, given the function.
        """

        def add(code: Code) -> Code:
            function: Any = code
            called = name or function.__name__.replace("_", "-")
            if called in _FAULTS:
                message = f"two faults are called {called}"
                raise ValueError(message)
            mistake = what or _phrase(function.__doc__)
            _FAULTS[called] = cls(name=called, what=mistake, at=at, code=by(code), **details)
            return code

        return add

    @classmethod
    def register_all(
        cls,
        faults: Mapping[str, tuple[str, Any]],
        **shared: Any,  # noqa: ANN401 - fields of the kind
    ) -> None:
        """Register faults by name, each what is wrong and the code; they share other fields."""
        for name, (what, code) in faults.items():
            cls.register(name, what, **shared)(code)

    def first_seen(self, block: int = 0, backend: str = "plain", **names: object) -> str:
        """Return where a check must see the fault first, `at` with the block and other names.

        A fault at a tensor that the backend does not form shows in the next one.
        """
        tap = self.at.format(i=block, **names)
        kinds = [kind.name for kind in BLOCK_KINDS]
        while (kind := tap.split(".", 2)[-1]) in never_formed_kinds(backend):
            tap = tap.removesuffix(kind) + kinds[kinds.index(kind) + 1]
        return tap


def _phrase(docstring: str) -> str:
    """Return a sentence as a phrase: `a fault` for `A fault.`, but `GELU` as it is."""
    first = docstring[0] if docstring[1].isupper() else docstring[0].lower()
    return first + docstring[1:].rstrip(".")


_GROUPS = {
    "attn": "attention",
    "ln_1": "norm",
    "ln_2": "norm",
    "logits": "head",
    "tokens_embed": "embeddings",
    "positions_embed": "embeddings",
}

F = TypeVar("F", bound=Fault)

_FAULTS: dict[str, Fault] = {}


def faults_of(kind: type[F]) -> dict[str, F]:
    """Return every fault of a kind registered so far, by name, in the order of its module."""
    return {name: entry for name, entry in _FAULTS.items() if isinstance(entry, kind)}


def _called(name: str) -> Fault:
    return _FAULTS[name]


_MOST_DIGITS = 9


def check_name(
    text: str, known: Collection[str], *, blocks: str, where: str = "--inject-fault"
) -> tuple[str, int | None]:
    """Return the name and the block of `NAME` or `NAME@BLOCK`; None for no block.

    `blocks` are the numbers allowed, as `0 to 11`, or empty if faults have no block. `where` are
    the options that an error names.

    Raises:
        UsageError: No such fault, or what follows the name is no block.
    """
    name, at, block = text.partition("@")
    if name not in known:
        near = get_close_matches(name.lower(), known)
        guess = f"did you mean {' or '.join(near)}? " if near else ""
        raise UsageError(
            f"no fault is called {quote(name)}",
            where=where,
            fix=f"{guess}`--inject-fault list` describes all {len(known)}",
        )
    if not at:
        return name, None
    if not blocks:
        raise UsageError(f"the fault {name} has no block", where=where, fix=f"use {name}")
    # int() rejects 4,301 digits.
    if not (block.isascii() and block.isdecimal()) or len(block) > _MOST_DIGITS:
        what, fix = f"there is no block {quote(block)}", f"use a block from {blocks}"
        raise UsageError(what, where=where, fix=fix)
    return name, int(block)


def parse(
    text: str,
    kinds: Sequence[type[F]],
    *,
    n_layer: int | None = None,
    fits: Callable[[F], bool] = lambda _fault: True,
    where: str = "--inject-fault",
) -> tuple[F, int]:
    """Return the fault and the block of `NAME` or `NAME@BLOCK`; by default the middle block.

    The fault is of one of the kinds, and `fits` the run. `n_layer` is None if faults have no block;
    `where` are the options that an error names.

    Raises:
        UsageError: No such fault, with a list of all, or no such block.
    """
    known = {
        name: entry for kind in kinds for name, entry in faults_of(kind).items() if fits(entry)
    }
    blocks = "" if n_layer is None else f"0 to {n_layer - 1}"
    name, block = check_name(text, known, blocks=blocks, where=where)
    if block is None:
        return known[name], (n_layer or 0) // 2
    if n_layer is not None and block >= n_layer:
        what, fix = f"there is no block {block}", f"use a block from {blocks}"
        raise UsageError(what, where=where, fix=fix)
    return known[name], block
