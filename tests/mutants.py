"""Mutate the harness's own code, one place at a time, and see whether its tests fail.

    python tests/mutants.py             try a sample: docs/mutants.json and docs/mutants.md
    python tests/mutants.py --again     try those that survived again, after new tests
    python tests/mutants.py --page      write the page from the record, with its reasons

mutmut makes the mutants. Each is tried in a fork of a pytest that has collected all tests. The fork
changes the code of one function and runs the tests of that module until one fails. If none does, or
the mutant is in no function's body, another fork imports the harness again with the mutated source.
mutmut leaves out docstrings, annotations and decorated functions. Texts are not sampled either:
strings with a space, which people read.
"""

import argparse
import dataclasses
import difflib
import importlib
import itertools
import json
import math
import os
import random
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.metadata import version
from importlib.util import spec_from_loader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

HOME = Path(__file__).resolve().parents[1]
RECORD, PAGE = HOME / "docs" / "mutants.json", HOME / "docs" / "mutants.md"
TESTS = {
    "core/metrics": ["core/test_metrics.py"],
    "core/gates": ["core/test_gates.py"],
    "core/results": ["core/test_results.py"],
    "core/lockstep": ["core/test_lockstep.py"],
    "core/tolerances": ["core/test_tolerances.py"],
    "core/mapping": ["core/test_mapping.py"],
    "checkpoints/mapping": ["checkpoints/test_mapping.py"],
    "align": ["test_align.py"],
    "diagnose": ["test_diagnose.py"],
}
"""For each module of `parity` the files of `tests/parity` that must notice a mutant."""
SEED = 0
Record = dict[str, Any]
LEAST, TIMES = 20, 10
"""A mutant may use the processor for so many seconds, and so many times as long as no mutant."""
OPTIONS = (
    *("-x", "-s", "-p", "no:cacheprovider", "--hypothesis-seed=0", "--timeout=120"),
    # _anew() imports again what was hooked into.
    *("--jaxtyping-packages=", "-W", "ignore::pytest.PytestAssertRewriteWarning"),
)
_BROKEN = 99


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mutant:
    """A changed source; `change` has the lines that differ, marked with `-` and `+`."""

    module: str
    line: int
    change: str
    source: str
    function: str


def in_turn(sizes: Mapping[str, int], seed: int) -> list[tuple[str, int]]:
    """Return every (name, number below its size) so that each prefix is a fair sample of all."""
    draws = random.Random(seed)  # noqa: S311 - a sample, no secret
    placed = []
    for name, size in sizes.items():
        offset = draws.random()
        shuffled = draws.sample(range(size), size)
        placed += [((at + offset) / size, name, one) for at, one in enumerate(shuffled)]
    return [(name, one) for _, name, one in sorted(placed)]


class Source:
    """A module and all its mutations.

    Attributes:
        texts: How many mutations of texts are left out.
    """

    def __init__(self, module: str) -> None:
        import libcst
        from mutmut.mutation.file_mutation import create_mutations

        self.module, self.path = module, HOME / "parity" / f"{module}.py"
        self.code = self.path.read_text(encoding="utf-8")
        self._tree, every, *_ = create_mutations(str(self.path), self.code)
        strings = [isinstance(one.original_node, libcst.SimpleString) for one in every]
        self._mutations = [
            one
            for one, string in zip(every, strings, strict=True)
            if not (string and " " in one.original_node.value)
        ]
        self._names = {}
        for node in self._tree.body:
            if isinstance(node, libcst.FunctionDef):
                self._names[node] = node.name.value
            elif isinstance(node, libcst.ClassDef):
                for one in node.body.body:
                    if isinstance(one, libcst.FunctionDef):
                        self._names[one] = f"{node.name.value}.{one.name.value}"
        self.texts = len(every) - len(self._mutations)

    def __len__(self) -> int:
        return len(self._mutations)

    def mutant(self, number: int) -> Mutant:
        """Return one mutant."""
        from mutmut.mutation.file_mutation import deep_replace

        one = self._mutations[number]
        source = deep_replace(self._tree, one.original_node, one.mutated_node).code
        _, _, place, *lines = difflib.unified_diff(
            self.code.splitlines(), source.splitlines(), n=0, lineterm=""
        )
        return Mutant(
            module=self.module,
            line=int(place.split()[1].partition(",")[0][1:]),
            change="\n".join(line for line in lines if not line.startswith("@@")),
            source=source,
            function=self._names.get(one.contained_by_top_level_function, ""),
        )


