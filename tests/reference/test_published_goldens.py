"""Published numbers: well formed, in agreement with each other, and each with a source."""

import json
import math
from importlib import resources

import pytest

from reference import published as published_files
from reference.published import FILES, SCHEMAS, Golden, Grade, Kind, Measure, published

FOLDER = resources.files("reference").joinpath("goldens")


@pytest.fixture(scope="module")
def by_key() -> dict[str, Golden]:
    return {row.key: row for row in published().rows}


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


def test_known_by_their_files(by_key: By) -> None:
    expected = ("the released openai-gpt weights", None, len(by_key))
    found = published()
    assert expected == (found.about, found.sha256, len(found.rows))


def test_the_values_that_everybody_knows(by_key: By) -> None:
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


def test_ids_without_repetition(by_key: By) -> None:
    ids = by_key["rust-bert/no-repeat"].expected
    assert len(ids) == len(set(ids)) == 40


def test_norms_agree_with_each_other(by_key: By) -> None:
    """The published norms hold among themselves, as a digit copied wrongly would not.

    The least norm is a square matrix's, and the largest, with the largest singular value and the
    least rank, the token embedding's.
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
    told = {"sha256": published_files.SHA256, "git_blob": published_files.GIT_BLOBS}
    rows = [row for row in by_key.values() if row.kind is Kind.FILE_DIGEST]
    asked = {(r.inputs["algorithm"], r.inputs["file"]): r.expected for r in rows}
    assert asked == {at: told[at[0]][at[1]] for at in asked}
    assert set(published_files.GIT_BLOBS) == {f for kind, f in asked if kind == "git_blob"}
    assert by_key["params/count"].expected == published_files.PARAMETERS


def test_every_row_says_where_it_is_from(by_key: By) -> None:
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
