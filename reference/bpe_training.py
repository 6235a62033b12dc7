"""Two references for the training of merges: its definition, and the tokenizers library's trainer.

The definition counts every pair again before each merge, so it is slow and short.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import islice, pairwise

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

Pair = tuple[str, str]

UNKNOWN, END = "<unk>", "</w>"


def steps(words: Mapping[str, int]) -> Iterator[tuple[Pair, dict[Pair, int]]]:
    """Yield each merge with the counts of all pairs before it, until no pair occurs twice.

    Of equally frequent pairs the first in the order of code points is merged. A word that no file
    of merges could hold, with white space or the unknown token in it, is left out.

    Source: Sennrich, Haddow and Birch 2016, algorithm 1.
    """
    spelled = {
        word: " ".join([*word[:-1], word[-1] + END])
        for word in words
        if not any(map(str.isspace, word)) and UNKNOWN not in word
    }
    seen = set()
    while True:
        counts: dict[Pair, int] = {}
        for word, pieces in spelled.items():
            for pair in pairwise(pieces.split(" ")):
                counts[pair] = counts.get(pair, 0) + words[word]
        best = min(counts, key=lambda pair: (-counts[pair], pair), default=None)
        if best is None or counts[best] < 2:  # noqa: PLR2004 - it must occur twice
            return
        for word, pieces in spelled.items():
            spelled[word] = _joined(pieces, best)
        if best not in seen:  # a merge that makes a token again can bring an old pair back
            yield best, counts
        seen.add(best)


def _joined(pieces: str, pair: Pair) -> str:
    """Return pieces with spaces between them, every occurrence of a pair joined."""
    made, rest = "", f"{pieces} "
    while rest:
        if rest.startswith(f"{pair[0]} {pair[1]} "):
            made += f"{pair[0]}{pair[1]} "
            rest = rest[len(pair[0]) + len(pair[1]) + 2 :]
        else:
            piece, _, rest = rest.partition(" ")
            made += f"{piece} "
    return made[:-1]


def train(words: Mapping[str, int], merges: int) -> tuple[list[str], list[Pair]]:
    """Return tokens by id, and merges.

    The tokens are `<unk>`, the characters by frequency, the same as ends of words, the products.

    Args:
        words: The words with their counts.
        merges: Merges at most.
    """
    found = [pair for pair, _ in islice(steps(words), merges)]
    counts: Counter[str] = Counter()
    for word, times in words.items():
        counts.update({character: word.count(character) * times for character in word})
    alphabet = sorted(sorted(counts), key=lambda character: -counts[character])
    ends = [character + END for character in alphabet]
    return list(dict.fromkeys([UNKNOWN, *alphabet, *ends, *map("".join, found)])), found


def library_merges(words: Mapping[str, int]) -> list[Pair]:
    """Return the merges of the tokenizers library's trainer; it breaks ties in no fixed order."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN, end_of_word_suffix=END))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer = trainers.BpeTrainer(
        vocab_size=1 << 20,
        min_frequency=2,
        special_tokens=[UNKNOWN],
        end_of_word_suffix=END,
        show_progress=False,
    )
    tokenizer.train_from_iterator((" ".join([word] * n) for word, n in words.items()), trainer)
    found = json.loads(tokenizer.to_str())["model"]["merges"]
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in found]


def before_a_tie(words: Mapping[str, int]) -> list[Pair]:
    """Return the merges up to the first that another pair of the same count could replace."""
    found = []
    for pair, counts in steps(words):
        if sum(count == counts[pair] for count in counts.values()) > 1:
            break
        found.append(pair)
    return found
