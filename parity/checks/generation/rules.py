"""The rules on shared logits: which tokens remain, and their logits."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity.checks.generation.rows import BACKEND, attempt, float64_row, ids_row
from parity.core.metrics import Status
from parity.core.results import Mode, Row
from parity.core.tolerances import Bounds
from reference import generation_oracle, huggingface_generation
from scratch_gpt.generation import sampling
from scratch_gpt.generation.sampling import Draws, Rules


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One rule or several, under the names of transformers.

    `tied` makes many logits equal, `half` gives them in bfloat16.
    """

    name: str
    fields: Mapping[str, Any]
    tied: bool = False
    half: bool = False


TOGETHER: Mapping[str, Any] = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
}
"""All rules, in the order in which transformers applies them."""

CASES = (
    Case(name="repetition_penalty", fields={"repetition_penalty": 1.3}),
    Case(name="repetition_reward", fields={"repetition_penalty": 0.7}),
    Case(name="no_repeat_1_gram", fields={"no_repeat_ngram_size": 1}),
    Case(name="no_repeat_2_gram", fields={"no_repeat_ngram_size": 2}),
    Case(name="no_repeat_3_gram", fields={"no_repeat_ngram_size": 3}),
    Case(name="temperature_low", fields={"temperature": 0.7}),
    Case(name="temperature_high", fields={"temperature": 1.9}),
    Case(name="top_k_1", fields={"top_k": 1}),
    Case(name="top_k", fields={"top_k": 20}),
    Case(name="top_k_tied", fields={"top_k": 20}, tied=True),
    Case(name="top_p_small", fields={"top_p": 0.05}),
    Case(name="top_p", fields={"top_p": 0.9}),
    Case(name="together", fields=TOGETHER),
    Case(name="half", fields={"repetition_penalty": 1.3, "temperature": 0.7}, half=True),
)
"""Every rule alone, at more than one value, and all together."""