class Mutated(SourceFileLoader):
    """A plugin of pytest that imports a module from other source than its file's."""

    def __init__(self, module: str, source: str) -> None:
        path = HOME / "parity" / f"{module}.py"
        super().__init__(f"parity.{module.replace('/', '.')}", str(path))
        self._source, self.imported = source, False

    def pytest_load_initial_conftests(self) -> None:
        # Before pytest's own finder, which imports all of parity, because that has a plugin.
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, _path: object, _target: object = None) -> ModuleSpec | None:
        return spec_from_loader(name, self) if name == self.name else None

    def get_code(self, _name: str) -> CodeType:
        self.imported = True
        return compile(self._source, self.path, "exec")


class Trier:
    """A plugin of pytest that tries mutants, each in a fork, instead of running the tests."""

    def __init__(self, work: Callable[["Trier"], None]) -> None:
        self._work = work
        self._limits: dict[str, int] = {}

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self._session = session
        for module in TESTS:
            importlib.import_module(name_of(module))
        self._work(self)
        return True

    def outcome(self, mutant: Mutant) -> str:
        """Return whether a mutant is `killed` by the tests of its module, or has `survived`."""
        if mutant.module not in self._limits:
            status, seconds = _fork(self._run_tests, mutant.module)
            if status != 0:
                sys.exit(f"the tests of {mutant.module} fail without a mutant")
            self._limits[mutant.module] = math.ceil(LEAST + TIMES * seconds)
        limit = self._limits[mutant.module]
        in_place = _fork(self._in_place, mutant, limit=limit)
        return "killed" if in_place[0] or _fork(_anew, mutant, limit=limit)[0] else "survived"

    def _in_place(self, mutant: Mutant) -> int:
        """Give a function its other code and run the tests; return 0 if that is not enough."""
        module = sys.modules[name_of(mutant.module)]
        return self._run_tests(mutant.module) if replace_code(module, mutant) else 0

    def _run_tests(self, module: str) -> int:
        files = [HOME / name for name in files_of(module)]
        items = [item for item in self._session.items if item.path in files]
        for item, following in itertools.zip_longest(items, items[1:]):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._session.testsfailed:
                return 1
        return 0 if items else _BROKEN


def name_of(module: str) -> str:
    """Return the name by which a module is imported."""
    return f"parity.{module.replace('/', '.')}"


def files_of(module: str) -> list[str]:
    """Return the tests of a module."""
    return [f"tests/parity/{name}" for name in TESTS[module]]


def replace_code(module: ModuleType, mutant: Mutant) -> bool:
    """Change the function of a mutant in place; return False if it is not in a function's body."""
    place: Any = module
    code: CodeType = compile(mutant.source, str(module.__file__), "exec")
    for name in mutant.function.split("."):
        found = [one for one in code.co_consts if isinstance(one, CodeType) and one.co_name == name]
        if len(found) != 1:
            return False
        code, place = found[0], vars(place)[name]
    function = getattr(place, "__func__", place)
    if not isinstance(function, FunctionType) or code == function.__code__:
        return False
    function.__code__ = code
    return True


def _anew(mutant: Mutant) -> int:
    """Import the harness with a mutant and run its tests."""
    for name in [*sys.modules]:
        if name.partition(".")[0] in ("parity", "tests"):
            del sys.modules[name]
    plugin = Mutated(mutant.module, mutant.source)
    ended = pytest.main([*OPTIONS, *files_of(mutant.module)], plugins=[plugin])
    return int(ended) if plugin.imported else _BROKEN


def _fork(function: Callable[[Any], int], argument: object, limit: int = 600) -> tuple[int, float]:
    """Call a function in a fork without output; return its result and the processor's seconds.

    The fork is killed after a limit of these.
    """
    child = os.fork()
    if child == 0:
        code = _BROKEN
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
            nothing = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nothing, stream)
            code = function(argument)
        finally:
            os._exit(code)
    _, status, used = os.wait4(child, 0)
    if status == _BROKEN << 8:
        sys.exit(f"{function.__name__} cannot try {argument}")
    return status, used.ru_utime + used.ru_stime


def measure(trier: Trier, count: int, before: Record) -> Record:
    """Return the record of the first mutants of the sample; reasons are those of `before`."""
    sources = {module: Source(module) for module in TESTS}
    sizes = {module: len(source) for module, source in sources.items()}
    reasons = {(one["module"], one["change"]): one["reason"] for one in before.get("survivors", ())}
    tally: Counter[tuple[str, str]] = Counter()
    survivors = []
    for number, (module, index) in enumerate(in_turn(sizes, SEED)[:count]):
        mutant = sources[module].mutant(index)
        outcome = trier.outcome(mutant)
        sys.stderr.write(f"{number} parity/{module}.py:{mutant.line} {outcome}\n")
        tally[module, outcome] += 1
        if outcome == "survived":
            place = {"number": index, "module": module, "line": mutant.line}
            reason = reasons.get((module, mutant.change), "")
            survivors.append(place | {"change": mutant.change, "reason": reason})
    modules = {
        module: {"mutants": size, "texts": sources[module].texts}
        | {outcome: tally[module, outcome] for outcome in ("killed", "survived")}
        for module, size in sizes.items()
    }
    return {"mutmut": version("mutmut"), "modules": modules, "survivors": survivors}


