"""How each fault of a generator is planted: of the right function, the faulty one."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scratch_gpt.generation.cache import Cache
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.hypotheses import Candidate, Hypotheses, Settings
from scratch_gpt.sampling import Rules

Function = Callable[..., Any]


def newest_unseen(right: Function) -> Function:
    """Return what a step attends to without the newest key and value."""

    def views(cache: Cache, seen: int) -> tuple[Any, Any, Any]:
        places, keys, values = right(cache, seen)
        older = tuple(key[..., :-1] for key in keys), tuple(value[..., :-1, :] for value in values)
        return (places, *older)

    return views


def after_a_step(spoil: Callable[[Cache, int], None]) -> Callable[[Function], Function]:
    """Return what plants a step that spoils the cache when it is done, given the newest place."""

    def planted(right: Function) -> Function:
        def step(decoder: Decoder, token_ids: Tensor) -> object:
            logits = right(decoder, token_ids)
            spoil(decoder.cache, decoder.cache.length - 1)
            return logits

        return step

    return planted


def first_overwritten(cache: Cache, newest: int) -> None:
    """Write the newest key where the first one is, too."""
    cache.keys[..., 0, :] = cache.keys[..., newest, :]


def value_before(cache: Cache, newest: int) -> None:
    """Keep, for a new token, the value of the one before it."""
    cache.values[..., newest, :] = cache.values[..., newest - 1, :]


def in_half(cache: Cache, newest: int) -> None:
    """Round the newest key to bfloat16."""
    cache.keys[..., newest, :] = cache.keys[..., newest, :].bfloat16().to(cache.keys.dtype)


def positions_stuck(_right: Function) -> Function:
    """Give each new token the position of the one before."""

    def step(decoder: Decoder, token_ids: Tensor) -> Tensor:
        positions = torch.full((1, 1), decoder.cache.length - 1)
        with torch.no_grad():
            hidden = decoder.model.hidden(token_ids[:, None], positions, cache=decoder.cache)
            return decoder.model.path.head(hidden, decoder.model.tokens_embed.weight)[:, 0]

    return step


def one_left(_right: Function) -> Function:
    """Leave one token where all should go."""

    def clear(cache: Cache) -> None:
        cache.length = min(cache.length, 1)

    return clear


def not_reordered(_right: Function) -> Function:
    """Leave every row where it is."""
    return lambda _cache, _rows: None


def keys_reordered(_right: Function) -> Function:
    """Let the keys follow, and the values not."""

    def reorder(cache: Cache, rows: Tensor) -> None:
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
