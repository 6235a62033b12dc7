"""Command-line options, each declared once: a field of a frozen dataclass is an option.

`add_command` makes a Typer command from such a class. A field's name is the option's name, its
type is the type of the value, and `option` or `argument` adds the default, the help and the
limits. Nothing here imports torch.
"""

import dataclasses
import difflib
import inspect
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import typer

from scratch_gpt.errors import EnvironmentUnfitError, UsageError

Chosen = TypeVar("Chosen")

Number = int | float
"""The shape checker of the tests does not take an `int` for a `float`."""

Pretokenizer = Literal["huggingface", "original"]
"""The ways to split text into words."""

Device = Literal["cpu", "cuda", "auto"]
"""The devices to run on; `auto` is a GPU if there is one."""

DecodingErrors = Literal["strict", "replace"]
"""What to do with bytes that are not UTF-8: reject the file, or read them as U+FFFD."""

_METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""How the help names a value, by the first type of its field."""

_TYPER = "typer"
_POSITIONAL = "positional"
_RECORDS = "records"
_EXISTS = "exists"


def option(  # noqa: PLR0913 - one argument for each property of an option
    default: Any,  # noqa: ANN401 - of the field's type
    text: str,
    *,
    minimum: Number | None = None,
    maximum: Number | None = None,
    metavar: str | None = None,
    records: bool = False,
    exists: bool = False,
) -> Any:  # noqa: ANN401 - a field
    """Return a dataclass field that is an option of a command, with the help `text`.

    A default of `...` makes it required. `metavar` names the value in the help; by default it is N,
    X, TEXT or PATH. With `records` a report records a value that is not the default. With `exists`
    the value is a path that `require_paths` looks for.
    """
    shown = {"help": text, "min": minimum, "max": maximum, "metavar": metavar}
    metadata = {_TYPER: shown, _POSITIONAL: False, _RECORDS: records, _EXISTS: exists}
    return _field(default, metadata)


def argument(
    default: Any,  # noqa: ANN401 - of the field's type
    text: str,
    *,
    metavar: str,
    exists: bool = False,
) -> Any:  # noqa: ANN401 - a field
    """Return a dataclass field that is a positional argument of a command."""
    shown = {"help": text, "metavar": metavar}
    return _field(default, {_TYPER: shown, _POSITIONAL: True, _RECORDS: False, _EXISTS: exists})


def _field(default: Any, metadata: dict[str, object]) -> Any:  # noqa: ANN401
    if default is ...:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DebugOption:
    """The option of every command."""

    debug: bool = option(False, "Show the traceback of an error.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuietOption(DebugOption):
    """The options of every command whose output can be left out."""

    quiet: bool = option(False, "Print nothing but errors.")


def require_memory(needed: int, *, where: str, fix: str) -> None:
    """Require that so many bytes are free; without a limit, Linux would end the process.

    Raises:
        EnvironmentUnfitError: They are not; not raised on systems that do not give the number.
    """
    try:
        found = re.search(r"MemAvailable: *([0-9]+) kB", Path("/proc/meminfo").read_text("ascii"))
    except OSError:
        return
    if found and needed > (free := int(found[1]) * 1024):
        raise EnvironmentUnfitError(
            f"this takes at least {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} are free",
            where=where,
            fix=fix,
        )


def require_paths(options: Any) -> None:  # noqa: ANN401 - an options class's value
    """Require that the files and folders exist that options name for reading.

    Raises:
        UsageError: One does not; the fix names what is there instead.
    """
    for field in options_of(type(options)):
        value = getattr(options, field.name)
        if not field.metadata[_EXISTS] or value in (None, "-"):
            continue
        flag = "" if field.metadata[_POSITIONAL] else f"--{field.name.replace('_', '-')} "
        for path in value if isinstance(value, tuple) else (value,):
            require_path(str(path), where=f"{flag}{path}")


def require_path(name: str, *, where: str, what: str = "there is no such file or folder") -> None:
    """Require that a file or folder exists.

    Raises:
        UsageError: It does not; the fix names what is there instead.
    """
    if os.path.exists(os.path.expanduser(name)):  # noqa: PTH110, PTH111 - pathlib's may raise
        return
    near = similar_paths(name)
    fix = f"did you mean {near[0]}?" if near else "check the path"
    raise UsageError(what, where=where, fix=fix)


def similar_paths(name: str) -> list[str]:
    """Return existing paths whose names are similar to a missing one's, the nearest first.

    If its folder is missing too, those similar to that are returned.
    """
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - of an unknown user it stays as it is
    try:
        path = next(one for one in (path, *path.parents) if os.path.isdir(one.parent))  # noqa: PTH112
        folded = {entry.name.casefold(): entry.name for entry in path.parent.iterdir()}
    except (OSError, StopIteration):
        return []
    near = difflib.get_close_matches(path.name.casefold(), folded, n=3)
    return [str(path.with_name(folded[entry])) for entry in near]


def options_of(options: type) -> list["dataclasses.Field[Any]"]:
    """Return the fields as the help lists them: a class's own first, then those of its bases."""
    fields = {field.name: field for field in dataclasses.fields(options)}
    names = [name for kind in options.__mro__ for name in inspect.get_annotations(kind)]
    return [fields[name] for name in dict.fromkeys(names)]


