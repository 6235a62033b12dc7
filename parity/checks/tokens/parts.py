"""What people use of the tokenizer beside encoding one text, each part with its reference.

Decoding, batches, training, files, vocabularies of many ids, and inputs that are rejected.
"""

import dataclasses
import functools
import json
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch

from parity.checks.tokens.diagnosis import Cause, narrowed, shortest
from parity.checks.tokens.runners import CandidateTokenizer, Raised, ReferenceTokenizer, attempt
from parity.checks.tokens.strings import HARD
from reference import bpe_training
from reference.original_tokenizer import decode
from scratch_gpt.tokenizer.bpe import END
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.vocabulary import MERGES, VOCABULARY, Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One use of the tokenizer.

    Attributes:
        name: Its name in reports.
        step: The step at which results differ; by default the name.
        against: The reference.
        inputs: Tuples, from short to long: only of the first that differ a cause is searched.
        ours: Returns our result for an input.
        theirs: Returns the reference's.
        explain: Returns the reason, given the input and both results.
    """

    name: str
    step: str = ""
    against: str
    inputs: Sequence[tuple[Any, ...]]
    ours: Callable[[Any], Any]
    theirs: Callable[[Any], Any]
    explain: Callable[[Any, Any, Any], str]

    def differs(self, given: tuple[Any, ...]) -> bool:
        """Return whether both results differ, or one side raises."""
        mine, other = attempt(self.ours, given), attempt(self.theirs, given)
        raised = isinstance(mine, Raised) or isinstance(other, Raised)
        return raised or attempt(lambda: bool(mine != other)) is not False

    def cause(self, given: tuple[Any, ...]) -> Cause:
        """Return the cause of a difference at an input."""
        given = shortest(given, self.differs)
        mine, other = attempt(self.ours, given), attempt(self.theirs, given)
        step = "exception"
        if isinstance(mine, Raised):
            why = f"our {self.name} raises {mine.error}"
        elif isinstance(other, Raised):
            why = f"the reference, {self.against}, raises {other.error}"
        else:
            found = attempt(self.explain, given, mine, other)
            step = self.step or self.name
            why = "other results" if isinstance(found, Raised) else found
        return Cause(
            step=step,
            why=why,
            text=_shown(given),
            words_ours=(_shown(mine),),
            words_theirs=(_shown(other),),
        )


_SHOWN = 300


def _shown(result: object) -> str:
    """Return a result as ASCII, the middle of a long one left out."""
    text = result.error if isinstance(result, Raised) else ascii(result)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"


def parts(  # noqa: PLR0913 - both sides, and what is compared
    ours: CandidateTokenizer,
    theirs: ReferenceTokenizer,
    texts: Sequence[str],
    ids: Sequence[tuple[int, ...]],
    *,
    seed: int,
    whole: bool,
) -> Iterator[Part]:
    """Yield the parts to compare, in causal order.

    Args:
        ours: Our side.
        theirs: The reference tokenizer.
        texts: Texts for batches.
        ids: The reference's ids of texts, for decoding.
        seed: Of what is drawn.
        whole: Whether everything is compared, and not only these texts and ids.
    """
    draw = random.Random(f"{seed}/parts")  # noqa: S311 - nothing secret depends on it
    drawn = [*_drawn_ids(theirs, draw), *ids] if whole else ids
    yield from _decoding(
        ours, theirs, [some for some in drawn if theirs.respelled.isdisjoint(some)]
    )
    yield _batches(ours.tokenizer, texts)
    if whole:
        yield _many_ids(ours)
        yield from _training(ours.tokenizer, theirs, draw)
        yield _files(ours.tokenizer, texts)
        yield _other_inputs(ours.tokenizer)


def _first_pair(ours: Iterable[Any], theirs: Iterable[Any]) -> tuple[int, Any, Any]:
    """Return the first place at which two results differ, and what each has there."""
    pairs = enumerate(zip_longest(ours, theirs))
    return next((at, *pair) for at, pair in pairs if pair[0] != pair[1])


# Decoding.


def _drawn_ids(theirs: ReferenceTokenizer, draw: random.Random) -> Iterator[tuple[int, ...]]:
    """Yield no id, every id alone, and every id within sequences of random lengths."""
    yield ()
    numbers = sorted(theirs.tokens)
    yield from ((number,) for number in numbers)
    draw.shuffle(numbers)
    rest = iter([*numbers, *(draw.choice([*theirs.added, 0]) for _ in range(100)), *numbers])
    while some := tuple(islice(rest, draw.randint(2, 80))):
        yield some


def _decoding(
    ours: CandidateTokenizer, theirs: ReferenceTokenizer, ids: Sequence[tuple[int, ...]]
) -> Iterator[Part]:
    def explain(given: tuple[int, ...], mine: Any, other: Any) -> str:  # noqa: ANN401
        (text, tokens), (right, spelled) = mine, other
        if tokens != spelled:
            at, *_ = _first_pair(tokens, spelled)
            return f"token {at} of the ids is {tokens[at:][:1]}, not {spelled[at:][:1]}"
        if text.rstrip() == right:
            return "white space follows the last word"
        if "".join(text.split()) == "".join(right.split()):
            return "the words are not separated as in the reference"
        if END in text:
            return f"the mark {END} is left in the text"
        if len(text) < len(right):
            return "a token is left out of the text" if len(given) == 1 else "text is lost"
        return "other text from the right tokens"

    tokenizer, named = ours.tokenizer, theirs.tokens

    def reference(decoder: Callable[[Any], str], given: tuple[int, ...]) -> tuple[str, list[str]]:
        return decoder(given), [named[number] for number in given]

    of_both: dict[str, Callable[[Any], str]] = {
        "definition": functools.partial(decode, named),
        theirs.name: theirs.decode,
    }
    for against, decoder in of_both.items():
        yield Part(
            name="decode",
            against=against,
            inputs=ids,
            ours=lambda given: (tokenizer.decode(given), tokenizer.tokens(given)),
            theirs=functools.partial(reference, decoder),
            explain=explain,
        )
        if theirs.name != "huggingface":  # the release has no decoder, and its reference is this
            return


# Batches.


def _batches(tokenizer: Tokenizer, texts: Sequence[str]) -> Part:
    def explain(given: tuple[str, ...], mine: Any, other: Any) -> str:  # noqa: ANN401
        if len(mine) != len(other):
            return f"{len(mine)} rows for {len(given)} texts"
        if sorted(mine) == sorted(other):
            return "the rows are in another order than the texts"
        row, ids, alone = _first_pair(map(list, mine), map(list, other))
        same = ids[: len(alone)] == alone[: len(ids)]
        return f"row {row} has {len(ids)} ids, and its text alone {len(alone)}" + (
            ", the same to the end of the shorter" if same else ""
        )

    found = tuple(texts)
    mixed = tuple(text for pair in zip(found, reversed(found), strict=True) for text in pair)
    return Part(
        name="encode_batch",
        against="row by row",
        inputs=[
            (),
            ("the lamp", "a", "", "the"),
            *((text,) for text in found[:20]),
            ("", *found[:3], "", ""),
            found,
            mixed,
        ],
        ours=lambda given: tokenizer.encode_batch(iter(given)),
        theirs=lambda given: [tokenizer.encode(text) for text in given],
        explain=explain,
    )


# More ids than 16 bits hold.

_IDEOGRAPHS = (*range(0x4E00, 0x9FFD), *range(0x3400, 0x4DB6), *range(0x20000, 0x2A6D7))
"""Each is a word to both pretokenizers, and no character is changed."""


def _many_ids(ours: CandidateTokenizer) -> Part:
    tokens = [UNKNOWN, *(chr(code) + END for code in _IDEOGRAPHS)]

    @functools.cache
    def tokenizer() -> Tokenizer:
        return ours.fresh(Vocabulary(tuple(tokens), ()))

    def text(given: tuple[int, ...]) -> str:
        return " ".join(tokens[number].removesuffix(END) for number in given)

    def explain(given: tuple[int, ...], mine: Any, _other: Any) -> str:  # noqa: ANN401
        if width := narrowed(mine[0], given):
            return f"id {given[0]} becomes {mine[0][0]}: ids are cut to {width} bits"
        return f"of {len(tokens):,} tokens, id {given[0]} is not given back"

    borders = [border + by for border in (1 << 7, 1 << 8, 1 << 15, 1 << 16) for by in (-1, 0, 1)]
    numbers = (1, 2, *borders, len(tokens) - 1)
    return Part(
        name="many ids",
        step="ids",
        against="definition",
        inputs=[*((number,) for number in numbers), numbers, tuple(reversed(numbers))],
        ours=lambda given: (
            tokenizer().encode(text(given)),
            tokenizer().encode_with_offsets(text(given))[0],
            tokenizer().decode(given),
        ),
        theirs=lambda given: ([*given], [*given], text(given)),
        explain=explain,
    )


# Training.

_MERGES = 150


def _training(
    tokenizer: Tokenizer, theirs: ReferenceTokenizer, draw: random.Random
) -> Iterator[Part]:
    def words(texts: Sequence[str]) -> Counter[str]:
        return Counter(w for text in texts for w in theirs.words(text) if w != UNKNOWN)

    def ours(texts: Sequence[str], merges: int) -> tuple[list[str], list[tuple[str, str]]]:
        made = tokenizer.train(texts, merges=merges, pretokenizer=tokenizer.pretokenizer)
        return list(made.vocabulary.tokens), list(made.vocabulary.merges)

    def explain(given: tuple[str, ...], mine: Any, other: Any) -> str:  # noqa: ANN401
        (tokens, merges), (right, wanted) = mine, other
        if merges == wanted:
            at, one, another = _first_pair(tokens, right)
            return f"equal merges, but token {at} is {one!r} and not {another!r}"
        at, one, another = _first_pair(merges, wanted)
        if one is None:
            return f"there is no merge {at + 1}; the reference merges {another}"
        if another is None:
            return f"merge {at + 1} is {one}; the reference has no more"
        counts = next(islice(bpe_training.steps(words(given)), at, None))[1]
        times = counts.get(one, 0), counts[another]
        cause = (
            f"both occur {times[1]} times, and the first in code-point order is due"
            if times[0] == times[1]
            else f"they occur {times[0]} and {times[1]} times"
        )
        return f"merge {at + 1} is {one}, in the reference {another}: {cause}"

    def drawn(letters: str, count: int) -> tuple[str, ...]:
        return tuple(
            "".join(draw.choice(letters) for _ in range(draw.randint(1, 8))) for _ in range(count)
        )

    few = [drawn(letters, count) for letters in ("ab", "abc", "zyxw") for count in (6, 12, 24)]
    spelled = [t.removesuffix(END) for t in theirs.tokens.values() if t.isalpha()]
    many = [draw.choice(spelled[: 1 + draw.randrange(len(spelled))]) for _ in range(1_000)]
    nothing = [
        (),
        ("",),
        (" \n\t",),
        ("a",),
        ("a a",),
        ("\u751f\u6d3b",),
        (UNKNOWN, f"b{UNKNOWN}b"),
    ]
    prose = [*HARD, *HARD[::-1], *(" ".join(many[at::20]) for at in range(20))]
    yield Part(
        name="training",
        against="definition",
        inputs=[*nothing, ("aaaa aaa", "aaa aa"), *few, tuple(prose)],
        ours=lambda given: ours(given, _MERGES),
        theirs=lambda given: bpe_training.train(words(given), _MERGES),
        explain=explain,
    )
    yield Part(
        name="training, few merges",
        step="training",
        against="definition",
        inputs=[*few],
        ours=lambda given: [ours(given, merges) for merges in (0, 1, 2)],
        theirs=lambda given: [bpe_training.train(words(given), merges) for merges in (0, 1, 2)],
        explain=lambda given, mine, other: explain(
            given, *next(pair for pair in zip(mine, other, strict=True) if pair[0] != pair[1])
        ),
    )
    # The library breaks ties in no fixed order, so words occur at numbers that differ.
    apart = [
        tuple(
            word
            for word in dict.fromkeys(drawn("abcdefgh", 25))
            for _ in range(draw.randint(2, 400))
        )
        for _ in range(2)
    ]
    yield Part(
        name="training",
        against="tokenizers",
        inputs=apart,
        ours=lambda given: ours(given, len(bpe_training.before_a_tie(Counter(given))))[1],
        theirs=lambda given: bpe_training.library_merges(Counter(given))[
            : len(bpe_training.before_a_tie(Counter(given)))
        ],
        explain=lambda given, mine, other: explain(given, ([], mine), ([], other)),
    )


# Files.


def _files(tokenizer: Tokenizer, texts: Sequence[str]) -> Part:
    mine = tokenizer.vocabulary

    @functools.cache
    def read_back() -> Mapping[str, Any]:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tokenizer.save_pretrained(folder)
            _header, *lines, _end = (folder / MERGES).read_text(encoding="utf-8").split("\n")
            return {
                "tokens in the file": json.loads((folder / VOCABULARY).read_text(encoding="utf-8")),
                "merges in the file": [tuple(line.split(" ")) for line in lines],
                "tokenizer": type(tokenizer).from_pretrained(folder),
            }

    uses: dict[str, Callable[[Tokenizer], object]] = {
        "tokens": lambda one: one.vocabulary.all_tokens,
        "merges": lambda one: one.vocabulary.merges,
        "added tokens": lambda one: one.vocabulary.added,
        "pretokenizer": lambda one: one.pretokenizer,
        "digest": lambda one: one.digest,
        "ids": lambda one: one.encode_batch(texts),
    }
    in_files = {"tokens in the file": mine.ids, "merges in the file": [*mine.merges]}

    def found(what: str, files: Mapping[str, Any], one: Tokenizer) -> object:
        return files[what] if what in in_files else uses[what](one)

    def explain(given: tuple[str, ...], mine: Any, other: Any) -> str:  # noqa: ANN401
        if isinstance(mine, str):
            return f"the {given[0]} is {mine!r} after saving, and was {other!r}"
        at, one, another = _first_pair(mine, other)
        return f"the {given[0]}: entry {at} is {one!r} after saving, and was {another!r}"

    return Part(
        name="files",
        against="before saving",
        inputs=[(what,) for what in (*in_files, *uses)],
        ours=lambda given: found(given[0], read_back(), read_back()["tokenizer"]),
        theirs=lambda given: found(given[0], in_files, tokenizer),
        explain=explain,
    )


# Other kinds of inputs.

Case = Callable[[Tokenizer], object]


def _other_inputs(tokenizer: Tokenizer) -> Part:
    size = tokenizer.vocab_size
    some = [size - 1, 0, 1]
    same: dict[str, Case] = {
        "decode of a list": lambda one: one.decode(some),
        "decode of a tuple": lambda one: one.decode(tuple(some)),
        "decode of an iterator": lambda one: one.decode(iter(some)),
        "decode of a NumPy array": lambda one: one.decode(np.array(some)),
        "decode of a tensor": lambda one: one.decode(torch.tensor(some)),
        "decode of an int32 tensor": lambda one: one.decode(torch.tensor(some, dtype=torch.int32)),
    }
    rejected: dict[str, tuple[Case, str]] = {
        "decode of -1": (lambda one: one.decode([-1]), "ValueError"),
        "decode of the number of tokens": (lambda one: one.decode([0, size]), "ValueError"),
        "decode of True": (lambda one: one.decode([True]), "TypeError"),
        "tokens of -1": (lambda one: one.tokens([-1]), "ValueError"),
        "encode of half a character": (lambda one: one.encode("a\ud800"), "TextError"),
        "offsets of half a character": (
            lambda one: one.encode_with_offsets("a\ud800"),
            "TextError",
        ),
        "encode_batch of one text": (lambda one: one.encode_batch("the"), "TypeError"),
        "training of one text": (lambda one: one.train("the", merges=1), "TypeError"),
        "training of -1 merges": (lambda one: one.train(["the"], merges=-1), "ValueError"),
    }

    def ours(given: tuple[str]) -> object:
        (case,) = given
        if case in same:
            return same[case](tokenizer)
        found = attempt(rejected[case][0], tokenizer)
        return found.error.partition(":")[0] if isinstance(found, Raised) else found

    def theirs(given: tuple[str]) -> object:
        (case,) = given
        return rejected[case][1] if case in rejected else tokenizer.decode(some)

    return Part(
        name="other inputs",
        against="documentation",
        inputs=[(case,) for case in (*same, *rejected)],
        ours=ours,
        theirs=theirs,
        explain=lambda given, mine, other: (
            f"{given[0]} gives {_shown(mine)}, and not {_shown(other)}"
        ),
    )
