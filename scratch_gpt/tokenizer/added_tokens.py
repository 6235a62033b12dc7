"""Tokens that were added to a vocabulary: read from Hugging Face's files, and found in a text.

An added token, such as `[PAD]`, is found in the text before it is split into words. Its id is that
of the vocabulary's token with the same text, or else the next free one.

Source: transformers tokenization_utils_base.py `_from_pretrained`, tokenization_utils_tokenizers.py
`TokenizersBackend.__init__`; tokenizers added_vocabulary.rs.
"""

import dataclasses
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.errors import CheckpointError, TokenizerError, one_line, quote
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN

ADDED_TOKENS, SPECIAL_TOKENS_MAP = "added_tokens.json", "special_tokens_map.json"
TOKENIZER_CONFIG, TOKENIZER_JSON = "tokenizer_config.json", "tokenizer.json"

_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LARGEST = 64 << 20
"""Bytes; the released vocabulary's two files have under 1 MB each, `tokenizer.json` 1.3 MB."""
_MOST_TOKENS = 100_000


@dataclasses.dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text as it stands, or in the normalized text.

    Attributes:
        special: Whether it is a control token; then `normalized` is false unless a file says so.
        normalized: Whether its normalized text is searched in the normalized text.
        lstrip: Whether white space before it belongs to it.
        rstrip: Whether white space after it belongs to it.
        single_word: Whether it is found only beside other characters than letters and digits.
    """

    content: str
    special: bool = False
    normalized: bool = True
    lstrip: bool = False
    rstrip: bool = False
    single_word: bool = False


UNKNOWN_TOKEN = AddedToken(UNKNOWN, special=True, normalized=False)
"""The added token that every vocabulary has; it is never listed."""


def read_added_tokens(folder: Path) -> list[AddedToken]:
    """Return the added tokens of a folder, in the order in which they get their ids.

    `tokenizer_config.json` lists them; without a list there, `added_tokens.json`,
    `special_tokens_map.json` and `tokenizer.json` do. The named special tokens follow.

    Raises:
        TokenizerError: A file is unsound.
        CheckpointError: A file cannot be opened.
    """
    config = _object(folder / TOKENIZER_CONFIG)
    where = one_line(folder / TOKENIZER_CONFIG)
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"]
        if not isinstance(entries, dict):
            raise _unsound("added_tokens_decoder is not an object", where)
        for number, entry in entries.items():
            listed[_number(number, where)] = _token(entry, where)
    else:
        config |= _object(folder / SPECIAL_TOKENS_MAP)
    named = _named_tokens(config, where)
    if "added_tokens_decoder" not in config:
        special = {token.content for token in named}
        where = one_line(folder / ADDED_TOKENS)
        for content, number in _object(folder / ADDED_TOKENS).items():
            is_special = content in special
            token = AddedToken(content, special=is_special, normalized=not is_special)
            listed[_number(number, where)] = token
        where = one_line(folder / TOKENIZER_JSON)
        entries = _object(folder / TOKENIZER_JSON).get("added_tokens", [])
        if not isinstance(entries, list):
            raise _unsound("added_tokens is not a list", where)
        for entry in entries:
            number = entry.get("id") if isinstance(entry, dict) else entry
            listed[_number(number, where)] = _token(entry, where)
    ordered = [listed[number] for number in sorted(listed)]
    found = {token.content: token for token in reversed([*ordered, *named])}
    contents = dict.fromkeys(token.content for token in (*ordered, *named) if token.content)
    if len(contents) > _MOST_TOKENS:
        raise _unsound(f"{len(contents):,} tokens are added; the limit is {_MOST_TOKENS:,}", where)
    return [found[content] for content in contents if found[content] != UNKNOWN_TOKEN]


def _named_tokens(config: Mapping[str, Any], where: str) -> list[AddedToken]:
    """Return the special tokens that have a name: `pad_token` and its like, and the extra ones."""
    own = [key for key in config if key.endswith("_token") and key not in _NAMED]
    values = [config.get(key) for key in (*_NAMED, *own)]
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    values += list(extra.values()) if isinstance(extra, dict) else list(extra)
    return [
        dataclasses.replace(_token(value, where, special=True), special=True)
        for value in values
        if isinstance(value, str | dict)
    ]


def _token(entry: object, where: str, *, special: bool = False) -> AddedToken:
    """Return the token of one entry: a text, or an object with `content`."""
    if isinstance(entry, str):
        return AddedToken(_text(entry, where), special=special, normalized=not special)
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise _unsound(f"{quote(entry)} is not an added token", where)
    special = bool(entry.get("special", special))
    flags = {
        name: bool(entry.get(name, name == "normalized" and not special))
        for name in ("normalized", "lstrip", "rstrip", "single_word")
    }
    return AddedToken(_text(entry["content"], where), special=special, **flags)


def _text(content: str, where: str) -> str:
    if not content.isascii():
        try:
            content.encode("utf-8")
        except UnicodeEncodeError:
            raise _unsound(f"the token {quote(content)} is not valid Unicode", where) from None
    return content


def _number(value: object, where: str) -> int:
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:  # noqa: PLR2004 - digits of an id
        return int(value)
    raise _unsound(f"an added token has the id {quote(value)}", where)


def _object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one if there is no file."""
    return read_object(path) if os.path.lexists(path) else {}


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raises:
        TokenizerError: It is too large, no JSON, or no object.
        CheckpointError: It cannot be opened.
    """
    try:
        found = strict_io.load_strict_json(read_bytes(path))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        what = f"it is not sound JSON: {one_line(error)}"
        raise _unsound(what, one_line(path)) from error
    if not isinstance(found, dict):
        raise _unsound(f"it holds {quote(found)}, not an object", one_line(path))
    return found


def read_bytes(path: Path) -> bytes:
    """Return the bytes of a file of a vocabulary; errors are those of `read_object`."""
    with open_regular(path) as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        what = f"it has more than {_LARGEST:,} bytes: it is not a vocabulary"
        raise _unsound(what, one_line(path))
    return text


def _unsound(what: str, where: str) -> TokenizerError:
    return TokenizerError(what, where=where, fix="fetch the file again")


# Finding them in a text.


class Match(NamedTuple):
    """A part of a text: an added token with its id, or text between them with None."""

    start: int
    end: int
    id: int | None


_SPACES = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
"""Unicode's white space."""


