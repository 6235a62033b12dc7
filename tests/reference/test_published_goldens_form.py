"""The form of a file of goldens: what is right is taken, what is wrong is refused by name."""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from reference import published as module
from reference.errors import RejectedError
from reference.published import Golden, parse, published

ROW: dict[str, Any] = {
    "key": "a/row",
    "kind": "logit",
    "grade": "H",
    "inputs": {"token_ids": [1, 2], "id": 3},
    "expected": 0.5,
    "tolerance": {"measure": "absolute", "bound": 1e-4},
    "source": "a place",
}
GREEDY: dict[str, Any] = ROW | {
    "kind": "greedy_ids",
    "inputs": {"token_ids": [1], "total_length": 3, "no_repeat_ngram_size": 0},
    "expected": [1, 2, 3],
    "tolerance": {"measure": "exact", "bound": 0},
}
WORDS: dict[str, Any] = ROW | {
    "kind": "word_probabilities",
    "inputs": {"token_ids": [1], "words": [2, 3]},
    "expected": [0.1, 0.2],
}


def text_of(*rows: object, **file: object) -> str:
    return json.dumps({"about": "something", "shared": {}, "goldens": list(rows)} | file)


@pytest.mark.parametrize("row", [ROW, GREEDY, WORDS], ids=["logit", "greedy", "words"])
def test_a_right_row_is_taken(row: dict[str, Any]) -> None:
    (found,) = parse(text_of(row), where="f")
    expected = (row["key"], row["kind"], row["inputs"], row["expected"], row["source"])
    assert expected == (found.key, found.kind, found.inputs, found.expected, found.source)


def test_what_rows_share_is_written_once() -> None:
    shared = {"source": "of all", "grade": "M"}
    bare = {name: value for name, value in ROW.items() if name not in shared}
    one, other = parse(text_of(bare, ROW | {"key": "b/row"}, shared=shared), where="f")
    expected = (("of all", "M"), ("a place", "H"))
    assert expected == ((one.source, one.grade), (other.source, other.grade))


def put(row: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return the row with another value at a dotted path; with none there where it is None."""
    changed = copy.deepcopy(row)
    *parents, last = path.split(".")
    place = changed
    for parent in parents:
        place = place[parent]
    place[last] = value
    if value is None:
        del place[last]
    return changed


@pytest.mark.parametrize(
    ("row", "path", "value", "message"),
    [
        (ROW, "source", None, "missing ['source']"),
        (ROW, "source", " ", "source must be a text"),
        (ROW, "surce", "typo", "unknown ['surce']"),
        (ROW, "kind", "logits", "kind must be one of"),
        (ROW, "grade", "S", "grade must be one of H, M"),
        (ROW, "inputs", [1], "inputs must be an object"),
        (ROW, "inputs.id", None, "missing ['id']"),
        (ROW, "inputs.id", True, "inputs.id must be a token id"),
        (ROW, "inputs.id", -1, "inputs.id must be a token id"),
        (ROW, "inputs.token_ids", [], "inputs.token_ids must be a list of token ids"),
        (ROW, "inputs.token_ids", [1.0], "inputs.token_ids must be a list of token ids"),
        (ROW, "inputs.seed", 0, "unknown ['seed']"),
        (ROW, "expected", "0.5", "expected must be a finite number"),
        (ROW, "expected", [0.5], "expected must be a finite number"),
        (ROW, "tolerance.bound", 0.0, "tolerance.bound must be a finite number above 0"),
        (ROW, "tolerance.bound", None, "missing ['bound']"),
        (ROW, "tolerance.measure", "exact", "tolerance.measure must be one of absolute"),
        (ROW, "symptoms", {"got": 1.0}, "symptoms must be a list"),
        (ROW, "symptoms", [{"got": 1.0}], "missing ['means']"),
        (GREEDY, "tolerance.measure", "absolute", "tolerance.measure must be one of exact"),
        (GREEDY, "tolerance.bound", 1e-4, "tolerance.bound must be 0, being exact"),
        (GREEDY, "expected", [1, 2], "inputs and expected must be token_ids and what follows"),
        (GREEDY, "expected", [2, 2, 3], "inputs and expected must be token_ids and what follows"),
        (GREEDY, "inputs.no_repeat_ngram_size", 2, "inputs.no_repeat_ngram_size must be 0 or 1"),
        (WORDS, "expected", [0.1], "inputs and expected must be one probability for each word"),
        (WORDS, "expected", [0.1, 0.0], "expected must be a list of probabilities above 0"),
        (WORDS, "expected", [0.1, 1.5], "expected must be a list of probabilities above 0"),
    ],
)
def test_a_wrong_row_is_refused_by_name(
    row: dict[str, Any], path: str, value: object, message: str
) -> None:
    with pytest.raises(RejectedError) as caught:
        parse(text_of(ROW | {"key": "a/good"}, put(row, path, value)), where="some.json")
    assert caught.value.what.startswith(message)
    assert caught.value.where.startswith("some.json, row 1 ('a/row')")


@pytest.mark.parametrize("key", [None, "no-group", "/row", "group/", 7])
def test_a_key_has_a_group_and_a_name(key: object) -> None:
    with pytest.raises(RejectedError, match="key"):
        parse(text_of(put(ROW, "key", key)), where="f")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not strict JSON"),
        (text_of(ROW).replace("0.5", "NaN"), "NaN is no number"),
        ("[]", "no object with a list of goldens"),
        ("{}", "no object with a list of goldens"),
        (text_of(), "its list of goldens is empty"),
        (text_of(ROW, about=""), "about must be a text"),
        (text_of(ROW, shared=None), "shared must be an object"),
        (text_of(ROW, more=1), "unknown ['more']"),
        (text_of("row"), "a row must be an object"),
    ],
)
def test_a_wrong_file_is_refused(text: str, message: str) -> None:
    with pytest.raises(RejectedError) as caught:
        parse(text, where="some.json")
    assert message in caught.value.what
    assert caught.value.where.startswith("some.json")


def test_two_rows_of_one_key_are_refused() -> None:
    with pytest.raises(RejectedError, match=r"two rows have this key \(a/row"):
        module._distinct([*parse(text_of(ROW), where="f"), *parse(text_of(ROW), where="g")])


def test_published_rows_go_through_the_same_door(monkeypatch: pytest.MonkeyPatch) -> None:
    parse_it: Callable[..., list[Golden]] = module.parse

    def spoilt(text: str, *, where: str) -> list[Golden]:
        return parse_it(text.replace("9.1056", "-Infinity"), where=where)

    monkeypatch.setattr(module, "parse", spoilt)
    with pytest.raises(RejectedError, match="Infinity"):
        published()
