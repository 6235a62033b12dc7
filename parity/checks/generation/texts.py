"""Rows of generated texts, in two passes over the prompts.

The float64 pass compares the cached decoder with three references without a cache. The pass in the
checked dtype compares its rounding with Hugging Face's, and its texts with those of Hugging Face's
own `generate`.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation.rows import (
    BACKEND,
    float64_row,
    ids_row,
    raised_row,
    reference_error,
    rounding_row,
)
from parity.checks.generation.rules import TOGETHER, expected_logits, support_row
from parity.core.fingerprints import Fingerprints
from parity.core.gates import RoundingError, pooled
from parity.core.results import Row
from parity.core.runners import oracle_weights
from parity.core.tolerances import PRECISIONS, Bounds, Precision
from reference import generation_oracle, huggingface, huggingface_generation, oracle
from scratch_gpt.generation.beam_search import Stepping
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Draws, Rules, choose
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

# Prompts, ways to choose the next token, and what our decoder generates.

SEED = 20_180_611
"""Seed of the sampled texts."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way of choosing the next token.

    `fields` are the rules under the names that transformers and we share, in transformers' order.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampled: bool = False

    @property
    def rules(self) -> Rules:
        """The rules in the form of our generator."""
        return Rules(**self.fields, sampled=self.sampled)


