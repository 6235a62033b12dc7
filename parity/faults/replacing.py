"""Faults that replace a function of `scratch_gpt` while a check runs."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any
from unittest import mock

from parity.faults.registry import Fault

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReplacingFault(Fault):
    """A faulty function; `code` is called in the right one's place, with it as first argument.

    Attributes:
        replaces: The right function: its module or class, and its name.
    """

    replaces: tuple[Any, str]

    @contextlib.contextmanager
    def injected(self, *, everywhere: bool = False) -> Iterator[None]:
        """Replace the function for a while: in its module, or in all that imported it."""
        owner, name = self.replaces
        right, owners = getattr(owner, name), [owner]
        if everywhere and isinstance(owner, ModuleType):
            ours = [module for key, module in sys.modules.items() if key.startswith("scratch_gpt.")]
            owners = [module for module in ours if getattr(module, name, None) is right]

        def wrong(*given: Any, **named: Any) -> Any:  # noqa: ANN401 - as the right function's
            return self.code(right, *given, **named)

        with contextlib.ExitStack() as stack:
            for one in owners:
                stack.enter_context(mock.patch.object(one, name, wrong))
            yield
