"""Hostile names in every command on a terminal: no character that the terminal would obey."""

import contextlib
import gc
import json
import logging
import os
import pty
import re
import shutil
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pytest

from parity import session
from parity.checkpoints.export import OPENAI, export
from parity.checkpoints.load import load_weights

pytestmark = pytest.mark.once

HOSTILE = os.fsdecode(b"a[]x]\x1b]0;t\x07\x1b[2J\x08\rq\n\xe2\x80\xae\xc2\x9b1m\xff")
"""Markup, a title, a bell, a cleared screen, a step back, line ends, reversed text, a C1 control,
and a byte that is no character."""

OWN = re.compile(r"\x1b\[(\d+(;\d+)*)?m|\x1b\[\?25[lh]|\x1b\[1A|\x1b\[2K|\r(?!q)|\n(?!\u202e)")
"""What the commands print themselves: colors, the cursor, the progress line, line ends."""


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[object, str]]:
    """Return the function that runs a module's command on a terminal: exit code and output."""

    def run(module: str, *arguments: object) -> tuple[object, str]:
        main, other = pty.openpty()
        received: list[bytes] = []

        def read() -> None:
            with contextlib.suppress(OSError):  # the other end is closed
                while part := os.read(main, 1 << 16):
                    received.append(part)

        reader = threading.Thread(target=read)
        reader.start()
        with (
            os.fdopen(os.dup(other), "w", encoding="utf-8") as stdout,
            os.fdopen(other, "w", encoding="utf-8", errors="backslashreplace") as stderr,
            monkeypatch.context() as patch,
        ):
            patch.setenv("TERM", "xterm-256color")
            patch.setattr(sys, "argv", [module, *map(str, arguments)])
            patch.setattr(sys, "stdout", stdout)
            patch.setattr(sys, "stderr", stderr)
            patch.setattr(session, "end_process", sys.exit)  # it would end pytest too
            patch.setattr(logging.root, "handlers", [])  # pytest's own
            patch.setattr(logging.root, "level", logging.root.level)  # --debug changes it
            with pytest.raises(SystemExit) as ended:
                import_module(module).main()
        gc.unfreeze()
        reader.join()
        os.close(main)
        return ended.value.code, b"".join(received).decode("utf-8", "surrogateescape")

    return run


@pytest.fixture
def folder(tmp_path: Path, small_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a folder of a hostile name, with hostile files in it, in the working folder."""
    monkeypatch.chdir(tmp_path)
    folder = Path(HOSTILE)
    (folder / "books").mkdir(parents=True)
    (folder / "books" / f"{HOSTILE}.txt").write_text("word after word\n" * 99, encoding="utf-8")
    raising = f"def build(config, weights):\n    raise ValueError({HOSTILE!r})\n"
    (folder / "candidate.py").write_text(raising, encoding="utf-8")
    raising = (
        "import torch\nclass Model(torch.nn.Module):\n"
        "    def forward(self, ids, attention_mask=None, position_ids=None, tap=None):\n"
        f"        raise ValueError({HOSTILE!r})\n"
        "def build(config, weights):\n    return Model()\n"
    )
    (folder / "forward.py").write_text(raising, encoding="utf-8")
    made = folder / HOSTILE
    export(load_weights("tiny"), made, OPENAI, overwrite=False, progress=lambda *_: None)
    config = made / "config.json"
    fields = json.loads(config.read_bytes()) | {"x\x1b[2J\u202e": "\x07"}
    config.write_text(json.dumps(fields), encoding="utf-8")
    (made / "vocab_40000.bpe").symlink_to(tmp_path / HOSTILE / "books" / f"{HOSTILE}.txt")
    shutil.copytree(small_vocabulary, folder / "vocabulary")


@pytest.mark.parametrize(
    ("code", "command"),
    [
        (0, "scratch_gpt.data.__main__ {}/books --output {}/new --vocabulary {}/vocabulary"),
        (2, "scratch_gpt.data.__main__ {}/none --output new --vocabulary {}/vocabulary"),
        (4, "scratch_gpt.data.__main__ {} --output new --vocabulary {} --debug"),
        (2, "scratch_gpt.data.__main__ --{}"),
        (0, "parity.convert {}/{} new"),
        (0, "parity.convert tiny {}/new"),
        (2, "parity.convert ./{}/none new --debug"),
        (2, "parity.convert tiny new {}"),
        (0, "parity.check weights --weights {}/{} --output {}/{}.json"),
        (0, "parity.check doctor --weights {}/{}"),
        (4, "parity.check layerwise --weights tiny --candidate {}/candidate.py"),
        (3, "parity.check layerwise --weights tiny --candidate {}/forward.py --debug"),
        (2, "parity.check drift {}/none"),
        (5, "parity.check weights --output {}/none/{}.json"),
        (2, "parity.check {}"),
        (2, "scratch_gpt.generate --weights {}/none --prompt x"),
        (2, "scratch_gpt.train --output {}/new --data {}/none"),
        (5, "bench.ratios --json {}/none/{}"),
        (2, "bench.ratios --rows {}"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_hostile_names_are_shown_escaped(code: int, command: str, on_terminal: Callable) -> None:
    found, text = on_terminal(*(part.replace("{}", HOSTILE) for part in command.split()))
    assert found == code, text
    assert [c for c in OWN.sub("", text) if not c.isprintable()] == []
    assert ("Traceback" in text) == ("--debug" in command)
    assert r"\x1b[2J" in text
