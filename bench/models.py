"""Whole models, ours with every backend and Hugging Face's, verified before they are timed.

Logits of the first and the last text are compared with the NumPy oracle. The gradient of every
parameter is compared with Hugging Face's model in float64. Both use the timed tokens. Before, the
model runs on other tokens in the same tensor, and its result is overwritten.
"""

import copy
import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from bench.results import Series
from bench.shapes import Shape
from bench.targets import Task
from bench.textbook import Textbook
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

Model = GPT | OpenAIGPTLMHeadModel | Textbook
Forward = Callable[[], Tensor]
References = Mapping[str, Reference]


class Models:
    """Both models with the same weights, and a cache of expected results."""

    def __init__(self, source: str = "surrogate") -> None:
        weights = load_weights(source)
        self.ours = build_ours(weights)
        self.theirs = build_huggingface(weights)
        self.vocab_size = int(weights.config["vocab_size"])
        self._kept: dict[tuple[Any, ...], Any] = {}

    def ids(self, shape: Shape, seed: int = 0) -> Tensor:
        """Return the token ids `[batch time]` that a shape is timed on."""
        sizes = {"batch": shape.batch, "time": shape.time, "vocab_size": self.vocab_size}
        return seeded(**sizes, seed=seed).token_ids

    def with_backend(self, name: str, dtype: torch.dtype = torch.float32) -> GPT:
        """Return our model with one backend; a copy if the dtype is not float32."""
        twin = self.ours.with_backend(name)
        return twin if dtype is torch.float32 else copy.deepcopy(twin).to(dtype)

    def huggingface(self, dtype: torch.dtype = torch.float32) -> OpenAIGPTLMHeadModel:
        """Return Hugging Face's model; a copy if the dtype is not float32."""
        same = dtype is torch.float32
        return self.theirs if same else copy.deepcopy(self.theirs).to(dtype)  # type: ignore[arg-type]

    def peer(self, name: str, dtype: torch.dtype = torch.float32) -> Model:
        """Return `huggingface` or `textbook`; compiled if the name is `torch.compile(...)`."""
        inner = name.removeprefix("torch.compile(").removesuffix(")")
        model: Model = self.huggingface(dtype)
        if inner == "textbook":
            model = Textbook(self.ours).eval().to(dtype)
        if inner != name:
            # A copy without memory of its own: compile() changes the module itself.
            model = copy.deepcopy(model, {id(p): p for p in model.parameters()})
            model.compile(dynamic=False)
        return model

    def cached(self, key: tuple[Any, ...], make: Callable[[], Any]) -> Any:  # noqa: ANN401 - any result of make
        """Return `make()`, cached by key.

        The last part of a key is the shape. A new shape clears the cache, because logits are large.
        """
        if key not in self._kept:
            same = {k: value for k, value in self._kept.items() if k[-1] == key[-1]}
            self._kept = {**same, key: make()}
        return self._kept[key]


def logits_of(model: Model, ids: Tensor) -> Tensor:
    """Return a model's logits `[batch time vocab]`."""
    if isinstance(model, GPT | Textbook):
        return cast("Tensor", model(ids))
    return cast("Tensor", model(input_ids=ids).logits)


def forward_backward(model: Model, ids: Tensor) -> Tensor:
    """Compute the loss and every gradient, and return the loss."""
    model.zero_grad(set_to_none=True)
    loss = loss_of(model, ids)
    torch.autograd.backward(loss)
    return loss.detach()


def loss_of(model: Model, ids: Tensor) -> Tensor:
    """Return the mean loss of every next token; Hugging Face's comes from `labels=`."""
    if isinstance(model, GPT):
        return next_token_loss(model(ids), ids)
    if isinstance(model, Textbook):
        return cast("Tensor", model(ids, ids))
    return cast("Tensor", model(input_ids=ids, labels=ids).loss)


def gradients(model: Model) -> dict[str, Tensor]:
    """Return every gradient by our parameter names, in our layout."""
    if isinstance(model, Textbook):
        return model.gradients()
    return {n: p.grad for n, p in parameters_of(model).items() if p.grad is not None}


def parameters_of(model: Model) -> dict[str, nn.Parameter]:
    """Return every parameter by our names."""
    return {n.removeprefix("transformer."): p for n, p in model.named_parameters()}


