"""The trainer's own small runs, which need none of the weights under check.

They reach in a second where runs of a large model do not: several epochs of windows, whole
schedules, many optimizer steps, gradients within the largest norm, dropout on every backend, rows
of unequal length, half precision, and a run that is resumed.
"""

import dataclasses
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import Side, convert
from parity.checks.training.runners import (
    STEPPERS,
    DropoutMasks,
    OurRun,
    Piece,
    Recipe,
    ReferenceRun,
    Step,
    prepared,
)
from parity.checks.training.steps import (
    Follower,
    StepComparison,
    exact_row,
    ids_row,
    raised_row,
    rate_row,
    seeds_row,
    worst,
)
from parity.checks.training.taps import (
    COURSES,
    DROPOUT_STEPS,
    DROPPING,
    ID_BYTES,
    OPTIMIZER_STEPS,
    RATES,
    RESUMED,
    SCHEDULES,
    TRAINER,
    VARIANTS,
    WINDOW_STEPS,
    TrainingQuantity,
    parse_quantity,
)
from parity.core.fingerprints import Fingerprints
from parity.core.gates import float64_row
from parity.core.metrics import Difference, difference
from parity.core.results import Row
from parity.core.taps import Tap
from parity.core.tolerances import Bounds
from reference import huggingface, training_oracle
from scratch_gpt import loss as losses
from scratch_gpt.config import GPTConfig
from scratch_gpt.model import GPT
from scratch_gpt.optimizer import Adam
from scratch_gpt.schedule import Schedule
from scratch_gpt.training import trainer as product
from scratch_gpt.training.checkpoints import read_checkpoint, write_checkpoint
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.recipe import Recipe as TrainerRecipe
from scratch_gpt.training.trainer import IGNORED, RoundedWeights, Trainer

WORDS = 50
SIZES: dict[str, Any] = {"n_layer": 2, "n_embd": 8, "n_head": 2}
HALF_LOSS = 1e-5
"""Largest relative error of the loss of logits in half precision, summed in float32; in bfloat16 it
would be 1e-3."""


def trainer_rows(wanted: Sequence[Tap], bounds: Bounds) -> list[Row]:
    """Return the rows of the wanted quantities of the trainer's own small runs."""
    runs = _Runs(bounds)
    names = {tap.name: parse_quantity(tap.name) for tap in wanted}
    with tempfile.TemporaryDirectory() as folder, torch.random.fork_rng(devices=[]):
        for part, variants in _PARTS.items():
            for run in variants:
                due = [place for place in names.values() if place.variant.startswith(run)]
                if not due:
                    continue
                try:
                    part(runs, run, Path(folder) / run)
                except Exception as error:  # noqa: BLE001 - the trainer may raise any exception
                    runs.note_broken(f"ours/{TRAINER}/float64", due[0], error)
    return [runs.rows[name] for name in names if name in runs.rows]


class _Runs:
    """The rows so far; a recorder of compared steps."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.fingerprints = Fingerprints()
        self.rows: dict[str, Row] = {}

    def note(self, _subject: str, place: TrainingQuantity, seen: Difference) -> None:
        """Record one difference."""
        name, bound = place.name, self.bounds.float64
        row = float64_row(seen, tap=name, backend=TRAINER, against="huggingface", bound=bound)
        self.note_row(row)

    def note_row(self, row: Row) -> None:
        """Record a row."""
        self.rows[row.tap] = dataclasses.replace(row, backend=TRAINER)

    def note_broken(self, _subject: str, place: TrainingQuantity, error: Exception) -> None:
        """Record an error as the row of the step's first quantity that has none."""
        self.note_row(raised_row(place, error, TRAINER, "float64"))

    def note_equal(self, place: TrainingQuantity, ours: object, theirs: object) -> None:
        """Record whether two things are equal, which are no numbers."""
        wrong, detail = float(ours != theirs), f"{ours}, expected {theirs}"
        self.note_row(exact_row(place, "oracle", wrong, (wrong, 0.0), detail=detail))

    def note_loss(self, run: str, ours: float, theirs: float, *, bound: float) -> None:
        """Record the loss of a run's only step; the error is relative."""
        place, error = TrainingQuantity(run, 1, "loss"), abs(ours - theirs) / theirs
        self.note_row(exact_row(place, "huggingface", error, (ours, theirs), bound=bound))

    def note_bits(
        self, place: TrainingQuantity, ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]
    ) -> None:
        """Record whether tensors are equal bit for bit."""
        wrong = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
        count, detail = (
            float(len(wrong)),
            f"{len(wrong)} tensors differ, the first is {next(iter(wrong), None)}",
        )
        self.note_row(exact_row(place, "oracle", count, (count, 0.0), detail=detail))


