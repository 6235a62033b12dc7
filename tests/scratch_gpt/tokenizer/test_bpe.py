"""Merging the pairs of one word: the definition, strange vocabularies, the number of steps."""

import itertools
import random
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.tokenizer.bpe import END, BytePairs
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.vocabulary import Vocabulary


class Counting(dict[tuple[int, int], int]):
    """Ranks that count how often they are looked up."""

    lookups = 0

    def __contains__(self, pair: object) -> bool:
        self.lookups += 1
        return super().__contains__(pair)

    def get(self, pair: tuple[int, int], default: int | None = None) -> int | None:  # type: ignore[override]
        self.lookups += 1
        return super().get(pair, default)


def by_definition(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Return a word's pieces as the release finds them: every pair of the lowest rank at once."""
    pieces = [*word[:-1], word[-1] + END]
    while True:
        known = [pair for pair in itertools.pairwise(pieces) if pair in ranks]
        if not known:
            return pieces
        best = min(known, key=ranks.__getitem__)
        merged: list[str] = []
        for piece in pieces:
            if merged and (merged[-1], piece) == best:
                merged[-1] += piece
            else:
                merged.append(piece)
        pieces = merged


def pairs_of(vocabulary: Vocabulary) -> BytePairs:
    unknown = vocabulary.ids[UNKNOWN]
    return BytePairs(vocabulary.ids, vocabulary.merges, unknown=unknown)


def drawn_words(vocabulary: Vocabulary, count: int) -> list[str]:
    source = random.Random(7)  # noqa: S311 - a test repeats itself
    tokens = [token.removesuffix(END) for token in vocabulary.tokens[1:]]
    return ["".join(source.choices(tokens, k=source.randint(1, 9))) for _ in range(count)]


def test_words_are_merged_as_defined(ours: Tokenizer) -> None:
    vocabulary = ours.vocabulary
    pairs, ranks = pairs_of(vocabulary), {m: n for n, m in enumerate(vocabulary.merges)}
    for word in drawn_words(vocabulary, 800):
        assert by_definition(word, ranks) == [vocabulary.tokens[i] for i in pairs.merged(word)]


def long_words(vocabulary: Vocabulary) -> list[str]:
    """Return words longer than those that are cut: of tokens, of characters, and of both."""
    source = random.Random(11)  # noqa: S311 - a test repeats itself
    letters = [token for token in vocabulary.tokens if len(token) == 1] + ["字"]
    tokens = drawn_words(vocabulary, 400)
    return [
        "".join(source.choices(kind, k=100)) for kind in (tokens, letters, letters + tokens)
    ] * 3  # fmt: skip


def test_a_long_word_is_cut_where_nothing_is_merged(ours: Tokenizer) -> None:
    vocabulary, ranks = ours.vocabulary, {m: n for n, m in enumerate(ours.vocabulary.merges)}
    pairs = pairs_of(vocabulary)
    for word in long_words(vocabulary):
        found = [vocabulary.tokens[i] for i in pairs.merged(word)]
        known = [vocabulary.tokens[vocabulary.ids.get(p, 0)] for p in by_definition(word, ranks)]
        assert known == found
        assert any(word[at : at + 2] not in pairs._neighbors for at in range(len(word) - 1))


def test_a_wrong_cut_is_found(ours: Tokenizer) -> None:
    vocabulary = ours.vocabulary
    right, wrong = pairs_of(vocabulary), pairs_of(vocabulary)
    wrong.__dict__["_neighbors"] = {pair for pair in right._neighbors if "e" not in pair}
    words = long_words(vocabulary)
    assert [right.merged(word) for word in words] != [wrong.merged(word) for word in words]


def test_merges_of_the_unknown_token_forbid_cuts() -> None:
    """Then two characters without tokens may become one piece."""
    vocabulary = Vocabulary((UNKNOWN, "a", "a</w>", "<unk>a"), ((UNKNOWN, "a"),))
    pairs = pairs_of(vocabulary)
    expected = [3] * 40 + [2]
    assert expected == pairs.merged("xa" * 40 + "a")


def test_another_order_of_merges_is_found(ours: Tokenizer) -> None:
    vocabulary = ours.vocabulary
    pairs, ranks = pairs_of(vocabulary), {m: -n for n, m in enumerate(vocabulary.merges)}
    words = drawn_words(vocabulary, 100)
    merged = [[vocabulary.tokens[i] for i in pairs.merged(word)] for word in words]
    assert (
        sum(by_definition(w, ranks) != pieces for w, pieces in zip(words, merged, strict=True)) > 50
    )


STRANGE = {
    "overlapping pairs": (  # taken from the left
        (UNKNOWN, "a", "a</w>", "aa", "aaa", "aaaa", "aa</w>", "aaa</w>"),
        (("a", "a"), ("aa", "a"), ("aa", "aa"), ("a", "a</w>"), ("aa", "a</w>")),
        ["a" * length for length in (1, 2, 3, 63, 64, 65, 2_000)],
    ),
    "two merges that make one token": (  # a pair learned late brings back one learned early
        (UNKNOWN, *"abcd", *(c + END for c in "abcd"), "ab", "abc", "bc", "abca", "abcd</w>"),
        (("ab", "c"), ("abc", "a"), ("abc", "d</w>"), ("b", "c"), ("a", "bc"), ("a", "b")),
        ["".join(word) for n in (3, 4, 6) for word in itertools.product("abcd", repeat=n)],
    ),
}


@pytest.mark.reference
@pytest.mark.parametrize("case", STRANGE)
def test_strange_vocabularies(case: str, tmp_path: Path, huggingface: Callable) -> None:
    tokens, merges, words = STRANGE[case]
    tokenizer = Tokenizer(Vocabulary(tokens, merges))
    tokenizer.save_pretrained(tmp_path)
    expected = [list(encoding.ids) for encoding in huggingface(tmp_path).encode_batch(words)]
    assert expected == tokenizer.encode_batch(words)


def test_what_has_no_token_is_unknown(ours: Tokenizer) -> None:
    vocabulary = Vocabulary((UNKNOWN, "a", "b", "b</w>", "ab</w>"), (("a", "b</w>"),))
    assert pairs_of(vocabulary).merged("xab") == [0, 4]
    assert pairs_of(vocabulary).merged("ba") == [2, 0]
    assert ours.encode("字字") == [0, 0]


def test_steps_grow_with_the_word_and_not_with_its_square(ours: Tokenizer) -> None:
    """Each position looks up a few ranks; the definition looks up all of them after every merge."""
    vocabulary = ours.vocabulary
    pairs = pairs_of(vocabulary)
    word = "".join(drawn_words(vocabulary, 4_000))
    pairs._ranks = counting = Counting(pairs._ranks)
    pairs.merged(word)
    assert len(word) > 40_000
    assert len(word) <= counting.lookups <= 7 * len(word)
    slow: Counting = Counting({m: n for n, m in enumerate(vocabulary.merges)})  # type: ignore[misc]
    by_definition(word[:2_000], slow)  # type: ignore[arg-type]
    assert slow.lookups > 7 * 2_000
