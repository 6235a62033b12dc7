"""What a recipe leaves open is settled by the data, and what a run hangs on is named."""

import numpy as np
import pytest

from scratch_gpt.data import TokenData, Windows
from scratch_gpt.errors import UsageError
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.reproducibility import names, reproducibility_settings, settle_recipe


def windows(count: int) -> Windows:
    """Return this many windows of the paper's length; an epoch begins somewhere in the first."""
    return Windows(np.zeros(512 * (count + 1), np.uint16), time=512, seed=0)


@pytest.mark.parametrize(
    ("count", "steps", "warmup"),
    [(832, 1_300, 130), (12_800, 20_000, 2_000), (64_000, 100_000, 2_000), (1, 2, 0)],
)
def test_the_default_warm_up_fits_into_every_run(count: int, steps: int, warmup: int) -> None:
    """The paper's 2,000 steps; a tenth of a run that is too short for them."""
    recipe = settle_recipe(Recipe(), windows(count))
    assert (recipe.steps, recipe.warmup) == (steps, warmup)


def test_a_given_warm_up_is_the_given_one() -> None:
    """Also none at all."""
    assert [settle_recipe(Recipe(warmup=n), windows(832)).warmup for n in (0, 7, 1_299)] == [
        0,
        7,
        1_299,
    ]


def test_a_given_warm_up_that_does_not_fit_is_refused() -> None:
    """With every option that moves it."""
    with pytest.raises(UsageError, match="1300 steps does not fit into the 1300") as told:
        settle_recipe(Recipe(warmup=1_300), windows(832))
    assert all(option in told.value.fix for option in ("--warmup", "--epochs", "--steps"))


def test_every_circumstance_has_its_name_beforehand(recipe: Recipe, data: TokenData) -> None:
    """Or `--allow-changed` would take a name that is none, or refuse one."""
    tokenizer = Tokenizer.train(["ab ab"], merges=1)
    assert names() == set(reproducibility_settings(recipe, tokenizer, data, Group()))
