"""The generation check: compares the cached decoder with uncached models.

First the logit rules, on shared logits. Then texts, token by token, with three references without
a cache: our model on the whole text, Hugging Face's, and the oracle's. In float64 the logits of
every step agree to rounding and every id is equal. In the checked dtype our rounding is no worse
than Hugging Face's, and the ids are those of its own `generate`: greedy, with rules and by beam
search, except for ties.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation import beams, requests, rules, texts
from parity.checks.generation.beams import SETTINGS
from parity.checks.generation.rows import BACKEND, broken_row
from parity.checks.generation.rules import CASES, CHOICES, rule_rows
from parity.checks.generation.scripted import SEARCHES, search_rows
from parity.checks.generation.texts import WAYS, Injected, Pass, draw_prompts, order_rows
from parity.core import environment, inputs, runners
from parity.core.comparison import no_progress
from parity.core.fingerprints import Fingerprints
from parity.core.inputs import digest
from parity.core.liveness import constant_tensors
from parity.core.metrics import Status
from parity.core.results import (
    FirstDivergence,
    Plan,
    Reason,
    Report,
    Row,
    compared,
    difference_found,
    finish,
)
from parity.core.tolerances import PRECISIONS, Bounds, bounds_for
from parity.errors import ExitCode, ParityError, UsageError, message_of
from parity.options import NEW_TOKENS, GenerationOptions
from scratch_gpt.errors import quote
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress
from scratch_gpt.tokenizer.tokenizer import Tokenizer

FEWEST = 2
"""With fewer new tokens no cache is read."""

SEARCHED = 5
"""Tokens of a beam search's prompt."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationInputs:
    """The texts to generate.

    Attributes:
        prompts: `[1 time]` each, at least one.
        new: New tokens of each, at least 2.
        searched: `[batch time]`, the prompts of the beam searches.
        seed: Seed of the logits to which the rules are applied.
        unread: The error that our tokenizer raised for the text; empty without one.
    """

    prompts: Sequence[Tensor]
    new: int
    searched: Tensor
    seed: int = 0
    unread: str = ""


