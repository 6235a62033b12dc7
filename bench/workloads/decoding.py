"""One more token behind a text that is there: ours with its cache, Hugging Face's without one.

The task `decode/1x64` is the logits behind the 64th token. Our decoder holds 63 and takes one; its
cache is set back to 63 before each step, which costs the assignment of one number and is timed
with it. Hugging Face's GPT-1 has no cache, and generates as it is timed here: a whole forward of
all 64 tokens, the head for the last of them alone where its version can, the last row as float32.

The bare read is every matrix that a step reads, once: a product of it with one vector, and nothing
else. How a matrix is laid out decides how fast that is, so each is laid out, before the clock
starts, in whichever of two layouts was the faster for its size. The library computes such a product
on one thread. The shared read is what all threads can do: the same, where it is faster as a batch
of products with a part of the vector each, whose results nobody sums.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from bench.contest import Contender
from bench.models import (
    Measurement,
    Models,
    Truths,
    largest_error,
    logits_of,
    noises,
    oracle_logits,
)
from bench.targets import Task
from bench.timing import Run, cache_flusher, seconds
from bench.verify import Noise
from bench.workloads.model import named
from parity.core.metrics import Reference
from parity.core.tolerances import PRECISIONS
from reference.compat import last_logits_keyword
from reference.huggingface import check_keywords
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.model import GPT

Step = Callable[[], Tensor]
Noises = Mapping[str, Noise]
Begin = Callable[[Tensor], Step]
"""Takes token ids `[batch time]`; returns what gives the logits `[batch vocab]` behind them."""


def cached(model: GPT, batch: int) -> Begin:
    """Return our way: all tokens but the last are in the cache already when a step begins."""
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
    """Return Hugging Face's way, as its `generate` goes it.

    Source: transformers 5.23 generation/utils.py `_sample`, without its mask of ones.
    """
    kept = last_logits_keyword()
    check_keywords(model.forward, set(kept))

    @torch.no_grad()
    def logits(token_ids: Tensor) -> Tensor:
        found: Tensor = model(input_ids=token_ids, **kept).logits[:, -1]
        return found

    return lambda token_ids: lambda: logits(token_ids)


@dataclasses.dataclass(frozen=True)
class Right:
    """The logits behind every row of text, in float64, and those behind some tokens before.

    Attributes:
        last: `[batch vocab]`, by the name under which they are held.
        ends: For each of the last positions, `[batch vocab]`.
    """

    last: Truths
    ends: Truths


_POSITIONS = 8
"""Last positions whose worst rounding is the yardstick: that of one token is a small sample."""


def right_for(models: Models, token_ids: Tensor) -> Right:
    """Return the oracle's logits."""
    exact = oracle_logits(models.theirs, token_ids)[:, -_POSITIONS:].clone()
    return Right({"logits": Reference(exact[:, -1])}, _by_position(exact))


def _by_position(logits: Tensor) -> dict[str, Reference]:
    return {str(place): Reference(logits[:, place]) for place in range(logits.shape[1])}


@torch.no_grad()
def noise_of(models: Models, token_ids: Tensor, right: Right, dtype: torch.dtype) -> Noises:
    """Return the yardstick's error: the largest that Hugging Face's makes at the last positions."""
    logits = logits_of(models.huggingface(dtype), token_ids)[:, -len(right.ends) :]
    found = noises({name: logits[:, int(name)] for name in right.ends}, right.ends)
    worst = max(rms for rms, _ in found.values()), max(peak for _, peak in found.values())
    return {"logits": worst}


