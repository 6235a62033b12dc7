"""From logits to the next token: which rules apply, and the draw.

The rules mean what they mean in transformers, and are applied in its order: the repetition
penalty, no repeated n-gram, temperature, top-k, top-p. The last three are of sampling alone. The
draw is our own: transformers draws a whole batch from one stream of PyTorch's, so that a text there
depends on its neighbours and on the version; here each row has a stream of its own.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.causal_mask import accumulate_dtype
from scratch_gpt.errors import NoChoiceError, SettingError

# What a rule of generation does to logits: five functions, each the formula of one rule.
#
# They mean what they mean in transformers. `scratch_gpt.generation.sampling` says which apply, and
# in which order.


def penalize_repetition(
    logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"], penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Return logits in which every token of the text so far, the prompt's too, is less likely.

    A logit above 0 is divided by the penalty and one below multiplied, once, however often the
    token stands there. A penalty below 1 makes repetition more likely.

    Source: Keskar et al. 2019, CTRL, section 4.1; the sign is transformers'.
    """
    seen = logits.gather(-1, token_ids)
    return logits.scatter(-1, token_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def forbid_repeated_ngrams(
    logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"], size: int
) -> Float[Tensor, "batch vocab"]:
    """Return logits of -inf for tokens that would complete an n-gram that the text has already.

    Args:
        logits: `[batch vocab]`.
        token_ids: `[batch time]`, prompt and continuation.
        size: Tokens of an n-gram; 1 forbids every token of the text.

    Source: Paulus et al. 2017, section 2.5.
    """
    time = token_ids.shape[1]
    if time < size:
        return logits
    windows = token_ids.unfold(1, size, 1)  # [batch window size]
    ending = token_ids[:, None, time - size + 1 :]
    matches = (windows[..., :-1] == ending).all(-1)
    # Two windows may end in one token: a sum, and not the last one written, says whether any fits.
    hits = logits.new_zeros(logits.shape).scatter_add_(-1, windows[..., -1], matches.to(logits))
    return logits.masked_fill(hits > 0, -math.inf)


def apply_temperature(
    logits: Float[Tensor, "batch vocab"], temperature: float
) -> Float[Tensor, "batch vocab"]:
    """Return `logits / temperature`: below 1 the likely grow likelier, above 1 the unlikely."""
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Return -inf for all but the `k` largest logits, and all that equal the smallest of these.

    Source: Fan et al. 2018, section 5.1; keeping ties is transformers'.
    """
    smallest = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Return -inf for all but the fewest likely tokens that together have the probability `p`.

    The token that crosses `p` is kept, and so is the likeliest at any `p`. Of equal logits the
    lower ids go first. Probabilities are summed in float64, from the least likely up.

    Source: Holtzman et al. 2019, section 3.1; from the least likely up is transformers'.
    """
    ascending, ids = logits.to(torch.float64).sort(dim=-1, stable=True)
    likelihoods = torch.exp(ascending - ascending[:, -1:])
    below = likelihoods.cumsum(-1)
    removed = below <= (1.0 - p) * below[:, -1:]
    removed[:, -1] = False
    return logits.masked_fill(
        removed.new_zeros(removed.shape).scatter_(-1, ids, removed), -math.inf
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How the next token is chosen; the defaults are greedy.

    Attributes:
        temperature: Divides the logits; above 0.
        top_k: Only so many of the likeliest tokens are drawn from; all where None.
        top_p: Only the fewest tokens of this probability together are; in (0, 1], and 1 is all.
        repetition_penalty: See `penalised`; above 0, and 1 is none.
        no_repeat_ngram_size: See `without_repeats`; 0 is none.
        sampled: Whether tokens are drawn, or the likeliest taken.

    Raises:
        ValueError: A field has a value that it cannot have, or one that only a sampled choice
            heeds; its name, the value and what is allowed are said.
    """

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    sampled: bool = False

    def __post_init__(self) -> None:
        for name, (fits, allowed) in _ALLOWED.items():
            if not fits(getattr(self, name)):
                raise _refused(name, getattr(self, name), allowed)
        for name, quiet in _OF_SAMPLING.items():
            if not self.sampled and getattr(self, name) not in quiet:
                allowed = f"{quiet[0]} where sampled is False: the likeliest token needs none"
                raise _refused(name, getattr(self, name), allowed)

    def check(self, vocab_size: int) -> None:
        """Require that the rules suit a vocabulary.

        Raises:
            ValueError: `top_k` is larger than that.
        """
        if self.top_k is not None and self.top_k > vocab_size:
            raise _refused("top_k", self.top_k, f"at most the vocabulary's {vocab_size}, or None")

    def processed(
        self, logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch vocab"]:
        """Return the logits that are left by the rules, in float32 at least.

        Args:
            logits: `[batch vocab]`, of the token after the text; not changed. A rule that is off
                costs nothing, and where all are the very same tensor comes back.
            token_ids: `[batch time]`, the text: prompt and continuation.

        Raises:
            ValueError: `top_k` is larger than the vocabulary.
        """
        self.check(logits.shape[-1])
        x = logits.to(accumulate_dtype(logits.dtype))
        if self.repetition_penalty != 1.0:
            x = penalize_repetition(x, token_ids, self.repetition_penalty)
        if self.no_repeat_ngram_size > 0:
            x = forbid_repeated_ngrams(x, token_ids, self.no_repeat_ngram_size)
        if self.temperature != 1.0:
            x = apply_temperature(x, self.temperature)
        if self.top_k is not None:
            x = keep_top_k(x, self.top_k)
        return x if self.top_p in _NO_FILTER else keep_top_p(x, self.top_p or 1.0)


class Draws:
    """Numbers drawn evenly from [0, 1), one stream a row.

    A stream is fixed by the seed and the row's number: by no other row, no process, no version of
    a library (Philox's raw output is NumPy's promise), and not by how the rows are batched.
    """

    def __init__(self, seed: int, rows: int | Sequence[int]) -> None:
        """Begin the streams.

        Args:
            seed: From 0 up to 2**64 - 1.
            rows: How many rows, or their numbers where a batch holds some of many.

        Raises:
            ValueError: The seed is outside that range.
        """
        if not (_is_whole(seed) and 0 <= seed < 1 << 64):
            raise _refused("seed", seed, "a whole number from 0 to 2**64 - 1")
        numbers = range(rows) if isinstance(rows, int) else rows
        keys = [np.array([seed, row], dtype=np.uint64) for row in numbers]
        self._streams = [np.random.Philox(key=key) for key in keys]

    def next(self) -> Float[Tensor, " batch"]:
        """Return each row's next number, float64 `[batch]`, on the CPU."""
        raw = [int(stream.random_raw()) >> _SPARE_BITS for stream in self._streams]
        return torch.tensor(raw, dtype=torch.float64) * _STEP


_SPARE_BITS, _STEP = 11, 2.0**-53
"""Of 64 bits a float64 takes 53."""


def choose(
    logits: Float[Tensor, "batch vocab"], rules: Rules, draws: Draws | None = None
) -> Int[Tensor, " batch"]:
    """Return the next token of each row, `[batch]`.

    The likeliest where the rules are not sampled: of equal logits the lowest id. Else the first
    token at which the probabilities, summed in float64 from id 0 up, exceed the number drawn.

    Args:
        logits: `[batch vocab]`, what `Rules.processed` left.
        rules: Whether to draw.
        draws: One stream a row; needed where it is drawn.

    Raises:
        NoChoiceError: A row has no token left to choose, or a logit that is no number or +inf.
        SettingError: Tokens are to be drawn and there is nothing to draw from.
    """
    largest = logits.amax(-1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise _no_choice(largest)
    if not rules.sampled:
        return logits.argmax(-1)
    if draws is None:
        raise _refused("draws", None, "Draws(seed, batch) where rules.sampled is True")
    sums = torch.exp((logits - largest).to(torch.float64)).cumsum(-1)
    drawn = draws.next().to(sums.device)[:, None] * sums[:, -1:]
    return (sums <= drawn).sum(-1)


def _no_choice(largest: Tensor) -> NoChoiceError:
    """Return the error that names the first row whose largest logit is not finite."""
    row, value = next((i, x) for i, x in enumerate(largest[:, 0].tolist()) if not math.isfinite(x))
    if value == -math.inf:
        why = "every token is excluded by the rules: relax no_repeat_ngram_size"
    else:
        why = f"a logit is {value}: the model's numbers are broken, or have overflowed their dtype"
    message = f"no token can be chosen in row {row}: {why}"
    return NoChoiceError(message, excluded=value == -math.inf)


def _refused(name: str, got: object, allowed: str) -> SettingError:
    return SettingError({name: got}, allowed)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0.0 < value < math.inf  # type: ignore[operator]


_ALLOWED: dict[str, tuple[Callable[[object], bool], str]] = {
    "temperature": (_is_positive, "a finite number above 0"),
    "top_k": (lambda k: k is None or (_is_whole(k) and k > 0), "a whole number above 0, or None"),  # type: ignore[operator]
    "top_p": (
        lambda p: p is None or (_is_positive(p) and p <= 1.0),  # type: ignore[operator]
        "a number above 0 and at most 1, or None",
    ),
    "repetition_penalty": (_is_positive, "a finite number above 0"),
    "no_repeat_ngram_size": (
        lambda size: _is_whole(size) and size >= 0,  # type: ignore[operator]
        "a whole number, 0 for no such rule",
    ),
    "sampled": (lambda value: isinstance(value, bool), "True or False"),
}
"""For each field, what it may be: as a test, and in words."""

_NO_FILTER = (None, 1, 1.0)
_OF_SAMPLING: dict[str, tuple[object, ...]] = {
    "temperature": (1.0,),
    "top_k": (None,),
    "top_p": _NO_FILTER,
}
"""Fields that only a draw heeds, with the values at which they do nothing."""
