"""The tokens of a model and the pairs that make them: sound, or refused."""

import functools
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scratch_gpt.files.shown import shown
from scratch_gpt.tokenization.refusal import TokenizerError
from scratch_gpt.tokenization.words import UNKNOWN

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, and merges in the order in which they were learned.

    Attributes:
        tokens: The token of each id.
        merges: Pairs of tokens; what a pair makes is a token too.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]

    @classmethod
    def checked(
        cls,
        ids: Mapping[str, object],
        merges: Sequence[tuple[str, str]],
        *,
        ids_from: str,
        merges_from: str,
    ) -> "Vocabulary":
        """Return the vocabulary, if it is one.

        Args:
            ids: What is said to be the id of each token.
            merges: The pairs in order.
            ids_from: The file that the ids are from.
            merges_from: The file that the merges are from.

        Raises:
            TokenizerError: Ids are no numbers, stand twice or leave a gap; `<unk>` is missing; a
                token is not valid Unicode; a merge stands twice, or is of what is no token.
        """
        _check_ids(ids, ids_from)
        _check_merges(ids, merges, merges_from)
        return cls(tuple(sorted(ids, key=ids.__getitem__)), tuple(merges))  # type: ignore[arg-type]

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of tokens and merges, whatever files they came from."""
        canonical = json.dumps([self.tokens, self.merges], separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _check_ids(ids: Mapping[str, object], where: str) -> None:
    owners: dict[object, str] = {}
    for token, number in ids.items():
        if type(number) is not int:
            raise _refused(f"the id of {shown(token)} is {shown(number)}, no whole number", where)
        if _SURROGATE.search(token):
            raise _refused(f"the token {shown(token)} is not valid Unicode", where)
        if number in owners:
            message = f"{shown(owners[number])} and {shown(token)} both have the id {number}"
            raise _refused(message, where)
        owners[number] = token
    outside = next((number for number in owners if number not in range(len(ids))), None)
    if outside is not None:
        message = f"{shown(owners[outside])} has the id {shown(outside)}, of {len(ids)} tokens"
        raise _refused(message, where)
    if UNKNOWN not in ids:
        raise _refused(f"it has no token {UNKNOWN}, which stands for what it does not know", where)


def _check_merges(ids: Mapping[str, object], merges: Sequence[tuple[str, str]], where: str) -> None:
    seen: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(merges, start=1):
        name = f"merge {number}, {shown(' '.join(pair))},"
        if pair in seen:
            raise _refused(f"{name} is merge {seen[pair]} again", where)
        seen[pair] = number
        for token in (*pair, "".join(pair)):
            if token not in ids:
                message = f"{name} needs the token {shown(token)}, which the vocabulary has not"
                raise _refused(message, where)
            if token == UNKNOWN:
                raise _refused(f"{name} is of {UNKNOWN}, which no characters make", where)


def _refused(what: str, where: str) -> TokenizerError:
    fix = "fetch the vocabulary and its merges again, both from one place"
    return TokenizerError(what, where=where, fix=fix)
