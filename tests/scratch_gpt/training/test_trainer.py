"""A run's steps, and that nothing but the checkpoint decides what follows it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scratch_gpt.errors import CheckpointError, UsageError
from scratch_gpt.gradient_clipping import GradientError
from scratch_gpt.training import checkpoints, trainer
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.trainer import DivergedError, Trainer

Started = Callable[..., Trainer]


@pytest.fixture(autouse=True)
def _own_random_numbers() -> None:
    """Begin each test with random numbers that no run may look at."""
    torch.manual_seed(20180611)


def losses(run: Trainer, steps: int) -> list[float]:
    """Return the losses of the next steps."""
    return [run.advance().loss for _ in range(steps)]


def same_weights(one: Trainer, other: Trainer) -> bool:
    """Return whether every weight is the same bit for bit."""
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(mine, its) for mine, its in pairs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_checkpoint_is_all_that_a_run_needs(dtype: str, started: Started, tmp_path: Path) -> None:
    """Losses and weights go on bit for bit, with dropout, whatever else was drawn meanwhile."""
    whole = started(dtype=dtype)
    losses(whole, 3)
    checkpoints.write_checkpoint(tmp_path / "step", whole.checkpoint({}))
    expected = losses(whole, 4)
    torch.rand(11)
    resumed = started(dtype=dtype)
    resumed.go_on_from(checkpoints.read_checkpoint(tmp_path / "step"))
    assert expected == losses(resumed, 4)
    assert same_weights(whole, resumed)
    assert resumed.best is None


@pytest.mark.parametrize("lost", ["step", "windows", "moments"])
def test_whatever_a_checkpoint_loses_shows(lost: str, started: Started) -> None:
    """Learning rate and dropout without the step, other data without the windows, other steps."""
    whole = started()
    losses(whole, 3)
    kept = whole.checkpoint({})
    weights = {name: tensor.clone() for name, tensor in kept.weights.items()}
    moments = started().checkpoint({}).optimizer if lost == "moments" else kept.optimizer
    changes = {} if lost == "moments" else {lost: 0}
    damaged = dataclasses.replace(
        kept,
        weights=weights,
        optimizer=moments,
        state=dataclasses.replace(kept.state, **changes),
    )
    resumed = started()
    resumed.go_on_from(damaged)
    assert losses(whole, 3) != losses(resumed, 3)


def test_a_look_at_the_validation_loss_changes_nothing(started: Started) -> None:
    """It is the same at any time, and the run goes on as it would have."""
    looked, other = started(), started()
    first = looked.validate()
    assert first == looked.validate()
    assert looked.best == (first, 0)
    assert losses(looked, 3) == losses(other, 3)
    assert looked.validate() != first


def test_it_learns(started: Started) -> None:
    """The validation loss falls; a worse one is not the best."""
    run = started(steps=25, dropout=0.0)
    before = run.validate()
    losses(run, 25)
    after = run.validate()
    assert after < before
    assert run.best == (after, 25)
    run.model.tokens_embed.weight.data.mul_(-3.0)
    assert run.validate() > after
    assert run.best == (after, 25)


def test_micro_batches_change_nothing_but_rounding(
    started: Started, assert_same: Callable[..., None]
) -> None:
    """Of one window each, of an uneven number, and all at once."""
    runs = [started(dropout=0.0, micro_batch=size) for size in (4, 1, 3)]
    whole, *others = [torch.tensor(losses(run, 4), dtype=torch.float64) for run in runs]
    for other in others:
        assert_same(whole, other)


@pytest.mark.parametrize(
    "field", ["seed", "dropout", "learning_rate", "weight_decay", "clip_norm", "beta1"]
)
def test_every_number_of_the_recipe_counts(field: str, started: Started, recipe: Recipe) -> None:
    """What a recipe says changes what the run computes."""
    changed = {field: getattr(recipe, field) + 1 if field == "seed" else 0.03}
    one, other = started(), started(**changed)
    losses(one, 4)
    losses(other, 4)
    assert not same_weights(one, other)


def test_divergence_is_told_before_anything_is_changed(started: Started) -> None:
    """With the step, and a way out."""
    run = started()
    losses(run, 1)
    run.model.h[0].ln_2.weight.data.fill_(1e308)
    before = [p.clone() for p in run.model.parameters()]
    with pytest.raises(DivergedError, match="training diverged in step 2") as told:
        run.advance()
    assert "lower --learning-rate or raise --warmup" in told.value.fix
    assert "--allow-changed learning_rate --allow-changed warmup" in told.value.fix
    assert run.step == 1
    assert all(torch.equal(*pair) for pair in zip(before, run.model.parameters(), strict=True))


def test_a_missing_gradient_is_no_divergence(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a mistake of this program, which no smaller learning rate mends."""
    run = started()
    monkeypatch.setattr(trainer, "accumulate", lambda *_, **__: (1.0, 1))
    with pytest.raises(GradientError, match="has no gradient"):
        run.advance()


def test_the_optimizer_of_another_run_is_refused(started: Started) -> None:
    """Moments of another shape would not be this model's."""
    kept = started().checkpoint({})
    strange = {**kept.optimizer, "first_moment.tokens_embed.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match="tokens_embed"):
        started().go_on_from(dataclasses.replace(kept, optimizer=strange))


def test_every_process_needs_a_micro_batch(recipe: Recipe) -> None:
    """Else it would wait for gradients of its own."""
    trainer.require_work_for_all(recipe, 2)
    with pytest.raises(UsageError, match="a step has 2 micro-batches for 3 processes"):
        trainer.require_work_for_all(recipe, 3)


def test_micro_batches_are_dealt_out(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    """All windows of a step in turn, each with the dropout of its number."""
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(trainer.reproducibility, "seed_dropout", lambda *at: seen.append(at))
    run = started(batch_size=10, micro_batch=2)
    whole = run._micro_batches()
    run.group = Group(rank=1, processes=2)
    mine = run._micro_batches()
    assert [ids.tolist() for ids in whole[1::2]] == [ids.tolist() for ids in mine]
    run.step = 5
    run._seed_dropout(1)
    assert seen == [(0, 5, 3)]
