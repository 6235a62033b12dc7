"""Tokens that were added to a vocabulary: read from Hugging Face's files, and found in a text.

An added token, such as `[PAD]`, is found in the text before it is split into words. Its id is that
of the vocabulary's token with the same text, or else the next free one.

Source: transformers tokenization_utils_base.py `_from_pretrained`, tokenization_utils_tokenizers.py
`TokenizersBackend.__init__`; tokenizers added_vocabulary.rs.
"""

import dataclasses
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from scratch_gpt.checkpoint import strict_io
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.errors import CheckpointError, TokenizerError, one_line, quote
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, normalize_text
from scratch_gpt.tokenizer.unicode import character_classes

ADDED_TOKENS, SPECIAL_TOKENS_MAP = "added_tokens.json", "special_tokens_map.json"
TOKENIZER_CONFIG, TOKENIZER_JSON = "tokenizer_config.json", "tokenizer.json"

_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_EXTRA = "extra_special_tokens", "additional_special_tokens"
_LARGEST = 64 << 20
"""Bytes; the released vocabulary's two files have under 1 MB each, `tokenizer.json` 1.3 MB."""
_MOST_TOKENS, _MOST_CHARACTERS = 100_000, 1 << 20
"""Added tokens of a folder; a pattern of a million characters takes a second to build."""
LONGEST_TOKEN = 1 << 16
"""Characters; the longest released token has 32. A model's 512 tokens then fit in 128 MiB."""


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
    `special_tokens_map.json` and `tokenizer.json` do. The named special tokens follow. Of several
    entries with one text the first gives the place, and the last one the flags.

    Raises:
        TokenizerError: A file is unsound, or asks for another tokenizer than GPT-1's.
        CheckpointError: A file cannot be opened.
    """
    config, special_map = read_optional(folder / TOKENIZER_CONFIG), {}
    single_file = read_optional(folder / TOKENIZER_JSON)
    where = one_line(folder / TOKENIZER_CONFIG)
    is_whole = _takes_whole_file(config, where, has_single_file=bool(single_file))
    if "added_tokens_decoder" not in config:
        special_map = read_optional(folder / SPECIAL_TOKENS_MAP)
        _require_gpt1(special_map, one_line(folder / SPECIAL_TOKENS_MAP))
    named, extra, special = _named_tokens(config, special_map, where, is_whole=is_whole)
    names = {token.content for token in named}
    listed: dict[int, AddedToken] = {}
    if "added_tokens_decoder" in config:
        entries = config["added_tokens_decoder"]
        if not isinstance(entries, dict):
            raise _unsound("added_tokens_decoder is not an object", where)
        for number, entry in entries.items():
            listed[_number(number, where)] = _token(entry, where, named=names)
    else:
        where = one_line(folder / ADDED_TOKENS)
        for content, number in read_optional(folder / ADDED_TOKENS).items():
            is_special = content in special
            token = AddedToken(_text(content, where), is_special, normalized=not is_special)
            listed[_number(number, where)] = token
    where = one_line(folder / TOKENIZER_JSON)
    entries = single_file.get("added_tokens", [])
    if not isinstance(entries, list):
        raise _unsound("added_tokens is not a list", where)
    in_file = []
    for entry in entries:
        number = entry.get("id") if isinstance(entry, dict) else entry
        in_file.append((_number(number, where), _token(entry, where, named=names)))
    if "added_tokens_decoder" not in config:
        listed |= in_file
    ordered = [token for _, token in in_file] if is_whole else []
    ordered += [listed[number] for number in sorted(listed)]
    found = {token.content: token for token in ordered}
    found |= {token.content: token for token in (*named, *extra) if token.content not in found}
    found.pop("", None)
    if is_whole and UNKNOWN not in found:
        raise _unsound(f"{UNKNOWN} is no added token of it", where)
    _require_findable(list(found.values()), one_line(folder))
    return [token for token in found.values() if token != UNKNOWN_TOKEN]


def _require_findable(tokens: Sequence[AddedToken], where: str) -> None:
    """Require that there are not too many tokens, and that each can be found in a text."""
    if len(tokens) > _MOST_TOKENS:
        raise _unsound(f"{len(tokens):,} tokens are added; the limit is {_MOST_TOKENS:,}", where)
    if (size := sum(len(token.content) for token in tokens)) > _MOST_CHARACTERS:
        what = f"the added tokens have {size:,} characters; the limit is {_MOST_CHARACTERS:,}"
        raise _unsound(what, where)
    owners: dict[str, str] = {}
    for token in tokens:
        if len(token.content) > LONGEST_TOKEN:
            raise _unsound(too_long(token.content), where)
        if not token.normalized:
            continue
        made = normalize_text(token.content)[0]
        if not made:
            what = (
                f"the added token {quote(token.content)} is normalized, and nothing is left of it"
            )
            raise _unsound(what, where)
        if (other := owners.setdefault(made, token.content)) != token.content:
            what = f"the added tokens {quote(other)} and {quote(token.content)}"
            raise _unsound(f"{what} are normalized, and then the same", where)


def too_long(token: str) -> str:
    """Return the message about a token of too many characters."""
    return f"the token {quote(token)} has {len(token):,} characters; the limit is {LONGEST_TOKEN:,}"


_CLASSES = ("OpenAIGPTTokenizer", "OpenAIGPTTokenizerFast", None)
_CLASSES_OF_ANY = ("PreTrainedTokenizerFast", "TokenizersBackend")
"""Classes that take the whole tokenizer from `tokenizer.json`, its added tokens first."""


def _takes_whole_file(config: Mapping[str, Any], where: str, *, has_single_file: bool) -> bool:
    """Return whether the class takes all of `tokenizer.json`; it must be one of GPT-1's."""
    _require_gpt1(config, where)
    found = config.get("tokenizer_class")
    if found in _CLASSES_OF_ANY and has_single_file:
        return True
    if found not in _CLASSES:
        raise _unsound(f"its tokenizer_class is {quote(found)}, GPT-1's is {_CLASSES[0]!r}", where)
    return False


