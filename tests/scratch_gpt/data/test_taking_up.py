"""A preparation that was interrupted goes on to the same bytes, or says why it cannot."""

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scratch_gpt.data import prepare
from scratch_gpt.data.unfinished import Unfinished
from scratch_gpt.errors import CheckpointError, OccupiedError, WriteError
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Contents = Callable[[Path], dict[str, bytes]]
Edit = Callable[..., None]

pytestmark = pytest.mark.usefixtures("small_pieces")

STEPS = [(os, "fsync"), (Path, "replace"), (Path, "unlink"), (Unfinished, "append")]
"""Where a process may be killed: before any of these."""


class StopError(BaseException):
    """Stands for a kill: nobody catches it."""


@contextlib.contextmanager
def stopped_at(count: int) -> Iterator[list[str]]:
    """Stop at the step of that number; give the names of the steps that were begun."""
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
        yield begun


@pytest.fixture
def begun(books: Path, tmp_path: Path, tokenizer: Tokenizer) -> Path:
    """Return the folder of a preparation that was stopped in its midst."""
    with stopped_at(20):
        prepare([books], tmp_path / "out", tokenizer)
    assert (tmp_path / "out" / "position.json").exists()
    return tmp_path / "out"


def test_stopped_anywhere_it_goes_on_to_the_same_bytes(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Contents
) -> None:
    """Before every step that a preparation takes, once."""
    (books / "a.txt").write_text((books / "d.txt").read_text("utf-8")[:700], "utf-8")
    (books / "d.txt").unlink()
    with stopped_at(0) as steps:
        prepare([books], tmp_path / "whole", tokenizer)
    expected = contents(tmp_path / "whole")
    assert set(steps) == {name for _, name in STEPS}
    for count in range(1, len(steps) + 1):
        folder = tmp_path / f"stopped-{count}"
        with stopped_at(count):
            prepare([books], folder, tokenizer)
        last_replacement = len(steps) - steps[::-1].index("replace")
        assert (folder / "manifest.json").exists() == (count > last_replacement)
        prepare([books], folder, tokenizer)
        assert expected == contents(folder)


def test_stopped_over_and_over_it_comes_to_its_end(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Contents
) -> None:
    """What was done before is not done again."""
    prepare([books], tmp_path / "whole", tokenizer)
    goes = 0
    while not (tmp_path / "out" / "manifest.json").exists():
        goes += 1
        with stopped_at(9):  # each go keeps a piece or two
            prepare([books], tmp_path / "out", tokenizer)
        assert goes < 40
    prepare([books], tmp_path / "out", tokenizer)
    assert goes > 5
    assert contents(tmp_path / "whole") == contents(tmp_path / "out")


def test_it_goes_on_where_it_was(books: Path, begun: Path, tokenizer: Tokenizer) -> None:
    """What has been read of the text is less than all of it."""
    told: list[int] = []
    prepare([books], begun, tokenizer, progress=lambda _what, done, _total: told.append(done))
    assert min(told[5:]) > 600


def test_changed_text_is_refused(books: Path, begun: Path, tokenizer: Tokenizer) -> None:
    """The document is named; as it was, it is taken again."""
    before = (books / "d.txt").read_bytes()
    (books / "d.txt").write_bytes(before.replace(b"a", b"o", 1))
    with pytest.raises(CheckpointError, match=r"begun with something else: document 4 'books/d"):
        prepare([books], begun, tokenizer)
    (books / "d.txt").write_bytes(before)
    prepare([books], begun, tokenizer)


def test_more_and_less_text_is_refused(books: Path, begun: Path, tokenizer: Tokenizer) -> None:
    """A document that came, and one that went; three of the differences are shown."""
    (books / "aa.txt").write_text("new", "utf-8")
    with pytest.raises(CheckpointError) as refusal:
        prepare([books], begun, tokenizer)
    assert refusal.value.what.count("document ") == 3
    (books / "aa.txt").unlink()
    (books / "e.txt").unlink()
    with pytest.raises(CheckpointError, match=r"document 5 'books/e.txt .*', not None"):
        prepare([books], begun, tokenizer)


@pytest.mark.parametrize("finished", [False, True], ids=["begun", "finished"])
def test_other_settings_are_refused(
    books: Path, begun: Path, tokenizer: Tokenizer, small_text: str, *, finished: bool
) -> None:
    """All that differ are listed, and the folder stays as it was."""
    if finished:
        prepare([books], begun, tokenizer)
    other = Tokenizer.train([small_text], merges=30)
    with pytest.raises(CheckpointError) as refusal:
        prepare([books], begun, other, errors="replace", validation_fraction=0.25)
    told = refusal.value.what
    assert all(name in told for name in ("vocabulary", "vocab_size", "errors 'strict'"))
    assert "validation_fraction 0.05, not 0.25" in told
    assert "pretokenizer" not in told
    prepare([books], begun, tokenizer)


