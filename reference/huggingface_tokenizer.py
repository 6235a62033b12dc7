"""Hugging Face's tokenizer of GPT-1 as a witness: built from files, asked, and taken apart.

Version 5 takes `vocab_file=` and `merges_file=` without a word and builds a vocabulary of one
token, so what was built is counted. What prepares text is BERT's normalizer in nearly every
version; where it is another, the witness is given BERT's, and says so.
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
"""The one special token. It is looked for in the text as it was given, before anything else."""

BERTS = "BertNormalizer"
"""The type of what has to prepare text: BERT's, in lower case."""

STEPS: Mapping[str, str] = {
    "cleaning": "clean_text",
    "CJK": "handle_chinese_chars",
    "accents": "strip_accents",
    "lower case": "lowercase",
}
"""What the normalizer does, in its order, and the name of the argument that each step is."""


@dataclasses.dataclass(frozen=True)
class Encoding:
    """A text's ids, and where in the text each comes from: first character, and one past the last.

    Attributes:
        ids: One a piece.
        offsets: One a piece; None where the side does not tell.
    """

    ids: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...] | None


class HuggingFaceTokenizer:
    """`OpenAIGPTTokenizerFast`, which in version 5 is the only one, with a vocabulary's files.

    Attributes:
        tokenizer: The library's own.
        replaced: What the version's own normalizer is, where BERT's stands in for it; else "".

    Args:
        vocabulary: The vocabulary, under whichever name.
        merges: The merges, under whichever name.
        size: How many tokens there must be.

    Raises:
        RejectedError: It has another number of tokens, so the files were not taken; or prepares
        text
            as `reference.compat` does not know.
    """

    def __init__(self, vocabulary: Path, merges: Path, *, size: int) -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "vocab.json").symlink_to(vocabulary.resolve())
            (folder / "merges.txt").symlink_to(merges.resolve())
            # On its way to this one, version 4 builds its slow one, which warns of what it lacks.
            with quiet():
                self.tokenizer: Any = OpenAIGPTTokenizerFast.from_pretrained(
                    folder, local_files_only=True
                )
        if len(self.tokenizer) != size:
            raise RejectedError(
                f"Hugging Face's tokenizer has {len(self.tokenizer)} tokens, the files have {size}",
                where=str(vocabulary),
                fix="look for tokens that its library adds or drops",
            )
        self.replaced = self._given_berts(vocabulary)

    def _given_berts(self, vocabulary: Path) -> str:
        """Let BERT's normalizer prepare text; return what did before, "" if it was that."""
        backend = self.tokenizer.backend_tokenizer
        found, expected = type(backend.normalizer).__name__, compat.tokenizer_normalizer()
        if found != expected:
            raise RejectedError(
                f"Hugging Face's tokenizer has a {found}, its version a {expected}",
                where=str(vocabulary),
                fix="use one of the versions of transformers that reference/compat.py lists",
            )
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
        """Return the text that its library makes of ids."""
        return str(self.tokenizer.decode(list(ids)))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Return the tokens of ids."""
        return list(self.tokenizer.convert_ids_to_tokens(list(ids)))

    def words(self, text: str) -> list[str]:
        """Return what is encoded piece by piece; the special token is a word of its own."""
        backend = self.tokenizer.backend_tokenizer
        parts: list[str] = []
        for place, plain in enumerate(text.split(UNKNOWN)):
            normal = backend.normalizer.normalize_str(plain)
            parts += [UNKNOWN] if place else []
            parts += [word for word, _ in backend.pre_tokenizer.pre_tokenize_str(normal)]
        return parts


def words_without(step: str, text: str) -> list[str]:
    """Return the words of a text that holds no special token, with one step left out.

    Args:
        step: One of `STEPS`.
        text: The text.
    """
    flags = {argument: name != step for name, argument in STEPS.items()}
    normal = normalizers.BertNormalizer(**flags).normalize_str(text)
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(normal)]


# What Hugging Face's Rust tokenizer takes every character for, asked one character at a time.
#
# Its tables are of several versions of Unicode at once: an older one for what is a control
# character, an accent or a punctuation mark, another for decompositions, and its compiler's for
# lower case. No version of Python has the same ones, so the answers are written down:
#
#     python -m reference.huggingface_tokenizer > scratch_gpt/tokenizer/character_classes.txt


SCALARS = (*range(0xD800), *range(0xE000, 0x110000))
"""Every code point that can stand in a text: all but the surrogates."""

_HANGUL_SYLLABLES = range(0xAC00, 0xD7A4)
"""Their decomposition is arithmetic, and no table's business."""

_STEPS = ("clean_text", "handle_chinese_chars", "strip_accents", "lowercase")

Step = Callable[[str], str]


def step(name: str) -> Step:
    """Return one step of BERT's normalizer, by the name of its switch.

    "nfd" is the first half of "strip_accents", and "bert" is all of them.
    """
    if name == "nfd":
        return normalizers.NFD().normalize_str
    if name == "bert":
        return normalizers.BertNormalizer(lowercase=True).normalize_str
    return normalizers.BertNormalizer(**{each: each == name for each in _STEPS}).normalize_str


def words(text: str) -> list[str]:
    """Return the words that BERT's pre-tokenizer makes of a normalized text."""
    return [word for word, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(text)]


def tables() -> dict[str, dict[int, str]]:
    """Return every table by its name: what is written beside each character that it holds.

    `removed`, `white`, `ideographs` (they get spaces around them), `nonspacing` (removed after
    decomposition) and `punctuation` (a word of its own) are sets: nothing stands beside.
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
    """Return the code points of a text as they stand in the file."""
    return ".".join(f"{ord(character):X}" for character in text)


def _changed(function: Step) -> dict[int, str]:
    """Return what `function` makes of each character between two letters, where that is new."""
    made = ((code, function(f"a{chr(code)}b")[1:-1]) for code in SCALARS)
    return {code: text for code, text in made if text != chr(code)}


def combining_classes() -> dict[int, int]:
    """Return the combining class of every mark that NFD reorders.

    Two marks after a letter trade places if the first one's class is the larger and the second
    one's is not 0. So whether a mark has a class shows between U+0334 (class 1) and U+0345 (class
    240), and which one it has, beside one mark of each class: Python says what classes there are.
    """
    nfd = step("nfd")

    def trade(first: str, second: str) -> bool:
        return nfd(f"a{first}{second}") != f"a{first}{second}"

    whole = [chr(code) for code in SCALARS if nfd(chr(code)) == chr(code)]
    marks = [mark for mark in whole if trade("\u0345", mark) or trade(mark, "\u0334")]
    examples = {unicodedata.combining(mark): mark for mark in marks}
    return {ord(mark): _class_of(mark, examples, trade) for mark in marks}


def _class_of(mark: str, examples: Mapping[int, str], trade: Callable[[str, str], bool]) -> int:
    """Return the class whose example trades places with the mark in neither order."""
    (number,) = (
        number
        for number, example in examples.items()
        if not trade(mark, example) and not trade(example, mark)
    )
    return number


def spelled(table: Mapping[int, str]) -> Iterator[str]:
    """Give a table's items: `first..last=value` for a run of neighbours that have one value."""
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
        "# Made by python -m reference.huggingface_tokenizer, which says how. Not to be edited.",
    ]
    for name, table in tables().items():
        lines += ["", f"[{name}]", *textwrap.wrap(" ".join(spelled(table)), 100)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
