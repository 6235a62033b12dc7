"""The pretokenizer `huggingface` and Hugging Face's: words, ids, offsets and decoded text."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from scratch_gpt import Tokenizer
from scratch_gpt.tokenizer import pretokenizers, unicode
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN, HuggingFacePretokenizer
from scratch_gpt.tokenizer.unicode import Ranges

if TYPE_CHECKING:
    from reference.huggingface_tokenizer import HuggingFaceTokenizer


BY_HAND = (
    *("", " ", "\n\n", "\x00", "\ufeff", "A", "don't", "a\u200bb", "a\u00adb", "x\u0301y", "É"),
    *("<unk>", "<unk><unk>", "a<unk>b", "<unk<unk>>", "< unk>", "</w>", "the</w>", "<UNK>"),
    *(
        "İstanbul",
        "ΣΑΣ",
        "ß",
        "한국어",
        "日本語。",
        "ปี",
        "שלום",
        "🤔👩\u200d🚀",
        "\u1100\u1161\u11a8",
    ),
    *("\x1b[31mred\x1b[0m", "a\r\nb\tc", "a\x85b", "a\u2028b", "\U0001d15f\u302e\u1b44", "ＡＢ"),  # noqa: RUF001
)


def differences(texts: list[str], ours: Tokenizer, theirs: "HuggingFaceTokenizer") -> list[str]:
    """Return the texts of which words, ids, offsets or decoded text differ."""
    pretokenizer = HuggingFacePretokenizer()
    found = []
    for text, expected in zip(texts, theirs.encode_batch(texts), strict=True):
        ids, offsets = ours.encode_with_offsets(text)
        parts = text.split(UNKNOWN)
        words = [word for word in theirs.words(text) if word != UNKNOWN]
        same = (
            list(expected.ids) == ids == ours.encode(text),
            expected.offsets == tuple(offsets),
            words == [word for part in parts for word in pretokenizer.words(part)],
            words == [word.text for part in parts for word in pretokenizer.located(part)],
            theirs.decode(ids) == ours.decode(ids),
            theirs.pieces(ids) == ours.tokens(ids),
        )
        found += [] if all(same) else [text]
    return found


@pytest.mark.reference
def test_strings_by_hand(ours: Tokenizer, theirs: "HuggingFaceTokenizer") -> None:
    assert not differences(list(BY_HAND), ours, theirs)


@pytest.mark.reference
@pytest.mark.usefixtures("unchecked")
def test_drawn_strings(
    ours: Tokenizer, theirs: "HuggingFaceTokenizer", drawn_texts: Callable
) -> None:
    assert not differences(drawn_texts(1, 2_000), ours, theirs)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_twenty_thousand_drawn_strings(
    released: Path, huggingface: Callable, drawn_texts: Callable
) -> None:
    ours, theirs = Tokenizer.from_pretrained(released), huggingface(released)
    assert not differences(drawn_texts(2, 20_000), ours, theirs)


@pytest.mark.reference
@pytest.mark.slow
@pytest.mark.usefixtures("unchecked")
def test_a_megabyte_in_one_piece(
    small_text: str, ours: Tokenizer, theirs: "HuggingFaceTokenizer", drawn_texts: Callable
) -> None:
    pieces = (f"{small_text}\n{' '.join(drawn_texts(seed, 40))}\n" for seed in range(10_000))
    text = ""
    while len(text.encode()) < 1_000_000:
        text += next(pieces)
    assert not differences([text], ours, theirs)


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("text", ["the " * 250_000, "x" * 1_000_000], ids=["words", "one word"])
def test_a_megabyte_of_one_word(text: str, ours: Tokenizer, theirs: "HuggingFaceTokenizer") -> None:
    assert not differences([text], ours, theirs)


BROKEN = {
    "no accents are removed": ("nonspacing", "ÉCOLE"),
    "nothing is lower case": ("lowercase", "ÉCOLE"),
    "nothing is decomposed": ("decomposition", "ÉCOLE"),
    "nothing is punctuation": ("punctuation", "couldn't"),
    "nothing is white": ("white", "a\tb"),
    "nothing is removed": ("removed", "a\u200bb"),
    "no ideograph stands alone": ("ideographs", "日本"),
    "no mark moves": ("combining", "a\u302e\u1b44"),
}


@pytest.mark.reference
@pytest.mark.parametrize("broken", BROKEN)
def test_each_table_is_needed(
    broken: str, ours: Tokenizer, theirs: "HuggingFaceTokenizer", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison finds a missing table by the text beside it."""
    table, text = BROKEN[broken]
    assert not differences([text], Tokenizer(ours.vocabulary), theirs)
    whole = unicode.character_classes()
    empty = {} if isinstance(getattr(whole, table), dict) else Ranges([])
    wrong = dataclasses.replace(whole, **{table: empty})
    for module in (pretokenizers, unicode):
        monkeypatch.setattr(module, "character_classes", lambda: wrong)
    assert differences([text], Tokenizer(ours.vocabulary), theirs) == [text]


def test_a_movable_mark_costs_its_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = []
    normalized = pretokenizers.normalize_text

    def counted(text: str) -> tuple[str, list[int]]:
        slow.append(text)
        return normalized(text)

    pretokenizer = HuggingFacePretokenizer()
    pretokenizer.words("The a keeper b")
    monkeypatch.setattr(pretokenizers, "normalize_text", counted)
    words = pretokenizer.words("The a\u302e keeper b")
    assert (slow, words) == (["a\u302e"], ["the", "a\u302e", "keeper", "b"])
