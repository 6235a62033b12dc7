"""Faults of generation: faulty functions, which `inject` puts in a right one's place for a context.

Generators really have them.
"""

import contextlib
import dataclasses
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from parity.faults.registry import Fault, faults_of
from scratch_gpt import model as model_module
from scratch_gpt.generation import beam_search, generate, sampling
from scratch_gpt.generation.beam_search import Candidate, Hypotheses, Hypothesis, Settings
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.generate import Request
from scratch_gpt.generation.sampling import Draws, Rules
from scratch_gpt.generation.text_stream import Spelling, Stops
from scratch_gpt.kv_cache import BlockCache, KVCache
from scratch_gpt.model import GPT

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
    at="chunks.decoder.logits",
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
    "the second-likeliest token is taken, unless two are equally likely",
    at="greedy.0.ids",
    replaces=(sampling, "choose"),
)
def _(right: Function) -> Function:
    def choose(logits: Tensor, rules: Rules, draws: object = None) -> object:
        if rules.sampled:
            return right(logits, rules, draws)
        (first, second), (_, chosen) = (part.unbind(-1) for part in logits.topk(2))
        return torch.where(first > second, chosen, right(logits, rules, draws))

    return choose


@GenerationFault.register(
    "not-drawn",
    "the likeliest token is taken where one is to be drawn",
    at="rules.drawn",
    replaces=(sampling, "choose"),
)
@instead
def _(logits: Tensor, _rules: Rules, _draws: object = None) -> Tensor:
    return logits.argmax(-1)


@GenerationFault.register(
    "beams-all-alike",
    "a search begins with the prompt in every beam",
    at="beams.choices",
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
    at="beams.choices",
    replaces=(beam_search, "log_softmax"),
)
@instead
def _(logits: Tensor) -> Tensor:
    return logits


GenerationFault.register(
    "length-penalty-reversed",
    "the length penalty has the wrong sign",
    at="beams.penalties",
    replaces=(beam_search, "search"),
)(with_settings(lambda s: {"length_penalty": -s.length_penalty}))


GenerationFault.register(
    "length-penalty-missing",
    "the score is the mere sum",
    at="beams.penalties",
    replaces=(beam_search, "search"),
)(with_settings(lambda _: {"length_penalty": 0.0}))


GenerationFault.register(
    "end-ignored", "no token ends a text", at="beams.ends", replaces=(beam_search, "search")
)(with_settings(lambda _: {"end_id": None}))


GenerationFault.register(
    "stops-too-soon",
    "a prompt is done with its first finished texts, whatever still runs",
    at="beams.stopping",
    replaces=(beam_search, "search"),
)(with_settings(lambda _: {"early_stopping": True}))


# The choice of a token, and random numbers.


def where_drawn(changed: Callable[[Tensor, int], Tensor]) -> Callable[[Function], Function]:
    """Return a fault: drawn tokens are changed; the size of the vocabulary is given too."""

    def faulty(right: Function) -> Function:
        def choose(logits: Tensor, rules: Rules, draws: object = None) -> object:
            tokens = right(logits, rules, draws)
            return changed(tokens, logits.shape[-1]) if rules.sampled else tokens

        return choose

    return faulty


GenerationFault.register(
    "first-id-never-drawn",
    "id 0 is never drawn",
    at="rules.drawn",
    replaces=(sampling, "choose"),
)(where_drawn(lambda tokens, _size: tokens.clamp(min=1)))


GenerationFault.register(
    "last-id-never-drawn",
    "the last id is never drawn",
    at="rules.drawn",
    replaces=(sampling, "choose"),
)(where_drawn(lambda tokens, size: tokens.clamp(max=size - 2)))


@GenerationFault.register(
    "draw-at-the-edge",
    "a number at which the next token begins draws the one before",
    at="rules.drawn",
    replaces=(sampling, "choose"),
)
def _(right: Function) -> Function:
    def choose(logits: Tensor, rules: Rules, draws: Draws | None = None) -> object:
        if not rules.sampled or draws is None:
            return right(logits, rules, draws)
        sums = torch.exp((logits - logits.amax(-1, keepdim=True)).double()).cumsum(-1)
        return (sums < draws.next()[:, None] * sums[:, -1:]).sum(-1)

    return choose


