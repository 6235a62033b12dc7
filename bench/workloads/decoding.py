"""One decoding step: ours with a cache, Hugging Face's without one.

The task `decode/1x64` computes the logits after the 64th token. Our cache holds 63 tokens. It is
reset to 63 before each step; this assignment is timed. Hugging Face's GPT-1 has no cache. It is
timed as its `generate` works: a forward pass of all 64 tokens, with the head for the last token
only if its version can.

The bare read multiplies every matrix of a step with one vector. Its speed depends on the layout of
the matrix. Each size uses the faster of two layouts, chosen before the clock starts. The library
uses one thread for such a product. The shared read uses all threads where this is faster: a batch
of products with a part of the vector each, whose results are not summed.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from bench.contest import Contender
from bench.models import (
    Measurement,
    Models,
    References,
    largest_error,
    logits_of,
    oracle_logits,
    reference_errors,
)
from bench.targets import Task
from bench.timing import Run, cache_flusher, seconds
from bench.verify import Noise
from bench.workloads.model import model_named
from parity.core.metrics import Reference
from parity.core.tolerances import PRECISIONS
from reference.compat import last_logits_keyword
from reference.huggingface import check_keywords
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.model import GPT

Step = Callable[[], Tensor]
Noises = Mapping[str, Noise]
Begin = Callable[[Tensor], Step]
"""Takes token ids `[batch time]`; returns a function of the logits `[batch vocab]` after them."""


def cached(model: GPT, batch: int) -> Begin:
    """Return our decoding: the cache holds all tokens but the last when a step begins."""
    decoder = Decoder(model, batch=batch)

    def begin(token_ids: Tensor) -> Step:
        decoder.start(token_ids[:, :-1])
        known, last = decoder.length, token_ids[:, -1].clone()

        def step() -> Tensor:
            decoder.cache.length = known
            return decoder.step(last)

        return step

    return begin


def uncached(model: OpenAIGPTLMHeadModel) -> Begin:
    """Return Hugging Face's decoding, as in its `generate`.

    Source: transformers 5.23 generation/utils.py `_sample`, without the mask of ones.
    """
    kept = last_logits_keyword()
    check_keywords(model.forward, set(kept))

    @torch.no_grad()
    def logits(token_ids: Tensor) -> Tensor:
        found: Tensor = model(input_ids=token_ids, **kept).logits[:, -1]
        return found

    return lambda token_ids: lambda: logits(token_ids)


_POSITIONS = 8
"""Number of last positions whose largest error is the yardstick; one is a small sample."""


def expected_logits(models: Models, token_ids: Tensor) -> References:
    """Return the oracle's float64 logits `[batch vocab]` at the last positions, in order."""
    exact = oracle_logits(models.theirs, token_ids)[:, -_POSITIONS:].clone()
    return {str(place): Reference(exact[:, place]) for place in range(exact.shape[1])}


@torch.no_grad()
def reference_error(
    models: Models, token_ids: Tensor, right: References, dtype: torch.dtype
) -> Noises:
    """Return the yardstick: Hugging Face's largest error at the last positions."""
    logits = logits_of(models.huggingface(dtype), token_ids)[:, -len(right) :]
    found = reference_errors({name: logits[:, int(name)] for name in right}, right)
    worst = max(rms for rms, _ in found.values()), max(peak for _, peak in found.values())
    return {"logits": worst}


def verified(models: Models, begin: Begin, token_ids: Tensor, dtype: str) -> Contender:
    """Return a verified decoding step on these tokens.

    Before, it decodes other tokens, and its result is overwritten.

    Raises:
        WrongKernelError: The error of its logits is larger than rounding explains.
    """
    precision = PRECISIONS[dtype]
    shape = tuple(token_ids.shape)
    right: References = models.cached(
        ("decoded", shape), lambda: expected_logits(models, token_ids)
    )
    last = {"logits": list(right.values())[-1]}
    allowed: Noises = models.cached(
        (dtype, "decoded noise", shape),
        lambda: reference_error(models, token_ids, right, precision.dtype),
    )
    begin(token_ids.flip(0, 1))().fill_(math.nan)
    step = begin(token_ids)

    def check() -> float:
        return largest_error({"logits": step()}, last, allowed, precision)

    check()
    return Contender(step, check(), check)  # the second check is of a step after a step


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a verified decoding step, or a read of the weights."""
    if name in READS:
        return Contender(fastest_read(matrices(run.models.ours), READS[name]))
    model, dtype = model_named(name, task, run.models)
    if isinstance(model, GPT):
        begin = cached(model, task.shape.batch)
    else:
        begin = uncached(cast("OpenAIGPTLMHeadModel", model))
    return verified(run.models, begin, run.models.ids(task.shape), dtype)


def matrices(model: GPT) -> list[Tensor]:
    """Return every matrix that a step reads fully, `[in out]`; of positions it reads only a row."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    table = named.pop("tokens_embed.weight")
    return [w for name, w in named.items() if name != "positions_embed.weight"] + [table.T]


def _by_rows(weight: Tensor) -> Run:
    """Return `x W` as one matrix product, of a weight stored `[in out]`."""
    stored, x = weight.contiguous(), torch.randn(1, weight.shape[0], dtype=weight.dtype)
    return lambda: torch.mm(x, stored)


def _by_columns(weight: Tensor) -> Run:
    """Return `W^T x` as a product with a vector, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), torch.randn(weight.shape[0], dtype=weight.dtype)
    return lambda: torch.mv(stored, x)


def _by_threads(weight: Tensor) -> Run:
    """Return the products of parts of `x` and `W`, one for each thread."""
    parts = torch.get_num_threads()
    while weight.shape[0] % parts:
        parts -= 1
    stored = weight.contiguous().view(parts, -1, weight.shape[1])
    x = torch.randn(parts, 1, stored.shape[1], dtype=weight.dtype)
    return lambda: torch.bmm(x, stored)


LAYOUTS = (_by_rows, _by_columns)
READS = {"bare read": LAYOUTS, "shared read": (*LAYOUTS, _by_threads)}
"""Lower bounds of a step's time, and the layouts of which each uses the fastest."""

Layouts = Sequence[Callable[[Tensor], Run]]


@torch.no_grad()
def fastest_read(weights: Sequence[Tensor], layouts: Layouts = LAYOUTS, rounds: int = 7) -> Run:
    """Return a read of every weight, each size in its fastest layout."""
    best = {
        size: fastest_layout([w for w in weights if w.shape == size], layouts, rounds)
        for size in {weight.shape for weight in weights}
    }
    return _one_by_one([best[weight.shape](weight) for weight in weights])


def fastest_layout(
    weights: Sequence[Tensor], layouts: Layouts, rounds: int
) -> Callable[[Tensor], Run]:
    """Return the layout in which some weights are read fastest with cold caches."""
    cpu = torch.device("cpu")
    flush = cache_flusher(cpu)

    def least(layout: Callable[[Tensor], Run]) -> float:
        run = _one_by_one([layout(weight) for weight in weights])
        return min(seconds(run, cpu, flush=flush) for _ in range(rounds))

    return min(layouts, key=least)


def _one_by_one(runs: Sequence[Run]) -> Run:
    """Return a function that calls some functions in order."""

    def run() -> None:
        for each in runs:
            each()

    return run
