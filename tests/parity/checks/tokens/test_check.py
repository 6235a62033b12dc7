"""What is compared, counted and told: sources, causes, published ids, and nothing at all."""

import dataclasses

import pytest

from parity.checks.tokens import check
from parity.checks.tokens.check import tokens, words_of_tokens
from parity.checks.tokens.diagnosis import cause_of, part
from parity.checks.tokens.sides import CandidateTokenizer, ReferenceTokenizer, ReleaseTokenizer
from parity.faults.tokenizer import inject
from reference.huggingface_tokenizer import Encoding
from reference.published_token_ids import PublishedIds
from scratch_gpt import Tokenizer


def test_a_source_is_counted(ours: CandidateTokenizer, theirs: ReferenceTokenizer) -> None:
    """Strings, characters, ids, unknown ones, and what vanishes."""
    report = tokens(ours, theirs, {"mine": ["the \u200bthe", "中\x00", ""]})
    (row,) = report.results
    expected = (3, 10, 3, 1, 2, True)
    assert expected == (
        row.details["strings"],
        row.details["characters"],
        row.details["ids"],
        row.details["unknown"],
        row.details["dropped"],
        row.details["places"],
    )
    assert report.plan.per_backend == {"huggingface": (3, 3)}


@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ({}, "no source"),
        ({"mine": []}, "mine"),
        ({"mine": ["", " "]}, "mine"),
        ({"mine": ["the"], "other": []}, "other"),
        ({"mine": ["the"], "other": ["中 文", "<unk>"]}, "other"),
    ],
    ids=["no source", "no string", "no id", "one of two", "unknown alone"],
)
def test_nothing_compared_is_no_pass(
    sources: dict[str, list[str]], named: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """A source without anything to compare leaves the run inconclusive, and is named."""
    report = tokens(ours, theirs, sources)
    assert (3, [named]) == (report.exit_code, [reason.where for reason in report.reasons])


def test_other_places_are_a_difference() -> None:
    """Ids alone are not enough, unless one side tells no places."""
    one = Encoding((1, 2), ((0, 1), (1, 2)))
    assert part(one, Encoding((1, 2), ((0, 1), (1, 3))))
    assert part(one, Encoding((1, 3), None))
    assert not part(one, Encoding((1, 2), None))


class Torn(Tokenizer):
    """Gives other ids with places than without."""

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Leave the last one out."""
        ids, places = super().encode_with_offsets(text)
        return ids[:-1], places[:-1]


def _torn_fails(right: Tokenizer, against: ReferenceTokenizer) -> None:
    report = tokens(CandidateTokenizer(right), against, {"mine": ["the lamp"]})
    assert report.exit_code == 0
    wrong = CandidateTokenizer(Torn(right.vocabulary, pretokenizer=right.pretokenizer))
    report = tokens(wrong, against, {"mine": ["the lamp"]})
    assert report.first_divergence is not None
    assert (report.exit_code, report.first_divergence.tap) == (1, "mine/ids")
    assert "encode and encode_with_offsets" in report.first_divergence.why


def test_ids_and_places_of_one_side_have_to_agree(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """Two ways of encoding that give other ids are a failure."""
    _torn_fails(ours.tokenizer, theirs)


def test_they_have_to_where_the_witness_has_no_places(
    original: tuple[CandidateTokenizer, ReleaseTokenizer],
) -> None:
    """In the original splitting, where only ids are held against each other, as well."""
    side, against = original
    _torn_fails(side.tokenizer, against)


@pytest.mark.parametrize(
    ("name", "text", "step", "shortest", "character"),
    [
        ("accents-kept", "They met in the Café, and left", "accents", "'\\xe9'", "U+00E9"),
        ("case-kept", "and then Xerxes came", "lower case", "'X'", "U+0058"),
        ("cleaning-skipped", "some in\u200bvisible", "cleaning", "'n\\u200bv'", "U+200B"),
        ("cjk-joined", "the 生活 of", "CJK", "'h\\u6d3b'", "U+6D3B"),
        ("unk-split", "an <unk> here", "special token", "'<unk>'", "U+003C"),
        ("places-in-bytes", "äh then", "places", "'\\xe4'", "U+00E4"),
    ],
)
def test_a_difference_is_cut_down(  # noqa: PLR0913 - a table's columns, and both sides
    name: str,
    text: str,
    step: str,
    shortest: str,
    character: str,
    ours: CandidateTokenizer,
    theirs: ReferenceTokenizer,
) -> None:
    """The step, the shortest string as an ASCII literal, and the character it is about."""
    side = inject(ours.tokenizer, ours.pretokenizer, name)
    cause = cause_of(text, side, theirs)
    assert (step, shortest, character) == (cause.step, cause.text, cause.character[:6])


def test_strings_with_one_cause_are_one_row(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """Two strings that come down to the same letter count together; another is another row."""
    side = inject(ours.tokenizer, ours.pretokenizer, "case-kept")
    report = tokens(side, theirs, {"mine": ["a Big one", "Bad", "so Old", "small"]})
    rows = [row for row in report.results if "cause" in row.details]
    assert [(row.details["cause"].text, row.details["strings"]) for row in rows] == [
        ("'B'", 2),
        ("'O'", 1),
    ]


def test_what_is_not_taken_apart_is_counted(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many differ, the count is right."""
    monkeypatch.setattr(check, "TAKEN_APART", 1)
    side = inject(ours.tokenizer, ours.pretokenizer, "case-kept")
    row, *differences = tokens(side, theirs, {"mine": ["A", "B", "C", "d"]}).results
    assert (row.error_ours, len(differences)) == (3.0, 1)


def test_published_ids_are_a_witness_more(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """Where both sides agree and the published ids are others, the run fails and says so."""
    right = ours.tokenizer.encode("the")
    rows = [PublishedIds("the", right, None), PublishedIds("of", [9], None)]
    report = tokens(ours, theirs, {"mine": ["the"]}, published=rows)
    assert report.first_divergence is not None
    cause = report.results[-1].details["cause"]
    assert (cause.ids_ours, cause.ids_theirs) == (tuple(ours.tokenizer.encode("of")), (9,))
    tap = "published ids/published"
    expected = (1, {"huggingface": (1, 1), "published": (2, 2)}, tap)
    assert expected == (report.exit_code, report.plan.per_backend, report.first_divergence.tap)
    assert tokens(ours, theirs, {"mine": ["the"]}, published=rows[:1]).exit_code == 0


def test_every_token_is_a_word() -> None:
    """What ends words is one; anything else has a letter behind it that no merge takes."""
    found = words_of_tokens(["<unk>", "a", "a</w>", "ab</w>", "</w>"], "</w>")
    assert found == ["<unk>\u0e01", "a\u0e01", "a", "ab"]


def test_every_merge_is_needed_by_its_token(right: Tokenizer, theirs: ReferenceTokenizer) -> None:
    """Whichever merge is left out, the text of the token that it makes shows it."""
    vocabulary = right.vocabulary
    for place, (one, two) in enumerate(vocabulary.merges):
        merges = vocabulary.merges[:place] + vocabulary.merges[place + 1 :]
        other = Tokenizer(dataclasses.replace(vocabulary, merges=merges))
        (text,) = words_of_tokens([one + two], "</w>")
        assert tuple(other.encode(text)) != theirs.encode_batch([text])[0].ids
