"""The progress bar: on a terminal, and nowhere else."""

import contextlib
import io
import os
import pty
import re
import sys
from collections.abc import Iterator
from typing import Self, TextIO

import pytest

from scratch_gpt.progress import progress_bar


class Terminal:
    """A terminal; inside `with` it stands for standard error."""

    def __init__(self, encoding: str) -> None:
        self._main, other = pty.openpty()
        os.set_blocking(self._main, False)
        self.stream: TextIO = os.fdopen(other, "w", encoding=encoding)

    def __enter__(self) -> Self:
        self._before, sys.stderr = sys.stderr, self.stream
        return self

    def __exit__(self, *_error: object) -> None:
        sys.stderr = self._before

    def text(self) -> str:
        self.stream.flush()
        parts = []
        with contextlib.suppress(BlockingIOError):
            while True:
                parts.append(os.read(self._main, 1 << 16))
        return b"".join(parts).decode("utf-8")

    def close(self) -> None:
        self.stream.close()
        os.close(self._main)


@pytest.fixture(params=["utf-8", "ascii"])
def terminal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Terminal]:
    for name in ("FORCE_COLOR", "NO_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    made = Terminal(request.param)
    yield made
    made.close()


def test_the_bar_is_shown_and_removed(terminal: Terminal) -> None:
    with terminal, progress_bar(quiet=False) as progress:
        progress("h.3.mlp.gelu", 1, 4)
    text = terminal.text()
    assert "h.3.mlp.gelu" in text
    assert "25%" in text
    left = text.rpartition("h.3.mlp.gelu")[2]
    assert "\x1b[2K" in left  # the line is wiped
    assert "\x1b[?25h" in left  # the cursor is back


@pytest.mark.parametrize(
    ("name", "shown"), [("[red]h.3 [/]", "[red]h.3 [/]"), ("\x1b[5mh.4", r"\x1b[5mh.4")]
)
def test_a_name_is_shown_as_it_is(name: str, shown: str, terminal: Terminal) -> None:
    """No part of it is markup, or controls the terminal."""
    with terminal, progress_bar(quiet=False) as progress:
        progress(name, 1, 4)
    text = terminal.text()
    assert "\x1b[5m" not in text
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert re.search(rf"[^\w ] +25% \d:\d\d:\d\d {re.escape(shown)}", plain)


def test_the_cursor_comes_back_after_an_interrupt(terminal: Terminal) -> None:
    def interrupted() -> None:
        with terminal, progress_bar(quiet=False) as progress:
            progress("weights", 1, 4)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert "\x1b[?25h" in terminal.text()


def test_quiet_is_quiet_on_a_terminal(terminal: Terminal) -> None:
    with terminal, progress_bar(quiet=True) as progress:
        progress("weights", 1, 4)
    terminal.stream.write("end")
    assert terminal.text() == "end"


@pytest.mark.parametrize("stream", [io.StringIO(), None], ids=["file", "closed"])
def test_other_streams_are_shown_nothing(
    stream: io.StringIO | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr("sys.stderr", stream)
    with progress_bar(quiet=False) as progress:
        progress("weights", 1, 4)
    assert ("" if stream is None else stream.getvalue()) == ""