class AddedTokenFinder:
    """Finds added tokens in a text: the leftmost one first, of several there the longest.

    Args:
        tokens: The texts to find, each with its token and id.
    """

    def __init__(self, tokens: Iterable[tuple[str, AddedToken, int]]) -> None:
        self._tokens = {text: (token, number) for text, token, number in tokens if text}
        longest_first = sorted(self._tokens, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)))

    def __bool__(self) -> bool:
        """Return whether there is anything to find."""
        return bool(self._tokens)

    def split(self, text: str) -> Iterator[Match]:
        """Yield the parts of a text in order; none is empty."""
        done = 0
        for found in self._pattern.finditer(text) if self._tokens else ():
            token, number = self._tokens[found[0]]
            start, end = found.span()
            if token.single_word and (
                (start > 0 and _is_word(text[start - 1]))
                or (end < len(text) and _is_word(text[end]))
            ):
                continue
            if token.lstrip:
                start = max(len(text[:start].rstrip(_SPACES)), done)
            if token.rstrip:
                end = len(text) - len(text[end:].lstrip(_SPACES))
            if done < start:
                yield Match(done, start, None)
            yield Match(start, end, number)
            done = end
        if done < len(text):
            yield Match(done, len(text), None)


def _is_word(character: str) -> bool:
    category = unicodedata.category(character)
    return (
        character.isalnum() or category in ("Mn", "Mc", "Me", "Pc") or character in "\u200c\u200d"
    )
