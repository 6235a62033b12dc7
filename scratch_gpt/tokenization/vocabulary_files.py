"""Vocabularies as files: the release's names, Hugging Face's, or Hugging Face's single file."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

from scratch_gpt.files import strict_json
from scratch_gpt.files.regular_file import opened
from scratch_gpt.files.replaced_folder import replaced_folder
from scratch_gpt.files.shown import one_line, shown
from scratch_gpt.files.write_error import OccupiedError
from scratch_gpt.tokenization import single_file
from scratch_gpt.tokenization.refusal import TokenizerError
from scratch_gpt.tokenization.single_file import pair
from scratch_gpt.tokenization.vocabulary import Vocabulary
from scratch_gpt.tokenization.words import SPLITTINGS, UNKNOWN

VOCABULARY, MERGES = "vocab.json", "merges.txt"
PAIRS_OF_FILES = ((VOCABULARY, MERGES), ("encoder_bpe_40000.json", "vocab_40000.bpe"))
"""Hugging Face's names and OpenAI's: the bytes are the same."""

SINGLE_FILE, CONFIG = "tokenizer.json", "tokenizer_config.json"
HEADER = "#version: 0.2"
"""The first line of the merges: of subword-nmt, whose format it is."""

_LARGEST = 64 << 20
"""Bytes; the released vocabulary's files have under one million each, tokenizer.json 1.3."""


def read(directory: Path) -> Vocabulary:
    """Return the vocabulary that lies in a folder.

    Two files are preferred to `tokenizer.json`, which is read where it is alone.

    Raises:
        TokenizerError: There is none, or it is not sound.
        CheckpointError: A file cannot be opened.
    """
    there = {
        name
        for name in itertools.chain(*PAIRS_OF_FILES, (SINGLE_FILE,))
        if os.path.lexists(directory / name)
    }
    for names in PAIRS_OF_FILES:
        if there.issuperset(names):
            return _from_two(*(directory / name for name in names))
    if SINGLE_FILE in there:
        path = directory / SINGLE_FILE
        ids, pairs = single_file.parts(_json(path), one_line(path))
        return Vocabulary.checked(ids, pairs, ids_from=one_line(path), merges_from=one_line(path))
    halves = f"only {', '.join(sorted(there))}" if there else "no vocabulary"
    raise TokenizerError(
        f"the folder holds {halves}",
        where=one_line(directory),
        fix=f"put {VOCABULARY} and {MERGES} there, or {SINGLE_FILE}",
    )


def splitting_in(directory: Path) -> str:
    """Return the splitting that a folder's `tokenizer_config.json` names, or `bert`.

    Hugging Face's files name none, and theirs is `bert`.

    Raises:
        TokenizerError: The file is not sound, or names a splitting that there is none of.
        CheckpointError: It cannot be opened.
    """
    path = directory / CONFIG
    if not os.path.lexists(path):
        return "bert"
    found = _json(path).get("splitting", "bert")
    if not isinstance(found, str) or found not in SPLITTINGS:
        known = " or ".join(map(repr, SPLITTINGS))
        raise _refused(f"its splitting is {shown(found)}, and not {known}", path)
    return found


def _from_two(ids_path: Path, merges_path: Path) -> Vocabulary:
    ids = _json(ids_path)
    merges = _merges(merges_path)
    return Vocabulary.checked(
        ids, merges, ids_from=one_line(ids_path), merges_from=one_line(merges_path)
    )


def _merges(path: Path) -> list[tuple[str, str]]:
    """Return the merges of a text file: a header, then two tokens a line."""
    try:
        text = _bytes(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"it is not UTF-8 at byte {error.start}", path) from error
    if "\r" in text:
        raise _refused("it has carriage returns: its line ends were changed", path)
    header, *lines = text.split("\n")
    if header != HEADER:
        raise _refused(f"its first line is {shown(header)}, not {HEADER!r}", path)
    if lines and not lines[-1]:
        lines.pop()
    return [pair(line, number, one_line(path)) for number, line in enumerate(lines, start=1)]


def _json(path: Path) -> dict[str, Any]:
    try:
        found = strict_json.loads(_bytes(path))
    except ValueError as error:
        raise _refused(f"it is not sound JSON: {one_line(error)}", path) from error
    if not isinstance(found, dict):
        raise _refused(f"it holds {shown(found)}, no object", path)
    return found


def _bytes(path: Path) -> bytes:
    with opened(path) as file:
        text = file.read(_LARGEST + 1)
    if len(text) > _LARGEST:
        raise _refused(f"it has more than {_LARGEST:,} bytes: no vocabulary has", path)
    return text


def _refused(what: str, path: Path) -> TokenizerError:
    return TokenizerError(what, where=one_line(path), fix="fetch the file again")


def write(directory: Path, vocabulary: Vocabulary, *, splitting: str = "bert") -> None:
    """Write a vocabulary under Hugging Face's names; other files in the folder stay.

    Args:
        directory: The folder.
        vocabulary: Tokens and merges.
        splitting: What `splitting_in` shall give; Hugging Face's reader passes over it.

    Raises:
        OccupiedError: Something at `directory` would be lost, or read in the new files' stead.
        WriteError: The file system refused.
    """
    with replaced_folder(directory, overwrite=True, require=_require_no_other) as staging:
        ids = json.dumps(vocabulary.ids, ensure_ascii=False)
        merges = [HEADER, *(f"{one} {two}" for one, two in vocabulary.merges)]
        config = {
            "tokenizer_class": "OpenAIGPTTokenizer",
            "unk_token": UNKNOWN,
            "splitting": splitting,
        }
        _write(staging / VOCABULARY, ids)
        _write(staging / MERGES, "\n".join(merges) + "\n")
        _write(staging / CONFIG, json.dumps(config, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _require_no_other(directory: Path) -> None:
    """Require that Hugging Face would read the new files, and not another one before them."""
    if os.path.lexists(directory / SINGLE_FILE):
        raise OccupiedError(
            f"the folder holds a {SINGLE_FILE}, which would be read instead",
            where=one_line(directory),
            fix="choose another folder, or remove it",
        )
