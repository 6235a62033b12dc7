"""`tokenizer.json` alone: the kind that is GPT-1's, and everything that is not."""

import json
from pathlib import Path
from typing import Any

import pytest

from scratch_gpt.errors import CheckpointError
from scratch_gpt.tokenizer import vocabulary
from scratch_gpt.tokenizer.vocabulary import Vocabulary

SMALL = Vocabulary(("<unk>", "a", "b", "a</w>", "b</w>", "ab</w>", "é"), (("a", "b</w>"),))
AROUND, MISSING = ("added_tokens", "normalizer", "pre_tokenizer"), "missing"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def refused(folder: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        vocabulary.read_vocabulary(folder)
    assert caught.value.fix
    return caught.value


def _single(folder: Path, **changes: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Let the folder hold a `tokenizer.json` alone, its model changed."""
    model = {"type": "BPE", "vocab": SMALL.ids, "merges": [["a", "b</w>"]], "unk_token": "<unk>"}
    around = {"added_tokens": [{"id": 0, "content": "<unk>"}]}
    around |= {name: changes.pop(name) for name in AROUND if name in changes}
    kept = {"end_of_word_suffix": "</w>"} | model | changes
    kept = {name: value for name, value in kept.items() if value != MISSING}
    whole = around | {"model": changes.get("model", kept)}
    (folder / "tokenizer.json").write_text(json.dumps(whole), encoding="utf-8")
    for name in ("vocab.json", "merges.txt"):
        (folder / name).unlink(missing_ok=True)


@pytest.mark.parametrize("merges", [[["a", "b</w>"]], ["a b</w>"]], ids=["lists", "texts"])
def test_a_single_file_is_read_where_it_is_alone(merges: list[Any], folder: Path) -> None:
    """Merges are lists in today's files and texts in older ones."""
    _single(folder, merges=merges)
    assert vocabulary.read_vocabulary(folder) == SMALL


@pytest.mark.parametrize(
    "changes",
    [
        {"continuing_subword_prefix": None},
        {"continuing_subword_prefix": ""},
        {"normalizer": {"type": "BertNormalizer"}, "pre_tokenizer": {"type": "BertPreTokenizer"}},
    ],
    ids=["null", "empty", "around"],
)
def test_what_says_no_more_is_read(changes: dict[str, Any], folder: Path) -> None:
    _single(folder, **changes)
    assert vocabulary.read_vocabulary(folder) == SMALL


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
    "tokens added": ({"added_tokens": [{"id": 7, "content": "<pad>"}]}, "it adds tokens that"),
    "added tokens of no form": ({"added_tokens": [7]}, "its added_tokens are not a list of tokens"),
    "an added token of another id": (
        {"added_tokens": [{"id": 3, "content": "<unk>"}]},
        "it adds '<unk>' as id 3, its model's is 0",
    ),
    "an added token without an id": ({"added_tokens": [{"content": "a"}]}, "as id None"),
    "an added token that is no text": (
        {"added_tokens": [{"id": 0, "content": ["<unk>"]}]},
        "its added_tokens are not a list of tokens",
    ),
    "no kind": ({"type": MISSING}, "its model has no type"),
    "no end of words": ({"end_of_word_suffix": MISSING}, "its model has no end_of_word_suffix"),
    "no unknown token": ({"unk_token": MISSING}, "its model has no unk_token"),
    "a prefix": ({"continuing_subword_prefix": "##"}, "continuing_subword_prefix is '##'"),
    "another normalizer": ({"normalizer": {"type": "NFC"}}, "its normalizer is 'NFC'"),
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
def test_unsound_single_files_are_refused(case: str, folder: Path) -> None:
    changes, message = UNSOUND_SINGLE[case]
    _single(folder, **changes)
    error = refused(folder)
    assert message in error.what
    assert error.where == str(folder / "tokenizer.json")
