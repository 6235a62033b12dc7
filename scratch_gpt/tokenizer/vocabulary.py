"""A vocabulary, tokens and merges, and its three file formats.

The formats are Hugging Face's two files, the same two under the release's names, and
`tokenizer.json`, the single file of the tokenizers library.
"""

import functools
import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Any

from scratch_gpt.checkpoint.atomic import replace_folder
from scratch_gpt.errors import OccupiedError, TokenizerError, one_line, quote
from scratch_gpt.tokenizer.added_tokens import (
    ADDED_TOKENS,
    LONGEST_TOKEN,
    SPECIAL_TOKENS_MAP,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    UNKNOWN_TOKEN,
    AddedToken,
    read_added_tokens,
    read_bytes,
    read_object,
    read_optional,
    too_long,
)
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import PRETOKENIZERS, UNKNOWN

_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id, merges in the order in which they were learned, and added tokens.

    Each merge is a pair of tokens, whose product is a token too. An added token that is none of
    `tokens` has one of the ids after theirs.
    """

    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...]
    added: tuple[AddedToken, ...] = ()

    @classmethod
    def checked(
        cls,
        ids: Mapping[str, object],
        merges: Sequence[tuple[str, str]],
        added: Sequence[AddedToken] = (),
        *,
        ids_from: str,
        merges_from: str,
    ) -> "Vocabulary":
        """Return the vocabulary of unchecked ids and merges; messages name the two files.

        Raises:
            TokenizerError: Ids are not integers, occur twice or leave a gap; `<unk>` is missing; a
                token is not valid Unicode; a merge occurs twice, or needs a token that is missing.
        """
        problems = [(_wrong_ids(ids), ids_from), (_wrong_merges(ids, merges), merges_from)]
        for found, where in problems:
            if what := next(found, None):
                fix = "fetch the vocabulary and its merges again, both from one place"
                raise TokenizerError(what, where=where, fix=fix)
        tokens: list[str] = sorted(ids, key=ids.__getitem__)  # type: ignore[arg-type]
        return cls(tuple(tokens), tuple(merges), tuple(added))

    @functools.cached_property
    def ids(self) -> dict[str, int]:
        """The id of each token."""
        return {token: number for number, token in enumerate(self.tokens)}

    @functools.cached_property
    def added_ids(self) -> dict[str, int]:
        """The id of each added token."""
        new = [token.content for token in self.added if token.content not in self.ids]
        after = {content: len(self.tokens) + place for place, content in enumerate(new)}
        return {t.content: self.ids.get(t.content, after.get(t.content, 0)) for t in self.added}

    @functools.cached_property
    def all_tokens(self) -> tuple[str, ...]:
        """Every token by id, the added ones among them."""
        new = (content for content in self.added_ids if content not in self.ids)
        return (*self.tokens, *new)

    @functools.cached_property
    def digest(self) -> str:
        """SHA-256 of tokens, merges and added tokens, whatever files they came from."""
        parts: list[object] = [self.tokens, self.merges]
        if self.added:
            parts.append([astuple(token) for token in self.added])
        canonical = json.dumps(parts, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("ascii")).hexdigest()


def _wrong_ids(ids: Mapping[str, object]) -> Iterator[str]:
    """Yield what is wrong with the ids; only the first problem is meaningful."""
    owners: dict[object, str] = {}
    for token, number in ids.items():
        if type(number) is not int:
            yield f"the id of {quote(token)} is {quote(number)}, not an integer"
        if _SURROGATE.search(token):
            yield f"the token {quote(token)} is not valid Unicode"
        if len(token) > LONGEST_TOKEN:
            yield too_long(token)
        if number in owners:
            yield f"{quote(owners[number])} and {quote(token)} both have the id {number}"
        owners[number] = token
    for number, token in owners.items():
        if number not in range(len(ids)):
            yield f"{quote(token)} has the id {quote(number)}, of {len(ids)} tokens"
    if UNKNOWN not in ids:
        yield f"it has no token {UNKNOWN}, which stands for unknown characters"


def _wrong_merges(ids: Mapping[str, object], merges: Sequence[tuple[str, str]]) -> Iterator[str]:
    """Yield what is wrong with the merges."""
    seen: dict[tuple[str, str], int] = {}
    for number, pair in enumerate(merges, start=1):
        name = f"merge {number}, {quote(' '.join(pair))},"
        if pair in seen:
            yield f"{name} is merge {seen[pair]} again"
        seen[pair] = number
        for token in (*pair, "".join(pair)):
            if token not in ids:
                yield f"{name} needs the token {quote(token)}, which is not in the vocabulary"
            if token == UNKNOWN:
                yield f"{name} is of {UNKNOWN}, which has no characters"


# Files.


VOCABULARY, MERGES = "vocab.json", "merges.txt"
PAIRS_OF_FILES = ((VOCABULARY, MERGES), ("encoder_bpe_40000.json", "vocab_40000.bpe"))
"""Hugging Face's names and OpenAI's: the bytes are the same."""

SINGLE_FILE, CONFIG = TOKENIZER_JSON, TOKENIZER_CONFIG
HEADER = "#version: 0.2"
"""The first line of the merges: of subword-nmt, whose format it is. Other writers add to it."""

_HEADER_START = "#version"


def read_vocabulary(directory: Path) -> Vocabulary:
    """Return the vocabulary of a folder.

    `tokenizer.json` is read if it is there, as in transformers; else the two files.

    Raises:
        TokenizerError: There is none, or it is unsound.
        CheckpointError: A file cannot be opened.
    """
    files = [directory / name for name in vocabulary_files_in(directory)]
    ids_path, merges_path = files[0], files[-1]
    if ids_path.name == SINGLE_FILE:
        ids, merges = parse_tokenizer_json(read_object(ids_path), one_line(ids_path))
    else:
        ids, merges = read_object(ids_path), _merges(merges_path)
    where = {"ids_from": one_line(ids_path), "merges_from": one_line(merges_path)}
    return Vocabulary.checked(ids, merges, read_added_tokens(directory), **where)


def vocabulary_files_in(directory: Path) -> tuple[str, ...]:
    """Return the names of the files that hold a folder's tokens and merges.

    Raises:
        TokenizerError: There are none.
    """
    names = (SINGLE_FILE, *itertools.chain(*PAIRS_OF_FILES))
    there = {name for name in names if os.path.lexists(directory / name)}
    for files in ((SINGLE_FILE,), *PAIRS_OF_FILES):
        if there.issuperset(files):
            return files
    halves = f"only {', '.join(sorted(there))}" if there else "no vocabulary"
    raise TokenizerError(
        f"the folder holds {halves}",
        where=one_line(directory),
        fix=f"put {VOCABULARY} and {MERGES} there, or {SINGLE_FILE}",
    )


def files_read(directory: Path) -> list[str]:
    """Return the names of all files that a folder's tokenizer is read from, with added tokens.

    Errors are those of `read_vocabulary`.
    """
    more = [CONFIG]
    if "added_tokens_decoder" not in read_optional(directory / CONFIG):
        more += [SPECIAL_TOKENS_MAP, ADDED_TOKENS]
    there = [name for name in more if os.path.lexists(directory / name)]
    return [*vocabulary_files_in(directory), *there]


def pretokenizer_in(directory: Path) -> str:
    """Return the pretokenizer that a folder's `tokenizer_config.json` names, or `huggingface`.

    Hugging Face's own files name none.

    Raises:
        TokenizerError: The file is unsound, or names an unknown pretokenizer.
        CheckpointError: It cannot be opened.
    """
    path = directory / CONFIG
    if not os.path.lexists(path):
        return "huggingface"
    found = read_object(path).get("pretokenizer", "huggingface")
    if not isinstance(found, str) or found not in PRETOKENIZERS:
        known = " or ".join(map(repr, PRETOKENIZERS))
        raise _rejected(f"its pretokenizer is {quote(found)}, and not {known}", path)
    return found


def _merges(path: Path) -> list[tuple[str, str]]:
    """Return the merges of a text file: perhaps a header, then two tokens a line.

    Line ends may be Windows', as the tokenizers library reads them.
    """
    try:
        text = read_bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _rejected(f"it is not UTF-8 at byte {error.start}", path) from error
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if lines[0].startswith(_HEADER_START):
        lines.pop(0)
    if lines and not lines[-1]:
        lines.pop()
    return [pair(line, number, one_line(path)) for number, line in enumerate(lines, start=1)]


def write_vocabulary(
    directory: Path, vocabulary: Vocabulary, *, pretokenizer: str = "huggingface"
) -> None:
    """Write a vocabulary under Hugging Face's names; other files in the folder stay.

    The name of the pretokenizer is written too; Hugging Face's reader ignores it.

    Raises:
        OccupiedError: Something at `directory` would be lost, or read instead of the new files.
        WriteError: The file system failed.
    """
    with replace_folder(directory, overwrite=True, require=_require_no_other) as staging:
        merges = [HEADER, *(f"{one} {two}" for one, two in vocabulary.merges)]
        config: dict[str, object] = {
            "tokenizer_class": "OpenAIGPTTokenizer",
            "unk_token": UNKNOWN,
            "pretokenizer": pretokenizer,
        }
        if vocabulary.added:
            config["added_tokens_decoder"] = {
                str(vocabulary.added_ids[token.content]): asdict(token)
                for token in vocabulary.added
            } | {str(vocabulary.ids[UNKNOWN]): asdict(UNKNOWN_TOKEN)}
        texts = {
            VOCABULARY: json.dumps(vocabulary.ids, ensure_ascii=False),
            MERGES: "\n".join(merges) + "\n",
            CONFIG: json.dumps(config, indent=2) + "\n",
        }
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8", newline="\n")


def _rejected(what: str, where: object) -> TokenizerError:
    return TokenizerError(what, where=one_line(where), fix="fetch the file again")


def _require_no_other(directory: Path) -> None:
    """Require that the folder has no file that Hugging Face would read instead of the new ones."""
    if os.path.lexists(directory / SINGLE_FILE):
        raise OccupiedError(
            f"the folder holds a {SINGLE_FILE}, which would be read instead",
            where=one_line(directory),
            fix="choose another folder, or remove it",
        )


# The format of `tokenizer.json`.


_REQUIRED = {"type": "BPE", "unk_token": UNKNOWN, "end_of_word_suffix": END}
"""Fields that a model must have, with GPT-1's values."""

