"""The properties, each as pairs of calls whose numbers must be equal, or must differ."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from parity.checks.invariants.subject import ALL, At, Pairs, Run, Subject
from parity.core import inputs
from parity.core.inputs import Inputs
from scratch_gpt.generation.decoder import Decoder
from scratch_gpt.kernels.backends import BACKENDS
from scratch_gpt.kernels.tiled_attention import TILE, groups
from scratch_gpt.kv_cache import KVCache
from scratch_gpt.model import GPT
from scratch_gpt.tap import Tap, no_tap


@dataclasses.dataclass(frozen=True, eq=False)
class Side:
    """A call: its run, and batch and time of its token ids."""

    run: Run
    shape: tuple[int, int]

    @cached_property
    def logits(self) -> Tensor:
        """What the first run returns; several cases may compare with it."""
        return self.run(no_tap)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """Two calls, and what must hold of their logits.

    Attributes:
        name: `PROPERTY.CASE`.
        one: The first call, to which the other is compared.
        pairs: The tokens that are compared.
        exact: Whether the logits must be equal to the bit; else to rounding. Calls of the same
            shapes run the same instructions, so that only rounding of other shapes may differ.
        around: The context of the other call.
        change: Empty for equality; else the logits must differ at every token, and this is the
            embedding that the change does not concern.
        least: The change that counts, over the RMS.
    """

    name: str
    one: Side
    other: Side
    pairs: Pairs = ((At(), At()),)
    exact: bool = True
    around: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    change: str = ""
    least: float = 0.0


class Calls:
    """Makes the calls of a subject, on seeded ids.

    Attributes:
        longest: The longest text.
    """

    def __init__(self, subject: Subject, *, longest: int, seed: int) -> None:
        self.subject, self.seed = subject, seed
        self.longest = min(longest, subject.sizes.n_positions)
        few = torch.arange(5, device=subject.device)[None].expand(2, -1)
        self.no_positions = subject.refuses(positions=few)
        self.no_mask = subject.refuses(attention_mask=torch.ones_like(few, dtype=torch.bool))

    @property
    def lengths(self) -> list[int]:
        """The lengths of texts: one token, two, an odd number, behind a tile, the longest."""
        return sorted({min(n, self.longest) for n in (1, 2, 37, TILE + 1, self.longest)})

    def ids(self, batch: int, time: int, draw: int = 0) -> Tensor:
        """Return ids `[batch time]`, with the first one, the last one and a repeat."""
        seed = (self.seed + 1_000_003 * draw) % 2**63
        drawn = inputs.seeded(
            batch=batch, time=time, vocab_size=self.subject.sizes.vocab_size, seed=seed
        )
        return drawn.token_ids.to(self.subject.device)

    def others(self, ids: Tensor) -> Tensor:
        """Return ids of which every one is another."""
        size = self.subject.sizes.vocab_size
        drawn = self.ids(ids.shape[0], ids.shape[1], 7)
        return (ids + 1 + drawn % (size - 1)) % size

    def places(self, batch: int, time: int) -> Tensor:
        """Return the positions 0, 1, 2, ... of each row."""
        return torch.arange(time, device=self.subject.device).expand(batch, -1)

    def side(self, token_ids: Tensor, **given: Tensor | None) -> Side:
        """Return a call."""
        called = Inputs(token_ids=token_ids, **given)
        return Side(self.subject.run(called), (token_ids.shape[0], token_ids.shape[1]))


# Determinism.


def determinism(calls: Calls) -> Iterator[Case]:
    """Yield calls that are repeated: at once, after other calls, with other threads and modes."""
    longest = calls.longest
    for time in calls.lengths:
        side = calls.side(calls.ids(2, time))
        yield Case(name=f"determinism.again.{time}", one=side, other=side)
    texts = [calls.ids(3, longest, 1), calls.ids(1, 1, 2), calls.ids(2, min(5, longest), 3)]
    between = [calls.side(ids) for ids in texts]

    def after_others() -> contextlib.AbstractContextManager[None]:
        for one in between:
            one.run(no_tap)
        return contextlib.nullcontext()

    side = calls.side(calls.ids(2, min(37, longest)))
    yield Case(name="determinism.after_others", one=side, other=side, around=after_others)
    yield Case(
        name="determinism.after_training_mode",
        one=side,
        other=side,
        around=lambda: _through_training(calls.subject),
    )
    side = calls.side(calls.ids(2, longest))
    if calls.subject.device.type == "cpu":
        here = torch.get_num_threads()
        for count in {1, 2} - {here}:
            yield Case(
                name=f"determinism.threads.{count}",
                one=side,
                other=side,
                exact=False,
                around=partial(_threads, count),
            )
    for time in sorted({1, longest}):
        side = calls.side(calls.ids(2, time))
        yield Case(
            name=f"determinism.with_gradients.{time}",
            one=side,
            other=side,
            exact=False,
            around=torch.enable_grad,
        )


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _through_training(subject: Subject) -> Iterator[None]:
    subject.model.train()
    subject.model.eval()
    yield


# Causality.


def causality(calls: Calls) -> Iterator[Case]:
    """Yield texts of which the tokens from some place on are others: none before it may change."""
    longest = calls.longest
    if (one_each := _one_each(calls)) is not None:
        base, changed = one_each
        time = base.shape[1]
        before = [(slice(row, row + 1), slice(0, row)) for row in range(1, time)]
        yield Case(
            name=f"causality.each_token.{time}",
            one=calls.side(base),
            other=calls.side(changed),
            pairs=[(At(*at), At(*at)) for at in before],
        )
    edges = {*range(TILE, longest, TILE)}
    for time in calls.lengths:
        ids = calls.ids(1, time)
        one = calls.side(ids)
        cuts = {1, 2, time // 2, time - 1, *edges, *(edge - 1 for edge in edges)}
        cuts |= {edge + 1 for edge in edges}
        for cut in sorted(cut for cut in cuts if 0 < cut < time):
            changed = ids.clone()
            changed[:, cut:] = calls.others(ids)[:, cut:]
            before_cut = At(places=slice(0, cut))
            yield Case(
                name=f"causality.{time}.from_{cut}",
                one=one,
                other=calls.side(changed),
                pairs=[(before_cut, before_cut)],
            )


_MOST = 1_024
"""Tokens of a batch that has a row for each token."""


def _one_each(calls: Calls) -> tuple[Tensor, Tensor] | None:
    """Return equal rows, and the same where row `n` has another token `n`; None for one token.

    There is a row more than tokens, so that a tensor's axes of rows and of tokens have other sizes.
    """
    time = min(calls.longest, 32)
    if time == 1:
        return None
    base = calls.ids(1, time, 4).expand(time + 1, -1).contiguous()
    changed = base.clone()
    changed.diagonal().copy_(calls.others(base).diagonal())
    return base, changed


# Batches.


def batches(calls: Calls) -> Iterator[Case]:
    """Yield batches of which a row must not depend on the others, nor on its place."""
    longest, n_head = calls.longest, calls.subject.sizes.n_head
    # The tiled kernel takes a group of rows at once; the last group is smaller.
    together = next(groups((1 << 20, n_head, longest, 1), longest, TILE)).stop
    shapes = [(5, min(37, longest)), (5, longest)]
    if 1 < together + 2 <= 8 * _MOST // longest:
        shapes.append((together + 2, longest))
    for batch, time in dict.fromkeys(shapes):
        ids = calls.ids(batch, time)
        one = calls.side(ids)
        label = f"{batch}x{time}"
        is_ragged = batch > 5  # noqa: PLR2004 - the last shape, whose calls take long
        for name, row in (("first", 0), ("last", batch - 1))[is_ragged:]:
            changed = calls.others(ids)
            changed[row] = ids[row]
            at = At(slice(row, row + 1))
            yield Case(
                name=f"batch.{label}.{name}_row_with_others",
                one=one,
                other=calls.side(changed),
                pairs=[(at, at)],
            )
            yield Case(
                name=f"batch.{label}.{name}_row_alone",
                one=one,
                other=calls.side(ids[row : row + 1]),
                pairs=[(at, At())],
                exact=False,
            )
        if not is_ragged:
            ends = [At(slice(row, row + 1)) for row in range(batch)]
            yield Case(
                name=f"batch.{label}.reversed",
                one=one,
                other=calls.side(ids.flip(0)),
                pairs=list(zip(ends, reversed(ends), strict=True)),
                exact=False,
            )


# Positions.


def positions(calls: Calls) -> Iterator[Case]:
    """Yield texts with explicit positions."""
    longest = calls.longest
    for time in calls.lengths:
        ids = calls.ids(2, time)
        one = calls.side(ids)
        for name, rows in (("every_row", 2), ("one_row", 1)):
            yield Case(
                name=f"positions.{name}.{time}",
                one=one,
                other=calls.side(ids, positions=calls.places(rows, time)),
            )
    if (one_each := _one_each(calls)) is not None:
        base, _ = one_each
        time = base.shape[1]
        places = calls.places(*base.shape)
        moved = places.clone()
        moved.diagonal().copy_((places.diagonal() + 1) % calls.subject.sizes.n_positions)
        yield Case(
            name=f"positions.each_used.{time}",
            one=calls.side(base, positions=places),
            other=calls.side(base, positions=moved),
            pairs=_behind(calls, time),
            change="embeddings.tokens",
        )
    batch, time = 5, min(37, longest)
    room = calls.subject.sizes.n_positions - time
    starts = torch.arange(batch, device=calls.subject.device) * min(7, room // (batch - 1))
    shifted = calls.places(batch, time) + starts[:, None]
    ids = calls.ids(batch, time)
    for row in (1, batch - 1) if room >= batch else ():
        yield Case(
            name=f"positions.of_row_{row}",
            one=calls.side(ids, positions=shifted),
            other=calls.side(ids[row : row + 1], positions=shifted[row : row + 1]),
            pairs=[(At(slice(row, row + 1)), At())],
            exact=False,
        )


# Padding.


def padding(calls: Calls) -> Iterator[Case]:
    """Yield rows of unequal lengths, padded: the tokens must be as without padding."""
    longest = calls.longest
    lengths = [longest, *(min(n, longest) for n in (TILE + 1, 37, 2, 1))]
    batch = len(lengths)
    ids = calls.ids(batch, longest)
    yield Case(
        name="padding.none_hidden",
        one=calls.side(ids),
        other=calls.side(ids, attention_mask=torch.ones_like(ids, dtype=torch.bool)),
        exact=False,
    )
    sides = {"right": 0.0, **({} if calls.no_positions else {"left": 1.0, "both_sides": 0.5})}
    for name, share in sides.items():
        starts = [int((longest - n) * share) for n in lengths]
        real = [slice(at, at + n) for at, n in zip(starts, lengths, strict=True)]
        mask = torch.zeros_like(ids, dtype=torch.bool)
        places = torch.zeros_like(ids)
        for row, tokens in enumerate(real):
            mask[row, tokens] = True
            places[row, tokens] = torch.arange(lengths[row], device=ids.device)
        given = {} if calls.no_positions else {"positions": places}
        one = calls.side(ids, attention_mask=mask, **given)
        shown = [At(slice(row, row + 1), tokens) for row, tokens in enumerate(real)]
        for row, tokens in enumerate(real):
            yield Case(
                name=f"padding.{name}.{lengths[row]}_of_{longest}",
                one=one,
                other=calls.side(ids[row : row + 1, tokens]),
                pairs=[(shown[row], At())],
                exact=False,
            )
        # Ids and positions of padding.
        given = {} if calls.no_positions else {"positions": places + ~mask}
        if longest > 1:
            yield Case(
                name=f"padding.{name}.contents",
                one=one,
                other=calls.side(
                    torch.where(mask, ids, calls.others(ids)), attention_mask=mask, **given
                ),
                pairs=[(at, at) for at in shown],
            )


# Prefixes.


def prefixes(calls: Calls) -> Iterator[Case]:
    """Yield beginnings of a text: their logits are those of the whole text there."""
    longest = calls.longest
    ids = calls.ids(1, longest, 5)
    edges = {edge + step for edge in range(TILE, longest, TILE) for step in (-1, 0, 1)}
    whole = calls.side(ids)
    for time in sorted(one for one in {1, 2, 37, longest - 1, *edges} if 0 < one < longest):
        yield Case(
            name=f"prefix.of_{longest}.{time}",
            one=whole,
            other=calls.side(ids[:, :time]),
            pairs=[(At(places=slice(0, time)), At())],
            exact=False,
        )


# The cache.


def cache(calls: Calls) -> Iterator[Case]:
    """Yield texts that a cache reads in parts, and the same text read at once."""
    model = calls.subject.model
    if not isinstance(model, GPT):  # no other model has a cache that is known
        return
    longest = calls.longest
    ids, second = calls.ids(3, longest), calls.ids(3, longest, 6)
    whole = calls.side(ids)
    if not BACKENDS[model.backend].compiled:
        for size in sorted({1, 37, TILE, longest - 1} & {*range(1, longest)}):
            chunks = [size, longest - size] if size > 1 else _by_one(longest)
            label = "_".join(map(str, chunks[:2])) if size > 1 else "one_by_one"
            run = _chunked(model, ids, chunks)
            yield Case(
                name=f"cache.chunks.{label}",
                one=whole,
                other=Side(run, whole.shape),
                exact=False,
            )
        if longest > 1:
            half = longest // 2
            # Both fit into the cache together: if it is not cleared, positions go on.
            chunks = [1, longest - half - 1] if longest - half > 1 else [1]
            text = calls.side(second[:, : sum(chunks)])
            run = _chunked(model, second, chunks, after=ids[:, :half])
            yield Case(
                name="cache.second_text",
                one=text,
                other=Side(run, text.shape),
                exact=False,
            )
            yield from _padded_cache(calls, model, half)
    for first in sorted({1, TILE - 2} & {*range(1, longest)}):
        steps = min(6, longest - first)
        for name, texts in (("steps", [ids]), ("second_text", [second, ids])):
            yield Case(
                name=f"cache.decoder.{name}_from_{first}",
                one=whole,
                other=Side(_decoded(model, texts, first, steps), whole.shape),
                pairs=[(At(places=slice(first - 1, first + steps)), At())],
                exact=False,
            )


def _by_one(longest: int) -> list[int]:
    few = min(5, longest - 1)
    return [1] * few + [longest - few]


def _padded_cache(calls: Calls, model: GPT, half: int) -> Iterator[Case]:
    """Yield a text with padding on the left, read in two parts and at once."""
    longest = calls.longest
    ids = calls.ids(3, longest)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :half] = False
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    real = [At(slice(row, row + 1), slice(int((~mask[row]).sum()), longest)) for row in range(3)]
    yield Case(
        name="cache.padding_left",
        one=calls.side(ids, attention_mask=mask, positions=places),
        other=Side(
            _chunked(model, ids, [half, longest - half], mask=mask, places=places), (3, longest)
        ),
        pairs=[(at, at) for at in real],
        exact=False,
    )


def _chunked(  # noqa: PLR0913 - what is read, and how
    model: GPT,
    ids: Tensor,
    chunks: Sequence[int],
    *,
    after: Tensor | None = None,
    mask: Tensor | None = None,
    places: Tensor | None = None,
) -> Run:
    """Return a run that reads a text in chunks, after another text was read and cleared."""

    def run(tap: Tap) -> Tensor:
        table = model.tokens_embed.weight
        kept = KVCache(model.config, batch=len(ids), dtype=table.dtype, device=table.device)
        if after is not None:
            model(after, cache=kept)
            kept.clear()
        found, start = [], 0
        for size in chunks:
            end = start + size
            found.append(
                model(
                    ids[:, start:end],
                    None if places is None else places[:, start:end],
                    None if mask is None else mask[:, :end],
                    cache=kept,
                    tap=tap,
                )
            )
            start = end
        return torch.cat(found, dim=1)

    return run


def _decoded(model: GPT, texts: Sequence[Tensor], first: int, steps: int) -> Run:
    """Return a run of the decoder on texts one after the other; the logits are of the last one."""

    def run(_tap: Tap) -> Tensor:
        decoder = Decoder(model, batch=len(texts[0]))
        for ids in texts:
            found = [decoder.start(ids[:, :first]).clone()]
            found += [decoder.step(ids[:, at]).clone() for at in range(first, first + steps)]
        return torch.stack(found, dim=1)

    return run


# Sensitivity.


def _behind(calls: Calls, time: int) -> Pairs:
    """Return, of row `n`, the tokens from the `n`-th on; in half precision the `n`-th alone.

    Later tokens see it by attention, which may give it less than half precision can add.
    """
    last = time if calls.subject.dtype in (torch.float64, torch.float32) else 0
    behind = [At(slice(row, row + 1), slice(row, max(row + 1, last))) for row in range(time)]
    return [(at, at) for at in behind]


def sensitivity(calls: Calls) -> Iterator[Case]:
    """Yield texts with another token, and one token over and over: no two may be alike."""
    if (one_each := _one_each(calls)) is not None:
        base, changed = one_each
        time = base.shape[1]
        yield Case(
            name=f"sensitivity.tokens.{time}",
            one=calls.side(base),
            other=calls.side(changed),
            pairs=_behind(calls, time),
            change="embeddings.positions",
        )
        one_id = torch.full_like(base[:1], int(base[0, -1]))
        yield Case(
            name=f"sensitivity.order.{time}",
            one=calls.side(one_id),
            other=calls.side(one_id),
            pairs=[(At(places=slice(1, time)), At(places=slice(0, time - 1)))],
            change="embeddings.tokens",
            least=1e-9,
        )


def token_ids(calls: Calls) -> Iterator[Case]:
    """Yield texts of one id each: no two ids may have the same logits. Then texts of one id alone.

    Beside the first and the last ones, there are the ids at which a type of 8 or 16 bits ends, and
    those to which it would wrap.
    """
    size = calls.subject.sizes.vocab_size
    ends = {0, 1, 2, size // 2, size - 3, size - 2, size - 1}
    ends |= {2**bits + step for bits in (7, 8, 15, 16) for step in (-1, 0, 1)}
    ends = {one for one in ends if 0 <= one < size}
    wrapped = {
        one - 2**bits * ((one + 2 ** (bits - 1) * signed) // 2**bits)
        for one in ends
        for bits in (8, 16)
        for signed in (0, 1)
    }
    chosen = sorted(ends | {one % size for one in wrapped})
    ids = torch.tensor(chosen, device=calls.subject.device)[:, None]
    rows = [At(slice(row, row + 1)) for row in range(len(chosen))]
    yield Case(
        name=f"ids.distinct.{len(chosen)}",
        one=calls.side(ids),
        other=calls.side(ids),
        pairs=list(combinations(rows, 2)),
        change="embeddings.positions",
        least=1e-9,
    )
    time = min(37, calls.longest)
    for name, value in (("first", 0), ("last", size - 1)):
        ids = torch.full((1, time), value, device=calls.subject.device)
        yield Case(
            name=f"ids.repeated.{name}",
            one=calls.side(ids),
            other=calls.side(ids[:, : max(1, time // 2)]),
            pairs=[(At(places=slice(0, max(1, time // 2))), At(ALL))],
            exact=False,
        )
