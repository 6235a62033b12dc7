"""Vocabularies in files: the formats that are read, what is rejected, what is written."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.errors import CheckpointError, OccupiedError, TokenizerError
from scratch_gpt.tokenizer.pretokenizers import PRETOKENIZERS
from scratch_gpt.tokenizer.vocabulary import Vocabulary, read_vocabulary, write_vocabulary

if TYPE_CHECKING:
    from reference.huggingface_tokenizer import HuggingFaceTokenizer

OPENAI = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}
SMALL = Vocabulary(("<unk>", "a", "b", "a</w>", "b</w>", "ab</w>", "é"), (("a", "b</w>"),))


@pytest.fixture
def folder(small_vocabulary: Path, tmp_path: Path) -> Path:
    return shutil.copytree(small_vocabulary, tmp_path / "copy")


def rejection(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_vocabulary(folder)
    assert caught.value.fix
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
def test_hugging_faces_files(folder: Path, ours: Tokenizer, theirs: "HuggingFaceTokenizer") -> None:
    """Version 5 writes a single file, 4 also the two; the single file alone is enough."""
    saved = folder / "theirs"
    theirs.tokenizer.save_pretrained(saved)
    assert Tokenizer.from_pretrained(saved).vocabulary == ours.vocabulary
    for name in OPENAI:
        (saved / name).unlink(missing_ok=True)
    assert Tokenizer.from_pretrained(saved).vocabulary == ours.vocabulary


def test_half_a_vocabulary_is_rejected(folder: Path) -> None:
    (folder / "merges.txt").unlink()
    error = rejection(folder)
    assert error.what == "the folder holds only vocab.json"
    assert (error.where, "merges.txt" in error.fix) == (str(folder), True)


@pytest.mark.parametrize("name", ["empty", "absent", "file"])
def test_a_missing_vocabulary_is_rejected(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert rejection(tmp_path / name).what == "the folder holds no vocabulary"


Spoil = Callable[[Path], None]
ODD: dict[str, tuple[Spoil, str]] = {
    "a link to nothing": (lambda path: path.symlink_to("nowhere"), "it is a link to a file that"),
    "a pipe": (os.mkfifo, "it is a named pipe, not a file"),
    "a folder": (Path.mkdir, "it is a folder, not a file"),
    "a huge file": (lambda path: os.truncate(touched(path), 1 << 40), "it has more than"),
}


def touched(path: Path) -> Path:
    path.touch()
    return path


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
@pytest.mark.parametrize("case", ODD)
def test_what_is_no_file_is_rejected_at_once(case: str, name: str, folder: Path) -> None:
    spoil, message = ODD[case]
    (folder / name).unlink()
    spoil(folder / name)
    error = rejection(folder)
    assert message in error.what
    assert error.where == str(folder / name)


@pytest.mark.reference
def test_what_is_written_is_read_alike_everywhere(
    tmp_path: Path, ours: Tokenizer, huggingface: Callable, small_text: str
) -> None:
    ours.save_pretrained(tmp_path)
    expected = ours.encode(small_text)
    assert Tokenizer.from_pretrained(tmp_path).encode(small_text) == expected
    (theirs,) = huggingface(tmp_path).encode_batch([small_text])
    assert list(theirs.ids) == expected
    assert by_class_name(tmp_path, small_text) == expected


def test_the_same_vocabulary_is_the_same_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    write_vocabulary(one, Vocabulary(("<unk>", "é", "é</w>"), ()))
    write_vocabulary(two, read_vocabulary(one))
    for name in ("vocab.json", "merges.txt", "tokenizer_config.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert (one / "vocab.json").read_text("utf-8") == '{"<unk>": 0, "é": 1, "é</w>": 2}'


@pytest.mark.reference
@pytest.mark.parametrize("pretokenizer", ["huggingface", "original"])
def test_the_pretokenizer_is_saved_and_read(
    pretokenizer: str, folder: Path, huggingface: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The real one needs ftfy and spaCy.
    monkeypatch.setitem(PRETOKENIZERS, "original", PRETOKENIZERS["huggingface"])
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
    [("[]", "it holds [], not an object"), ("{", "it is not sound JSON")],
)
@pytest.mark.parametrize(
    "name", ["tokenizer_config.json", "added_tokens.json", "special_tokens_map.json"]
)
def test_unsound_files_beside_a_vocabulary_are_rejected(
    text: str, message: str, name: str, folder: Path
) -> None:
    (folder / "tokenizer_config.json").unlink()
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_pretrained(folder)
    assert message in caught.value.what
    assert caught.value.where == str(folder / name)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"pretokenizer": "spaces"}', "is 'spaces', and not 'huggingface' or 'original'"),
        ('{"pretokenizer": []}', "its pretokenizer is [], and not"),
    ],
)
def test_an_unknown_pretokenizer_is_rejected(text: str, message: str, folder: Path) -> None:
    path = folder / "tokenizer_config.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CheckpointError) as caught:
        Tokenizer.from_pretrained(folder)
    assert (message in caught.value.what, caught.value.where) == (True, str(path))
    given = Tokenizer.from_pretrained(folder, pretokenizer="huggingface")
    assert given.pretokenizer == "huggingface"
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


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    write_vocabulary(tmp_path / "vocabulary", SMALL)
    return tmp_path / "vocabulary"


def edited(**changes: object) -> bytes:
    """Return a vocabulary's JSON with some ids changed, added, or with `()` removed."""
    ids = SMALL.ids | changes
    return json.dumps({token: number for token, number in ids.items() if number != ()}).encode()


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

