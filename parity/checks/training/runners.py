"""Both sides of a training run: our trainer, and Hugging Face's model stepped by other code.

Our side is `scratch_gpt.training.trainer.Trainer` with its windows, micro-batches, schedule,
clipping, dropout and optimizer. Hugging Face's takes whole batches and never uses our optimizer:
the released variant's steps are the NumPy oracle's, AdamW's are PyTorch's. With our optimizer, its
rounding would enlarge the reference error and so excuse itself.
"""

import copy
import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import rows as mapping_rows
from parity.checks.gradients.backward import GradientCallback
from parity.checks.gradients.taps import parameter_names
from parity.core import inputs, runners
from parity.core.reordered import Reordered
from reference import huggingface, training_oracle
from scratch_gpt.data import TokenData, dataset
from scratch_gpt.model import GPT
from scratch_gpt.training import recipe as product
from scratch_gpt.training.distributed import Group
from scratch_gpt.training.trainer import Trainer

CLIPPED = 3.0
"""The first gradients' norm over the largest allowed one, so that every run clips."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of one run, the same on both sides.

    Attributes:
        variant: The run's name, the first part of its rows' names.
        optimizer: Key of `STEPPERS`.
        batches: Ids `[rows time]` of each step.
        parts: The number of micro-batches of our side; the last may have fewer rows.
        validation: Ids `[rows time]` of the validation loss, if it is compared.
        seed: Seed of the order of windows and of dropout.
        shape: Of the schedule.
        maximum: Largest norm; None for a part of the first norm, so that every step is clipped.
        peak: Largest learning rate.
        epsilon: Equal to the root mean square of the clipped gradients: 2.1e-3 at full size, 3.2e-3
            for the small weights. Adam makes a whole step for any gradient well above epsilon, even
            for rounding: with a small epsilon the float32 verdict would be chance. See
            `docs/training-check.md`.
    """

    variant: str
    optimizer: str = "openai"
    batches: tuple[Tensor, ...]
    parts: int = 2
    dropout: bool = False
    validation: Tensor | None = None
    seed: int = 0
    shape: str = "cosine"
    maximum: float | None = None
    peak: float = 2.5e-4
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 3e-3

    @property
    def warmup(self) -> int:
        """Warm-up steps of the schedule."""
        return total_and_warmup(len(self.batches))[1]

    @property
    def steps(self) -> int:
        """All steps of the schedule."""
        return total_and_warmup(len(self.batches))[0]

    def of_trainer(self, dtype: torch.dtype, **sizes: Any) -> product.Recipe:  # noqa: ANN401 - fields
        """Return these settings as those of a trainer, with `sizes` of its model."""
        rows, time = self.batches[0].shape
        return product.Recipe(
            n_positions=time,
            batch_size=rows,
            micro_batch=math.ceil(rows / self.parts),
            steps=self.steps,
            warmup=self.warmup,
            learning_rate=self.peak,
            schedule=self.shape,
            optimizer=self.optimizer,
            beta1=self.betas[0],
            beta2=self.betas[1],
            epsilon=self.epsilon,
            weight_decay=self.weight_decay,
            dtype="float64" if dtype == torch.float64 else "float32",
            seed=self.seed,
            **sizes,
        )


