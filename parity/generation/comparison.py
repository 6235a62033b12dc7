"""One run of the check: two passes over prompts and searches, and the rows they give.

The float64 pass asks whether the cached decoder is the same function as three that have no cache.
The pass in the dtype judged asks whether its rounding is as good as Hugging Face's, and whether
texts are the same as those of Hugging Face's own `generate`.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.fingerprints import Fingerprints
from parity.generation import ties, witnesses
from parity.generation.continuations import (
    WAYS,
    Continuation,
    Way,
    continuation,
    first_difference,
    rechosen,
)
from parity.generation.faults import planted
from parity.generation.measures import (
    PATH,
    Noise,
    identity_row,
    ids_row,
    noise_of,
    pooled,
    quality_row,
    raised_row,
)
from parity.generation.witnesses import Forward, following
from parity.results import Row
from parity.tolerances import Bounds, Precision
from reference import huggingface_generation
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.model import GPT

Progress = Callable[[str, int, int], None]

OURS, THEIRS = f"ours/{PATH}", "huggingface"
"""Whose a fingerprint is."""


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
        with planted(self.plant):
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


def identity_rows(run: Pass, seen: list[list[int]]) -> Iterator[Row]:
    """Yield, for every way and prompt, the rows of logits and ids against three witnesses.

    Args:
        run: The pass.
        seen: Gets the new tokens of every greedy text.
    """
    forwards: Mapping[str, Forward] = {
        "oracle": run.truth,
        "huggingface": witnesses.theirs(run.reference),
        "uncached": witnesses.ours(run.model),
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
                row = identity_row(f"{tap}.logits", made.logits, logits, name, run.bounds)
                yield _placed(row, made, logits, at, run.bounds)
            chosen = {name: rechosen(logits, made, way) for name, logits in found.items()}
            for name, other in chosen.items():
                yield _identity_ids(f"{tap}.ids", made, other, name, at)
            run.take(OURS, tap, made.logits, made.new)
            run.take(THEIRS, tap, found[THEIRS], chosen[THEIRS])


def _identity_ids(tap: str, made: Continuation, other: Sequence[int], witness: str, at: int) -> Row:
    """Return the row of ids that a witness would have chosen; in float64 nothing excuses."""
    row = ids_row(tap, made.new, other, dtype="float64", witness=witness, excused="")
    return dataclasses.replace(row, detail=ties.told(made, other, witness, at))


def _placed(row: Row, made: Continuation, other: Tensor, at: int, bounds: Bounds) -> Row:
    """Return a row of logits that says at which step the first is off."""
    if not row.detail or made.logits.shape != other.shape:
        return row
    scale = float(other.square().mean().sqrt())
    off = (made.logits - other).abs().amax(1) / scale
    # Written so that NaN is off.
    step = next((i for i, error in enumerate(off.tolist()) if not error <= bounds.identity), 0)
    return dataclasses.replace(row, detail=f"{ties.place(made, step, at)}: {row.detail}")


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
    noise: Noise


def quality_rows(run: Pass, precision: Precision) -> Iterator[Row]:
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
        worst = Noise()
        for pair in pairs:
            worst = worst.at_least(pair.noise)
        for pair in pairs:
            yield from _quality_pair(run, pair, worst, precision)


def _both(run: Pass, way: Way, at: int, prompt: Tensor, made: Continuation) -> _Both:
    """Return Hugging Face's text beside ours, and its logits' error up to where they part."""
    theirs = huggingface_generation.continued(
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
        noise=noise_of(theirs.logits[shared, 0], truth[shared]),
    )


def _quality_pair(run: Pass, pair: _Both, worst: Noise, precision: Precision) -> Iterator[Row]:
    noise = pooled(pair.noise, worst, pair.ours.logits)
    tap = pair.tap
    row = quality_row(f"{tap}.logits", pair.ours.logits, pair.truth, noise, precision, run.bounds)
    where = f"prompt {pair.at} ({pair.ours.known} tokens)"
    yield dataclasses.replace(row, detail=row.detail and f"{where}: {row.detail}")
    excused = ties.excuse(
        pair.ours,
        pair.theirs,
        way=pair.way,
        truth=pair.truth,
        reference=pair.reference,
        bounds=run.bounds,
    )
    told = ties.told(pair.ours, pair.theirs, "huggingface", pair.at)
    ids = ids_row(
        f"{tap}.ids",
        pair.ours.new,
        pair.theirs,
        dtype=_name(precision),
        witness="huggingface",
        excused=excused,
    )
    yield dataclasses.replace(ids, detail=f"{told}; {excused}" if excused else told)


def _name(precision: Precision) -> str:
    return str(precision.dtype).removeprefix("torch.")
