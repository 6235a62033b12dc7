"""A command made from a dataclass: its options, defaults, limits and help."""

import dataclasses
from pathlib import Path
from typing import Literal

import pytest
import typer
from typer.testing import CliRunner, Result

from scratch_gpt.cli import typer_app
from scratch_gpt.errors import EnvironmentUnfitError
from scratch_gpt.options import (
    QuietOption,
    add_command,
    argument,
    option,
    options_of,
    recorded,
    require_memory,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shared(QuietOption):
    """Options of several commands."""

    seed: int = option(0, "Seed.", minimum=0, records=True)
    kind: Literal["one", "two"] = option("one", "Which kind.", records=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Shared):
    """Do a thing.

    Examples:
      python -m thing a b
    """

    files: tuple[Path, ...] = argument((), "Files.", metavar="FILE")
    name: str = option(..., "A name.")
    two_words: float | None = option(None, "A share.", metavar="SHARE", maximum=1.0)
    tag: tuple[str, ...] = option((), "A tag.")
    place: Path | None = option(None, "A folder.")
    seed: int = option(7, "Another seed.", minimum=1, records=True)


ARGUMENTS = ["a", "b", "--name", "n", "--two-words", "0.5", "--tag", "x", "--tag", "y"]


def invoke(arguments: list[str], seen: list[Options] | None = None) -> Result:
    found = [] if seen is None else seen
    app = typer_app("thing")
    add_command(app, Options, lambda options: found.append(options) or 3)
    return CliRunner().invoke(app, arguments)


def test_values_become_the_fields() -> None:
    seen: list[Options] = []
    result = invoke([*ARGUMENTS, "--kind", "two", "--quiet"], seen)
    expected = Options(
        files=(Path("a"), Path("b")),
        name="n",
        two_words=0.5,
        tag=("x", "y"),
        kind="two",
        quiet=True,
    )
    assert (result.exit_code, seen) == (3, [expected])


@pytest.mark.parametrize("path", ["", "  "])
def test_an_empty_path_is_rejected(path: str) -> None:
    """`Path` would take it for the working folder."""
    result = invoke(["a", path, "--name", "n"])
    assert result.exit_code == 2
    assert "the path is empty" in result.stderr


def test_defaults_are_the_fields_own() -> None:
    seen: list[Options] = []
    invoke(["--name", "n"], seen)
    assert seen == [Options(name="n")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--name"),
        (["--name", "n", "--seed", "0"], "--seed"),
        (["--name", "n", "--two-words", "1.5"], "--two-words"),
        (["--name", "n", "--kind", "three"], "'two'"),
        (["--name", "n", "--two-word", "1"], "--two-words"),
    ],
)
def test_wrong_values_are_usage_errors(arguments: list[str], message: str) -> None:
    result = invoke(arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_the_help_is_the_docstring() -> None:
    text = invoke(["--help"]).stdout
    assert "  Do a thing.\n\n  Examples:\n    python -m thing a b\n" in text
    for line in ("--name TEXT", "--two-words SHARE", "--seed N", "[default: 7; x>=1]"):
        assert line in text
    assert "[default: False]" not in text
    assert "--no-quiet" not in text


def test_own_options_come_before_inherited_ones() -> None:
    """An option that is declared again is listed once, with the newer declaration."""
    names = [field.name for field in options_of(Options)]
    assert names == ["files", "name", "two_words", "tag", "place", "seed", "kind", "quiet", "debug"]


def test_recorded_options_are_off_their_default() -> None:
    assert recorded(Options(name="n", kind="one", tag=("x",))) == {}
    assert recorded(Options(name="n", seed=0, kind="two")) == {"seed": 0, "kind": "two"}


def test_only_a_single_command_has_a_version() -> None:
    assert invoke(["--version"]).stdout.startswith("gpt1-parity ")
    app = typer_app("things", "Several.")
    for name in ("one", "two"):
        add_command(app, Options, lambda _options: 0, name=name, text="Another help.")
    commands = typer.main.get_command(app).commands
    assert "version" not in {parameter.name for parameter in commands["one"].params}
    assert commands["one"].help == "Another help."


def test_memory_that_is_not_there_is_an_error() -> None:
    require_memory(1_000, where="--beams 1", fix="lower --beams")
    if not Path("/proc/meminfo").exists():
        pytest.skip("not run: the system does not give its free memory")
    with pytest.raises(EnvironmentUnfitError, match=r"takes at least 1,000,000\.0 GB") as caught:
        require_memory(10**15, where="--beams 1", fix="lower --beams")
    assert (caught.value.where, caught.value.fix) == ("--beams 1", "lower --beams")
