"""Rows of calls beside a single prompt's: batches, ends, overflow, chunks, and streamed text.

They are short: each is compared in float64 with the oracle.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from functools import partial
from string import ascii_lowercase
from typing import Any

import torch
from torch import Tensor

from parity.checks.generation.rows import float64_row, ids_row
from parity.checks.generation.texts import (
    GREEDY,
    LIFTED,
    RULED,
    SAMPLED,
    TIED,
    Case,
    Pass,
    Watched,
    float64_rows,
    repeated,
)
from parity.core.backends import EAGER
from parity.core.results import Row
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.generation.generate import Request, stream
from scratch_gpt.generation.text_stream import NewText, new_texts
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer.pretokenizers import UNKNOWN
from scratch_gpt.tokenizer.tokenizer import Tokenizer
from scratch_gpt.tokenizer.vocabulary import Vocabulary

LONGEST = 12
"""The most new tokens of a call."""

LAST_SEED = 2**64 - 1
STREAMS = (7, LAST_SEED, 0)


def by_names(case: Case, model: GPT, rules: Watched) -> Tensor:
    """Return the texts of `model.generate` with options by Hugging Face's names."""
    options: dict[str, Any] = {**case.way.fields, "num_return_sequences": case.samples}
    ids = model.generate(case.prompts, max_new_tokens=case.new, seed=case.seed, **options)
    by_stream(case, model, rules)  # for the logits
    return ids


def by_stream(case: Case, model: GPT, rules: Watched) -> Tensor:
    """Return the texts of `stream`, whose columns are the new tokens."""
    columns = list(stream(model, case.prompts, _request(case, rules)))
    return torch.cat([repeated(case.prompts, case.samples), torch.stack(columns, dim=1)], dim=1)


def _request(case: Case, rules: Watched) -> Request:
    return Request(max_new_tokens=case.new, rules=rules, samples=case.samples, seed=case.seed)


def few_prompts(searched: Tensor) -> Tensor:
    """Return prompts `[3 time]`: those of the beam searches, and the first of them again."""
    return searched[[0, len(searched) - 1, 0]]


def begun_with(prompts: Tensor, token: int) -> Tensor:
    """Return prompts that begin with a token."""
    prompts = prompts.clone()
    prompts[:, 0] = token
    return prompts


def cases(run: Pass, searched: Tensor) -> list[Case]:
    """Return a case for each kind of request, on the whole model."""
    prompts = few_prompts(searched)
    size = run.model.config
    plain = Case(
        tap="batch.sampled",
        prompts=prompts,
        way=SAMPLED.fitting(size.vocab_size),
        new=min(run.new, LONGEST),
        longest=size.n_positions,
        samples=2,
    )
    of = dataclasses.replace
    return [
        of(plain, tap="batch.greedy", way=GREEDY, samples=1),
        of(plain, tap="batch.ruled", way=RULED, samples=1),
        of(plain, tap="batch.tied", way=TIED, samples=1),
        plain,
        of(plain, tap="batch.streams", samples=1, streams=STREAMS, seed=LAST_SEED),
        *(
            of(plain, tap=tap, prompts=begun_with(prompts, end_id), way=LIFTED, end_id=end_id)
            for tap, end_id in (("batch.ends", 0), ("batch.ends_last", size.vocab_size - 1))
        ),
        of(plain, tap="batch.names", run=by_names),
        of(plain, tap="stream.columns", run=by_stream),
    ]


CALLS = (
    *("batch.greedy", "batch.ruled", "batch.tied", "batch.sampled", "batch.streams"),
    *("batch.ends", "batch.ends_last", "batch.names", "stream.columns"),
    *("overflow.stop", "overflow.slide", "overflow.long", "stream.text"),
)
"""Names of the calls with rows of logits and ids."""

HALVES = ("half.greedy", "half.sampled")
"""Names of the calls in half precision."""

OTHERS = (
    *(f"chunks.{name}.logits" for name in (*EAGER, "decoder")),
    *("overflow.limits", "stream.parts", "stream.result", "stream.stop", "stream.held"),
)
"""Names of the other rows."""


def request_rows(run: Pass, searched: Tensor) -> Iterator[Row]:
    """Yield the rows of every call in float64."""
    yield from chunk_rows(run, searched)
    for case in cases(run, searched):
        run.progress("float64 requests", 0, 1)
        yield from _case_rows(run, case)
    yield from overflow_rows(run, searched)
    yield from stream_rows(run, searched)