def reference_gradients(models: Models, ids: Tensor) -> References:
    """Return the gradient of every parameter from Hugging Face's model in float64.

    The loss is computed here, because `labels=` computes it in float32.
    """
    exact = models.huggingface(torch.float64)
    logits = logits_of(exact, ids)[:, :-1]
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    torch.autograd.backward(loss)
    return {name: Reference(grad) for name, grad in gradients(exact).items()}


def reference_logits(models: Models, ids: Tensor) -> References:
    """Return the oracle's logits of the first and the last text."""
    ends = {"logits of the first text": ids[:1], "logits of the last text": ids[-1:]}
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


def ends(logits: Tensor, names: References) -> dict[str, Tensor]:
    """Return the logits of the texts that have a reference, by its name."""
    return dict(zip(names, (logits[:1], logits[-1:]), strict=False))


def reference_errors(answers: Mapping[str, Tensor], right: References) -> dict[str, Noise]:
    """Return a yardstick's errors; tensors of one kind share the error of the worst block."""
    kinds = {name: re.sub(r"^h\.\d+\.", "h.*.", name) for name in right}
    pooled: dict[str, Noise] = {}
    for name, kind in kinds.items():
        each = right[name].difference(answers[name], dtype=answers[name].dtype)
        rms, peak = pooled.get(kind, (0.0, 0.0))
        pooled[kind] = max(rms, each.relative_rms), max(peak, each.peak_ratio)
    return {name: pooled[kind] for name, kind in kinds.items()}


def largest_error(
    answers: Mapping[str, Tensor],
    right: References,
    noise: Mapping[str, Noise],
    precision: Precision,
) -> float:
    """Return the largest error of some answers.

    Raises:
        WrongKernelError: An error is larger than rounding explains, or an answer is missing.
    """
    around = max(h.scale for h in right.values()), max(h.largest for h in right.values())
    none = torch.empty(0, dtype=precision.dtype)
    return max(
        error_of(name, answers.get(name, none).detach(), reference, noise[name], around, precision)
        for name, reference in right.items()
    )


def verify_forward(models: Models, model: Model, ids: Tensor, dtype: str) -> tuple[Forward, float]:
    """Return a model's verified forward pass and its error."""
    precision = PRECISIONS[dtype]
    right: References = models.cached(
        ("logits", tuple(ids.shape)), lambda: reference_logits(models, ids)
    )
    run = torch.no_grad()(functools.partial(logits_of, model, ids))
    wanted = ids.clone()
    ids.copy_(ids.flip(0, 1))
    run().fill_(math.nan)
    ids.copy_(wanted)

    def noise() -> dict[str, Noise]:
        theirs = torch.no_grad()(logits_of)(models.huggingface(precision.dtype), ids)
        return reference_errors(ends(theirs, right), right)

    found = models.cached((dtype, "noise", tuple(ids.shape)), noise)
    return run, largest_error(ends(run(), right), right, found, precision)


def verify_backward(models: Models, model: Model, ids: Tensor) -> tuple[Forward, float]:
    """Return a float32 model's verified forward with backward, and its error."""
    right: References = models.cached(
        ("gradients", tuple(ids.shape)), lambda: reference_gradients(models, ids)
    )
    run = functools.partial(forward_backward, model, ids)

    def noise() -> dict[str, Noise]:
        forward_backward(models.theirs, ids)
        found = reference_errors(gradients(models.theirs), right)
        models.theirs.zero_grad(set_to_none=True)
        return found

    allowed = models.cached(("gradients' noise", tuple(ids.shape)), noise)
    run()
    return run, largest_error(gradients(model), right, allowed, PRECISIONS["float32"])


@dataclasses.dataclass
class Measurement:
    """The settings of one run, and the data that its rows share."""

    rounds: int | None  # of every task; None for each task's own number
    progress: Progress
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    """The matrix rate by device and dtype, measured when first needed."""
    series: list[Series] = dataclasses.field(default_factory=list)
    """The points of the picture."""

    @functools.cached_property
    def models(self) -> Models:
        """Both models, built when first needed."""
        self.progress("generating the weights", 0, 1)
        return Models()

    def rate(self, task: Task, device: torch.device, seen: float) -> float:
        """Return the matrix rate; measure it again if the rate `seen` is above it."""
        key = f"{device.type}-{task.shape.dtype}"
        if seen > RATE_MARGIN * self.rates.get(key, 0.0):
            self.rates[key] = max(self.rates.get(key, 0.0), matrix_rate(task.shape.dtype, device))
        return self.rates[key]
