"""Every planted fault is caught, and named by the step that it is in."""

import pytest

from parity.checks.tokens import check
from parity.checks.tokens.check import tokens, words_of_tokens
from parity.checks.tokens.sides import CandidateTokenizer, ReferenceTokenizer, ReleaseTokenizer
from parity.checks.tokens.strings import HAND_PICKED
from parity.core.results import Verdict
from parity.faults.tokenizer import TOKENIZER_FAULTS, inject
from scratch_gpt import Tokenizer
from scratch_gpt.tokenizer.bpe import END


@pytest.fixture(scope="module")
def sources(right: Tokenizer) -> dict[str, list[str]]:
    """Return what the default run has of strings, generated ones and a corpus left out."""
    return {
        "hand-picked": list(HAND_PICKED),
        "tokens as words": words_of_tokens(right.vocabulary.tokens, END),
    }


@pytest.fixture
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take few of the differences apart: a wrong tokenizer differs nearly everywhere."""
    monkeypatch.setattr(check, "TAKEN_APART", 3)


def found(
    side: CandidateTokenizer, against: ReferenceTokenizer, sources: dict[str, list[str]]
) -> tuple[str, set[str]]:
    """Return the verdict, and the steps of all differences."""
    report = tokens(side, against, sources)
    rows = [row for row in report.results if "cause" in row.details]
    return report.verdict.value, {row.details["cause"].step for row in rows}


def of(pretokenizer: str) -> list[str]:
    """Return the faults of a splitting."""
    return [name for name, fault in TOKENIZER_FAULTS.items() if pretokenizer in fault.of]


def test_the_right_one_passes(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, sources: dict[str, list[str]]
) -> None:
    """Without a fault nothing differs."""
    assert (Verdict.PASS.value, set()) == found(ours, theirs, sources)


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("name", of("bert"))
def test_a_fault_is_named(
    name: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer, sources: dict[str, list[str]]
) -> None:
    """Each is caught, and every difference is said to come from its step."""
    side = inject(ours.tokenizer, ours.pretokenizer, name)
    assert ("fail", {TOKENIZER_FAULTS[name].step}) == found(side, theirs, sources)


@pytest.mark.usefixtures("_few")
def test_the_right_side_stays_right(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, sources: dict[str, list[str]]
) -> None:
    """Planting changes nothing in what it was planted into."""
    for name in of("bert"):
        inject(ours.tokenizer, ours.pretokenizer, name).encode_batch(["A b"])
    assert found(ours, theirs, sources)[0] == "pass"


def test_the_right_original_passes(
    original: tuple[CandidateTokenizer, ReleaseTokenizer], sources: dict[str, list[str]]
) -> None:
    """Without a fault the splitting is the transcription's."""
    assert ("pass", set()) == found(*original, sources)


@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("name", [*sorted(set(of("original")) - set(of("bert"))), "case-kept"])
def test_a_fault_of_the_original_is_named(
    name: str, original: tuple[CandidateTokenizer, ReleaseTokenizer], sources: dict[str, list[str]]
) -> None:
    """Each is caught by the strings picked by hand; the first difference is of its step."""
    side, against = original
    wrong = inject(side.tokenizer, side.pretokenizer, name)
    report = tokens(wrong, against, {"hand-picked": sources["hand-picked"]})
    assert report.first_divergence is not None
    expected = (1, f"hand-picked/{TOKENIZER_FAULTS[name].step}")
    assert expected == (report.exit_code, report.first_divergence.tap)


@pytest.mark.slow
@pytest.mark.usefixtures("_few")
@pytest.mark.parametrize("name", [name for name in of("original") if TOKENIZER_FAULTS[name].pairs])
def test_a_fault_of_merging_is_named_in_the_original(
    name: str, original: tuple[CandidateTokenizer, ReleaseTokenizer], sources: dict[str, list[str]]
) -> None:
    """Merging is the same in both splittings; the step is among those that are named."""
    side, against = original
    wrong = inject(side.tokenizer, side.pretokenizer, name)
    verdict, steps = found(wrong, against, sources)
    assert (verdict, TOKENIZER_FAULTS[name].step in steps) == ("fail", True)


def test_every_fault_has_a_splitting() -> None:
    """The two lists above leave none out."""
    assert set(TOKENIZER_FAULTS) == set(of("bert")) | set(of("original"))
