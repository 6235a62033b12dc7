"""Faults of generation: each replaces a function of `scratch_gpt` while a check runs.

Generators really have them.
"""

import contextlib
import copy
import dataclasses
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from parity.faults.registry import faults_of
from parity.faults.replacing import Function, ReplacingFault
from scratch_gpt import model as model_module
from scratch_gpt.generation import beam_search, generate, sampling
from scratch_gpt.generation.beam_search import Candidate, Hypotheses, Settings
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.generate import Request, _Texts
from scratch_gpt.generation.sampling import Draws, Rules
from scratch_gpt.generation.text_stream import Spelling, Stops
from scratch_gpt.kv_cache import BlockCache, KVCache
from scratch_gpt.model import GPT


class GenerationFault(ReplacingFault):
    """A fault of generation; `at` is the row of the report that must fail first."""


fault = GenerationFault.register


@fault(at="greedy.0.logits", replaces=(KVCache, "views"))
def newest_key_unseen(right: Function, cache: KVCache, seen: int) -> tuple[Any, ...]:
    """A token after the prompt does not attend to itself."""
    places, keys, values = right(cache, seen)
    older = tuple(key[..., :-1] for key in keys), tuple(value[..., :-1, :] for value in values)
    return (places, *older)


@fault(at="greedy.0.logits", replaces=(Decoder, "step"))
def key_overwritten(right: Function, decoder: Decoder, token_ids: Tensor) -> Any:
    """A token after the prompt is written over the first."""
    logits, keys = right(decoder, token_ids), decoder.cache.keys
    keys[..., 0, :] = keys[..., decoder.cache.length - 1, :]
    return logits


@fault(at="greedy.0.logits", replaces=(Decoder, "step"))
def value_of_the_last(right: Function, decoder: Decoder, token_ids: Tensor) -> Any:
    """A token after the prompt keeps the value of the one before."""
    logits, values = right(decoder, token_ids), decoder.cache.values
    newest = decoder.cache.length - 1
    values[..., newest, :] = values[..., newest - 1, :]
    return logits


@fault(at="greedy.0.logits", replaces=(Decoder, "step"))
def cache_in_half(right: Function, decoder: Decoder, token_ids: Tensor) -> Any:
    """Keys are kept in bfloat16."""
    logits, keys = right(decoder, token_ids), decoder.cache.keys
    newest = decoder.cache.length - 1
    keys[..., newest, :] = keys[..., newest, :].bfloat16().to(keys.dtype)
    return logits


@fault(at="greedy.0.logits", replaces=(Decoder, "step"))
def positions_stuck(_right: Function, decoder: Decoder, token_ids: Tensor) -> Tensor:
    """A token after the prompt has the position of the one before."""
    positions = torch.full((1, 1), decoder.cache.length - 1)
    with torch.no_grad():
        hidden = decoder.model.hidden(token_ids[:, None], positions, cache=decoder.cache)
        return (hidden @ decoder.model.tokens_embed.weight.T)[:, 0]


@fault(at="chunks.decoder.logits", replaces=(KVCache, "clear"))
def cache_stale(_right: Function, cache: KVCache) -> None:
    """A token of the last prompt is still there when the next one comes."""
    cache.length = min(cache.length, 1)


@fault(at="beams.plain.texts", replaces=(KVCache, "reorder"))
def beams_not_reordered(_right: Function, _cache: KVCache, _rows: Tensor) -> None:
    """The cache stays where it was when beams change places."""


@fault(at="beams.plain.texts", replaces=(KVCache, "reorder"))
def values_not_reordered(_right: Function, cache: KVCache, rows: Tensor) -> None:
    """Only the keys follow when beams change places."""
    cache.keys.copy_(cache.keys[:, rows].clone())


