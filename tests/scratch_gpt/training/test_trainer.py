"""The trainer: steps, gradient accumulation, validation, dtypes, and resuming."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from scratch_gpt import GPT, GPTConfig
from scratch_gpt.data import TokenData, Windows
from scratch_gpt.errors import CheckpointError, UsageError
from scratch_gpt.gradient_clipping import GradientError
from scratch_gpt.loss import next_token_loss
from scratch_gpt.training import checkpoints, trainer
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe
from scratch_gpt.training.trainer import (
    IGNORED,
    DivergedError,
    Trainer,
    accumulate,
    complete_recipe,
    evaluation_mode,
    replace_ignored,
    validation_loss,
)

Gradients = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Seed torch's own generator, on which no run may depend."""
    torch.manual_seed(20180611)


def losses(run: Trainer, steps: int) -> list[float]:
    return [run.advance().loss for _ in range(steps)]


def same_weights(one: Trainer, other: Trainer) -> bool:
    pairs = zip(one.model.parameters(), other.model.parameters(), strict=True)
    return all(torch.equal(expected, actual) for expected, actual in pairs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_a_resumed_run_is_bitwise_the_same(dtype: str, start: Callable, tmp_path: Path) -> None:
    whole = start(dtype=dtype)
    losses(whole, 3)
    checkpoints.write_checkpoint(tmp_path / "step", whole.checkpoint({}))
    expected = losses(whole, 4)
    torch.rand(11)
    resumed = start(dtype=dtype)
    resumed.resume(checkpoints.read_checkpoint(tmp_path / "step"))
    assert expected == losses(resumed, 4)
    assert same_weights(whole, resumed)
    assert resumed.best is None


@pytest.mark.parametrize("lost", ["step", "windows", "moments"])
def test_every_part_of_a_checkpoint_matters(lost: str, start: Callable) -> None:
    whole = start()
    losses(whole, 3)
    checkpoint = whole.checkpoint({})
    weights = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}
    changes: dict[str, object] = {}
    if lost == "moments":
        changes["optimizer"] = start().checkpoint({}).optimizer | {"step": 3}
    else:
        changes["state"] = dataclasses.replace(checkpoint.state, **{lost: 0})
    if lost == "step":
        changes["optimizer"] = checkpoint.optimizer | {"step": 0}
    resumed = start()
    resumed.resume(dataclasses.replace(checkpoint, weights=weights, **changes))
    assert losses(whole, 3) != losses(resumed, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_embd": 18}, "the weights 'tokens_embed.weight' are ((37, 18), torch.float64)"),
        ({"n_layer": 2}, "the weights 'h.1.attn.c_attn.weight' are"),
        ({"dtype": "float32"}, "the weights 'tokens_embed.weight' are ((37, 21), torch.float32)"),
    ],
    ids=str,
)
def test_a_checkpoint_of_another_model_is_rejected(
    changes: dict[str, object], message: str, start: Callable
) -> None:
    with pytest.raises(CheckpointError) as caught:
        start().resume(start(**changes).checkpoint({}))
    assert message in caught.value.what


def test_a_checkpoint_behind_the_last_step_is_rejected(start: Callable) -> None:
    """The run would stop at once, and ask to be resumed."""
    run = start()
    losses(run, 3)
    with pytest.raises(CheckpointError, match="it is of step 3, and --steps 2"):
        start(steps=2, warmup=1).resume(run.checkpoint({}))
    start(steps=3).resume(run.checkpoint({}))


def test_moments_of_another_step_are_rejected(start: Callable) -> None:
    run = start()
    losses(run, 3)
    checkpoint = run.checkpoint({})
    late = dataclasses.replace(checkpoint, state=dataclasses.replace(checkpoint.state, step=4))
    with pytest.raises(CheckpointError, match="its moments are of step 3"):
        start().resume(late)


