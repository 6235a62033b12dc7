"""Wrong values of options, rejected before torch is imported, with the value that was meant.

A verb checks what needs the model: that a block exists, or that a tap is formed on its inputs.
"""

import ast
import difflib
import fnmatch
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from parity.checkpoints.names import check_weights
from parity.checks.gradients.taps import direction, gradient_names, kind_of, parameter_names
from parity.checks.training.taps import VARIANTS, trainer_quantities, training_quantities
from parity.core.taps import taps
from parity.errors import UsageError
from parity.faults.registry import check_name
from parity.known_faults import known_faults
from parity.options import GradientsOptions, ModelOptions, ReportOptions, TrainingOptions
from scratch_gpt.errors import quote
from scratch_gpt.options import require_path, require_paths, similar_paths

_WITH_BLOCKS = ("forward", "backward", "invariants")
"""Kinds of fault that are of one block."""


def described_faults(kinds: Sequence[str], options: ReportOptions) -> dict[str, str]:
    """Return the faults of some kinds that the options allow: what is wrong, by name."""
    pretokenizer = getattr(options, "pretokenizer", None)
    return {
        fault["name"]: fault["what"]
        for kind in kinds
        for fault in known_faults()[kind]
        if pretokenizer is None or pretokenizer in fault["of"]
    }


def check_options(options: ReportOptions, fault_kinds: Sequence[str]) -> None:
    """Require values that a verb can use, as far as options alone show it.

    Args:
        options: Those of a verb.
        fault_kinds: The kinds of fault that the verb can inject.

    Raises:
        UsageError: A value is wrong; the fix names the one that was probably meant.
    """
    for name, check in _CHECKS.items():
        if (value := getattr(options, name, None)) is not None:
            check(str(value))
    for source in getattr(options, "sources", ()):
        check_weights(source, where="")
    require_paths(options)
    if isinstance(options, ModelOptions):
        _check_pattern(options)
    fault = getattr(options, "inject_fault", None)
    if fault is not None:
        pretokenizer = getattr(options, "pretokenizer", None)
        check_name(
            fault,
            described_faults(fault_kinds, options),
            blocks="0 on" if {*fault_kinds} & {*_WITH_BLOCKS} else "",
            where="--inject-fault"
            + (f" with --pretokenizer {pretokenizer}" if pretokenizer is not None else ""),
        )


_BLOCKS = 12
_MOST_STEPS = 50
_MOST_DIGITS = 9


def _compared_names(options: ModelOptions) -> Iterator[str]:
    """Yield the names that a verb compares in a model of twelve blocks."""
    if isinstance(options, TrainingOptions):
        for variant in VARIANTS:
            found = training_quantities(
                variant, steps=options.steps, layers=_BLOCKS, dropout=options.dropout
            )
            yield from (quantity.name for quantity in found)
        yield from (quantity.name for quantity in trainer_quantities())
    elif isinstance(options, GradientsOptions):
        yield from (gradient.name for gradient in gradient_names(_BLOCKS))
        yield direction().name
        kinds = dict.fromkeys(map(kind_of, parameter_names(_BLOCKS)))
        yield from (direction(kind).name for kind in kinds)
    else:
        yield from (tap.name for tap in taps(_BLOCKS))


def _check_pattern(options: ModelOptions) -> None:
    """Require a pattern of `--taps` that fits a name in a model with any number of blocks."""
    if options.taps == "*" or (
        isinstance(options, TrainingOptions) and options.steps > _MOST_STEPS  # too many names
    ):
        return
    names = list(_compared_names(options))
    if _fits(options.taps, names):
        return
    raise UsageError(
        f"no name matches the pattern {quote(options.taps)}",
        where="--taps",
        fix=f"{_meant(options.taps, names)}names are like {names[0]} and {names[len(names) // 2]}",
    )


def _fits(pattern: str, names: Sequence[str]) -> bool:
    """Return whether a pattern fits a name; blocks beyond twelve fit too."""
    every_block = re.sub(r"(?<![^.*])h\.[^.*]*", "h.[0-9]", pattern)
    no_number = re.sub(r"\d\d+", "[0-9]", pattern)
    return any(fnmatch.filter(names, one) for one in (pattern, every_block, no_number))


def _check_explained(tap: str) -> None:
    """Require the name of a tap in some block."""
    number = re.search(r"\d+", tap)
    block = int(number.group()[:_MOST_DIGITS]) if number else 0
    names = [one.name.replace("h.0.", f"h.{block}.") for one in taps(1)]
    if tap in names:
        return
    last = tap.rpartition(".")[2]
    near = [name for name in names if name.endswith(f".{last}")]
    near = near or difflib.get_close_matches(tap, names, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    raise UsageError(
        f"there is no tap {quote(tap)}",
        where="--explain",
        fix=f"{guess}taps are named like embeddings.tokens, h.3.mlp.gelu, logits",
    )


def _meant(given: str, names: Sequence[str]) -> str:
    """Return a question with the pattern that was probably meant; "" if none is similar."""
    words = {word for name in names for word in name.split(".")}
    parts = given.split(".")
    repaired = ".".join(
        next(iter(difflib.get_close_matches(part, words, n=1)), part)
        if part.isidentifier()
        else part
        for part in parts
    )
    starred = [re.sub(r"(?<![^.])\d+(?![^.])", "*", one) for one in (repaired, *names)]
    around = [(before, after) for before in ("", "h.*.", "*.") for after in ("", ".*")]
    tried = (f"{x}{one}{y}" for one in (repaired, starred[0]) for x, y in around)
    meant = next((one for one in tried if one != given and _fits(one, names)), None)
    near = [meant] if meant else difflib.get_close_matches(starred[0], dict.fromkeys(starred[1:]))
    return f"did you mean {near[0]}? " if near else ""


_FILE = re.compile(r"(.*\.py)(?::\w+)?", re.DOTALL)


def _check_candidate(name: str) -> None:
    """Require that the file of `FILE.py` or `FILE.py:NAME` exists; a module is not searched."""
    where = f"--candidate {name}"
    if match := _FILE.fullmatch(name):
        require_path(match[1], where=where, what="no candidate there: there is no such file")
    elif ":" not in name:
        near = similar_paths(name if Path(name).suffix else f"{name}.py")
        guess = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            "no candidate there: it is neither FILE.py nor MODULE:NAME",
            where=where,
            fix=f"{guess}name a FILE.py, FILE.py:NAME or MODULE:NAME",
        )


def _check_call(text: str) -> None:
    try:
        ast.parse(text.strip(), "<call>", "eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(
            f"it is no expression of Python: {error}",
            where=f"--call {text}",
            fix="write how the candidate is called, as model(ids, cache=None)[0]",
        ) from error


def _check_kernel(name: str) -> None:
    if match := _FILE.fullmatch(name):
        require_path(match[1], where=f"--kernel {name}")


_CHECKS: dict[str, Callable[[str], None]] = {
    "weights": check_weights,
    "candidate": _check_candidate,
    "kernel": _check_kernel,
    "call": _check_call,
    "explain": _check_explained,
}
"""Checks of one value alone, by the name of its option."""
