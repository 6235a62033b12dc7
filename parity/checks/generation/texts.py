"""Rows of generated texts, in two passes over the prompts.

The float64 pass compares the cached decoder with three references without a cache. The pass in the
checked dtype compares its rounding with Hugging Face's, and its texts with those of Hugging Face's
own `generate`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation.continuations import (
    WAYS,
    Continuation,
    Way,
    continuation,
    first_difference,
    rechosen,
)
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
from parity.faults.generation import inject
from reference import huggingface, huggingface_generation, oracle
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Rules
from scratch_gpt.model import GPT
from scratch_gpt.progress import Progress

# Ties.
#
# Two correct sides may choose different ids only where the oracle's gap between them is within both
# sides' errors. Our error counts at most as large as the bound allows, else a faulty side would be
# excused by its own fault.


def tie_excuse(  # noqa: PLR0913 - two texts, what they were chosen from, and the truth of it
    made: Continuation,
    other: Sequence[int],
    *,
    way: Way,
    truth: Tensor,
    reference: Tensor,
    bounds: Bounds,
) -> str:
    """Return in words that the first difference is a tie; empty where it is none.

    Args:
        made: Ours.
        other: The reference's new tokens.
        way: How both were chosen; not drawn.
        truth: `[new vocab]`, the oracle's logits of our text.
        reference: `[new vocab]`, the reference's logits of its own; up to the first difference
            both texts are the same.
        bounds: Of the run.
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
    """Return where a step of a text is, in words."""
    return f"prompt {prompt} ({made.known} tokens), step {step}, position {made.known + step - 1}"


def tie_message(made: Continuation, other: Sequence[int], against: str, prompt: int) -> str:
    """Return the first difference between two texts in words; empty where there is none."""
    step = first_difference(made.new, other)
    if step is None:
        return ""
    ids = f"ours {made.new[step]}, {against} {other[step]}"
    return f"{divergence_place(made, step, prompt)}: {ids}"


def _largest(tensor: Tensor, truth: Tensor) -> float:
    return float((tensor.double() - truth).abs().amax())


# Logits of a whole text without a cache: ours, Hugging Face's, the oracle's.


Forward = Callable[[Tensor], Tensor]
"""Of ids `[batch time]` the logits `[batch time vocab]`, each position's from those before it."""


def candidate_forward(model: GPT) -> Forward:
    """Return our model run anew over a whole text, by the formula of every operation."""
    plain = model.with_backend("plain").eval()

    @torch.no_grad()
    def forward(token_ids: Tensor) -> Tensor:
        return cast("Tensor", plain(token_ids))

    return forward


