"""Fixtures of the tokenizer's tests: strings of every kind, Hugging Face's tokenizer, and ours."""

import json
import os
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import jaxtyping
import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.tokenizer.vocabulary import PAIRS_OF_FILES

if TYPE_CHECKING:  # most tests run without transformers
    from reference.huggingface_tokenizer import HuggingFaceTokenizer

Draw = Callable[[random.Random], str]

SPECIAL = (
    *("<unk>", "<UNK>", "<unk", "</w>", "unk>", "\r\n", "\t", "\x00", "\x1c", "\x85", "\x07"),
    *("\u00ad", "\u200b", "\u200d", "\u2028", "\u3000", "\ufeff", "\ufffd", "\U0010ffff"),
    *("İ", "ı", "ß", "ẞ", "Σ", "ς", "ΑΣ", "ﬁ", "Ǆ", "K", "Å"),  # noqa: RUF001
)
"""Tokens and their parts, removed characters, white space, and letters with a special case."""

MOVABLE = (
    *("\u08d4", "\u1b44", "\u302e", "\u302f", "\ua953", "\U0001d165", "\U0001d16d", "\U0001d15e"),
    *("\U0001d160", "\U0001d1bf", "\U00011446", "\U0001e000", "\U0001e94a", "\u0e48"),
)
"""Marks whose reordering has a visible effect, because they are not removed as accents."""


def _of(*ranges: tuple[int, int]) -> Draw:
    return lambda source: chr(source.randint(*source.choice(ranges)))


def _one_of(strings: Sequence[str]) -> Draw:
    return lambda source: source.choice(strings)


KINDS: tuple[Draw, ...] = (
    _of((0, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x10FFFF)),
    _of((0, 0x7F)),
    _of((0x20, 0x7E)),
    _of((0xA0, 0x24F)),
    _of((0x370, 0x52F)),
    _of((0x590, 0x6FF)),
    _of((0x300, 0x36F), (0x483, 0x489), (0x591, 0x5BD), (0xF71, 0xF84), (0x340, 0x344)),
    _of((0xAC00, 0xD7A3), (0x1100, 0x11FF)),
    _of((0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x2B700, 0x2B9FF)),
    _of((0x1F300, 0x1FAFF)),
    _of((0x1D100, 0x1D1FF)),
    _one_of(SPECIAL),
    _one_of(MOVABLE),
    _one_of(("the ", "Keeper ", "couldn't ", "naïve", "LIGHTHOUSE", " storm,", "1,000")),
    _one_of((" ",)),
)


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Leave annotations unchecked, in a test that calls a function for every character."""
    jaxtyping.config.update("jaxtyping_disable", "1")
    yield
    jaxtyping.config.update("jaxtyping_disable", "0")


@pytest.fixture(scope="session")
def drawn_texts() -> Callable[[int, int], list[str]]:
    """Return a function of a seed and a count that draws texts, each of a few kinds mixed."""

    def draw(seed: int, count: int) -> list[str]:
        source = random.Random(seed)  # noqa: S311 - a test repeats itself
        texts = []
        for _ in range(count):
            kinds = source.sample(KINDS, source.randint(1, 4))
            length = source.randint(0, 24)
            texts.append("".join(source.choice(kinds)(source) for _ in range(length)))
        return texts

    return draw


@pytest.fixture(scope="session")
def huggingface() -> Callable[[Path], "HuggingFaceTokenizer"]:
    """Return a function that gives Hugging Face's tokenizer of a folder's two files."""
    from reference.huggingface_tokenizer import HuggingFaceTokenizer

    def build(folder: Path) -> "HuggingFaceTokenizer":
        name = next(ids for ids, _ in PAIRS_OF_FILES if (folder / ids).exists())
        size = len(json.loads((folder / name).read_text(encoding="utf-8")))
        return HuggingFaceTokenizer(folder, size=size)

    return build


@pytest.fixture(scope="session")
def released() -> Path:
    """Return the folder of the released vocabulary, or skip."""
    folder = os.environ.get("GPT1_VOCABULARY")
    if not folder:
        pytest.skip("not run: GPT1_VOCABULARY does not name the released vocabulary's folder")
    return Path(folder)


@pytest.fixture(scope="session")
def ours(small_vocabulary: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.fixture(scope="session")
def theirs(small_vocabulary: Path, huggingface: Callable) -> "HuggingFaceTokenizer":
    return huggingface(small_vocabulary)


@pytest.fixture(scope="session")
def rust() -> ModuleType:
    from reference import huggingface_tokenizer

    return huggingface_tokenizer
