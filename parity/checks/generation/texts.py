"""Texts of `generate` and their references.

A case is one call. Its logits are compared at every step with references without a cache, and its
ids with those that follow from the references' logits by transformers' rules and the oracle's
choice, in every row with that row's own random numbers.
"""

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation.rows import (
    BACKEND,
    Result,
    attempt,
    broken_row,
    float64_row,
    ids_row,
    reference_error,
    rounding_row,
)
from parity.checks.generation.rules import TOGETHER, expected_logits, fitting, support_row
from parity.core import reordered
from parity.core.fingerprints import Fingerprints
from parity.core.gates import RoundingError, pooled
from parity.core.metrics import Status
from parity.core.results import Row
from parity.core.runners import oracle_weights
from parity.core.tolerances import PRECISIONS, Bounds, Precision
from reference import generation_oracle, huggingface, huggingface_generation, oracle
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

# Ways to choose the next token.

SEED = 20_180_611
"""Seed of the sampled texts."""

Change = Callable[[Tensor], Tensor]
"""From the logits that the rules left, `[texts vocab]`, to those from which a token is chosen."""


def unchanged(logits: Tensor) -> Tensor:
    """Return the logits."""
    return logits


def tied(logits: Tensor) -> Tensor:
    """Return logits of which the five largest are equal."""
    return logits.minimum(logits.topk(5).values[:, -1:])