# Data and schedules.


def _tokens(count: int, words: int, seed: int) -> NDArray[np.int64]:
    return np.random.Generator(np.random.Philox(seed)).integers(0, words, size=count)


def _windows(tokens: NDArray[np.int64], time: int, seed: int, first: int, count: int) -> Tensor:
    """Return the windows at `count` positions from `first` on, as the reference finds them."""
    rows = []
    for place in range(first, first + count):
        each = len(training_oracle.window_starts(len(tokens), time, seed, 0))
        start = training_oracle.window_starts(len(tokens), time, seed, place // each)[place % each]
        rows.append(torch.from_numpy(tokens[start : start + time]))
    return torch.stack(rows)


def _compare_windows(runs: _Runs, run: str, folder: Path) -> None:
    """Compare every batch of several epochs, from a file of two or four bytes an id."""
    width = ID_BYTES[run]
    vocab_size = 66_000 if width > 2 else 40_478  # noqa: PLR2004 - bytes
    train, validation = _tokens(83, vocab_size, 1), _tokens(29, vocab_size, 2)
    train[::7] = vocab_size - 1  # the largest id must survive every conversion
    recipe = TrainerRecipe(
        n_positions=6, batch_size=5, micro_batch=2, steps=12, warmup=4, seed=3,
        evaluation_windows=3,
    )  # fmt: skip
    data = prepared(folder, train, validation, width=width)
    model = GPT(GPTConfig(vocab_size=vocab_size, n_positions=6, n_embd=2, n_layer=1, n_head=1))
    trainer = Trainer(recipe, vocab_size, data, Group(), model=model)
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda _model, given: seen.append(given[0].clone()))
    for step in range(1, WINDOW_STEPS + 1):
        seen.clear()
        trainer.advance()
        right = _windows(train, 6, 3, (step - 1) * 5, 5)
        runs.note_row(ids_row(TrainingQuantity(run, step, "ids"), seen, right))
    seen.clear()
    trainer.validate()
    place = TrainingQuantity(f"{run}-validation", 1, "ids")
    runs.note_row(ids_row(place, seen, _windows(validation, 6, 0, 0, 3)))


def _compare_rates(runs: _Runs, run: str, _folder: Path) -> None:
    """Compare the rate of every step of a schedule, and of some beyond its end."""
    shape, steps, warmup, first = SCHEDULES[run]
    peak = 2.5e-4
    schedule = Schedule(steps=steps, peak=peak, warmup=warmup, shape=shape, counted_from=first)
    for step in range(RATES):
        counted = min(step + first, steps)
        right = training_oracle.learning_rate(counted, steps, warmup, peak, shape)
        place, ours = TrainingQuantity(run, step + 1, "rate"), schedule.learning_rate(step)
        runs.note_row(rate_row(place, ours, right, bound=runs.bounds.float64, peak=peak))


# The optimizer alone.


