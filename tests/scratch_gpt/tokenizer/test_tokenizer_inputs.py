"""What may be encoded and decoded, and what is said of anything else."""

import numpy as np
import pytest
import torch

from scratch_gpt.errors import TextError
from scratch_gpt.tokenizer.tokenizer import check_ids, check_text, check_texts


@pytest.mark.parametrize("text", [b"a", None, 7, ["a"], [["a"]], 1.5], ids=repr)
def test_what_is_no_text_is_named(text: object) -> None:
    kind = type(text).__name__
    with pytest.raises(TypeError, match=f"text must be a str, got {kind}") as caught:
        check_text(text)
    assert ("decode" in str(caught.value)) == isinstance(text, bytes)


def test_a_numpy_str_is_a_str() -> None:
    assert check_text(np.str_("naïve")) == "naïve"


@pytest.mark.parametrize(
    ("text", "place"),
    [("\ud800", 0), ("ab\udfff", 2), (b"abc\xff".decode("utf-8", "surrogateescape"), 3)],
    ids=["first", "last", "surrogateescape"],
)
def test_half_a_character_is_refused(text: str, place: int) -> None:
    with pytest.raises(TextError, match=f"not valid Unicode at character {place}") as caught:
        check_text(text, "texts[3]")
    assert (caught.value.where, "encoding" in caught.value.fix) == ("texts[3]", True)
    assert f"U+{ord(text[place]):04X}" in caught.value.what


def test_whole_characters_beyond_16_bits_are_taken() -> None:
    assert check_text("\U0001f914\uffff") == "\U0001f914\uffff"


def test_one_text_is_not_several() -> None:
    with pytest.raises(TypeError, match=r"texts must be several texts, got one str; use \[text\]"):
        list(check_texts("abc"))
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, got NoneType"):
        list(check_texts(["a", None]))


def test_whole_numbers_of_any_library_are_ids() -> None:
    expected = [0, 5, 3]
    assert expected == check_ids([0, 5, 3], 6)
    assert expected == check_ids(np.array([0, 5, 3]), 6)
    assert expected == check_ids(torch.tensor([0, 5, 3]), 6)


@pytest.mark.parametrize("number", [-1, 6, 2**40, -(2**70)])
def test_an_id_of_no_token_is_named(number: int) -> None:
    with pytest.raises(ValueError, match=rf"ids\[1\] is {number}, which is not in \[0, 6\)"):
        check_ids([0, number], 6)


@pytest.mark.parametrize("given", [1.0, True, False, "1", None, [1], float("nan")], ids=repr)
def test_what_is_no_number_is_named(given: object) -> None:
    """A truth value is none, nor is a float that happens to be whole."""
    kind = type(given).__name__
    with pytest.raises(TypeError, match=rf"ids\[2\] must be an integer, got .*\({kind}\)"):
        check_ids([0, 1, given], 6)
