"""Continue prompts, token by token or by beam search."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Literal, Unpack

import torch
from jaxtyping import Int
from torch import Tensor

from scratch_gpt.errors import SettingError
from scratch_gpt.generation.beam_search import Settings, beam_search
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.sampling import (
    LARGEST_COUNT,
    LARGEST_SEED,
    SAMPLING_ONLY,
    Draws,
    Rules,
    choose,
    is_whole,
)
from scratch_gpt.input_checks import check_inputs
from scratch_gpt.model import GPT, GenerateOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """The settings of a generation.

    Raises:
        SettingError: A setting is out of range; the message names it and the allowed values.
    """

    max_new_tokens: int
    """Maximum number of tokens to add; may be 0."""
    rules: Rules = dataclasses.field(default_factory=Rules)
    """How each token is chosen; the default is greedy."""
    seed: int = 0
    """Determines the random numbers."""
    streams: tuple[int, ...] = ()
    """Numbers of the texts' random streams; 0, 1, 2, ... if empty. A text sampled as row 3 of a
    batch is sampled again, alone, from stream 3."""
    samples: int = 1
    """Number of texts for each prompt."""
    beams: int = 1
    """Number of running texts of a beam search; 1 for no beam search."""
    length_penalty: float = 1.0
    """As in `beam_search.Settings`."""
    early_stopping: bool | Literal["never"] = False
    """As in `beam_search.Settings`."""
    end_id: int | None = None
    """The token that finishes a text; GPT-1 has no such token of its own."""
    overflow: str = "stop"
    """`"stop"`: a text ends at `n_positions` tokens. `"error"`: reject a request that could need
    more. `"slide"`: continue from the later half of the text, as if it were the prompt; the rest is
    forgotten. Half of the positions are then read again, once every half of them."""

    def __post_init__(self) -> None:
        for names, (fits, allowed) in _ALLOWED.items():
            if not fits(self):
                raise SettingError({name: getattr(self, name) for name in names}, allowed)

    @classmethod
    def of(cls, max_new_tokens: int, **options: Unpack[GenerateOptions]) -> "Request":
        """Return a request from options by name, as `GPT.generate` takes them.

        `temperature`, `top_k` or `top_p`, given and not None, imply sampling.

        Raises:
            SettingError: A value is out of range, or two options contradict each other.
            TypeError: An option does not exist, or is given twice: by both its names, or by name
                and in `rules`.
        """
        for name in options:
            if name not in GenerateOptions.__annotations__:
                raise TypeError(_unknown(name))
            if _HUGGINGFACE.get(name) in options:
                raise TypeError(f"{name} and {_HUGGINGFACE[name]} are one option: give one")
        given: dict[str, Any] = {_HUGGINGFACE.get(n, n): value for n, value in options.items()}
        given = {n: v for n, v in given.items() if v is not None or n not in SAMPLING_ONLY}
        names = {field.name for field in dataclasses.fields(Rules)} & given.keys()
        if names and "rules" in given:
            raise TypeError(f"give rules, or {sorted(names)} by name, not both")
        try:
            if names:
                given["rules"] = _rules(given, {name: given.pop(name) for name in names})
            return cls(max_new_tokens=max_new_tokens, **given)
        except SettingError as error:
            if not options.keys() & _HUGGINGFACE.keys():
                raise
            theirs = {own: name for name, own in _HUGGINGFACE.items()}
            words = re.sub(r"\w+", lambda word: theirs.get(word[0], word[0]), error.allowed)
            got = {theirs.get(name, name): value for name, value in error.got.items()}
            raise SettingError(got, words) from None


def _rules(given: Mapping[str, Any], chosen: Mapping[str, Any]) -> Rules:
    """Return the rules; without a word on sampling, options that only sampling uses imply it."""
    if "sampled" in chosen:
        return Rules(**chosen)
    asked = [name for name in SAMPLING_ONLY if name in chosen]
    if given.get("beams", 1) == 1:
        return Rules(sampled=bool(asked), **chosen)
    for name in asked:
        if chosen[name] not in SAMPLING_ONLY[name]:
            got = {name: chosen[name], "beams": given["beams"]}
            raise SettingError(got, "one of the two: a beam search draws nothing")
    return Rules(**chosen)


_HUGGINGFACE = {
    "do_sample": "sampled",
    "num_beams": "beams",
    "num_return_sequences": "samples",
    "eos_token_id": "end_id",
}
"""Hugging Face's names of settings that have a name of their own here."""