def limits(options: type, name: str) -> tuple[Any, Any]:
    """Return the smallest and the largest value of an option; None where there is no limit."""
    (shown,) = (f.metadata[_TYPER] for f in dataclasses.fields(options) if f.name == name)
    return shown["min"], shown["max"]


def recorded(options: Any) -> dict[str, object]:  # noqa: ANN401 - an options class's value
    """Return the options that a report records and that are not at their default, by name."""
    return {
        field.name: value
        for field in options_of(type(options))
        if field.metadata[_RECORDS] and (value := getattr(options, field.name)) != field.default
    }


def add_command(
    app: typer.Typer,
    options: type[Chosen],
    run: Callable[[Chosen], int],
    *,
    name: str | None = None,
    text: str | None = None,
) -> None:
    """Add a command whose options are the fields of a dataclass; `run` returns the exit code.

    A command alone in its application has no name, and gets `--version` too. The help is `text`, or
    else the docstring of the dataclass.
    """
    kinds = typing.get_type_hints(options)
    parameters = [_parameter(field, kinds[field.name]) for field in options_of(options)]
    repeated = {p.name for p in parameters if typing.get_origin(kinds[p.name]) is tuple}
    if name is None:
        parameters.append(_VERSION)

    def command(**values: Any) -> None:  # noqa: ANN401 - whatever the options are
        values.pop(_VERSION.name, None)
        given = {k: tuple(v or ()) if k in repeated else v for k, v in values.items()}
        raise typer.Exit(run(options(**given)))

    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {p.name: p.annotation for p in parameters}
    lines = inspect.cleandoc(text or options.__doc__ or "")
    # \b keeps Click from filling the paragraph.
    kept = re.sub(r"^(Examples|Exit codes):$", "\b\n\\1:", lines, flags=re.MULTILINE)
    app.command(name, help=kept)(command)


def add_version(app: typer.Typer) -> None:
    """Add `--version` to an application of several commands."""

    def group(**_values: object) -> None:
        pass

    group.__signature__ = inspect.Signature([_VERSION])  # type: ignore[attr-defined]
    group.__annotations__ = {_VERSION.name: _VERSION.annotation}
    app.callback()(group)


def _parameter(field: "dataclasses.Field[Any]", kind: Any) -> inspect.Parameter:  # noqa: ANN401
    """Return a field of type `kind` as Typer reads it: a keyword with an annotated type."""
    default = field.default
    if typing.get_origin(kind) is tuple:
        kind, default = list[typing.get_args(kind)[0]] | None, None  # type: ignore[misc]
    required = default is dataclasses.MISSING
    shown = {
        **field.metadata[_TYPER],
        "metavar": field.metadata[_TYPER]["metavar"] or _METAVARS.get(_value_type(kind)),
        "show_default": not (required or default is None or default is False),
        "parser": _path if _value_type(kind) is Path else None,
    }
    if field.metadata[_POSITIONAL]:
        declared = typer.Argument(**shown)
    else:
        declared = typer.Option("--" + field.name.replace("_", "-"), **shown)
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if required else default,
        annotation=_annotated(kind, declared),
    )


def _path(given: str | Path) -> Path:
    """Return the path; `Path` would take an empty one for the working folder."""
    if not str(given).strip():
        raise typer.BadParameter("the path is empty; use . for the working folder")
    return Path(given)


def _value_type(kind: Any) -> Any:  # noqa: ANN401 - a type
    """Return the type of one value: `int` of `int | None` and of `list[int] | None`."""
    while typing.get_origin(kind) not in (None, Literal):
        kind = typing.get_args(kind)[0]
    return kind


def _annotated(kind: Any, declared: Any) -> Any:  # noqa: ANN401 - made at run time
    annotated: Any = Annotated  # type checkers do not follow an annotation made at run time
    return annotated[kind, declared]


def _print_version(given: bool) -> None:  # noqa: FBT001 - Typer passes the value alone
    if given:
        from scratch_gpt import __version__

        typer.echo(f"gpt1-parity {__version__}")
        raise typer.Exit


_VERSION = inspect.Parameter(
    "version",
    inspect.Parameter.KEYWORD_ONLY,
    default=False,
    annotation=_annotated(
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            callback=_print_version,
            is_eager=True,
            show_default=False,
        ),
    ),
)
