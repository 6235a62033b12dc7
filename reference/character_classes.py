"""What Hugging Face's Rust tokenizer takes every character for, asked one character at a time.

Its tables are of several versions of Unicode at once: an older one for what is a control
character, an accent or a punctuation mark, another for decompositions, and its compiler's for
lower case. No version of Python has the same ones, so the answers are written down:

    python -m reference.character_classes > scratch_gpt/tokenization/character_classes.txt
"""

import sys
import textwrap
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from importlib.metadata import version

from tokenizers import normalizers, pre_tokenizers

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
        "# Made by python -m reference.character_classes, which says how. Not to be edited.",
    ]
    for name, table in tables().items():
        lines += ["", f"[{name}]", *textwrap.wrap(" ".join(spelled(table)), 100)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
