"""The cause of a difference between two tokenizers: the step, and the character."""

import dataclasses
import unicodedata
from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from itertools import chain
from typing import TypeVar

from parity.checks.tokens.runners import (
    CandidateTokenizer,
    Raised,
    ReferenceTokenizer,
    Wrong,
    attempt,
)
from reference.huggingface_tokenizer import Encoding
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN

S = TypeVar("S", bound=Sequence[object])


_MOST_TRIED = 1_000_000
"""Characters of all the inputs that are tried in order to shorten one, or four times its own."""


def shortest(text: S, fails: Callable[[S], bool]) -> S:
    """Return a subsequence of a failing input that fails, and no longer does without any element.

    Large parts are removed first, then single elements: letters, ids, or texts. Two that can only
    be removed together remain, and so does more of an input of very many characters.

    Source: Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input".
    """

    def letters(of: S) -> int:
        return sum(len(one) if isinstance(one, str) else 1 for one in of)

    size, tried, most = max(1, len(text) // 2), 0, max(_MOST_TRIED, 4 * letters(text))
    while True:
        start, removed = 0, False
        while start < len(text):
            shorter: S = text[:start] + text[start + size :]  # type: ignore[operator]
            tried += letters(shorter)
            if tried > most:
                return text
            if shorter and fails(shorter):
                text, removed = shorter, True
            else:
                start += size
        if size == 1 and not removed:
            return text
        size = max(1, size // 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """The cause of a difference: the first step at which both sides differ, and an example.

    `text` is the shortest input that shows the difference, `character` the code point concerned
    with its name. Inputs, words and other results are ASCII literals; `ids` are empty where the
    result is no encoding.
    """

    step: str
    why: str
    character: str = ""
    text: str
    ids_ours: tuple[int, ...] = ()
    ids_theirs: tuple[int, ...] = ()
    words_ours: tuple[str, ...] = ()
    words_theirs: tuple[str, ...] = ()


def part(ours: Encoding, theirs: Encoding) -> bool:
    """Return whether two encodings differ in ids, or in offsets if both sides have them."""
    located = ours.offsets is not None and theirs.offsets is not None
    wrong = isinstance(ours, Wrong) or isinstance(theirs, Wrong)
    return wrong or ours.ids != theirs.ids or (located and ours.offsets != theirs.offsets)


Sides = tuple[CandidateTokenizer, ReferenceTokenizer]


def encoded(side: CandidateTokenizer | ReferenceTokenizer, texts: Sequence[str]) -> list[Encoding]:
    """Return every text's encoding; of a reference that raises, text by text."""
    found = attempt(side.encode_batch, texts)
    if not isinstance(found, Raised):
        return found
    if len(texts) > 1:
        return [encoded(side, [text])[0] for text in texts]
    return [Wrong((), None, "exception", f"the reference, {side.name}, raises {found.error}")]


def cause_of(text: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer) -> Cause:
    """Return the cause of the difference between both sides on a text."""

    def both(shorter: str) -> list[Encoding]:
        return [encoded(side, [shorter])[0] for side in (ours, theirs)]

    if not part(*both(text)):
        return Cause(
            step="word cache",
            why="other ids than the reference when it was first encoded, and not any more",
            text=ascii(text[:_LONGEST]),
        )
    in_cache = not part(encoded(CandidateTokenizer(ours.fresh()), [text])[0], both(text)[1])
    text = shortest(text, lambda shorter: part(*both(shorter)))
    mine, other = both(text)
    in_cache |= attempt(ours.fresh().encode, text) == list(other.ids) != list(mine.ids)
    found = [attempt(side.words, text) for side in (ours, theirs)]
    words = [[] if isinstance(one, Raised) else one for one in found]
    if in_cache:
        step, why = "word cache", "the ids are right while no other text has been encoded"
    elif isinstance(other, Wrong) or (isinstance(mine, Wrong) and mine.ids in ((), other.ids)):
        wrong = other if isinstance(other, Wrong) else mine
        step, why = wrong.step, wrong.why  # type: ignore[attr-defined, unused-ignore]
    elif why := _of_added(ours, theirs, mine, other):
        step, words = "added token", [_tokens(theirs, mine.ids), _tokens(theirs, other.ids)]
    elif words[0] != words[1]:
        step, why = _of_words(text, words[0], theirs)
    else:
        step, why = _of_ids(words[0], ours, theirs, mine, other)
    return Cause(
        step=step,
        why=why,
        character=_character(text),
        text=ascii(text),
        ids_ours=mine.ids,
        ids_theirs=other.ids,
        words_ours=tuple(map(ascii, words[0])),
        words_theirs=tuple(map(ascii, words[1])),
    )


LONG = 64
"""Characters up to which our tokenizer takes a word as a whole, and keeps it in its cache."""

_LONGEST = 1_000
"""Characters of a text that is not shortened."""


def _of_added(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, mine: Encoding, other: Encoding
) -> str:
    """Return an explanation if an added token is not the same part of the text, else ""."""
    vocabulary = ours.tokenizer.vocabulary
    names = {number: content for content, number in vocabulary.added_ids.items()}
    names |= dict(theirs.added)
    names.pop(vocabulary.ids[UNKNOWN], None)
    located = mine.offsets is not None and other.offsets is not None
    places = []
    for side in (mine, other):
        spans = side.offsets if located and side.offsets is not None else [None] * len(side.ids)
        pairs = zip(side.ids, spans, strict=True)
        places.append([(number, place) for number, place in pairs if number in names])
    for number, place in chain(*places):
        name, here = ascii(names[number]), [(number, place) in side for side in places]
        if not all(here) and any(number not in {n for n, _ in side} for side in places):
            one, another = ("us", "the reference")[:: 1 if here[0] else -1]
            return f"{name} is an added token to {one}, and not to {another}"
        if not all(here):
            return f"the added token {name} is other characters to us than to the reference"
    return "" if places[0] == places[1] else "added tokens are in another order"


def _tokens(theirs: ReferenceTokenizer, ids: Sequence[int]) -> list[str]:
    """Return the tokens of ids; an id without a token as a number."""
    return [theirs.tokens.get(number, f"{number}") for number in ids]


# Words that differ.


def _of_words(text: str, ours: list[str], theirs: ReferenceTokenizer) -> tuple[str, str]:
    """Return the step without which the reference's words equal ours, and an explanation."""
    right = theirs.words(text)
    if UNKNOWN in text and (UNKNOWN in ours) != (UNKNOWN in right):
        whole = "one token" if UNKNOWN in ours else "ordinary characters"
        return "special token", f"a literal {UNKNOWN} is {whole} to us, and not to the reference"
    for step in theirs.steps:
        if theirs.words_without(step, text) == ours:
            return step, f"our words are those of the reference without this step: {step}"
    if "".join(ours) == "".join(right):
        return "word boundaries", "the letters are the same, and the words end elsewhere"
    return _of_letters(" ".join(ours), " ".join(right))


def _of_letters(ours: str, right: str) -> tuple[str, str]:
    """Return the step and an explanation of the first letters that differ."""
    changes = SequenceMatcher(None, right, ours, autojunk=False).get_opcodes()
    _, start, end, first, after = next(one for one in changes if one[0] != "equal")
    wanted, found = right[start:end], ours[first:after]
    strange = next((letter for letter in found if letter != " "), "")
    kind = _kind(strange) if strange else ""
    if strange.isspace():
        return "white space", f"{_named(strange)} stays in a word, and separates none"
    if kind in _REMOVED and strange not in wanted:
        step, why = _REMOVED[kind]
        return step, f"{_named(strange)} {why}"
    if not wanted.strip():
        return "letters", f"{_named(strange)} is added to a word" if strange else "a word is cut"
    if not found.strip():
        return "letters", f"{_named(wanted.strip()[0])} is lost"
    for step, change in _CHANGES.items():
        if change(found) == wanted:
            return step, f"{_named(strange)} stays as it is; the reference has {_named(wanted[0])}"
    return "letters", f"{_named(found[0])} stands where the reference has {_named(wanted[0])}"


_REMOVED = {
    "a control or unseen character": ("cleaning", "stays, and the reference removes it"),
    "an accent": ("accents", "stays, and the reference removes it"),
}
_CHANGES: dict[str, Callable[[str], str]] = {
    "lower case": str.lower,
    "accents": lambda text: unicodedata.normalize("NFD", text)[:1],
}


# Ids that differ in equal words.


def _of_ids(
    words: Sequence[str],
    ours: CandidateTokenizer,
    theirs: ReferenceTokenizer,
    mine: Encoding,
    other: Encoding,
) -> tuple[str, str]:
    """Return the step within words that are equal on both sides, and an explanation."""
    if mine.ids == other.ids:
        return _of_places(mine.offsets or (), other.offsets or ())
    if width := narrowed(mine.ids, other.ids):
        return "ids", f"ids are cut to {width} bits"
    if not all(number in theirs.tokens for number in mine.ids):
        return "ids", "an id that no token has"
    if (size := max(map(len, words), default=0)) > LONG:
        return "long words", f"a word of {size} letters; each shorter one is right"
    unknown = ours.tokenizer.vocabulary.ids[UNKNOWN]
    if [n for n in mine.ids if n != unknown] != [n for n in other.ids if n != unknown] or len(
        mine.ids
    ) == len(other.ids):
        return _of_tokens(*(_tokens(theirs, side.ids) for side in (mine, other)))
    return "unknown characters", f"{UNKNOWN} does not stand for each of the same characters"


def narrowed(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """Return the bits of the integer type that makes our ids of the reference's; 0 if none does."""
    if len(ours) != len(theirs):
        return 0
    pairs = list(zip(ours, theirs, strict=True))
    return next((b for b in (16, 8) if all(not (i - j) % (1 << b) for i, j in pairs)), 0)


def _of_places(ours: Sequence[object], theirs: Sequence[object]) -> tuple[str, str]:
    """Return an explanation of the first token whose offsets differ."""
    pairs = enumerate(zip(ours, theirs, strict=False))
    token = next(((at, one, two) for at, (one, two) in pairs if one != two), None)
    if token is None:
        return "places", f"{len(ours)} offsets for {len(theirs)} tokens"
    return "places", "the ids are equal; token {} is at {}, in the reference at {}".format(*token)


def _of_tokens(mine: list[str], theirs: list[str]) -> tuple[str, str]:
    """Return the step at which tokens of equal words differ, and an explanation."""
    spelled = "".join(mine), "".join(theirs)
    if spelled[0] == spelled[1]:
        return "merges", "the same letters, merged otherwise"
    if spelled[0].replace(END, "") == spelled[1].replace(END, ""):
        return "end of word", f"the same letters, with {END} at other places"
    if UNKNOWN in spelled[0] + spelled[1]:
        return "unknown characters", f"{UNKNOWN} does not stand for the same characters"
    return "ids", "a token that spells something else"


# Characters, by Python's tables: ours are a part of what is compared.


def _character(text: str) -> str:
    """Return the first unusual character of a text, with its kind."""
    if not text:
        return "none"
    strange = [letter for letter in text if not (letter.isascii() and letter.isalnum())]
    return _named(next((letter for letter in strange if letter != " "), text[0]))


def _named(letter: str) -> str:
    name = unicodedata.name(letter, "")
    return f"U+{ord(letter):04X}{name and ' '}{name}, {_kind(letter)}"


def _kind(letter: str) -> str:
    return next((kind for kind, holds in _KINDS.items() if holds(letter)), "no kind of its own")


_KINDS: dict[str, Callable[[str], bool]] = {
    "a space": str.isspace,
    "a control or unseen character": lambda one: unicodedata.category(one)[0] == "C",
    "an ideograph": lambda one: unicodedata.name(one, "").startswith("CJK"),
    "punctuation": lambda one: unicodedata.category(one)[0] in "PS",
    "an accent": lambda one: unicodedata.category(one)[0] == "M",
    "a letter that comes apart": lambda one: unicodedata.normalize("NFD", one) != one,
    "upper case": lambda one: one.lower() != one,
    "a digit": str.isdecimal,
    "a letter": str.isalpha,
}