def fitting(fields: Mapping[str, Any], vocab_size: int) -> Mapping[str, Any]:
    """Return the rules with a `top_k` that leaves out half of a small vocabulary at least."""
    most = max(1, vocab_size // 2)
    return {key: min(value, most) if key == "top_k" else value for key, value in fields.items()}


def shared(vocab_size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return logits `[4 vocab]`, float64, and texts `[4 48]` with many repetitions."""
    generator = np.random.Generator(np.random.Philox(seed))
    logits = torch.from_numpy(3.0 * generator.standard_normal((_ROWS, vocab_size)))
    few = torch.from_numpy(generator.integers(0, vocab_size, size=(_ROWS, _FEW)))
    texts = few.gather(1, torch.from_numpy(generator.integers(0, _FEW, size=(_ROWS, _TIME))))
    # Half of the texts end in a new token, the others in a repeated pair.
    texts[::2, -1] = vocab_size - 1 - torch.arange(_ROWS // 2)
    texts[1::2, -2:] = texts[1::2, 5:7]
    # Repeated tokens are likely, so that forbidding them affects the rules that follow.
    return logits + torch.zeros_like(logits).scatter(1, texts[:, ::3], 4.0), texts


_ROWS, _FEW, _TIME = 4, 9, 48


def rule_rows(vocab_size: int, seed: int, bounds: Bounds) -> Iterator[Row]:
    """Yield two rows for each case: the remaining tokens, and their logits, in float64.

    In the case `half` the logits are bfloat16, and the rules compute in float32. After the rules
    come two rows of chosen tokens.
    """
    drawn, texts = shared(vocab_size, seed)
    for case in CASES:
        logits = (drawn * 2).round() / 2 if case.tied else drawn
        given = logits.bfloat16() if case.half else logits
        fields = fitting(case.fields, vocab_size)
        sampled = bool({"temperature", "top_k", "top_p"} & set(fields))
        ours = attempt(
            partial(Rules(sampled=sampled, **fields).processed, given, texts),
            tap=f"rules.{case.name}",
            dtype="float64",
            place=lambda: f"texts of {_TIME} tokens",
        )
        if isinstance(ours, Row):
            yield ours
            continue
        wide = given.float() if case.half else given
        theirs = expected_logits(fields, wide, texts).double()
        yield from _rows(case.name, ours.double(), theirs, bounds)
    yield from _choice_rows(drawn)


class _Numbers(Draws):
    """Given numbers in the place of random ones."""

    def __init__(self, numbers: Sequence[float]) -> None:
        super().__init__(0, 0)
        self.numbers = torch.tensor(numbers, dtype=torch.float64)

    def next(self) -> Tensor:
        """Return the numbers, `[batch]`."""
        return self.numbers


EDGES = (0.0, 0.25, 0.5, 0.75, 1.0 - 2.0**-53, 0.1, 0.6, 0.0)
"""Numbers between 0 and 1; some are the sums at which the next token begins."""


def _choice_rows(drawn: Tensor) -> Iterator[Row]:
    """Yield the row of the likeliest tokens among equal ones, and of those drawn at the edges.

    Four ids are equally likely, the first and the last among them; in the last row the first is
    excluded.
    """
    last = drawn.shape[1] - 1
    logits = drawn[:1].repeat(len(EDGES), 1)
    equal = [0, last // 3, last // 2, last]
    tied = logits.index_fill(1, torch.tensor(equal), float(logits.max()) + 1.0)
    left = torch.full_like(logits, -math.inf).index_fill(1, torch.tensor(equal), 1.0)
    left[-1, 0] = tied[-1, 0] = -math.inf
    for name, given, sampled in (("likeliest", tied, False), ("drawn", left, True)):
        chosen = attempt(
            partial(_chosen, given, Rules(sampled=sampled)),
            tap=f"rules.{name}",
            dtype="float64",
            place=lambda: f"{len(EDGES)} texts",
        )
        if isinstance(chosen, Row):
            yield chosen
            continue
        due = [
            generation_oracle.draw(row, number) if sampled else generation_oracle.likeliest(row)
            for row, number in zip(given.numpy(), EDGES, strict=True)
        ]
        row = ids_row(chosen, due, tap=f"rules.{name}", dtype="float64", against="oracle")
        wrong = [
            f"of the equal ids {equal}{f', number {number:g}' if sampled else ''}: "
            f"ours {mine}, oracle {right}"
            for mine, right, number in zip(chosen, due, EDGES, strict=False)
            if mine != right
        ]
        yield dataclasses.replace(row, detail="".join(wrong[:1]))


def _chosen(logits: Tensor, rules: Rules) -> list[int]:
    ids: list[int] = sampling.choose(logits, rules, _Numbers(EDGES)).tolist()
    return ids


CHOICES = ("likeliest", "drawn")
"""Names of the rows of chosen tokens."""


def expected_logits(fields: Mapping[str, Any], logits: Tensor, texts: Tensor) -> Tensor:
    """Return logits after transformers' processors, in the dtype of the logits."""
    for name, value in fields.items():
        logits = huggingface_generation.process_logits(name, value, logits, texts)
    return logits


def _rows(name: str, ours: Tensor, theirs: Tensor, bounds: Bounds) -> Iterator[Row]:
    """Yield the row of the remaining tokens, and that of the logits that remain on both sides."""
    left, should = torch.isfinite(ours), torch.isfinite(theirs)
    yield support_row(f"rules.{name}", left, should, dtype="float64")
    both = left & should
    yield float64_row(f"rules.{name}", ours[both][None], theirs[both][None], "huggingface", bounds)


def support_row(tap: str, left: Tensor, should: Tensor, *, dtype: str, excused: str = "") -> Row:
    """Return the row of the remaining tokens, `[batch vocab]` bool each."""
    wrong = (left != should).nonzero().tolist()
    row, token = wrong[0] if wrong else (0, 0)
    kept = "left in" if wrong and bool(left[row, token]) else "left out"
    found = f"row {row}, token {token} is wrongly {kept}, and {len(wrong) - 1} more"
    return Row(
        tap=tap,
        backend=BACKEND,
        dtype=dtype,
        mode=Mode.EXACT,
        against="huggingface",
        shape=tuple(left.shape),
        status=Status.FAIL if wrong and not excused else Status.PASS,
        error_ours=float(len(wrong)),
        bound=0.0,
        worst_index=(row, token),
        required_tolerance=0.0 if excused else float(len(wrong)),
        detail=excused or (found if wrong else ""),
    )


def idle(vocab_size: int, seed: int) -> Sequence[str]:
    """Return the names of the rules that do not change these logits."""
    drawn, texts = shared(vocab_size, seed)
    return [
        case.name
        for case in CASES
        if torch.equal(drawn, expected_logits(fitting(case.fields, vocab_size), drawn, texts))
    ]