def again(trier: Trier, record: Record) -> Record:
    """Return the record after another try of its survivors."""
    sources = {module: Source(module) for module in {one["module"] for one in record["survivors"]}}
    left = []
    for one in record["survivors"]:
        module = one["module"]
        mutant = sources[module].mutant(one["number"])
        if mutant.change != one["change"]:
            sys.exit(f"parity/{module}.py has changed: try a whole sample")
        outcome = trier.outcome(mutant)
        sys.stderr.write(f"parity/{module}.py:{mutant.line} {outcome}\n")
        if outcome == "survived":
            left.append(one)
        else:
            record["modules"][module]["survived"] -= 1
            record["modules"][module]["killed"] += 1
    return record | {"survivors": left}


def page(record: Record) -> str:
    """Return the page."""
    rows, total = [], Counter[str]()
    for module, row in record["modules"].items():
        rows.append(_row(f"`parity/{module}.py`", row))
        total.update(row)
    listed = [
        f"`parity/{one['module']}.py`, line {one['line']}: {one['reason']}\n\n"
        f"```text\n{one['change']}\n```"
        for one in record["survivors"]
    ]
    filled = {
        "table": "\n".join([*rows, _row("all", total)]),
        "version": record["mutmut"],
        "texts": str(total["texts"]),
        "survivors": "\n\n".join(listed),
    }
    paragraphs = PROSE.strip().split("\n\n")
    parts = [part if part[:2] in ("@@", "| ") else " ".join(part.split()) for part in paragraphs]
    text = "\n\n".join(parts).replace("@@", "```")
    for name, value in filled.items():
        text = text.replace(f"[{name}]", value)
    return text + "\n"


def _row(name: str, row: Mapping[str, int]) -> str:
    tried = row["killed"] + row["survived"]
    rate = f"{100 * row['killed'] / tried:.1f} %" if tried else "-"
    return f"| {name} | {row['mutants']} | {tried} | {row['killed']} | {rate} |"


PROSE = """
# Mutants of the harness

@@sh
make mutants
@@

A mutant is the harness with one small mistake: another operator, number, name or argument.
[mutmut](https://mutmut.readthedocs.io) [version] makes the mutants of the modules that decide a
verdict. With each of them the tests of its module must fail.

The sample has a fixed seed, and every module has its share. mutmut leaves out docstrings,
annotations and decorated functions. Strings with a space are texts for people, and left out too:
[texts] mutants. A mutant is also killed if its tests take ten times as long as without it.

| module | mutants | tried | killed | rate |
|---|---|---|---|---|
[table]

`make mutants` writes [the record](mutants.json) and this page. `ARGS=--again` tries
the survivors alone, after new tests. `ARGS=--page` writes this page from the record, where the
reasons of survivors are written by hand.

## Survivors

A mutant that computes the same is equivalent, and no test can find it.

[survivors]
"""


def main() -> None:
    """Try mutants and write the record and the page."""
    parser = argparse.ArgumentParser(description="Try mutants of the harness.")
    parser.add_argument("--count", type=int, default=300, help="mutants of the sample")
    parser.add_argument("--again", action="store_true", help="try the survivors of the record")
    parser.add_argument("--page", action="store_true", help="write the page from the record alone")
    asked = parser.parse_args()
    record = json.loads(RECORD.read_bytes()) if RECORD.exists() else {}
    if not asked.page:
        os.chdir(HOME)
        os.environ["OMP_NUM_THREADS"] = "1"  # a fork would wait for its parent's other threads
        os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = tempfile.mkdtemp()  # no mutant's examples stay

        def work(trier: Trier) -> None:
            made = again(trier, record) if asked.again else measure(trier, asked.count, record)
            RECORD.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")

        files = [name for module in TESTS for name in files_of(module)]
        if ended := pytest.main([*OPTIONS, *files], plugins=[Trier(work)]):
            sys.exit(int(ended))
        record = json.loads(RECORD.read_bytes())
    PAGE.write_text(page(record), encoding="utf-8")


if __name__ == "__main__":
    main()
