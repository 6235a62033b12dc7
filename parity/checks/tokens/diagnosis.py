"""The cause of a difference between two tokenizers: the step, and the character."""

import dataclasses
from collections.abc import Callable
from itertools import chain

from parity.checks.tokens.runners import INCONSISTENT, CandidateTokenizer, ReferenceTokenizer
from reference.huggingface_tokenizer import Encoding
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.unicode import character_classes


def shortest(text: str, fails: Callable[[str], bool]) -> str:
    """Return a subsequence of a failing text that fails, and no longer does without any letter.

    Large parts are removed first, then single letters. Two letters that can only be removed
    together remain.

    Source: Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input".
    """
    size = max(1, len(text) // 2)
    while True:
        text, removed = _without_parts(text, size, fails)
        if size == 1 and not removed:
            return text
        size = max(1, size // 2)


def _without_parts(text: str, size: int, fails: Callable[[str], bool]) -> tuple[str, bool]:
    """Return the text without every removable part of a size, and whether any was removed."""
    start, removed = 0, False
    while start < len(text):
        shorter = text[:start] + text[start + size :]
        if shorter and fails(shorter):
            text, removed = shorter, True
        else:
            start += size
    return text, removed


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cause:
    """The cause of a difference: the first step at which both sides differ, and an example.

    `text` is the shortest string that shows the difference, `character` the code point concerned
    with its class in our table. Texts and words are ASCII literals.
    """

    step: str
    why: str
    character: str
    text: str
    ids_ours: tuple[int, ...]
    ids_theirs: tuple[int, ...]
    words_ours: tuple[str, ...]
    words_theirs: tuple[str, ...]


def part(ours: Encoding, theirs: Encoding) -> bool:
    """Return whether two encodings differ in ids, or in offsets if both sides have them."""
    located = ours.offsets is not None and theirs.offsets is not None
    return ours.ids != theirs.ids or (located and ours.offsets != theirs.offsets)


def cause_of(text: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer) -> Cause:
    """Return the cause of the difference between both sides on a text."""

    def differ(shorter: str) -> bool:
        return part(ours.encode_batch([shorter])[0], theirs.encode_batch([shorter])[0])

    text = shortest(text, differ)
    words = ours.words(text), theirs.words(text)
    ids = ours.encode_batch([text])[0], theirs.encode_batch([text])[0]
    if why := _of_added(ours, theirs, *ids):
        step, words = "added token", (_tokens(ours, ids[0]), _tokens(ours, ids[1]))
    elif words[0] != words[1]:
        step, why = _of_words(text, words[0], theirs)
    else:
        step, why = _of_ids(ours, *ids)
    return Cause(
        step=step,
        why=why,
        character=_character(text),
        text=ascii(text),
        ids_ours=ids[0].ids,
        ids_theirs=ids[1].ids,
        words_ours=tuple(map(ascii, words[0])),
        words_theirs=tuple(map(ascii, words[1])),
    )


def _of_added(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, mine: Encoding, other: Encoding
) -> str:
    """Return an explanation if an added token is not the same part of the text, else ""."""
    if mine == INCONSISTENT:
        return ""
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


def _tokens(ours: CandidateTokenizer, encoding: Encoding) -> list[str]:
    """Return the tokens of ids; an id without a token as a number."""
    known = dict(enumerate(ours.tokenizer.vocabulary.all_tokens))
    return [known.get(number, f"{number}") for number in encoding.ids]


def _of_words(text: str, ours: list[str], theirs: ReferenceTokenizer) -> tuple[str, str]:
    """Return the step without which the reference's words equal ours, and an explanation."""
    if UNKNOWN in text and (UNKNOWN in ours) != (UNKNOWN in theirs.words(text)):
        whole = "one token" if UNKNOWN in ours else "ordinary characters"
        return "special token", f"a literal {UNKNOWN} is {whole} to us, and not to the reference"
    for step in theirs.steps:
        if theirs.words_without(step, text) == ours:
            return step, f"our words are those of the reference without this step: {step}"
    if "".join(ours) == "".join(theirs.words(text)):
        return "word boundaries", "the letters are the same, and the words end elsewhere"
    return "letters", "a letter becomes another one"


def _of_ids(ours: CandidateTokenizer, mine: Encoding, theirs: Encoding) -> tuple[str, str]:
    """Return the step within words that are equal on both sides, and an explanation."""
    if mine == INCONSISTENT:
        return "ids", "encode and encode_with_offsets do not give the same ids"
    if mine.ids == theirs.ids:
        return "places", "the ids are the same, and their offsets are not"
    size, unknown = ours.tokenizer.vocab_size, ours.tokenizer.vocabulary.ids[UNKNOWN]
    if not all(0 <= number < size for number in mine.ids):
        return "ids", "an id that no token has"
    if [n for n in mine.ids if n != unknown] != [n for n in theirs.ids if n != unknown] or len(
        mine.ids
    ) == len(theirs.ids):
        return _of_tokens(*(ours.tokenizer.tokens(side.ids) for side in (mine, theirs)))
    return "unknown characters", f"{UNKNOWN} does not stand for each of the same characters"


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


def _character(text: str) -> str:
    """Return the first unusual character of a text, with its class in our table."""
    if not text:
        return "none"
    strange = [letter for letter in text if not (letter.isascii() and letter.isalnum())]
    letter = next((letter for letter in strange if letter != " "), text[0])
    kind = next((name for name, holds in _KINDS if holds(ord(letter))), "no class of its own")
    return f"U+{ord(letter):04X}, {kind}"


_KINDS: tuple[tuple[str, Callable[[int], bool]], ...] = (
    ("removed", lambda code: code in character_classes().removed),
    ("a space", lambda code: code in character_classes().white or code == ord(" ")),
    ("an ideograph", lambda code: code in character_classes().ideographs),
    ("punctuation", lambda code: code in character_classes().punctuation),
    ("an accent", lambda code: code in character_classes().nonspacing),
    ("a letter that comes apart", lambda code: code in character_classes().decomposition),
    ("upper case", lambda code: code in character_classes().lowercase),
)
