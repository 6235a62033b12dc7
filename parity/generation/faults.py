"""Faults that generators really have, planted into ours from outside, one function at a time.

A row names a fault, the function that has it, and the row of a report at which it must be seen
first. What a faulty function is like stands in `parity.generation.plants`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from parity.generation import continuations, plants
from scratch_gpt import sampling
from scratch_gpt.generation import beam
from scratch_gpt.generation.cache import Cache
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.hypotheses import Hypotheses


@dataclasses.dataclass(frozen=True)
class Fault:
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
def planted(name: str | None) -> Iterator[None]:
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


GENERATION_FAULTS: dict[str, Fault] = {
    "newest-key-unseen": Fault(
        "a token after the prompt does not attend to itself",
        Cache,
        "views",
        plants.newest_unseen,
        "greedy.0.logits",
    ),
    "key-overwritten": Fault(
        "a token after the prompt is written over the first",
        Decoder,
        "step",
        plants.after_a_step(plants.first_overwritten),
        "greedy.0.logits",
    ),
    "value-of-the-last": Fault(
        "a token after the prompt keeps the value of the one before",
        Decoder,
        "step",
        plants.after_a_step(plants.value_before),
        "greedy.0.logits",
    ),
    "cache-in-half": Fault(
        "keys are kept in bfloat16",
        Decoder,
        "step",
        plants.after_a_step(plants.in_half),
        "greedy.0.logits",
    ),
    "positions-stuck": Fault(
        "a token after the prompt has the position of the one before",
        Decoder,
        "step",
        plants.positions_stuck,
        "greedy.0.logits",
    ),
    "cache-stale": Fault(
        "a token of the last prompt is still there when the next one comes",
        Cache,
        "clear",
        plants.one_left,
        "greedy.1.logits",
    ),
    "beams-not-reordered": Fault(
        "the cache stays where it was when beams change places",
        Cache,
        "reorder",
        plants.not_reordered,
        "beams.plain.texts",
    ),
    "values-not-reordered": Fault(
        "only the keys follow when beams change places",
        Cache,
        "reorder",
        plants.keys_reordered,
        "beams.plain.texts",
    ),
    "penalty-divides": Fault(
        "the repetition penalty divides logits below 0 too, and so rewards",
        sampling,
        "penalised",
        plants.penalty_divides,
        "rules.repetition_penalty",
    ),
    "penalty-for-each": Fault(
        "the repetition penalty counts how often a token is there",
        sampling,
        "penalised",
        plants.penalty_for_each,
        "rules.repetition_penalty",
    ),
    "n-gram-longer": Fault(
        "n-grams of one token more are excluded",
        sampling,
        "without_repeats",
        plants.n_gram_longer,
        "rules.no_repeat_1_gram",
    ),
    "n-gram-misses-the-last": Fault(
        "the last n-gram of the text is not looked at",
        sampling,
        "without_repeats",
        plants.n_gram_without_last,
        "rules.no_repeat_1_gram",
    ),
    "temperature-twice": Fault(
        "the temperature is applied twice",
        sampling,
        "tempered",
        plants.temperature_twice,
        "rules.temperature_low",
    ),
    "temperature-multiplies": Fault(
        "the temperature multiplies",
        sampling,
        "tempered",
        plants.multiplied,
        "rules.temperature_low",
    ),
    "top-k-one-more": Fault(
        "one token more is left", sampling, "only_top_k", plants.one_more, "rules.top_k_1"
    ),
    "top-k-cuts-ties": Fault(
        "of equal logits at the end only some are left",
        sampling,
        "only_top_k",
        plants.ties_cut,
        "rules.top_k_tied",
    ),
    "top-p-stops-short": Fault(
        "the token that crosses is excluded",
        sampling,
        "only_top_p",
        plants.crossing_excluded,
        "rules.top_p",
    ),
    "second-likeliest": Fault(
        "the second-likeliest token is taken",
        continuations,
        "choose",
        plants.second_likeliest,
        "greedy.0.ids",
    ),
    "not-drawn": Fault(
        "the likeliest token is taken where one is to be drawn",
        continuations,
        "choose",
        plants.not_drawn,
        "sampled.0.ids",
    ),
    "beams-all-alike": Fault(
        "a search begins with the prompt in every beam",
        Hypotheses,
        "__init__",
        plants.all_alive,
        "beams.plain.texts",
    ),
    "length-penalty-reversed": Fault(
        "the length penalty has the wrong sign",
        beam,
        "search",
        plants.with_settings(lambda s: {"length_penalty": -s.length_penalty}),
        "beams.plain.scores",
    ),
    "length-penalty-missing": Fault(
        "the score is the mere sum",
        beam,
        "search",
        plants.with_settings(lambda _: {"length_penalty": 0.0}),
        "beams.plain.scores",
    ),
    "end-ignored": Fault(
        "no token ends a text",
        beam,
        "search",
        plants.with_settings(lambda _: {"end_id": None}),
        "beams.ends.texts",
    ),
    "beams-of-logits": Fault(
        "beams add up logits, not log-probabilities",
        beam,
        "log_softmax",
        plants.unchanged,
        "beams.plain.texts",
    ),
    "stops-too-soon": Fault(
        "a prompt is done with its first finished texts, whatever still runs",
        beam,
        "search",
        plants.with_settings(lambda _: {"early_stopping": True}),
        "beams.ends.texts",
    ),
}
"""Every fault by name."""
