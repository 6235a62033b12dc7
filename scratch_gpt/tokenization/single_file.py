"""What `tokenizer.json` holds, the single file of the tokenizers library: ids and merges."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from scratch_gpt.files.shown import shown
from scratch_gpt.tokenization.byte_pairs import END
from scratch_gpt.tokenization.refusal import TokenizerError
from scratch_gpt.tokenization.words import UNKNOWN

_REQUIRED = {"type": "BPE", "unk_token": UNKNOWN, "end_of_word_suffix": END}
"""What says that a model is of GPT-1's kind."""

_IF_THERE: Mapping[str, tuple[object, ...]] = {
    "continuing_subword_prefix": (None, ""),
    "fuse_unk": (False,),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
    "dropout": (None,),
}
"""What a model may leave out, and the values that leave it GPT-1's."""

_AROUND = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
"""What prepares text for it, where the file says."""


class Parts(NamedTuple):
    """A vocabulary as the file has it.

    Attributes:
        ids: What is said to be the id of each token.
        merges: The pairs in their order.
    """

    ids: dict[str, object]
    merges: list[tuple[str, str]]


def parts(whole: Mapping[str, Any], where: str) -> Parts:
    """Return the ids and merges of a model of our kind.

    Args:
        whole: What the file holds.
        where: The file.

    Raises:
        TokenizerError: It is of another kind, prepares text otherwise, or adds tokens.
    """
    model = whole.get("model")
    if not isinstance(model, dict):
        raise _refused("it holds no model", where)
    _require_kind(model, where)
    _require_preparation(whole, where)
    ids, merges = model.get("vocab"), model.get("merges")
    if not isinstance(ids, dict) or not isinstance(merges, list):
        raise _refused("its model has no vocab or no merges", where)
    _require_nothing_added(whole.get("added_tokens", []), ids, where)
    return Parts(ids, [pair(merge, number, where) for number, merge in enumerate(merges, start=1)])


def pair(merge: object, number: int, where: str) -> tuple[str, str]:
    """Return a merge: a list of two tokens, or a text of two with a space between.

    A token with a space or a line break in it is none: no file of merges could hold it.

    Raises:
        TokenizerError: It is not two tokens.
    """
    words = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(words, list) and len(words) == _TWO:
        one, two = words
        if isinstance(one, str) and isinstance(two, str) and _writable(one) and _writable(two):
            return one, two
    raise _refused(f"merge {number} is {shown(merge)}, not two tokens", where)


_TWO = 2


def _writable(token: str) -> bool:
    """Return whether a line of merges could hold the token."""
    return bool(token) and not any(mark in token for mark in " \n\r")


def _require_kind(model: Mapping[str, Any], where: str) -> None:
    for name, wanted in _REQUIRED.items():
        if name not in model:
            raise _refused(f"its model has no {name}, GPT-1's is {wanted!r}", where)
        if model[name] != wanted:
            message = f"its model's {name} is {shown(model[name])}, GPT-1's is {wanted!r}"
            raise _refused(message, where)
    for name, allowed in _IF_THERE.items():
        if name in model and model[name] not in allowed:
            message = f"its model's {name} is {shown(model[name])}, GPT-1's is {allowed[-1]!r}"
            raise _refused(message, where)


def _require_preparation(whole: Mapping[str, Any], where: str) -> None:
    """Require that text is prepared as for GPT-1, if the file says how."""
    for name, wanted in _AROUND.items():
        if name not in whole:
            continue
        found = whole[name]
        kind = found.get("type") if isinstance(found, dict) else found
        if kind != wanted:
            raise _refused(f"its {name} is {shown(kind)}, GPT-1's is {wanted!r}", where)


def _require_nothing_added(added: object, ids: Mapping[str, object], where: str) -> None:
    """Require that every token that the file adds to its model is the model's, with its id."""
    if not isinstance(added, list) or not all(
        isinstance(token, dict) and isinstance(token.get("content"), str) for token in added
    ):
        raise _refused("its added_tokens are no list of tokens", where)
    new = [token["content"] for token in added if token["content"] not in ids]
    if new:
        raise _refused(f"it adds tokens that its model does not have: {shown(new)}", where)
    for token in added:
        content, number = token["content"], token.get("id")
        if number != ids[content]:
            message = f"it adds {shown(content)} as id {shown(number)}, its model's is"
            raise _refused(f"{message} {shown(ids[content])}", where)


def _refused(what: str, where: str) -> TokenizerError:
    return TokenizerError(what, where=where, fix="fetch the file again")
