"""Prepared tokens are those of the whole text; their folder appears when it is complete."""

import contextlib
import errno
import functools
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from scratch_gpt.data import TokenData, TooLittleTextError, corpus, preparation, prepare
from scratch_gpt.errors import CheckpointError, OccupiedError, WriteError
from scratch_gpt.tokenizer.pretokenizers import PRETOKENIZERS, Word
from scratch_gpt.tokenizer.tokenizer import Tokenizer

pytestmark = pytest.mark.once


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


@pytest.fixture
def prepare_books(books: Path, out: Path, tokenizer: Tokenizer) -> Callable[..., TokenData]:
    """Return `prepare` of the books into the folder `out`."""
    return functools.partial(prepare, [books], out, tokenizer)


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
    size: int, any_tokenizer: Tokenizer, books: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Documents follow one another as lines do; a line longer than a piece is cut at a space."""
    monkeypatch.setattr(preparation, "SIZE", size)
    data = prepare([books], out, any_tokenizer, validation_fraction=0.0)
    whole = "\n".join(path.read_text("utf-8") for path in sorted(books.iterdir()))
    assert any_tokenizer.encode(whole) == data.train.tolist()


def test_the_last_part_is_set_apart(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, prepare_books: Callable
) -> None:
    whole = prepare([books], tmp_path / "whole", tokenizer, validation_fraction=0.0).train
    data = prepare_books(validation_fraction=0.1)
    assert int(whole.shape[0] * 0.1) == data.validation.shape[0] > 0
    assert np.array_equal(whole, np.concatenate([data.train, data.validation]))


def test_the_manifests_fields(books: Path, tokenizer: Tokenizer, prepare_books: Callable) -> None:
    (books / "c.txt").write_bytes("\u4e00 \ufffd".encode() + b"\xff")
    data = prepare_books(errors="replace")
    texts = [path.read_text("utf-8", "replace") for path in sorted(books.iterdir())]
    manifest = data.manifest
    assert sum(map(len, texts)) == manifest.characters
    assert (manifest.replaced, manifest.unknown) == (1, 1)
    lengths = [(f"books/{path.name}", path.stat().st_size) for path in sorted(books.iterdir())]
    assert lengths == [(source.name, source.length) for source in manifest.sources]
    assert tokenizer.digest == manifest.recipe.vocabulary
    data.require(tokenizer)
    data.verify()


def test_progress_counts_bytes(books: Path, prepare_books: Callable, small_pieces: int) -> None:
    steps: list[tuple[str, int, int]] = []
    prepare_books(progress=lambda *step: steps.append(step))
    measured = [step[1:] for step in steps if step[0].startswith("reading")]
    assert measured == [(n, 5) for n in range(5)]
    total = sum(path.stat().st_size for path in books.iterdir())
    done = [step[1] for step in steps[5:]]
    assert sorted(done) == done
    assert done[-1] == total
    assert len(done) > 0.8 * total / small_pieces
    assert {step[2] for step in steps[5:]} == {total}


def test_prepared_tokens_are_reused(out: Path, prepare_books: Callable, contents: Callable) -> None:
    prepare_books()
    before = contents(out)
    assert sorted(before) == ["manifest.json", "tokens.bin"]
    times = [path.stat().st_mtime_ns for path in sorted(out.iterdir())]
    assert isinstance(prepare_books(), TokenData)
    assert before == contents(out)
    assert times == [path.stat().st_mtime_ns for path in sorted(out.iterdir())]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no text: 1 documents without a character"),
        (" \n\t\n ", "the 5 characters of text give 0 tokens"),
        ("\u4e00\u4e8c \u4e09", "the 4 characters of text give 3 tokens, all of them unknown"),
    ],
    ids=["empty", "white", "unknown"],
)
def test_too_little_text_is_rejected(
    text: str, message: str, tmp_path: Path, out: Path, tokenizer: Tokenizer
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(text, "utf-8")
    with pytest.raises(TooLittleTextError, match=message):
        prepare([path], out, tokenizer)
    path.write_text("one", "utf-8")
    assert tokenizer.encode("one") == prepare([path], out, tokenizer).train.tolist()


def test_all_documents_are_checked_first(books: Path, out: Path, prepare_books: Callable) -> None:
    (books / "z.txt").write_bytes(b"good\nbad \xe9\n")
    with pytest.raises(CheckpointError, match="byte 9 is 0xe9") as rejection:
        prepare_books()
    assert str(books / "z.txt") == rejection.value.where
    assert not out.exists()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, float("nan")])
def test_an_invalid_fraction_is_rejected(fraction: float, prepare_books: Callable) -> None:
    with pytest.raises(ValueError, match="validation_fraction must be at least 0 and below 1"):
        prepare_books(validation_fraction=fraction)


def test_an_unknown_treatment_of_bytes_is_rejected(prepare_books: Callable) -> None:
    with pytest.raises(ValueError, match="must be 'strict' or 'replace', got 'ignore'"):
        prepare_books(errors="ignore")


def test_without_paths_the_library_is_read(
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


STEPS = [*((Path, name) for name in ("mkdir", "rename", "chmod")), (os, "fsync")]
STEPS.append((preparation, "decoded"))
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
    books: Path, out: Path, prepare_books: Callable, small_text: str, contents: Callable
) -> None:
    prepare_books()
    before = contents(out)
    other = Tokenizer.train([small_text], merges=30)
    with pytest.raises(CheckpointError, match=r"^other tokens were prepared there: ") as rejection:
        prepare([books], out, other, errors="replace", validation_fraction=0.25)
    what = rejection.value.what
    assert all(name in what for name in ("vocabulary", "vocab_size", "errors 'strict'"))
    assert "validation_fraction 0.05, not 0.25" in what
    assert "pretokenizer" not in what
    assert before == contents(out)


def test_other_text_is_rejected(books: Path, prepare_books: Callable) -> None:
    """The error names a changed document, and at most three differences."""
    prepare_books()
    before = (books / "d.txt").read_bytes()
    (books / "d.txt").write_bytes(before.replace(b"a", b"o", 1))
    with pytest.raises(CheckpointError, match=r"prepared there: document 4 'books/d"):
        prepare_books()
    (books / "d.txt").write_bytes(before)
    (books / "aa.txt").write_text("new", "utf-8")
    with pytest.raises(CheckpointError) as rejection:
        prepare_books()
    assert rejection.value.what.count("document ") == 3
    (books / "aa.txt").unlink()
    (books / "e.txt").unlink()
    with pytest.raises(CheckpointError, match=r"document 5 'books/e.txt .*', not None"):
        prepare_books()


def test_text_that_changes_while_it_is_read_is_rejected(
    books: Path, tmp_path: Path, prepare_books: Callable
) -> None:
    def change(what: str, _done: int, _total: int) -> None:
        if what == "books/a.txt":
            (books / "d.txt").write_bytes((books / "d.txt").read_bytes().upper())

    with pytest.raises(CheckpointError, match="changed while it was read") as rejection:
        prepare_books(progress=change)
    assert str(books / "d.txt") == rejection.value.where
    assert [path.name for path in tmp_path.iterdir()] == ["books"]


def test_other_files_are_kept(out: Path, prepare_books: Callable, contents: Callable) -> None:
    out.mkdir()
    (out / "tokens.bin").write_text("the user's", "utf-8")
    with pytest.raises(OccupiedError, match="the folder is not empty"):
        prepare_books()
    assert contents(out) == {"tokens.bin": b"the user's"}


def test_of_two_preparations_the_first_to_finish_stays(out: Path, prepare_books: Callable) -> None:
    done: list[TokenData] = []

    def second(what: str, _done: int, _total: int) -> None:
        if what == "books/d.txt" and not done:
            done.append(prepare_books())

    with pytest.raises(OccupiedError, match="the folder was filled meanwhile"):
        prepare_books(progress=second)
    TokenData.open(out).verify()


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
    step: tuple[object, str], failure: tuple[int, str], out: Path, prepare_books: Callable
) -> None:
    def fail(*given: object, **_named: object) -> object:
        name = [str(given[0])] if isinstance(given[0], Path) else []
        raise OSError(failure[0], os.strerror(failure[0]), *name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*step, fail)
        with pytest.raises(WriteError, match=failure[1]) as error:
            prepare_books()
    assert str(out) == error.value.where
    assert [path.name for path in out.parent.iterdir()] == ["books"]
    prepare_books().verify()


@pytest.mark.slow
@pytest.mark.parametrize("pretokenizer", ["huggingface", "original"])
def test_a_large_corpus_gives_the_tokens_of_the_whole(
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


CHILD = """
import sys
from scratch_gpt.data import prepare, preparation
from scratch_gpt.tokenizer.tokenizer import Tokenizer

