"""The strings that are compared: picked by hand, tokens as words, generated, and a corpus."""

import functools
import random
import string
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path

from parity.checks.tokens.diagnosis import LONG
from parity.options import TokensOptions
from reference.published_token_ids import PUBLISHED
from scratch_gpt.data import corpus
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.tokenizer import Tokenizer

HARD: tuple[str, ...] = (
    # empty strings, and characters that are removed
    *("", " ", "\n", "\n\n\n", "\t \r\n", "\x00", "\ufeff", "\u200b", "\u00ad", "\ufffd"),
    *("a\x00b", "a\ufeffb", "a\u200bb", "a\u200db", "a\u00adb", "a\ufffdb", "a\x07b", "a\x7fb"),
    # line ends, spaces of every kind, terminal escapes
    *("a\r\nb", "a\rb", "a\n\rb", "a\tb", "a\x0bb", "a\x0cb", "a\x85b", "a\u2028b", "a\u2029b"),
    *("a\u00a0b", "a\u2003b", "a\u3000b", "a\u180eb", "a\u205fb", "\x1b[31mred\x1b[0m", "\x9b0m"),
    # cases, and letters whose case is two letters or depends on its place
    *("HELLO World", "İstanbul", "I\u0307", "\u0131", "STRASSE Straße ẞ", "ǅ Ǆ", "ΟΔΟΣ ΟΔΌΣ."),
    "ﬁ ﬃ",
    # accents, in one character and in several, in several orders
    *("café", "cafe\u0301", "Ugljšić", "dấu nặng", "a\u0323\u0307", "a\u0307\u0323", "\u0301"),
    *("\u1e69", "s\u0323\u0307", "\u212b", "q\u0307\u0323", "é" * 40, "e" + "\u0301" * 40),
    # scripts
    *("生活的真谛是", "a中b", "中文English混合", "\U00020000", "a\U0002a6d6b", "\uf900", "\u3007"),
    *("ひらがな", "カタカナ", "한국어", "\u1112\u1161\u11ab", "שלום עולם", "مرحبا بالعالم"),
    *("हिन्दी", "ปี ภาษาไทย", "Привет, мир", "Ёлка Йод", "\u202eabc\u202c", "\u0645\u064f"),
    "\u05d0\u05b7",
    # pictures: alone, joined, coloured, of flags
    *("🤔", "👩\u200d👩\u200d👧", "👍🏽", "🇩🇪", "❤\ufe0f", "a🤔b", "\U000e0067"),
    # the special token, and what looks like one
    *("<unk>", "a<unk>b", "<unk><unk>", "< unk >", "<UNK>", "<unk", "unk>", "<<unk>>"),
    *("</w>", "a</w>", "the</w> end", "<s>", "<pad>", "#version: 0.2", "\\n</w>", "\n</w>"),
    # marks: runs, both kinds of quotes, in numbers, in addresses
    *("!!!", "?!?!", "...", "....", "----", "a--b", "``a''", "«a»", "$5.00", "1,000.5", "3/4"),
    *("5%", "a_b__c", "C:\\dir\\file", "me@x.org", "http://a.com/b?c=d&e=f#g", "#tag", "~/x"),
    "(a)[b]{c}",
    # words as they come
    *("don't can't I'm he's they've we'll I'd o'clock", "rock'n'roll", "gonna wanna", "x" * 300),
    *("supercalifragilisticexpialidocious", "the " * 50, "ab" * 100, "0123456789" * 5, "e.g. i.e."),
)
"""The strings of section F of `tests/parity/test_gauntlet.py`, and similar ones."""

HAND_PICKED: tuple[str, ...] = tuple(dict.fromkeys([*HARD, *(row.text for row in PUBLISHED)]))
"""Those, and every string with published ids."""

_LAST = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)

