"""What is asked of a generation: how much, chosen how, and what happens at the last position."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

from scratch_gpt.generation.refusal import SettingError
from scratch_gpt.sampling import Rules

OVERFLOWS = ("stop", "slide", "error")
"""What may happen when a text fills every position; see `Request.overflow`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A generation's settings.

    Attributes:
        max_new_tokens: Tokens to add at most; 0 adds none.
        rules: How each is chosen; greedy unless said.
        seed: Fixes what is drawn.
        streams: Numbers of the rows' streams of draws; 0, 1, 2, ... where empty. A text that was
            drawn as row 3 of a batch is drawn again, alone, from stream 3.
        samples: Texts of each prompt.
        beams: Texts that a beam search runs side by side; 1 is no search.
        length_penalty: Of the beam search.
        early_stopping: Of the beam search.
        end_id: A text that takes this token is finished; GPT-1 has no such token of its own.
        overflow: `"stop"`: a text ends when it has `n_positions` tokens. `"error"`: is refused
            beforehand if it could need more. `"slide"`: goes on from its later half, as if that
            were the prompt; this reads half of the positions again, once every half of them, and
            what stood before is forgotten.

    Raises:
        SettingError: A setting that cannot be; its name, the value and what is allowed are said.
    """

    max_new_tokens: int
    rules: Rules = dataclasses.field(default_factory=Rules)
    seed: int = 0
    streams: tuple[int, ...] = ()
    samples: int = 1
    beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    end_id: int | None = None
    overflow: str = "stop"

    def __post_init__(self) -> None:
        for names, (fits, allowed) in _ALLOWED.items():
            if not fits(self):
                raise SettingError({name: getattr(self, name) for name in names}, allowed)

    @classmethod
    def of(cls, max_new_tokens: int, **options: Any) -> "Request":  # noqa: ANN401 - fields of two classes
        """Return a request; fields of `Rules` may be given by name in place of `rules`.

        Raises:
            ValueError: As `Request` and `Rules`.
            TypeError: There is no such option, or rules are given in both ways.
        """
        names = {field.name for field in dataclasses.fields(Rules)} & options.keys()
        if names and "rules" in options:
            message = f"give rules, or {sorted(names)} by name, not both"
            raise TypeError(message)
        if names:
            options["rules"] = Rules(**{name: options.pop(name) for name in names})
        return cls(max_new_tokens=max_new_tokens, **options)


def _whole(value: object, least: int, most: int | None = None) -> bool:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and value >= least and (most is None or value <= most)  # type: ignore[operator]


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_LARGEST_SEED = (1 << 64) - 1

_ALLOWED: dict[tuple[str, ...], tuple[Callable[[Request], bool], str]] = {
    ("max_new_tokens",): (lambda r: _whole(r.max_new_tokens, 0), "a whole number, 0 for none"),
    ("samples",): (
        lambda r: _whole(r.samples, 1) and (r.samples == 1 or r.beams > 1 or r.rules.sampled),
        "1; more where they are drawn (sampled=True) or taken from beams: else all are the same",
    ),
    ("beams",): (
        lambda r: _whole(r.beams, 1) and (r.beams == 1 or not r.rules.sampled),
        "a whole number above 0; 1 where tokens are drawn, for a beam search takes the likeliest",
    ),
    ("samples", "beams"): (
        lambda r: r.beams == 1 or r.samples <= r.beams,
        "no more texts than there are beams",
    ),
    ("seed",): (lambda r: _whole(r.seed, 0, _LARGEST_SEED), "a whole number from 0 to 2**64 - 1"),
    ("streams",): (
        lambda r: (
            isinstance(r.streams, (tuple, list))
            and all(_whole(number, 0, _LARGEST_SEED) for number in r.streams)
        ),
        "whole numbers from 0 to 2**64 - 1, one a text, in a tuple",
    ),
    ("length_penalty",): (lambda r: _finite(r.length_penalty), "a finite number"),
    ("early_stopping",): (
        lambda r: isinstance(r.early_stopping, bool) or r.early_stopping == "never",
        "True, False or 'never'",
    ),
    ("end_id",): (lambda r: r.end_id is None or _whole(r.end_id, 0), "an id, or None"),
    ("overflow",): (lambda r: r.overflow in OVERFLOWS, "'stop', 'error' or 'slide'"),
    ("overflow", "beams"): (
        lambda r: r.overflow != "slide" or r.beams == 1,
        "sliding without beams only",
    ),
}
"""For each field, and for fields together, whether they can be, and what can, in words."""