def huggingface_forward(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return Hugging Face's model."""

    @torch.no_grad()
    def forward(token_ids: Tensor) -> Tensor:
        return huggingface.logits(model, token_ids)

    return forward


def oracle_forward(model: OpenAIGPTLMHeadModel) -> Forward:
    """Return the oracle with the weights of Hugging Face's model, arranged once."""
    weights, epsilon = oracle_weights(model), model.config.layer_norm_epsilon

    def forward(token_ids: Tensor) -> Tensor:
        taps = oracle.forward(weights, token_ids.numpy(), epsilon=epsilon)
        return torch.from_numpy(next(value for name, value in taps if name == "logits"))

    return forward


def following(forward: Mapping[str, Forward], text: Tensor, known: int) -> dict[str, Tensor]:
    """Return each witness's logits `[new vocab]` from which the tokens after `known` follow.

    Args:
        forward: Witnesses by name.
        text: `[1 time]`, prompt and continuation.
        known: Tokens of the prompt.
    """
    # The last token is followed by nothing.
    return {name: run(text[:, :-1])[0, known - 1 :] for name, run in forward.items()}


OURS, THEIRS = f"ours/{BACKEND}", "huggingface"
"""Subjects of fingerprints."""


@dataclasses.dataclass(kw_only=True)
class Pass:
    """Both models in one dtype, and what is asked of them.

    Attributes:
        model: Ours.
        reference: Hugging Face's.
        truth: The oracle.
        prompts: `[1 time]` each.
        new: Tokens to be made of each.
        bounds: Of the run.
        plant: A fault for our functions, or None.
        progress: Called as the pass goes on.
        fingerprints: Takes those of texts and logits, if they are wanted.
    """

    model: GPT
    reference: OpenAIGPTLMHeadModel
    truth: Forward
    prompts: Sequence[Tensor]
    new: int
    bounds: Bounds
    plant: str | None
    progress: Progress
    fingerprints: Fingerprints = dataclasses.field(default_factory=Fingerprints)

    def __post_init__(self) -> None:
        # One for all prompts: what one text leaves behind must not reach the next.
        self.decoder = Decoder(self.model, batch=1)

    def made(self, prompt: Tensor, way: Way) -> Continuation | Exception:
        """Return what our decoder makes of a prompt, or the error that it raised."""
        with inject(self.plant):
            try:
                return continuation(self.decoder, prompt, way, self.new)
            except (ValueError, IndexError, RuntimeError) as error:
                return error

    def take(self, side: str, tap: str, logits: Tensor, ids: Sequence[int]) -> None:
        """Take the fingerprints of one text: its logits and its ids."""
        run = f"{side}/{str(self.dtype).removeprefix('torch.')}"
        self.fingerprints.take(run, f"{tap}.logits", logits)
        self.fingerprints.take_ids(run, f"{tap}.ids", [ids])

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of both models."""
        return self.model.tokens_embed.weight.dtype


def text_rows(run: Pass, seen: list[list[int]]) -> Iterator[Row]:
    """Yield, for every way and prompt, the rows of logits and ids against three witnesses.

    Args:
        run: The pass.
        seen: Gets the new tokens of every greedy text.
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
                yield raised_row(f"{tap}.logits", made, dtype="float64")
                continue
            if way is WAYS[0]:
                seen.append(made.new)
            found = following(forwards, made.text, made.known)
            for name, logits in found.items():
                row = float64_row(f"{tap}.logits", made.logits, logits, name, run.bounds)
                yield _placed(row, made, logits, at, run.bounds)
            chosen = {name: rechosen(logits, made, way) for name, logits in found.items()}
            for name, other in chosen.items():
                yield _identity_ids(f"{tap}.ids", made, other, name, at)
            run.take(OURS, tap, made.logits, made.new)
            run.take(THEIRS, tap, found[THEIRS], chosen[THEIRS])


def _identity_ids(tap: str, made: Continuation, other: Sequence[int], against: str, at: int) -> Row:
    """Return the row of ids that a witness would have chosen; in float64 nothing excuses."""
    row = ids_row(tap, made.new, other, dtype="float64", against=against, excused="")
    return dataclasses.replace(row, detail=tie_message(made, other, against, at))


def _placed(row: Row, made: Continuation, other: Tensor, at: int, bounds: Bounds) -> Row:
    """Return a row of logits that says at which step the first is off."""
    if not row.detail or made.logits.shape != other.shape:
        return row
    scale = float(other.square().mean().sqrt())
    off = (made.logits - other).abs().amax(1) / scale
    # Written so that NaN is off.
    step = next((i for i, error in enumerate(off.tolist()) if not error <= bounds.float64), 0)
    return dataclasses.replace(row, detail=f"{divergence_place(made, step, at)}: {row.detail}")


@dataclasses.dataclass(kw_only=True)
class _Both:
    """Both sides' texts of one prompt, and the truth of ours."""

    tap: str
    at: int
    way: Way
    ours: Continuation
    theirs: list[int]
    reference: Tensor
    truth: Tensor
    noise: RoundingError


def text_rounding_rows(run: Pass, precision: Precision) -> Iterator[Row]:
    """Yield, for each way that does not draw and each prompt, rows of logits and of ids."""
    for way in WAYS:
        if way.sampled:
            continue  # Hugging Face draws from another stream
        pairs: list[_Both] = []
        for at, prompt in enumerate(run.prompts):
            run.progress(f"{precision.dtype} {way.name}", at, len(run.prompts))
            made = run.made(prompt, way)
            if isinstance(made, Exception):
                yield raised_row(f"{way.name}.{at}.logits", made, dtype=_name(precision))
            else:
                pairs.append(_both(run, way, at, prompt, made))
        worst = RoundingError()
        for pair in pairs:
            worst = worst.at_least(pair.noise)
        for pair in pairs:
            yield from _quality_pair(run, pair, worst, precision)


def _both(run: Pass, way: Way, at: int, prompt: Tensor, made: Continuation) -> _Both:
    """Return Hugging Face's text beside ours, and its logits' error up to where they part."""
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
    told = tie_message(pair.ours, pair.theirs, "huggingface", pair.at)
    ids = ids_row(
        f"{tap}.ids",
        pair.ours.new,
        pair.theirs,
        dtype=_name(precision),
        against="huggingface",
        excused=excused,
    )
    yield dataclasses.replace(ids, detail=f"{told}; {excused}" if excused else told)


def _name(precision: Precision) -> str:
    return str(precision.dtype).removeprefix("torch.")


# All rules together, in the order of Hugging Face's `generate` and on its logits.


STEPS = 3


def order_rows(
    reference: OpenAIGPTLMHeadModel, prompt: Tensor, bounds: Bounds, plant: str | None
) -> Iterator[Row]:
    """Yield two rows: the tokens left by all rules, and their logits, float32 as `generate` has it.

    Args:
        reference: Hugging Face's model.
        prompt: `[1 time]`; it is drawn a few tokens further.
        bounds: Of the run.
        plant: A fault for our functions, or None.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = huggingface_generation.continue_text(
            reference, prompt, max_new_tokens=STEPS, sampled=True, rules=TOGETHER
        )
    rules = Rules(sampled=True, **TOGETHER)
    texts = [made.token_ids[:, : prompt.shape[1] + step] for step in range(STEPS)]
    steps = list(zip(made.logits, texts, strict=True))
    with inject(plant):
        ours = torch.cat([rules.processed(logits, text) for logits, text in steps])
    truth = torch.cat([expected_logits(TOGETHER, logits.double(), text) for logits, text in steps])
    theirs = made.processed[:, 0]
    yield _left(ours, theirs, truth)
    left = torch.isfinite(ours) & torch.isfinite(theirs) & torch.isfinite(truth)
    mine, its, right = (x[left][None] for x in (ours, theirs, truth))
    precision = PRECISIONS["float32"]
    yield rounding_row("rules.order", mine, right, reference_error(its, right), precision, bounds)


def _left(ours: Tensor, theirs: Tensor, truth: Tensor) -> Row:
    """Return the row of the tokens left.

    Where Hugging Face's sums, which are float32, cross `top_p` a token too early or too late, its
    processors in float64 say who is right.
    """
    mine, its, right = (torch.isfinite(x) for x in (ours, theirs, truth))
    rounded = torch.equal(mine, right) and not torch.equal(mine, its)
    excused = "Hugging Face's float32 sums cross top_p at another token" if rounded else ""
    return support_row("rules.order", mine, its, dtype="float32", excused=excused)