def _compare_optimizer(runs: _Runs, run: str, _folder: Path) -> None:
    """Compare many steps on gradients that are drawn, of which some are tiny and some zero."""
    optimizer = run.removeprefix("optimizer-")
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        parameter = nn.Parameter(torch.ones(3, dtype=dtype))
        state = Adam([("weight", parameter)], variant=optimizer).state_dict()
        kinds = {str(t.dtype) for t in state.values() if isinstance(t, Tensor)}
        wide = str(torch.promote_types(dtype, torch.float32))
        place = TrainingQuantity(run, 1, "dtype", str(dtype).removeprefix("torch."))
        runs.note_equal(place, sorted(kinds), [wide])
    draw = torch.Generator().manual_seed(1)
    recipe = Recipe(variant=run, optimizer=optimizer, batches=(), epsilon=1e-6)
    begun = {
        name: torch.randn(shape, generator=draw, dtype=torch.float64)
        for name, shape in (("matrix", (5, 7)), ("vector", (7,)))
    }
    own = {name: nn.Parameter(tensor.clone()) for name, tensor in begun.items()}
    adam = Adam(
        own.items(),
        betas=recipe.betas,
        epsilon=recipe.epsilon,
        weight_decay=recipe.weight_decay,
        variant=optimizer,
    )
    kind = STEPPERS[optimizer]
    pieces = {
        name: Piece(nn.Parameter(t.clone()), kind.zeros(t), kind.zeros(t))
        for name, t in begun.items()
    }
    steppers = {name: kind(piece, recipe) for name, piece in pieces.items()}
    for step in range(OPTIMIZER_STEPS):
        rate = 1e-3 / (1 + step)
        for name, parameter in own.items():
            gradient = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            gradient *= 10.0 ** -(3 * (step % 3))
            gradient[step % len(gradient)] = 0.0
            parameter.grad = gradient.clone()
            steppers[name].step(gradient, step, rate)
        adam.step(rate)
        found: dict[str, Any] = {f"weight.{name}": p.detach() for name, p in own.items()}
        found |= adam.state_dict()
        for at, quantity in enumerate(("weight", "first_moment", "second_moment")):
            seen = {
                name: difference(found[f"{quantity}.{name}"], p[at].detach(), dtype=torch.float64)
                for name, p in pieces.items()
            }
            runs.note("", TrainingQuantity(run, step + 1, quantity), worst(seen))


# A small model: half precision, rows of unequal length, dropout, whole runs.


def randomize(model: nn.Module, seed: int = 0) -> None:
    """Draw weights, gains and biases that hide no fault: no ones, no zeros."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            drawn = torch.randn(parameter.shape, generator=draw, dtype=torch.float64)
            is_gain = ".ln_" in name and name.endswith("weight")
            parameter.copy_(1.0 + 0.2 * drawn if is_gain else 0.3 * drawn)


def _model(time: int, *, backend: str = "plain", dtype: torch.dtype = torch.float64) -> GPT:
    """Return a small model without dropout."""
    off: dict[str, Any] = dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), 0.0)
    model = GPT(GPTConfig(vocab_size=WORDS, n_positions=time, **SIZES, **off), backend=backend)
    randomize(model)
    return model.to(dtype)


def small_huggingface(model: GPT) -> OpenAIGPTLMHeadModel:
    """Return Hugging Face's model with the same weights and config."""
    state = {name: p.detach().clone() for name, p in model.named_parameters()}
    fields = dataclasses.asdict(model.config)
    named = convert(state, fields, source=Side.OURS, target=Side.HUGGINGFACE)
    return huggingface.build(fields, named, dtype=torch.float64)


def _compare_loss_in_half(runs: _Runs, run: str, _folder: Path) -> None:
    """Compare the loss of logits in bfloat16, which must be computed and returned in float32."""
    draw = torch.Generator().manual_seed(2)
    logits = (4.0 * torch.randn(2, 19, 311, generator=draw)).bfloat16().requires_grad_()
    ids = torch.randint(0, 311, (2, 19), generator=draw)
    ours = losses.next_token_loss(logits, ids)
    wide = logits.detach().double().requires_grad_()
    theirs = huggingface.loss(wide, ids).mean()
    runs.note_equal(TrainingQuantity(run, 1, "dtype"), str(ours.dtype), "torch.float32")
    runs.note_loss(run, float(ours.detach()), float(theirs.detach()), bound=HALF_LOSS)
    ours.backward()  # type: ignore[no-untyped-call]
    theirs.backward()  # type: ignore[no-untyped-call]
    made, right = logits.grad, wide.grad
    assert made is not None and right is not None  # noqa: S101, PT018 - for the type checker
    # Rounded once, to bfloat16: half a unit in the last place, and a little for the sums.
    relative = float(((made.double() - right).abs() / right.abs().clamp_min(1e-30)).max())
    bound = 1.01 * 2.0**-8
    place = TrainingQuantity(run, 1, "gradient")
    runs.note_row(exact_row(place, "huggingface", relative, (relative, 0.0), bound=bound))