UNSOUND_MERGES: dict[str, tuple[bytes, str]] = {
    "two headers": (b"#version: 0.2\n#version: 0.2\na b</w>\n", "needs the token '#version:'"),
    "a byte order mark": (b"\xef\xbb\xbf#version: 0.2\na b</w>\n", r"needs the token '\ufeff#"),
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
}


@pytest.mark.parametrize(
    ("name", "case"),
    [*(("vocab.json", case) for case in UNSOUND_IDS), *(("merges.txt", c) for c in UNSOUND_MERGES)],
)
def test_unsound_files_are_rejected(name: str, case: str, tiny: Path) -> None:
    text, message = (UNSOUND_IDS if name == "vocab.json" else UNSOUND_MERGES)[case]
    (tiny / name).write_bytes(text)
    error = rejection(tiny)
    assert isinstance(error, TokenizerError)
    assert message in error.what
    assert error.where == str(tiny / name)


@pytest.mark.parametrize(
    "text",
    [
        b"#version: 0.2\na b</w>",
        b"#version: 0.2 - Trained by `huggingface/tokenizers`\na b</w>\n",
        b"#version: 0.1\na b</w>\n",
        b"a b</w>\n",
        b"#version: 0.2\r\na b</w>\r\n",
    ],
)
def test_merges_of_every_writer_are_read(text: bytes, tiny: Path) -> None:
    (tiny / "merges.txt").write_bytes(text)
    assert read_vocabulary(tiny) == SMALL


def test_a_vocabulary_may_have_no_merges(tiny: Path) -> None:
    (tiny / "merges.txt").write_bytes(b"")
    assert read_vocabulary(tiny).merges == ()


AROUND, MISSING = ("added_tokens", "normalizer", "pre_tokenizer"), "missing"


def write_single_file(folder: Path, **changes: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Write a `tokenizer.json` with changed fields; `MISSING` removes one."""
    model = {"type": "BPE", "vocab": SMALL.ids, "merges": [["a", "b</w>"]], "unk_token": "<unk>"}
    unknown = {"id": 0, "content": "<unk>", "special": True, "normalized": False}
    around: dict[str, Any] = {"added_tokens": [unknown]}
    around |= {name: changes.pop(name) for name in AROUND if name in changes}
    kept = {"end_of_word_suffix": "</w>"} | model | changes
    kept = {name: value for name, value in kept.items() if value != MISSING}
    whole = around | {"model": changes.get("model", kept)}
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")


@pytest.mark.parametrize("merges", [[["a", "b</w>"]], ["a b</w>"]], ids=["lists", "texts"])
def test_a_single_file_is_read(merges: list[Any], tmp_path: Path) -> None:
    """Merges are lists in today's files and texts in older ones."""
    write_single_file(tmp_path, merges=merges)
    assert read_vocabulary(tmp_path) == SMALL


@pytest.mark.parametrize(
    ("name", "expected"),
    [("OpenAIGPTTokenizer", ["x", "y"]), ("PreTrainedTokenizerFast", ["y", "x"])],
)
def test_a_class_of_any_model_takes_the_order_of_the_file(
    name: str, expected: list[str], tmp_path: Path
) -> None:
    unknown = {"id": 0, "content": "<unk>", "special": True, "normalized": False}
    added = [unknown, {"id": 9, "content": "y"}, {"id": 8, "content": "x"}]
    write_single_file(tmp_path, added_tokens=added)
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"tokenizer_class": name}), encoding="utf-8")
    assert list(read_vocabulary(tmp_path).added_ids) == expected