@fault(at="rules.repetition_penalty", replaces=(sampling, "penalize_repetition"))
def penalty_divides(_right: Function, logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    """The repetition penalty divides logits below 0 too, and so rewards."""
    return logits.scatter(-1, token_ids, logits.gather(-1, token_ids) / penalty)


@fault(at="rules.repetition_penalty", replaces=(sampling, "penalize_repetition"))
def penalty_for_each(right: Function, logits: Tensor, token_ids: Tensor, penalty: float) -> Tensor:
    """The repetition penalty counts how often a token is there."""
    for column in token_ids.T:
        logits = right(logits, column[:, None], penalty)
    return logits


@fault(at="rules.no_repeat_1_gram", replaces=(sampling, "forbid_repeated_ngrams"))
def n_gram_longer(right: Function, logits: Tensor, token_ids: Tensor, size: int) -> Any:
    """N-grams of one token more are excluded."""
    return right(logits, token_ids, size + 1)


@fault(at="rules.no_repeat_1_gram", replaces=(sampling, "forbid_repeated_ngrams"))
def n_gram_misses_the_last(
    _right: Function, logits: Tensor, token_ids: Tensor, size: int
) -> Tensor:
    """The last n-gram of the text is not looked at."""
    result = logits.clone()
    for row, ids in enumerate(token_ids.tolist()):
        ending = ids[len(ids) + 1 - size :]
        for at in range(len(ids) - size):
            if ids[at : at + size - 1] == ending:
                result[row, ids[at + size - 1]] = -math.inf
    return result


@fault(at="rules.temperature_low", replaces=(sampling, "apply_temperature"))
def temperature_twice(right: Function, logits: Tensor, temperature: float) -> Any:
    """The temperature is applied twice."""
    return right(right(logits, temperature), temperature)


@fault(at="rules.temperature_low", replaces=(sampling, "apply_temperature"))
def temperature_multiplies(_right: Function, logits: Tensor, temperature: float) -> Tensor:
    """The temperature multiplies."""
    return logits * temperature


@fault(at="rules.top_k_1", replaces=(sampling, "keep_top_k"))
def top_k_one_more(right: Function, logits: Tensor, k: int) -> Any:
    """One token more is left."""
    return right(logits, min(k + 1, logits.shape[-1]))


@fault(at="rules.top_k_tied", replaces=(sampling, "keep_top_k"))
def top_k_cuts_ties(_right: Function, logits: Tensor, k: int) -> Tensor:
    """Of equal logits at the end only some are left."""
    kept = logits.topk(k).indices
    return torch.full_like(logits, -math.inf).scatter(-1, kept, logits.gather(-1, kept))


@fault(at="rules.top_p", replaces=(sampling, "keep_top_p"))
def top_p_stops_short(_right: Function, logits: Tensor, p: float) -> Tensor:
    """The token that crosses is excluded."""
    descending, ids = logits.sort(descending=True, stable=True)
    removed = descending.softmax(-1).cumsum(-1) > p
    removed[:, 0] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(-1, ids, removed), -math.inf)


@fault(at="greedy.0.ids", replaces=(sampling, "choose"))
def second_likeliest(right: Function, logits: Tensor, rules: Rules, *draws: object) -> Any:
    """The second-likeliest token is taken, unless two are equally likely."""
    if rules.sampled:
        return right(logits, rules, *draws)
    (first, second), (_, chosen) = (part.unbind(-1) for part in logits.topk(2))
    return torch.where(first > second, chosen, right(logits, rules, *draws))


@fault(at="rules.drawn", replaces=(sampling, "choose"))
def not_drawn(_right: Function, logits: Tensor, _rules: Rules, *_draws: object) -> Tensor:
    """The likeliest token is taken where one is to be drawn."""
    return logits.argmax(-1)


@fault(at="beams.choices", replaces=(Hypotheses, "__init__"))
def beams_all_alike(right: Function, prompt: Hypotheses, settings: Settings) -> None:
    """A search begins with the prompt in every beam."""
    right(prompt, settings)
    prompt.running = [Candidate(0.0, beam, 0) for beam in range(settings.beams)]


@fault(at="beams.choices", replaces=(beam_search, "log_softmax"))
def beams_of_logits(_right: Function, logits: Tensor) -> Tensor:
    """Beams add up logits, not log-probabilities."""
    return logits


def _searched(right: Function, given: tuple[Any, ...], **changes: object) -> Any:
    """Return what a search with other settings finds."""
    decoder, token_ids, settings, rules = given
    return right(decoder, token_ids, dataclasses.replace(settings, **changes), rules)


@fault(at="beams.penalties", replaces=(beam_search, "search"))
def length_penalty_reversed(right: Function, *given: Any) -> Any:
    """The length penalty has the wrong sign."""
    return _searched(right, given, length_penalty=-given[2].length_penalty)


@fault(at="beams.penalties", replaces=(beam_search, "search"))
def length_penalty_missing(right: Function, *given: Any) -> Any:
    """The score is the mere sum."""
    return _searched(right, given, length_penalty=0.0)


@fault(at="beams.ends", replaces=(beam_search, "search"))
def end_ignored(right: Function, *given: Any) -> Any:
    """No token ends a text."""
    return _searched(right, given, end_id=None)