def total_and_warmup(steps: int) -> tuple[int, int]:
    """Return the length of the schedule for a run of so many steps, and its warm-up.

    The run includes the fall after the warm-up, but not the last step, whose rate is 0.
    """
    return steps + 1, max(1, steps // 2)


def batches(  # noqa: PLR0913 - the shape and the seed of the ids
    *, steps: int, parts: int, batch: int, time: int, vocab_size: int, seed: int
) -> tuple[Tensor, ...]:
    """Return different ids for every step."""
    return tuple(
        inputs.seeded(
            batch=parts * batch, time=time, vocab_size=vocab_size, seed=seed + step
        ).token_ids
        for step in range(steps)
    )


# Prepared text, from which our side reads its batches.


def prepared(
    folder: Path, train: NDArray[np.int64], validation: NDArray[np.int64], *, width: int
) -> TokenData:
    """Write ids of `width` bytes each as a folder of prepared text; return it opened."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokens.bin"
    path.write_bytes(np.concatenate([train, validation]).astype(f"<u{width}").tobytes())
    count = len(train) + len(validation)
    recipe = dataset.Recipe(
        vocabulary="0" * 64,
        pretokenizer="huggingface",
        vocab_size=1 << (8 * width),
        errors="strict",
        validation_fraction=(len(validation) + 0.5) / count,
    )
    manifest = dataset.Manifest(
        format=1,
        recipe=recipe,
        tokens=count,
        validation=len(validation),
        **dict.fromkeys(("unknown", "characters", "replaced"), 0),
        sha256=dataset.sha256(path),
        sampled_sha256=dataset.sampled_sha256(path),
        sources=(),
    )
    (folder / "manifest.json").write_text(manifest.text, encoding="utf-8")
    return TokenData.open(folder)


def data_of(folder: Path, made: Sequence[Tensor], seed: int, vocab_size: int) -> TokenData:
    """Return prepared text whose windows are the rows of the batches, in this order."""
    rows = torch.cat(list(made)).numpy()
    count, time = rows.shape
    tokens = np.full((count + 1) * time - 1, vocab_size - 1, dtype=np.int64)
    for row, start in zip(
        rows, training_oracle.window_starts(len(tokens), time, seed, 0), strict=True
    ):
        tokens[start : start + time] = row
    return prepared(folder, tokens, rows[0], width=2 if vocab_size <= 1 << 16 else 4)


class DropoutSite(NamedTuple):
    """One application of dropout: its name, and the shape of one row of its input."""

    name: str
    shape: tuple[int, ...]


class DropoutMasks:
    """The random numbers of one step, the same for a batch and for its micro-batches.

    Attributes:
        sites: The dropout sites of Hugging Face's model, in order; its run adds them.
    """

    def __init__(self, seed: int, step: int, rows: int) -> None:
        self._key = (seed, step)
        self._rows = rows
        self.sites: list[DropoutSite] = []

    def keeps(self, name: str, x: Tensor, probability: float) -> Tensor:
        """Return the elements that Hugging Face's model keeps, and add the site."""
        site = DropoutSite(name, tuple(x.shape[1:]))
        if site not in self.sites:
            self.sites.append(site)
        return self.uniform(site, slice(0, len(x))) >= probability

    def uniform(self, site: DropoutSite, rows: slice) -> Tensor:
        """Return the numbers of some rows of a site."""
        key = [*self._key, self.sites.index(site)]
        generator = np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))
        drawn = generator.random((self._rows, *site.shape), dtype=np.float32)
        return torch.from_numpy(drawn[rows])


class SuppliedNumbers(TorchFunctionMode):
    """Supplies the numbers of `draws` to our dropout, in place of `torch.rand_like`.

    Threshold and scale remain our own. A call that does not fit the next site is assigned to a
    later one; calls after the last get zeros. A kernel that draws tile by tile gets the tiles.

    Attributes:
        sites: Names of the sites, in order of the calls, of the present micro-batch.
    """

    def __init__(self, draws: DropoutMasks) -> None:
        super().__init__()
        self._draws = draws
        self._rows = slice(0, 0)
        self.sites: list[str] = []
        self.begin(0)

    def begin(self, rows: int) -> None:
        """Begin a micro-batch of so many rows."""
        self._rows = slice(self._rows.stop, self._rows.stop + rows)
        self._left = iter(self._draws.sites)
        self.sites = []
        self._tiles: Iterator[Tensor] = iter(())

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - any function of torch
        types: Any,  # noqa: ANN401
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401
        """Call `func`, unless it draws."""
        if func is not torch.rand_like:
            return func(*args, **(kwargs or {}))
        numbers = self._numbers(args[0].shape)
        return numbers.to(args[0].device, (kwargs or {}).get("dtype") or args[0].dtype)

    def _numbers(self, shape: torch.Size) -> Tensor:
        tile = next(self._tiles, None)
        if tile is not None and tile.shape == shape:
            return tile
        self._tiles = iter(())
        for site in self._left:
            whole = (self._rows.stop - self._rows.start, *site.shape)
            if whole == tuple(shape):
                self.sites.append(site.name)
                return self._draws.uniform(site, self._rows)
            if len(site.shape) == len(shape) and not site.shape[0] * whole[0] % shape[0]:
                self._tiles = self._cut(site, shape)
                if (first := next(self._tiles)).shape == shape:
                    self.sites.append(site.name)
                    return first
                self._tiles = iter(())
        self.sites.append("nowhere")
        return torch.zeros(shape)

    def _cut(self, site: DropoutSite, first: torch.Size) -> Iterator[Tensor]:
        """Yield a site's numbers in tiles: some heads, some queries, the keys that these see."""
        numbers = self._draws.uniform(site, self._rows).flatten(0, 1)
        heads, tile, _ = first
        for group in torch.split(numbers, heads):
            for start in range(0, numbers.shape[1], tile):
                end = min(start + tile, numbers.shape[1])
                yield group[:, start:end, :end]


