"""Hugging Face's tokenizer of GPT-1 as a reference, and its tables of character classes.

A folder is read as `AutoTokenizer` reads it, with its added tokens. Versions of the library ignore
what they cannot use, so the tokens are counted. Nearly every version normalizes text with BERT's
normalizer; in the others it is replaced by BERT's, which `replaced` records.
"""

import contextlib
import dataclasses
import json
import sys
import tempfile
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from reference import compat
from reference.errors import RejectedError
from reference.huggingface import quiet

UNKNOWN = "<unk>"
"""The one special token. It is searched in the raw text, before any other step."""

BERTS = "BertNormalizer"
"""The required type of normalizer, in lower case."""

STEPS: Mapping[str, str] = {
    "cleaning": "clean_text",
    "CJK": "handle_chinese_chars",
    "accents": "strip_accents",
    "lower case": "lowercase",
}
"""The normalizer's steps in order, each with its argument."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A text's ids and offsets, one a piece: first character, and one past the last.

    A tokenizer without offsets gives None.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] | None


FILES: Mapping[str, tuple[str, ...]] = {
    "vocab.json": ("vocab.json", "encoder_bpe_40000.json"),
    "merges.txt": ("merges.txt", "vocab_40000.bpe"),
    **{name: (name,) for name in ("tokenizer.json", "tokenizer_config.json")},
    **{name: (name,) for name in ("added_tokens.json", "special_tokens_map.json")},
}
"""The files that the library reads, each with the names under which a folder may hold it."""


@contextlib.contextmanager
def _rejecting(what: str, where: Path) -> Iterator[None]:
    """Raise any error of the library as a rejection of the files.

    Its Rust part panics with a `BaseException`.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError):
        raise
    except BaseException as error:
        kind, message = type(error).__name__, " ".join(str(error).split())[:200]
        raise RejectedError(
            f"Hugging Face's tokenizer {what}: {kind}: {message}",
            where=str(where),
            fix="correct the files of the tokenizer, or remove the added tokens",
        ) from error


def _with_header(merges: bytes) -> bytes:
    """Return merges with a header and a last line end."""
    header = b"" if merges.startswith(b"#version") else b"#version: 0.2\n"
    return header + merges + (b"" if merges.endswith(b"\n") else b"\n")


class HuggingFaceTokenizer:
    """What `AutoTokenizer` gives for the files in a folder, read as those of a GPT-1.

    The files may have either publication's names; `size` is the expected number of tokens, with
    added ones. `replaced` is the type of the version's own normalizer if BERT's replaced it, else
    "".

    Raises:
        RejectedError: The library cannot read the files; or the number of tokens differs, so it
            read others; or the normalizer is not the one that `reference.compat` lists.
    """

    def __init__(self, folder: Path, *, size: int) -> None:
        self._folder = folder
        with tempfile.TemporaryDirectory() as name:
            staged = Path(name)
            for own, names in FILES.items():
                found = next((folder / other for other in names if (folder / other).exists()), None)
                if found is not None and own == "merges.txt" and compat.reads_merges_by_place():
                    (staged / own).write_bytes(_with_header(found.read_bytes()))
                elif found is not None:
                    (staged / own).symlink_to(found.resolve())
            # The config chooses the class; the folder may hold none.
            (staged / "config.json").write_text(json.dumps({"model_type": "openai-gpt"}))
            # Version 4 builds its slow tokenizer first, which warns of missing packages.
            with quiet(), _rejecting("cannot read the files", folder):
                self.tokenizer: Any = AutoTokenizer.from_pretrained(staged, local_files_only=True)
        if (count := len(self.tokenizer)) != size:
            what = f"Hugging Face's tokenizer has {count} tokens, the files have {size}"
            fix = "look for tokens that its library adds or drops"
            raise RejectedError(what, where=str(folder), fix=fix)
        self.replaced = self._set_bert_normalizer(folder)

    def _set_bert_normalizer(self, folder: Path) -> str:
        """Set BERT's normalizer; return the type of the one it replaced, "" if it was there."""
        backend = self.tokenizer.backend_tokenizer
        found, expected = type(backend.normalizer).__name__, compat.tokenizer_normalizer()
        if found != expected:
            what = f"Hugging Face's tokenizer has a {found}, its version a {expected}"
            fix = "use one of the versions of transformers that reference/compat.py lists"
            raise RejectedError(what, where=str(folder), fix=fix)
        if found == BERTS:
            return ""
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        return found

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids and offsets."""
        if not texts:
            return []
        with _rejecting("cannot encode", self._folder):
            found = self.tokenizer(
                list(texts),
                add_special_tokens=False,
                return_attention_mask=False,
                return_offsets_mapping=True,
                verbose=False,
            )
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [Encoding(tuple(ids), tuple(map(tuple, places))) for ids, places in pairs]

    @property
    def added_tokens(self) -> dict[int, Any]:
        """The added tokens by id, as the library's `AddedToken`."""
        return dict(self.tokenizer.added_tokens_decoder)

    @property
    def added(self) -> dict[int, str]:
        """The texts of the added tokens by id."""
        return {number: str(token) for number, token in self.added_tokens.items()}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the library's text of ids."""
        return str(self.tokenizer.decode(list(ids)))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of ids."""
        return list(self.tokenizer.convert_ids_to_tokens(list(ids)))

    def words(self, text: str) -> list[str]:
        """Return the words that are encoded one by one; the special token is a word of its own."""
        backend = self.tokenizer.backend_tokenizer
        parts: list[str] = []
        for place, plain in enumerate(text.split(UNKNOWN)):
            normal = backend.normalizer.normalize_str(plain)
            parts += [UNKNOWN] if place else []
            parts += [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
        return parts


def words_without(step: str, text: str) -> list[str]:
    """Return the words of a text without special tokens, one of `STEPS` left out."""
    flags = {argument: name != step for name, argument in STEPS.items()}
    return words(normalizers.BertNormalizer(**flags).normalize_str(text))


# The character classes of Hugging Face's Rust tokenizer, probed one character at a time.
#
# Its tables mix versions of Unicode: an older one for control characters, accents and punctuation,
# another for decompositions, and its compiler's for lower case. No version of Python has the same
# ones, so the results are written to a file:
#
#     python -m reference.huggingface_tokenizer > scratch_gpt/tokenizer/character_classes.txt


SCALARS = (*range(0xD800), *range(0xE000, 0x110000))
"""Every code point of a text: all but the surrogates."""

_HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
"""Their decomposition is arithmetic and needs no table."""

Step = Callable[[str], str]


def step(name: str) -> Step:
    """Return one step of BERT's normalizer, by the name of its switch.

    "nfd" is the first half of "strip_accents", and "bert" is all of them.
    """
    if name == "nfd":
        return normalizers.NFD().normalize_str
    if name == "bert":
        return normalizers.BertNormalizer(lowercase=True).normalize_str
    flags = {argument: argument == name for argument in STEPS.values()}
    return normalizers.BertNormalizer(**flags).normalize_str


def words(text: str) -> list[str]:
    """Return the words of BERT's pre-tokenizer for a normalized text."""
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]


