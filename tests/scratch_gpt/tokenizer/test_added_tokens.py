"""Added tokens: which files give them, what is rejected, and where a text has them."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.errors import TokenizerError
from scratch_gpt.tokenizer import added_tokens
from scratch_gpt.tokenizer import tokenizer as tokenizer_module
from scratch_gpt.tokenizer.added_tokens import LONGEST_TOKEN, AddedToken, AddedTokenFinder
from scratch_gpt.tokenizer.vocabulary import Vocabulary, files_read, write_vocabulary

SMALL = Vocabulary(("<unk>", "a", "b", "a</w>", "b</w>", "ab</w>"), (("a", "b</w>"),))
CONFIG, MAP, ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
PAD = {"content": "[PAD]", "special": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_vocabulary(tmp_path / "vocabulary", SMALL)
    (tmp_path / "vocabulary" / CONFIG).unlink()
    return tmp_path / "vocabulary"


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value), encoding="utf-8")


FILES: dict[str, tuple[dict[str, Any], dict[str, int]]] = {
    "none": ({}, {}),
    "added": ({ADDED: {"[PAD]": 90, "a": 3}}, {"a": 1, "[PAD]": 6}),
    "map": ({MAP: {"pad_token": "[PAD]", "sep_token": {"content": "x"}}}, {"x": 6, "[PAD]": 7}),
    "names of a config": ({CONFIG: {"pad_token": "p", "my_token": "m"}}, {"p": 6, "m": 7}),
    "extra ones": ({CONFIG: {"extra_special_tokens": ["y", "x"]}}, {"y": 6, "x": 7}),
    "older name": ({CONFIG: {"additional_special_tokens": ["y"]}}, {"y": 6}),
    "a list": ({CONFIG: {"added_tokens_decoder": {"9": PAD, "7": {"content": "x"}}}},
               {"x": 6, "[PAD]": 7}),
    "a list hides other files": (
        {CONFIG: {"added_tokens_decoder": {"9": PAD}}, ADDED: {"x": 6}, MAP: {"pad_token": "y"}},
        {"[PAD]": 6},
    ),
    "an object that is no token": ({CONFIG: {"image_token": {"content": "x"}}}, {}),
    "an object that is one": (
        {CONFIG: {"image_token": {"content": "x", "__type": "AddedToken"}}},
        {"x": 6},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_tokens_get_their_ids_in_order(case: str, folder: Path) -> None:
    files, expected = FILES[case]
    write(folder, files)
    found = Tokenizer.from_pretrained(folder)
    assert found.vocabulary.added_ids == expected
    assert found.vocab_size == max([5, *expected.values()]) + 1
    for text, number in expected.items():
        assert found.encode(f" {text} ") == [number]


def test_the_files_that_are_read_are_named(folder: Path) -> None:
    both = ["vocab.json", "merges.txt"]
    write(folder, {ADDED: {}, MAP: {}, CONFIG: {}})
    assert files_read(folder) == [*both, CONFIG, MAP, ADDED]
    write(folder, {CONFIG: {"added_tokens_decoder": {}}})
    assert files_read(folder) == [*both, CONFIG]


def listed(*entries: dict[str, Any]) -> dict[str, Any]:
    decoder = {f"{90 + place}": entry for place, entry in enumerate(entries)}
    return {CONFIG: {"added_tokens_decoder": decoder}}


REJECTED: dict[str, tuple[dict[str, Any], str]] = {
    "another unknown token": ({CONFIG: {"unk_token": "[UNK]"}}, "its unk_token is '[UNK]'"),
    "one in the map": ({MAP: {"unk_token": {"content": "x"}}}, "its unk_token is 'x', GPT-1's is"),
    "another class": ({CONFIG: {"tokenizer_class": "GPT2Tokenizer"}}, "is 'GPT2Tokenizer', GPT-1"),
    "a class of a single file": (
        {CONFIG: {"tokenizer_class": "PreTrainedTokenizerFast"}},
        "its tokenizer_class is 'PreTrainedTokenizerFast'",
    ),
    "special tokens split": ({CONFIG: {"split_special_tokens": True}}, "its split_special_tokens"),
    "nothing left": (listed({"content": "\u0301"}), "is normalized, and nothing is left of it"),
    "two alike": (
        listed({"content": "[PAD]"}, {"content": "[pad]"}),
        "the added tokens '[PAD]' and '[pad]' are normalized, and then the same",
    ),
    "a huge token": (
        listed({"content": "x" * (LONGEST_TOKEN + 1)}),
        "has 65,537 characters; the limit is 65,536",
    ),
    "no list": ({CONFIG: {"added_tokens_decoder": []}}, "added_tokens_decoder is not an object"),
    "a number as token": (listed({"content": 3}), "{'content': 3} is not an added token"),
    "a fraction as id": ({ADDED: {"x": 1.5}}, "an added token has the id 1.5"),
    "half a character": ({ADDED: {"\ud800": 6}}, r"the token '\ud800' is not valid Unicode"),
}


@pytest.mark.parametrize("case", REJECTED)
def test_other_tokenizers_are_rejected_with_the_reason(case: str, folder: Path) -> None:
    files, message = REJECTED[case]
    write(folder, files)
    with pytest.raises(TokenizerError) as caught:
        Tokenizer.from_pretrained(folder)
    assert message in caught.value.what
    assert (caught.value.exit_code, str(folder) in caught.value.where) == (4, True)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("_MOST_TOKENS", "4 tokens are added; the limit is 3"),
        ("_MOST_CHARACTERS", "the added tokens have 14 characters; the limit is 3"),
    ],
)
def test_too_many_tokens_are_rejected(
    name: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(added_tokens, name, 3)
    write(folder, {ADDED: {"xxx": 7, "yyy": 8, "zzz": 9}})
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.from_pretrained(folder)


def test_a_normalized_token_may_be_like_one_that_is_not(folder: Path) -> None:
    write(folder, listed({"content": "[PAD]"}, {**PAD, "content": "[pad]"}))
    found = Tokenizer.from_pretrained(folder)
    assert found.encode("[PAD][pad][Pad]") == [6, 7, 6]


def test_a_huge_token_of_the_vocabulary_is_rejected(folder: Path) -> None:
    ids = SMALL.ids | {"x" * (LONGEST_TOKEN + 1): 6}
    write(folder, {"vocab.json": ids})
    with pytest.raises(TokenizerError, match="has 65,537 characters; the limit is 65,536"):
        Tokenizer.from_pretrained(folder)
    del ids["x" * (LONGEST_TOKEN + 1)]
    write(folder, {"vocab.json": ids | {"x" * LONGEST_TOKEN: 6}})
    assert Tokenizer.from_pretrained(folder).vocab_size == 7


@pytest.mark.parametrize(
    ("entry", "is_found"),
    [
        ({"content": "Xy"}, True),
        ({"content": "Xy", "normalized": False}, False),
        ({"content": "Xy", "special": True}, False),
        ({"content": "Xy", "special": True, "normalized": True}, True),
    ],
)
def test_only_a_normalized_token_is_found_in_other_cases(
    entry: dict[str, Any],
    is_found: bool,  # noqa: FBT001 - a table's column
    folder: Path,
) -> None:
    write(folder, listed(entry))
    found = Tokenizer.from_pretrained(folder)
    assert found.encode("Xy") == [6]
    assert (found.encode("xY") == [6]) is is_found


def test_a_list_gives_the_flags_and_a_name_makes_it_special(folder: Path) -> None:
    entries = {"content": "Xy", "lstrip": True}, {"content": "Xy", "rstrip": True}
    write(folder, {CONFIG: {**listed(*entries)[CONFIG], "pad_token": "Xy"}})
    found = Tokenizer.from_pretrained(folder)
    assert found.vocabulary.added == (
        AddedToken("Xy", special=True, normalized=False, rstrip=True),
    )
    write(folder, {MAP: {"pad_token": {"content": "Xy", "special": False, "lstrip": True}}})
    (folder / CONFIG).unlink()
    named = Tokenizer.from_pretrained(folder).vocabulary.added
    assert named == (AddedToken("Xy", special=True, normalized=False, lstrip=True),)


def test_special_names_decide_the_flags_of_a_bare_list(folder: Path) -> None:
    write(folder, {ADDED: {"Xy": 6, "Zz": 7, "Ww": 8}, MAP: {"pad_token": "Xy", "my_token": "Ww"}})
    found = {
        token.content: token.normalized
        for token in Tokenizer.from_pretrained(folder).vocabulary.added
    }
    assert found == {"Xy": False, "Zz": True, "Ww": True}


# In a text.


def parts(text: str, **tokens: AddedToken) -> list[str]:
    """Return the text's parts; those of added tokens are in brackets."""
    finder = AddedTokenFinder((token.content, token, 0) for token in tokens.values())
    return [
        text[start:end] if number is None else f"({text[start:end]})"
        for start, end, number in finder.split(text)
    ]


