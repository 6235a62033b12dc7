"""Faults of generation: faulty functions, which `inject` puts in a right one's place for a context.

Generators really have them.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from parity.checks.generation import texts
from parity.faults.registry import Fault, faults_of
from scratch_gpt.generation import beam_search, sampling
from scratch_gpt.generation.beam_search import Candidate, Hypotheses, Settings
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.kv_cache import KVCache

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationFault(Fault):
    """A fault of generation; `code` returns the faulty function, given the right one.

    `at` is the row of the report that must fail first; `replaces` is a module or class and the name
    of its function.
    """

    replaces: tuple[Any, str]


def instead(function: Function) -> Callable[[Function], Function]:
    """Return a fault: the function takes the right one's place."""
    return lambda _right: function


@GenerationFault.register(
    "newest-key-unseen",
    "a token after the prompt does not attend to itself",
    at="greedy.0.logits",
    replaces=(KVCache, "views"),
)
def _(right: Function) -> Function:
    def views(cache: KVCache, seen: int) -> tuple[Any, Any, Any]:
        places, keys, values = right(cache, seen)
        older = tuple(key[..., :-1] for key in keys), tuple(value[..., :-1, :] for value in values)
        return (places, *older)

    return views


def after_a_step(spoil: Callable[[KVCache, int], None]) -> Callable[[Function], Function]:
    """Return a fault: after each step `spoil(cache, newest)` changes the cache."""

    def faulty(right: Function) -> Function:
        def step(decoder: Decoder, token_ids: Tensor) -> object:
            logits = right(decoder, token_ids)
            spoil(decoder.cache, decoder.cache.length - 1)
            return logits

        return step

    return faulty


@GenerationFault.register(
    "key-overwritten",
    "a token after the prompt is written over the first",
    at="greedy.0.logits",
    replaces=(Decoder, "step"),
)
@after_a_step
def _(cache: KVCache, newest: int) -> None:
    cache.keys[..., 0, :] = cache.keys[..., newest, :]


@GenerationFault.register(
    "value-of-the-last",
    "a token after the prompt keeps the value of the one before",
    at="greedy.0.logits",
    replaces=(Decoder, "step"),
)
@after_a_step
def _(cache: KVCache, newest: int) -> None:
    cache.values[..., newest, :] = cache.values[..., newest - 1, :]


@GenerationFault.register(
    "cache-in-half", "keys are kept in bfloat16", at="greedy.0.logits", replaces=(Decoder, "step")
)
@after_a_step
def _(cache: KVCache, newest: int) -> None:
    cache.keys[..., newest, :] = cache.keys[..., newest, :].bfloat16().to(cache.keys.dtype)


@GenerationFault.register(
    "positions-stuck",
    "a token after the prompt has the position of the one before",
    at="greedy.0.logits",
    replaces=(Decoder, "step"),
)
@instead
def _(decoder: Decoder, token_ids: Tensor) -> Tensor:
    positions = torch.full((1, 1), decoder.cache.length - 1)
    with torch.no_grad():
        hidden = decoder.model.hidden(token_ids[:, None], positions, cache=decoder.cache)
        return (hidden @ decoder.model.tokens_embed.weight.T)[:, 0]


@GenerationFault.register(
    "cache-stale",
    "a token of the last prompt is still there when the next one comes",
    at="greedy.1.logits",
    replaces=(KVCache, "clear"),
)
@instead
def _(cache: KVCache) -> None:
    cache.length = min(cache.length, 1)


@GenerationFault.register(
    "beams-not-reordered",
    "the cache stays where it was when beams change places",
    at="beams.plain.texts",
    replaces=(KVCache, "reorder"),
)
@instead
def _(_cache: KVCache, _rows: Tensor) -> None:
    pass


@GenerationFault.register(
    "values-not-reordered",
    "only the keys follow when beams change places",
    at="beams.plain.texts",
    replaces=(KVCache, "reorder"),
)
@instead
def _(cache: KVCache, rows: Tensor) -> None:
    cache.keys.copy_(cache.keys[:, rows].clone())