def _require_gpt1(config: Mapping[str, Any], where: str) -> None:
    """Require GPT-1's values of settings that would change the ids of a text."""
    unknown = config.get("unk_token")
    if isinstance(unknown, dict):
        unknown = unknown.get("content")
    if unknown not in (None, UNKNOWN):
        raise _unsound(f"its unk_token is {quote(unknown)}, GPT-1's is {UNKNOWN!r}", where)
    if config.get("split_special_tokens"):
        raise _unsound("its split_special_tokens is set; GPT-1's special tokens are whole", where)


def _named_tokens(
    config: Mapping[str, Any], special_map: Mapping[str, Any], where: str, *, is_whole: bool
) -> tuple[list[AddedToken], list[AddedToken], set[str]]:
    """Return the special tokens with a name, such as `pad_token`, the extra ones, and texts.

    The map's replace the config's. Of a config's objects only those with `__type` count. The texts
    are those that `added_tokens.json` takes for special: none with a name of its own.

    Source: transformers 5.23 tokenization_utils_base.py, `_from_pretrained` and `__init__`.
    """
    given, own, (extra, older) = dict(config), {}, _EXTRA
    if older in given and not given.get(extra):
        given[extra] = given.pop(older)
    for key in [key for key in given if _has_own_name(key) and isinstance(given[key], str)]:
        own[key] = given.pop(key)
    own |= given.pop(extra) if isinstance(given.get(extra), dict) else {}
    for key, value in special_map.items():
        if key == extra and isinstance(value, list):
            more = ({**item, "special": True} if isinstance(item, dict) else item for item in value)
            given[key] = [*_tokens_of(given.get(key)), *more]
        elif key != extra and isinstance(value, dict):
            given[key] = {**value, "special": True, "__type": "AddedToken"}
        else:
            given[key] = value
    own |= given.pop(extra) if isinstance(given.get(extra), dict) else {}
    named = {name: given[name] for name in _NAMED if name in given}
    special = [*filter(_is_token, named.values()), *_tokens_of(given.get(extra))]
    if older in given and extra not in given:
        given[extra] = given.pop(older)
        named |= given[extra] if isinstance(given[extra], dict) else {}
    named |= {key: value for key, value in given.items() if _has_own_name(key)} | own
    if named.get("unk_token") is None and not is_whole:  # the class has it
        named["unk_token"] = UNKNOWN
    in_order = dict.fromkeys(name for name in _NAMED if name in named) | named
    return (
        [_token(v, where, special=True) for v in in_order.values() if _is_token(v)],
        [_token(value, where) for value in _tokens_of(given.get(extra))],
        {_token(value, where).content for value in special},
    )


def _is_token(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and "__type" in value)


def _tokens_of(value: object) -> list[Any]:
    return (
        [item for item in value if isinstance(item, str | dict)] if isinstance(value, list) else []
    )


def _has_own_name(key: str) -> bool:
    return key.endswith("_token") and key not in _NAMED


def _token(
    entry: object, where: str, *, special: bool = False, named: Collection[str] = ()
) -> AddedToken:
    """Return the token of an entry: a special token's text, or an object with `content`.

    It is special if `special` is true or its text is one of `named`, whatever the object says.
    """
    if isinstance(entry, str):
        return AddedToken(_text(entry, where), special=True, normalized=False)
    if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
        raise _unsound(f"{quote(entry)} is not an added token", where)
    content = _text(entry["content"], where)
    special = special or content in named or bool(entry.get("special", False))
    flags = {
        name: bool(entry.get(name, name == "normalized" and not special))
        for name in ("normalized", "lstrip", "rstrip", "single_word")
    }
    return AddedToken(content, special, **flags)


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


def read_optional(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one without a file; errors: `read_object`."""
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
    return TokenizerError(what, where=where, fix="correct the file, or fetch it again")


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
        done = spaces = 0
        word = character_classes().word
        for found in self._pattern.finditer(text) if self._tokens else ():
            token, number = self._tokens[found[0]]
            start, end = found.span()
            if token.single_word and (
                (start > 0 and ord(text[start - 1]) in word)
                or (end < len(text) and ord(text[end]) in word)
            ):
                continue
            if token.lstrip:
                while start > done and text[start - 1] in _SPACES:
                    start -= 1
                start = max(start, done)
            if token.rstrip:
                spaces = max(spaces, end)  # those known from the match before
                while spaces < len(text) and text[spaces] in _SPACES:
                    spaces += 1
                end = spaces
            if start >= end:  # the one before took it as its white space
                continue
            if done < start:
                yield Match(done, start, None)
            yield Match(start, end, number)
            done = end
        if done < len(text):
            yield Match(done, len(text), None)
