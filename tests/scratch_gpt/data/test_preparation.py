"""Prepared tokens are those of the whole text, and a folder of them is whole or absent."""

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scratch_gpt.data import TokenData, TooLittleTextError, corpus, preparation, prepare
from scratch_gpt.errors import CheckpointError, OccupiedError, WriteError
from scratch_gpt.tokenizer.pretokenizers import PRETOKENIZERS, Word
from scratch_gpt.tokenizer.tokenizer import Tokenizer


class Lines:
    """A pretokenizer in which a line break between words is a word, as in the release's."""

    keeps_unknown = False

    def words(self, text: str) -> list[str]:
        parted = re.sub(r"\s*\n\s*", " \n ", text.strip())
        return [f"{word}</w>" for word in re.split(r"[^\S\n]+", parted) if word]

    def located(self, text: str) -> list[Word]:
        raise NotImplementedError


@pytest.fixture(params=["huggingface", "lines", "original"])
def any_tokenizer(
    request: pytest.FixtureRequest, small_text: str, monkeypatch: pytest.MonkeyPatch
) -> Tokenizer:
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
    whole = prepare([books], tmp_path / "whole", tokenizer, validation_fraction=0.0).train
    data = prepare([books], tmp_path / "parted", tokenizer, validation_fraction=0.1)
    assert int(whole.shape[0] * 0.1) == data.validation.shape[0] > 0
    assert np.array_equal(whole, np.concatenate([data.train, data.validation]))


def test_the_manifest_tells_the_text(books: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
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
    told: list[tuple[str, int, int]] = []
    prepare([books], tmp_path / "out", tokenizer, progress=lambda *step: told.append(step))
    measured = [step for step in told if step[0].startswith("reading")]
    assert [(done, total) for _, done, total in measured] == [(n, 5) for n in range(5)]
    total = sum(path.stat().st_size for path in books.iterdir())
    done = [step[1] for step in told[5:]]
    assert sorted(done) == done
    assert done[-1] == total
    assert len(done) > 0.8 * total / small_pieces
    assert {step[2] for step in told[5:]} == {total}


def test_what_is_done_is_returned(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Callable
) -> None:
    prepare([books], tmp_path / "out", tokenizer)
    before = contents(tmp_path / "out")
    assert sorted(before) == ["manifest.json", "tokens.bin"]
    times = [path.stat().st_mtime_ns for path in sorted((tmp_path / "out").iterdir())]
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
    (tmp_path / "a.txt").write_text(text, "utf-8")
    with pytest.raises(TooLittleTextError, match=message):
        prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer)
    (tmp_path / "a.txt").write_text("one", "utf-8")
    data = prepare([tmp_path / "a.txt"], tmp_path / "out", tokenizer)
    assert tokenizer.encode("one") == data.train.tolist()