@pytest.mark.parametrize(
    ("flags", "text", "expected"),
    [
        ({}, "axxb", ["a", "(x)", "(x)", "b"]),
        ({"lstrip": True}, "a \t xb", ["a", "( \t x)", "b"]),
        ({"rstrip": True}, "ax \nb", ["a", "(x \n)", "b"]),
        ({"lstrip": True, "rstrip": True}, " x  x ", ["( x  )", "(x )"]),
        ({"single_word": True}, "x ax x_ .x. x\u00b2 x\u24b6 x\u0301",
         ["(x)", " ax x_ .", "(x)", ". ", "(x)", "\u00b2 x\u24b6 x\u0301"]),
    ],
)  # fmt: skip
def test_flags(flags: dict[str, bool], text: str, expected: list[str]) -> None:
    assert parts(text, x=AddedToken("x", **flags)) == expected


def test_white_space_is_one_tokens_only() -> None:
    space, word = AddedToken(" ", lstrip=True), AddedToken("x", rstrip=True)
    assert parts("x  a", space=space, word=word) == ["(x  )", "a"]
    assert parts("a  b", space=space) == ["a", "( )", "( )", "b"]


def test_the_longest_token_wins() -> None:
    found = parts("aba ab", one=AddedToken("ab"), two=AddedToken("aba"), three=AddedToken("b"))
    assert found == ["(aba)", " ", "(ab)"]