_WORDS = (
    *("the", "The", "THE", "don't", "I'm", "U.S.A.", "Mr.", "gonna", "unk", "naïve", "Straße"),
    *("İ", "ΟΔΟΣ", "ǅ", "ﬁ", "wait...", "3.14", "$5", "e.g.", "http://a.com", "me@x.org", "10am"),
)
_LITERALS = ("<unk>", "</w>", "<s>", "<unk", "unk>", "#version", "\\", "\\n", "&amp;", "&lt;")
_BLANKS = (" ", "  ", "\t", "\n", "\r\n", "\n\n", "\u00a0", "\u2003", "\u3000", "\x0b", "\x85")
_RANGES = {
    "ascii": (0x21, 0x7E),
    "latin": (0xA1, 0x24F),
    "greek and cyrillic": (0x370, 0x52F),
    "hebrew and arabic": (0x590, 0x6FF),
    "indic and thai": (0x900, 0xE7F),
    "hangul jamo": (0x1100, 0x11FF),
    "latin with marks": (0x1E00, 0x1EFF),
    "marks": (0x300, 0x36F),
    "more marks": (0x1DC0, 0x1DFF),
    "punctuation and what is not seen": (0x2000, 0x206F),
    "letterlike": (0x2100, 0x218F),
    "kana": (0x3040, 0x30FF),
    "ideographs": (0x4E00, 0x9FFF),
    "hangul": (0xAC00, 0xD7A3),
    "compatible forms": (0xF900, 0xFFFF),
    "control characters": (0x00, 0xA0),
    "styled letters": (0x1D400, 0x1D7FF),
    "pictures": (0x1F300, 0x1FAFF),
    "rare ideographs": (0x20000, 0x2FA1F),
    "tags": (0xE0000, 0xE01EF),
    "anything": (0x00, _LAST),
}
"""First and last code point of each kind; all kinds are equally likely."""


