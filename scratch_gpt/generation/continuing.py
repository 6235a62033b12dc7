"""A prompt continued: token by token, or by beam search."""

import dataclasses
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from scratch_gpt.generation.beam import beam_search
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.request import Request
from scratch_gpt.inputs import check_inputs
from scratch_gpt.model import GPT
from scratch_gpt.sampling import Draws, choose


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