@fault(at="beams.stopping", replaces=(beam_search, "search"))
def stops_too_soon(right: Function, *given: Any) -> Any:
    """A prompt is done with its first finished texts, whatever still runs."""
    return _searched(right, given, early_stopping=True)


# The choice of a token, and random numbers.


@fault(at="rules.drawn", replaces=(sampling, "choose"))
def first_id_never_drawn(right: Function, logits: Tensor, rules: Rules, *draws: object) -> Any:
    """Id 0 is never drawn."""
    tokens = right(logits, rules, *draws)
    return tokens.clamp(min=1) if rules.sampled else tokens


@fault(at="rules.drawn", replaces=(sampling, "choose"))
def last_id_never_drawn(right: Function, logits: Tensor, rules: Rules, *draws: object) -> Any:
    """The last id is never drawn."""
    tokens = right(logits, rules, *draws)
    return tokens.clamp(max=logits.shape[-1] - 2) if rules.sampled else tokens


@fault(at="rules.drawn", replaces=(sampling, "choose"))
def draw_at_the_edge(
    right: Function, logits: Tensor, rules: Rules, draws: Draws | None = None
) -> Any:
    """A number at which the next token begins draws the one before."""
    if not rules.sampled or draws is None:
        return right(logits, rules, draws)
    sums = torch.exp((logits - logits.amax(-1, keepdim=True)).double()).cumsum(-1)
    return (sums < draws.next()[:, None] * sums[:, -1:]).sum(-1)


@fault(at="rules.likeliest", replaces=(sampling, "choose"))
def ties_to_the_last(right: Function, logits: Tensor, rules: Rules, *draws: object) -> Any:
    """Of equal logits the highest id is taken."""
    if rules.sampled:
        return right(logits, rules, *draws)
    return logits.shape[-1] - 1 - logits.flip(-1).argmax(-1)


Rows = int | Sequence[int]


@fault(at="sampled.0.ids", replaces=(Draws, "__init__"))
def seed_for_every_row(right: Function, draws: Draws, seed: int, rows: Rows) -> None:
    """Every text uses the random numbers of row 0."""
    right(draws, seed, [0] * (rows if isinstance(rows, int) else len(rows)))


@fault(at="sampled.0.ids", replaces=(Draws, "__init__"))
def seed_ignored(right: Function, draws: Draws, _seed: int, rows: Rows) -> None:
    """The seed is always 0."""
    right(draws, 0, rows)


@fault(at="batch.streams.ids", replaces=(Draws, "__init__"))
def seed_in_32_bits(right: Function, draws: Draws, seed: int, rows: Rows) -> None:
    """Only the lower 32 bits of the seed are used."""
    right(draws, seed & 0xFFFF_FFFF, rows)


@fault(at="batch.streams.ids", replaces=(Draws, "__init__"))
def streams_ignored(right: Function, draws: Draws, seed: int, rows: Rows) -> None:
    """Streams that were given are numbered 0, 1, 2, ... instead."""
    right(draws, seed, rows if isinstance(rows, int) else len(rows))


@fault(at="sampled.0.ids", replaces=(Draws, "next"))
def one_stream_in_turn(right: Function, draws: Draws) -> Any:
    """The rows of a batch take turns with one stream."""
    streams = draws._streams
    draws._streams = streams[:1] * len(streams)
    numbers = right(draws)
    draws._streams = streams
    return numbers


@fault(at="rules.half", replaces=(Rules, "processed"))
def rules_in_half(right: Function, rules: Rules, logits: Tensor, token_ids: Tensor) -> Any:
    """The rules' results are rounded to half precision."""
    return right(rules, logits, token_ids).to(logits.dtype).to(logits)


# Batches, ends, and the last position.


@fault(at="ruled.0.ids", replaces=(generate, "stream"))
def newest_unseen_by_rules(right: Function, model: GPT, token_ids: Tensor, request: Request) -> Any:
    """Rules are given the text without its newest token."""
    rules = copy.copy(request.rules)
    vars(rules)["processed"] = lambda logits, ids: request.rules.processed(logits, ids[:, :-1])
    return right(model, token_ids, dataclasses.replace(request, rules=rules))


@fault(at="batch.sampled.logits", replaces=(_Texts, "__init__"))
def samples_not_adjacent(
    right: Function, texts: _Texts, token_ids: Tensor, request: Request
) -> None:
    """The texts' prompts alternate, though the samples of each are due side by side."""
    right(texts, token_ids, request)
    texts.ids = token_ids.repeat(request.samples, 1)