# Decoding.


@pytest.mark.parametrize("normalized", [False, True])
def test_decoding_keeps_the_spelling_of_the_file(
    normalized: bool,  # noqa: FBT001 - a table's column
    folder: Path,
) -> None:
    """As tokenizers 0.22.2; 0.23.3 gives the normalized text, which docs/tokenizer.md has."""
    write(folder, listed({"content": "[Päd X]", "normalized": normalized}))
    found = Tokenizer.from_pretrained(folder)
    ids = found.encode("[Päd X]")
    assert (ids, found.tokens(ids), found.decode(ids)) == ([6], ["[Päd X]"], "[Päd X]")


def test_a_text_that_is_too_large_is_rejected_before_it_is_made(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, listed({"content": "x" * LONGEST_TOKEN, "special": True}))
    found = Tokenizer.from_pretrained(folder)
    ids = [6] * 5_000
    tracemalloc.start()
    with pytest.raises(TokenizerError) as caught:
        found.decode(ids)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert caught.value.what == (
        "the text of 5,000 ids has 327,680,000 characters; the limit is 268,435,456"
    )
    assert (caught.value.exit_code, peak < 2**22) == (4, True)
    monkeypatch.setattr(tokenizer_module, "MOST_DECODED", 3 * LONGEST_TOKEN)
    assert found.decode([6] * 3) == "x" * 3 * LONGEST_TOKEN
    with pytest.raises(TokenizerError):
        found.decode([6] * 4)