@GenerationFault.register(
    "ties-to-the-last",
    "of equal logits the highest id is taken",
    at="rules.likeliest",
    replaces=(sampling, "choose"),
)
def _(right: Function) -> Function:
    def choose(logits: Tensor, rules: Rules, draws: object = None) -> object:
        if rules.sampled:
            return right(logits, rules, draws)
        return logits.shape[-1] - 1 - logits.flip(-1).argmax(-1)

    return choose


def with_streams(
    changed: Callable[[int, Sequence[int]], tuple[int, Sequence[int]]],
) -> Callable[[Function], Function]:
    """Return a fault: streams of another seed, or of other numbers."""

    def faulty(right: Function) -> Function:
        def begin(draws: Draws, seed: int, rows: int | Sequence[int]) -> None:
            right(draws, *changed(seed, range(rows) if isinstance(rows, int) else rows))

        return begin

    return faulty


GenerationFault.register(
    "seed-for-every-row",
    "every text uses the random numbers of row 0",
    at="sampled.0.ids",
    replaces=(Draws, "__init__"),
)(with_streams(lambda seed, rows: (seed, [0] * len(rows))))


GenerationFault.register(
    "seed-ignored",
    "the seed is always 0",
    at="sampled.0.ids",
    replaces=(Draws, "__init__"),
)(with_streams(lambda _seed, rows: (0, rows)))


GenerationFault.register(
    "seed-in-32-bits",
    "only the lower 32 bits of the seed are used",
    at="batch.streams.ids",
    replaces=(Draws, "__init__"),
)(with_streams(lambda seed, rows: (seed & 0xFFFF_FFFF, rows)))


GenerationFault.register(
    "streams-ignored",
    "streams that were given are numbered 0, 1, 2, ... instead",
    at="batch.streams.ids",
    replaces=(Draws, "__init__"),
)(with_streams(lambda seed, rows: (seed, range(len(rows)))))


@GenerationFault.register(
    "one-stream-in-turn",
    "the rows of a batch take turns with one stream",
    at="sampled.0.ids",
    replaces=(Draws, "next"),
)
def _(right: Function) -> Function:
    def following(draws: Draws) -> Tensor:
        streams = draws._streams  # noqa: SLF001 - as a mistake in the class itself
        draws._streams = streams[:1] * len(streams)  # noqa: SLF001
        numbers: Tensor = right(draws)
        draws._streams = streams  # noqa: SLF001
        return numbers

    return following


@GenerationFault.register(
    "rules-in-half",
    "the rules' results are rounded to half precision",
    at="rules.half",
    replaces=(Rules, "processed"),
)
def _(right: Function) -> Function:
    return lambda rules, logits, ids: right(rules, logits, ids).to(logits.dtype).to(logits)


# Batches, ends, and the last position.