def _compare_rounded(runs: _Runs, run: str, _folder: Path) -> None:
    """Compare a step on rounded weights with a model in bfloat16, bit for bit."""
    model = _model(9, dtype=torch.float32)
    half = _model(9, dtype=torch.bfloat16)
    ids = torch.from_numpy(_tokens(18, WORDS, 4).reshape(2, 9))
    both = [losses.next_token_loss(one(ids), ids) for one in (RoundedWeights(model), half)]
    for loss in both:
        loss.backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    right = {name: p.grad.float() for name, p in half.named_parameters() if p.grad is not None}
    kinds = {str(t.dtype) for t in found.values()}
    runs.note_equal(TrainingQuantity(run, 1, "dtype"), sorted(kinds), ["torch.float32"])
    runs.note_equal(TrainingQuantity(run, 1, "loss"), *(float(loss.detach()) for loss in both))
    empty = {name: torch.zeros(0) for name in right}
    runs.note_bits(TrainingQuantity(run, 1, "gradient"), empty | found, right)


def _compare_uneven(runs: _Runs, run: str, _folder: Path) -> None:
    """Compare one batch whose rows and micro-batches predict unequal numbers of tokens."""
    model = _model(11)
    theirs = small_huggingface(model)
    ids = torch.from_numpy(_tokens(55, WORDS, 5).reshape(5, 11))
    for row, length in enumerate((11, 3, 7, 2, 9)):
        ids[row, length:] = IGNORED
    micro_batches = [ids[:2], ids[2:4], ids[4:]]
    loss, _ = product.accumulate(model, micro_batches, Group())
    whole = nn.functional.cross_entropy(
        huggingface.logits(theirs, ids.clamp_min(0))[:, :-1].flatten(0, 1),
        ids[:, 1:].flatten(),
        ignore_index=IGNORED,
    )
    whole.backward()  # type: ignore[no-untyped-call]
    runs.note_loss(run, loss, float(whole.detach()), bound=runs.bounds.float64)
    state = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    right = convert(
        state, dataclasses.asdict(model.config), source=Side.HUGGINGFACE, target=Side.OURS
    )
    own = dict(model.named_parameters())
    seen = {
        name: difference(own[name].grad, one, dtype=torch.float64)  # type: ignore[arg-type]
        for name, one in right.items()
        if own[name].grad is not None
    }
    runs.note("", TrainingQuantity(run, 1, "gradient"), worst(seen))


def _compare_run(  # noqa: PLR0913 - a run
    runs: _Runs, recipe: Recipe, folder: Path, *, time: int, backend: str, windows: int
) -> None:
    """Compare a run of a trainer that builds its own model and reads prepared text."""
    steps, rows = len(recipe.batches), 5
    train, validation = _tokens(windows * time + 5, WORDS, 6), _tokens(4 * time, WORDS, 7)
    made = tuple(_windows(train, time, recipe.seed, rows * step, rows) for step in range(steps))
    held_out = _windows(validation, time, 0, 0, 2)
    recipe = dataclasses.replace(recipe, batches=made, validation=held_out)
    settings = recipe.of_trainer(
        torch.float64,
        **SIZES,
        backend=backend,
        dropout=0.1 if recipe.dropout else 0.0,
        evaluation_windows=2,
    )
    data = prepared(folder, train, validation, width=2)
    trainer = Trainer(settings, WORDS, data, Group())
    randomize(trainer.model)
    theirs = small_huggingface(trainer.model)
    if recipe.maximum is None:
        recipe = dataclasses.replace(recipe, maximum=_middle_norm(theirs, recipe))
    run = Follower(f"ours/{TRAINER}/float64", OurRun(trainer, recipe), torch.float64)
    leader = ReferenceRun(theirs, recipe, torch.float64)
    comparison = StepComparison(
        recorder=runs, recipe=recipe, leader=leader, followers=[run], whole=True
    )
    for step in range(steps):
        comparison.step(step)