class Step(NamedTuple):
    """The numbers of one step."""

    loss: float
    norm: float
    rate: float


class OurRun:
    """A trainer; its model's parameters are changed.

    Attributes:
        parameters: Those that are compared, under our names.
        ids: The last step's batch, as the model got it.
        seeds: The seed of the random numbers of each of its micro-batches.
        sites: Names of its dropout sites, in order.
    """

    def __init__(self, trainer: Trainer, recipe: Recipe) -> None:
        self.trainer, self._recipe = trainer, recipe
        self.parameters = dict(trainer.model.named_parameters())
        self.ids: list[Tensor] = []
        self.seeds: list[int] = []
        self.sites: list[str] = []

    def step(self, maximum: float, draws: DropoutMasks, see: GradientCallback) -> Step:
        """Make a step; call `see` with each accumulated gradient, before it is clipped."""
        trainer = self.trainer
        trainer.recipe = dataclasses.replace(trainer.recipe, clip_norm=maximum)
        supplied = SuppliedNumbers(draws) if self._recipe.dropout else None
        self.ids, self.seeds = [], []

        def look(_model: nn.Module, given: tuple[Tensor, ...]) -> None:
            self.ids.append(given[0].clone())
            self.seeds.append(torch.initial_seed())
            if supplied is not None:
                supplied.begin(len(given[0]))

        def seen() -> None:
            for name, parameter in self.parameters.items():
                if parameter.grad is not None:
                    see(name, parameter.grad)

        handle = trainer.callable.register_forward_pre_hook(look)
        try:
            with torch.random.fork_rng(devices=[]), supplied or nullcontext():
                made = trainer.advance(seen)
        finally:
            handle.remove()
        self.sites = supplied.sites if supplied is not None else []
        return Step(made.loss, made.gradient_norm, made.learning_rate)

    def validate(self) -> float:
        """Return the validation loss."""
        return self.trainer.validate()

    def moments(self, which: str) -> dict[str, Tensor]:
        """Return the optimizer's `first` or `second` moments by parameter."""
        prefix = f"{which}_moment."
        return {
            name.removeprefix(prefix): tensor
            for name, tensor in self.trainer.optimizer.state_dict().items()
            if name.startswith(prefix) and isinstance(tensor, Tensor)
        }

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        return tied(self.trainer.model, self.parameters["tokens_embed.weight"], self.parameters)


def our_run(
    model: nn.Module, recipe: Recipe, data: TokenData, dtype: torch.dtype, layers: int
) -> OurRun:
    """Return a trainer of a copy of a model in a dtype. A candidate is called as our model is."""
    copied = module_in_dtype(model, dtype)
    own = dict(copied.named_parameters())
    known = {name: own[name] for name in parameter_names(layers) if name in own}
    for parameter in known.values():
        parameter.requires_grad_(True)
    if not isinstance(copied, GPT):
        forward = copied.forward
        replaced = {
            "forward": lambda token_ids: forward(token_ids, None, None, tap=None),
            "named_parameters": lambda *_args, **_named: iter(known.items()),
        }
        vars(copied).update(replaced)
    copied.train(recipe.dropout)
    if not recipe.dropout:  # its config has dropout: the trainer must not turn it on
        vars(copied)["train"] = lambda _mode=True: copied
    # The ids fit the model already: no token of the vocabulary is needed to build one.
    trainer = Trainer(recipe.of_trainer(dtype), 1, data, Group(), model=copied)
    return OurRun(trainer, recipe)


