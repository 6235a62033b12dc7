"""Added tokens in the tokenizer check: the reference has them, strings hold them, faults show."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.checks.tokens import check as tokens_check
from parity.checks.tokens import strings
from parity.checks.tokens.check import tokens
from parity.checks.tokens.faults import TOKENIZER_FAULTS, inject
from parity.checks.tokens.runners import CandidateTokenizer, HuggingFace
from parity.checks.tokens.strings import generate_strings, strings_of_added
from reference.original_tokenizer import OriginalTokenizer
from scratch_gpt import Tokenizer
from scratch_gpt.tokenizer.added_tokens import AddedToken, AddedTokenFinder

ADDED = {
    "[PAD]": {"special": True},
    "<mask>": {"special": True, "lstrip": True},
    "<sep>": {"special": True, "rstrip": True},
    "<cls>": {"special": True, "single_word": True},
    "Big Word": {},
}
TEXTS = tuple(ADDED)


@pytest.fixture(scope="module")
def folder(small_vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with five added tokens, of which each has another flag."""
    copy = shutil.copytree(small_vocabulary, tmp_path_factory.mktemp("added") / "vocabulary")
    size = Tokenizer.from_pretrained(copy).vocab_size
    listed = {
        f"{size + place}": {"content": content, **flags}
        for place, (content, flags) in enumerate(ADDED.items())
    }
    config = {"tokenizer_class": "OpenAIGPTTokenizer", "added_tokens_decoder": listed}
    (copy / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return copy


@pytest.fixture(scope="module")
def right(folder: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def theirs(folder: Path, right: Tokenizer) -> HuggingFace:
    return HuggingFace(folder, size=right.vocab_size)


@pytest.fixture(scope="module")
def sources() -> dict[str, list[str]]:
    drawn = list(generate_strings(100, seed=0, added=TEXTS))
    return {"added tokens": strings_of_added(TEXTS, seed=0), "generated": drawn}


def test_the_right_tokenizer_passes(
    right: Tokenizer, theirs: HuggingFace, sources: dict[str, list[str]]
) -> None:
    assert right.vocab_size == len(theirs.tokenizer)
    assert set(TEXTS) < set(theirs.added.values())
    report = tokens(CandidateTokenizer(right), theirs, sources)
    assert (report.exit_code, report.first_divergence) == (0, None)


class Dropping(Tokenizer):
    """Finds an added token, and gives it no id."""

    def encode(self, text: str) -> list[int]:
        return self.encode_with_offsets(text)[0]

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        pairs = zip(*super().encode_with_offsets(text), strict=True)
        pad = self.vocabulary.added_ids["[PAD]"]
        kept = [(number, place) for number, place in pairs if number != pad]
        return [number for number, _ in kept], [place for _, place in kept]


class Splitting(Tokenizer):
    """Takes an added token for other characters."""

    def _finders(self, *, keeps_unknown: bool) -> tuple[AddedTokenFinder, AddedTokenFinder]:
        given, normalized = super()._finders(keeps_unknown=keeps_unknown)
        tokens = [(text, *found) for text, found in given._tokens.items() if text != "[PAD]"]
        return AddedTokenFinder(tokens), normalized


def changed(**flags: bool) -> Callable[[Tokenizer], Tokenizer]:
    """Return a fault: added tokens with other flags."""

    def build(right: Tokenizer) -> Tokenizer:
        added = tuple(dataclasses.replace(token, **flags) for token in right.vocabulary.added)
        return Tokenizer(dataclasses.replace(right.vocabulary, added=added))

    return build


def renumbered(right: Tokenizer) -> Tokenizer:
    added = right.vocabulary.added
    return Tokenizer(dataclasses.replace(right.vocabulary, added=(*added[1:], added[0])))


FAULTS: dict[str, tuple[Callable[[Tokenizer], Tokenizer], set[str]]] = {
    "dropped": (lambda right: Dropping(right.vocabulary), {"[PAD]"}),
    "split": (lambda right: Splitting(right.vocabulary), {"[PAD]"}),
    "lstrip ignored": (changed(lstrip=False), {" <mask>", "\t<mask>", "\u3000<mask>"}),
    "rstrip ignored": (changed(rstrip=False), {"<sep> ", "<sep>\n", "<sep>\xa0"}),
    "single_word ignored": (changed(single_word=False), {"a<cls>", "<cls>1", "_<cls>"}),
    "normalized ignored": (changed(normalized=False), {"big word"}),
    "wrong ids": (renumbered, {"[PAD]"}),
    "stripped too much": (changed(lstrip=True), {" [PAD]", " <cls>", " <sep>"}),
    "single words alone": (changed(single_word=True), {"[PAD]1", "<mask>1", "_<mask>"}),
}


@pytest.mark.fault
@pytest.mark.parametrize("case", FAULTS)
def test_a_fault_is_found_with_its_shortest_text(
    case: str,
    right: Tokenizer,
    theirs: HuggingFace,
    sources: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tokens_check, "TAKEN_APART", 4)
    build, shortest = FAULTS[case]
    report = tokens(CandidateTokenizer(build(right)), theirs, sources)
    causes = [row.details["cause"] for row in report.results if "cause" in row.details]
    steps = {cause.step for cause in causes}
    assert report.exit_code == 1
    assert "added token" in steps
    assert steps <= {"added token", "decode"}  # other ids are also other texts
    assert shortest & {eval(cause.text) for cause in causes}  # noqa: S307 - an ASCII literal
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "added tokens/added token"


OF_EVERY_TEXT = ("cache-given-away", "ends-included")
"""Faults that change whatever is encoded, added tokens too."""


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, fault in TOKENIZER_FAULTS.items()
        if "huggingface" in fault.of and name not in OF_EVERY_TEXT
    ],
)
def test_other_faults_leave_added_tokens_alone(
    name: str, right: Tokenizer, theirs: HuggingFace
) -> None:
    side = inject(right, name)
    texts = ["[PAD]", " <mask>", "<sep> <cls>", "[PAD][PAD]"]
    assert side.encode_batch(texts) == theirs.encode_batch(texts)


