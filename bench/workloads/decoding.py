"""One decoding step: ours with a cache, Hugging Face's without one.

The task `decode/1x64` computes the logits after the 64th token. Our cache holds 63 tokens. It is
reset to 63 before each step; this assignment is timed. Hugging Face's GPT-1 has no cache. It is
timed as its `generate` works: a forward pass of all 64 tokens, with the head for the last token
only if its version can.

The bare read multiplies every matrix of a step with one vector, each size in its fastest layout.
"""

import math
from collections.abc import Callable, Mapping
from typing import cast

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from bench.contest import Contender
from bench.limits import READS, fastest, matrices
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
        return Contender(fastest(matrices(run.models.ours), READS[name]))
    model, dtype = model_named(name, task, run.models)
    if isinstance(model, GPT):
        begin = cached(model, task.shape.batch)
    else:
        begin = uncached(cast("OpenAIGPTLMHeadModel", model))
    return verified(run.models, begin, run.models.ids(task.shape), dtype)