def generate_strings(count: int, *, seed: int, added: Sequence[str] = ()) -> Iterator[str]:
    """Yield random strings of every kind of character; the first do not depend on `count`.

    With `added`, the texts of added tokens, a third of their parts are some of these.
    """
    bits = _BITS + ((lambda draw: draw.choice(added)),) * (len(_BITS) // 2 if added else 0)
    for number in range(count):
        draw = random.Random(f"{seed}/{number}")  # noqa: S311 - nothing secret depends on it
        yield "".join(draw.choice(bits)(draw) for _ in range(draw.randint(1, 24)))


_AROUND = (
    *(
        "{}",
        " {} ",
        "the {} the",
        "a{}b",
        "\t{}\n",
        "  {}  {}",
        "{}{}",
        "_{}",
        "{}1",
        ".{}.",
        "<{}>",
    ),
    *("{}\u0301", "\u0301{}", "{}\u200b", "\u4e2d{}\u4e2d", "\u3000{}\xa0", "A{}", "{}</w>"),
)
"""Texts around an added token: spaces, letters, marks, and what a normalizer removes or pads."""

_MOST_ADDED = 300
"""Added tokens of which every variant is compared; the others are compared alone."""


def strings_of_added(added: Sequence[str], *, seed: int) -> list[str]:
    """Return texts with each added token: alone, within others, in other cases, and nearly it."""
    draw = random.Random(f"{seed}/added")  # noqa: S311 - nothing secret depends on it
    found = list(added)
    for token in draw.sample(added, min(len(added), _MOST_ADDED)):
        half = len(token) // 2
        near = [token, token.upper(), token.lower(), token.swapcase(), token[1:], token[:-1]]
        near += [token[:half] + mark + token[half:] for mark in (" ", "\u200b", "\u0301", "x")]
        found += [around.format(token, token) for around in _AROUND]
        found += [*near, *(f"a {other} b" for other in near)]
        found += [token + other for other in draw.sample(added, min(len(added), 4))]
    return list(dict.fromkeys(found))


def _character(draw: random.Random) -> str:
    first, last = draw.choice(_KINDS)
    code = draw.randint(first, last)
    return "a" if code in _SURROGATES else chr(code)


_KINDS = tuple(_RANGES.values())
_BITS: tuple[Callable[[random.Random], str], ...] = (
    _character,
    lambda draw: "".join(_character(draw) for _ in range(draw.randint(1, 4))),
    lambda draw: draw.choice(_WORDS),
    lambda draw: draw.choice(_LITERALS),
    lambda draw: draw.choice(_BLANKS),
    lambda draw: draw.choice(_WORDS) + chr(draw.randint(0x300, 0x36F)),
    lambda _draw: " ",
)


def words_of_tokens(tokens: Iterable[str], end: str) -> list[str]:
    """Return a text for every token: one whose merges end with the token's own.

    A token that ends words is a word. Any other is followed by a letter that is in no merge.
    """
    spelled = (
        token.removesuffix(end) if token.endswith(end) else f"{token}{_STRANGE}" for token in tokens
    )
    return list(dict.fromkeys(text for text in spelled if text))


_STRANGE = "\u0e01"
"""A Thai letter."""


def long_words(tokens: Sequence[str], *, seed: int) -> list[str]:
    """Return words that are longer than those that are taken as a whole.

    Some have every two letters that are neighbors in a token, and that token's merges. Others are
    tokens in a row, of every length around the limit.
    """
    draw = random.Random(f"{seed}/long")  # noqa: S311 - nothing secret depends on it
    seen: set[str] = set()
    found = []
    around = _STRANGE * LONG
    for token in tokens:
        pairs = {token[at : at + 2] for at in range(len(token) - 1)}
        if not pairs <= seen:
            after = "" if token.endswith(END) else around
            found.append(around + token.removesuffix(END) + after)
        seen |= pairs
    spelled = [token.removesuffix(END) for token in tokens]
    plain = [token for token in spelled if token.isascii() and token.isalpha()] or ["a"]
    for length in (*range(LONG - 4, 3 * LONG), 500, 4_000):
        word = "".join(draw.choice(plain) for _ in range(length))[:length]
        found += [
            word,
            word[: length // 2] + word[0] * (length // 2),
            word[:-1] + draw.choice("ae"),
        ]
    return found


def many_words() -> list[str]:
    """Return texts with more words than our tokenizer keeps in its cache."""
    letters = string.ascii_lowercase
    words = ["".join(word) for word in product("abcdefgh", letters, letters, letters)]
    return [" ".join(words[start : start + 1_000]) for start in range(0, len(words), 1_000)]


_ENOUGH = 1_000_000
"""Characters of the standard library's docstrings that are compared without a corpus."""

_TRAINED_ON = 300_000
"""Characters that a vocabulary is trained on."""


def sources(options: TokensOptions, tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Return the strings to compare, by source."""
    if options.text is not None:
        return {"--text": [options.text]}
    added = [token.content for token in tokenizer.vocabulary.added]
    drawn = list(generate_strings(options.num_strings, seed=options.seed, added=added))
    return {
        "hand-picked": list(HAND_PICKED),
        "tokens as words": words_of_tokens(tokenizer.vocabulary.tokens, END),
        "long words": long_words(tokenizer.vocabulary.tokens, seed=options.seed),
        **({"added tokens": strings_of_added(added, seed=options.seed)} if added else {}),
        **({"generated": drawn} if drawn else {}),
        "corpus": list(_paragraphs(options.corpus)),
        # The cache is the same behind both pretokenizers, and spaCy takes long for so many words.
        **({"many words": many_words()} if tokenizer.pretokenizer == "huggingface" else {}),
    }


def training_texts() -> Iterator[str]:
    """Yield the texts on which a vocabulary is trained."""
    return _until(_TRAINED_ON, _library())


def _paragraphs(paths: tuple[Path, ...]) -> Iterator[str]:
    """Yield the paragraphs of the files, or of the standard library's docstrings without any."""
    texts = corpus.texts(corpus.documents(paths)) if paths else _until(_ENOUGH, _library())
    for text in texts:
        yield from (part for part in text.split("\n\n") if part)


def _library() -> Iterator[str]:
    yield from corpus.texts(_documents())


@functools.cache  # reading them takes seconds
def _documents() -> list[corpus.Document]:
    return corpus.docstring_documents()


def _until(characters: int, texts: Iterator[str]) -> Iterator[str]:
    total = 0
    for text in texts:
        yield text
        total += len(text)
        if total >= characters:
            return