# Strings.


def test_strings_hold_every_added_token() -> None:
    drawn = list(generate_strings(300, seed=0, added=TEXTS))
    for text in TEXTS:
        assert sum(text in string for string in drawn) > 50
        made = strings_of_added(TEXTS, seed=0)
        near = {text.upper(), text.lower(), text[1:], text[:-1], f"a{text}b", text * 2, f" {text} "}
        assert near <= set(made)
    assert any(one + two in string for one in TEXTS for two in TEXTS for string in made)


def test_without_added_tokens_the_strings_are_as_before() -> None:
    assert list(generate_strings(20, seed=3)) == list(generate_strings(20, seed=3, added=()))
    assert strings_of_added((), seed=0) == []


def test_of_many_added_tokens_each_is_compared() -> None:
    many = [f"<extra_{number}>" for number in range(2_000)]
    made = strings_of_added(many, seed=0)
    assert set(many) <= set(made)
    assert len(made) < 20_000


# The command.


@pytest.fixture
def short(check: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(strings, "HAND_PICKED", ("Café, don't", "<unk>"))
    monkeypatch.setattr(strings, "_library", lambda: iter(["Some text.\n\nAnd more."]))
    monkeypatch.setattr(strings, "many_words", lambda: ["few words"])
    monkeypatch.setattr(strings, "long_words", lambda _tokens, *, seed: ["ae" * (70 + seed)])
    return lambda *arguments: check("tokens", "--num-strings", "30", *arguments)


def test_the_report_names_the_files_and_counts_added_tokens(
    folder: Path, short: Callable[..., Any], right: Tokenizer
) -> None:
    result = short("--vocabulary", folder, "--format", "json")
    vocabulary = json.loads(result.stdout)["identity"]["vocabulary"]
    assert result.exit_code == 0
    assert list(vocabulary["sha256"]) == ["vocab.json", "merges.txt", "tokenizer_config.json"]
    assert (vocabulary["added"], vocabulary["tokens"]) == (5, right.vocab_size)
    text = " ".join(short("--vocabulary", folder).stdout.split())
    assert f"{right.vocab_size:,} tokens (5 added)" in text
    assert "read from vocab.json, merges.txt, tokenizer_config.json" in text


@pytest.mark.parametrize("alone", [True, False], ids=["alone", "beside the two"])
def test_a_single_file_with_added_tokens_is_compared(
    alone: bool,  # noqa: FBT001 - a table's column
    folder: Path,
    short: Callable[..., Any],
    theirs: HuggingFace,
    tmp_path: Path,
) -> None:
    saved = tmp_path / "saved"
    theirs.tokenizer.save_pretrained(saved)
    for name in ("vocab.json", "merges.txt"):
        (saved / name).unlink(missing_ok=True)
        if not alone:
            shutil.copy(folder / name, saved / name)
    result = short("--vocabulary", saved, "--format", "json")
    vocabulary = json.loads(result.stdout)["identity"]["vocabulary"]
    assert (result.exit_code, vocabulary["added"]) == (0, 5)
    assert "tokenizer.json" in vocabulary["sha256"]
    assert "vocab.json" not in vocabulary["sha256"]


def test_what_only_we_can_read_is_rejected(
    folder: Path, short: Callable[..., Any], tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    config = {"pad_token": {"content": "[PAD]"}}  # not the form of an added token
    (copy / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    result = short("--vocabulary", copy)
    text = " ".join(result.stderr.split())
    assert (result.exit_code, "Hugging Face's tokenizer cannot read the files" in text) == (4, True)


# The re-implementation of the released code.


def test_the_release_with_added_tokens(folder: Path, right: Tokenizer, theirs: HuggingFace) -> None:
    """Both sides find the same tokens in the text as it stands; the release itself has none."""
    added = {n: t for n, t in theirs.added_tokens.items() if str(t) != "<unk>"}
    slow = OriginalTokenizer(folder / "vocab.json", folder / "merges.txt", str.split, added)
    tokens_of = {token.content: token for token in right.vocabulary.added}
    finder = AddedTokenFinder(
        (text, tokens_of[text], number) for text, number in right.vocabulary.added_ids.items()
    )
    for text in [*strings_of_added(TEXTS, seed=0), *generate_strings(300, seed=0, added=TEXTS)]:
        parts = [text[s:e] if number is None else number for s, e, number in finder.split(text)]
        assert slow.parts(text) == parts


def test_merges_of_every_writer_are_read(folder: Path, tmp_path: Path) -> None:
    text = (folder / "merges.txt").read_text(encoding="utf-8")
    (tmp_path / "merges.txt").write_text(text.partition("\n")[2].replace("\n", "\r\n"), newline="")
    ranks = [
        OriginalTokenizer(folder / "vocab.json", place / "merges.txt", str.split).ranks
        for place in (folder, tmp_path)
    ]
    assert ranks[0] == ranks[1]
    assert len(ranks[0]) == text.count("\n") - 1


def test_a_finder_needs_time_in_proportion_to_the_text() -> None:
    """Each run of spaces is read once, not once for each token beside it."""
    read = 0

    class Counted(str):
        __slots__ = ()

        def __getitem__(self, at: Any) -> str:  # noqa: ANN401 - an index or a slice
            nonlocal read
            read += 1 if isinstance(at, int) else len(range(*at.indices(len(self))))
            return str(str.__getitem__(self, at))

    token = AddedToken(" ", rstrip=True)
    other = AddedToken("x", lstrip=True)
    for text in (" " * 3_000, "x" * 3_000, " x" * 1_500):
        read = 0
        list(AddedTokenFinder([(" ", token, 1), ("x", other, 2)]).split(Counted(text)))
        assert read < 10 * len(text)