_VALUES: Mapping[str, tuple[object, ...]] = {
    **{name: (value,) for name, value in _REQUIRED.items()},
    "continuing_subword_prefix": (None, ""),
    "fuse_unk": (False,),
    "byte_fallback": (False,),
    "ignore_merges": (False,),
    "dropout": (None,),
}
"""GPT-1's values of the fields that a model has."""

_AROUND = {"normalizer": "BertNormalizer", "pre_tokenizer": "BertPreTokenizer"}
"""Steps before the model, which the file may name."""

_NORMALIZER: Mapping[str, tuple[object, ...]] = {
    "clean_text": (True,),
    "handle_chinese_chars": (True,),
    "strip_accents": (True, None),
    "lowercase": (True,),
}
"""GPT-1's steps of the normalizer; accents are removed with the case unless the file says."""


def parse_tokenizer_json(
    whole: Mapping[str, Any], where: str
) -> tuple[dict[str, object], list[tuple[str, str]]]:
    """Return the unchecked ids and the merges of the JSON object of a GPT-1 tokenizer.

    Raises:
        TokenizerError: It is another kind of tokenizer, or prepares text in another way.
    """
    model = whole.get("model")
    if not isinstance(model, dict):
        raise _rejected("it holds no model", where)
    for name, wanted in _REQUIRED.items():
        if name not in model:
            raise _rejected(f"its model has no {name}, GPT-1's is {wanted!r}", where)
    for name, allowed in _VALUES.items():
        if name in model and model[name] not in allowed:
            message = f"its model's {name} is {quote(model[name])}, GPT-1's is {allowed[-1]!r}"
            raise _rejected(message, where)
    for name, wanted in _AROUND.items():
        found = whole.get(name, {"type": wanted})
        kind = found.get("type") if isinstance(found, dict) else found
        if kind != wanted:
            raise _rejected(f"its {name} is {quote(kind)}, GPT-1's is {wanted!r}", where)
    _require_berts_steps(whole.get("normalizer", {}), where)
    ids, merges = model.get("vocab"), model.get("merges")
    if not isinstance(ids, dict) or not isinstance(merges, list):
        raise _rejected("its model has no vocab or no merges", where)
    return ids, [pair(merge, number, where) for number, merge in enumerate(merges, start=1)]


def _require_berts_steps(normalizer: Mapping[str, object], where: str) -> None:
    for name, allowed in _NORMALIZER.items():
        if (found := normalizer.get(name, allowed[-1])) not in allowed:
            what = f"its normalizer's {name} is {quote(found)}, GPT-1's is {allowed[-1]}"
            raise _rejected(what, where)


def pair(merge: object, number: int, where: str) -> tuple[str, str]:
    """Return a merge, given as a list of two tokens or as two tokens with a space between.

    A token with a space or a line break is rejected: no file of merges could hold it.
    """
    words = merge.split(" ") if isinstance(merge, str) else merge
    if isinstance(words, list) and len(words) == 2:  # noqa: PLR2004 - a pair
        one, two = words
        if all(isinstance(w, str) and w and not set(w) & set(" \n\r") for w in words):
            return one, two
    raise _rejected(f"merge {number} is {quote(merge)}, not two tokens", where)