@fault(at="batch.ends.ids", replaces=(_Texts, "__init__"))
def end_of_id_0_ignored(
    right: Function, texts: _Texts, token_ids: Tensor, request: Request
) -> None:
    """An end token of id 0 counts as none."""
    right(texts, token_ids, request)
    texts.end_id = request.end_id or None


def at_the_end(append: Callable[[Any, Tensor], Tensor]) -> Function:
    """Return a fault: `append(texts, tokens)` marks finished texts and returns their tokens."""

    def appended(right: Function, texts: _Texts, tokens: Tensor, position: int) -> Any:
        end_id = texts.end_id
        if end_id is not None:
            tokens = append(texts, tokens)
        texts.end_id = None
        result = right(texts, tokens, position)
        texts.end_id = end_id
        return result

    return appended


@fault(at="batch.ends.ids", replaces=(_Texts, "append"), by=at_the_end)
def end_not_filled(texts: Any, tokens: Tensor) -> Tensor:
    """A text goes on after its end token."""
    texts.finished |= tokens == texts.end_id
    return tokens


@fault(at="batch.ends_last.ids", replaces=(_Texts, "append"), by=at_the_end)
def end_filled_with_0(texts: Any, tokens: Tensor) -> Tensor:
    """A text is filled with id 0 after its end token."""
    tokens = tokens.masked_fill(texts.finished, 0)
    texts.finished |= tokens == texts.end_id
    return tokens


@fault(at="batch.ends.ids", replaces=(_Texts, "append"), by=at_the_end)
def end_of_one_ends_all(texts: Any, tokens: Tensor) -> Tensor:
    """The first end token ends every text."""
    tokens = tokens.masked_fill(texts.finished, texts.end_id)
    texts.finished |= (tokens == texts.end_id).any()
    return tokens


@fault(at="batch.ends.ids", replaces=(_Texts, "append"), by=at_the_end)
def runs_on_after_all_ends(texts: Any, tokens: Tensor) -> Tensor:
    """Tokens are added though every text has ended."""
    ended = getattr(texts, "ended", texts.finished)
    tokens = tokens.masked_fill(ended, texts.end_id)
    texts.ended = ended | (tokens == texts.end_id)
    return tokens


@fault(at="batch.ends.ids", replaces=(_Texts, "__init__"))
def end_in_the_prompt(right: Function, texts: _Texts, token_ids: Tensor, request: Request) -> None:
    """An end token in the prompt ends the text."""
    right(texts, token_ids, request)
    if request.end_id is not None:
        texts.finished = (texts.ids == request.end_id).any(1)


def _slid(kept: Callable[[Tensor, int, int], Tensor]) -> Function:
    """Return a slide that keeps `kept(ids, end, n_positions)`."""

    def context(right: Function, texts: _Texts, end: int, n_positions: int) -> Any:
        if end <= n_positions:
            return right(texts, end, n_positions)
        return kept(texts.ids, end, n_positions)

    return context


