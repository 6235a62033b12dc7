"""Training a vocabulary: the definition, the order of ids, Hugging Face's reading of it."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.bpe_trainer import train_merges
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, pretokenizer_named


def by_definition(words: Mapping[str, int], merges: int) -> list[tuple[str, str]]:
    """Return the merges that counting every pair anew each time gives."""
    pieces = {word: [*word[:-1], word[-1] + END] for word in words}
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < merges:
        counts: Counter[tuple[str, str]] = Counter()
        for word, times in words.items():
            for pair in itertools.pairwise(pieces[word]):
                counts[pair] += times
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:
            break
        chosen[best] = None
        for word, old in pieces.items():
            new: list[str] = []
            for piece in old:
                if new and (new[-1], piece) == best:
                    new[-1] += piece
                else:
                    new.append(piece)
            pieces[word] = new
    return list(chosen)


@pytest.fixture(scope="module")
def counts(small_text: str) -> Counter[str]:
    return Counter(pretokenizer_named("huggingface").words(small_text))


CORPORA = {
    "runs of one letter": {"aaaaaaa": 3, "aaaa": 2, "baaab": 5, "aa": 1},
    "two ways to one token": {"abab": 4, "ababab": 3, "bab": 9, "aba": 8, "babab": 2},
    "one letter": {"a": 7},
    "nothing": {},
    "what occurs once": {"xyz": 1, "ab": 2},
}


@pytest.mark.parametrize("corpus", CORPORA)
def test_corpora_by_hand(corpus: str) -> None:
    words = CORPORA[corpus]
    assert tuple(by_definition(words, 50)) == train_merges(words, merges=50).merges


def test_a_page_of_english(counts: Counter[str]) -> None:
    expected = by_definition(counts, 120)
    assert len(expected) == 120
    assert tuple(expected) == train_merges(counts, merges=120).merges


def test_another_count_gives_other_merges(counts: Counter[str]) -> None:
    less = dict(counts)
    del less["the"]
    assert tuple(by_definition(less, 120)) != train_merges(counts, merges=120).merges


def test_the_order_of_the_words_does_not_matter(counts: Counter[str]) -> None:
    turned = dict(sorted(counts.items(), reverse=True))
    assert train_merges(counts, merges=200) == train_merges(turned, merges=200)


def test_ids_are_in_the_release_order() -> None:
    """`<unk>`, characters by frequency, the same as last ones, then products in order."""
    vocabulary = train_merges({"bcc": 2, "ca": 3}, merges=9)
    assert vocabulary.merges == (("c", "a</w>"), ("b", "c"), ("bc", "c</w>"))
    characters = ("c", "a", "b")
    products = ("ca</w>", "bc", "bcc</w>")
    ends = tuple(character + END for character in characters)
    assert vocabulary.tokens == (UNKNOWN, *characters, *ends, *products)


def test_nothing_makes_the_unknown_token_or_holds_white_space() -> None:
    """Such words give their characters only: their merges could not be written."""
    vocabulary = train_merges({"<unk>": 9, "a b": 9, "\n\n": 9, "no": 2}, merges=50)
    assert vocabulary.merges == (("n", "o</w>"),)
    assert {"<", " ", "\n", "\n</w>"} <= set(vocabulary.tokens)


def test_progress_counts_the_merges() -> None:
    steps: list[int] = []
    train_merges({"abcd": 2}, merges=2, progress=steps.append)
    assert steps == [1, 2]


@pytest.mark.reference
@pytest.mark.usefixtures("unchecked")
def test_hugging_face_loads_a_trained_vocabulary(
    tmp_path: Path, small_text: str, huggingface: Callable, drawn_texts: Callable
) -> None:
    ours = Tokenizer.train([small_text, *drawn_texts(3, 400), *drawn_texts(3, 400)], merges=900)
    ours.save_pretrained(tmp_path / "learned")
    theirs = huggingface(tmp_path / "learned")
    texts = drawn_texts(4, 400)
    assert [list(e.ids) for e in theirs.encode_batch(texts)] == ours.encode_batch(texts)
    assert len(ours.vocabulary.merges) == 900
