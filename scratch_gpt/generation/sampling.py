"""From logits to the next token: rules that change the logits, and the random choice.

The rules are defined as in transformers and applied in its order: repetition penalty, no repeated
n-gram, temperature, top-k, top-p. The last three apply to sampling only. The random numbers are
our own: transformers draws a whole batch from one PyTorch stream, so a text depends on the rest of
the batch and on the version. Here each row has its own stream.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from scratch_gpt.errors import NoChoiceError, SettingError
from scratch_gpt.numerics import accumulate_dtype


def penalize_repetition(
    logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"], penalty: float
) -> Float[Tensor, "batch vocab"]:
    """Return logits in which every token of the text, prompt included, is less likely.

    A logit above 0 is divided by the penalty, one below 0 is multiplied by it, once, however often
    the token occurs. A penalty below 1 makes repetition more likely.

    Source: Keskar et al. 2019, CTRL, section 4.1; the treatment of the sign is transformers'.
    """
    seen = logits.gather(-1, token_ids)
    return logits.scatter(-1, token_ids, torch.where(seen < 0, seen * penalty, seen / penalty))


def forbid_repeated_ngrams(
    logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"], size: int
) -> Float[Tensor, "batch vocab"]:
    """Return the logits, -inf for tokens that would repeat an n-gram of the text.

    The text is prompt and continuation. A `size` of 1 forbids every token of it.

    Source: Paulus et al. 2017, section 2.5.
    """
    time = token_ids.shape[1]
    if time < size:
        return logits
    windows = token_ids.unfold(1, size, 1)  # [batch window size]
    ending = token_ids[:, None, time - size + 1 :]
    matches = (windows[..., :-1] == ending).all(-1)
    # Windows may end in the same token: a sum tells whether any of them matches.
    hits = logits.new_zeros(logits.shape).scatter_add_(-1, windows[..., -1], matches.to(logits))
    return logits.masked_fill(hits > 0, -math.inf)


def apply_temperature(
    logits: Float[Tensor, "batch vocab"], temperature: float
) -> Float[Tensor, "batch vocab"]:
    """Return `logits / temperature`; a value below 1 sharpens the distribution."""
    return logits / temperature


def keep_top_k(logits: Float[Tensor, "batch vocab"], k: int) -> Float[Tensor, "batch vocab"]:
    """Return the logits, -inf for all but the `k` largest and ties with the smallest of these.

    Source: Fan et al. 2018, section 5.1; keeping ties is transformers'.
    """
    smallest = logits.topk(k).values[:, -1:]
    return logits.masked_fill(logits < smallest, -math.inf)


def keep_top_p(logits: Float[Tensor, "batch vocab"], p: float) -> Float[Tensor, "batch vocab"]:
    """Return the logits, -inf for all but the fewest most likely tokens of total probability `p`.

    The token at which the sum reaches `p` is kept, and so is the most likely one at any `p`. Of
    equal logits lower ids are removed first. Probabilities are summed in float64, from the least
    likely up.

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

    Raises:
        SettingError: A field is out of range, or has no effect because `sampled` is False; the
            message names it and the allowed values.
    """

    temperature: float = 1.0
    """Divides the logits; from 1e-6 to 1e6."""
    top_k: int | None = None
    """Sample from this many most likely tokens; None for all."""
    top_p: float | None = None
    """Sample from the fewest tokens of this total probability, in (0, 1]; None for all."""
    repetition_penalty: float = 1.0
    """See `penalize_repetition`; from 1e-6 to 1e6, and 1 for none."""
    no_repeat_ngram_size: int = 0
    """See `forbid_repeated_ngrams`; 0 for none."""
    sampled: bool = False
    """Whether to sample, instead of taking the most likely token."""

    def __post_init__(self) -> None:
        for name, (fits, allowed) in _ALLOWED.items():
            if not fits(getattr(self, name)):
                raise SettingError({name: getattr(self, name)}, allowed)
        for name, neutral in SAMPLING_ONLY.items():
            if not self.sampled and getattr(self, name) not in neutral:
                allowed = f"{neutral[0]} where sampled is False: it would change nothing"
                raise SettingError({name: getattr(self, name)}, allowed)

    def check(self, vocab_size: int) -> None:
        """Raise a `SettingError` if `top_k` is larger than the vocabulary."""
        if self.top_k is not None and self.top_k > vocab_size:
            allowed = f"at most the vocabulary's {vocab_size}, or None"
            raise SettingError({"top_k": self.top_k}, allowed)

    def processed(
        self, logits: Float[Tensor, "batch vocab"], token_ids: Int[Tensor, "batch time"]
    ) -> Float[Tensor, "batch vocab"]:
        """Return the logits after all rules, in float32 or wider; the given ones are not modified.

        `token_ids` is the text: prompt and continuation. If no rule applies, the same tensor is
        returned.

        Raises:
            SettingError: `top_k` is larger than the vocabulary.
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
    """Uniform random numbers in [0, 1), one stream for each row.

    A stream depends only on the seed and the row's number: not on other rows, the batching, the
    process or the versions of libraries. NumPy guarantees Philox's raw output.
    """

    def __init__(self, seed: int, rows: int | Sequence[int]) -> None:
        """Start the streams; `rows` is the number of rows, or their stream numbers.

        Raises:
            SettingError: The seed is not a whole number from 0 to 2**64 - 1.
        """
        if not is_whole(seed, 0, LARGEST_SEED):
            raise SettingError({"seed": seed}, "a whole number from 0 to 2**64 - 1")
        numbers = range(rows) if isinstance(rows, int) else rows
        keys = [np.array([seed, row], dtype=np.uint64) for row in numbers]
        self._streams = [np.random.Philox(key=key) for key in keys]

    def next(self) -> Float[Tensor, " batch"]:
        """Return each row's next number, float64, on the CPU."""
        raw = [int(stream.random_raw()) >> 11 for stream in self._streams]
        return torch.tensor(raw, dtype=torch.float64) * 2.0**-53  # a float64 holds 53 of 64 bits


