"""Text becomes the tokens that it has as a whole, whatever pieces and goes it came in."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from scratch_gpt.data import TokenData, TooLittleTextError, corpus, preparation, prepare
from scratch_gpt.errors import CheckpointError
from scratch_gpt.tokenizer.pretokenizers import PRETOKENIZERS, Word
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Contents = Callable[[Path], dict[str, bytes]]


class Lines:
    """A splitting in which a line break between words is a word, as in the release's."""

    keeps_unknown = False

    def words(self, text: str) -> list[str]:
        """Return the words; white space at the ends is none."""
        parted = re.sub(r"\s*\n\s*", " \n ", text.strip())
        return [f"{word}</w>" for word in re.split(r"[^\S\n]+", parted) if word]

    def located(self, text: str) -> list[Word]:
        """Return nothing: nobody asks."""
        raise NotImplementedError


@pytest.fixture(params=["bert", "lines", "original"])
def any_tokenizer(
    request: pytest.FixtureRequest, small_text: str, monkeypatch: pytest.MonkeyPatch
) -> Tokenizer:
    """Return a tokenizer for which a line break is nothing, and others for which it is a token."""
    if request.param == "original":
        for package in ("ftfy", "spacy"):
            pytest.importorskip(package, reason=f"not run: {package} is not installed")
    monkeypatch.setitem(PRETOKENIZERS, "lines", Lines)
    return Tokenizer.train([small_text], merges=40, pretokenizer=request.param)


@pytest.mark.parametrize("size", [90, 500, 1 << 18])
def test_the_tokens_are_those_of_the_whole(
    size: int,
    any_tokenizer: Tokenizer,
    books: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Documents follow one another as lines do; a line longer than a piece is cut at a space."""
    monkeypatch.setattr(preparation, "SIZE", size)
    data = prepare([books], tmp_path / "out", any_tokenizer, validation_fraction=0.0)
    whole = "\n".join(path.read_text("utf-8") for path in sorted(books.iterdir()))
    assert any_tokenizer.encode(whole) == data.train.tolist()


def test_the_last_part_is_set_apart(books: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Every token is in one part, and the share is of tokens."""
    whole = prepare([books], tmp_path / "whole", tokenizer, validation_fraction=0.0).train
    data = prepare([books], tmp_path / "parted", tokenizer, validation_fraction=0.1)
    assert int(whole.shape[0] * 0.1) == data.validation.shape[0] > 0
    assert np.array_equal(whole, np.concatenate([data.train, data.validation]))


def test_the_manifest_tells_the_text(books: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """How much there was, and of which documents."""
    (books / "c.txt").write_bytes("\u4e00 \ufffd".encode() + b"\xff")
    data = prepare([books], tmp_path / "out", tokenizer, errors="replace")
    texts = [path.read_text("utf-8", "replace") for path in sorted(books.iterdir())]
    manifest = data.manifest
    assert sum(map(len, texts)) == manifest.characters
    assert (manifest.replaced, manifest.unknown) == (1, 1)
    assert [source.name for source in manifest.sources] == [f"books/{n}.txt" for n in "abcde"]
    assert [path.stat().st_size for path in sorted(books.iterdir())] == [
        source.length for source in manifest.sources
    ]
    assert tokenizer.digest == manifest.recipe.vocabulary
    data.require(tokenizer)
    data.verify()


def test_progress_goes_from_nothing_to_all(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, small_pieces: int
) -> None:
    """In bytes of text, document by document."""
    told: list[tuple[str, int, int]] = []
    prepare([books], tmp_path / "out", tokenizer, progress=lambda *step: told.append(step))
    looked = [step for step in told if step[0].startswith("looking through")]
    assert [(done, total) for _, done, total in looked] == [(n, 5) for n in range(5)]
    total = sum(path.stat().st_size for path in books.iterdir())
    done = [step[1] for step in told[5:]]
    assert sorted(done) == done
    assert done[-1] == total
    assert len(done) > 0.8 * total / small_pieces
    assert {step[2] for step in told[5:]} == {total}


def test_what_is_done_is_returned(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Contents
) -> None:
    """Nothing is tokenized or written again; what a kill left beside it is tidied up."""
    prepare([books], tmp_path / "out", tokenizer)
    before = contents(tmp_path / "out")
    assert sorted(before) == ["manifest.json", "tokens.bin"]
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())]
    (tmp_path / "out" / "plan.json").write_text("{}", "utf-8")
    data = prepare([books], tmp_path / "out", tokenizer)
    assert isinstance(data, TokenData)
    assert before == contents(tmp_path / "out")
    assert times == [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no text: 1 documents without a character"),
        (" \n\t\n ", "the 5 characters of text give 0 tokens"),
        ("\u4e00\u4e8c \u4e09", "the 4 characters of text give 3 tokens, all of them unknown"),
    ],
    ids=["empty", "white", "unknown"],
)
def test_text_of_which_nothing_can_be_learned(
    text: str, message: str, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """It is told, and nothing stays behind: other text can be prepared in that folder."""
    (tmp_path / "a.txt").write_text(text, "utf-8")
    with pytest.raises(TooLittleTextError, match=message):
        prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer)
    (tmp_path / "a.txt").write_text("one", "utf-8")
    data = prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer)
    assert tokenizer.encode("one") == data.train.tolist()


def test_what_is_wrong_with_the_last_document_is_told_first(
    books: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """Before a folder is made."""
    (books / "z.txt").write_bytes(b"good\nbad \xe9\n")
    with pytest.raises(CheckpointError, match="byte 9 is 0xe9") as refusal:
        prepare([books], tmp_path / "out", tokenizer)
    assert str(books / "z.txt") == refusal.value.where
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_is_a_share(fraction: float, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """Something must be left to learn from."""
    with pytest.raises(ValueError, match="validation_fraction must be at least 0 and below 1"):
        prepare(None, tmp_path, tokenizer, validation_fraction=fraction)


def test_bytes_are_refused_or_replaced(tmp_path: Path, tokenizer: Tokenizer) -> None:
    """And never ignored."""
    with pytest.raises(ValueError, match="must be 'strict' or 'replace', got 'ignore'"):
        prepare(None, tmp_path, tokenizer, errors="ignore")


def test_without_paths_the_library_speaks(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The documentation strings of the standard library, here of one module."""
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_text('"""Read this."""', "utf-8")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "lib"))
    data = prepare(None, tmp_path / "out", tokenizer)
    assert tokenizer.encode("Read this.\n") == data.train.tolist()
    assert data.manifest.sources[0].name == "a.py"


@pytest.mark.slow
@pytest.mark.parametrize("pretokenizer", ["bert", "original"])
def test_a_corpus_is_its_whole(
    pretokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Megabytes of the standard library in the released vocabulary, cut a hundred times."""
    home = os.environ.get("GPT1_VOCABULARY")
    if home is None:
        pytest.skip("not run: GPT1_VOCABULARY names no folder with the released vocabulary")
    tokenizer = Tokenizer.from_pretrained(home, pretokenizer=pretokenizer)
    monkeypatch.setattr(preparation, "SIZE", 20_000)
    data = prepare(None, tmp_path / "out", tokenizer, validation_fraction=0.0)
    documents = ["".join(corpus.texts([document])) for document in corpus.docstring_documents()]
    assert tokenizer.encode("\n".join(documents)) == data.train.tolist()