def test_what_is_wrong_with_the_last_document_is_told_first(
    books: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    (books / "z.txt").write_bytes(b"good\nbad \xe9\n")
    with pytest.raises(CheckpointError, match="byte 9 is 0xe9") as refusal:
        prepare([books], tmp_path / "out", tokenizer)
    assert str(books / "z.txt") == refusal.value.where
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_a_share_is_a_share(fraction: float, tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="validation_fraction must be at least 0 and below 1"):
        prepare(None, tmp_path, tokenizer, validation_fraction=fraction)


def test_bytes_are_refused_or_replaced(tmp_path: Path, tokenizer: Tokenizer) -> None:
    with pytest.raises(ValueError, match="must be 'strict' or 'replace', got 'ignore'"):
        prepare(None, tmp_path, tokenizer, errors="ignore")


def test_without_paths_the_library_speaks(
    tmp_path: Path, tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "a.py").write_text('"""Read this."""', "utf-8")
    monkeypatch.setattr("sysconfig.get_path", lambda _name: str(tmp_path / "lib"))
    data = prepare(None, tmp_path / "out", tokenizer)
    assert tokenizer.encode("Read this.\n") == data.train.tolist()
    assert data.manifest.sources[0].name == "a.py"


class StopError(BaseException):
    """A simulated kill: no handler runs."""


STEPS = [
    (os, "fsync"),
    (Path, "mkdir"),
    (Path, "rename"),
    (Path, "chmod"),
    (preparation, "decoded"),
]
"""Steps before which a process may be killed."""


@contextlib.contextmanager
def killed_at(count: int) -> Iterator[list[str]]:
    """Stop at step number `count`, without cleaning up; yield the names of the steps begun."""
    begun: list[str] = []

    def counted(name: str, original: Callable[..., object]) -> Callable[..., object]:
        def step(*given: object, **named: object) -> object:
            begun.append(name)
            if len(begun) == count:
                raise StopError
            return original(*given, **named)

        return step

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(StopError):
        for owner, name in STEPS:
            patch.setattr(owner, name, counted(name, getattr(owner, name)))
        if count:
            patch.setattr(shutil, "rmtree", lambda *_given, **_named: None)
        yield begun


@pytest.mark.usefixtures("small_pieces")
def test_killed_at_any_step_it_leaves_no_tokens_and_starts_again(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Callable
) -> None:
    (books / "a.txt").write_text((books / "d.txt").read_text("utf-8")[:700], "utf-8")
    (books / "d.txt").unlink()
    with killed_at(0) as steps:
        prepare([books], tmp_path / "whole", tokenizer)
    expected = contents(tmp_path / "whole")
    assert set(steps) == {name for _, name in STEPS}
    renamed = steps.index("rename") + 1
    for count in range(1, len(steps) + 1):
        folder = tmp_path / f"killed-{count}"
        with killed_at(count):
            prepare([books], folder, tokenizer)
        assert folder.exists() == (count > renamed)
        prepare([books], folder, tokenizer).verify()
        assert expected == contents(folder)


def test_other_settings_are_rejected(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, small_text: str, contents: Callable
) -> None:
    folder = tmp_path / "out"
    prepare([books], folder, tokenizer)
    before = contents(folder)
    other = Tokenizer.train([small_text], merges=30)
    with pytest.raises(CheckpointError, match=r"^other tokens were prepared there: ") as rejection:
        prepare([books], folder, other, errors="replace", validation_fraction=0.25)
    what = rejection.value.what
    assert all(name in what for name in ("vocabulary", "vocab_size", "errors 'strict'"))
    assert "validation_fraction 0.05, not 0.25" in what
    assert "pretokenizer" not in what
    assert before == contents(folder)


def test_other_text_is_rejected(books: Path, tmp_path: Path, tokenizer: Tokenizer) -> None:
    """The error names a changed document, and at most three differences."""
    folder = tmp_path / "out"
    prepare([books], folder, tokenizer)
    before = (books / "d.txt").read_bytes()
    (books / "d.txt").write_bytes(before.replace(b"a", b"o", 1))
    with pytest.raises(CheckpointError, match=r"prepared there: document 4 'books/d"):
        prepare([books], folder, tokenizer)
    (books / "d.txt").write_bytes(before)
    (books / "aa.txt").write_text("new", "utf-8")
    with pytest.raises(CheckpointError) as rejection:
        prepare([books], folder, tokenizer)
    assert rejection.value.what.count("document ") == 3
    (books / "aa.txt").unlink()
    (books / "e.txt").unlink()
    with pytest.raises(CheckpointError, match=r"document 5 'books/e.txt .*', not None"):
        prepare([books], folder, tokenizer)


def test_text_that_changes_while_it_is_read_is_rejected(
    books: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    def change(what: str, _done: int, _total: int) -> None:
        if what == "books/a.txt":
            (books / "d.txt").write_bytes((books / "d.txt").read_bytes().upper())

    with pytest.raises(CheckpointError, match="changed while it was read") as rejection:
        prepare([books], tmp_path / "out", tokenizer, progress=change)
    assert str(books / "d.txt") == rejection.value.where
    assert [path.name for path in tmp_path.iterdir()] == ["books"]


def test_a_folder_of_other_files_is_left_alone(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Callable
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokens.bin").write_text("the user's", "utf-8")
    with pytest.raises(OccupiedError, match="the folder is not empty"):
        prepare([books], tmp_path / "out", tokenizer)
    assert contents(tmp_path / "out") == {"tokens.bin": b"the user's"}


def test_of_two_preparations_the_first_to_finish_stays(
    books: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    done: list[TokenData] = []

    def second(what: str, _done: int, _total: int) -> None:
        if what == "books/d.txt" and not done:
            done.append(prepare([books], tmp_path / "out", tokenizer))

    with pytest.raises(OccupiedError, match="the folder was filled meanwhile"):
        prepare([books], tmp_path / "out", tokenizer, progress=second)
    TokenData.open(tmp_path / "out").verify()


@pytest.mark.parametrize(
    "failure",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EFBIG, "larger than is allowed"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission"),
    ],
    ids=lambda failure: errno.errorcode[failure[0]],
)
@pytest.mark.parametrize(
    "step", [(os, "fsync"), (Path, "rename"), (Path, "mkdir")], ids=lambda step: step[1]
)
def test_failures_of_the_file_system_are_reported(
    step: tuple[object, str],
    failure: tuple[int, str],
    books: Path,
    tmp_path: Path,
    tokenizer: Tokenizer,
) -> None:
    def fail(*given: object, **_named: object) -> object:
        name = [str(given[0])] if isinstance(given[0], Path) else []
        raise OSError(failure[0], os.strerror(failure[0]), *name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*step, fail)
        with pytest.raises(WriteError, match=failure[1]) as error:
            prepare([books], tmp_path / "out", tokenizer)
    assert str(tmp_path / "out") == error.value.where
    assert [path.name for path in tmp_path.iterdir()] == ["books"]
    prepare([books], tmp_path / "out", tokenizer).verify()


@pytest.mark.slow
@pytest.mark.parametrize("pretokenizer", ["huggingface", "original"])
def test_a_corpus_is_its_whole(
    pretokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = os.environ.get("GPT1_VOCABULARY")
    if home is None:
        pytest.skip("not run: GPT1_VOCABULARY names no folder with the released vocabulary")
    tokenizer = Tokenizer.from_pretrained(home, pretokenizer=pretokenizer)
    monkeypatch.setattr(preparation, "SIZE", 20_000)
    data = prepare(None, tmp_path / "out", tokenizer, validation_fraction=0.0)
    documents = ["".join(corpus.texts([document])) for document in corpus.docstring_documents()]
    assert tokenizer.encode("\n".join(documents)) == data.train.tolist()
