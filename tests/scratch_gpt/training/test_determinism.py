"""The same numbers on every run, and torch as it was afterwards."""

import pytest
import torch

from scratch_gpt.training import reproducibility
from scratch_gpt.training.reproducibility import allow_any_order, deterministic


def settings() -> tuple[object, ...]:
    """Return what the context changes."""
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_num_threads(),
    )


def test_torch_is_deterministic_inside_alone() -> None:
    """Also where an error ends it."""
    before = settings()
    seen = []

    def fail() -> None:
        with deterministic(2):
            seen.append(settings())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [(True, False, 2)]
    assert before == settings()


def test_no_number_of_threads_is_torchs_own() -> None:
    """0 changes nothing."""
    with deterministic(0):
        assert torch.get_num_threads() == 1


def test_a_sample_may_be_drawn_in_any_order() -> None:
    """And what follows may not."""
    with deterministic(0):
        with allow_any_order():
            assert settings()[0] is False
        assert settings()[0] is True


def test_a_callers_warnings_stay_warnings() -> None:
    """Both contexts leave them as they were."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        for context in (allow_any_order(), deterministic(0)):
            with context:
                assert not torch.is_deterministic_algorithms_warn_only_enabled()
            assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def draw(seed: int, step: int, micro_batch: int) -> float:
    """Return the first number that dropout would draw."""
    reproducibility.seed_dropout(seed, step, micro_batch)
    return float(torch.rand(()))


def test_dropout_is_a_function_of_its_place() -> None:
    """Any two places differ, and the same one gives the same again."""
    places = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 2, 1), (0, 1, 2)]
    with reproducibility.preserve_random_state():
        first = [draw(*place) for place in places]
        again = [draw(*place) for place in reversed(places)]
    assert len(set(first)) == len(places)
    assert first == again[::-1]


def test_torchs_own_random_state_is_put_back() -> None:
    """A caller's numbers are those that it would have had."""
    torch.manual_seed(7)
    expected = float(torch.rand(()))
    torch.manual_seed(7)
    with reproducibility.preserve_random_state():
        draw(0, 0, 0)
    assert expected == float(torch.rand(()))


def test_weights_and_dropout_share_no_stream() -> None:
    """Though the seed is the same."""
    weights = float(torch.rand((), generator=reproducibility.weight_generator(3)))
    again = float(torch.rand((), generator=reproducibility.weight_generator(3)))
    with reproducibility.preserve_random_state():
        assert weights == again != draw(3, 0, 0)
