"""Published files and numbers: complete, in agreement with each other, each with a source."""

import copy
import hashlib
import json
import math
import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from reference import published
from reference.errors import RejectedError
from reference.files import digest_path
from reference.published import FILES, SCHEMAS, Golden, Grade, Kind, Measure, parse

OTHER = "0" * 64


def test_every_file_of_the_release_has_its_id() -> None:
    shards = {f"params_{index}.npy" for index in range(10)}
    others = {"params_shapes.json", "encoder_bpe_40000.json", "vocab_40000.bpe"}
    assert shards | others == set(published.GIT_BLOBS)
    assert len(set(published.GIT_BLOBS.values())) == 13


def test_every_digest_is_one() -> None:
    assert all(re.fullmatch("[0-9a-f]{64}", digest) for digest in published.SHA256.values())
    assert all(re.fullmatch("[0-9a-f]{40}", digest) for digest in published.GIT_BLOBS.values())
    assert re.fullmatch("[0-9a-f]{40}", published.REVISION)
    assert published.SHA256["vocab.json"] == published.SHA256["encoder_bpe_40000.json"]
    assert published.SHA256["merges.txt"] == published.SHA256["vocab_40000.bpe"]
    assert len(set(published.SHA256.values())) == 4


@pytest.mark.parametrize("name", published.SHA256)
def test_published_bytes_are_known(name: str) -> None:
    sha256 = published.SHA256[name]
    for released in (True, False):
        assert published.standing(name, sha256=sha256, released=released) == "known"


@pytest.mark.parametrize("name", published.GIT_BLOBS)
def test_published_bytes_are_known_by_gits_id(name: str) -> None:
    """The shards' SHA-256 was never published."""
    blob = published.GIT_BLOBS[name]
    assert published.standing(name, sha256=OTHER, git_blob=blob) == "known"


@pytest.mark.parametrize("name", [*published.SHA256, *published.GIT_BLOBS])
def test_other_bytes_differ_only_if_the_caller_claims_the_released_ones(name: str) -> None:
    """Every model has files of these names."""
    blob = "0" * 40
    assert published.standing(name, sha256=OTHER, git_blob=blob) == "unknown"
    assert published.standing(name, sha256=OTHER, git_blob=blob, released=True) == "differs"


def test_a_shard_under_anothers_name_differs() -> None:
    third = published.GIT_BLOBS["params_3.npy"]
    assert (
        published.standing("params_4.npy", sha256=OTHER, git_blob=third, released=True) == "differs"
    )


def test_a_file_that_was_not_published_is_unknown() -> None:
    assert published.standing("config.json", sha256=OTHER, released=True) == "unknown"
    assert published.standing("mine.bin", sha256=OTHER, released=True) == "unknown"


def test_the_digests_are_those_of_the_released_vocabulary(released_vocabulary: Path) -> None:
    for name in ("encoder_bpe_40000.json", "vocab_40000.bpe", "params_shapes.json"):
        file = digest_path(released_vocabulary / name)
        assert published.GIT_BLOBS[name] == file.git_blob
        assert published.SHA256.get(name, file.sha256) == file.sha256
        assert hashlib.sha256((released_vocabulary / name).read_bytes()).hexdigest() == file.sha256


# The golden numbers.

FOLDER = resources.files("reference").joinpath("goldens")


@pytest.fixture(scope="module")
def by_key() -> dict[str, Golden]:
    return {row.key: row for row in published.published().rows}


By = dict[str, Golden]


def test_every_file_is_read() -> None:
    found = {f.name for f in FOLDER.iterdir() if f.name.endswith(".json")}
    assert {*FILES, "token_ids.json"} == found


def test_every_kind_is_there(by_key: By) -> None:
    kinds = [row.kind for row in by_key.values()]
    expected = {
        Kind.GREEDY_IDS: 2,
        Kind.LOGITS_SHAPE: 1,
        Kind.ARGMAX: 2,
        Kind.LOGIT: 1,
        Kind.WORD_PROBABILITIES: 327,
        Kind.MEDIAN_DIFFERENCE: 1,
        Kind.EXP_LOSS: 3,
        Kind.MATRIX_NORMS: 12,
        Kind.FIRST_PARAMETERS: 4,
        Kind.PARAMETER_COUNT: 1,
        Kind.FILE_DIGEST: 17,
        Kind.BEAM_TEXTS: 2,
    }
    assert expected == {kind: kinds.count(kind) for kind in Kind}
    assert set(Kind) == set(SCHEMAS)


def test_the_released_weights_are_identified_by_their_files(by_key: By) -> None:
    expected = ("the released openai-gpt weights", None, len(by_key))
    found = published.published()
    assert expected == (found.about, found.sha256, len(found.rows))


