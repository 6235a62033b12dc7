"""A sample is the seed's, and the model trains on as if nothing had been asked."""

import dataclasses
from collections.abc import Callable

import pytest
import torch

from scratch_gpt import Tokenizer
from scratch_gpt.training.log import sample
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.trainer import Trainer

Started = Callable[..., Trainer]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Return a tokenizer of the tiny model's 37 tokens."""
    found = Tokenizer.train(["a bc def ghij klmno pqr"], merges=2)
    assert found.vocab_size == 37
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_sample_changes_nothing(dtype: str, started: Started, tokenizer: Tokenizer) -> None:
    """Dropout is off in it, on after it, and no number is drawn from torch's own."""
    run, other = started(dtype=dtype), started(dtype=dtype)
    run.advance()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    first = sample(run.model, tokenizer, [5, 7], run.recipe)
    assert first == sample(run.model, tokenizer, [5, 7], run.recipe)
    assert torch.equal(state, torch.get_rng_state())
    assert run.model.training
    other.advance()
    assert run.advance().loss == other.advance().loss


def test_it_begins_with_the_prompt_and_ends_in_time(
    started: Started, tokenizer: Tokenizer, recipe: Recipe
) -> None:
    """However long the prompt is, and however many tokens are asked for."""
    model = started().model
    calls = []
    model.generate = lambda ids, **how: calls.append((ids.tolist(), how)) or ids  # type: ignore[method-assign]
    for prompt, tokens in (([5, 7], 3), (list(range(20)), 3), ([5, 7, 9], 40)):
        sample(model, tokenizer, prompt, dataclasses.replace(recipe, sample_tokens=tokens))
    starts = [ids[0] for ids, _ in calls]
    assert starts == [[5, 7], list(range(8)), [5]]
    assert [how["max_new_tokens"] for _, how in calls] == [3, 3, 10]
    assert {how["seed"] for _, how in calls} == {recipe.seed}
