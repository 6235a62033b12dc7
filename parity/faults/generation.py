"""How each fault of a generator is planted: of the right function, the faulty one."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from parity.checks.generation import continuations
from scratch_gpt.generation import beam_search, sampling
from scratch_gpt.generation.beam_search import Candidate, Hypotheses, Settings
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.kv_cache import KVCache

Function = Callable[..., Any]


def newest_unseen(right: Function) -> Function:
    """Return what a step attends to without the newest key and value."""

    def views(cache: KVCache, seen: int) -> tuple[Any, Any, Any]:
        places, keys, values = right(cache, seen)
        older = tuple(key[..., :-1] for key in keys), tuple(value[..., :-1, :] for value in values)
        return (places, *older)

    return views


def after_a_step(spoil: Callable[[KVCache, int], None]) -> Callable[[Function], Function]:
    """Return what plants a step that spoils the cache when it is done, given the newest place."""

    def planted(right: Function) -> Function:
        def step(decoder: Decoder, token_ids: Tensor) -> object:
            logits = right(decoder, token_ids)
            spoil(decoder.cache, decoder.cache.length - 1)
            return logits

        return step

    return planted


def first_overwritten(cache: KVCache, newest: int) -> None:
    """Write the newest key where the first one is, too."""
    cache.keys[..., 0, :] = cache.keys[..., newest, :]


def value_before(cache: KVCache, newest: int) -> None:
    """Keep, for a new token, the value of the one before it."""
    cache.values[..., newest, :] = cache.values[..., newest - 1, :]


def in_half(cache: KVCache, newest: int) -> None:
    """Round the newest key to bfloat16."""
    cache.keys[..., newest, :] = cache.keys[..., newest, :].bfloat16().to(cache.keys.dtype)


def positions_stuck(_right: Function) -> Function:
    """Give each new token the position of the one before."""

    def step(decoder: Decoder, token_ids: Tensor) -> Tensor:
        positions = torch.full((1, 1), decoder.cache.length - 1)
        with torch.no_grad():
            hidden = decoder.model.hidden(token_ids[:, None], positions, cache=decoder.cache)
            return (hidden @ decoder.model.tokens_embed.weight.T)[:, 0]

    return step


def one_left(_right: Function) -> Function:
    """Leave one token where all should go."""

    def clear(cache: KVCache) -> None:
        cache.length = min(cache.length, 1)

    return clear


def not_reordered(_right: Function) -> Function:
    """Leave every row where it is."""
    return lambda _cache, _rows: None


def keys_reordered(_right: Function) -> Function:
    """Let the keys follow, and the values not."""

    def reorder(cache: KVCache, rows: Tensor) -> None:
        cache.keys.copy_(cache.keys[:, rows].clone())

    return reorder


def penalty_divides(_right: Function) -> Function:
    """Divide whatever the sign."""

    def penalised(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
        return logits.scatter(-1, token_ids, logits.gather(-1, token_ids) / penalty)

    return penalised


def penalty_for_each(right: Function) -> Function:
    """Apply the penalty once for each time that a token is there."""

    def penalised(logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
        for column in token_ids.T:
            logits = right(logits, column[:, None], penalty)
        return logits

    return penalised


def n_gram_longer(right: Function) -> Function:
    """Look for n-grams of one token more."""
    return lambda logits, token_ids, size: right(logits, token_ids, size + 1)


def n_gram_without_last(_right: Function) -> Function:
    """Look at all windows but the last, as if the newest token were no part of the text."""

    def without_repeats(logits: Tensor, token_ids: Tensor, size: int) -> Tensor:
        result = logits.clone()
        for row, ids in enumerate(token_ids.tolist()):
            ending = ids[len(ids) + 1 - size :]
            for at in range(len(ids) - size):
                if ids[at : at + size - 1] == ending:
                    result[row, ids[at + size - 1]] = -math.inf
        return result

    return without_repeats


def temperature_twice(right: Function) -> Function:
    """Divide, and divide again."""
    return lambda logits, temperature: right(right(logits, temperature), temperature)


def multiplied(_right: Function) -> Function:
    """Multiply by what divides."""
    return lambda logits, temperature: logits * temperature


def one_more(right: Function) -> Function:
    """Keep one token more."""
    return lambda logits, k: right(logits, min(k + 1, logits.shape[-1]))


def ties_cut(_right: Function) -> Function:
    """Keep exactly `k`, whichever of those that are equal."""

    def only_top_k(logits: Tensor, k: int) -> Tensor:
        kept = logits.topk(k).indices
        return torch.full_like(logits, -math.inf).scatter(-1, kept, logits.gather(-1, kept))

    return only_top_k


def crossing_excluded(_right: Function) -> Function:
    """Keep only tokens whose sum, from the likeliest down, does not exceed `p`; one at least."""

    def only_top_p(logits: Tensor, p: float) -> Tensor:
        descending, ids = logits.sort(descending=True, stable=True)
        removed = descending.softmax(-1).cumsum(-1) > p
        removed[:, 0] = False
        return logits.masked_fill(torch.zeros_like(removed).scatter(-1, ids, removed), -math.inf)

    return only_top_p


def second_likeliest(right: Function) -> Function:
    """Take the second-likeliest token where none is drawn."""

    def choose(logits: Tensor, rules: Rules, draws: object = None) -> object:
        return right(logits, rules, draws) if rules.sampled else logits.topk(2).indices[:, 1]

    return choose


def not_drawn(_right: Function) -> Function:
    """Take the likeliest token, whatever was drawn."""
    return lambda logits, _rules, _draws=None: logits.argmax(-1)


def all_alive(right: Function) -> Function:
    """Begin with as many copies of the prompt as there are beams."""

    def begin(prompt: Hypotheses, settings: Settings) -> None:
        right(prompt, settings)
        prompt.running = [Candidate(0.0, beam, 0) for beam in range(settings.beams)]

    return begin


def with_settings(changed: Callable[[Settings], dict[str, Any]]) -> Callable[[Function], Function]:
    """Return what plants a search that takes other settings than it is given."""

    def planted(right: Function) -> Function:
        def search(decoder: object, token_ids: Tensor, settings: Settings, *rest: object) -> object:
            other = dataclasses.replace(settings, **changed(settings))
            return right(decoder, token_ids, other, *rest)

        return search

    return planted


def unchanged(_right: Function) -> Function:
    """Return logits as they are."""
    return lambda logits: logits


# Faults that generators really have, planted into ours from outside, one function at a time.
#
# A row names a fault, the function that has it, and the row of a report at which it must be seen
# first. What a faulty function is like stands in `parity.faults.generation`.


@dataclasses.dataclass(frozen=True)
class GenerationFault:
    """One fault.

    Attributes:
        what: What is wrong, in words.
        owner: The module or class whose function is exchanged.
        name: That function.
        faulty: Of the right function, the faulty one.
        row: The comparison at which it is seen first.
    """

    what: str
    owner: Any
    name: str
    faulty: Callable[[Callable[..., Any]], Callable[..., Any]]
    row: str


@contextlib.contextmanager
def inject(name: str | None) -> Iterator[None]:
    """Exchange a function for its faulty twin as long as this lasts; None plants nothing."""
    if name is None:
        yield
        return
    fault = GENERATION_FAULTS[name]
    right = getattr(fault.owner, fault.name)
    setattr(fault.owner, fault.name, fault.faulty(right))
    try:
        yield
    finally:
        setattr(fault.owner, fault.name, right)


GENERATION_FAULTS: dict[str, GenerationFault] = {
    "newest-key-unseen": GenerationFault(
        "a token after the prompt does not attend to itself",
        KVCache,
        "views",
        newest_unseen,
        "greedy.0.logits",
    ),
    "key-overwritten": GenerationFault(
        "a token after the prompt is written over the first",
        Decoder,
        "step",
        after_a_step(first_overwritten),
        "greedy.0.logits",
    ),
    "value-of-the-last": GenerationFault(
        "a token after the prompt keeps the value of the one before",
        Decoder,
        "step",
        after_a_step(value_before),
        "greedy.0.logits",
    ),
    "cache-in-half": GenerationFault(
        "keys are kept in bfloat16",
        Decoder,
        "step",
        after_a_step(in_half),
        "greedy.0.logits",
    ),
    "positions-stuck": GenerationFault(
        "a token after the prompt has the position of the one before",
        Decoder,
        "step",
        positions_stuck,
        "greedy.0.logits",
    ),
    "cache-stale": GenerationFault(
        "a token of the last prompt is still there when the next one comes",
        KVCache,
        "clear",
        one_left,
        "greedy.1.logits",
    ),
    "beams-not-reordered": GenerationFault(
        "the cache stays where it was when beams change places",
        KVCache,
        "reorder",
        not_reordered,
        "beams.plain.texts",
    ),
    "values-not-reordered": GenerationFault(
        "only the keys follow when beams change places",
        KVCache,
        "reorder",
        keys_reordered,
        "beams.plain.texts",
    ),
    "penalty-divides": GenerationFault(
        "the repetition penalty divides logits below 0 too, and so rewards",
        sampling,
        "penalize_repetition",
        penalty_divides,
        "rules.repetition_penalty",
    ),
    "penalty-for-each": GenerationFault(
        "the repetition penalty counts how often a token is there",
        sampling,
        "penalize_repetition",
        penalty_for_each,
        "rules.repetition_penalty",
    ),
    "n-gram-longer": GenerationFault(
        "n-grams of one token more are excluded",
        sampling,
        "forbid_repeated_ngrams",
        n_gram_longer,
        "rules.no_repeat_1_gram",
    ),
    "n-gram-misses-the-last": GenerationFault(
        "the last n-gram of the text is not looked at",
        sampling,
        "forbid_repeated_ngrams",
        n_gram_without_last,
        "rules.no_repeat_1_gram",
    ),
    "temperature-twice": GenerationFault(
        "the temperature is applied twice",
        sampling,
        "apply_temperature",
        temperature_twice,
        "rules.temperature_low",
    ),
    "temperature-multiplies": GenerationFault(
        "the temperature multiplies",
        sampling,
        "apply_temperature",
        multiplied,
        "rules.temperature_low",
    ),
    "top-k-one-more": GenerationFault(
        "one token more is left", sampling, "keep_top_k", one_more, "rules.top_k_1"
    ),
    "top-k-cuts-ties": GenerationFault(
        "of equal logits at the end only some are left",
        sampling,
        "keep_top_k",
        ties_cut,
        "rules.top_k_tied",
    ),
    "top-p-stops-short": GenerationFault(
        "the token that crosses is excluded",
        sampling,
        "keep_top_p",
        crossing_excluded,
        "rules.top_p",
    ),
    "second-likeliest": GenerationFault(
        "the second-likeliest token is taken",
        continuations,
        "choose",
        second_likeliest,
        "greedy.0.ids",
    ),
    "not-drawn": GenerationFault(
        "the likeliest token is taken where one is to be drawn",
        continuations,
        "choose",
        not_drawn,
        "sampled.0.ids",
    ),
    "beams-all-alike": GenerationFault(
        "a search begins with the prompt in every beam",
        Hypotheses,
        "__init__",
        all_alive,
        "beams.plain.texts",
    ),
    "length-penalty-reversed": GenerationFault(
        "the length penalty has the wrong sign",
        beam_search,
        "search",
        with_settings(lambda s: {"length_penalty": -s.length_penalty}),
        "beams.plain.scores",
    ),
    "length-penalty-missing": GenerationFault(
        "the score is the mere sum",
        beam_search,
        "search",
        with_settings(lambda _: {"length_penalty": 0.0}),
        "beams.plain.scores",
    ),
    "end-ignored": GenerationFault(
        "no token ends a text",
        beam_search,
        "search",
        with_settings(lambda _: {"end_id": None}),
        "beams.ends.texts",
    ),
    "beams-of-logits": GenerationFault(
        "beams add up logits, not log-probabilities",
        beam_search,
        "log_softmax",
        unchanged,
        "beams.plain.texts",
    ),
    "stops-too-soon": GenerationFault(
        "a prompt is done with its first finished texts, whatever still runs",
        beam_search,
        "search",
        with_settings(lambda _: {"early_stopping": True}),
        "beams.ends.texts",
    ),
}
"""Every fault by name."""
