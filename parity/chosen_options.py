"""Options that decide what a verdict is about: a report that is passed on has to say them."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from parity.fingerprints import DIGITS
from parity.refusals import coded
from parity.shell import Options


def chosen_options(options: Options, names: Iterable[str]) -> dict[str, object]:
    """Return those that are not at their default, by name.

    A candidate's file has a digest beside its path, `candidate_file`: elsewhere the same file has
    another path, and another file the same. What the file imports is not in it.

    Args:
        options: Of the run.
        names: Which of them decide.

    Raises:
        ParityError: The candidate's file cannot be read.
    """
    default = Options(verb=options.verb)
    said = {name: getattr(options, name) for name in names}
    said = {name: value for name, value in said.items() if value != getattr(default, name)}
    file = said.get("candidate", "")
    if not file.endswith(".py"):
        return said
    return {"candidate": file, "candidate_file": _digest(Path(file))} | said


def _digest(file: Path) -> str:
    with coded():
        return f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()[:DIGITS]}"
