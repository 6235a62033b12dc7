"""Every command and Python block of the documents runs, or is listed with the reason."""

import functools
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scratch_gpt import GPT, GPTConfig, Tokenizer

HOME = Path(__file__).parents[1]
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    *(f"docs/{f.name}" for f in sorted(HOME.glob("docs/*.md"))),
]

NOT_RUN = {
    r"\bopenai-gpt\b|check golden": "needs the released weights",
    r"scratch_gpt\.train": "trains for minutes; tests/scratch_gpt/training runs it",
    r"--pretokenizer original": "needs the extra [original-text]; tox -e original-text runs it",
    r"--backend triton": "minutes in Triton's interpreter; the kernel's own tests run it",
    r"check selftest": "minutes for all faults; tests/parity/checks/test_selftest.py runs some",
    r"bench\.ratios|^pytest bench": "takes times; tox -e bench runs each function once",
    r"^pytest examples": "tests/parity/test_pytest_plugin.py runs it",
    r"^(make|pip|tox) |^\. \.venv": "installs packages",
}
"""Commands whose options are checked but which are not run, by pattern."""

FAILS = r"--inject-fault|broken_gpt\.py|port\.safetensors"
"""Commands that show a failing verdict: exit code 1."""

SLOW = (
    "README all drift generation reading-a-report tokenizer training-check verification weights "
    "your-model"
)
"""Documents with a full-size model, or with more than half a minute of commands."""

VERBS = (
    "all layerwise gradients training tokens generation invariants weights golden drift "
    "doctor selftest"
)
PROGRAMS = "parity.convert scratch_gpt.train scratch_gpt.generate scratch_gpt.data bench.ratios"
COMMANDS = [*(f"parity.check {verb}" for verb in VERBS.split()), *PROGRAMS.split()]
OTHER_TOOLS = {
    *("--benchmark-save", "--benchmark-compare", "--benchmark-histogram", "--benchmark-disable"),
    *("--grid", "--bench-device", "--skip-missing-interpreters", "--deselect", "--parity-report"),
    *("--measure", "--again", "--page"),
}
"""Options of pytest and tox that the documents mention."""

BLOCK = re.compile(r"^```(.*)\n((?:.*\n)*?)```$", re.MULTILINE)


def text_of(document: str) -> str:
    """Return a document."""
    return (HOME / document).read_text(encoding="utf-8")


def blocks(document: str) -> list[tuple[str, str]]:
    """Return (language, text) of every fenced block."""
    return BLOCK.findall(text_of(document))


def commands(block: str) -> list[str]:
    """Return the commands of a shell block, without comments and line continuations."""
    lines = block.replace("\\\n", " ").splitlines()
    return [line for line in (re.sub(r"(^|\s)#.*", "", line).strip() for line in lines) if line]


def shell_commands(document: str) -> list[str]:
    """Return all shell commands of a document."""
    return [
        line for language, text in blocks(document) if language == "sh" for line in commands(text)
    ]


def reason(command: str) -> str | None:
    """Return why a command is not run, None if it is."""
    return next((why for pattern, why in NOT_RUN.items() if re.search(pattern, command)), None)