preparation.SIZE = 2_000
books, folder, vocabulary = sys.argv[1:]
tokenizer = Tokenizer.from_pretrained(vocabulary)
print("begun", flush=True)
prepare([books], folder, tokenizer)
"""


@pytest.fixture
def start(
    books: Path, small_text: str, small_vocabulary: Path, home_of: Callable
) -> Callable[[Path], subprocess.Popen[str]]:
    for name in "abcd":
        (books / f"{name}.txt").write_text(20 * small_text, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(home_of("scratch_gpt").parent)}

    def run(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", CHILD, books, folder, small_vocabulary]
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        return process

    return run


@pytest.mark.parametrize(
    "kills", [3, pytest.param(25, marks=pytest.mark.slow)], ids="{} kills".format
)
def test_killed_repeatedly(kills: int, start: Callable, tmp_path: Path, contents: Callable) -> None:
    with start(tmp_path / "whole") as uninterrupted:
        assert not uninterrupted.wait()
    moments = random.Random(20180611)  # noqa: S311 - no secret
    folder = tmp_path / "killed"
    unfinished = 0
    for number in range(kills):
        with start(folder) as process:
            time.sleep(moments.uniform(0.01, 0.3) if number else 0.01)
            process.kill()
        if folder.exists():
            TokenData.open(folder).verify()
        else:
            unfinished += 1
    assert unfinished
    with start(folder) as last:
        assert not last.wait()
    assert contents(tmp_path / "whole") == contents(folder)
    TokenData.open(folder).verify()


def test_a_full_disk_leaves_nothing(start: Callable, tmp_path: Path) -> None:
    """Simulated by a limit on the length of a file."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with start(tmp_path / "full") as process:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, hard))
        assert process.wait()
    assert [path.name for path in tmp_path.iterdir()] == ["books"]