def _unknown(name: str) -> str:
    """Return the message for an option that does not exist."""
    known = list(GenerateOptions.__annotations__)
    near = get_close_matches(name, known, n=1, cutoff=0.8)
    hint = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}"
    return f"there is no option {name!r}; {hint}"


def _finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


_MOST_TEXTS = 10_000
"""The largest number of samples or beams; with the released model so many need 360 GB."""

_ALLOWED: dict[tuple[str, ...], tuple[Callable[[Request], bool], str]] = {
    ("max_new_tokens",): (
        lambda r: is_whole(r.max_new_tokens, 0, LARGEST_COUNT),
        f"a whole number from 0 to {LARGEST_COUNT:,}",
    ),
    ("samples",): (
        lambda r: (
            is_whole(r.samples, 1, _MOST_TEXTS)
            and (r.samples == 1 or r.beams > 1 or r.rules.sampled)
        ),
        f"1, or up to {_MOST_TEXTS:,} with sampled=True or beams: greedy texts are all the same",
    ),
    ("beams",): (
        lambda r: is_whole(r.beams, 1, _MOST_TEXTS) and (r.beams == 1 or not r.rules.sampled),
        f"from 1 to {_MOST_TEXTS:,}; 1 with sampled=True, because a beam search draws nothing",
    ),
    ("samples", "beams"): (
        lambda r: r.beams == 1 or r.samples <= r.beams,
        "no more samples than beams",
    ),
    ("seed",): (lambda r: is_whole(r.seed, 0, LARGEST_SEED), "a whole number from 0 to 2**64 - 1"),
    ("streams",): (
        lambda r: (
            isinstance(r.streams, (tuple, list))
            and all(is_whole(number, 0, LARGEST_SEED) for number in r.streams)
        ),
        "a tuple of whole numbers from 0 to 2**64 - 1, one for each text",
    ),
    ("length_penalty",): (lambda r: _finite(r.length_penalty), "a finite number"),
    ("early_stopping",): (
        lambda r: isinstance(r.early_stopping, bool) or r.early_stopping == "never",
        "True, False or 'never'",
    ),
    ("end_id",): (lambda r: r.end_id is None or is_whole(r.end_id, 0), "an id, or None"),
    ("overflow",): (
        lambda r: r.overflow in ("stop", "slide", "error"),
        "'stop', 'error' or 'slide'",
    ),
    ("overflow", "beams"): (
        lambda r: r.overflow != "slide" or r.beams == 1,
        "slide only without beams",
    ),
}
"""For each field or pair of fields, a test of the request, and the allowed values in words."""


def generate(
    model: GPT, token_ids: Int[Tensor, "batch time"], request: Request
) -> Int[Tensor, "texts length"]:
    """Return prompts and their continuations, `[batch * samples, length]`, int64.

    The samples of a prompt are adjacent. A text that ends early, at `end_id`, is padded with it.

    Raises:
        ValueError: A prompt is invalid or empty, the prompt alone exceeds `n_positions` or, with
            `overflow="error"`, the whole text may; or the rules leave no token.
    """
    count = _new_tokens(model, token_ids, request)
    texts = token_ids.repeat_interleave(request.samples, 0).long()
    if count == 0:
        return texts
    if request.beams > 1:
        settings = Settings(
            beams=request.beams,
            max_new_tokens=count,
            length_penalty=request.length_penalty,
            early_stopping=request.early_stopping,
            end_id=request.end_id,
            returned=request.samples,
        )
        running, capacity = len(token_ids) * request.beams, token_ids.shape[1] + count
        decoder = Decoder(model, batch=running, capacity=capacity)
        return beam_search(decoder, token_ids, settings, request.rules)
    new = list(stream(model, token_ids, request))
    return torch.cat([texts, *(tokens[:, None] for tokens in new)], dim=1)


