"""Faults that can be planted into a right tokenizer, and the step that each is to be found at."""

import dataclasses
from collections.abc import Callable

from parity.tokens import plants
from parity.tokens.planted import Planted
from parity.tokens.plants import Merged, Rewritten
from parity.tokens.sides import Ours
from scratch_gpt.tokenization.vocabulary import Vocabulary
from scratch_gpt.tokenization.words import Splitting, Word
from scratch_gpt.tokenizer import Tokenizer
from scratch_gpt.tokenizer_original import OriginalSplitting


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        what: What is done wrong, in one phrase.
        step: The step that the check has to name.
        of: The splittings into which it can be planted.
        words: Makes a wrong splitting of the right one.
        pairs: Makes wrong merging from the vocabulary.
    """

    what: str
    step: str
    of: tuple[str, ...] = ("bert", "original")
    words: Callable[[Splitting], Splitting] | None = None
    pairs: Callable[[Vocabulary], Merged] | None = None


def _words(rewrite: Callable[[list[Word], str], list[Word]]) -> Callable[[Splitting], Splitting]:
    return lambda right: Rewritten(right, rewrite)


def _kept(words: list[Word], _base: str) -> list[Word]:
    return words


def _unknown(*, kept: bool) -> Callable[[Splitting], Splitting]:
    return lambda right: Rewritten(right, _kept, keeps_unknown=kept)


def _prepared(prepare: Callable[[OriginalSplitting, str], str]) -> Callable[[Splitting], Splitting]:
    """Return what makes an original splitting that prepares its text otherwise."""

    class Otherwise(OriginalSplitting):
        def standardized(self, text: str) -> str:
            return prepare(OriginalSplitting(), text)

    return lambda _right: Otherwise()


BERT, ORIGINAL = ("bert",), ("original",)

FAULTS = {
    "cleaning-skipped": Fault(
        what="zero-width and control characters stay in words",
        step="cleaning",
        of=BERT,
        words=_words(plants.uncleaned),
    ),
    "cjk-joined": Fault(
        what="Chinese characters are no words of their own",
        step="CJK",
        of=BERT,
        words=_words(plants.joined_at("ideographs")),
    ),
    "accents-kept": Fault(
        what="letters keep their accents",
        step="accents",
        of=BERT,
        words=_words(plants.with_source(plants.accented)),
    ),
    "case-kept": Fault(
        what="letters keep their case",
        step="lower case",
        words=_words(plants.with_source(plants.cased)),
    ),
    "punctuation-joined": Fault(
        what="punctuation marks are no words of their own",
        step="word boundaries",
        of=BERT,
        words=_words(plants.joined_at("punctuation")),
    ),
    "unk-split": Fault(
        what="a literal <unk> is characters as others",
        step="special token",
        of=BERT,
        words=_unknown(kept=False),
    ),
    "places-in-bytes": Fault(
        what="places are counted in bytes of UTF-8",
        step="places",
        of=BERT,
        words=_words(plants.in_bytes),
    ),
    "unk-kept": Fault(
        what="a literal <unk> is the unknown token",
        step="special token",
        of=ORIGINAL,
        words=_unknown(kept=True),
    ),
    "newline-dropped": Fault(
        what="newlines are spaces",
        step="newlines",
        of=ORIGINAL,
        words=_words(plants.without_newlines),
    ),
    "backslash-padded": Fault(
        what="backslashes stand alone, as a raw pattern would have it",
        step="word boundaries",
        of=ORIGINAL,
        words=_prepared(lambda right, text: right.standardized(text.replace("\\", " \\ "))),
    ),
    "unrepaired": Fault(
        what="ftfy's and the release's repairs are left out",
        step="text repair",
        of=ORIGINAL,
        words=_prepared(lambda _right, text: " ".join(text.split())),
    ),
    "header-counted": Fault(
        what="the merges' header counts as a merge, and products have the id after theirs",
        step="ids",
        pairs=plants.header_counted,
    ),
    "last-merge-dropped": Fault(
        what="the last merge is not read", step="merges", pairs=plants.last_merge_dropped
    ),
    "leftmost-first": Fault(
        what="merges go from left to right and not by rank",
        step="merges",
        pairs=plants.leftmost_first,
    ),
    "no-end-of-word": Fault(
        what="the last letter of a word has no </w>", step="end of word", pairs=plants.no_end
    ),
    "unknown-is-one": Fault(
        what="unknown characters have id 1",
        step="unknown characters",
        pairs=plants.unknown_as(1),
    ),
    "unknown-dropped": Fault(
        what="unknown characters have no id",
        step="unknown characters",
        pairs=plants.unknown_where(lambda at, ids, unknown: ids[at] != unknown),
    ),
    "unknown-fused": Fault(
        what="unknown characters beside each other have one id",
        step="unknown characters",
        pairs=plants.unknown_where(
            lambda at, ids, unknown: not at or ids[at - 1 : at + 1] != [unknown, unknown]
        ),
    ),
}
"""Every fault that `--plant` knows."""


def planted(right: Tokenizer, split: Splitting, name: str) -> Ours:
    """Return our side with a fault.

    Args:
        right: The right tokenizer; it stays so.
        split: Its splitting.
        name: One of `FAULTS`.
    """
    fault = FAULTS[name]
    wrong = split if fault.words is None else fault.words(split)
    return Ours(Planted(right, wrong, fault.pairs), wrong)