def test_a_class_of_any_model_needs_the_unknown_token(tmp_path: Path) -> None:
    write_single_file(tmp_path, added_tokens=[])
    assert read_vocabulary(tmp_path) == SMALL
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"tokenizer_class": "TokenizersBackend"}', encoding="utf-8")
    assert rejection(tmp_path).what == "<unk> is no added token of it"


@pytest.mark.parametrize(
    "changes",
    [
        {"continuing_subword_prefix": None},
        {"continuing_subword_prefix": ""},
        {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
    ],
    ids=["null", "empty", "around"],
)
def test_fields_without_effect_are_accepted(changes: dict[str, Any], tmp_path: Path) -> None:
    write_single_file(tmp_path, **changes)
    assert read_vocabulary(tmp_path) == SMALL


UNSOUND_SINGLE: dict[str, tuple[dict[str, Any], str]] = {
    "another kind of model": ({"type": "WordPiece"}, "its model's type is 'WordPiece'"),
    "another end of words": ({"end_of_word_suffix": None}, "its model's end_of_word_suffix is"),
    "another unknown token": ({"unk_token": "[UNK]"}, "its model's unk_token is '[UNK]'"),
    "unknown ones joined": ({"fuse_unk": True}, "its model's fuse_unk is True"),
    "no model": ({"model": None}, "it holds no model"),
    "no ids": ({"vocab": []}, "its model has no vocab or no merges"),
    "no merges": ({"merges": None}, "its model has no vocab or no merges"),
    "a merge of three": ({"merges": [["a", "b", "c"]]}, "merge 1 is ['a', 'b', 'c']"),
    "a merge of numbers": ({"merges": [[1, 2]]}, "merge 1 is [1, 2]"),
    "a merge of nothing": ({"merges": [None]}, "merge 1 is None"),
    "added tokens of no form": ({"added_tokens": [7]}, "7 is not an added token"),
    "an added token without an id": ({"added_tokens": [{"content": "a"}]}, "has the id None"),
    "an added token that is no text": (
        {"added_tokens": [{"id": 0, "content": ["<unk>"]}]},
        "is not an added token",
    ),
    "no kind": ({"type": MISSING}, "its model has no type"),
    "no end of words": ({"end_of_word_suffix": MISSING}, "its model has no end_of_word_suffix"),
    "no unknown token": ({"unk_token": MISSING}, "its model has no unk_token"),
    "a prefix": ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix is '##'"),
    "another normalizer": ({"normalizer": {"type": "NFC"}}, "its normalizer is 'NFC'"),
    **{
        f"a normalizer with another {name}": (
            {"normalizer": {"type": "BertNormalizer", name: False}},
            f"its normalizer's {name} is False",
        )
        for name in ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")
    },
    "no normalizer": ({"normalizer": None}, "its normalizer is None"),
    "another way to words": (
        {"pre_tokenizer": {"type": "ByteLevel"}},
        "its pre_tokenizer is 'ByteLevel', GPT-1's is 'BertPreTokenizer'",
    ),
    "a merge with a space": ({"merges": [["a ", "b</w>"]]}, "merge 1 is ['a ', 'b</w>']"),
    "a merge with a line break": ({"merges": [["a\n", "b</w>"]]}, "merge 1 is "),
    "a merge with a carriage return": ({"merges": [["a", "\rb</w>"]]}, "merge 1 is "),
    "a gap": ({"vocab": {"<unk>": 0, "a": 2}}, "'a' has the id 2, of 2 tokens"),
}


@pytest.mark.parametrize("case", UNSOUND_SINGLE)
def test_unsound_single_files_are_rejected(case: str, tmp_path: Path) -> None:
    changes, message = UNSOUND_SINGLE[case]
    write_single_file(tmp_path, **changes)
    error = rejection(tmp_path)
    assert message in error.what
    assert error.where == str(tmp_path / "tokenizer.json")