def tables() -> dict[str, dict[int, str]]:
    """Return every table by name: a value for each code point in it.

    `removed`, `white`, `ideographs` (they get spaces around them), `nonspacing` (removed after
    decomposition) and `punctuation` (a word of its own) are sets, whose values are empty; so is
    `word` (an added token of a single word is not found beside it).
    `decomposition` (canonical, in full) and `lowercase` hold the numbers of other characters;
    `combining` holds the canonical combining class.
    """
    cleaned, decomposed = _changed(step("clean_text")), _changed(step("nfd"))
    return {
        "removed": {code: "" for code, made in cleaned.items() if not made},
        "white": {code: "" for code, made in cleaned.items() if made} | {ord(" "): ""},
        "ideographs": dict.fromkeys(_changed(step("handle_chinese_chars")), ""),
        "decomposition": {
            code: numbers(made)
            for code, made in decomposed.items()
            if code not in _HANGUL_SYLLABLES
        },
        "combining": {code: str(number) for code, number in combining_classes().items()},
        "nonspacing": {c: "" for c in _changed(step("strip_accents")) if c not in decomposed},
        "lowercase": {code: numbers(made) for code, made in _changed(step("lowercase")).items()},
        "punctuation": {c: "" for c in SCALARS if words(f"a{chr(c)}b") == ["a", chr(c), "b"]},
        "word": dict.fromkeys(map(ord, word_characters(list(map(chr, SCALARS)))), ""),
    }


def word_characters(characters: Sequence[str]) -> set[str]:
    """Return those beside which an added token with `single_word` is not found."""
    tokenizer = Tokenizer(models.BPE({"a": 0}, []))
    tokenizer.add_tokens([AddedToken("<a>", single_word=True, normalized=False)])
    found = tokenizer.encode_batch([f"{character}<a>" for character in characters])
    return {c for c, encoding in zip(characters, found, strict=True) if 1 not in encoding.ids}


def numbers(text: str) -> str:
    """Return the code points of a text in the file's notation."""
    return ".".join(f"{ord(character):X}" for character in text)


def _changed(function: Step) -> dict[int, str]:
    """Return the characters that `function` changes between two letters, with the results."""
    made = ((code, function(f"a{chr(code)}b")[1:-1]) for code in SCALARS)
    return {code: text for code, text in made if text != chr(code)}


def combining_classes() -> dict[int, int]:
    """Return the combining class of every mark that NFD reorders.

    Two marks after a letter trade places if the first one's class is the larger and the second
    one's is not 0. So a mark has a class if it trades with U+0334 (class 1) or U+0345 (class 240),
    and one mark of each class shows which one. Python lists the classes.
    """
    nfd = step("nfd")

    def trade(first: str, second: str) -> bool:
        return nfd(f"a{first}{second}") != f"a{first}{second}"

    whole = [chr(code) for code in SCALARS if nfd(chr(code)) == chr(code)]
    marks = [mark for mark in whole if trade("\u0345", mark) or trade(mark, "\u0334")]
    examples = {unicodedata.combining(mark): mark for mark in marks}
    classes = {}
    for mark in marks:  # the class whose example trades places with it in neither order
        (classes[ord(mark)],) = (
            number
            for number, example in examples.items()
            if not trade(mark, example) and not trade(example, mark)
        )
    return classes


def spelled(table: Mapping[int, str]) -> Iterator[str]:
    """Yield a table's items: `first..last=value` for a run of neighbours that have one value."""
    first = None
    for code in sorted(table):
        first = code if first is None else first
        if table.get(code + 1) != table[code]:
            run = f"{first:X}" if first == code else f"{first:X}..{code:X}"
            yield f"{run}={table[code]}" if table[code] else run
            first = None


def text() -> str:
    """Return the file: a heading, and each table under its name in brackets."""
    lines = [
        f"# What tokenizers {version('tokenizers')} takes characters for; hexadecimal code points.",
        "# Made by python -m reference.huggingface_tokenizer. Do not edit it.",
    ]
    for name, table in tables().items():
        lines += ["", f"[{name}]", *textwrap.wrap(" ".join(spelled(table)), 100)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