def _case_rows(run: Pass, case: Case, model: GPT | None = None) -> Iterator[Row]:
    made = run.made(case, model)
    yield from [made] if isinstance(made, Row) else float64_rows(run, made, {"oracle": run.truth})


def half_cases(run: Pass, searched: Tensor) -> list[Case]:
    """Return the calls to repeat in half precision."""
    wanted = {name.replace("half", "batch"): name for name in HALVES}
    return [
        dataclasses.replace(case, tap=wanted[case.tap])
        for case in cases(run, searched)
        if case.tap in wanted
    ]


# Texts longer than the model's positions.


def shortened(model: GPT, positions: int) -> GPT:
    """Return a model that shares the weights, with fewer positions."""
    config = dataclasses.replace(model.config, n_positions=positions)
    with torch.device("meta"):
        short = GPT(config, backend=model.backend)
    state = model.state_dict()
    state["positions_embed.weight"] = state["positions_embed.weight"][:positions]
    short.load_state_dict(state, assign=True)
    return short.eval()


def overflow_rows(run: Pass, searched: Tensor) -> Iterator[Row]:
    """Yield the rows of texts that reach the last position of a model with few positions."""
    prompts = few_prompts(searched)
    room = min(_ROOM, run.model.config.n_positions - prompts.shape[1])
    positions = prompts.shape[1] + room
    model = shortened(run.model, positions)
    slides = Case(
        tap="overflow.slide",
        prompts=prompts,
        way=RULED,
        new=LONGEST,
        longest=positions,
        overflow="slide",
    )
    late = torch.cat([prompts, prompts], dim=1)[:, : positions + 2]
    for case in (
        dataclasses.replace(slides, tap="overflow.stop", overflow="stop"),
        slides,
        dataclasses.replace(slides, tap="overflow.long", prompts=late),
    ):
        yield from _case_rows(run, case, model)
    yield _limits_row(run, model, prompts, room)


_ROOM = 4
"""New tokens for which a shortened model has positions, if the whole model has them."""


def _limits_row(run: Pass, model: GPT, prompts: Tensor, room: int) -> Row:
    """Return the row of the numbers of new tokens, and of the error where they are too many.

    The model has positions for `room` of them.
    """

    def length(new: int, overflow: str) -> int:
        try:
            made = model.generate(prompts, max_new_tokens=new, overflow=overflow)
        except ValueError:
            return -1
        return made.shape[1] - prompts.shape[1]

    asked = [(0, "stop"), (room, "error"), (room + 1, "error"), (room + 1, "stop")]
    due = [0, room, -1, room]
    found = run.attempt(
        lambda: [length(new, overflow) for new, overflow in asked],
        tap="overflow.limits",
        place=lambda: f"{len(prompts)} prompts of {prompts.shape[1]} tokens",
    )
    if isinstance(found, Row):
        return found
    row = ids_row(found, due, tap="overflow.limits", dtype="float64", against="oracle")
    wrong = [
        f"overflow {overflow}, {new} new tokens where {room} fit: {_words(ours)}, "
        f"{_words(right)} due"
        for (new, overflow), ours, right in zip(asked, found, due, strict=True)
        if ours != right
    ]
    return dataclasses.replace(row, detail="; ".join(wrong[:1]))


def _words(length: int) -> str:
    return "an error" if length < 0 else f"{length} tokens"


# A text that the cache takes in several chunks.

_CUTS = (1, 5, 6)


def chunk_rows(run: Pass, searched: Tensor) -> Iterator[Row]:
    """Yield, for each backend with a cache, the row of logits of a text given in chunks.

    The last row is a decoder's, which read another text before.
    """
    prompts = few_prompts(searched)
    ids = torch.cat([prompts, prompts.roll(1, 0)], dim=1)[:, : run.model.config.n_positions]
    truth = run.truth(ids)
    for backend in (*EAGER, "decoder"):
        tap, read = f"chunks.{backend}.logits", _decoded if backend == "decoder" else _in_chunks
        found = run.attempt(
            partial(read, run, ids, backend),
            tap=tap,
            place=lambda: f"a text of {ids.shape[1]} tokens in chunks",
        )
        if isinstance(found, Row):
            yield found
            continue
        right = truth[:, -found.shape[1] :]
        row = float64_row(tap, found.flatten(0, 1), right.flatten(0, 1), "oracle", run.bounds)
        if row.detail and found.shape == right.shape:
            off = (found - right).abs().amax((0, 2)) > run.bounds.float64
            first = int(off.int().argmax()) + ids.shape[1] - found.shape[1]
            row = dataclasses.replace(row, detail=f"position {first}: {row.detail}")
        yield row


