"""`python -m scratch_gpt.data`: what it prints, how it ends."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from scratch_gpt.data import TokenData, __main__
from scratch_gpt.data.__main__ import app
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Command = Callable[..., Result]


@pytest.fixture
def command(books: Path, tmp_path: Path, small_vocabulary: Path) -> Command:
    def call(*given: object, vocabulary: Path = small_vocabulary) -> Result:
        options = ["--output", str(tmp_path / "out"), "--vocabulary", str(vocabulary)]
        return CliRunner().invoke(app, [*options, *map(str, given or [books])])

    return call


def test_prepares_and_sums_up(command: Callable, tmp_path: Path, small_text: str) -> None:
    result = command()
    assert result.exit_code == 0
    data = TokenData.open(tmp_path / "out")
    rows = {line.split()[0]: line for line in result.stdout.splitlines()}
    expected = [*("documents", "characters", "tokens", "unknown", "train", "validation"), "written"]
    assert expected == list(rows)
    assert rows["documents"].split() == ["documents", "5"]
    characters = 2 * len(small_text) - small_text.count("\n") + 500 + 4
    assert abs(characters - data.manifest.characters) < 60  # runs of white space became one
    assert f"{data.manifest.characters:,}" in rows["characters"]
    assert f"{data.manifest.tokens:,}" in rows["tokens"]
    assert "characters each" in rows["tokens"]
    assert "guessing by frequency loses" in rows["validation"]
    assert str(tmp_path / "out") in rows["written"]


def test_what_was_replaced_is_summed_up(command: Callable, books: Path) -> None:
    (books / "a.txt").write_bytes(b"a \xff b \xff")
    assert "2 of them replace bytes that are not UTF-8" in command(books, "--errors=replace").stdout


def test_a_part_without_tokens_has_no_guess(command: Callable, tmp_path: Path, books: Path) -> None:
    assert "guessing" not in command(books, "--validation", 0).stdout
    data = TokenData.open(tmp_path / "out")
    none = dataclasses.replace(data.manifest, validation=data.manifest.tokens)
    assert "guessing" not in __main__.summary_of(dataclasses.replace(data, manifest=none))


def test_quiet_says_nothing(command: Callable, books: Path) -> None:
    result = command(books, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_a_vocabulary_is_learned_where_there_is_none(
    command: Callable, books: Path, tmp_path: Path
) -> None:
    vocabulary = tmp_path / "vocabulary"
    assert command(books, "--merges", 25, vocabulary=vocabulary).exit_code == 0
    learned = Tokenizer.from_pretrained(vocabulary)
    assert len(learned.vocabulary.merges) == 25
    assert command(books, "--merges", 25, vocabulary=vocabulary).exit_code == 0
    TokenData.open(tmp_path / "out").require(learned)


@pytest.mark.parametrize("asked", [24, 26])
def test_another_number_of_merges_is_an_error(
    asked: int, command: Callable, books: Path, tmp_path: Path
) -> None:
    vocabulary = tmp_path / "vocabulary"
    command(books, "--merges", 25, vocabulary=vocabulary)
    result = command(books, "--merges", asked, vocabulary=vocabulary)
    message = f"the vocabulary there has 25 merges, and --merges asks for {asked}"
    assert (result.exit_code, message in result.output) == (2, True)
    assert len(Tokenizer.from_pretrained(vocabulary).vocabulary.merges) == 25


def test_text_with_fewer_merges_than_asked_for_is_taken_up(
    command: Callable, tmp_path: Path
) -> None:
    """The same command succeeds again, though the vocabulary has fewer merges than requested."""
    path, vocabulary = tmp_path / "a.txt", tmp_path / "vocabulary"
    path.write_text("ab ab cd", "utf-8")
    for _ in range(2):
        assert command(path, "--merges", 9, vocabulary=vocabulary).exit_code == 0
    assert len(Tokenizer.from_pretrained(vocabulary).vocabulary.merges) == 1


@pytest.mark.parametrize("content", [b"", b"ab\xff"], ids=["empty", "no UTF-8"])
def test_no_vocabulary_is_learned_of_what_is_no_text(
    content: bytes, command: Callable, tmp_path: Path
) -> None:
    path, vocabulary = tmp_path / "a.txt", tmp_path / "vocabulary"
    path.write_bytes(content)
    assert command(path, "--merges", 9, vocabulary=vocabulary).exit_code in {2, 4}
    assert not vocabulary.exists()


@pytest.mark.parametrize(
    ("change", "options", "code", "message"),
    [
        ("empty", [], 2, "there is no text"),
        ("short", [], 0, ""),
        ("bad", [], 4, "byte 2 is 0xff, which is no UTF-8"),
        ("bad", ["--errors=replace"], 0, ""),
        ("bad", ["--errors=ignore"], 2, "Invalid value for '--errors'"),
        ("short", ["--validation=0.6"], 2, "Invalid value for '--validation'"),
        ("missing", [], 4, "there is no such file"),
        ("unknown", [], 2, "all of them unknown"),
        ("occupied", [], 2, "the folder is not empty"),
        ("file", [], 2, "there is a file of that name"),
        ("vocabulary", [], 4, "vocabulary"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_how_it_ends(  # noqa: PLR0913 - a case has many sides
    change: str, options: list[str], code: int, message: str, command: Callable, tmp_path: Path
) -> None:
    path = tmp_path / "a.txt"
    contents = {"empty": b"", "bad": b"ab\xff", "unknown": "\u4e00".encode()}
    if change != "missing":
        path.write_bytes(contents.get(change, b"ab"))
    if change == "occupied":
        (tmp_path / "out" / "notes").mkdir(parents=True)
    if change == "file":
        (tmp_path / "out").touch()
    given = {"vocabulary": tmp_path / "none"} if change == "vocabulary" else {}
    result = command(path, *options, **given)
    assert (code, True) == (result.exit_code, message in result.output)
    if code and not result.output.startswith("Usage"):
        assert [line.split()[0] for line in result.output.splitlines()] == ["error:", "where", "to"]


def test_another_vocabulary_is_refused(command: Callable, books: Path, tmp_path: Path) -> None:
    assert command(books).exit_code == 0
    Tokenizer.train(["other text"], merges=3).save_pretrained(tmp_path / "other")
    result = command(books, vocabulary=tmp_path / "other")
    assert result.exit_code == 4
    assert "other tokens were prepared there: vocabulary " in result.output


def test_an_interrupt_says_what_to_do(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_given: object, **_named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scratch_gpt.data.preparation.prepare", interrupt)
    result = command()
    assert result.exit_code == 130
    assert "run it again: it continues" in result.output


def test_help_teaches_and_loads_nothing(home_of: Callable) -> None:
    """Examples, defaults, exit codes; neither torch nor NumPy is imported for it."""
    home = home_of("scratch_gpt")
    assert home is not None
    source = (
        "import sys; sys.argv[1:] = ['--help']\n"
        "import atexit; atexit.register(lambda: print({'torch', 'numpy'} & set(sys.modules)))\n"
        "from scratch_gpt.data.__main__ import main; main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"PYTHONPATH": str(home.parent)},
        capture_output=True,
        text=True,
        check=True,
    )
    for part in ("Examples:\n", "  python -m scratch_gpt.data books/", "[default: 0.05;", "Exit"):
        assert part in result.stdout
    assert result.stdout.endswith("set()\n")


def test_the_module_runs_as_a_command(
    books: Path, tmp_path: Path, small_vocabulary: Path, home_of: Callable
) -> None:
    home = home_of("scratch_gpt")
    assert home is not None
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')", "utf-8")
    options = ["--output", tmp_path / "out", "--vocabulary", small_vocabulary]
    result = subprocess.run(
        [sys.executable, "-m", "scratch_gpt.data", books, *map(str, options)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(home.parent)])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("documents ")
    assert not result.stderr