def _middle_norm(model: OpenAIGPTLMHeadModel, recipe: Recipe) -> float:
    """Return a norm that the gradients of some batches exceed, and of others do not."""
    run, norms = ReferenceRun(model, recipe, torch.float64), []
    for step in range(len(recipe.batches)):
        run.backward(step, DropoutMasks(recipe.seed, step, len(recipe.batches[step])))
        norms.append(run.norm)
    return sorted(norms)[len(norms) // 2] * 1.001


def _compare_dropout(runs: _Runs, run: str, folder: Path) -> None:
    """Compare steps with dropout, on rows longer than a tile, in micro-batches of two and one."""
    recipe = Recipe(
        variant=run, batches=(torch.zeros(5, 70),) * DROPOUT_STEPS, parts=3, dropout=True
    )
    backend = run.removeprefix("dropout-")
    _compare_run(runs, recipe, folder, time=70, backend=backend, windows=12)


def _compare_course(runs: _Runs, run: str, folder: Path) -> None:
    """Compare a whole run over several epochs, in micro-batches of two, two and one."""
    optimizer = run.removeprefix("course-")
    recipe = Recipe(
        variant=run,
        optimizer=optimizer,
        batches=(torch.zeros(5, 6),) * COURSES[run],
        parts=3,
        shape="linear" if optimizer == "adamw" else "cosine",
        peak=1e-2,
        seed=1,
    )
    _compare_run(runs, recipe, folder, time=6, backend="fused", windows=13)


def _compare_resumed(runs: _Runs, run: str, folder: Path) -> None:
    """Compare a run that is interrupted, written, read and resumed with one that is not."""
    dtype = run.removeprefix("resume-")
    train, validation = _tokens(83, WORDS, 8), _tokens(12, WORDS, 9)
    data = prepared(folder, train, validation, width=2)
    recipe = TrainerRecipe(
        **SIZES, n_positions=6, batch_size=5, micro_batch=2, steps=6, warmup=2, dtype=dtype,
        dropout=0.2, learning_rate=1e-2, optimizer="adamw",
    )  # fmt: skip

    def trainer() -> OurRun:
        made = Trainer(recipe, WORDS, data, Group())
        randomize(made.model)
        return OurRun(made, Recipe(variant=run, batches=()))

    whole, begun, resumed = trainer(), trainer(), trainer()
    used: set[int] = set()

    def advance(one: OurRun) -> Step:
        return one.step(1.0, DropoutMasks(0, 0, 0), lambda _name, _gradient: None)

    for _ in range(2):
        advance(whole)
        advance(begun)
        used.update(whole.seeds)
    write_checkpoint(folder / "step", begun.trainer.checkpoint({}))
    resumed.trainer.resume(read_checkpoint(folder / "step"))
    for step in (3, 4):
        torch.manual_seed(step)  # a resumed process has other random numbers
        due, found = advance(whole), advance(resumed)
        place = partial(TrainingQuantity, run, step)
        runs.note_row(ids_row(place("ids"), resumed.ids, torch.cat(whole.ids)))
        runs.note_row(seeds_row(place("seeds"), resumed.seeds, used))
        used.update(whole.seeds)
        runs.note_equal(place("loss"), found.loss, due.loss)
        runs.note_equal(place("rate"), found.rate, due.rate)
        for which in ("first", "second"):
            runs.note_bits(place(f"{which}_moment"), resumed.moments(which), whole.moments(which))
        runs.note_bits(place("weight"), resumed.parameters, whole.parameters)


_Part = Callable[[_Runs, str, Path], None]
_PARTS: dict[_Part, Sequence[str]] = {
    _compare_windows: tuple(ID_BYTES),
    _compare_rates: tuple(SCHEDULES),
    _compare_optimizer: tuple(f"optimizer-{variant}" for variant in VARIANTS),
    _compare_loss_in_half: ("loss-in-half",),
    _compare_rounded: ("weights-rounded",),
    _compare_uneven: ("uneven",),
    _compare_dropout: tuple(f"dropout-{backend}" for backend in DROPPING),
    _compare_course: tuple(COURSES),
    _compare_resumed: RESUMED,
}
"""Each small run: the function that makes its rows, and its names."""