def test_text_that_changes_while_it_is_read_is_told(
    books: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """After it was looked through, before it was tokenized."""

    def change(what: str, done: int, _total: int) -> None:
        if what == "books/a.txt" and done < 300:
            (books / "d.txt").write_bytes((books / "d.txt").read_bytes().upper())

    with pytest.raises(CheckpointError, match="changed while it was read") as refusal:
        prepare([books], tmp_path / "out", tokenizer, progress=change)
    assert str(books / "d.txt") == refusal.value.where


def test_text_that_changed_for_a_while_is_told(
    books: Path, begun: Path, tokenizer: Tokenizer, edit: Edit
) -> None:
    """Tokens of text that is no longer there are not gone on with, though the plan fits again."""
    edit(begun / "position.json", ["prefix_sha256"], "0" * 64)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        prepare([books], begun, tokenizer)


@pytest.mark.parametrize(
    "change",
    [
        (["tokens"], 100_000),
        (["tokens"], 30),
        (["crc32"], 5),
        (["document"], 6),
        (["document"], 5),
        (["offset"], 100_000),
        (["unknown"], -1),
        (["more"], 1),
    ],
    ids=str,
)
def test_a_damaged_position_is_refused(
    change: tuple[list[str], int], books: Path, begun: Path, tokenizer: Tokenizer, edit: Edit
) -> None:
    """It belongs to other tokens, or lies behind the end of the text."""
    edit(begun / "position.json", *change)
    with pytest.raises(CheckpointError, match=r"damaged|position\.json: |changed while"):
        prepare([books], begun, tokenizer)


@pytest.mark.parametrize("place", [0, 100])
def test_damaged_tokens_are_refused(
    place: int, books: Path, begun: Path, tokenizer: Tokenizer
) -> None:
    """One bit of those that were kept."""
    content = bytearray((begun / "tokens.bin").read_bytes())
    content[place] ^= 1
    (begun / "tokens.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match="damaged: its bytes are not those"):
        prepare([books], begun, tokenizer)


def test_a_damaged_plan_is_refused(books: Path, begun: Path, tokenizer: Tokenizer) -> None:
    """Half of one is none."""
    (begun / "plan.json").write_bytes((begun / "plan.json").read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"^plan\.json: .*remove the folder"):
        prepare([books], begun, tokenizer)


def test_a_folder_of_something_else_is_left_alone(
    books: Path, tmp_path: Path, tokenizer: Tokenizer, contents: Contents
) -> None:
    """Even if a file in it has a name of ours."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "tokens.bin").write_text("the user's", "utf-8")
    with pytest.raises(OccupiedError, match=r"holds 'tokens.bin' and no prepared text"):
        prepare([books], tmp_path / "out", tokenizer)
    assert contents(tmp_path / "out") == {"tokens.bin": b"the user's"}


def test_two_do_not_prepare_in_one_folder(
    books: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    """The second one is told, and the first one does not notice."""
    refusals: list[str] = []

    def second(what: str, _done: int, _total: int) -> None:
        if what == "books/d.txt" and not refusals:
            with pytest.raises(OccupiedError, match="another process") as refusal:
                prepare([books], tmp_path / "out", tokenizer)
            refusals.append(refusal.value.fix)

    prepare([books], tmp_path / "out", tokenizer, progress=second).verify()
    assert refusals


@pytest.mark.parametrize(
    "refusal",
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EFBIG, "larger than is allowed"),
        (errno.EROFS, "the file system is read-only"),
        (errno.EACCES, "no permission"),
    ],
    ids=lambda refusal: errno.errorcode[refusal[0]],
)
@pytest.mark.parametrize(
    "step",
    [(os, "fsync"), (Path, "replace"), (Path, "mkdir"), (os, "open")],
    ids=lambda step: step[1],
)
def test_what_the_file_system_refuses_is_told(
    step: tuple[object, str],
    refusal: tuple[int, str],
    books: Path,
    tmp_path: Path,
    tokenizer: Tokenizer,
) -> None:
    """And when it is mended, the preparation goes on."""
    (tmp_path / "out").mkdir()
    original = getattr(*step)

    def refuse(*given: object, **named: object) -> object:
        if str(tmp_path / "out") in str(given[0]) or step[1] == "fsync":
            raise OSError(refusal[0], os.strerror(refusal[0]), str(given[0]))
        return original(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(*step, refuse)
        with pytest.raises(WriteError, match=refusal[1]) as told:
            prepare([books], tmp_path / "out", tokenizer)
    assert str(tmp_path / "out") == told.value.where
    prepare([books], tmp_path / "out", tokenizer).verify()
