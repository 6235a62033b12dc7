"""Whole models as contestants: ours by every path, Hugging Face's, and each proved first.

Logits are proved against the NumPy oracle, of the first and the last row of text; the gradient
of every parameter against Hugging Face's model in float64, on the very tokens that are timed.
Before the proof the same tensor held other tokens, and what came of them was overwritten.
"""

import copy
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from bench.results import Series
from bench.shapes import Shape
from bench.targets import Task
from bench.timing import RATE_MARGIN, matrix_rate
from bench.verify import Noise, error_of
from parity.checkpoints.load import load_weights
from parity.core.inputs import Inputs, seeded
from parity.core.metrics import Reference
from parity.core.runners import build_huggingface, build_ours, oracle_run
from parity.core.tolerances import PRECISIONS, Precision
from scratch_gpt.loss import next_token_loss
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

Forward = Callable[[], Tensor]
Truths = Mapping[str, Reference]


class Models:
    """Both models with the same weights, and what is right for their inputs."""

    def __init__(self, source: str = "surrogate") -> None:
        weights = load_weights(source)
        self.ours = build_ours(weights)
        self.theirs = build_huggingface(weights)
        self.vocab_size = int(weights.config["vocab_size"])
        self._kept: dict[tuple[Any, ...], Any] = {}

    def ids(self, shape: Shape, seed: int = 0) -> Tensor:
        """Return the token ids that a shape is timed on; `[batch time]`."""
        return seeded(
            batch=shape.batch, time=shape.time, vocab_size=self.vocab_size, seed=seed
        ).token_ids

    def with_backend(self, name: str, dtype: torch.dtype = torch.float32) -> GPT:
        """Return our model by one path; in another dtype as a copy."""
        twin = self.ours.with_backend(name)
        return twin if dtype is torch.float32 else copy.deepcopy(twin).to(dtype)

    def huggingface(self, dtype: torch.dtype = torch.float32) -> OpenAIGPTLMHeadModel:
        """Return Hugging Face's model; in another dtype as a copy."""
        same = dtype is torch.float32
        return self.theirs if same else copy.deepcopy(self.theirs).to(dtype)  # type: ignore[arg-type]

    def cached(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:  # noqa: ANN401 - whatever is made
        """Return what was made once for a key, as long as the next keys are of the same shape.

        A key ends in the shape; what was kept for another one is let go, for logits are large.
        """
        if key not in self._kept:
            same = {k: value for k, value in self._kept.items() if k[-1] == key[-1]}
            self._kept = {**same, key: make()}
        return self._kept[key]


def logits_of(model: GPT | OpenAIGPTLMHeadModel, ids: Tensor) -> Tensor:
    """Return a model's logits, as its users get them."""
    if isinstance(model, GPT):
        return cast("Tensor", model(ids))
    return cast("Tensor", model(input_ids=ids).logits)


def stepped(model: GPT | OpenAIGPTLMHeadModel, ids: Tensor) -> Tensor:
    """Compute the loss and every gradient, and return the loss."""
    model.zero_grad(set_to_none=True)
    if isinstance(model, GPT):
        loss = next_token_loss(model(ids), ids)
    else:
        loss = model(input_ids=ids, labels=ids).loss
    torch.autograd.backward(loss)
    return loss.detach()


def gradients(model: GPT | OpenAIGPTLMHeadModel) -> dict[str, Tensor]:
    """Return every gradient under our parameter's name."""
    return {
        name.removeprefix("transformer."): parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def true_gradients(models: Models, ids: Tensor) -> Truths:
    """Return the gradient of every parameter in float64, by Hugging Face's model and autograd.

    Its `labels=` computes the loss in float32 even there, so the loss is taken here.
    """
    exact = models.huggingface(torch.float64)
    logits = logits_of(exact, ids)[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    torch.autograd.backward(loss)
    return {name: Reference(grad) for name, grad in gradients(exact).items()}


def true_logits(models: Models, ids: Tensor) -> Truths:
    """Return the oracle's logits of the first and the last row of text."""
    ends = {"logits of the first row": ids[:1], "logits of the last row": ids[-1:]}
    if len(ids) == 1:
        ends.popitem()
    return {name: Reference(oracle_logits(models.theirs, row)) for name, row in ends.items()}


def oracle_logits(theirs: OpenAIGPTLMHeadModel, row: Tensor) -> Tensor:
    """Return the NumPy oracle's logits in float64, `[batch time vocab]`."""
    found: list[Tensor] = []

    def tap(name: str, value: Tensor) -> Tensor:
        if name == "logits":
            found.append(value)
        return value

    oracle_run(theirs, Inputs(token_ids=row))(tap)
    return found[0]


def ends(logits: Tensor, names: Truths) -> dict[str, Tensor]:
    """Return the rows of text whose truth is known, under its names."""
    return dict(zip(names, (logits[:1], logits[-1:]), strict=False))


def noises(answers: Mapping[str, Tensor], right: Truths) -> dict[str, Noise]:
    """Return a yardstick's errors; those of one kind of tensor share the worst block's."""
    apart = {name: held.difference(answers[name], dtype=answers[name].dtype)
             for name, held in right.items()}  # fmt: skip
    pooled: dict[str, Noise] = {}
    for name, each in apart.items():
        before = pooled.get(_kind(name), (0.0, 0.0))
        pooled[_kind(name)] = max(before[0], each.relative_rms), max(before[1], each.peak_ratio)
    return {name: pooled[_kind(name)] for name in right}


def _kind(name: str) -> str:
    return re.sub(r"^h\.\d+\.", "h.*.", name)


def largest_error(
    answers: Mapping[str, Tensor], right: Truths, noise: Mapping[str, Noise], precision: Precision
) -> float:
    """Return the largest error of some answers.

    Raises:
        WrongKernelError: One is further off than rounding explains, or missing.
    """
    around = max(h.scale for h in right.values()), max(h.largest for h in right.values())
    none = torch.empty(0, dtype=precision.dtype)
    return max(
        error_of(name, answers.get(name, none).detach(), held, noise[name], around, precision)
        for name, held in right.items()
    )


def verify_forward(
    models: Models, model: GPT | OpenAIGPTLMHeadModel, ids: Tensor, dtype: str
) -> tuple[Forward, float]:
    """Return a model's forward pass, ready to be timed, and its error."""
    precision = PRECISIONS[dtype]
    right: Truths = models.cached(("logits", tuple(ids.shape)), lambda: true_logits(models, ids))
    run = torch.no_grad()(functools.partial(logits_of, model, ids))
    wanted = ids.clone()
    ids.copy_(ids.flip(0, 1))
    run().fill_(math.nan)
    ids.copy_(wanted)

    def noise() -> dict[str, Noise]:
        theirs = torch.no_grad()(logits_of)(models.huggingface(precision.dtype), ids)
        return noises(ends(theirs, right), right)

    found = models.cached((dtype, "noise", tuple(ids.shape)), noise)
    return run, largest_error(ends(run(), right), right, found, precision)


def verify_backward(
    models: Models, model: GPT | OpenAIGPTLMHeadModel, ids: Tensor
) -> tuple[Forward, float]:
    """Return a float32 model's forward with backward, ready to be timed, and its error."""
    right: Truths = models.cached(
        ("gradients", tuple(ids.shape)), lambda: true_gradients(models, ids)
    )
    run = functools.partial(stepped, model, ids)

    def noise() -> dict[str, Noise]:
        stepped(models.theirs, ids)
        found = noises(gradients(models.theirs), right)
        models.theirs.zero_grad(set_to_none=True)
        return found

    allowed = models.cached(("gradients' noise", tuple(ids.shape)), noise)
    run()
    return run, largest_error(gradients(model), right, allowed, PRECISIONS["float32"])


# What one run measures with: its settings, and what is prepared once for all rows.


@dataclasses.dataclass
class Measurement:
    """What one run measures: its settings, and what is prepared once.

    Attributes:
        rounds: Rounds of every timing; None for each task's own.
        progress: Called as rows are done.
        rates: The matrix rate by device and dtype, measured when first needed.
        series: The points of the picture.
    """

    rounds: int | None
    progress: Progress
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    series: list[Series] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def models(self) -> Models:
        """Both models, built when the first row needs them."""
        self.progress("drawing the weights", 0, 1)
        return Models()

    def rate(self, task: Task, device: torch.device, seen: float) -> float:
        """Return the matrix rate; measured again where something seems to be above it."""
        key = f"{device.type}-{task.shape.dtype}"
        if seen > RATE_MARGIN * self.rates.get(key, 0.0):
            self.rates[key] = max(self.rates.get(key, 0.0), matrix_rate(task.shape.dtype, device))
        return self.rates[key]
