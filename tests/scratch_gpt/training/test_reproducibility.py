"""Deterministic mode, random seeds, and settings compared on resume."""

import pytest
import torch

from scratch_gpt.data import TokenData
from scratch_gpt.errors import InputRejectedError, UsageError
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training import reproducibility
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.reproducibility import (
    SETTING_NAMES,
    deterministic,
    nondeterministic,
    reproducibility_settings,
    require_known_settings,
    require_same_settings,
)


def modes() -> tuple[object, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_num_threads(),
    )


def test_deterministic_mode_ends_with_the_context() -> None:
    before = modes()
    with pytest.raises(KeyError), deterministic(2):  # noqa: PT012 - the context is the test
        assert modes() == (True, False, 2)
        raise KeyError
    assert before == modes()


def test_nondeterministic_mode_ends_with_the_context() -> None:
    """A sample may use nondeterministic operations; the steps after it may not."""
    with deterministic(0):
        assert torch.get_num_threads() == 1
        with nondeterministic():
            assert modes()[0] is False
        assert modes()[0] is True


def test_the_callers_warning_mode_is_restored() -> None:
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for context in (nondeterministic(), deterministic(0)):
            with context:
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def draw(seed: int, step: int, micro_batch: int) -> float:
    with torch.random.fork_rng():
        reproducibility.seed_dropout(seed, step, micro_batch)
        return float(torch.rand(()))


def test_dropout_is_a_function_of_seed_step_and_micro_batch() -> None:
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2, 1), (0, 1, 2)]
    first = [draw(*place) for place in places]
    again = [draw(*place) for place in reversed(places)]
    assert len(set(first)) == len(places)
    assert first == again[::-1]


def test_weights_and_dropout_share_no_stream() -> None:
    weights = float(torch.rand((), generator=reproducibility.weight_generator(3)))
    again = float(torch.rand((), generator=reproducibility.weight_generator(3)))
    assert weights == again != draw(3, 0, 0)


def test_all_settings_have_a_name(recipe: Recipe, data: TokenData) -> None:
    """`--allow-changed` is checked by name before the settings are known."""
    tokenizer = Tokenizer.train(["ab ab"], merges=1)
    assert set(reproducibility_settings(recipe, tokenizer, data, Group())) == SETTING_NAMES


def test_an_unknown_name_cannot_be_allowed() -> None:
    with pytest.raises(UsageError, match="there is no setting sead") as caught:
        require_known_settings(["seed", "sead"])
    assert "learning_rate" in caught.value.fix
    assert "n_layer" not in caught.value.fix
    require_known_settings(["seed"])


RECORDED = {"seed": 1, "learning_rate": 0.1, "n_layer": 2, "world_size": 1, "vocabulary": "a"}


def compare(*allowed: str, **changes: object) -> list[str]:
    return require_same_settings(RECORDED, RECORDED | changes, allowed=allowed, where="step-1")


@pytest.mark.parametrize("name", RECORDED)
def test_every_change_is_rejected(name: str) -> None:
    with pytest.raises(InputRejectedError, match=rf"{name} was {RECORDED[name]!r} and is 9"):
        compare(**{name: 9})


def test_all_changes_are_listed() -> None:
    with pytest.raises(InputRejectedError, match="seed was 1 and is 2") as caught:
        compare(seed=2, world_size=2)
    assert "world_size was 1 and is 2" in caught.value.what
    assert "--allow-changed seed --allow-changed world_size" in caught.value.fix


def test_allowed_changes_are_reported() -> None:
    assert compare() == []
    assert compare("seed", seed=2) == ["seed was 1 and is 2"]
    with pytest.raises(InputRejectedError, match=r"learning_rate was 0\.1 and is 0\.2"):
        compare("seed", seed=2, learning_rate=0.2)


@pytest.mark.parametrize("name", ["n_layer", "vocabulary"])
def test_an_incompatible_change_cannot_be_allowed(name: str) -> None:
    with pytest.raises(InputRejectedError) as caught:
        compare(name, **{name: 3})
    assert f"give {name} (" in caught.value.fix


@pytest.mark.parametrize(("before", "after"), [("float64", "float32"), ("bfloat16", "float64")])
def test_moments_keep_their_precision(before: str, after: str) -> None:
    with pytest.raises(InputRejectedError, match="dtype was") as caught:
        require_same_settings({"dtype": before}, {"dtype": after}, allowed=["dtype"], where="")
    assert "give dtype (its moments have the other precision)" in caught.value.fix


@pytest.mark.parametrize(("before", "after"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_runs_in_float32_and_bfloat16_have_float32_moments(before: str, after: str) -> None:
    sides = ({"dtype": before}, {"dtype": after})
    expected = [f"dtype was {before!r} and is {after!r}"]
    assert expected == require_same_settings(*sides, allowed=["dtype"], where="")


def test_a_setting_on_one_side_is_a_change() -> None:
    with pytest.raises(InputRejectedError, match="processor was None and is 'AVX2'"):
        require_same_settings(RECORDED, RECORDED | {"processor": "AVX2"}, allowed=(), where="")