WAYS = (
    Way(name="greedy"),
    Way(name="ruled", fields={"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}),
    Way(name="sampled", fields={"temperature": 0.8, "top_k": 40, "top_p": 0.9}, sampled=True),
)
"""Every way that is compared; the last one samples."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Continuation:
    """A prompt with the tokens that a decoder added.

    Attributes:
        text: `[1 time]`, prompt and new tokens.
        known: Tokens of the prompt.
        logits: `[new vocab]`, from which each new token was chosen, before any rule.
    """

    text: Tensor
    known: int
    logits: Tensor

    @property
    def new(self) -> list[int]:
        """The new tokens."""
        ids: list[int] = self.text[0, self.known :].tolist()
        return ids


def continuation(decoder: Stepping, prompt: Tensor, way: Way, count: int) -> Continuation:
    """Return a prompt `[1 time]` with `count` new tokens."""
    draws, text, rules = Draws(SEED, len(prompt)), prompt, way.rules
    steps = [decoder.start(prompt)]
    while True:
        chosen = choose(rules.processed(steps[-1], text), rules, draws)
        text = torch.cat([text, chosen[:, None]], dim=1)
        if len(steps) == count:
            break
        steps.append(decoder.step(chosen))
    return Continuation(text=text, known=prompt.shape[1], logits=torch.cat(steps))


def rechosen(logits: Tensor, made: Continuation, way: Way) -> list[int]:
    """Return the tokens that follow from a reference's logits `[new vocab]` at each step of a text.

    If they are the text's own, the reference generates the same text. No function of ours chooses:
    the rules are transformers', the choice and the random numbers are the oracle's.
    """
    numbers = generation_oracle.uniform(SEED, 0, len(logits))
    chosen = []
    for step, row in enumerate(logits):
        left = expected_logits(way.fields, row[None], made.text[:, : made.known + step])[0].numpy()
        drawn = generation_oracle.draw(left, numbers[step])
        chosen.append(drawn if way.sampled else generation_oracle.likeliest(left))
    return chosen


def draw_prompts(count: int, *, longest: int, vocab_size: int, seed: int) -> list[Tensor]:
    """Return prompts `[1 time]` of lengths from 1 to `longest`, evenly spread by their logarithm.

    All differ, so that what one leaves in the decoder's cache is wrong for the next.
    """
    lengths = np.geomspace(1, longest, count).round().astype(int) if count > 1 else [longest]
    generator = np.random.Generator(np.random.Philox(seed))
    return [
        torch.from_numpy(generator.integers(0, vocab_size, size=(1, length)))
        for length in map(int, lengths)
    ]


def first_difference(ours: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first step at which two continuations differ; None where they do not."""
    pairs = enumerate(zip(ours, other, strict=True))
    return next((step for step, (mine, its) in pairs if mine != its), None)


# Ties.
#
# Two correct sides may choose different ids only where the oracle's gap between them is within both
# sides' errors. Our error counts at most as large as the bound allows, else a fault would excuse
# itself.


def tie_excuse(  # noqa: PLR0913 - two texts, their logits, and the true ones
    made: Continuation,
    other: Sequence[int],
    *,
    way: Way,
    truth: Tensor,
    reference: Tensor,
    bounds: Bounds,
) -> str:
    """Return the description of a tie at the first difference; empty if it is none.

    Args:
        made: Our text.
        other: The reference's new tokens.
        way: How both were chosen, without sampling.
        truth: `[new vocab]`, the oracle's logits of our text.
        reference: `[new vocab]`, the reference's logits of its own text.
        bounds: Bounds of the run.
    """
    step = first_difference(made.new, other)
    if step is None:
        return ""
    text, row = made.text[:, : made.known + step], truth[step][None]
    ranked = expected_logits(way.fields, row, text)[0]
    gap = abs(float(ranked[made.new[step]] - ranked[other[step]]))
    theirs = _largest(reference[step], row[0])
    mine = min(_largest(made.logits[step], row[0]), bounds.peak * theirs)
    # Both ids' logits are off on both sides. Written so that NaN is no excuse.
    if not gap <= 2.0 * (mine + theirs):
        return ""
    return f"a tie at step {step}: the oracle's gap is {gap:.2g}, both sides' errors are larger"


def divergence_place(made: Continuation, step: int, prompt: int) -> str:
    """Return the prompt, step and position, for a message."""
    return f"prompt {prompt} ({made.known} tokens), step {step}, position {made.known + step - 1}"


def tie_message(made: Continuation, other: Sequence[int], against: str, prompt: int) -> str:
    """Return the first difference between two texts, for a message; empty without any."""
    step = first_difference(made.new, other)
    if step is None:
        return ""
    ids = f"ours {made.new[step]}, {against} {other[step]}"
    return f"{divergence_place(made, step, prompt)}: {ids}"


def _largest(tensor: Tensor, truth: Tensor) -> float:
    return float((tensor.double() - truth).abs().amax())


# Logits of a whole text without a cache: ours, Hugging Face's, the oracle's.


Forward = Callable[[Tensor], Tensor]
"""From ids `[batch time]` to logits `[batch time vocab]`."""


def candidate_forward(model: GPT) -> Forward:
    """Return our model without a cache, on the backend `plain`."""
    plain = model.with_backend("plain").eval()

    @torch.no_grad()
    def forward(token_ids: Tensor) -> Tensor:
        return cast("Tensor", plain(token_ids))

    return forward


def huggingface_forward(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return Hugging Face's model without a cache."""

    @torch.no_grad()
    def forward(token_ids: Tensor) -> Tensor:
        return huggingface.logits(model, token_ids)

    return forward


def oracle_forward(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return the oracle with the weights of Hugging Face's model."""
    weights, epsilon = oracle_weights(model), model.config.layer_norm_epsilon

    def forward(token_ids: Tensor) -> Tensor:
        taps = oracle.forward(weights, token_ids.numpy(), epsilon=epsilon)
        return torch.from_numpy(next(value for name, value in taps if name == "logits"))

    return forward


def following(forward: Mapping[str, Forward], text: Tensor, known: int) -> dict[str, Tensor]:
    """Return each reference's logits `[new vocab]` from which the tokens after `known` follow."""
    # No token follows the last one.
    return {name: run(text[:, :-1])[0, known - 1 :] for name, run in forward.items()}


OURS, THEIRS = f"ours/{BACKEND}", "huggingface"
"""Subjects of fingerprints."""


Result = TypeVar("Result")
Injected = Callable[[], AbstractContextManager[None]]
"""Returns the context in which our functions run: with it a verb injects a fault."""


@dataclasses.dataclass(kw_only=True)
class Pass:
    """Both models in one dtype, the oracle, prompts `[1 time]`, and the number of new tokens."""

    model: GPT
    reference: OpenAIGPTLMHeadModel
    truth: Forward
    prompts: Sequence[Tensor]
    new: int
    bounds: Bounds
    progress: Progress
    injected: Injected = contextlib.nullcontext
    fingerprints: Fingerprints = dataclasses.field(default_factory=Fingerprints)

    def __post_init__(self) -> None:
        # One for all prompts: the cache must not carry one text over to the next.
        self.decoder = Decoder(self.model, batch=1)

        self.dtype = str(self.model.tokens_embed.weight.dtype).removeprefix("torch.")

    def made(self, prompt: Tensor, way: Way) -> Continuation | Exception:
        """Return our decoder's text of a prompt, or the error that it raised."""
        return self.attempt(lambda: continuation(self.decoder, prompt, way, self.new))

    def attempt(self, compute: Callable[[], Result]) -> Result | Exception:
        """Return a result of our functions, or the error that they raised."""
        with self.injected():
            try:
                return compute()
            except (ValueError, IndexError, RuntimeError) as error:
                return error

    def take(self, side: str, tap: str, logits: Tensor, ids: Sequence[int]) -> None:
        """Take the fingerprints of one text: its logits and its ids."""
        self.fingerprints.take(f"{side}/{self.dtype}", f"{tap}.logits", logits)
        self.fingerprints.take_ids(f"{side}/{self.dtype}", f"{tap}.ids", [ids])


def text_rows(run: Pass, seen: list[list[int]]) -> Iterator[Row]:
    """Yield, for every way and prompt, the rows of logits and ids against three references.

    The new tokens of every greedy text are appended to `seen`.
    """
    forwards: Mapping[str, Forward] = {
        "oracle": run.truth,
        "huggingface": huggingface_forward(run.reference),
        "uncached": candidate_forward(run.model),
    }
    for way in WAYS:
        for at, prompt in enumerate(run.prompts):
            run.progress(f"float64 {way.name}", at, len(run.prompts))
            tap, made = f"{way.name}.{at}", run.made(prompt, way)
            if isinstance(made, Exception):
                yield raised_row(made, tap=f"{tap}.logits", dtype="float64")
                continue
            if way is WAYS[0]:
                seen.append(made.new)
            found = following(forwards, made.text, made.known)
            for name, logits in found.items():
                row = float64_row(f"{tap}.logits", made.logits, logits, name, run.bounds)
                yield _placed(row, made, logits, at, run.bounds)
            chosen = {name: rechosen(logits, made, way) for name, logits in found.items()}
            for name, other in chosen.items():
                row = ids_row(made.new, other, tap=f"{tap}.ids", dtype="float64", against=name)
                yield dataclasses.replace(row, detail=tie_message(made, other, name, at))
            run.take(OURS, tap, made.logits, made.new)
            run.take(THEIRS, tap, found[THEIRS], chosen[THEIRS])


def _placed(row: Row, made: Continuation, other: Tensor, at: int, bounds: Bounds) -> Row:
    """Return a row of logits with the first step at which they differ."""
    if not row.detail or made.logits.shape != other.shape:
        return row
    scale = float(other.square().mean().sqrt())
    off = (made.logits - other).abs().amax(1) / scale
    # Written so that NaN differs.
    step = next((i for i, error in enumerate(off.tolist()) if not error <= bounds.float64), 0)
    return dataclasses.replace(row, detail=f"{divergence_place(made, step, at)}: {row.detail}")


@dataclasses.dataclass(kw_only=True)
class _Both:
    """Both sides' texts of one prompt, and the oracle's logits of ours."""

    tap: str
    at: int
    way: Way
    ours: Continuation
    theirs: list[int]
    reference: Tensor
    truth: Tensor
    noise: RoundingError


def text_rounding_rows(run: Pass, precision: Precision) -> Iterator[Row]:
    """Yield, for each way without sampling and each prompt, rows of logits and of ids."""
    for way in WAYS:
        if way.sampled:
            continue  # Hugging Face uses other random numbers
        pairs: list[_Both] = []
        for at, prompt in enumerate(run.prompts):
            run.progress(f"{precision.dtype} {way.name}", at, len(run.prompts))
            made = run.made(prompt, way)
            if isinstance(made, Exception):
                yield raised_row(made, tap=f"{way.name}.{at}.logits", dtype=run.dtype)
            else:
                pairs.append(_both(run, way, at, prompt, made))
        worst = RoundingError()
        for pair in pairs:
            worst = worst.at_least(pair.noise)
        for pair in pairs:
            yield from _quality_pair(run, pair, worst, precision)


def _both(run: Pass, way: Way, at: int, prompt: Tensor, made: Continuation) -> _Both:
    """Return both sides' texts, and the error of Hugging Face's logits while they are equal."""
    theirs = huggingface_generation.continue_text(
        run.reference, prompt, max_new_tokens=run.new, rules=way.fields
    )
    ids: list[int] = theirs.token_ids[0, made.known :].tolist()
    run.take(OURS, f"{way.name}.{at}", made.logits, made.new)
    run.take(THEIRS, f"{way.name}.{at}", theirs.logits[:, 0], ids)
    truth = following({"oracle": run.truth}, made.text, made.known)["oracle"]
    step = first_difference(made.new, ids)
    shared = slice(0, None if step is None else step + 1)
    return _Both(
        tap=f"{way.name}.{at}",
        at=at,
        way=way,
        ours=made,
        theirs=ids,
        reference=theirs.logits[:, 0],
        truth=truth,
        noise=reference_error(theirs.logits[shared, 0], truth[shared]),
    )


def _quality_pair(
    run: Pass, pair: _Both, worst: RoundingError, precision: Precision
) -> Iterator[Row]:
    noise = pooled(pair.noise, worst, pair.ours.logits.numel())
    tap = pair.tap
    row = rounding_row(f"{tap}.logits", pair.ours.logits, pair.truth, noise, precision, run.bounds)
    where = f"prompt {pair.at} ({pair.ours.known} tokens)"
    yield dataclasses.replace(row, detail=row.detail and f"{where}: {row.detail}")
    excused = tie_excuse(
        pair.ours,
        pair.theirs,
        way=pair.way,
        truth=pair.truth,
        reference=pair.reference,
        bounds=run.bounds,
    )
    message = tie_message(pair.ours, pair.theirs, "huggingface", pair.at)
    ids = ids_row(
        pair.ours.new,
        pair.theirs,
        tap=f"{tap}.ids",
        dtype=run.dtype,
        against="huggingface",
        excused=excused,
    )
    yield dataclasses.replace(ids, detail=f"{message}; {excused}" if excused else message)


STEPS = 3
"""New tokens on whose logits all rules are applied together."""


def order_rows(run: Pass, prompt: Tensor) -> Iterator[Row]:
    """Yield two rows for all rules in the order of `generate`: remaining tokens, their logits.

    The logits are those of Hugging Face's `generate` with sampling, in float32.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = huggingface_generation.continue_text(
            run.reference, prompt, max_new_tokens=STEPS, sampled=True, rules=TOGETHER
        )
    rules = Rules(sampled=True, **TOGETHER)
    texts = [made.token_ids[:, : prompt.shape[1] + step] for step in range(STEPS)]
    steps = list(zip(made.logits, texts, strict=True))
    with run.injected():
        ours = torch.cat([rules.processed(logits, text) for logits, text in steps])
    truth = torch.cat([expected_logits(TOGETHER, logits.double(), text) for logits, text in steps])
    theirs = made.processed[:, 0]
    yield _left(ours, theirs, truth)
    left = torch.isfinite(ours) & torch.isfinite(theirs) & torch.isfinite(truth)
    mine, its, right = (x[left][None] for x in (ours, theirs, truth))
    noise, precision = reference_error(its, right), PRECISIONS["float32"]
    yield rounding_row("rules.order", mine, right, noise, precision, run.bounds)


def _left(ours: Tensor, theirs: Tensor, truth: Tensor) -> Row:
    """Return the row of the remaining tokens.

    Hugging Face's float32 sums may cross `top_p` a token too early or too late. Then its processors
    in float64 decide.
    """
    mine, its, right = (torch.isfinite(x) for x in (ours, theirs, truth))
    rounded = torch.equal(mine, right) and not torch.equal(mine, its)
    excused = "Hugging Face's float32 sums cross top_p at another token" if rounded else ""
    return support_row("rules.order", mine, its, dtype="float32", excused=excused)
