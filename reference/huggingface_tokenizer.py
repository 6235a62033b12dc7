"""Hugging Face's tokenizer of GPT-1 as a reference, and its tables of character classes.

Version 5 accepts `vocab_file=` and `merges_file=` silently and builds a vocabulary of one token, so
the tokens are counted. Nearly every version normalizes text with BERT's normalizer; in the others
it is replaced by BERT's, which `replaced` records.
"""

import dataclasses
import sys
import tempfile
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import normalizers, pre_tokenizers
from transformers import OpenAIGPTTokenizerFast  # type: ignore[attr-defined]

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


class HuggingFaceTokenizer:
    """`OpenAIGPTTokenizerFast`, the only class in version 5, built from a vocabulary's files.

    The files may have either publication's names; `size` is the expected number of tokens.
    `replaced` is the type of the version's own normalizer if BERT's replaced it, else "".

    Raises:
        RejectedError: The number of tokens differs, so the files were ignored; or the normalizer
            is not the one that `reference.compat` lists.
    """

    def __init__(self, vocabulary: Path, merges: Path, *, size: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "vocab.json").symlink_to(vocabulary.resolve())
            (folder / "merges.txt").symlink_to(merges.resolve())
            # Version 4 builds its slow tokenizer first, which warns of missing packages.
            with quiet():
                self.tokenizer: Any = OpenAIGPTTokenizerFast.from_pretrained(
                    folder, local_files_only=True
                )
        if (found := len(self.tokenizer)) != size:
            what = f"Hugging Face's tokenizer has {found} tokens, the files have {size}"
            fix = "look for tokens that its library adds or drops"
            raise RejectedError(what, where=str(vocabulary), fix=fix)
        self.replaced = self._set_bert_normalizer(vocabulary)

    def _set_bert_normalizer(self, vocabulary: Path) -> str:
        """Set BERT's normalizer; return the type of the one it replaced, "" if it was there."""
        backend = self.tokenizer.backend_tokenizer
        found, expected = type(backend.normalizer).__name__, compat.tokenizer_normalizer()
        if found != expected:
            what = f"Hugging Face's tokenizer has a {found}, its version a {expected}"
            fix = "use one of the versions of transformers that reference/compat.py lists"
            raise RejectedError(what, where=str(vocabulary), fix=fix)
        if found == BERTS:
            return ""
        backend.normalizer = normalizers.BertNormalizer(lowercase=True)
        return found

    def encode_batch(self, texts: Sequence[str]) -> list[Encoding]:
        """Return every text's ids and offsets."""
        if not texts:
            return []
        found = self.tokenizer(
            list(texts),
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        pairs = zip(found["input_ids"], found["offset_mapping"], strict=True)
        return [Encoding(tuple(ids), tuple(map(tuple, places))) for ids, places in pairs]

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
    decomposition) and `punctuation` (a word of its own) are sets, whose values are empty.
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
    }


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
