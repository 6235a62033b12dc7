"""`python -m scratch_gpt.data`: what it prints, how it ends."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import pytest
from typer.testing import CliRunner, Result

from scratch_gpt.data import TokenData, __main__
from scratch_gpt.data.__main__ import app
from scratch_gpt.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.once


@pytest.fixture
def command(books: Path, tmp_path: Path, small_vocabulary: Path) -> Callable[..., Result]:
    def call(*given: object, vocabulary: Path = small_vocabulary) -> Result:
        options = ["--output", str(tmp_path / "out"), "--vocabulary", str(vocabulary)]
        return CliRunner().invoke(app, [*options, *map(str, given or [books])])

    return call


def test_the_summary_has_all_counts(command: Callable, tmp_path: Path, small_text: str) -> None:
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


def test_replaced_bytes_are_in_the_summary(command: Callable, books: Path) -> None:
    (books / "a.txt").write_bytes(b"a \xff b \xff")
    assert "2 of them replace bytes that are not UTF-8" in command(books, "--errors=replace").stdout


def test_a_part_without_tokens_has_no_guess(command: Callable, tmp_path: Path, books: Path) -> None:
    assert "guessing" not in command(books, "--validation", 0).stdout
    data = TokenData.open(tmp_path / "out")
    none = dataclasses.replace(data.manifest, validation=data.manifest.tokens)
    assert "guessing" not in __main__.summary_of(dataclasses.replace(data, manifest=none))


def test_quiet_prints_nothing(command: Callable, books: Path) -> None:
    result = command(books, "--quiet")
    assert (result.exit_code, result.output) == (0, "")


def test_a_missing_vocabulary_is_trained(command: Callable, books: Path, tmp_path: Path) -> None:
    """It is used again, and not changed if another number of merges is requested."""
    vocabulary = tmp_path / "vocabulary"
    for merges, code in ((25, 0), (25, 0), (24, 2), (26, 2)):
        result = command(books, "--merges", merges, vocabulary=vocabulary)
        message = f"the vocabulary there has 25 merges, and --merges asks for {merges}"
        assert (result.exit_code, message in result.output) == (code, merges != 25)
        trained = Tokenizer.from_pretrained(vocabulary)
        assert len(trained.vocabulary.merges) == 25
        TokenData.open(tmp_path / "out").require(trained)


def test_a_text_with_too_few_merges_is_prepared_again(command: Callable, tmp_path: Path) -> None:
    path, vocabulary = tmp_path / "a.txt", tmp_path / "vocabulary"
    path.write_text("ab ab cd", "utf-8")
    for _ in range(2):
        assert command(path, "--merges", 9, vocabulary=vocabulary).exit_code == 0
    assert len(Tokenizer.from_pretrained(vocabulary).vocabulary.merges) == 1


@pytest.mark.parametrize("content", [b"", b"ab\xff"], ids=["empty", "no UTF-8"])
def test_invalid_text_trains_nothing(content: bytes, command: Callable, tmp_path: Path) -> None:
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
        ("missing", [], 2, "there is no such file"),
        ("unknown", [], 2, "all of them unknown"),
        ("occupied", [], 2, "the folder is not empty"),
        ("file", [], 2, "there is a file of that name"),
        ("vocabulary", [], 2, "no such folder"),
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
        assert [line.split()[0] for line in result.output.splitlines()] == [
            "error:",
            "where",
            "fix",
        ]


def test_another_vocabulary_is_rejected(command: Callable, books: Path, tmp_path: Path) -> None:
    assert command(books).exit_code == 0
    Tokenizer.train(["other text"], merges=3).save_pretrained(tmp_path / "other")
    result = command(books, vocabulary=tmp_path / "other")
    assert result.exit_code == 4
    assert "other tokens were prepared there: vocabulary " in result.output


def test_an_interrupt_has_an_exit_code(command: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt = Mock(side_effect=KeyboardInterrupt)
    monkeypatch.setattr("scratch_gpt.data.preparation.prepare", interrupt)
    result = command()
    assert result.exit_code == 130
    assert "run it again" in result.output


def test_help_has_examples_defaults_and_exit_codes(python: Callable) -> None:
    printed = python("-m", "scratch_gpt.data", "--help").stdout
    for part in ("Examples:\n", "  python -m scratch_gpt.data books/", "[default: 0.05;", "Exit"):
        assert part in printed


def test_the_module_runs_without_torch(
    books: Path, tmp_path: Path, small_vocabulary: Path, python: Callable
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')", "utf-8")
    options = ["--output", tmp_path / "out", "--vocabulary", small_vocabulary]
    result = python("-m", "scratch_gpt.data", books, *options, folders=[tmp_path])
    assert result.stdout.startswith("documents ")
    assert not result.stderr
