"""An independent re-implementation of the release's tokenizer.

It follows the description of `text_utils.py` by other means than `scratch_gpt`: character by
character instead of regular expressions, and with merging as slow as its definition. Both use ftfy
for text repair and spaCy for English words; the comparison covers everything around them.

Source: openai/finetune-transformer-lm@a69b5c4, text_utils.py.
"""

import functools
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby, pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any

Split = Callable[[str], list[str]]
"""Maps a prepared text to its pieces: words, and newlines with the space around them."""

_TYPED = {"—": "-", "–": "-", "―": "-", "…": "...", "\u00b4": "'"}
_PADDED = frozenset('-~!"?+,)(/*[]}{|_;')
"""Runs of these get spaces around them. The backslash does not: in the release's plain string its
two backslashes reach `re` as one, which escapes the plus sign after it."""


def prepare_text(text: str) -> str:
    """Return the text as the release hands it to spaCy.

    Raises:
        ModuleNotFoundError: ftfy is not installed.
    """
    import ftfy  # type: ignore[import-not-found, unused-ignore]

    typed = "".join(_TYPED.get(character, character) for character in ftfy.fix_text(text))
    padded = "".join(map(_standing_alone, _runs(typed)))
    return "".join(map(_one_space, groupby(padded, str.isspace))).strip()


def _runs(text: str) -> list[str]:
    """Return the runs of equal characters."""
    return ["".join(same) for _, same in groupby(text)]


def _standing_alone(run: str) -> str:
    return f" {run} " if run[0] in _PADDED else run


def _one_space(group: "tuple[bool, groupby[bool, str] | object]") -> str:
    """Return text as it is; white space becomes a newline if it has one, else one space."""
    blank, characters = group
    stretch = "".join(characters)  # type: ignore[arg-type]
    if not blank:
        return stretch
    return " \n " if "\n" in stretch else " "


def english_tokenizer() -> Split:
    """Return spaCy's rules for English, which need no model.

    Raises:
        ModuleNotFoundError: spaCy is not installed.
    """
    import spacy  # type: ignore[import-not-found, unused-ignore]

    rules = spacy.blank("en")
    rules.max_length = sys.maxsize  # a bound for its models, which are not used
    return lambda text: [piece.text for piece in rules.make_doc(text)]


class OriginalTokenizer:
    """The release's encoder of one vocabulary."""

    def __init__(
        self,
        vocabulary: Path,
        merges: Path,
        split: Split | None = None,
        added: Mapping[int, Any] = MappingProxyType({}),
    ) -> None:
        """Read the two files; `added` holds added tokens by id, with the library's attributes.

        Raises:
            ModuleNotFoundError: spaCy is not installed.
        """
        self.ids: dict[str, int] = json.loads(vocabulary.read_text(encoding="utf-8"))
        lines = merges.read_text(encoding="utf-8").split("\n")
        pairs = [tuple(line.split()) for line in lines if line and not line.startswith("#version")]
        self.ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self.added = sorted(added.items(), key=lambda item: len(item[1].content), reverse=True)
        self.split = english_tokenizer() if split is None else split

    def words(self, text: str) -> list[str]:
        """Return the words that are encoded one by one."""
        return [piece.lower() for piece in self.split(prepare_text(text))]

    def pieces(self, word: str) -> list[str]:
        """Return a word's pieces: the merge of the lowest rank is applied first, wherever it is."""
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            lowest = min(pairwise(parts), key=lambda pair: self.ranks.get(pair, len(self.ranks)))
            if lowest not in self.ranks:
                break
            parts = _merged(parts, lowest)
        return ["\n</w>"] if " ".join(parts) == "\n  </w>" else " ".join(parts).split(" ")

    def encode(self, text: str) -> list[int]:
        """Return the text's ids; an unknown piece is that of `<unk>`."""
        found: list[int] = []
        for part in self.parts(text):
            found += [part] if isinstance(part, int) else self._ids_of(part)
        return found

    def _ids_of(self, text: str) -> list[int]:
        unknown = self.ids["<unk>"]
        parts = (part for word in self.words(text) for part in self.pieces(word))
        return [self.ids.get(part, unknown) for part in parts]

    def parts(self, text: str) -> list[str | int]:
        """Return the text's parts: ids of added tokens, and the text around them.

        The longest token wins. The released code has none, so their rules are Hugging Face's.
        """
        found: list[str | int] = [""]
        place = done = 0  # the text before `done` is in a part
        while place < len(text):
            here = ((n, t) for n, t in self.added if text.startswith(t.content, place))
            number, token = next(here, (None, None))
            if number is None or token is None:
                place += 1
                continue
            start, end = place, place + len(token.content)
            place = end
            before, after = text[:start][-1:], text[end:][:1]
            if token.single_word and any(map(_is_word, before + after)):
                continue
            while token.lstrip and start > done and text[start - 1].isspace():
                start -= 1
            while token.rstrip and end < len(text) and text[end].isspace():
                end += 1
            found += [text[done:start], number]
            done = end
        return [part for part in [*found, text[done:]] if part != ""]


@functools.cache
def _is_word(character: str) -> bool:
    from reference.huggingface_tokenizer import word_characters

    return bool(word_characters([character]))


def decode(tokens: Mapping[int, str], ids: Sequence[int]) -> str:
    """Return the text of ids: a space for the end of each word, and none after the last token."""
    text = ""
    for place, number in enumerate(ids, start=1):
        text += (" " if place < len(ids) else "").join(tokens[number].split("</w>"))
    return text


def _merged(parts: list[str], pair: tuple[str, str]) -> list[str]:
    """Return the parts with every occurrence of a pair joined, from the left."""
    made: list[str] = []
    rest = list(reversed(parts))
    while rest:
        part = rest.pop()
        if rest and (part, rest[-1]) == pair:
            part += rest.pop()
        made.append(part)
    return made
