"""A prompt continued: token by token, or by beam search."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor

from scratch_gpt.errors import SettingError
from scratch_gpt.generation.beam_search import beam_search
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import Draws, Rules, choose
from scratch_gpt.input_checks import check_inputs
from scratch_gpt.model import GPT

# What is asked of a generation: how much, chosen how, and what happens at the last position.


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


def generate(
    model: GPT, token_ids: Int[Tensor, "batch time"], request: Request
) -> Int[Tensor, "texts length"]:
    """Return prompts and what follows them, `[batch * samples, length]`, int64.

    A prompt's samples follow each other. Texts are equally long: what ends earlier is filled up
    with `end_id`, the only thing that ends one earlier.

    Raises:
        ValueError: A prompt that the model cannot take or that is empty, more tokens than there
            are positions (unless `overflow` says what then), or no token left to choose.
    """
    room = _new_tokens(model, token_ids, request)
    texts = token_ids.repeat_interleave(request.samples, 0).long()
    if room == 0:
        return texts
    if request.beams > 1:
        running, length = len(token_ids) * request.beams, token_ids.shape[1] + room
        decoder = Decoder(model, batch=running, capacity=length)
        return beam_search(
            decoder,
            token_ids,
            beams=request.beams,
            max_new_tokens=room,
            length_penalty=request.length_penalty,
            early_stopping=request.early_stopping,
            end_id=request.end_id,
            rules=request.rules,
            returned=request.samples,
        )
    new = list(stream(model, token_ids, request))
    return torch.cat([texts, *(tokens[:, None] for tokens in new)], dim=1)


def stream(
    model: GPT, token_ids: Int[Tensor, "batch time"], request: Request
) -> Iterator[Int[Tensor, " texts"]]:
    """Yield each text's next token, `[batch * samples]`, as soon as it is chosen.

    Raises:
        ValueError: As `generate`; and a beam search knows no token before it knows the last.
    """
    if request.beams > 1:
        message = f"beams is {request.beams}; allowed: 1: a beam search has nothing to stream"
        raise ValueError(message)
    room = _new_tokens(model, token_ids, request)
    request.rules.check(model.config.vocab_size)
    if room == 0:
        return
    texts = _Texts(token_ids, request)
    draws = Draws(request.seed, request.streams or len(texts.ids))
    capacity = min(texts.length + room, model.config.n_positions)
    decoder = Decoder(model, batch=len(texts.ids), capacity=capacity)
    length = texts.length
    logits = decoder.start(texts.context(length, model.config.n_positions))
    for last in range(length, length + room):
        tokens = choose(request.rules.processed(logits, texts.ids[:, :last]), request.rules, draws)
        yield texts.taken(tokens, last)
        if last + 1 == length + room or bool(texts.finished.all()):
            return
        if decoder.length < model.config.n_positions:
            logits = decoder.step(texts.ids[:, last])
        else:
            logits = decoder.start(texts.context(last + 1, model.config.n_positions))


class _Texts:
    """Running texts.

    Attributes:
        ids: `[texts time]`, with room behind them that doubles when it is used up.
        length: Tokens of the prompt.
        finished: `[texts]`, bool.
        end_id: What finishes one.
    """

    def __init__(self, token_ids: Tensor, request: Request) -> None:
        self.ids = token_ids.repeat_interleave(request.samples, 0).long()
        self.length = token_ids.shape[1]
        self.finished = self.ids.new_zeros(len(self.ids), dtype=torch.bool)
        self.end_id = request.end_id

    def taken(self, tokens: Tensor, place: int) -> Tensor:
        """Write each text's next token, `end_id` where it is finished; return what was written."""
        if self.end_id is not None:
            tokens = tokens.masked_fill(self.finished, self.end_id)
            self.finished.masked_fill_(tokens == self.end_id, True)
        if place == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, self.ids.new_zeros(self.ids.shape)], dim=1)
        self.ids[:, place] = tokens
        return tokens

    def context(self, end: int, n_positions: int) -> Tensor:
        """Return what the model is to read: all up to `end`, or the later half of the positions."""
        return self.ids[:, 0 if end <= n_positions else end - max(1, n_positions // 2) : end]


def check_prompts(model: GPT, token_ids: Tensor, *, any_length: bool) -> None:
    """Refuse prompts that the model cannot take, also what of them is not going to be read.

    Raises:
        ValueError: They are empty, not `[batch time]`, or hold what is no id of the model's.
    """
    if token_ids.numel() == 0:
        message = f"token_ids is an empty prompt: shape {list(token_ids.shape)}"
        raise ValueError(message)
    config = model.config
    if any_length and token_ids.ndim > 0:
        longest = max(config.n_positions, token_ids.shape[-1])
        config = dataclasses.replace(config, n_positions=longest)
    check_inputs(token_ids, None, None, config=config, device=model.tokens_embed.weight.device)


def _new_tokens(model: GPT, token_ids: Tensor, request: Request) -> int:
    """Return how many tokens can follow; refuse what cannot be continued.

    Raises:
        ValueError: See `generate`.
    """
    most = model.config.n_positions
    check_prompts(model, token_ids, any_length=request.overflow == "slide")
    time = token_ids.shape[1]
    if request.streams and len(request.streams) != len(token_ids) * request.samples:
        message = f"streams has {len(request.streams)} numbers, there are "
        message += f"{len(token_ids) * request.samples} texts"
        raise ValueError(message)
    if request.overflow == "error" and time + request.max_new_tokens > most:
        message = (
            f"{time} tokens of prompt and max_new_tokens={request.max_new_tokens} are more than "
            f"the model's {most} positions; ask for fewer, or choose overflow 'stop' or 'slide'"
        )
        raise ValueError(message)
    if request.overflow == "stop":
        return min(request.max_new_tokens, most - time)
    return request.max_new_tokens
