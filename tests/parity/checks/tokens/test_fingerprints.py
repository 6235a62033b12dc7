"""Fingerprints of ids: a digest for each source of strings and each side."""

import pytest

from parity.checks.tokens import check
from parity.checks.tokens.check import tokens
from parity.checks.tokens.sides import CandidateTokenizer, ReferenceTokenizer
from parity.faults.tokenizer import inject
from scratch_gpt import Tokenizer

SOURCES = {"mine": ["The café, once", "more", "", "中"], "other": ["more", "and more"]}


def test_each_source_has_one_of_each_side(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    """Under the source's name, of all ids in order; where sides agree they are the same."""
    report = tokens(ours, theirs, SOURCES, fingerprints=True)
    found = {(entry.subject, entry.tap): entry for entry in report.fingerprints}
    sides = ("ours", "huggingface")
    assert [(side, name) for name in SOURCES for side in sides] == list(found)
    for name, strings in SOURCES.items():
        ids = [ours.tokenizer.encode(text) for text in strings]
        mine, its = (found[side, name] for side in sides)
        assert (mine.shape, mine.dtype, mine.mode) == ((sum(map(len, ids)),), "ids", "exact")
        assert (mine.digest, None, "") == (its.digest, mine.norm, mine.sketch)
    assert found["ours", "mine"].digest != found["ours", "other"].digest


def test_how_many_are_given_at_once_does_not_matter(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A source longer than what goes through at once has the digest of all of it."""
    whole = tokens(ours, theirs, SOURCES, fingerprints=True).fingerprints
    monkeypatch.setattr(check, "_AT_ONCE", 1)
    assert whole == tokens(ours, theirs, SOURCES, fingerprints=True).fingerprints


def test_watching_changes_nothing(ours: CandidateTokenizer, theirs: ReferenceTokenizer) -> None:
    """Rows are what they are without fingerprints."""
    watched = tokens(ours, theirs, SOURCES, fingerprints=True)
    without = tokens(ours, theirs, SOURCES)
    assert watched.results == without.results
    assert list(without.fingerprints) == []


def test_a_fault_moves_the_source_that_meets_it(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, right: Tokenizer
) -> None:
    """Accents that are kept change the ids of a text that has one, on our side."""
    wrong = inject(right, ours.pretokenizer, "accents-kept")
    before, after = (
        {(entry.subject, entry.tap): entry for entry in report.fingerprints}
        for report in (tokens(side, theirs, SOURCES, fingerprints=True) for side in (ours, wrong))
    )
    assert [key for key in before if before[key] != after[key]] == [("ours", "mine")]