GenerationFault.register_all(
    {
        "slide-from-one-later": (
            "a slide keeps one token less than half of the positions",
            _slid(lambda ids, end, positions: ids[:, end - positions // 2 + 1 : end]),
        ),
        "slide-by-one": (
            "a slide keeps all positions but one",
            _slid(lambda ids, end, positions: ids[:, end - positions + 1 : end]),
        ),
        "slide-to-the-prompt": (
            "a slide goes on from the beginning of the text, and skips its end",
            _slid(lambda ids, _end, positions: ids[:, : positions // 2]),
        ),
    },
    at="overflow.slide.logits",
    replaces=(_Texts, "context"),
)


@fault(at="overflow.stop.ids", replaces=(generate, "_new_tokens"))
def stops_one_short(right: Function, model: GPT, token_ids: Tensor, request: Request) -> Any:
    """A text ends before the last position."""
    count = right(model, token_ids, request)
    return count - (count < request.max_new_tokens)


@fault(at="beams.full.texts", replaces=(generate, "_new_tokens"))
def beams_past_the_positions(
    right: Function, model: GPT, token_ids: Tensor, request: Request
) -> Any:
    """A search is not limited by the positions."""
    count = right(model, token_ids, request)
    return request.max_new_tokens if request.beams > 1 else count


@fault(at="overflow.limits", replaces=(generate, "_new_tokens"))
def overflow_without_error(right: Function, model: GPT, token_ids: Tensor, request: Request) -> Any:
    """A text that is too long ends early, though an error is due."""
    stops = {"error": "stop"}.get(request.overflow, request.overflow)
    return right(model, token_ids, dataclasses.replace(request, overflow=stops))


# Chunks behind a cache.


@fault(at="chunks.plain.logits", replaces=(BlockCache, "extended"))
def chunk_sees_itself_alone(right: Function, cache: BlockCache, key: Tensor, value: Tensor) -> Any:
    """A later chunk does not attend to the cached keys."""
    right(cache, key, value)
    return key, value


@fault(at="chunks.plain.logits", replaces=(model_module, "embed"))
def chunk_positions_from_0(right: Function, *given: Any) -> Any:
    """The positions of a later chunk begin at 0."""
    return right(*given[:-1], 0)


# Searches.


@fault(
    "never-reversed",
    '"never" is taken for False, and False for "never"',
    at="beams.stopping",
    replaces=(Hypotheses, "_can_improve"),
)
def _can_improve(right: Function, prompt: Hypotheses, length: int) -> Any:
    settings = prompt._settings
    if settings.early_stopping is True:
        return right(prompt, length)
    other: Any = False if settings.early_stopping == "never" else "never"
    prompt._settings = dataclasses.replace(settings, early_stopping=other)
    result = right(prompt, length)
    prompt._settings = settings
    return result


@fault(at="beams.fill", replaces=(beam_search, "beam_search"))
def beams_filled_with_0(
    right: Function, decoder: Any, token_ids: Tensor, settings: Settings, *rest: object
) -> Any:
    """Shorter texts of a search are filled with id 0."""
    texts = right(decoder, token_ids, settings, *rest)
    for text in texts[:, token_ids.shape[1] :] if settings.end_id is not None else ():
        ends = (text == settings.end_id).nonzero()
        if len(ends):
            text[int(ends[0]) + 1 :] = 0
    return texts


@fault(at="beams.choices", replaces=(beam_search, "search"))
def beams_one_short(right: Function, *given: Any) -> Any:
    """A search ends one token too early."""
    return _searched(right, given, max_new_tokens=max(1, given[2].max_new_tokens - 1))


@fault(at="beams.choices", replaces=(Hypotheses, "best"))
def beams_worst_first(right: Function, prompt: Hypotheses) -> Any:
    """The texts of a search come in the reverse order."""
    return right(prompt)[::-1]


@fault(at="beams.ends", replaces=(beam_search, "_best"))
def beams_few_candidates(right: Function, totals: Tensor, count: int, vocab: int) -> Any:
    """As many candidates as beams are ranked, not twice as many."""
    return right(totals, count // 2, vocab)


@fault(at="beams.ties", replaces=(beam_search, "_best"))
def beam_ties_to_the_last(
    _right: Function, totals: Tensor, count: int, vocab: int
) -> list[Candidate]:
    """Of equal scores the later one comes first."""
    scores = totals.tolist()
    places = [place for place, score in enumerate(scores) if score > -math.inf]
    ranked = sorted(places, key=lambda place: (-scores[place], -place))[:count]
    return [Candidate(scores[place], *divmod(place, vocab)) for place in ranked]


@fault(at="beams.ends", replaces=(Hypotheses, "advance"))
def finished_forgotten(right: Function, prompt: Hypotheses, *given: Any) -> None:
    """A text that ended is forgotten when others end."""
    before, prompt._finished = prompt._finished, []
    right(prompt, *given)
    prompt._finished = prompt._finished or before


# Streamed text.


@fault(at="stream.parts", replaces=(Spelling, "spelled"))
def spaces_lost(right: Function, spelling: Spelling, token_id: int) -> Any:
    """Words are streamed without the spaces between them."""
    return right(spelling, token_id).lstrip(" ")


@fault(at="stream.stop", replaces=(Stops, "passed"))
def stop_string_kept(right: Function, stops: Stops, text: str) -> Any:
    """A text ends with its stop string, not before it."""
    before = stops.found
    shown = right(stops, text)
    found = stops.found and not before
    return shown + (next(iter(stops._strings[-1:])) if found else "")


@fault(at="stream.held", replaces=(Stops, "rest"))
def held_back_lost(_right: Function, _stops: Stops) -> str:
    """The beginning of a stop string at a text's end is not shown."""
    return ""


GENERATION_FAULTS = faults_of(GenerationFault)
"""Every fault of generation by name."""


def inject(name: str | None) -> AbstractContextManager[None]:
    """Inject a fault while a check runs; none if `name` is None.

    Modules that imported the function get the faulty one too.
    """
    if name is None:
        return contextlib.nullcontext()
    return GENERATION_FAULTS[name].injected(everywhere=True)