def generation_inputs(
    options: GenerationOptions,
    *,
    vocab_size: int,
    longest: int,
    prompts: Sequence[Tensor] | None = None,
) -> GenerationInputs:
    """Return the inputs for the options and a model with `longest` positions.

    Prompts are those given, `[1 time]` each, or those of the options, or drawn ones.

    Raises:
        UsageError: The prompts do not fit the model, or the text has no vocabulary or no token.
    """
    unread = ""
    try:
        given = _given(options) if prompts is None else prompts
    except ParityError:
        raise
    except Exception as error:
        if options.text is None:
            raise
        raised = f"ours raised {type(error).__name__}: {message_of(error)}"
        unread = f"the text {quote(options.text)}: {raised}"
        given = ()
    new = options.max_new_tokens
    if new is None:
        room = longest - max([SEARCHED, *(prompt.shape[-1] for prompt in given or ())])
        new = min(NEW_TOKENS, room if given is not None else min(room, longest // 2))
    return GenerationInputs(
        prompts=_drawn(options, new, vocab_size, longest) if given is None else given,
        new=new,
        searched=_searched(vocab_size, options.seed),
        seed=options.seed,
        unread=unread,
    )


def _drawn(options: GenerationOptions, new: int, vocab_size: int, longest: int) -> list[Tensor]:
    """Return drawn prompts that leave room for so many new tokens."""
    if longest - new < 1:
        raise UsageError(
            f"{new} new tokens leave no room in {longest} positions",
            where="--max-new-tokens",
            fix=f"use at most {longest - SEARCHED}",
        )
    return draw_prompts(
        options.num_prompts, longest=longest - new, vocab_size=vocab_size, seed=options.seed
    )


def _given(options: GenerationOptions) -> list[Tensor] | None:
    """Return the prompts `[1 time]` of the options; None without any."""
    if options.text is not None:
        if options.vocabulary is None:
            raise UsageError(
                "a text needs a vocabulary",
                where="--text",
                fix="give --vocabulary FOLDER, or --token-ids",
            )
        ids = Tokenizer.from_pretrained(options.vocabulary).encode(options.text)
        if not ids:
            raise UsageError("the text has no token", where="--text", fix="give some words")
        return [torch.tensor([ids])]
    if options.token_ids is None:
        return None
    given = inputs.parse(options.token_ids)
    mask = given.attention_mask
    real = torch.ones_like(given.token_ids).bool() if mask is None else mask
    return [row[kept][None] for row, kept in zip(given.token_ids, real, strict=True)]


def _searched(vocab_size: int, seed: int) -> Tensor:
    """Return the prompts of the beam searches, `[2 SEARCHED]`."""
    generator = np.random.Generator(np.random.Philox([seed, 1]))
    return torch.from_numpy(generator.integers(0, vocab_size, size=(2, SEARCHED)))


def check_prompts(asked: GenerationInputs, longest: int, vocab_size: int) -> None:
    """Require prompts of some ids, and enough of a model's `longest` positions for new tokens.

    Raises:
        UsageError: There is no prompt, one is empty or invalid, or there are too few or too many
            new tokens.
    """
    for number, prompt in enumerate(asked.prompts):
        if prompt.ndim != 2 or len(prompt) != 1 or not prompt.numel():  # noqa: PLR2004 - [1 time]
            raise UsageError(
                f"prompt {number} is of shape {list(prompt.shape)}",
                where="the prompts",
                fix="give each as ids [1 time], of at least one token",
            )
        if not bool(((prompt >= 0) & (prompt < vocab_size)).all()):
            raise UsageError(
                f"an id is outside the vocabulary of {vocab_size}",
                where=f"--token-ids or --text, prompt {number}",
                fix=f"use ids from 0 to {vocab_size - 1}, and the vocabulary of these weights",
            )
    room = longest - max((prompt.shape[1] for prompt in asked.prompts), default=longest)
    if not asked.prompts:
        raise UsageError("there is no prompt", where="--num-prompts", fix="give one or more")
    if asked.new < FEWEST:
        raise UsageError(
            f"{asked.new} new tokens: with fewer than {FEWEST} no cache is ever read",
            where="--max-new-tokens",
            fix=f"use {FEWEST} or more",
        )
    room = min(room, longest - asked.searched.shape[1])
    if asked.new > room:
        raise UsageError(
            f"{asked.new} new tokens go past the model's {longest} positions",
            where="--max-new-tokens with the longest prompt",
            fix=f"use at most {max(room, 0)}, or shorter prompts",
        )


def degenerate_reasons(
    reference: nn.Module, texts: Sequence[Sequence[int]], *, vocab_size: int, seed: int
) -> Iterator[Reason]:
    """Yield the reasons why weights or inputs could hide a fault.

    Args:
        reference: Hugging Face's model.
        texts: The new tokens of every greedy text.
        vocab_size: Size of the vocabulary.
        seed: Seed of the logits to which the rules were applied.
    """
    constant = constant_tensors(dict(reference.named_parameters()))
    if constant:
        yield _reason(
            f"{len(constant)} tensors hold one value throughout and can hide faults",
            f"the weights: {', '.join(constant[:3])}",
            "compare on trained or surrogate weights: gains not 1, biases not 0",
        )
    if len({token for text in texts for token in text}) < _FEWEST_TOKENS:
        yield _reason(
            "every text goes on with one token over and over: ids could not differ",
            f"the greedy texts of {len(texts)} prompts",
            "give other prompts, or more of them",
        )
    if len(texts) > 1 and len({tuple(text) for text in texts}) == 1:
        yield _reason(
            "every prompt is continued alike: what was before does not matter",
            f"the greedy texts of {len(texts)} prompts",
            "give other prompts, or other weights",
        )
    idle = rules.idle(vocab_size, seed)
    if idle:
        yield _reason(
            f"{len(idle)} rules change nothing on the logits drawn",
            ", ".join(idle),
            "use another --seed",
        )


_FEWEST_TOKENS = 2


def _reason(what: str, where: str, fix: str) -> Reason:
    return Reason(what=what, where=where, fix=fix, code=ExitCode.INCONCLUSIVE)


def generation(  # noqa: PLR0913 - a check's entry point; all but three have defaults
    candidate: GPT,
    reference: OpenAIGPTLMHeadModel,
    asked: GenerationInputs,
    *,
    dtype: str = "float32",
    injected: Injected = contextlib.nullcontext,
    fingerprints: bool = False,
    identity: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> Report:
    """Compare our generator with the uncached model, Hugging Face's and the oracle.

    Args:
        candidate: Our model, in evaluation mode, on the CPU.
        reference: Hugging Face's model; its weights are the oracle's too.
        asked: The texts to generate.
        dtype: The checked dtype; `float64` for mode float64 alone.
        injected: Returns the context in which our functions run.
        fingerprints: Whether the report has those of all texts and their logits.
        identity: Weights, config and code, for the report.
        progress: Called as the check goes on.

    Raises:
        UsageError: As in `check_prompts`.
        ParityError: The comparison cannot start.
    """
    if asked.unread:
        row = broken_row(asked.unread, tap="text.ids", dtype="float64")
        plan = Plan.of({BACKEND: (1, 1)})
        return finish(
            "generation", rows=[row], plan=plan, identity=identity, first_divergence=_first([row])
        )
    check_prompts(asked, candidate.config.n_positions, candidate.config.vocab_size)
    runners.check_apart({BACKEND: candidate}, reference)
    bounds = bounds_for(dtype)
    bounds.check(PRECISIONS.get(dtype))
    seen: list[list[int]] = []
    kept = Fingerprints(wanted=fingerprints)
    with environment.pinned_settings(), torch.no_grad():
        settings = environment.environment()
        found = rows_of(
            candidate,
            reference,
            asked,
            dtype=dtype,
            bounds=bounds,
            seen=seen,
            injected=injected,
            fingerprints=kept,
            progress=progress or no_progress,
        )
        rows = list(found)
    vocab_size = candidate.config.vocab_size
    planned = _planned(asked, dtype)
    return finish(
        "generation",
        rows=rows,
        plan=Plan.of({BACKEND: (len(planned), compared(planned, rows))}),
        identity=identity,
        environment=settings,
        reasons=list(degenerate_reasons(reference, seen, vocab_size=vocab_size, seed=asked.seed)),
        first_divergence=_first([row for row in rows if row.status is not Status.PASS]),
        inputs={
            "prompts": len(asked.prompts),
            "lengths": " ".join(str(prompt.shape[1]) for prompt in asked.prompts),
            "new tokens": asked.new,
            "ids": digest([*asked.prompts, asked.searched]),
            "ties": sum("a tie" in row.detail for row in rows),
        },
        fingerprints=kept.taken,
    )


def rows_of(  # noqa: PLR0913 - both passes' whole context
    candidate: GPT,
    reference: OpenAIGPTLMHeadModel,
    asked: GenerationInputs,
    *,
    dtype: str,
    bounds: Bounds,
    seen: list[list[int]],
    injected: Injected = contextlib.nullcontext,
    fingerprints: Fingerprints | None = None,
    progress: Progress = no_progress,
) -> Iterator[Row]:
    """Yield every row, causes before their consequences.

    The new tokens of every greedy text are appended to `seen`.
    """
    progress("rules", 0, 1)
    with injected():
        yield from rule_rows(candidate.config.vocab_size, asked.seed, bounds)
    truth = texts.oracle_forward(reference)

    def run_in(dtype: str) -> Pass:
        models = {"ours": candidate, "huggingface": reference}
        both: Any = runners.model_in_dtype(models, getattr(torch, dtype))
        return Pass(
            model=both["ours"],
            reference=both["huggingface"],
            truth=truth,
            prompts=asked.prompts,
            new=asked.new,
            bounds=bounds if dtype == "float64" else bounds_for(dtype),
            injected=injected,
            progress=progress,
            fingerprints=fingerprints or Fingerprints(),
        )

    run = run_in("float64")
    searched = beams.search_all(run, asked.searched)
    differs = False
    for row in _float64_rows(run, asked, searched, seen):
        differs |= row.status is not Status.PASS
        yield row
    if dtype == "float64":
        return
    run = run_in(dtype)
    precision = PRECISIONS[dtype]
    yield from texts.rounding_rows(run, run.cases(), precision, differs=differs)
    yield from beams.beam_rounding_rows(run, searched, precision, differs=differs)
    narrow = dtype if dtype in _HALF else _HALF[0]
    run = run_in(narrow)
    cases = requests.half_cases(run, asked.searched)
    yield from texts.rounding_rows(run, cases, PRECISIONS[narrow], differs=differs)


def _float64_rows(
    run: Pass, asked: GenerationInputs, searched: beams.BeamInputs, seen: list[list[int]]
) -> Iterator[Row]:
    yield from order_rows(run, asked.searched[:1])
    yield from texts.text_rows(run, seen)
    yield from requests.request_rows(run, asked.searched)
    with run.injected():
        yield from search_rows(asked.seed)
    yield from beams.beam_rows(run, searched)


_HALF = ("bfloat16", "float16")


def _planned(asked: GenerationInputs, dtype: str) -> list[str]:
    ways = [f"{way.name}.{at}" for way in WAYS for at in range(len(asked.prompts))]
    calls = [*ways, *requests.CALLS, *(requests.HALVES if dtype != "float64" else ())]
    return [
        *(f"rules.{name}" for name in (*(case.name for case in CASES), *CHOICES, "order")),
        *(f"{call}.{what}" for call in calls for what in ("logits", "ids")),
        *requests.OTHERS,
        *(f"beams.{name}" for name in SEARCHES),
        *(f"beams.{setting.name}.{what}" for setting in SETTINGS for what in ("texts", "scores")),
    ]


_SUSPECTS = {
    "text": "the tokenizer: `python -m parity.check tokens` names the step",
    "rules": "the formula of one rule, or the order of all",
    "rules.half": "a rule that computes in half precision, instead of float32",
    "rules.likeliest": "ties: of equal logits the lowest id is due",
    "rules.drawn": "the edges of a draw: the first id, the last one, an excluded one",
    "greedy": "what a decoder keeps: keys, values, positions, its length",
    "ruled": "the text that a rule is given: prompt and new tokens, the newest too",
    "sampled": "random numbers: each text has its own, which depend on seed and row alone",
    "batch": "rows of a batch that depend on each other, or are in another order",
    "batch.tied": "ties: of equal logits the lowest id is due",
    "batch.sampled": "random numbers: each row and sample has its own, samples side by side",
    "batch.streams": "seed and streams that were given: one of them is not used",
    "batch.ends": "the end token: it ends its own row, fills that row, and the last one ends all",
    "batch.names": "options by Hugging Face's names",
    "overflow": "the last position: where a text stops, or goes on from its later half",
    "chunks": "a chunk after the first: its positions, its mask, the keys before it",
    "stream": "streamed text: the space between words, held-back parts, a stop string",
    "beams": "rows that change places, scores, lengths, and when a text ends",
    "beams.choices": "a search without ends: its first beam, sums of scores, the order of texts",
    "beams.ties": "ties: of equal scores the earlier beam comes first, then the lower id",
    "beams.ends": "a token that ends a text: candidates, and texts that are finished",
    "beams.penalties": "the length penalty: its sign, and the length it is applied to",
    "beams.stopping": "early_stopping: when a prompt is done",
    "beams.fill": "texts shorter than the longest one, or fewer texts than beams",
    "beams.full": "the limit of a text's length: the positions of the model",
    "half": "half precision: numbers that are rounded where float32 is due",
}
"""Likely causes, by the first parts of a row's name."""

_THE_MODEL = "the model itself, not its cache: `python -m parity.check layerwise` names the place"


def _first(failing: Sequence[Row]) -> FirstDivergence | None:
    if not failing:
        return None
    row = failing[0]
    found = row.detail or difference_found(row)
    suspects = next(
        words for tap, words in reversed(_SUSPECTS.items()) if f"{row.tap}.".startswith(tap)
    )
    if texts.ALSO_UNCACHED in found:
        suspects = _THE_MODEL
    return FirstDivergence(tap=row.tap, why=found, suspects=suspects, row=row)