def verified(models: Models, begin: Begin, token_ids: Tensor, dtype: str) -> Contender:
    """Return a way to decode, ready to be timed on these tokens.

    Before it is given them it is given others, and what it answered is overwritten.

    Raises:
        WrongKernelError: Its logits are further off than rounding explains.
    """
    precision = PRECISIONS[dtype]
    shape = tuple(token_ids.shape)
    right: Right = models.cached(("decoded", shape), lambda: right_for(models, token_ids))
    allowed: Noises = models.cached(
        (dtype, "decoded noise", shape),
        lambda: noise_of(models, token_ids, right, precision.dtype),
    )
    begin(token_ids.flip(0, 1))().fill_(math.nan)
    step = begin(token_ids)

    def check() -> float:
        return largest_error({"logits": step()}, right.last, allowed, precision)

    check()
    return Contender(step, check(), check)  # the second step is one that follows a step


def make(name: str, task: Task, _device: torch.device, run: Measurement) -> Contender:
    """Return a way to decode, proved; or the bare read."""
    if name in READS:
        return Contender(fastest_read(matrices(run.models.ours), READS[name]))
    path, dtype = named(name, task)
    wanted, shape = getattr(torch, dtype), task.shape
    begin = (
        uncached(run.models.huggingface(wanted))
        if path == "huggingface"
        else cached(run.models.with_backend(path, wanted), shape.batch)
    )
    return verified(run.models, begin, run.models.ids(shape), dtype)


def matrices(model: GPT) -> list[Tensor]:
    """Return every matrix that a step reads whole, `[in out]`: of positions it reads one row."""
    named = {name: p.detach() for name, p in model.named_parameters() if p.ndim > 1}
    table = named.pop("tokens_embed.weight")
    return [w for name, w in named.items() if name != "positions_embed.weight"] + [table.T]


def _by_rows(weight: Tensor) -> Run:
    """Return `x W` as one product of matrices, of a weight `[in out]` as it stands."""
    stored, x = weight.contiguous(), torch.randn(1, weight.shape[0], dtype=weight.dtype)
    return lambda: torch.mm(x, stored)


def _by_columns(weight: Tensor) -> Run:
    """Return `W^T x` as a product with a vector, of a weight stored `[out in]`."""
    stored, x = weight.T.contiguous(), torch.randn(weight.shape[0], dtype=weight.dtype)
    return lambda: torch.mv(stored, x)


def _by_threads(weight: Tensor) -> Run:
    """Return the products of the parts of `x` and of `W`, one part a thread."""
    parts = torch.get_num_threads()
    while weight.shape[0] % parts:
        parts -= 1
    stored = weight.contiguous().view(parts, -1, weight.shape[1])
    x = torch.randn(parts, 1, stored.shape[1], dtype=weight.dtype)
    return lambda: torch.bmm(x, stored)


LAYOUTS = (_by_rows, _by_columns)
READS = {"bare read": LAYOUTS, "shared read": (*LAYOUTS, _by_threads)}
"""What no step can beat, and among which ways to read a matrix each is the fastest."""

Layouts = Sequence[Callable[[Tensor], Run]]


@torch.no_grad()
def fastest_read(weights: Sequence[Tensor], layouts: Layouts = LAYOUTS, rounds: int = 7) -> Run:
    """Return a read of every weight once, each size in the layout that is read fastest here."""
    best = {
        size: fastest_layout([w for w in weights if w.shape == size], layouts, rounds)
        for size in {weight.shape for weight in weights}
    }
    return _one_by_one([best[weight.shape](weight) for weight in weights])


def fastest_layout(
    weights: Sequence[Tensor], layouts: Layouts, rounds: int
) -> Callable[[Tensor], Run]:
    """Return the layout in which some weights are read fastest, from outside of the caches."""
    cpu = torch.device("cpu")
    flush = cache_flusher(cpu)

    def least(layout: Callable[[Tensor], Run]) -> float:
        run = _one_by_one([layout(weight) for weight in weights])
        return min(seconds(run, cpu, flush=flush) for _ in range(rounds))

    return min(layouts, key=least)


def _one_by_one(runs: Sequence[Run]) -> Run:
    """Return what runs some runs after one another."""

    def run() -> None:
        for each in runs:
            each()

    return run