@GenerationFault.register(
    "penalty-divides",
    "the repetition penalty divides logits below 0 too, and so rewards",
    at="rules.repetition_penalty",
    replaces=(sampling, "penalize_repetition"),
)
@instead
def _(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    return logits.scatter(-1, token_ids, logits.gather(-1, token_ids) / penalty)


@GenerationFault.register(
    "penalty-for-each",
    "the repetition penalty counts how often a token is there",
    at="rules.repetition_penalty",
    replaces=(sampling, "penalize_repetition"),
)
def _(right: Function) -> Function:
    def penalized(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
        for column in token_ids.T:
            logits = right(logits, column[:, None], penalty)
        return logits

    return penalized


@GenerationFault.register(
    "n-gram-longer",
    "n-grams of one token more are excluded",
    at="rules.no_repeat_1_gram",
    replaces=(sampling, "forbid_repeated_ngrams"),
)
def _(right: Function) -> Function:
    return lambda logits, token_ids, size: right(logits, token_ids, size + 1)


@GenerationFault.register(
    "n-gram-misses-the-last",
    "the last n-gram of the text is not looked at",
    at="rules.no_repeat_1_gram",
    replaces=(sampling, "forbid_repeated_ngrams"),
)
@instead
def _(logits: Tensor, token_ids: Tensor, size: int) -> Tensor:
    result = logits.clone()
    for row, ids in enumerate(token_ids.tolist()):
        ending = ids[len(ids) + 1 - size :]
        for at in range(len(ids) - size):
            if ids[at : at + size - 1] == ending:
                result[row, ids[at + size - 1]] = -math.inf
    return result


@GenerationFault.register(
    "temperature-twice",
    "the temperature is applied twice",
    at="rules.temperature_low",
    replaces=(sampling, "apply_temperature"),
)
def _(right: Function) -> Function:
    return lambda logits, temperature: right(right(logits, temperature), temperature)


@GenerationFault.register(
    "temperature-multiplies",
    "the temperature multiplies",
    at="rules.temperature_low",
    replaces=(sampling, "apply_temperature"),
)
@instead
def _(logits: Tensor, temperature: float) -> Tensor:
    return logits * temperature


@GenerationFault.register(
    "top-k-one-more",
    "one token more is left",
    at="rules.top_k_1",
    replaces=(sampling, "keep_top_k"),
)
def _(right: Function) -> Function:
    return lambda logits, k: right(logits, min(k + 1, logits.shape[-1]))


@GenerationFault.register(
    "top-k-cuts-ties",
    "of equal logits at the end only some are left",
    at="rules.top_k_tied",
    replaces=(sampling, "keep_top_k"),
)
@instead
def _(logits: Tensor, k: int) -> Tensor:
    kept = logits.topk(k).indices
    return torch.full_like(logits, -math.inf).scatter(-1, kept, logits.gather(-1, kept))


@GenerationFault.register(
    "top-p-stops-short",
    "the token that crosses is excluded",
    at="rules.top_p",
    replaces=(sampling, "keep_top_p"),
)
@instead
def _(logits: Tensor, p: float) -> Tensor:
    descending, ids = logits.sort(descending=True, stable=True)
    removed = descending.softmax(-1).cumsum(-1) > p
    removed[:, 0] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(-1, ids, removed), -math.inf)


@GenerationFault.register(
    "second-likeliest",
    "the second-likeliest token is taken",
    at="greedy.0.ids",
    replaces=(texts, "choose"),
)
def _(right: Function) -> Function:
    def choose(logits: Tensor, rules: Rules, draws: object = None) -> object:
        return right(logits, rules, draws) if rules.sampled else logits.topk(2).indices[:, 1]

    return choose


@GenerationFault.register(
    "not-drawn",
    "the likeliest token is taken where one is to be drawn",
    at="sampled.0.ids",
    replaces=(texts, "choose"),
)
@instead
def _(logits: Tensor, _rules: Rules, _draws: object = None) -> Tensor:
    return logits.argmax(-1)


@GenerationFault.register(
    "beams-all-alike",
    "a search begins with the prompt in every beam",
    at="beams.plain.texts",
    replaces=(Hypotheses, "__init__"),
)
def _(right: Function) -> Function:
    def begin(prompt: Hypotheses, settings: Settings) -> None:
        right(prompt, settings)
        prompt.running = [Candidate(0.0, beam, 0) for beam in range(settings.beams)]

    return begin


def with_settings(changed: Callable[[Settings], dict[str, Any]]) -> Callable[[Function], Function]:
    """Return a fault: a search with other settings than it is given."""

    def faulty(right: Function) -> Function:
        def search(decoder: object, token_ids: Tensor, settings: Settings, *rest: object) -> object:
            other = dataclasses.replace(settings, **changed(settings))
            return right(decoder, token_ids, other, *rest)

        return search

    return faulty


@GenerationFault.register(
    "beams-of-logits",
    "beams add up logits, not log-probabilities",
    at="beams.plain.texts",
    replaces=(beam_search, "log_softmax"),
)
@instead
def _(logits: Tensor) -> Tensor:
    return logits


GenerationFault.register(
    "length-penalty-reversed",
    "the length penalty has the wrong sign",
    at="beams.plain.scores",
    replaces=(beam_search, "search"),
)(with_settings(lambda s: {"length_penalty": -s.length_penalty}))


GenerationFault.register(
    "length-penalty-missing",
    "the score is the mere sum",
    at="beams.plain.scores",
    replaces=(beam_search, "search"),
)(with_settings(lambda _: {"length_penalty": 0.0}))


GenerationFault.register(
    "end-ignored", "no token ends a text", at="beams.ends.texts", replaces=(beam_search, "search")
)(with_settings(lambda _: {"end_id": None}))


GenerationFault.register(
    "stops-too-soon",
    "a prompt is done with its first finished texts, whatever still runs",
    at="beams.ends.texts",
    replaces=(beam_search, "search"),
)(with_settings(lambda _: {"early_stopping": True}))


GENERATION_FAULTS = faults_of(GenerationFault)
"""Every fault of generation by name."""


@contextlib.contextmanager
def inject(name: str | None) -> Iterator[None]:
    """Exchange the function of a fault for the faulty one within the context; None does nothing."""
    if name is None:
        yield
        return
    owner, function = GENERATION_FAULTS[name].replaces
    right = getattr(owner, function)
    setattr(owner, function, GENERATION_FAULTS[name].code(right))
    try:
        yield
    finally:
        setattr(owner, function, right)
