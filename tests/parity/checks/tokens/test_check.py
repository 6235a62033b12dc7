"""The tokenizer check: rows, reasons, fingerprints, and the command line on a small vocabulary."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers.normalizers import BertNormalizer

from parity.checks.tokens import check as tokens_check
from parity.checks.tokens import strings
from parity.checks.tokens.check import tokens
from parity.checks.tokens.faults import inject
from parity.checks.tokens.runners import CandidateTokenizer, ReferenceTokenizer
from reference import compat
from reference.huggingface_tokenizer import HuggingFaceTokenizer
from reference.published_token_ids import PublishedIds
from scratch_gpt import Tokenizer


def test_a_source_is_counted(ours: CandidateTokenizer, theirs: ReferenceTokenizer) -> None:
    report = tokens(ours, theirs, {"mine": ["the \u200bthe", "中\x00", ""]})
    row = report.results[0]
    assert row.details["strings"] == 3
    assert row.details["characters"] == 10
    assert row.details["ids"] == 3
    assert row.details["unknown"] == 1
    assert row.details["dropped"] == 2
    assert row.details["places"]
    assert report.plan.per_backend["strings with huggingface"] == (3, 3)


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ({}, "no source"),
        ({"mine": []}, "mine"),
        ({"mine": ["", " "]}, "mine"),
        ({"mine": ["the"], "other": []}, "other"),
        ({"mine": ["the"], "other": ["中 文", "<unk>"]}, "other"),
    ],
    ids=["no source", "no string", "no id", "one of two", "unknown alone"],
)
def test_nothing_compared_is_no_pass(
    sources: dict[str, list[str]], named: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    report = tokens(ours, theirs, sources)
    assert (3, [named]) == (report.exit_code, [reason.where for reason in report.reasons])


class Torn(Tokenizer):
    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        ids, places = super().encode_with_offsets(text)
        return ids[:-1], places[:-1]


@pytest.mark.parametrize("sides", ["huggingface", "original"])
def test_our_two_ways_to_encode_must_agree(sides: str, request: pytest.FixtureRequest) -> None:
    """Also where the reference has no offsets, which is so for `original`."""
    side, against = request.getfixturevalue(sides)
    right = side.tokenizer
    assert tokens(side, against, {"mine": ["the lamp"]}).exit_code == 0
    wrong = CandidateTokenizer(Torn(right.vocabulary, pretokenizer=right.pretokenizer))
    report = tokens(wrong, against, {"mine": ["the lamp"]})
    assert report.first_divergence is not None
    assert (report.exit_code, report.first_divergence.tap) == (1, "mine/ids")
    assert "encode and encode_with_offsets" in report.first_divergence.why


def test_strings_with_one_cause_are_one_row(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    side = inject(ours.tokenizer, "case-kept")
    report = tokens(side, theirs, {"mine": ["a Big one", "Bad", "so Old", "small"]})
    rows = [row for row in report.results if "cause" in row.details]
    assert [(row.details["cause"].text, row.details["strings"]) for row in rows] == [
        ("'B'", 2),
        ("'O'", 1),
    ]


def test_what_is_not_taken_apart_is_counted(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens_check, "TAKEN_APART", 1)
    side = inject(ours.tokenizer, "case-kept")
    row, *others = tokens(side, theirs, {"mine": ["A", "B", "C", "d"]}).results
    assert (row.error_ours, sum("cause" in row.details for row in others)) == (3.0, 1)


def test_published_ids_are_another_reference(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    right = ours.tokenizer.encode("the")
    rows = [PublishedIds("the", right, None), PublishedIds("of", [9], None)]
    report = tokens(ours, theirs, {"mine": ["the"]}, published=rows)
    assert report.first_divergence is not None
    cause = report.results[-1].details["cause"]
    assert (cause.ids_ours, cause.ids_theirs) == (tuple(ours.tokenizer.encode("of")), (9,))
    tap = "published ids/published"
    assert report.exit_code == 1
    assert report.plan.per_backend["strings with huggingface"] == (1, 1)
    assert report.plan.per_backend["strings with published"] == (2, 2)
    assert report.first_divergence.tap == tap
    assert tokens(ours, theirs, {"mine": ["the"]}, published=rows[:1]).exit_code == 0


# Fingerprints.


SOURCES = {"mine": ["The café, once", "more", "", "中"], "other": ["more", "and more"]}


def test_each_source_has_one_of_each_side(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    report = tokens(ours, theirs, SOURCES, fingerprints=True)
    found = {(entry.subject, entry.tap): entry for entry in report.fingerprints}
    sides = ("ours", "huggingface")
    assert [(side, name) for name in SOURCES for side in sides] == list(found)
    for name, texts in SOURCES.items():
        ids = [ours.tokenizer.encode(text) for text in texts]
        mine, its = (found[side, name] for side in sides)
        assert (mine.shape, mine.dtype, mine.mode) == ((sum(map(len, ids)),), "ids", "exact")
        assert (mine.digest, None, "") == (its.digest, mine.norm, mine.sketch)
    assert found["ours", "mine"].digest != found["ours", "other"].digest


def test_how_many_are_given_at_once_does_not_matter(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tokens(ours, theirs, SOURCES, fingerprints=True).fingerprints
    monkeypatch.setattr(tokens_check, "_AT_ONCE", 1)
    assert whole == tokens(ours, theirs, SOURCES, fingerprints=True).fingerprints


def test_watching_changes_nothing(ours: CandidateTokenizer, theirs: ReferenceTokenizer) -> None:
    watched = tokens(ours, theirs, SOURCES, fingerprints=True)
    without = tokens(ours, theirs, SOURCES)
    assert watched.results == without.results
    assert list(without.fingerprints) == []


def test_a_fault_moves_the_source_that_meets_it(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, right: Tokenizer
) -> None:
    wrong = inject(right, "accents-kept")
    before, after = (
        {(entry.subject, entry.tap): entry for entry in report.fingerprints}
        for report in (tokens(side, theirs, SOURCES, fingerprints=True) for side in (ours, wrong))
    )
    assert [key for key in before if before[key] != after[key]] == [("ours", "mine")]


# The command line.


Check = Callable[..., Any]


@pytest.fixture
def small(small_vocabulary: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(strings, "HAND_PICKED", ("Café, don't", "a\u200bb", "<unk>"))
    monkeypatch.setattr(strings, "_library", lambda: iter(["Some text.\n\nAnd more."]))
    monkeypatch.setattr(strings, "many_words", lambda: ["few words"])
    return ["tokens", "--vocabulary", str(small_vocabulary), "--num-strings", "20"]


def test_the_right_tokenizer_passes(small: list[str], check: Check, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = check(*small, "--output", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    sources = ["hand-picked", "tokens as words", "long words", "generated", "corpus", "many words"]
    assert result.exit_code == 0
    assert found["verdict"] == "pass"
    others = ["decode"] * 2 + ["encode_batch", "many ids", "training", "training, few merges"]
    others += ["training", "files", "other inputs"]
    assert [row["tap"] for row in found["results"]] == [*sources, *others]
    assert not found["identity"]["vocabulary"]["released"]
    assert found["identity"]["vocabulary"]["digest"][:16] in result.stdout
    assert result.stdout.splitlines()[-1].startswith("PASS")


@pytest.mark.fault
def test_a_fault_fails_and_is_named(small: list[str], check: Check) -> None:
    result = check(*small, "--inject-fault", "accents-kept")
    assert result.exit_code == 1
    for word in ("hand-picked/accents", "'\\xe9'", "U+00E9", "without this step: accents"):
        assert word in result.stdout
    assert result.stdout.splitlines()[-2].startswith("FAIL")  # of a verdict of two lines


def test_many_differences_are_folded(small: list[str], check: Check, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = check(*small, "--inject-fault", "no-end-of-word", "--output", str(file))
    rows = json.loads(file.read_text(encoding="utf-8"))["results"]
    of_words = [row for row in rows if row["tap"] == "tokens as words/end of word"]
    assert f"and {len(of_words) - 2} more of tokens as words/end of word" in result.stdout


def test_no_control_character_is_echoed(small: list[str], check: Check) -> None:
    result = check(*small, "--text", "\x1b[31mÉ\x9b0m", "--inject-fault", "accents-kept")
    assert result.exit_code == 1
    assert all(c.isprintable() or c == "\n" for c in result.stdout)
    assert "1  WRONG\n" in result.stdout
    assert "'\\x1b[31m\\xc9\\x9b0m'" in result.stdout


EXIT_CODES = {
    "no such fault": (["--inject-fault", "erf-gelu"], 2, "erf-gelu"),
    "a fault of the other splitting": (["--inject-fault", "newline-dropped"], 2, "newline-dropped"),
    "no text": (["--text", ""], 3, ""),
    "half a character": (["--text", "a\udcffb"], 2, "character 1"),
    "a text and a corpus": (["--text", "the", "--corpus", "."], 2, "--text with --corpus"),
    "unknown alone": (["--text", "生活"], 3, "no token that is known"),
    "no such corpus": (["--corpus", "no_such_file.txt"], 2, "no_such_file.txt"),
    "no vocabulary there": (["--vocabulary", "."], 4, "vocab.json"),
}


@pytest.mark.parametrize("mistake", EXIT_CODES)
def test_a_mistake_has_its_exit_code(mistake: str, small: list[str], check: Check) -> None:
    arguments, code, named = EXIT_CODES[mistake]
    result = check(*small, *arguments)
    assert (code, True) == (result.exit_code, named in result.stderr + result.stdout)


def test_bytes_that_are_no_text_are_refused(small: list[str], check: Check, tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes(b"caf\xe9 au lait")
    result = check(*small, "--corpus", str(file))
    assert (result.exit_code, "byte 3" in result.stderr) == (4, True)


def test_an_empty_corpus_is_no_pass(small: list[str], check: Check, tmp_path: Path) -> None:
    file = tmp_path / "empty.txt"
    file.touch()
    assert check(*small, "--corpus", str(file)).exit_code == 3


def test_original_lists_what_is_not_compared(small: list[str], check: Check) -> None:
    for package in ("ftfy", "spacy"):
        pytest.importorskip(package, reason="not run: the extra original-text is not installed")
    result = check(*small, "--pretokenizer", "original", "--num-strings", "0")
    row = next(line for line in result.stdout.splitlines() if line.startswith("hand-picked"))
    assert (result.exit_code, row.split()[5]) == (0, "-")
    for word in ("transcription (ids)", "not compared, places", "not compared, Hugging Face"):
        assert word in result.stdout


@pytest.mark.parametrize("replaced", ["", "Sequence"])
def test_a_replaced_normalizer_is_reported(
    replaced: str, small: list[str], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    def given_berts(self: HuggingFaceTokenizer, _vocabulary: Path) -> str:
        self.tokenizer.backend_tokenizer.normalizer = BertNormalizer(lowercase=True)
        return replaced

    monkeypatch.setattr(HuggingFaceTokenizer, "_set_bert_normalizer", given_berts)
    result = check(*small, "--num-strings", "0")
    line = f"not compared, the Sequence of transformers {compat.describe('transformers')}"
    assert (result.exit_code, line in result.stdout) == (0, bool(replaced))


# Exceptions, and other uses than encoding.


def failing(*_given: Any, **_how: Any) -> Any:  # noqa: ANN401
    raise ZeroDivisionError("division by zero")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("method", "tap"),
    [
        ("encode", "hand-picked/exception"),
        ("encode_with_offsets", "hand-picked/exception"),
        ("decode", "decode/exception"),
        ("encode_batch", "encode_batch/exception"),
        ("train", "training/exception"),
        ("save_pretrained", "files/exception"),
    ],
)
def test_an_exception_of_ours_is_a_row(
    method: str, tap: str, small: list[str], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, method, failing)
    result = check(*small, "--format", "json")
    first = json.loads(result.stdout)["first_divergence"]
    assert (result.exit_code, first["tap"]) == (1, tap)
    assert "ZeroDivisionError: division by zero" in first["why"]


def test_an_exception_of_the_reference_is_a_row(
    small: list[str], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = HuggingFaceTokenizer.encode_batch

    def sometimes(self: HuggingFaceTokenizer, texts: list[str]) -> Any:  # noqa: ANN401
        return failing() if any("\u200b" in text for text in texts) else right(self, texts)

    monkeypatch.setattr(HuggingFaceTokenizer, "encode_batch", sometimes)
    result = check(*small, "--num-strings", "0", "--format", "json")
    found = json.loads(result.stdout)
    (cause,) = (row["details"]["cause"] for row in found["results"] if "cause" in row["details"])
    assert (result.exit_code, cause["text"]) == (1, "'\\u200b'")
    assert "the reference, huggingface, raises ZeroDivisionError" in cause["why"]


@pytest.mark.parametrize("method", ["train", "from_pretrained"])
def test_a_tokenizer_that_cannot_be_made_is_a_row(
    method: str, small: list[str], check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Tokenizer, method, failing)
    words = ["tokens", "--weights", "tiny"] if method == "train" else small
    result = check(*words)
    assert result.exit_code == 1
    assert f"our Tokenizer.{method} raises ZeroDivisionError" in " ".join(result.stdout.split())


@pytest.mark.parametrize("text", ["a", " ", "\u0e01", "<unk>", "\x00", "a" * 200])
def test_one_text_never_ends_in_an_error(text: str, small: list[str], check: Check) -> None:
    assert check(*small, "--text", text).exit_code in (0, 3)
