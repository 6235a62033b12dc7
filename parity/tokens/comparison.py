"""Strings go through both sides, source by source; what differs is taken apart."""

from collections.abc import Iterable, Mapping, Sequence

from parity.fingerprints import Fingerprints
from parity.tokens.causes import Cause, cause_of, part
from parity.tokens.rows import Counts, DifferenceRow, TokenRow, difference_of, row_of
from parity.tokens.sides import Ours, Witness
from reference.published_token_ids import PublishedIds
from scratch_gpt.command.progress import Progress
from scratch_gpt.tokenization.character_classes import character_classes
from scratch_gpt.tokenization.words import UNKNOWN

TAKEN_APART = 40
"""Differing strings of one source that are taken apart; the rest are counted."""

_AT_ONCE = 500
"""Strings that both sides are given together."""


class Comparison:
    """One run of a comparison.

    Args:
        ours: Our side.
        theirs: What it is held against.
        progress: Called as it goes on.
        fingerprints: Takes those of all ids of a source, if they are wanted.
    """

    def __init__(
        self,
        ours: Ours,
        theirs: Witness,
        progress: Progress,
        fingerprints: Fingerprints | None = None,
    ) -> None:
        self.ours, self.theirs = ours, theirs
        self.fingerprints = fingerprints or Fingerprints()
        self.rows: list[TokenRow] = []
        self.differences: list[DifferenceRow] = []
        self._progress = progress
        self._unknown = ours.tokenizer.vocabulary.ids[UNKNOWN]
        self._splitting = ours.tokenizer.splitting

    def source(self, name: str, strings: Sequence[str]) -> None:
        """Compare every string of a source."""
        counts, differing = Counts(), []
        ids: dict[str, list[Sequence[int]]] = {self.ours.name: [], self.theirs.name: []}
        for start in range(0, len(strings), _AT_ONCE):
            self._progress(name, start, len(strings))
            differing += self._compared(strings[start : start + _AT_ONCE], counts, ids)
        for side, texts in ids.items():
            self.fingerprints.take_ids(f"{side}/ids", name, texts)
        self._close(name, self.theirs.name, counts, self._causes(name, differing[:TAKEN_APART]))

    def published(self, rows: Iterable[PublishedIds]) -> None:
        """Compare our ids with those that were published; only of the released vocabulary."""
        counts = Counts(places=False)
        causes: dict[Cause, int] = {}
        for row in rows:
            wanted = getattr(row, self._splitting)
            if wanted is None:
                continue
            mine = self.ours.tokenizer.encode(row.text)
            self._count(row.text, wanted, counts)
            if mine != wanted:
                counts.differing += 1
                causes[self._against(row.text, mine, wanted)] = 1
        self._close("published ids", "published", counts, causes)

    def _against(self, text: str, mine: Sequence[int], wanted: Sequence[int]) -> Cause:
        """Return a difference from published ids: of the text as it is, nobody can ask for less."""
        return Cause(
            step="published",
            why="the ids that were published are others",
            character="the text as it was published",
            text=ascii(text),
            ids_ours=tuple(mine),
            ids_theirs=tuple(wanted),
            words_ours=tuple(map(ascii, self.ours.words(text))),
            words_theirs=(),
        )

    def _compared(
        self, strings: Sequence[str], counts: Counts, ids: Mapping[str, list[Sequence[int]]]
    ) -> list[str]:
        """Count what is met, keep all ids, and return the strings over which the sides part."""
        sides = self.ours.encode_batch(strings), self.theirs.encode_batch(strings)
        for kept, encodings in zip(ids.values(), sides, strict=True):
            kept += [encoding.ids for encoding in encodings]
        differing = []
        for text, mine, other in zip(strings, *sides, strict=True):
            self._count(text, other.ids, counts)
            counts.places &= other.offsets is not None
            if part(mine, other):
                counts.differing += 1
                differing.append(text)
        return differing

    def _count(self, text: str, ids: Sequence[int], counts: Counts) -> None:
        counts.strings += 1
        counts.characters += len(text)
        counts.ids += len(ids)
        counts.unknown += sum(number == self._unknown for number in ids)
        if self._splitting == "original":
            counts.dropped = None
        elif counts.dropped is not None and not (text.isascii() and text.isprintable()):
            removed = character_classes().removed
            counts.dropped += sum(ord(character) in removed for character in text)

    def _close(self, name: str, witness: str, counts: Counts, causes: Mapping[Cause, int]) -> None:
        self.rows.append(row_of(name, witness, counts))
        for cause, strings in causes.items():
            self.differences.append(difference_of(name, witness, cause, strings))

    def _causes(self, name: str, differing: Sequence[str]) -> Mapping[Cause, int]:
        """Return what is behind differences; strings that come down to the same count together."""
        found: dict[Cause, int] = {}
        for number, text in enumerate(differing):
            self._progress(f"{name}: taking differences apart", number, len(differing))
            if part(*(side.encode_batch([text])[0] for side in (self.ours, self.theirs))):
                cause = cause_of(text, self.ours, self.theirs)
                found[cause] = found.get(cause, 0) + 1
        return found


def words_of_tokens(tokens: Iterable[str], end: str) -> list[str]:
    """Return a text for every token whose encoding ends its merges with the token's own.

    A token that ends words is a word; any other one is given a letter to go on with that no
    merge takes.
    """
    spelled = (
        token.removesuffix(end) if token.endswith(end) else f"{token}{_STRANGE}" for token in tokens
    )
    return list(dict.fromkeys(text for text in spelled if text))


_STRANGE = "\u0e01"
"""A Thai letter."""