def test_some_values_are_as_published(by_key: By) -> None:
    logit = by_key["rust-bert/logit"]
    expected = (9.1056, 580, [3039, 599, 481, 1115, 1392, 812], Measure.ABSOLUTE, 1e-4)
    assert expected == (
        logit.expected,
        logit.inputs["id"],
        logit.inputs["token_ids"],
        logit.tolerance.measure,
        logit.tolerance.bound,
    )
    greedy = by_key["transformers/greedy"].expected
    assert greedy[:10] == [481, 4735, 544, 246, 963, 870, 762, 239, 244, 40477]
    words = [row for row in by_key.values() if row.kind is Kind.WORD_PROBABILITIES]
    assert sum(len(row.expected) for row in words) == 654


def test_prefixes_are_distinct_and_probabilities_are_those_of_words(by_key: By) -> None:
    words = [row for row in by_key.values() if row.kind is Kind.WORD_PROBABILITIES]
    assert len(words) == len({tuple(row.inputs["token_ids"]) for row in words})
    assert all(sum(row.expected) < 1.0 for row in words)
    assert all(len(set(row.inputs["words"])) == 2 for row in words)


def test_the_ids_without_repetition_repeat_none(by_key: By) -> None:
    ids = by_key["rust-bert/no-repeat"].expected
    assert len(ids) == len(set(ids)) == 40


def test_norms_agree_with_each_other(by_key: By) -> None:
    """A digit copied wrongly would show.

    The least norm is a square matrix's. The largest norm, the largest singular value and the least
    rank are the token embedding's.
    """

    def value(name: str) -> float:
        return float(by_key[f"weightwatcher/{name}"].expected)

    square = value("rms-least") * 768 / math.sqrt(2.0)
    assert math.isclose(square, value("norm-least"), rel_tol=1e-6)
    rank = value("norm-largest") ** 2 / value("sigma-largest")
    assert math.isclose(rank, value("rank-least"), rel_tol=1e-6)
    least = [value(f"{q}-least") for q in ("rms", "norm", "sigma", "rank")]
    means = [value(f"{q}-mean") for q in ("rms", "norm", "sigma", "rank")]
    largest = [value(f"{q}-largest") for q in ("rms", "norm", "sigma", "rank")]
    assert all(a < b < c for a, b, c in zip(least, means, largest, strict=True))


def test_first_parameters_agree_with_each_other(by_key: By) -> None:
    for alone, together in (("element-0", "positions"), ("element-393216", "tokens")):
        one, four = by_key[f"params/{alone}"], by_key[f"params/{together}"]
        assert one.inputs == four.inputs
        assert math.isclose(one.expected[0], four.expected[0], rel_tol=1e-7)


def test_digests_are_those_of_the_published_files(by_key: By) -> None:
    digests = {"sha256": published.SHA256, "git_blob": published.GIT_BLOBS}
    rows = [row for row in by_key.values() if row.kind is Kind.FILE_DIGEST]
    asked = {(r.inputs["algorithm"], r.inputs["file"]): r.expected for r in rows}
    assert asked == {at: digests[at[0]][at[1]] for at in asked}
    assert set(published.GIT_BLOBS) == {f for kind, f in asked if kind == "git_blob"}
    assert by_key["params/count"].expected == published.PARAMETERS


def test_every_row_has_a_source(by_key: By) -> None:
    """Sources are places, and medium grades are those with an ambiguity."""
    medium = {row.group for row in by_key.values() if row.grade is Grade.MEDIUM}
    assert {"issue-473", "params"} == medium
    assert all(len(row.source) > 20 for row in by_key.values())


def test_the_probabilities_carry_their_licence() -> None:
    document = json.loads(FOLDER.joinpath("word_probabilities.json").read_text("utf-8"))
    for words in ("Apache-2.0", "huggingface/bert-syntax", "9ade6f6", "Changed:"):
        assert words in document["licence"]
    licence = FOLDER.joinpath("LICENSE-Apache-2.0.txt").read_text("utf-8")
    assert "END OF TERMS AND CONDITIONS" in licence


# The form of a file of golden numbers.

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
def test_a_right_row_is_read(row: dict[str, Any]) -> None:
    (found,) = parse(text_of(row), where="f")
    expected = (row["key"], row["kind"], row["inputs"], row["expected"], row["source"])
    assert expected == (found.key, found.kind, found.inputs, found.expected, found.source)


def test_a_row_overrides_the_shared_fields() -> None:
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
        published._distinct([*parse(text_of(ROW), where="f"), *parse(text_of(ROW), where="g")])


def test_published_rows_are_checked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def spoilt(text: str, *, where: str) -> list[Golden]:
        return parse(text.replace("9.1056", "-Infinity"), where=where)

    monkeypatch.setattr(published, "parse", spoilt)
    with pytest.raises(RejectedError, match="Infinity"):
        published.published()
