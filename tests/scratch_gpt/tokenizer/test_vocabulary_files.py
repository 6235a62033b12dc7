"""Vocabularies in files: every form that is read, everything that is refused, what is written."""

import json
from pathlib import Path

import pytest

from scratch_gpt.errors import CheckpointError, TokenizerError
from scratch_gpt.tokenizer import vocabulary
from scratch_gpt.tokenizer.vocabulary import Vocabulary

TOKENS = ("<unk>", "a", "b", "a</w>", "b</w>", "ab</w>", "é")
SMALL = Vocabulary(TOKENS, (("a", "b</w>"),))


def edited(**changes: object) -> bytes:
    """Return a vocabulary's JSON with some ids changed, added, or with `()` removed."""
    ids = SMALL.ids | changes
    return json.dumps({token: number for token, number in ids.items() if number != ()}).encode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    vocabulary.write_vocabulary(tmp_path / "vocabulary", SMALL)
    return tmp_path / "vocabulary"


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        vocabulary.read_vocabulary(folder)
    assert caught.value.fix
    return caught.value


UNSOUND_IDS: dict[str, tuple[bytes, str]] = {
    "two tokens of one id": (edited(b=1), "'a' and 'b' both have the id 1"),
    "a gap": (edited(b=90), "'b' has the id 90, of 7 tokens"),
    "a negative id": (edited(b=-1), "'b' has the id -1, of 7 tokens"),
    "no unknown token": (edited(**{"<unk>": (), "c": 0}), "it has no token <unk>"),
    "an id that is a text": (edited(b="2"), "the id of 'b' is '2', not an integer"),
    "an id that is a truth value": (edited(a=True), "the id of 'a' is True, not an integer"),
    "an id that is a fraction": (edited(b=2.0), "the id of 'b' is 2.0, not an integer"),
    "an id that is nothing": (edited(b=None), "the id of 'b' is None, not an integer"),
    "a list": (b'["<unk>", "a"]', "it holds ['<unk>', 'a'], not an object"),
    "a key that is no string": (b'{"<unk>": 0, 1: "a"}', "it is not sound JSON"),
    "a token twice": (b'{"<unk>": 0, "a": 1, "a": 2}', "the key 'a' occurs twice"),
    "a surrogate": (edited(**{"b": (), "\ud800": 2}), r"the token '\ud800' is not valid Unicode"),
    "infinity": (b'{"<unk>": Infinity}', "Infinity is not JSON"),
    "not UTF-8": (b'{"<unk>": 0, "\xff": 1}', "it is not sound JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + edited(), "it is not sound JSON"),
    "cut off": (edited()[:-9], "it is not sound JSON"),
    "empty": (b"", "it is not sound JSON"),
    "nested too deeply": (b"[" * 100_000, "it is nested too deeply"),
    "a number too long to read": (b'{"<unk>": ' + b"9" * 5_000 + b"}", "it is not sound JSON"),
}


@pytest.mark.parametrize("case", UNSOUND_IDS)
def test_unsound_ids_are_refused(case: str, folder: Path) -> None:
    text, message = UNSOUND_IDS[case]
    (folder / "vocab.json").write_bytes(text)
    error = refused(folder)
    assert isinstance(error, TokenizerError)
    assert message in error.what
    assert error.where == str(folder / "vocab.json")


UNSOUND_MERGES: dict[str, tuple[bytes, str]] = {
    "no header": (b"a b</w>\n", "its first line is 'a b</w>', not '#version: 0.2'"),
    "two headers": (b"#version: 0.2\n#version: 0.2\na b</w>\n", "needs the token '#version:'"),
    "a byte order mark": (b"\xef\xbb\xbf#version: 0.2\na b</w>\n", r"its first line is '\ufeff#"),
    "lines of Windows": (b"#version: 0.2\r\na b</w>\r\n", "it has carriage returns"),
    "a blank line": (b"#version: 0.2\n\na b</w>\n", "merge 1 is '', not two tokens"),
    "two blank lines at the end": (b"#version: 0.2\na b</w>\n\n\n", "merge 2 is ''"),
    "one part": (b"#version: 0.2\nab</w>\n", "merge 1 is 'ab</w>', not two tokens"),
    "three parts": (b"#version: 0.2\na b c\n", "merge 1 is 'a b c', not two tokens"),
    "an empty part": (b"#version: 0.2\na \n", "merge 1 is 'a ', not two tokens"),
    "a part that is no token": (b"#version: 0.2\nx b</w>\n", "needs the token 'x'"),
    "a product that is no token": (b"#version: 0.2\na b\n", "needs the token 'ab'"),
    "a merge twice": (b"#version: 0.2\na b</w>\na b</w>\n", "merge 2, 'a b</w>', is merge 1 again"),
    "the unknown token": (b"#version: 0.2\n<unk> a\n", "is of <unk>, which has no characters"),
    "not UTF-8": (b"#version: 0.2\na \xff\n", "it is not UTF-8 at byte 16"),
    "empty": (b"", "its first line is '', not '#version: 0.2'"),
}


@pytest.mark.parametrize("case", UNSOUND_MERGES)
def test_unsound_merges_are_refused(case: str, folder: Path) -> None:
    text, message = UNSOUND_MERGES[case]
    (folder / "merges.txt").write_bytes(text)
    error = refused(folder)
    assert isinstance(error, TokenizerError)
    assert message in error.what
    assert error.where == str(folder / "merges.txt")


def test_a_last_line_without_an_end_is_one(folder: Path) -> None:
    (folder / "merges.txt").write_bytes(b"#version: 0.2\na b</w>")
    assert vocabulary.read_vocabulary(folder) == SMALL
