"""A dataclass comes from JSON whole, or not at all."""

import dataclasses

import pytest

from scratch_gpt.checkpoint.strict_io import dataclass_from_json


@dataclasses.dataclass(frozen=True)
class Leaf:
    name: str


@dataclasses.dataclass(frozen=True)
class Tree:
    count: int
    share: float
    done: bool
    trunk: Leaf
    leaves: tuple[Leaf, ...]
    notes: tuple[str, ...]


JSON = {
    "count": 3,
    "share": 0.0,
    "done": False,
    "trunk": {"name": "a"},
    "leaves": [{"name": "b"}, {"name": "c"}],
    "notes": ["d"],
}


def test_reads_each_kind_of_field() -> None:
    expected = Tree(3, 0.0, False, Leaf("a"), (Leaf("b"), Leaf("c")), ("d",))
    assert expected == dataclass_from_json(Tree, JSON)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("count", True, "^count is True$"),
        ("count", 3.0, "^count is 3.0$"),
        ("count", -1, "^count is -1$"),
        ("share", 1, "^share is 1$"),
        ("share", -0.5, "^share is -0.5$"),
        ("done", 1, "^done is 1$"),
        ("trunk", "a", "^the leaf is not an object$"),
        ("trunk", {}, "^missing or unknown: 'name'$"),
        ("trunk", {"name": "a", "more\n": 1}, r"^missing or unknown: 'more\\n'$"),
        ("leaves", {}, "^leaves is {}$"),
        ("leaves", [{"name": 1}], "^name is 1$"),
        ("notes", "d", "^notes is 'd'$"),
        ("notes", [None], "^notes is None$"),
    ],
)
def test_refuses_what_is_no_such_field(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclass_from_json(Tree, JSON | {field: value})


@pytest.mark.parametrize("value", [None, [], "text", 3])
def test_refuses_what_is_no_object(value: object) -> None:
    with pytest.raises(ValueError, match=r"^the tree is not an object$"):
        dataclass_from_json(Tree, value)
