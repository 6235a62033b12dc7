"""The pretokenizer `original`: published ids, its peculiarities, missing packages."""

import sys
from pathlib import Path

import pytest

from reference.original_tokenizer import OriginalTokenizer, english_tokenizer, prepare_text
from reference.published_token_ids import PUBLISHED
from scratch_gpt import Tokenizer
from scratch_gpt.cli import as_cli_error
from scratch_gpt.tokenizer.pretokenizers import Word, pretokenizer_named

pytest.importorskip("ftfy", reason="not run: ftfy is not installed (extra original-text)")
pytest.importorskip("spacy", reason="not run: spaCy is not installed (extra original-text)")

from scratch_gpt.errors import MissingExtraError
from scratch_gpt.tokenizer import original
from scratch_gpt.tokenizer.original import OriginalPretokenizer, standardize

ROWS = [row for row in PUBLISHED if row.original is not None]


@pytest.fixture(scope="module")
def pretokenizer() -> OriginalPretokenizer:
    return OriginalPretokenizer()


def test_the_released_vocabulary_gives_every_published_id(released: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(released, pretokenizer="original")
    assert len(ROWS) == 52
    assert [row.original for row in ROWS] == tokenizer.encode_batch(row.text for row in ROWS)


def test_the_other_pretokenizer_gives_other_ids(released: Path) -> None:
    tokenizer = Tokenizer.from_pretrained(released)
    same = [row.text for row in ROWS if tokenizer.encode(row.text) == row.original]
    assert len(same) <= 1


PREPARED = {
    "nothing": ("", ""),
    "a run": ("what?!?!--yes", "what ? ! ? ! -- yes"),
    "no run of backslashes": (r"a\b \\ \"c\"", r"a\b \\ \ " + '" c\\ "'),
    "a plus": ("a++b", "a ++ b"),
    "an underscore": ("__init__", "__ init __"),
    "unpadded marks": ("a.b:c'd@e#f$g%h^i&j=k<l>m`n", "a.b:c'd@e#f$g%h^i&j=k<l>m`n"),
    "dashes": ("a\u2014b\u2013c\u2015d", "a - b - c - d"),
    "dots in one": ("wait\u2026", "wait..."),
    "an acute accent": ("\u00b4", "'"),
    "curled marks": ("\u201cdon\u2019t\u201d", '" don\'t "'),
    "an entity": ("&amp; x", "& x"),
    "a ligature": ("\ufb01", "fi"),
    "twice encoded": ("schÃ¶n", "schön"),
    "spaces": (" a \t\u00a0 b ", "a b"),
    "one newline": ("a\nb", "a \n b"),
    "newlines": ("a \r\n\n\t b\n", "a \n b"),
}


@pytest.mark.parametrize("case", PREPARED)
def test_text_is_standardized(case: str) -> None:
    text, expected = PREPARED[case]
    assert expected == standardize(text)


WORDS = {
    "contractions": ("I can't, won't", ["i", "ca", "n't", ",", "wo", "n't"]),
    "a newline": ("a\n\n\nB", ["a", "\n", "b"]),
    "the unknown token": ("a <unk> b", ["a", "<", "unk", ">", "b"]),
    "an abbreviation": ("Mr. U.S.A. e.g. this", ["mr.", "u.s.a.", "e.g.", "this"]),
    "a backslash": (r"and\or", [r"and\or"]),
    "one letter": ("x", ["x"]),
    "nothing": (" \n ", []),
}


@pytest.mark.parametrize("case", WORDS)
def test_words_are_spacys_in_lower_case(case: str, pretokenizer: OriginalPretokenizer) -> None:
    """A newline is a word, and the literal `<unk>` is three."""
    text, expected = WORDS[case]
    assert expected == pretokenizer.words(text)


def test_offsets_are_of_the_standardized_text(pretokenizer: OriginalPretokenizer) -> None:
    """Two characters may come from one position."""
    text = "“İa” ΟΔΟΣ\n\nx"
    assert pretokenizer.standardized(text) == '" İa " ΟΔΟΣ \n x'
    expected = [
        Word('"', [0], [1]),
        Word("i\u0307a", [2, 2, 3], [3, 3, 4]),
        Word('"', [5], [6]),
        Word("οδος", [7, 8, 9, 10], [8, 9, 10, 11]),
        Word("\n", [12], [13]),
        Word("x", [14], [15]),
    ]
    assert expected == pretokenizer.located(text)


def test_words_are_the_transcriptions(pretokenizer: OriginalPretokenizer) -> None:
    split = english_tokenizer()
    for row in PUBLISHED:
        expected = [word.lower().removesuffix(" ") for word in split(prepare_text(row.text))]
        assert expected == pretokenizer.words(row.text)
        assert expected == [word.text for word in pretokenizer.located(row.text)]


def test_a_vocabulary_of_ones_own_is_merged_alike(small_vocabulary: Path, small_text: str) -> None:
    ours = Tokenizer.from_pretrained(small_vocabulary, pretokenizer="original")
    theirs = OriginalTokenizer(small_vocabulary / "vocab.json", small_vocabulary / "merges.txt")
    found = ours.encode(small_text)
    assert len(found) > len(small_text.split())
    assert theirs.encode(small_text) == found


@pytest.mark.parametrize("package", ["ftfy", "spacy"])
def test_a_missing_package_is_told(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    original._rules.cache_clear()
    with pytest.raises(MissingExtraError) as missing:
        pretokenizer_named("original")
    error = as_cli_error(missing.value)
    expected = (5, True, "pip install 'gpt1-parity[original-text]'")
    assert expected == (error.exit_code, package in error.what, error.fix)


def test_long_runs_of_spaces_are_cheap() -> None:
    """The release's own pattern takes quadratic time."""
    assert standardize("a" + " " * 300_000 + "b") == "a b"
