"""Faults of generation: of one right function, a faulty one that takes its place.

Generators really have them. `inject` exchanges the function of a module or class for as long as a
context lasts.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from parity.checks.generation import texts
from parity.faults.registry import Fault, fault, faults_of
from scratch_gpt.generation import beam_search, sampling
from scratch_gpt.generation.beam_search import Candidate, Hypotheses, Settings
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.kv_cache import KVCache

Function = Callable[..., Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationFault(Fault):
    """A fault of generation; `code` returns the faulty function, given the right one.

    `at` is the row of the report that must fail first.

    Attributes:
        owner: The module or class that has the function.
        function: Its name.
    """

    owner: Any
    function: str


@fault(
    "newest-key-unseen",
    "a token after the prompt does not attend to itself",
    at="greedy.0.logits",
    cause="attention over cache[:length] before the new key is counted",
    kind=GenerationFault,
    owner=KVCache,
    function="views",
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


@fault(
    "key-overwritten",
    "a token after the prompt is written over the first",
    at="greedy.0.logits",
    cause="a write index that is not advanced, or wraps round",
    kind=GenerationFault,
    owner=Decoder,
    function="step",
)
@after_a_step
def _(cache: KVCache, newest: int) -> None:
    cache.keys[..., 0, :] = cache.keys[..., newest, :]


@fault(
    "value-of-the-last",
    "a token after the prompt keeps the value of the one before",
    at="greedy.0.logits",
    cause="values written one step late",
    kind=GenerationFault,
    owner=Decoder,
    function="step",
)
@after_a_step
def _(cache: KVCache, newest: int) -> None:
    cache.values[..., newest, :] = cache.values[..., newest - 1, :]


@fault(
    "cache-in-half",
    "keys are kept in bfloat16",
    at="greedy.0.logits",
    cause="a cache allocated in another dtype than the model's",
    kind=GenerationFault,
    owner=Decoder,
    function="step",
)
@after_a_step
def _(cache: KVCache, newest: int) -> None:
    cache.keys[..., newest, :] = cache.keys[..., newest, :].bfloat16().to(cache.keys.dtype)


@fault(
    "positions-stuck",
    "a token after the prompt has the position of the one before",
    at="greedy.0.logits",
    cause="position = length - 1 for the new token's position",
    kind=GenerationFault,
    owner=Decoder,
    function="step",
)
def _(_right: Function) -> Function:

    def step(decoder: Decoder, token_ids: Tensor) -> Tensor:
        positions = torch.full((1, 1), decoder.cache.length - 1)
        with torch.no_grad():
            hidden = decoder.model.hidden(token_ids[:, None], positions, cache=decoder.cache)
            return (hidden @ decoder.model.tokens_embed.weight.T)[:, 0]

    return step


@fault(
    "cache-stale",
    "a token of the last prompt is still there when the next one comes",
    at="greedy.1.logits",
    cause="the cache's length not reset to 0 between prompts",
    kind=GenerationFault,
    owner=KVCache,
    function="clear",
)
def _(_right: Function) -> Function:

    def clear(cache: KVCache) -> None:
        cache.length = min(cache.length, 1)

    return clear


@fault(
    "beams-not-reordered",
    "the cache stays where it was when beams change places",
    at="beams.plain.texts",
    cause="no index_select of the cache by the beams' parents",
    kind=GenerationFault,
    owner=KVCache,
    function="reorder",
)
def _(_right: Function) -> Function:
    return lambda _cache, _rows: None


@fault(
    "values-not-reordered",
    "only the keys follow when beams change places",
    at="beams.plain.texts",
    cause="index_select of the keys alone",
    kind=GenerationFault,
    owner=KVCache,
    function="reorder",
)
def _(_right: Function) -> Function:

    def reorder(cache: KVCache, rows: Tensor) -> None:
        cache.keys.copy_(cache.keys[:, rows].clone())

    return reorder


@fault(
    "penalty-divides",
    "the repetition penalty divides logits below 0 too, and so rewards",
    at="rules.repetition_penalty",
    cause="logits / penalty whatever their sign",
    kind=GenerationFault,
    owner=sampling,
    function="penalize_repetition",
)
def _(_right: Function) -> Function:

    def penalised(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
        return logits.scatter(-1, token_ids, logits.gather(-1, token_ids) / penalty)

    return penalised


@fault(
    "penalty-for-each",
    "the repetition penalty counts how often a token is there",
    at="rules.repetition_penalty",
    cause="the penalty applied in a loop over all tokens, not over a set",
    kind=GenerationFault,
    owner=sampling,
    function="penalize_repetition",
)
def _(right: Function) -> Function:

    def penalised(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
        for column in token_ids.T:
            logits = right(logits, column[:, None], penalty)
        return logits

    return penalised


@fault(
    "n-gram-longer",
    "n-grams of one token more are excluded",
    at="rules.no_repeat_1_gram",
    cause="ngrams of size + 1",
    kind=GenerationFault,
    owner=sampling,
    function="forbid_repeated_ngrams",
)
def _(right: Function) -> Function:
    return lambda logits, token_ids, size: right(logits, token_ids, size + 1)


@fault(
    "n-gram-misses-the-last",
    "the last n-gram of the text is not looked at",
    at="rules.no_repeat_1_gram",
    cause="range(len(ids) - size) for range(len(ids) - size + 1)",
    kind=GenerationFault,
    owner=sampling,
    function="forbid_repeated_ngrams",
)
def _(_right: Function) -> Function:

    def without_repeats(logits: Tensor, token_ids: Tensor, size: int) -> Tensor:
        result = logits.clone()
        for row, ids in enumerate(token_ids.tolist()):
            ending = ids[len(ids) + 1 - size :]
            for at in range(len(ids) - size):
                if ids[at : at + size - 1] == ending:
                    result[row, ids[at + size - 1]] = -math.inf
        return result

    return without_repeats


@fault(
    "temperature-twice",
    "the temperature is applied twice",
    at="rules.temperature_low",
    cause="the temperature applied by the model and by the sampler",
    kind=GenerationFault,
    owner=sampling,
    function="apply_temperature",
)
def _(right: Function) -> Function:
    return lambda logits, temperature: right(right(logits, temperature), temperature)


@fault(
    "temperature-multiplies",
    "the temperature multiplies",
    at="rules.temperature_low",
    cause="logits * temperature",
    kind=GenerationFault,
    owner=sampling,
    function="apply_temperature",
)
def _(_right: Function) -> Function:
    return lambda logits, temperature: logits * temperature


@fault(
    "top-k-one-more",
    "one token more is left",
    at="rules.top_k_1",
    cause="sorted logits compared with the entry at k, not k - 1",
    kind=GenerationFault,
    owner=sampling,
    function="keep_top_k",
)
def _(right: Function) -> Function:
    return lambda logits, k: right(logits, min(k + 1, logits.shape[-1]))


@fault(
    "top-k-cuts-ties",
    "of equal logits at the end only some are left",
    at="rules.top_k_tied",
    cause="a scatter of topk's indices for a comparison with the k-th logit",
    kind=GenerationFault,
    owner=sampling,
    function="keep_top_k",
)
def _(_right: Function) -> Function:

    def only_top_k(logits: Tensor, k: int) -> Tensor:
        kept = logits.topk(k).indices
        return torch.full_like(logits, -math.inf).scatter(-1, kept, logits.gather(-1, kept))

    return only_top_k


@fault(
    "top-p-stops-short",
    "the token that crosses is excluded",
    at="rules.top_p",
    cause="cumsum > p without shifting by one",
    kind=GenerationFault,
    owner=sampling,
    function="keep_top_p",
)
def _(_right: Function) -> Function:

    def only_top_p(logits: Tensor, p: float) -> Tensor:
        descending, ids = logits.sort(descending=True, stable=True)
        removed = descending.softmax(-1).cumsum(-1) > p
        removed[:, 0] = False
        return logits.masked_fill(torch.zeros_like(removed).scatter(-1, ids, removed), -math.inf)

    return only_top_p


@fault(
    "second-likeliest",
    "the second-likeliest token is taken",
    at="greedy.0.ids",
    cause="an index off by one in the sorted logits",
    kind=GenerationFault,
    owner=texts,
    function="choose",
)
def _(right: Function) -> Function:

    def choose(logits: Tensor, rules: Rules, draws: object = None) -> object:
        return right(logits, rules, draws) if rules.sampled else logits.topk(2).indices[:, 1]

    return choose


@fault(
    "not-drawn",
    "the likeliest token is taken where one is to be drawn",
    at="sampled.0.ids",
    cause="do_sample ignored",
    kind=GenerationFault,
    owner=texts,
    function="choose",
)
def _(_right: Function) -> Function:
    return lambda logits, _rules, _draws=None: logits.argmax(-1)


@fault(
    "beams-all-alike",
    "a search begins with the prompt in every beam",
    at="beams.plain.texts",
    cause="beams that begin equal, without -inf for all but the first",
    kind=GenerationFault,
    owner=Hypotheses,
    function="__init__",
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


@fault(
    "beams-of-logits",
    "beams add up logits, not log-probabilities",
    at="beams.plain.texts",
    cause="log_softmax left out before scores are added",
    kind=GenerationFault,
    owner=beam_search,
    function="log_softmax",
)
def _(_right: Function) -> Function:
    return lambda logits: logits


fault(
    "length-penalty-reversed",
    "the length penalty has the wrong sign",
    at="beams.plain.scores",
    cause="score * length ** penalty for score / length ** penalty",
    kind=GenerationFault,
    owner=beam_search,
    function="search",
)(with_settings(lambda s: {"length_penalty": -s.length_penalty}))


fault(
    "length-penalty-missing",
    "the score is the mere sum",
    at="beams.plain.scores",
    cause="length_penalty not passed on",
    kind=GenerationFault,
    owner=beam_search,
    function="search",
)(with_settings(lambda _: {"length_penalty": 0.0}))


fault(
    "end-ignored",
    "no token ends a text",
    at="beams.ends.texts",
    cause="eos_token_id not passed on",
    kind=GenerationFault,
    owner=beam_search,
    function="search",
)(with_settings(lambda _: {"end_id": None}))


fault(
    "stops-too-soon",
    "a prompt is done with its first finished texts, whatever still runs",
    at="beams.ends.texts",
    cause="early_stopping=True for False",
    kind=GenerationFault,
    owner=beam_search,
    function="search",
)(with_settings(lambda _: {"early_stopping": True}))


GENERATION_FAULTS = faults_of(GenerationFault)
"""Every fault of generation by name."""


@contextlib.contextmanager
def inject(name: str | None) -> Iterator[None]:
    """Exchange the function of a fault for the faulty one within the context; None does nothing."""
    if name is None:
        yield
        return
    chosen = GENERATION_FAULTS[name]
    right = getattr(chosen.owner, chosen.function)
    setattr(chosen.owner, chosen.function, chosen.code(right))
    try:
        yield
    finally:
        setattr(chosen.owner, chosen.function, right)