@pytest.mark.parametrize(("dtype", "value"), [("float32", "nan"), ("float64", "1e39")])
def test_weights_that_cannot_be_read_back_are_not_saved(
    dtype: str, value: str, start: Callable
) -> None:
    """The older checkpoints stay: a checkpoint that resuming rejects would replace them."""
    run = start(dtype=dtype)
    losses(run, 2)
    run.model.h[0].ln_1.bias.data[3] = float(value)
    with pytest.raises(DivergedError, match="diverged in step 2: a weight is NaN or infinite"):
        run.checkpoint({})


def test_epochs_without_end_are_rejected(recipe: Recipe, data: TokenData) -> None:
    windows = trainer.windows_of(data, recipe, "train")
    endless = dataclasses.replace(recipe, steps=0, epochs=1e9, batch_size=1)
    with pytest.raises(UsageError, match=r"1e\+09 epochs of this text make .* steps; the limit"):
        complete_recipe(endless, windows)
    assert complete_recipe(dataclasses.replace(endless, epochs=1.0), windows).steps > 1


LARGE = {"n_layer": 833, "n_embd": 2**18, "n_positions": 2**24, "batch_size": 10**6}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("name", LARGE)
def test_the_memory_grows_with_every_size(
    name: str, device: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimate is a lower bound: a tiny run always fits, and half a terabyte does not."""
    needed: list[int] = []
    monkeypatch.setattr(trainer, "require_memory", lambda count, **_: needed.append(count))
    wide = {"n_head": 1, "n_embd": 24_000, "n_positions": 100_000 if name == "batch_size" else 11}
    for given in (recipe, dataclasses.replace(recipe, **wide | {name: LARGE[name]})):
        trainer.require_memory_for(given, 37, Group(device=device))
    assert needed[0] < 10**6
    assert needed[1] > 5 * 10**11


def test_validation_does_not_disturb_training(start: Callable) -> None:
    validated, other = start(), start()
    first = validated.validate()
    assert first == validated.validate()
    assert validated.best == (first, 0)
    assert losses(validated, 3) == losses(other, 3)
    assert validated.validate() != first


def test_a_run_learns(start: Callable) -> None:
    run = start(steps=25, dropout=0.0)
    before = run.validate()
    losses(run, 25)
    after = run.validate()
    assert after < before
    assert run.best == (after, 25)
    run.model.tokens_embed.weight.data.mul_(-3.0)
    assert run.validate() > after
    assert run.best == (after, 25)


def test_micro_batch_sizes_agree_up_to_rounding(start: Callable, assert_same: Callable) -> None:
    runs = [start(dropout=0.0, micro_batch=size) for size in (4, 1, 3)]
    whole, *others = [torch.tensor(losses(run, 4), dtype=torch.float64) for run in runs]
    for other in others:
        assert_same(whole, other)


@pytest.mark.parametrize(
    "field", ["seed", "dropout", "learning_rate", "weight_decay", "clip_norm", "beta1"]
)
def test_every_field_of_a_recipe_has_an_effect(field: str, start: Callable, recipe: Recipe) -> None:
    changed = {field: getattr(recipe, field) + 1 if field == "seed" else 0.03}
    one, other = start(), start(**changed)
    losses(one, 4)
    losses(other, 4)
    assert not same_weights(one, other)


def test_divergence_changes_no_weight(start: Callable) -> None:
    run = start()
    losses(run, 1)
    run.model.h[0].ln_2.weight.data.fill_(1e308)
    before = [p.clone() for p in run.model.parameters()]
    with pytest.raises(DivergedError, match="training diverged in step 2") as caught:
        run.advance()
    assert "lower --learning-rate or raise --warmup" in caught.value.fix
    assert "--allow-changed learning_rate --allow-changed warmup" in caught.value.fix
    assert run.step == 1
    assert all(torch.equal(*pair) for pair in zip(before, run.model.parameters(), strict=True))


def test_a_missing_gradient_is_a_bug(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a bug, which a lower learning rate does not fix."""
    run = start()
    monkeypatch.setattr(trainer, "accumulate", lambda *_, **__: (1.0, 1))
    with pytest.raises(GradientError, match="has no gradient"):
        run.advance()


def test_the_optimizer_state_of_another_run_is_rejected(start: Callable) -> None:
    checkpoint = start().checkpoint({})
    other = {**checkpoint.optimizer, "first_moment.tokens_embed.weight": torch.ones(2)}
    with pytest.raises(CheckpointError, match="tokens_embed"):
        start().resume(dataclasses.replace(checkpoint, optimizer=other))


def test_every_process_needs_a_micro_batch(recipe: Recipe) -> None:
    trainer.require_work_for_all(recipe, 2)
    with pytest.raises(UsageError, match="a step has 2 micro-batches for 3 processes"):
        trainer.require_work_for_all(recipe, 3)


def test_processes_share_micro_batches(start: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []
    monkeypatch.setattr(trainer.reproducibility, "seed_dropout", lambda *at: seen.append(at))
    run = start(batch_size=10, micro_batch=2)
    whole = run._micro_batches()
    run.group = Group(rank=1, processes=2)
    own = run._micro_batches()
    assert [ids.tolist() for ids in whole[1::2]] == [ids.tolist() for ids in own]
    run.step = 5
    run._seed_dropout(1)
    assert seen == [(0, 5, 3)]


IDS = torch.arange(5 * 6).reshape(5, 6) * 7 % 37
SHORTER = torch.cat([IDS[:1, :3], torch.full((1, 3), IGNORED)], dim=1)
UNEVEN = [SHORTER, IDS[1:3], IDS[3:]]
"""Micro-batches of unequal sizes and numbers of targets."""


@pytest.fixture
def trained(config: GPTConfig, loud: Callable) -> GPT:
    no_dropout = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    return loud(GPT(GPTConfig(**(vars(config) | no_dropout)))).train()


def gradients_of(model: GPT) -> Gradients:
    found = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return found


@pytest.fixture
def one_batch(trained: GPT) -> tuple[float, Gradients]:
    """Return loss and gradients of all micro-batches in one."""
    joined = torch.cat(UNEVEN)
    loss = next_token_loss(trained(replace_ignored(joined)), joined)
    loss.backward()
    return float(loss.detach()), gradients_of(trained)


def test_accumulation_equals_one_batch(
    trained: GPT, one_batch: tuple[float, Gradients], assert_same: Callable
) -> None:
    """The callback gets the number of each micro-batch."""
    seen: list[int] = []
    loss, tokens = accumulate(trained, UNEVEN, Group(), before=seen.append)
    assert (tokens, seen) == (5 * 5 - 3, [0, 1, 2])
    assert_same(torch.tensor(one_batch[0]).double(), torch.tensor(loss).double())
    for name, gradient in gradients_of(trained).items():
        assert_same(one_batch[1][name], gradient)


def test_a_mean_of_means_is_detected(
    trained: GPT, one_batch: tuple[float, Gradients], assert_same: Callable
) -> None:
    """If all micro-batches weigh the same, every gradient differs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "count_predictions", lambda _ids: 1)
        accumulate(trained, UNEVEN, Group())
    for name, gradient in gradients_of(trained).items():
        with pytest.raises(AssertionError, match="differs by"):
            assert_same(one_batch[1][name], gradient)


class SecondOfTwo(Group):
    """The second of two processes; the first predicted 44 tokens with a loss of 0.25."""

    def __init__(self) -> None:
        super().__init__(rank=1, processes=2)
        self.exchanges: list[bool] = []

    def sum(self, numbers: list[float]) -> list[float]:
        other = 44.0 if numbers[0] == int(numbers[0]) else 0.25
        return [numbers[0] + other]

    def exchange_gradients(self, model: nn.Module, *, now: bool) -> Any:  # noqa: ANN401
        self.exchanges.append(now)
        return super().exchange_gradients(model, now=now)


def test_a_process_weighs_its_tokens_by_those_of_all(
    trained: GPT, one_batch: tuple[float, Gradients], assert_same: Callable
) -> None:
    """22 of 66 tokens are a third; the exchange averages over two, so the factor is 2 / 3."""
    group = SecondOfTwo()
    loss, tokens = accumulate(trained, UNEVEN, group)
    assert tokens == 22 + 44
    assert_same(torch.tensor(one_batch[0] / 3 + 0.25).double(), torch.tensor(loss).double())
    for name, gradient in gradients_of(trained).items():
        assert_same(one_batch[1][name] / 3 * 2, gradient)
    assert group.exchanges == [False, False, True]


@pytest.fixture
def with_dropout(config: GPTConfig, loud: Callable) -> GPT:
    return loud(GPT(config)).train()


def test_the_validation_loss_has_no_dropout(with_dropout: GPT, assert_same: Callable) -> None:
    """For any micro-batches; it changes neither the model's mode nor the random state."""
    state = torch.get_rng_state()
    loss = validation_loss(with_dropout, [IDS[:1], IDS[1:]], Group())
    assert torch.equal(state, torch.get_rng_state())
    assert with_dropout.training
    with torch.no_grad():
        expected = next_token_loss(with_dropout.eval()(IDS), IDS)
    assert_same(expected, torch.tensor(loss, dtype=torch.float64))


def test_the_models_mode_is_restored_after_an_error(with_dropout: GPT) -> None:
    with pytest.raises(KeyError), evaluation_mode(with_dropout):  # noqa: PT012 - the context is the test
        assert (with_dropout.training, torch.is_grad_enabled()) == (False, False)
        raise KeyError
    assert with_dropout.training


@pytest.mark.parametrize("backend", ["plain", "tiled", "fused"])
def test_bfloat16_keeps_weights_and_gradients_in_float32(
    backend: str, config: GPTConfig, loud: Callable, token_ids: Tensor
) -> None:
    """The logits are bitwise those of the model in bfloat16."""
    model = loud(GPT(config, backend=backend)).float().eval()
    logits = trainer.RoundedWeights(model)(token_ids)
    logits.float().sum().backward()
    assert {(p.dtype, p.grad.dtype) for p in model.parameters()} == {(torch.float32,) * 2}
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters())
    with torch.no_grad():
        expected = model.bfloat16()(token_ids)
    assert torch.equal(expected, logits)


def test_only_bfloat16_rounds_the_weights(start: Callable) -> None:
    assert isinstance(start(dtype="bfloat16").callable, trainer.RoundedWeights)
    for run in (start(dtype="float32"), start(dtype="float64")):
        assert run.callable is run.model


def windows(count: int) -> Windows:
    return Windows(np.zeros(512 * (count + 1), np.uint16), time=512, seed=0)


@pytest.mark.parametrize(
    ("count", "steps", "warmup"),
    [(832, 1_300, 130), (12_800, 20_000, 2_000), (64_000, 100_000, 2_000), (1, 2, 0)],
)
def test_the_default_warm_up_fits_every_run(count: int, steps: int, warmup: int) -> None:
    """2,000 steps as in the paper, or a tenth of a shorter run."""
    recipe = complete_recipe(Recipe(), windows(count))
    assert (recipe.steps, recipe.warmup) == (steps, warmup)


@pytest.mark.parametrize("warmup", [0, 7, 1_299])
def test_a_given_warm_up_is_kept(warmup: int) -> None:
    assert warmup == complete_recipe(Recipe(warmup=warmup), windows(832)).warmup


def test_a_warm_up_as_long_as_the_run_is_rejected() -> None:
    with pytest.raises(UsageError, match="1300 steps does not fit into the 1300") as caught:
        complete_recipe(Recipe(warmup=1_300), windows(832))
    assert all(option in caught.value.fix for option in ("--warmup", "--epochs", "--steps"))