@functools.cache
def options(command: str) -> frozenset[str]:
    """Return the options that `python -m COMMAND --help` lists."""
    done = subprocess.run(
        [sys.executable, "-m", *command.split(), "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"COLUMNS": "200"},
    )
    return frozenset(re.findall(r"^\s+(?:-\w, )?(--[\w-]+)", done.stdout, re.MULTILINE))


def unknown(command: str) -> list[str]:
    """Return the options of a command line that its program does not have, and unknown targets."""
    words = shlex.split(command)
    if words[0] == "make":
        targets = re.findall(r"^([\w-]+):", text_of("Makefile"), re.MULTILINE)
        return [word for word in words[1:] if "=" not in word and word not in targets]
    if "-m" not in words or "tox" in words:
        return []
    module, *rest = words[words.index("-m") + 1 :]
    program = f"{module} {rest[0]}" if module == "parity.check" else module
    assert program in COMMANDS, command
    used = {word.partition("=")[0] for word in rest if word.startswith("--")}
    return sorted(used - options(program))


@pytest.fixture(scope="module")
def prepared(small_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with everything that the documents name: weights, a trained run, texts."""
    folder = tmp_path_factory.mktemp("documents")
    tokenizer = Tokenizer.train([small_text] * 2, merges=500)
    size = tokenizer.vocab_size
    model = GPT(GPTConfig(vocab_size=size, n_positions=512, n_embd=24, n_layer=2, n_head=3))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():  # gains of 1 and biases of 0 make a check inconclusive
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    for target in (folder / "weights", folder / "run" / "model"):
        model.save_pretrained(target)
        tokenizer.save_pretrained(target)
    (folder / "books").mkdir()
    (folder / "books" / "page.txt").write_text(small_text * 20, encoding="utf-8")
    shutil.copytree(HOME / "examples", folder / "examples")
    return folder


LONG = (pytest.mark.slow, pytest.mark.timeout(1800))
BY_TIME = [pytest.param(d, marks=LONG if Path(d).stem in SLOW.split() else ()) for d in DOCUMENTS]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_block_has_a_language(document: str) -> None:
    """`sh` and `python` are run, `text` is output; no other block exists, and none is indented."""
    text = text_of(document)
    assert text.count("\n```") == 2 * len(blocks(document))
    assert {language for language, _ in blocks(document)} <= {"sh", "python", "text"}
    assert not re.search(r"^(    |\t)(\$|python|make|tox|pip)", BLOCK.sub("", text), re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_exist(document: str) -> None:
    """Every option of every command, and every option that the prose mentions."""
    wrong = {line: unknown(line) for line in shell_commands(document)}
    assert {line: names for line, names in wrong.items() if names} == {}
    mentioned = set(re.findall(r"(?<![\w-])--[a-z][\w-]+", BLOCK.sub("", text_of(document))))
    assert mentioned <= OTHER_TOOLS.union(*map(options, COMMANDS))


@pytest.mark.once
def test_no_document_names_a_folder_of_a_machine() -> None:
    """A report has the command that made it."""
    files = [path for path in HOME.glob("docs/**/*") if path.is_file()]
    assert len(files) > len(DOCUMENTS)
    private = re.compile(r"/(?:tmp|home|root|mnt|Users)/")
    assert [f for f in files if private.search(f.read_text(encoding="utf-8"))] == []


@pytest.mark.once
@pytest.mark.parametrize("document", BY_TIME)
def test_blocks_run(document: str, prepared: Path, tmp_path: Path) -> None:
    """In order, in one folder; a Python block that starts with a file name becomes that file."""
    folder = tmp_path / "here"
    shutil.copytree(prepared, folder)
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = os.environ | {"PATH": path, "HF_HUB_OFFLINE": "1"}
    # A reader's folder holds examples/, which a block may import; tox forbids that for its tests.
    environment.pop("PYTHONSAFEPATH", None)
    for language, text in blocks(document):
        if language == "python":
            if named := re.match(r"# (\w+\.py)\n", text):
                (folder / named[1]).write_text(text, encoding="utf-8")
            lines = [(text, [sys.executable, "-c", text])]
        else:
            small = text.replace("--weights surrogate", "--weights tiny")  # gigabytes, minutes
            lines = [(c, ["bash", "-o", "pipefail", "-c", c]) for c in commands(small)]
            lines = lines if language == "sh" else []
        for shown, arguments in lines:
            if language == "sh" and reason(shown):
                continue
            done = subprocess.run(
                arguments, cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            expected = 1 if language == "sh" and re.search(FAILS, shown) else 0
            assert done.returncode == expected, (
                f"{shown}\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
            )


def test_no_exception_is_stale() -> None:
    """Every pattern of commands that are not run still matches one."""
    lines = [line for document in DOCUMENTS for line in shell_commands(document)]
    stale = [p for p in NOT_RUN if not any(re.search(p, line) for line in lines)]
    assert stale == []


@pytest.mark.skipif(not (HOME / "bench").exists(), reason="only a checkout has every linked file")
@pytest.mark.parametrize("document", [*DOCUMENTS, "CHANGELOG.md"])
def test_links_lead_somewhere(document: str) -> None:
    """Every relative link names a file, and every anchor a heading in it."""
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", BLOCK.sub("", text_of(document))):
        name, _, anchor = link.partition("#")
        target = (HOME / document).parent / name if name else HOME / document
        if link.startswith("https://"):
            continue
        if not target.exists():
            broken.append(link)
        elif anchor:
            headings = re.findall(r"^#+ (.*)", target.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}
            broken += [] if anchor in slugs else [link]
    assert broken == []