class OneStepBehind:
    """Rules to which the newest token is not shown."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules

    def __getattr__(self, name: str) -> object:
        """Return an attribute of the right rules."""
        return getattr(self.rules, name)

    def processed(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        """Return the logits after rules that see the text before the newest token."""
        return self.rules.processed(logits, token_ids[:, :-1])


@GenerationFault.register(
    "newest-unseen-by-rules",
    "rules are given the text without its newest token",
    at="ruled.0.ids",
    replaces=(generate, "stream"),
)
def _(right: Function) -> Function:
    def stream(model: GPT, token_ids: Tensor, request: Request) -> object:
        rules: Any = OneStepBehind(request.rules)
        return right(model, token_ids, dataclasses.replace(request, rules=rules))

    return stream


@GenerationFault.register(
    "samples-not-adjacent",
    "the texts' prompts alternate, though the samples of each are due side by side",
    at="batch.sampled.logits",
    replaces=(generate._Texts, "__init__"),  # noqa: SLF001 - where the mistake would be
)
def _(right: Function) -> Function:
    def begin(texts: Any, token_ids: Tensor, request: Request) -> None:  # noqa: ANN401
        right(texts, token_ids, request)
        texts.ids = token_ids.repeat(request.samples, 1)

    return begin


@GenerationFault.register(
    "end-of-id-0-ignored",
    "an end token of id 0 counts as none",
    at="batch.ends.ids",
    replaces=(generate._Texts, "__init__"),  # noqa: SLF001
)
def _(right: Function) -> Function:
    def begin(texts: Any, token_ids: Tensor, request: Request) -> None:  # noqa: ANN401
        right(texts, token_ids, request)
        texts.end_id = request.end_id or None

    return begin


def at_the_end(append: Callable[[Any, Tensor], Tensor]) -> Callable[[Function], Function]:
    """Return a fault: `append(texts, tokens)` marks finished texts and returns their tokens."""

    def faulty(right: Function) -> Function:
        def appended(texts: Any, tokens: Tensor, position: int) -> Tensor:  # noqa: ANN401
            end_id, texts.end_id = texts.end_id, None
            if end_id is not None:
                texts.end_id = end_id
                tokens = append(texts, tokens)
                texts.end_id = None
            result: Tensor = right(texts, tokens, position)
            texts.end_id = end_id
            return result

        return appended

    return faulty


@GenerationFault.register(
    "end-not-filled",
    "a text goes on after its end token",
    at="batch.ends.ids",
    replaces=(generate._Texts, "append"),  # noqa: SLF001
)
@at_the_end
def _(texts: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401
    texts.finished |= tokens == texts.end_id
    return tokens


@GenerationFault.register(
    "end-filled-with-0",
    "a text is filled with id 0 after its end token",
    at="batch.ends_last.ids",
    replaces=(generate._Texts, "append"),  # noqa: SLF001
)
@at_the_end
def _(texts: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401
    tokens = tokens.masked_fill(texts.finished, 0)
    texts.finished |= tokens == texts.end_id
    return tokens


@GenerationFault.register(
    "end-of-one-ends-all",
    "the first end token ends every text",
    at="batch.ends.ids",
    replaces=(generate._Texts, "append"),  # noqa: SLF001
)
@at_the_end
def _(texts: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401
    tokens = tokens.masked_fill(texts.finished, texts.end_id)
    texts.finished |= (tokens == texts.end_id).any()
    return tokens


@GenerationFault.register(
    "runs-on-after-all-ends",
    "tokens are added though every text has ended",
    at="batch.ends.ids",
    replaces=(generate._Texts, "append"),  # noqa: SLF001
)
@at_the_end
def _(texts: Any, tokens: Tensor) -> Tensor:  # noqa: ANN401
    ended = getattr(texts, "ended", texts.finished)
    tokens = tokens.masked_fill(ended, texts.end_id)
    texts.ended = ended | (tokens == texts.end_id)
    return tokens


@GenerationFault.register(
    "end-in-the-prompt",
    "an end token in the prompt ends the text",
    at="batch.ends.ids",
    replaces=(generate._Texts, "__init__"),  # noqa: SLF001
)
def _(right: Function) -> Function:
    def begin(texts: Any, token_ids: Tensor, request: Request) -> None:  # noqa: ANN401
        right(texts, token_ids, request)
        if request.end_id is not None:
            texts.finished = (texts.ids == request.end_id).any(1)

    return begin


def with_context(start: Callable[[int, int], int]) -> Callable[[Function], Function]:
    """Return a fault: a text that slides goes on from `start(end, n_positions)`."""

    def faulty(right: Function) -> Function:
        def context(texts: Any, end: int, n_positions: int) -> object:  # noqa: ANN401
            if end <= n_positions:
                return right(texts, end, n_positions)
            return texts.ids[:, start(end, n_positions) : end]

        return context

    return faulty


GenerationFault.register(
    "slide-from-one-later",
    "a slide keeps one token less than half of the positions",
    at="overflow.slide.logits",
    replaces=(generate._Texts, "context"),  # noqa: SLF001
)(with_context(lambda end, positions: end - positions // 2 + 1))


GenerationFault.register(
    "slide-by-one",
    "a slide keeps all positions but one",
    at="overflow.slide.logits",
    replaces=(generate._Texts, "context"),  # noqa: SLF001
)(with_context(lambda end, positions: end - positions + 1))


GenerationFault.register(
    "slide-to-the-prompt",
    "a slide goes on from the beginning of the text, and skips its end",
    at="overflow.slide.logits",
    replaces=(generate._Texts, "context"),  # noqa: SLF001
)(
    lambda right: (
        lambda texts, end, positions: (
            right(texts, end, positions) if end <= positions else texts.ids[:, : positions // 2]
        )
    )
)


def with_count(
    changed: Callable[[int, GPT, Tensor, Request], int],
) -> Callable[[Function], Function]:
    """Return a fault: another number of new tokens than `_new_tokens` allows."""

    def faulty(right: Function) -> Function:
        def count(model: GPT, token_ids: Tensor, request: Request) -> int:
            return changed(right(model, token_ids, request), model, token_ids, request)

        return count

    return faulty


GenerationFault.register(
    "stops-one-short",
    "a text ends before the last position",
    at="overflow.stop.ids",
    replaces=(generate, "_new_tokens"),
)(with_count(lambda count, _model, _ids, request: count - (count < request.max_new_tokens)))


GenerationFault.register(
    "beams-past-the-positions",
    "a search is not limited by the positions",
    at="beams.full.texts",
    replaces=(generate, "_new_tokens"),
)(
    with_count(
        lambda count, _model, _ids, request: request.max_new_tokens if request.beams > 1 else count
    )
)


@GenerationFault.register(
    "overflow-without-error",
    "a text that is too long ends early, though an error is due",
    at="overflow.limits",
    replaces=(generate, "_new_tokens"),
)
def _(right: Function) -> Function:
    def count(model: GPT, token_ids: Tensor, request: Request) -> object:
        stops = {"error": "stop"}.get(request.overflow, request.overflow)
        return right(model, token_ids, dataclasses.replace(request, overflow=stops))

    return count


# Chunks behind a cache.


@GenerationFault.register(
    "chunk-sees-itself-alone",
    "a later chunk does not attend to the cached keys",
    at="chunks.plain.logits",
    replaces=(BlockCache, "extended"),
)
def _(right: Function) -> Function:
    def extended(cache: BlockCache, key: Tensor, value: Tensor) -> object:
        right(cache, key, value)
        return key, value

    return extended


@GenerationFault.register(
    "chunk-positions-from-0",
    "the positions of a later chunk begin at 0",
    at="chunks.plain.logits",
    replaces=(model_module, "embed"),
)
def _(right: Function) -> Function:
    return lambda *given: right(*given[:-1], 0)


# Searches.


@GenerationFault.register(
    "never-reversed",
    '"never" is taken for False, and False for "never"',
    at="beams.stopping",
    replaces=(Hypotheses, "_can_improve"),
)
def _(right: Function) -> Function:
    def can_improve(prompt: Any, length: int) -> object:  # noqa: ANN401
        settings = prompt._settings  # noqa: SLF001
        if settings.early_stopping is True:
            return right(prompt, length)
        other = False if settings.early_stopping == "never" else "never"
        prompt._settings = dataclasses.replace(settings, early_stopping=other)  # noqa: SLF001
        result = right(prompt, length)
        prompt._settings = settings  # noqa: SLF001
        return result

    return can_improve


@GenerationFault.register(
    "beams-filled-with-0",
    "shorter texts of a search are filled with id 0",
    at="beams.fill",
    replaces=(beam_search, "beam_search"),
)
def _(right: Function) -> Function:
    def searched(decoder: Any, token_ids: Tensor, settings: Settings, *rest: object) -> object:  # noqa: ANN401
        texts = right(decoder, token_ids, settings, *rest)
        new = texts[:, token_ids.shape[1] :]
        for text in new if settings.end_id is not None else ():
            ends = (text == settings.end_id).nonzero()
            if len(ends):
                text[int(ends[0]) + 1 :] = 0
        return texts

    return searched


GenerationFault.register(
    "beams-one-short",
    "a search ends one token too early",
    at="beams.choices",
    replaces=(beam_search, "search"),
)(with_settings(lambda s: {"max_new_tokens": max(1, s.max_new_tokens - 1)}))


@GenerationFault.register(
    "beams-worst-first",
    "the texts of a search come in the reverse order",
    at="beams.choices",
    replaces=(Hypotheses, "best"),
)
def _(right: Function) -> Function:
    return lambda prompt: right(prompt)[::-1]


@GenerationFault.register(
    "beams-few-candidates",
    "as many candidates as beams are ranked, not twice as many",
    at="beams.ends",
    replaces=(beam_search, "_best"),
)
def _(right: Function) -> Function:
    return lambda totals, count, vocab: right(totals, count // 2, vocab)


@GenerationFault.register(
    "beam-ties-to-the-last",
    "of equal scores the later one comes first",
    at="beams.ties",
    replaces=(beam_search, "_best"),
)
def _(_right: Function) -> Function:
    def best(totals: Tensor, count: int, vocab: int) -> list[Candidate]:
        places = [place for place, score in enumerate(totals.tolist()) if score > -math.inf]
        scores = totals.tolist()
        ranked = sorted(places, key=lambda place: (-scores[place], -place))[:count]
        return [Candidate(scores[place], *divmod(place, vocab)) for place in ranked]

    return best


@GenerationFault.register(
    "finished-forgotten",
    "a text that ended is forgotten when others end",
    at="beams.ends",
    replaces=(Hypotheses, "advance"),
)
def _(right: Function) -> Function:
    def advance(prompt: Any, candidates: object, texts: object, length: int) -> None:  # noqa: ANN401
        before: list[Hypothesis] = prompt._finished  # noqa: SLF001
        prompt._finished = []  # noqa: SLF001
        right(prompt, candidates, texts, length)
        prompt._finished = prompt._finished or before  # noqa: SLF001

    return advance


# Streamed text.


@GenerationFault.register(
    "spaces-lost",
    "words are streamed without the spaces between them",
    at="stream.parts",
    replaces=(Spelling, "spelled"),
)
def _(right: Function) -> Function:
    return lambda spelling, token_id: right(spelling, token_id).lstrip(" ")


@GenerationFault.register(
    "stop-string-kept",
    "a text ends with its stop string, not before it",
    at="stream.stop",
    replaces=(Stops, "passed"),
)
def _(right: Function) -> Function:
    def passed(stops: Stops, text: str) -> str:
        before = stops.found
        shown: str = right(stops, text)
        found = stops.found and not before
        return shown + (next(iter(stops._strings[-1:])) if found else "")  # noqa: SLF001

    return passed


@GenerationFault.register(
    "held-back-lost",
    "the beginning of a stop string at a text's end is not shown",
    at="stream.held",
    replaces=(Stops, "rest"),
)
def _(_right: Function) -> Function:
    return lambda _stops: ""


GENERATION_FAULTS = faults_of(GenerationFault)
"""Every fault of generation by name."""


@contextlib.contextmanager
def inject(name: str | None) -> Iterator[None]:
    """Exchange the function of a fault for the faulty one within the context; None does nothing.

    Modules that imported the function get the faulty one too.
    """
    if name is None:
        yield
        return
    owner, function = GENERATION_FAULTS[name].replaces
    right = getattr(owner, function)
    owners = [owner]
    if isinstance(owner, ModuleType):
        ours = [module for name, module in sys.modules.items() if name.startswith("scratch_gpt.")]
        owners = [module for module in ours if getattr(module, function, None) is right]
    faulty = GENERATION_FAULTS[name].code(right)
    for one in owners:
        setattr(one, function, faulty)
    try:
        yield
    finally:
        for one in owners:
            setattr(one, function, right)
