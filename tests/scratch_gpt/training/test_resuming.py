"""A run goes on as the run that it was, or says what is different."""

import pytest

from scratch_gpt.errors import InputRejectedError, UsageError
from scratch_gpt.training.reproducibility import require_known_recipe, require_same_settings

RECORDED = {"seed": 1, "learning_rate": 0.1, "n_layer": 2, "world_size": 1, "vocabulary": "a"}


def compare(*allowed: str, **now: object) -> list[str]:
    """Compare the recorded circumstances with those of now."""
    return require_same_settings(RECORDED, RECORDED | now, allowed=allowed, where="step-1")


def test_the_same_is_the_same() -> None:
    """Nothing is said."""
    assert compare() == []


@pytest.mark.parametrize("name", RECORDED)
def test_every_difference_is_refused(name: str) -> None:
    """And named with both values."""
    with pytest.raises(InputRejectedError, match=rf"{name} was {RECORDED[name]!r} and is 9"):
        compare(**{name: 9})


def test_all_differences_are_listed() -> None:
    """With the options that would allow them."""
    with pytest.raises(InputRejectedError, match="seed was 1 and is 2") as refusal:
        compare(seed=2, world_size=2)
    assert "world_size was 1 and is 2" in refusal.value.what
    assert "--allow-changed seed --allow-changed world_size" in refusal.value.fix


def test_what_is_allowed_is_said() -> None:
    """Field by field: another one is refused as before."""
    assert compare("seed", seed=2) == ["seed was 1 and is 2"]
    with pytest.raises(InputRejectedError, match=r"learning_rate was 0\.1 and is 0\.2"):
        compare("seed", seed=2, learning_rate=0.2)


@pytest.mark.parametrize("name", ["n_layer", "vocabulary"])
def test_what_cannot_be_right_is_not_allowed(name: str) -> None:
    """The message says why."""
    with pytest.raises(InputRejectedError) as refusal:
        compare(name, **{name: 3})
    assert f"give {name} (" in refusal.value.fix


@pytest.mark.parametrize(
    ("was", "now", "can_be"),
    [
        ("float64", "float32", False),
        ("bfloat16", "float64", False),
        ("float32", "bfloat16", True),
        ("bfloat16", "float32", True),
    ],
)
def test_moments_stay_in_their_precision(was: str, now: str, can_be: bool) -> None:  # noqa: FBT001
    """Those of bfloat16 are in float32, and go on in it."""
    sides = ({"dtype": was}, {"dtype": now})
    if can_be:
        assert require_same_settings(*sides, allowed=["dtype"], where="") == [
            f"dtype was {was!r} and is {now!r}"
        ]
        return
    with pytest.raises(InputRejectedError, match="dtype was") as refusal:
        require_same_settings(*sides, allowed=["dtype"], where="")
    assert "give dtype (its moments are in the other precision)" in refusal.value.fix


def test_a_field_that_one_side_lacks_differs() -> None:
    """A checkpoint of an older version does not pass for one of this."""
    with pytest.raises(InputRejectedError, match="processor was None and is 'AVX2'"):
        require_same_settings(RECORDED, RECORDED | {"processor": "AVX2"}, allowed=(), where="")


def test_a_name_that_is_none_is_a_usage_error() -> None:
    """A typing error must not look like a permission."""
    with pytest.raises(UsageError, match="nothing called sead to allow"):
        require_known_recipe(["seed", "sead"], RECORDED)
    require_known_recipe(["seed"], RECORDED)