def lifted(logits: Tensor) -> Tensor:
    """Return logits with which the first id and the last are drawn two times in five each."""
    logits = logits.clone()
    logits[:, 0] = logits[:, -1] = logits[:, 1:-1].logsumexp(-1) + float(np.log(2.0))
    return logits


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watched(Rules):
    """Rules that keep the logits of every step, before and after, and change those after."""

    change: Change = unchanged
    seen: list[Tensor] = dataclasses.field(default_factory=list)
    left: list[Tensor] = dataclasses.field(default_factory=list)

    def processed(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        """Return the changed logits after all rules, as in `Rules`."""
        self.seen.append(logits.clone())
        self.left.append(self.change(super().processed(logits, token_ids)).clone())
        return self.left[-1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Way:
    """A way of choosing the next token.

    `fields` are the rules under the names that transformers and we share, in transformers' order.
    `change` is part of the inputs: both sides apply it after their rules.
    """

    name: str
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    sampled: bool = False
    change: Change = unchanged

    def fitting(self, vocab_size: int) -> "Way":
        """Return the way for a vocabulary."""
        return dataclasses.replace(self, fields=fitting(self.fields, vocab_size))

    def watched(self) -> Watched:
        """Return the rules in the form of our generator."""
        return Watched(**self.fields, sampled=self.sampled, change=self.change)

    def left(self, logits: Tensor, token_ids: Tensor) -> Tensor:
        """Return logits `[texts vocab]` after transformers' rules; the text is `[texts time]`."""
        return self.change(expected_logits(self.fields, logits, token_ids))


WAYS = (
    Way(name="greedy"),
    Way(name="ruled", fields={"repetition_penalty": 1.3, "no_repeat_ngram_size": 2}),
    Way(name="sampled", fields={"temperature": 0.8, "top_k": 40, "top_p": 0.9}, sampled=True),
)
"""The ways of every prompt."""

GREEDY, RULED, SAMPLED = WAYS
TIED = Way(name="tied", change=tied)
LIFTED = Way(name="lifted", sampled=True, change=lifted)


# Calls of `generate`, and the texts that they give.

Run = Callable[["Case", GPT, Watched], Tensor]


def by_generate(case: "Case", model: GPT, rules: Watched) -> Tensor:
    """Return the texts of `model.generate`, `[texts length]`."""
    settings = {"rules": rules, "samples": case.samples, "streams": case.streams}
    settings |= {"seed": case.seed, "end_id": case.end_id, "overflow": case.overflow}
    made: Tensor = cast("Any", model).generate(case.prompts, max_new_tokens=case.new, **settings)
    return made


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One call of `generate`.

    Attributes:
        tap: Name of its rows.
        prompts: `[batch time]`.
        way: How tokens are chosen.
        new: The most new tokens.
        longest: Positions of the model.
        first: Number of the first prompt, for messages.
        run: Makes the texts.
        samples: The other settings are `generate`'s.
    """

    tap: str
    prompts: Tensor
    way: Way
    new: int
    longest: int
    first: int = 0
    run: Run = by_generate
    samples: int = 1
    streams: tuple[int, ...] = ()
    seed: int = SEED
    end_id: int | None = None
    overflow: str = "stop"

    @property
    def known(self) -> int:
        """Tokens of a prompt."""
        return self.prompts.shape[1]

    @property
    def texts(self) -> int:
        """The number of texts that are due."""
        return len(self.prompts) * self.samples

    def start(self, step: int) -> int:
        """Return the first token that a step reads: half of the positions are kept at a slide."""
        start = 0
        for end in range(self.known, self.known + step + 1):
            if end - start > self.longest:
                start = end - max(1, self.longest // 2)
        return start

    def place(self, text: int = 0, step: int | None = None) -> str:
        """Return prompt, sample, step and position, for a message."""
        sample = f", sample {text % self.samples}" if self.samples > 1 else ""
        where = f"prompt {self.first + text // self.samples} ({self.known} tokens){sample}"
        if step is None:
            return where
        return f"{where}, step {step}, position {self.known + step - 1}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Made:
    """The texts of a case.

    Attributes:
        case: The case.
        text: `[texts length]`, prompts and new tokens.
        logits: `[texts new vocab]`, from which each new token was chosen, before any rule.
        left: The same after every rule.
    """

    case: Case
    text: Tensor
    logits: Tensor
    left: Tensor

    @property
    def new(self) -> list[list[int]]:
        """The new tokens of each text."""
        ids: list[list[int]] = self.text[:, self.case.known :].tolist()
        return ids

    def problem(self) -> str:
        """Return the reason why no token can be compared; empty if there is none."""
        case, steps = self.case, self.logits.shape[1]
        if self.text.shape != (case.texts, case.known + steps):
            due = [case.texts, case.known + steps]
            return f"texts of shape {list(self.text.shape)}; {due} is due after {steps} steps"
        if not torch.equal(self.text[:, : case.known], repeated(case.prompts, case.samples)):
            return "the texts do not begin with the prompts, the samples of each side by side"
        if not bool(((self.text >= 0) & (self.text < self.logits.shape[-1])).all()):
            return f"an id is outside the vocabulary of {self.logits.shape[-1]}"
        return ""


def repeated(prompts: Tensor, samples: int) -> Tensor:
    """Return the prompts, each as often as it has samples."""
    return torch.cat([prompt.expand(samples, -1) for prompt in prompts[:, None]])


def rechosen(made: Made, logits: Tensor | None = None) -> list[list[int]]:
    """Return the new tokens that follow from logits `[texts new vocab]` at each step of the texts.

    If they are the texts' own, a reference with these logits generates the same texts. No function
    of ours chooses: the rules are transformers', choice and random numbers are the oracle's. By
    default the tokens follow from the logits that our rules left.
    """
    case, ours, steps = made.case, made.new, made.left.shape[1]
    streams = case.streams or range(case.texts)
    numbers = [generation_oracle.uniform(case.seed, stream, steps) for stream in streams]
    chosen: list[list[int]] = [[] for _ in ours]
    for step in range(steps):
        text, left = made.text[:, : case.known + step], made.left[:, step]
        if logits is not None:
            left = case.way.left(logits[:, step], text)
        # The difference is rounded to the dtype of the logits, as it is where a token is drawn.
        scores = (left - left.amax(-1, keepdim=True)).double().numpy()
        for row, ids in enumerate(chosen):
            if case.end_id is not None and case.end_id in ours[row][:step]:
                ids.append(case.end_id)
            elif np.isnan(scores[row]).any():
                ids.append(_NONE)
            elif case.way.sampled:
                ids.append(generation_oracle.draw(scores[row], numbers[row][step]))
            else:
                ids.append(generation_oracle.likeliest(scores[row]))
    due = _due(case, ours)
    return [[*ids, *[_NONE] * (due - steps)][:due] for ids in chosen]


_NONE = -1
"""The token of a step that is missing."""


def _due(case: Case, new: Sequence[Sequence[int]]) -> int:
    """Return how many steps are due: fewer than asked where positions, or all texts, end."""
    most = case.new if case.overflow == "slide" else min(case.new, case.longest - case.known)
    end_id = case.end_id
    if end_id is None or any(end_id not in ids[:most] for ids in new):
        return most
    return 1 + max(ids.index(end_id) for ids in new)


def draw_prompts(count: int, *, longest: int, vocab_size: int, seed: int) -> list[Tensor]:
    """Return prompts `[1 time]` of lengths from 1 to `longest`, evenly spread by their logarithm.

    All differ, so that a text that depends on another one's is wrong.
    """
    lengths = np.geomspace(1, longest, count).round().astype(int) if count > 1 else [longest]
    generator = np.random.Generator(np.random.Philox(seed))
    return [
        torch.from_numpy(generator.integers(0, vocab_size, size=(1, length)))
        for length in map(int, lengths)
    ]


def first_difference(ours: Sequence[int], other: Sequence[int]) -> int | None:
    """Return the first step at which two continuations differ; None where they do not."""
    pairs = enumerate(itertools.zip_longest(ours, other))
    return next((step for step, (mine, its) in pairs if mine != its), None)


def difference_message(made: Made, other: Sequence[Sequence[int]], against: str) -> str:
    """Return the first difference from another side's texts, for a message; empty without any."""
    for row, (mine, its) in enumerate(zip(made.new, other, strict=True)):
        step = first_difference(mine, its)
        if step is None:
            continue
        if step == len(mine):
            found = f"ours ends, though {len(its)} tokens are due"
        elif step == len(its):
            found = f"ours {mine[step]}, though only {len(its)} tokens are due"
        else:
            found = f"ours {mine[step]}, {against} {its[step]}"
        return f"{made.case.place(row, step)}: {found}"
    return ""


def flat(texts: Sequence[Sequence[int]]) -> list[int]:
    """Return the tokens of all texts, one after the other."""
    return [token for text in texts for token in text]


# Ties.
#
# Two correct sides may choose different ids only where the oracle's gap between them is within both
# sides' errors. Our error counts at most as large as the bound allows, else a fault would excuse
# itself.


def tie_excuse(
    made: Made, other: Sequence[Sequence[int]], *, truth: Tensor, reference: Tensor, bounds: Bounds
) -> str:
    """Return the description of a tie at the first difference of each text; empty if one is none.

    Args:
        made: Our texts, chosen without sampling.
        other: The reference's new tokens.
        truth: `[texts new vocab]`, the oracle's logits of our texts.
        reference: `[texts new vocab]`, the reference's logits of its own texts.
        bounds: Bounds of the run.
    """
    case, found = made.case, []
    for row, (mine, its) in enumerate(zip(made.new, other, strict=True)):
        step = first_difference(mine, its)
        if step is None:
            continue
        if step >= min(len(mine), len(its)):
            return ""
        text, right = made.text[row : row + 1, : case.known + step], truth[row, step]
        ranked = case.way.left(right[None], text)[0]
        gap = abs(float(ranked[mine[step]] - ranked[its[step]]))
        theirs = _largest(reference[row, step], right)
        ours = min(_largest(made.logits[row, step], right), bounds.peak * theirs)
        # Both ids' logits are off on both sides. Written so that NaN is no excuse.
        if not gap <= 2.0 * (ours + theirs):
            return ""
        found.append(f"a tie at step {step}: the oracle's gap is {gap:.2g}")
    return f"{found[0]}, both sides' errors are larger" if found else ""


def _largest(tensor: Tensor, truth: Tensor) -> float:
    return float((tensor.double() - truth).abs().amax())


# Logits of whole texts without a cache: ours, Hugging Face's, the oracle's.


Forward = Callable[[Tensor], Tensor]
"""From ids `[batch time]` to logits `[batch time vocab]`."""


def candidate_forward(model: GPT) -> Forward:
    """Return our model without a cache, on the backend `plain`."""
    return torch.no_grad()(model.with_backend("plain").eval())


def huggingface_forward(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return Hugging Face's model without a cache."""
    return torch.no_grad()(partial(huggingface.logits, model))


def oracle_forward(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return the oracle with the weights of Hugging Face's model."""
    weights, epsilon = oracle_weights(model), model.config.layer_norm_epsilon

    def forward(token_ids: Tensor) -> Tensor:
        taps = oracle.forward(weights, token_ids.numpy(), epsilon=epsilon)
        return torch.from_numpy(next(value for name, value in taps if name == "logits"))

    return forward


def following(forward: Forward, made: Made) -> Tensor:
    """Return a reference's logits `[texts new vocab]` from which the new tokens follow."""
    case, parts = made.case, []
    for start, group in itertools.groupby(range(made.logits.shape[1]), case.start):
        steps = list(group)
        read = made.text[:, start : case.known + steps[-1]]
        parts.append(forward(read)[:, case.known + steps[0] - 1 - start :])
    return torch.cat(parts, dim=1)


OURS, THEIRS = f"ours/{BACKEND}", "huggingface"
"""Subjects of fingerprints."""


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
        self.dtype = str(self.model.tokens_embed.weight.dtype).removeprefix("torch.")

    def made(self, case: Case, model: GPT | None = None) -> Made | Row:
        """Return the texts of a case, or the row of the error instead."""
        rules = case.way.watched()

        def make() -> Made:
            text = case.run(case, model or self.model, rules)
            seen, left = (torch.stack(steps, dim=1) for steps in (rules.seen, rules.left))
            return Made(case=case, text=text, logits=seen, left=left)

        tap = f"{case.tap}.logits"
        made = self.attempt(
            make, tap=tap, place=lambda: case.place(0, len(rules.seen) - 1 if rules.seen else None)
        )
        if isinstance(made, Made) and made.problem():
            detail = f"{case.place()}: {made.problem()}"
            return broken_row(detail, tap=tap, dtype=self.dtype)
        return made

    def attempt(
        self, compute: Callable[[], Result], *, tap: str, place: Callable[[], str]
    ) -> Result | Row:
        """Return a result of our functions, or the row of the error that they raised."""
        with self.injected():
            return attempt(compute, tap=tap, dtype=self.dtype, place=place)

    def take(self, side: str, tap: str, logits: Tensor, ids: Sequence[Sequence[int]]) -> None:
        """Take the fingerprints of a case: its logits and its ids."""
        self.fingerprints.take(f"{side}/{self.dtype}", f"{tap}.logits", logits.flatten(0, 1))
        self.fingerprints.take_ids(f"{side}/{self.dtype}", f"{tap}.ids", ids)

    def cases(self) -> Iterator[Case]:
        """Yield a case for every way and prompt; where tokens are drawn it has two samples."""
        for way in WAYS:
            for at, prompt in enumerate(self.prompts):
                yield Case(
                    tap=f"{way.name}.{at}",
                    prompts=prompt,
                    way=way.fitting(self.model.config.vocab_size),
                    new=self.new,
                    longest=self.model.config.n_positions,
                    first=at,
                    samples=2 if way.sampled else 1,
                )


ALSO_UNCACHED = "the model without a cache differs as well"


def text_rows(run: Pass, seen: list[list[int]]) -> Iterator[Row]:
    """Yield, for every way and prompt, the rows of logits and ids against three references.

    The new tokens of every greedy text are appended to `seen`.
    """
    references = {
        "oracle": run.truth,
        "huggingface": huggingface_forward(run.reference),
        "uncached": candidate_forward(run.model),
    }
    for number, case in enumerate(run.cases()):
        run.progress(f"float64 {case.way.name}", number, len(WAYS) * len(run.prompts))
        made = run.made(case)
        if isinstance(made, Row):
            yield made
            continue
        if case.way == GREEDY:
            seen += made.new
        yield from float64_rows(run, made, references)


def float64_rows(run: Pass, made: Made, references: Mapping[str, Forward]) -> Iterator[Row]:
    """Yield the rows of one case in float64: of logits, then of ids, against each reference."""
    case, found = made.case, dict[str, Tensor]()
    for name, forward in references.items():
        logits = run.attempt(
            partial(following, forward, made), tap=f"{case.tap}.logits", place=case.place
        )
        if isinstance(logits, Row):
            yield dataclasses.replace(logits, against=name, detail=f"{logits.detail}, uncached")
        else:
            found[name] = logits
    for name, logits in found.items():
        row = _logits_row(case, made.logits, logits, name, run.bounds)
        if row.detail and name == "oracle":
            uncached = found.get("uncached")
            if uncached is None:
                uncached = following(candidate_forward(run.model), made)
            if _logits_row(case, uncached, logits, name, run.bounds).status is not Status.PASS:
                row = dataclasses.replace(row, detail=f"{row.detail}; {ALSO_UNCACHED}")
        yield row
    chosen = {name: rechosen(made, logits) for name, logits in found.items()}
    for name, other in chosen.items():
        yield text_ids_row(made, other, against=name, dtype="float64")
    run.take(OURS, case.tap, made.logits, made.new)
    if THEIRS in found:
        run.take(THEIRS, case.tap, found[THEIRS], chosen[THEIRS])


def _logits_row(case: Case, ours: Tensor, other: Tensor, against: str, bounds: Bounds) -> Row:
    """Return the row of logits `[texts new vocab]`, with the first step at which they differ."""
    mine, its = ours.flatten(0, 1), other.flatten(0, 1)
    row = float64_row(f"{case.tap}.logits", mine, its, against, bounds)
    if not row.detail or mine.shape != its.shape:
        return row
    off = (ours - other).abs().amax(2) / float(other.square().mean().sqrt())
    # Written so that NaN differs.
    wrong = (~(off <= bounds.float64)).nonzero().tolist() or [[0, 0]]
    text, step = min(wrong, key=lambda found: found[::-1])
    return dataclasses.replace(row, detail=f"{case.place(text, step)}: {row.detail}")


def text_ids_row(
    made: Made, other: Sequence[Sequence[int]], *, against: str, dtype: str, excused: str = ""
) -> Row:
    """Return the row of the new tokens of all texts."""
    row = ids_row(
        flat(made.new),
        flat(other),
        tap=f"{made.case.tap}.ids",
        dtype=dtype,
        against=against,
        excused=excused,
    )
    message = difference_message(made, other, against)
    return dataclasses.replace(row, detail=f"{message}; {excused}" if excused else message)


@dataclasses.dataclass(kw_only=True)
class _Both:
    """Both sides' texts of one case, and the oracle's logits of ours.

    Where tokens are drawn, Hugging Face's logits are those of our texts, and it has no ids.
    """

    ours: Made
    theirs: list[list[int]] | None
    reference: Tensor
    truth: Tensor
    noise: RoundingError


def rounding_rows(
    run: Pass, cases: Iterable[Case], precision: Precision, *, differs: bool
) -> Iterator[Row]:
    """Yield, for each case in the checked dtype, the row of logits and those of ids.

    Before logits fail, Hugging Face's rounding is measured again. Not if a result `differs` in
    float64: then the failure is no rounding. Ids are compared with those that follow from our own
    logits. Without sampling they are also compared with Hugging Face's, which uses other random
    numbers.
    """
    for way, group in itertools.groupby(cases, key=lambda case: case.way):
        pairs: list[_Both] = []
        for number, case in enumerate(group):
            run.progress(f"{run.dtype} {way.name}", number, len(run.prompts))
            made = run.made(case)
            if isinstance(made, Row):
                yield made
            else:
                pairs.append(_both(run, made))
        worst = RoundingError()
        for pair in pairs:
            worst = worst.at_least(pair.noise)
        for pair in pairs:
            for seed in itertools.count():
                logits, *ids = _quality_rows(run, pair, worst, precision)
                if logits.status is Status.PASS or differs or seed == reordered.RUNS:
                    break
                pair.noise = pair.noise.at_least(_noise_again(run, pair, seed))
            yield from (logits, *ids)


def _noise_again(run: Pass, pair: _Both, seed: int) -> RoundingError:
    """Return the rounding error of Hugging Face's model in another order, which is as right."""
    other = reordered.Reordered(run.reference, seed)

    def forward(token_ids: Tensor) -> Tensor:
        logits = other.in_old_order(
            lambda tap: huggingface.logits(other.model, token_ids, tap=tap), rounds=True
        )
        return logits(lambda _name, value: value)

    seen = following(torch.no_grad()(forward), pair.ours)
    return reference_error(seen.flatten(0, 1), pair.truth.flatten(0, 1))


def _both(run: Pass, made: Made) -> _Both:
    """Return both sides' texts, and the error of Hugging Face's logits while they are equal."""
    case, truth = made.case, following(run.truth, made)
    ids: list[list[int]] | None = None
    if case.way.sampled:
        reference = following(huggingface_forward(run.reference), made)
        shared = [(row, reference.shape[1]) for row in range(len(reference))]
    else:
        theirs = huggingface_generation.continue_text(
            run.reference, case.prompts, max_new_tokens=case.new, rules=case.way.fields
        )
        reference = theirs.logits.transpose(0, 1)
        ids = theirs.token_ids[:, case.known :].tolist()
        steps = [first_difference(mine, its) for mine, its in zip(made.new, ids, strict=True)]
        shared = [(row, case.new if s is None else s + 1) for row, s in enumerate(steps)]
        run.take(THEIRS, case.tap, reference, ids)
    run.take(OURS, case.tap, made.logits, made.new)
    theirs_seen, right = (
        torch.cat([logits[row, :end] for row, end in shared]) for logits in (reference, truth)
    )
    return _Both(
        ours=made,
        theirs=ids,
        reference=reference,
        truth=truth,
        noise=reference_error(theirs_seen, right),
    )


def _quality_rows(
    run: Pass, pair: _Both, worst: RoundingError, precision: Precision
) -> Iterator[Row]:
    made, case = pair.ours, pair.ours.case
    noise = pooled(pair.noise, worst, made.logits.numel())
    mine, right = (logits.flatten(0, 1) for logits in (made.logits, pair.truth))
    row = rounding_row(f"{case.tap}.logits", mine, right, noise, precision, run.bounds)
    yield dataclasses.replace(row, detail=row.detail and f"{case.place()}: {row.detail}")
    yield text_ids_row(made, rechosen(made), against=OWN_LOGITS, dtype=run.dtype)
    if pair.theirs is not None:
        excused = tie_excuse(
            made, pair.theirs, truth=pair.truth, reference=pair.reference, bounds=run.bounds
        )
        yield text_ids_row(
            made, pair.theirs, against="huggingface", dtype=run.dtype, excused=excused
        )


OWN_LOGITS = "own logits"
"""The oracle's choice from the logits that our rules left: its ids have no ties."""


STEPS = 3
"""New tokens on whose logits all rules are applied together."""


def order_rows(run: Pass, prompt: Tensor) -> Iterator[Row]:
    """Yield two rows for all rules in the order of `generate`: remaining tokens, their logits.

    The logits are those of Hugging Face's `generate` with sampling, in float32.
    """
    together = fitting(TOGETHER, run.model.config.vocab_size)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = huggingface_generation.continue_text(
            run.reference, prompt, max_new_tokens=STEPS, sampled=True, rules=together
        )
    rules = Rules(sampled=True, **together)
    texts = [made.token_ids[:, : prompt.shape[1] + step] for step in range(STEPS)]
    steps = list(zip(made.logits, texts, strict=True))
    ours = run.attempt(
        lambda: torch.cat([rules.processed(logits, text) for logits, text in steps]),
        tap="rules.order",
        place=lambda: f"a text of {prompt.shape[1]} tokens",
    )
    if isinstance(ours, Row):
        yield ours
        return
    truth = torch.cat([expected_logits(together, logits.double(), text) for logits, text in steps])
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