def choose(
    logits: Float[Tensor, "batch vocab"], rules: Rules, draws: Draws | None = None
) -> Int[Tensor, " batch"]:
    """Return the next token of each row, `[batch]`.

    Without sampling it is the most likely one, and of equal logits the lowest id. With sampling it
    is the first token at which the probabilities, summed in float64 from id 0 up, exceed the
    random number. The logits are those of `Rules.processed`; `draws` has a stream for each row.

    Raises:
        NoChoiceError: The rules exclude every token of a row, or a logit is NaN or +inf.
        SettingError: `draws` is missing, and the rules sample.
    """
    largest = logits.amax(-1, keepdim=True)
    if not bool(torch.isfinite(largest).all()):
        raise _no_choice_error(largest)
    if not rules.sampled:
        return logits.argmax(-1)
    if draws is None:
        raise SettingError({"draws": None}, "Draws(seed, batch) where rules.sampled is True")
    sums = torch.exp((logits - largest).to(torch.float64)).cumsum(-1)
    thresholds = draws.next().to(sums.device)[:, None] * sums[:, -1:]
    return (sums <= thresholds).sum(-1)


def _no_choice_error(largest: Tensor) -> NoChoiceError:
    """Return the error that names the first row whose largest logit is not finite."""
    row, value = next((i, x) for i, x in enumerate(largest[:, 0].tolist()) if not math.isfinite(x))
    if value == -math.inf:
        why = "every token is excluded by the rules: relax no_repeat_ngram_size"
    else:
        why = f"a logit is {value}: the weights are damaged, or the dtype overflowed"
    message = f"no token can be chosen in row {row}: {why}"
    return NoChoiceError(message, excluded=value == -math.inf)


LARGEST_SEED = (1 << 64) - 1

LARGEST_COUNT = 10**15
"""The largest number of tokens, which no text reaches; tensors count to 2**63."""


def is_whole(value: object, least: int, most: int | None = None) -> bool:
    """Return whether a value is an `int` within these limits, and no `bool`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value >= least and (most is None or value <= most)  # type: ignore[operator]


def _is_positive(value: object) -> bool:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_number and 0.0 < value < math.inf  # type: ignore[operator]


_LARGEST_FACTOR = 1e6
"""So far the logits of any usable weights stay finite in float32, also times two factors."""


def _is_factor(value: object) -> bool:
    is_positive = _is_positive(value)
    return is_positive and 1.0 / _LARGEST_FACTOR <= value <= _LARGEST_FACTOR  # type: ignore[operator]


_ALLOWED: dict[str, tuple[Callable[[object], bool], str]] = {
    "temperature": (_is_factor, "a number from 1e-6 to 1e6"),
    "top_k": (lambda k: k is None or is_whole(k, 1), "a whole number above 0, or None"),
    "top_p": (
        lambda p: p is None or (_is_positive(p) and p <= 1.0),  # type: ignore[operator]
        "a number above 0 and at most 1, or None",
    ),
    "repetition_penalty": (_is_factor, "a number from 1e-6 to 1e6"),
    "no_repeat_ngram_size": (
        lambda size: is_whole(size, 0, LARGEST_COUNT),
        f"a whole number from 0, for none, to {LARGEST_COUNT:,}",
    ),
    "sampled": (lambda value: isinstance(value, bool), "True or False"),
}
"""For each field a test, and the allowed values in words."""

_NO_FILTER = (None, 1, 1.0)
SAMPLING_ONLY: dict[str, tuple[object, ...]] = {
    "temperature": (1.0,),
    "top_k": (None,),
    "top_p": _NO_FILTER,
}
"""Fields that affect sampling only, with the values that change nothing."""
