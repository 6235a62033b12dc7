"""A vocabulary's folder: which files are read, what else may stand there, what is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.errors import CheckpointError, OccupiedError
from scratch_gpt.tokenizer import vocabulary as vocabulary_files
from scratch_gpt.tokenizer.pretokenizers import PRETOKENIZERS
from scratch_gpt.tokenizer.vocabulary import Vocabulary

if TYPE_CHECKING:
    from reference.huggingface_tokenizer import HuggingFaceTokenizer

OPENAI = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}


@pytest.fixture
def folder(small_vocabulary: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_vocabulary, tmp_path / "copy")


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        vocabulary_files.read_vocabulary(folder)
    return caught.value


def by_class_name(folder: Path, text: str) -> list[int]:
    """Return the ids of the class that Hugging Face chooses by the folder's config."""
    from transformers import AutoTokenizer

    from reference.huggingface import quiet

    with quiet():
        found = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return list(found(text)["input_ids"])


def test_the_names_of_the_release_are_read(folder: Path, ours: Tokenizer) -> None:
    for name, openai in OPENAI.items():
        (folder / name).rename(folder / openai)
    assert Tokenizer.from_pretrained(folder).digest == ours.digest


@pytest.mark.reference
def test_what_hugging_face_saves_is_read(
    folder: Path, ours: Tokenizer, theirs: "HuggingFaceTokenizer"
) -> None:
    """Version 5 writes a single file, 4 also the two; the single file alone is enough."""
    saved = folder / "theirs"
    theirs.tokenizer.save_pretrained(saved)
    assert Tokenizer.from_pretrained(saved).vocabulary == ours.vocabulary
    for name in OPENAI:
        (saved / name).unlink(missing_ok=True)
    assert Tokenizer.from_pretrained(saved).vocabulary == ours.vocabulary


def test_half_a_vocabulary_is_told(folder: Path) -> None:
    (folder / "merges.txt").unlink()
    error = refused(folder)
    assert error.what == "the folder holds only vocab.json"
    assert (error.where, "merges.txt" in error.fix) == (str(folder), True)


@pytest.mark.parametrize("name", ["empty", "absent", "file"])
def test_no_vocabulary_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert refused(tmp_path / name).what == "the folder holds no vocabulary"


Spoil = Callable[[Path], None]
ODD: dict[str, tuple[Spoil, str]] = {
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "it is a link to a file that"),
    "a pipe": (os.mkfifo, "it is a named pipe, not a file"),
    "a folder": (Path.mkdir, "it is a folder, not a file"),
    "a huge file": (lambda path: os.truncate(_touched(path), 1 << 40), "it has more than"),
}


def _touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_is_refused_at_once(case: str, name: str, folder: Path) -> None:
    spoil, message = ODD[case]
    (folder / name).unlink()
    spoil(folder / name)
    error = refused(folder)
    assert message in error.what
    assert error.where == str(folder / name)


@pytest.mark.reference
def test_what_is_written_is_read_alike_everywhere(
    folder: Path, huggingface: Callable, small_text: str
) -> None:
    ours = Tokenizer.from_pretrained(folder)
    ours.save_pretrained(folder.parent / "saved")
    expected = ours.encode(small_text)
    assert Tokenizer.from_pretrained(folder.parent / "saved").encode(small_text) == expected
    (theirs,) = huggingface(folder.parent / "saved").encode_batch([small_text])
    assert list(theirs.ids) == expected
    assert by_class_name(folder.parent / "saved", small_text) == expected


def test_the_same_vocabulary_is_the_same_bytes(folder: Path) -> None:
    vocabulary = Vocabulary(("<unk>", "é", "é</w>"), ())
    vocabulary_files.write_vocabulary(folder.parent / "one", vocabulary)
    vocabulary_files.write_vocabulary(
        folder.parent / "two", vocabulary_files.read_vocabulary(folder.parent / "one")
    )
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        one, two = ((folder.parent / each / name).read_bytes() for each in ("one", "two"))
        assert one == two
    text = (folder.parent / "one" / "vocab.json").read_text(encoding="utf-8")
    assert text == '{"<unk>": 0, "é": 1, "é</w>": 2}'


@pytest.mark.reference
@pytest.mark.parametrize("pretokenizer", ["huggingface", "original"])
def test_the_splitting_comes_back(
    pretokenizer: str, folder: Path, huggingface: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        PRETOKENIZERS, "original", PRETOKENIZERS["huggingface"]
    )  # needs no ftfy and no spaCy
    saved, right = folder.parent / "saved", Tokenizer.from_pretrained(folder)
    Tokenizer(right.vocabulary, pretokenizer=pretokenizer).save_pretrained(saved)
    assert Tokenizer.from_pretrained(saved).pretokenizer == pretokenizer
    for other in PRETOKENIZERS:
        assert Tokenizer.from_pretrained(saved, pretokenizer=other).pretokenizer == other
    expected = tuple(right.encode("The keeper, Café"))
    assert huggingface(saved).encode_batch(["The keeper, Café"])[0].ids == expected
    assert by_class_name(saved, "The keeper, Café") == list(expected)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"pretokenizer": "spaces"}',
            "is 'spaces', and not 'huggingface' or 'original'",
        ),
        ('{"pretokenizer": []}', "its pretokenizer is [], and not"),
        ("[]", "it holds [], not an object"),
        ("{", "it is not sound JSON"),
    ],
)
def test_a_splitting_that_is_none_is_refused(text: str, message: str, folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_pretrained(folder)
    assert (message in caught.value.what, caught.value.where) == (True, str(path))
    assert (
        Tokenizer.from_pretrained(folder, pretokenizer="huggingface").pretokenizer == "huggingface"
    )
    path.write_text("{}", encoding="utf-8")
    assert Tokenizer.from_pretrained(folder).pretokenizer == "huggingface"


def test_other_files_stay(folder: Path) -> None:
    (folder / "config.json").write_text("{}", encoding="utf-8")
    Tokenizer.from_pretrained(folder).save_pretrained(folder)
    assert (folder / "config.json").read_text(encoding="utf-8") == "{}"


def test_nothing_is_written_beside_a_file_that_would_be_read_instead(folder: Path) -> None:
    """Hugging Face prefers `tokenizer.json`, which would be another vocabulary's."""
    (folder / "tokenizer.json").write_text("{}", encoding="utf-8")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(OccupiedError, match="would be read instead"):
        Tokenizer.train(["a a"], merges=1).save_pretrained(folder)
    assert before == {file.name: file.read_bytes() for file in folder.iterdir()}


def test_the_digest_is_of_tokens_ids_and_merges() -> None:
    tokens, merges = ("<unk>", "a", "b", "ab", "ba"), (("a", "b"), ("b", "a"))
    others = [
        Vocabulary(("<unk>", "b", "a", "ab", "ba"), merges),
        Vocabulary((*tokens, "c"), merges),
        Vocabulary(tokens, merges[::-1]),
        Vocabulary(tokens, merges[:1]),
    ]
    digests = {Vocabulary(tokens, merges).digest, *(other.digest for other in others)}
    assert len(digests) == 1 + len(others)
    assert json.dumps(sorted(digests)).isascii()
