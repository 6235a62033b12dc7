"""`python -m parity.check tokens` from options to exit codes, on the small vocabulary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import BertNormalizer

from parity.checks.tokens import check as run
from reference import compat
from reference.huggingface_tokenizer import HuggingFaceTokenizer

Check = Callable[..., Any]


@pytest.fixture
def small(small_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return options that name the small vocabulary, with a short table and a short corpus."""
    monkeypatch.setattr(run, "HAND_PICKED", ("Café, don't", "a\u200bb", "<unk>"))
    monkeypatch.setattr(run, "_library", lambda: iter(["Some text.\n\nAnd more."]))
    return ["tokens", "--vocabulary", str(small_vocabulary), "--num-strings", "20"]


def test_the_right_tokenizer_passes(small: list[str], check: Check, tmp_path: Path) -> None:
    """Every source is compared, and the verdict names the vocabulary by its digest."""
    file = tmp_path / "r.json"
    result = check(*small, "--output", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    sources = ["hand-picked", "tokens as words", "generated", "corpus"]
    expected = (0, "pass", sources, False)
    assert expected == (
        result.exit_code,
        found["verdict"],
        [row["tap"] for row in found["results"]],
        found["identity"]["vocabulary"]["released"],
    )
    assert found["identity"]["vocabulary"]["digest"][:16] in result.stdout
    assert result.stdout.splitlines()[-1].startswith("PASS")


def test_a_fault_fails_and_is_named(small: list[str], check: Check) -> None:
    """Code 1; the text has the step, the string as ASCII, and both sides' words."""
    result = check(*small, "--inject-fault", "accents-kept")
    assert result.exit_code == 1
    for word in ("hand-picked/accents", "'\\xe9'", "U+00E9", "without this step: accents"):
        assert word in result.stdout
    assert result.stdout.splitlines()[-1].startswith("FAIL")


def test_many_differences_are_folded(small: list[str], check: Check, tmp_path: Path) -> None:
    """The text shows some of a step and says how many more; the JSON has them all."""
    file = tmp_path / "r.json"
    result = check(*small, "--inject-fault", "no-end-of-word", "--output", str(file))
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    of_words = [row for row in rows if row["tap"] == "tokens as words/end of word"]
    assert f"and {len(of_words) - 2} more of tokens as words/end of word" in result.stdout


def test_no_control_character_is_echoed(small: list[str], check: Check) -> None:
    """Colours in a text reach the terminal as an ASCII literal alone."""
    result = check(*small, "--text", "\x1b[31mÉ\x9b0m", "--inject-fault", "accents-kept")
    assert result.exit_code == 1
    assert all(c.isprintable() or c == "\n" for c in result.stdout)
    assert "'\\x1b[31m\\xc9\\x9b0m'" in result.stdout


USAGE = {
    "no such fault": (["--inject-fault", "erf-gelu"], 2, "erf-gelu"),
    "a fault of the other splitting": (["--inject-fault", "newline-dropped"], 2, "newline-dropped"),
    "no text": (["--text", ""], 3, ""),
    "half a character": (["--text", "a\udcffb"], 2, "character 1"),
    "a text and a corpus": (["--text", "the", "--corpus", "."], 2, "--text with --corpus"),
    "unknown alone": (["--text", "生活"], 3, "no token that is known"),
    "no such corpus": (["--corpus", "no_such_file.txt"], 4, "no_such_file.txt"),
    "no vocabulary there": (["--vocabulary", "."], 4, "vocab.json"),
}


@pytest.mark.parametrize("mistake", USAGE)
def test_what_cannot_be_compared_is_told(mistake: str, small: list[str], check: Check) -> None:
    """Each with its own exit code, and what was asked for in the words."""
    arguments, code, named = USAGE[mistake]
    result = check(*small, *arguments)
    assert (code, True) == (result.exit_code, named in result.stderr + result.stdout)


def test_bytes_that_are_no_text_are_refused(small: list[str], check: Check, tmp_path: Path) -> None:
    """A corpus that is not UTF-8 is refused, with the byte."""
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9 au lait")
    result = check(*small, "--corpus", str(file))
    assert (result.exit_code, "byte 3" in result.stderr) == (4, True)


def test_an_empty_corpus_is_no_pass(small: list[str], check: Check, tmp_path: Path) -> None:
    """What was asked for and not compared leaves the run inconclusive."""
    file = tmp_path / "empty.txt"
    file.touch()
    assert check(*small, "--corpus", str(file)).exit_code == 3


def test_the_original_says_what_it_does_not_compare(small: list[str], check: Check) -> None:
    """Ids are held against the transcription; places and Hugging Face are named with reasons."""
    for package in ("ftfy", "spacy"):
        pytest.importorskip(package, reason="not run: the extra original-text is not installed")
    result = check(*small, "--pretokenizer", "original", "--num-strings", "0")
    row = next(line for line in result.stdout.splitlines() if line.startswith("hand-picked"))
    assert (result.exit_code, row.split()[5]) == (0, "-")
    for word in ("transcription (ids)", "not compared, places", "not compared, Hugging Face"):
        assert word in result.stdout


@pytest.mark.parametrize("replaced", ["", "Sequence"])
def test_a_normalizer_that_stands_in_is_told(
    replaced: str, small: list[str], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is about BERT's; that the version has another of its own is no secret."""

    def given_berts(self: HuggingFaceTokenizer, _vocabulary: Path) -> str:
        self.tokenizer.backend_tokenizer.normalizer = BertNormalizer(lowercase=True)
        return replaced

    monkeypatch.setattr(HuggingFaceTokenizer, "_set_bert_normalizer", given_berts)
    result = check(*small, "--num-strings", "0")
    told = f"not compared, the Sequence of transformers {compat.describe('transformers')}"
    assert (result.exit_code, told in result.stdout) == (0, bool(replaced))
