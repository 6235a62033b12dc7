"""The re-implemented tokenizer of the release gives the published ids, step by step."""

from pathlib import Path

import pytest

from reference.original_tokenizer import OriginalTokenizer, prepare_text
from reference.published_token_ids import PUBLISHED

pytest.importorskip("ftfy", reason="not run: ftfy is not installed (extra original-text)")
pytest.importorskip("spacy", reason="not run: spaCy is not installed (extra original-text)")

ROWS = [row for row in PUBLISHED if row.original is not None]


@pytest.fixture(scope="module")
def released(released_vocabulary: Path) -> OriginalTokenizer:
    files = ("encoder_bpe_40000.json", "vocab_40000.bpe")
    return OriginalTokenizer(*(released_vocabulary / name for name in files))


def test_every_published_id_is_met(released: OriginalTokenizer) -> None:
    found = {row.text: released.encode(row.text) for row in ROWS}
    assert {row.text: row.original for row in ROWS} == found


def test_reversed_ranks_give_other_ids(released: OriginalTokenizer) -> None:
    ranks = released.ranks
    last = len(ranks) - 1
    released.ranks = {pair: last - rank for pair, rank in ranks.items()}
    found = [row.text for row in ROWS if released.encode(row.text) != row.original]
    released.ranks = ranks
    assert len(found) > len(ROWS) // 2


def test_steps_of_the_preparation() -> None:
    assert prepare_text('a\\b "c"--d \n\n\te ') == 'a\\b " c " -- d \n e'


@pytest.fixture
def small(tmp_path: Path) -> OriginalTokenizer:
    vocabulary, merges = tmp_path / "v.json", tmp_path / "m.bpe"
    vocabulary.write_text('{"<unk>": 0, "a": 1, "ab": 2, "ab</w>": 3, "abab</w>": 4, "\\n</w>": 5}')
    merges.write_text("#version: 0.2\na b\na b</w>\nab ab</w>\n")
    return OriginalTokenizer(vocabulary, merges, str.split)


@pytest.mark.parametrize(
    ("word", "pieces"),
    [
        ("abab", ["abab</w>"]),
        ("ababab", ["ab", "abab</w>"]),
        ("aab", ["a", "ab</w>"]),
        ("x", ["x</w>"]),
        ("\n ", ["\n</w>"]),
        ("\n", ["\n</w>"]),
    ],
)
def test_merges_go_by_rank(word: str, pieces: list[str], small: OriginalTokenizer) -> None:
    """The lowest rank goes first everywhere, and a newline with a space is a newline."""
    assert pieces == small.pieces(word)


def test_an_unknown_piece_is_zero(small: OriginalTokenizer) -> None:
    assert small.encode("AB a\u0107 z") == [3, 1, 0, 0]
