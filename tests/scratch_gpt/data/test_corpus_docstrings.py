"""Documentation strings of a library, read and never run."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from scratch_gpt.data import corpus
from scratch_gpt.data.corpus import texts
from scratch_gpt.errors import TooLittleTextError

Library = Callable[[dict[str, str]], Path]


@pytest.fixture
def library(tmp_path: Path) -> Library:
    def make(modules: dict[str, str]) -> Path:
        home = tmp_path / "lib"
        for name, source in modules.items():
            path = home / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(source, "utf-8")
        return home

    return make


def text_of(home: Path) -> dict[str, str]:
    return {
        document.name: "".join(texts([document])) for document in corpus.docstring_documents(home)
    }


MODULE = '''"""The module.

    Indented.
"""
raise SystemExit("never run")
"no documentation"

class A:
    """The class."""

    async def f(self):
        """The method."""

        def g():
            """Inside."""
        return lambda: g

if True:
    def h():
        "Last."
        """Not this."""
'''


def test_strings_come_from_top_to_bottom(library: Callable) -> None:
    expected = "The module.\n\nIndented.\n\nThe class.\n\nThe method.\n\nInside.\n\nLast.\n"
    assert text_of(library({"a.py": MODULE})) == {"a.py": expected}


def test_the_order_is_a_mixture_that_depends_on_nothing(library: Callable) -> None:
    """By the SHA-256 of the paths, recorded here."""
    names = ["a.py", "b.py", "c/d.py", "c/e.py", "f.py"]
    home = library({name: f'"""{name}"""' for name in names})
    assert list(text_of(home)) == ["c/e.py", "b.py", "c/d.py", "f.py", "a.py"]


def test_nothing_is_said_twice(library: Callable) -> None:
    again = 'def f():\n    """Same."""\ndef g():\n    """Same."""\ndef h():\n    """Own {}."""\n'
    found = text_of(library({"a.py": again.format(1), "b.py": again.format(2), "f.py": '"Same."'}))
    assert "".join(found.values()).count("Same.") == 1
    assert len(found) == 3 - ("f.py" not in found)


def test_what_is_left_out(library: Callable) -> None:
    names = ["test/a.py", "x/tests/b.py", "idlelib/idle_test/c.py", "site-packages/d.py", "e.txt"]
    home = library(dict.fromkeys(names, '"""Text."""') | {"x/testing.py": '"""Kept."""'})
    assert list(text_of(home)) == ["x/testing.py"]


def test_what_cannot_be_parsed_is_left_out(library: Callable) -> None:
    broken = {"a.py": "print 'old'", "b.py": "\0", "c.py": '"""A \\d."""\nx = "\\d" is 1'}
    assert text_of(library(broken)) == {"c.py": "A \\d.\n"}


def test_half_a_character_is_replaced(library: Callable) -> None:
    assert text_of(library({"a.py": '"""A \\ud800."""'})) == {"a.py": "A ?.\n"}


def test_a_library_without_sources_is_told(tmp_path: Path) -> None:
    with pytest.raises(TooLittleTextError, match="no documentation string"):
        corpus.docstring_documents(tmp_path)


@pytest.mark.slow
def test_this_library_has_megabytes() -> None:
    """Enough to train on, found without importing a module."""
    before = set(sys.modules)
    found = corpus.docstring_documents()
    assert len(found) > 400
    assert sum(map(len, texts(found))) > 1_300_000
    assert not {"turtle", "idlelib", "antigravity"} & (set(sys.modules) - before)