def stream(
    model: GPT, token_ids: Int[Tensor, "batch time"], request: Request
) -> Iterator[Int[Tensor, " texts"]]:
    """Yield each text's next token, `[batch * samples]`, as soon as it is chosen.

    Raises:
        ValueError: As in `generate`, or beams were requested: a beam search cannot stream.
    """
    if request.beams > 1:
        raise ValueError(f"beams is {request.beams}; allowed: 1: a beam search cannot stream")
    count = _new_tokens(model, token_ids, request)
    request.rules.check(model.config.vocab_size)
    if count == 0:
        return
    n_positions = model.config.n_positions
    texts = _Texts(token_ids, request)
    draws = Draws(request.seed, request.streams or len(texts.ids))
    length = token_ids.shape[1]
    decoder = Decoder(model, batch=len(texts.ids), capacity=min(length + count, n_positions))
    logits = decoder.start(texts.context(length, n_positions))
    for position in range(length, length + count):
        so_far = texts.ids[:, :position]
        tokens = choose(request.rules.processed(logits, so_far), request.rules, draws)
        yield texts.append(tokens, position)
        if position + 1 == length + count or bool(texts.finished.all()):
            return
        if decoder.length < n_positions:
            logits = decoder.step(texts.ids[:, position])
        else:
            logits = decoder.start(texts.context(position + 1, n_positions))


class _Texts:
    """Running texts: `ids` `[texts time]`, whose capacity doubles, and `finished` `[texts]`."""

    def __init__(self, token_ids: Tensor, request: Request) -> None:
        self.ids = token_ids.repeat_interleave(request.samples, 0).long()
        self.finished = self.ids.new_zeros(len(self.ids), dtype=torch.bool)
        self.end_id = request.end_id

    def append(self, tokens: Tensor, position: int) -> Tensor:
        """Write each text's next token, or `end_id` if it is finished; return these tokens."""
        if self.end_id is not None:
            tokens = tokens.masked_fill(self.finished, self.end_id)
            self.finished.masked_fill_(tokens == self.end_id, True)
        if position == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, self.ids.new_zeros(self.ids.shape)], dim=1)
        self.ids[:, position] = tokens
        return tokens

    def context(self, end: int, n_positions: int) -> Tensor:
        """Return the ids up to `end`, or the last half of the positions if that is too many."""
        return self.ids[:, 0 if end <= n_positions else end - max(1, n_positions // 2) : end]


def _new_tokens(model: GPT, token_ids: Tensor, request: Request) -> int:
    """Return the number of tokens that can be added, after checking prompts and request."""
    n_positions = model.config.n_positions
    _check_prompts(model, token_ids, any_length=request.overflow == "slide")
    time, texts = token_ids.shape[1], len(token_ids) * request.samples
    if request.streams and len(request.streams) != texts:
        raise ValueError(f"streams has {len(request.streams)} numbers, there are {texts} texts")
    if request.overflow == "error" and time + request.max_new_tokens > n_positions:
        raise ValueError(
            f"{time} tokens of prompt and max_new_tokens={request.max_new_tokens} are more than "
            f"the model's {n_positions} positions; use fewer, or overflow 'stop' or 'slide'"
        )
    if request.overflow == "stop":
        return min(request.max_new_tokens, n_positions - time)
    return request.max_new_tokens


def _check_prompts(model: GPT, token_ids: Tensor, *, any_length: bool) -> None:
    """Reject invalid prompts, including invalid ids in a part that a slide would skip."""
    if token_ids.numel() == 0:
        raise ValueError(f"token_ids is an empty prompt: shape {list(token_ids.shape)}")
    config = model.config
    if any_length and token_ids.ndim > 0:
        longest = max(config.n_positions, token_ids.shape[-1])
        config = dataclasses.replace(config, n_positions=longest)
    check_inputs(token_ids, None, None, config=config, device=model.tokens_embed.weight.device)
