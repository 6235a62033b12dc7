"""The release's list of shapes: a GPT-1's, and written as it was published."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from reference import openai_release
from reference.errors import RejectedError

SIZES = {"n_positions": 7, "vocab_size": 11, "n_embd": 6, "n_layer": 2}
GOOD = [list(shape) for shape in openai_release.gpt_shapes(**SIZES)]


def published_shapes() -> Path:
    vocabulary = os.environ.get("GPT1_VOCABULARY")
    if not vocabulary:
        pytest.skip("not run: GPT1_VOCABULARY names no folder with the released vocabulary")
    return Path(vocabulary) / "params_shapes.json"


def test_the_published_shapes_are_written_to_the_byte() -> None:
    path = published_shapes()
    expected = path.read_bytes()
    shapes = openai_release.parse_shapes(expected, str(path))
    assert openai_release.gpt_shapes(**openai_release.RELEASED_SIZES) == shapes
    assert expected == openai_release.dump_shapes(shapes)


def test_the_published_shapes_have_their_published_id() -> None:
    text = openai_release.dump_shapes(openai_release.gpt_shapes(**openai_release.RELEASED_SIZES))
    blob = hashlib.sha1(b"blob %d\0" % len(text) + text, usedforsecurity=False)
    expected = "29fac299ae848d7e447be84a33345edcf1b5353c"
    assert expected == blob.hexdigest()
    assert openai_release.count_parameters(openai_release.parse_shapes(text, "")) == 116_534_784


def test_the_shapes_say_the_sizes() -> None:
    shapes = openai_release.parse_shapes(json.dumps(GOOD).encode(), "here")
    assert openai_release.shape_sizes(shapes, "here") == SIZES
    expected = 7 * 6 + 11 * 6 + 2 * (12 * 6 * 6 + 13 * 6)
    assert expected == openai_release.count_parameters(shapes)


def changed(index: int, shape: object) -> str:
    return json.dumps([*GOOD[:index], shape, *GOOD[index + 1 :]])


FORGERIES = {
    "empty": ("", "is not JSON"),
    "cut off": (json.dumps(GOOD)[:-1], "is not JSON"),
    "no text": ("\udcff", "is not JSON"),
    "nested": ("[" * 100_000, "is not JSON"),
    "digits without end": ("[[" + "9" * 5000 + "]]", "is not JSON"),
    "an object": ("{}", "is not a list of lists"),
    "a number among the lists": (changed(3, 18), "is not a list of lists"),
    "a fraction": (changed(3, [18.0]), "is not a list of lists"),
    "a truth": (changed(3, [True]), "is not a list of lists"),
    "zero": (changed(3, [0]), "is not a list of lists"),
    "negative": (changed(1, [-11, 6]), "is not a list of lists"),
    "no axis": (changed(3, []), "is not a list of lists"),
    "no tensor": ("[]", "there are 0 tensors"),
    "no block": (json.dumps(GOOD[:2]), "there are 2 tensors"),
    "a tensor short": (json.dumps(GOOD[:-1]), "there are 25 tensors"),
    "a tensor too many": (json.dumps([*GOOD, [6]]), "there are 27 tensors"),
    "tokens of another width": (changed(1, [11, 7]), r"tensor 1 has shape \[11, 7\], where"),
    "positions flat": (changed(0, [42]), "tensor 0 has shape"),
    "a matrix squeezed": (changed(2, [6, 18]), r"tensor 2 .* where \[1, 6, 18\] is due"),
    "a matrix transposed": (changed(2, [1, 18, 6]), "tensor 2 has shape"),
    "two tensors swapped": (
        json.dumps([*GOOD[:2], GOOD[3], GOOD[2], *GOOD[4:]]),
        "tensor 2 has shape",
    ),
    "a huge one in the last block": (changed(25, [10**300]), "tensor 25 has shape"),
}


@pytest.mark.parametrize("case", FORGERIES)
def test_what_is_no_list_of_a_gpts_shapes_is_refused(case: str) -> None:
    text, sentence = FORGERIES[case]
    with pytest.raises(RejectedError, match=sentence) as caught:
        openai_release.parse_shapes(text.encode(errors="surrogateescape"), "here")
    assert caught.value.where == "here"
    assert len(caught.value.what) < 200


@pytest.mark.parametrize(
    ("field", "said", "sentence"),
    [
        ("n_layer", 3, "says n_layer=3, the tensors say 2"),
        ("n_embd", 12, "says n_embd=12, the tensors say 6"),
        ("n_positions", 10**3000, "says n_positions=1000"),
        ("vocab_size", None, "says vocab_size=None, the tensors say 11"),
        ("vocab_size", "11", "says vocab_size='11', the tensors say 11"),
    ],
)
def test_a_config_of_other_sizes_is_refused(field: str, said: Any, sentence: str) -> None:  # noqa: ANN401
    shapes = openai_release.gpt_shapes(**SIZES)
    openai_release.check_config(shapes, SIZES, "here")
    with pytest.raises(RejectedError, match=sentence) as caught:
        openai_release.check_config(shapes, SIZES | {field: said}, "here")
    assert len(caught.value.what) < 200


def test_a_config_may_not_say_true_for_one() -> None:
    sizes = SIZES | {"n_layer": 1}
    with pytest.raises(RejectedError, match="says n_layer=True"):
        openai_release.check_config(
            openai_release.gpt_shapes(**sizes), sizes | {"n_layer": True}, ""
        )


def test_only_the_published_shapes_need_no_config() -> None:
    published = openai_release.RELEASED_SIZES
    openai_release.check_config(openai_release.gpt_shapes(**published), None, "here")
    for name, size in published.items():
        shapes = openai_release.gpt_shapes(**published | {name: size + 1})
        with pytest.raises(RejectedError, match="how many heads"):
            openai_release.check_config(shapes, None, "here")