@torch.no_grad()
def _in_chunks(run: Pass, ids: Tensor, backend: str) -> Tensor:
    """Return the logits of a text in chunks, `[batch time vocab]`."""
    model = run.model.with_backend(backend).eval()
    cache = KVCache(model.config, batch=len(ids), dtype=run.model.tokens_embed.weight.dtype)
    chunks = [chunk for chunk in ids.tensor_split(_CUTS, dim=1) if chunk.shape[1]]
    return torch.cat([model(chunk, cache=cache) for chunk in chunks], dim=1)


def _decoded(run: Pass, ids: Tensor, _backend: str) -> Tensor:
    """Return a decoder's logits from position `_CUTS[-1] - 1` on, after those of another text."""
    decoder = Decoder(run.model, batch=len(ids))
    decoder.step(decoder.start(ids.flip(1)[:, :3]).argmax(-1))
    first = [decoder.start(ids[:, : _CUTS[-1]])]
    return torch.stack([*first, *map(decoder.step, ids[:, _CUTS[-1] :].T)], dim=1)


# Text, streamed and stopped.


def made_up(size: int) -> Tokenizer:
    """Return a tokenizer with so many tokens, of which two in three end a word."""
    letters = ascii_lowercase

    def token(number: int) -> str:
        text = ""
        for _ in range(4):  # enough for 456,976
            number, letter = divmod(number, len(letters))
            text += letters[letter]
        return text

    tokens = [token(number) + ("" if number % 3 == 1 else "</w>") for number in range(1, size)]
    return Tokenizer(Vocabulary(tokens=(UNKNOWN, *tokens), merges=()))


def stream_rows(run: Pass, searched: Tensor) -> Iterator[Row]:
    """Yield the rows of streamed text: whole, in parts, ended by a stop string, and by beams."""
    tokenizer = made_up(run.model.config.vocab_size)
    parts: list[str] = []
    texts: list[NewText] = []

    def by_texts(case: Case, model: GPT, rules: Watched) -> Tensor:
        (prompt,) = case.prompts.tolist()
        texts[:] = new_texts(model, tokenizer, prompt, _request(case, rules), show=parts.append)
        return torch.tensor([[*prompt, *text.ids] for text in texts])

    case = Case(
        tap="stream.text",
        prompts=searched[:1],
        way=SAMPLED.fitting(run.model.config.vocab_size),
        new=min(run.new, LONGEST),
        longest=run.model.config.n_positions,
        run=by_texts,
    )
    made = run.made(case)
    if isinstance(made, Row):
        yield made
        return
    yield from float64_rows(run, made, {"oracle": run.truth})
    ids = made.new[0]
    whole = _spelled(tokenizer, ids)
    yield _text_row("stream.parts", "".join(parts), whole)
    yield _text_row(
        "stream.result", _joined(texts[0]), _joined(NewText(ids, whole, "max_new_tokens"))
    )
    # From the middle of one token to the middle of the next.
    middle = len(_spelled(tokenizer, ids[: len(ids) // 2]))
    stop = whole[middle - 1 : middle + 2]
    ended = next(n for n in range(len(ids) + 1) if stop in _spelled(tokenizer, ids[:n]))
    for tap, string, due in (
        ("stream.stop", stop, NewText(ids[:ended], whole[: whole.index(stop)], "stop")),
        ("stream.held", f"{whole[-2:]}!", NewText(ids, whole, "max_new_tokens")),
    ):
        found = run.attempt(
            partial(
                new_texts,
                run.model,
                tokenizer,
                searched[0].tolist(),
                _request(case, case.way.watched()),
                stop=("no such text", string),
            ),
            tap=tap,
            place=case.place,
        )
        yield found if isinstance(found, Row) else _text_row(tap, _joined(found[0]), _joined(due))


def _spelled(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """Return the text of new tokens: a space first, and one between words."""
    tokens = tokenizer.vocabulary.tokens
    return (" " + "".join(tokens[number].replace("</w>", " ") for number in ids)).rstrip(" ")


def _joined(text: NewText) -> str:
    return json.dumps([text.text, text.ended, text.ids])


def _text_row(tap: str, ours: str, due: str) -> Row:
    """Return the row of a text, character by character."""
    row = ids_row([*map(ord, ours)], [*map(ord, due)], tap=tap, dtype="float64", against="oracle")
    return dataclasses.replace(row, detail=f"ours {ours!r}, {due!r} due" if ours != due else "")
