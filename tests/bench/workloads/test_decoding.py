"""Decoding steps are verified; the bare read reads every matrix once."""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import limits
from bench.limits import READS
from bench.memory import peak_bytes
from bench.models import Measurement, Models
from bench.shapes import Shape
from bench.targets import decode
from bench.verify import WrongKernelError
from bench.workloads import decoding
from bench.workloads.decoding import cached, uncached, verified
from reference import compat
from reference.huggingface_generation import continue_text
from scratch_gpt.kv_cache import KVCache

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
TASK = decode(2, 37)


@pytest.mark.parametrize("name", ["fused", "huggingface", "fused in bfloat16"])
@pytest.mark.parametrize("time", [2, 37])
def test_each_step_is_verified(name: str, time: int, run: Measurement) -> None:
    task = dataclasses.replace(TASK, shape=Shape(batch=2, time=time))
    ready = decoding.make(name, task, CPU, run)
    assert ready.check is not None
    assert ready.error > 0.0
    logits = ready.run()
    assert isinstance(logits, Tensor)
    assert logits.shape == (2, run.models.vocab_size)
    assert (logits.dtype is torch.bfloat16) == name.endswith("bfloat16")
    assert ready.check() == ready.error


def short(models: Models, ids: Tensor) -> decoding.Step:
    return cached(models.ours, 2)(torch.cat([ids[:, :-2], ids[:, -1:]], dim=1))


def other_row(models: Models, ids: Tensor) -> decoding.Step:
    mixed = ids.clone()
    mixed[1, -1] = (mixed[1, -1] + 1) % models.vocab_size
    return cached(models.ours, 2)(mixed)


def started(models: Models, ids: Tensor) -> decoding.Decoder:
    decoder = decoding.Decoder(models.with_backend("fused"), batch=2)
    decoder.start(ids[:, :-1])
    return decoder


def growing(models: Models, ids: Tensor) -> decoding.Step:
    decoder = started(models, ids)
    return lambda: decoder.step(ids[:, -1])


def off(models: Models, ids: Tensor) -> decoding.Step:
    decoder = started(models, ids)
    known = decoder.length
    decoder.cache.values[5].mul_(1.001)

    def step() -> Tensor:
        decoder.cache.length = known
        return decoder.step(ids[:, -1])

    return step


@pytest.mark.parametrize("wrong", [short, other_row, growing, off])
def test_a_wrong_step_is_rejected(
    wrong: Callable[[Models, Tensor], decoding.Step], models: Models, ids: Tensor
) -> None:
    with pytest.raises(WrongKernelError, match=r"logits: RMS error .* times the yardstick's"):
        verified(models, lambda token_ids: wrong(models, token_ids), ids, "float32")


def test_a_cached_answer_is_rejected(models: Models, ids: Tensor) -> None:
    begin = uncached(models.theirs)
    kept: list[Tensor] = []

    def keeping(token_ids: Tensor) -> decoding.Step:
        kept.append(begin(token_ids)())
        return lambda: kept[0]

    with pytest.raises(WrongKernelError, match="not finite"):
        verified(models, keeping, ids, "float32")


def test_a_step_that_turns_wrong_is_found(models: Models, ids: Tensor) -> None:
    spoilt: list[float] = []
    begin = cached(models.ours, 2)

    def spoiling(token_ids: Tensor) -> decoding.Step:
        step = begin(token_ids)
        return lambda: step().add_(sum(spoilt))

    ready = verified(models, spoiling, ids, "float32")
    spoilt.append(math.pi)
    assert ready.check is not None
    with pytest.raises(WrongKernelError, match="times the yardstick's"):
        ready.check()


def logits_made(run: Callable[[], object], models: Models, recorded: Callable[[], Any]) -> int:
    with recorded() as operations:
        run()
    made = [shape for name, shape in operations.ran if name != "t"]  # a view of the table
    return max(math.prod(shape) for shape in made if shape[-1:] == (models.vocab_size,))


def test_huggingfaces_step_makes_the_logits_that_its_generate_makes(
    models: Models, ids: Tensor, recorded: Callable[[], Any]
) -> None:
    """The last token's only, if its version can select them; else all."""
    generate = functools.partial(continue_text, models.theirs, ids, max_new_tokens=1)
    asked = logits_made(uncached(models.theirs)(ids), models, recorded)
    generated = logits_made(generate, models, recorded)
    positions = 1 if compat.last_logits_keyword() else ids.shape[1]
    assert asked == generated == len(ids) * positions * models.vocab_size


def test_a_step_copies_no_cache(models: Models, ids: Tensor) -> None:
    """It allocates less than one block's keys, whose capacity is 300 tokens."""
    step = cached(models.ours, 2)(ids)
    step()
    block = KVCache(models.ours.config, batch=2).block(0).key.nbytes
    assert peak_bytes(step, CPU) < block


def test_a_copied_cache_is_measured(models: Models, ids: Tensor) -> None:
    decoder = started(models, ids)

    def step() -> Tensor:
        decoder.cache.keys = decoder.cache.keys.clone()
        decoder.cache.length = ids.shape[1] - 1
        return decoder.step(ids[:, -1])

    assert peak_bytes(step, CPU) >= decoder.cache.block(0).key.nbytes


@pytest.mark.parametrize("name", READS)
def test_a_read_is_not_verified(
    name: str, run: Measurement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "cache_flusher", lambda _device: lambda: None)
    ready = decoding.make(name, TASK, CPU, run)
    ready.run()
    assert (ready.error, ready.check) == (0.0, None)