def tied(model: nn.Module, table: Tensor, known: Collection[str]) -> bool:
    """Return whether the model's head, if it has one, shares the storage of `table`.

    A head is a tensor of the table's shape that is none of the `known` parameters.
    """
    heads = [
        tensor
        for name, tensor in model.state_dict().items()
        if name not in known and tensor.shape == table.shape
    ]
    return {table.data_ptr()} >= {head.data_ptr() for head in heads}


def module_in_dtype(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy of a model, with its own storage."""
    made = runners.model_in_dtype({"the model": model}, dtype)["the model"]
    return copy.deepcopy(model) if made is model else made


# Hugging Face's side.


class Piece(NamedTuple):
    """Rows of a parameter and of its moments."""

    parameter: nn.Parameter
    first: Tensor
    second: Tensor


class ReferenceRun:
    """A copy of Hugging Face's model in training, in a dtype; with a seed, in another order.

    Attributes:
        parameters: All of them, under our names; their tensors are in that order.
        norm: Norm of the last step's gradients before clipping.
    """

    def __init__(
        self,
        model: OpenAIGPTLMHeadModel,
        recipe: Recipe,
        dtype: torch.dtype,
        seed: int | None = None,
    ) -> None:
        self._model = cast("OpenAIGPTLMHeadModel", module_in_dtype(model, dtype))
        self._order = None if seed is None else Reordered(self._model, seed)
        if self._order is not None:
            self._model = self._order.model
        self._model.train(recipe.dropout)
        self._recipe = recipe
        own = dict(self._model.named_parameters())
        table = mapping_rows(int(model.config.n_layer))
        self.parameters = {row.ours: own[row.huggingface] for row in table}
        for parameter in self.parameters.values():
            parameter.requires_grad_(True)
        stepper = STEPPERS[recipe.optimizer]
        self._moments = {
            which: {name: stepper.zeros(p) for name, p in self.parameters.items()}
            for which in ("first", "second")
        }
        self._steppers = {
            name: [stepper(piece, recipe) for piece in self._pieces(name)]
            for name in self.parameters
        }
        self.norm = 0.0

    def backward(self, step: int, draws: DropoutMasks) -> float:
        """Return the loss of a step's batch; the parameters keep its gradients."""
        token_ids = self._recipe.batches[step]
        self.end_step()

        def keeps(site: str, x: Tensor, probability: float) -> Tensor:
            kept = draws.keeps(site, x, probability)
            return kept if self._order is None else self._order.reordered(site, kept)

        with (
            huggingface.supply_dropout_masks(self._model, keeps)
            if self._recipe.dropout
            else nullcontext()
        ):
            logits = huggingface.logits(self._model, token_ids)
            loss = huggingface.loss(logits, token_ids).mean()
            loss.backward()  # type: ignore[no-untyped-call]
        squares = [
            math.nan
            if parameter.grad is None
            else float(torch.linalg.vector_norm(parameter.grad, dtype=torch.float64)) ** 2
            for parameter in self.parameters.values()
        ]
        self.norm = math.sqrt(math.fsum(squares))
        return float(loss.detach())

    @torch.no_grad()
    def advance(self, step: int, maximum: float) -> float:
        """Make the step; return its learning rate. The gradients are not changed."""
        recipe = self._recipe
        rate = training_oracle.learning_rate(
            step, recipe.steps, recipe.warmup, recipe.peak, recipe.shape
        )
        scale = maximum / max(self.norm, maximum)
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                rows = torch.split(parameter.grad, _rows(parameter))
                for stepper, gradient in zip(self._steppers[name], rows, strict=True):
                    stepper.step(gradient * scale, step, rate)
        return rate

    def moments(self, which: str) -> dict[str, Tensor]:
        """Return the `first` or `second` moments by parameter."""
        return self._moments[which]

    def usual(self, name: str, tensor: Tensor) -> Tensor:
        """Return a parameter, or its gradient, in the usual order."""
        return tensor if self._order is None else self._order.reordered(name, tensor, back=True)

    def end_step(self) -> None:
        """Discard the gradients."""
        for parameter in self.parameters.values():
            parameter.grad = None

    @torch.no_grad()
    def validate(self, token_ids: Tensor) -> float:
        """Return the loss of some rows without dropout."""
        self._model.eval()
        loss = huggingface.loss(huggingface.logits(self._model, token_ids), token_ids).mean()
        self._model.train(self._recipe.dropout)
        return float(loss)

    def _pieces(self, name: str) -> Iterator[Piece]:
        """Yield a parameter and its moments some rows at a time, as views."""
        whole = (self.parameters[name].detach(), *(m[name] for m in self._moments.values()))
        length = _rows(whole[0])
        for rows, first, second in zip(*(torch.split(t, length) for t in whole), strict=True):
            yield Piece(nn.Parameter(rows), first, second)

    @property
    def tied(self) -> bool:
        """Whether the head is still the embedding."""
        known = [row.huggingface for row in mapping_rows(int(self._model.config.n_layer))]
        return tied(self._model, self.parameters["tokens_embed.weight"], known)


def _rows(parameter: Tensor) -> int:
    """Return the number of rows that are stepped at once, which limits the temporaries."""
    return max(1, _AT_ONCE // max(1, parameter[0].numel()))


_AT_ONCE = 1 << 22
"""Elements stepped at once."""


class Oracle:
    """Steps rows of a parameter with the NumPy oracle, in the released variant.

    It computes in the parameter's dtype, but at least in float32.
    """

    def __init__(self, piece: Piece, recipe: Recipe) -> None:
        self._piece = piece
        self._constants = training_oracle.Constants(
            variant="openai",
            b1=recipe.betas[0],
            b2=recipe.betas[1],
            e=recipe.epsilon,
            l2=recipe.weight_decay,
        )

    def step(self, gradient: Tensor, number: int, rate: float) -> None:
        """Make step `number`, counted from 0."""
        own = [tensor.detach() for tensor in self._piece]
        p, first, second, g = (_wide(tensor).numpy() for tensor in (*own, gradient))
        after = training_oracle.step_all(p, first, second, g, number, rate, self._constants)
        for tensor, made in zip(own, after, strict=True):
            tensor.copy_(torch.from_numpy(made))

    @staticmethod
    def zeros(parameter: Tensor) -> Tensor:
        """Return a moment before the first step."""
        return torch.zeros_like(_wide(parameter))


def _wide(tensor: Tensor) -> Tensor:
    """Return a tensor in float32 or wider: NumPy has no bfloat16."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class PyTorch:
    """Steps rows of a parameter with `torch.optim.AdamW`."""

    def __init__(self, piece: Piece, recipe: Recipe) -> None:
        self._parameter = piece.parameter
        self._optimizer = torch.optim.AdamW(
            [piece.parameter],
            betas=recipe.betas,
            eps=recipe.epsilon,
            weight_decay=recipe.weight_decay if piece.parameter.ndim > 1 else 0.0,
            foreach=False,
        )
        begun = {"step": torch.zeros(()), "exp_avg": piece.first, "exp_avg_sq": piece.second}
        self._optimizer.state[piece.parameter] = begun

    def step(self, gradient: Tensor, _number: int, rate: float) -> None:
        """Make the next step."""
        self._optimizer.param_groups[0]["lr"] = rate
        self._parameter.grad = gradient
        self._optimizer.step()
        self._parameter.grad = None

    @staticmethod
    def zeros(parameter: Tensor) -> Tensor:
        """Return a moment before the first step."""
        return torch.zeros_like(parameter)


STEPPERS: Mapping[str, type[Oracle] | type[PyTorch]] = {"openai": Oracle, "adamw": PyTorch}
"""The reference optimizer of each variant."""
