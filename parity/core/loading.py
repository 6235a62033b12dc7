"""Load the weights into a model that does not take them.

What its parameters are made of is decided from their names, shapes and order.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from parity.core.mapping import Expression, Proposal, Source, apply, blocks_of
from parity.errors import UsageError
from scratch_gpt.checkpoint.names import listed

_MATRIX = 2
_MOST_NUMBERS = 4
_MOST = 0.75


def load(
    model: nn.Module,
    reference: Mapping[str, Tensor],
    n_head: int,
    given: Mapping[str, Expression] | None = None,
) -> list[str]:
    """Copy the weights into a model; return what was done, special things first, then the table.

    Without given lines, a model that holds the token embedding has its weights already, and keeps
    them.

    Raises:
        UsageError: Something is ambiguous, or a line does not fit its parameter.
    """
    parameters = dict(model.named_parameters())
    if given is None and _holds(parameters.values(), reference["tokens_embed.weight"][0]):
        return ["the candidate takes no weights and holds them already"]
    proposal = propose(parameters, reference, n_head).overridden(given or {})
    table = "tokens_embed.weight"
    if table in proposal.unused():
        found = [f"{name} {list(parameter.shape)}" for name, parameter in parameters.items()]
        raise UsageError(
            f"no parameter of the model can be the token embedding {list(reference[table].shape)}",
            where=f"its parameters are {listed(found) or 'none'}",
            fix="build it with the sizes of the weights, which a config or arguments give it; or "
            "load the weights in a function build(config, weights)",
        )
    apply(proposal, model)
    constants, packed, longer = [], [], []
    for name, expression in proposal.mapping.items():
        is_given = name in (given or {})
        constants += [name] * (not expression.sources)
        packed += [name] * (expression.packs_attention() and not is_given)
        longer += [name] * (expression.padding > 0 and not is_given)
    special = {
        "what GPT-1 does not have is 1 or 0": constants,
        "query, key and value lie one after the other": packed,
        "more rows than the weights have, 0 at the end": longer,
        "in no parameter": proposal.unused(),
    }
    notes = ["the candidate takes no weights; they were copied in by names and shapes"]
    notes += [f"{what}: {listed(names)}" for what, names in special.items() if names]
    return [*notes, *proposal.lines()]


def _holds(parameters: Iterable[Tensor], row: Tensor) -> bool:
    """Return whether a matrix has the row, or the column."""
    for parameter in parameters:
        for turned in (parameter, parameter.mT) if parameter.ndim == _MATRIX else ():
            if turned.shape[1] == len(row) and bool((turned.detach() == row).all(1).any()):
                return True
    return False


_WEIGHTS = ("weight", "w", "kernel", "gamma", "g", "gain", "scale", "alpha", "a")
_BIASES = ("bias", "b", "beta", "shift")
_FILLERS = ("proj", "projection", "lin", "linear", "layer", "dense", "conv", "fc")
_ATTENTION = {
    "query": ("q", "query", "queries"),
    "key": ("k", "key", "keys"),
    "value": ("v", "value", "values"),
}
_POSITIONS = ("pos", "position", "positions", "positional", "pe", "wpe", "posemb")
_TABLES = (
    *("embed", "embedding", "embeddings", "emb", "wte", "te", "tok", "token", "tokens", "vocab"),
    *("head", "lm", "unembed", "unembedding", "decoder", "e", "u", "out", "output", "classifier"),
)
_DOWN = ("proj", "projection", "down", "out", "output", "o", "2", "contract", "project")
_MLP = ("mlp", "ffn", "ff", "feed", "feedforward", "ffwd")


def propose(
    candidate_state: Mapping[str, Tensor], reference: Mapping[str, Tensor], n_head: int
) -> Proposal:
    """Return what each parameter of a model is made of, from names, shapes and order.

    A block's number is the number in the name that takes as many values as there are blocks. In a
    packed projection query, key and value are one after the other, each with its heads in order.
    A bias belongs to the matrix of the same name. A square matrix is turned if those that decide
    it are: the block's others whose last name is the same, such as `weight`. Norms and biases that
    GPT-1 does not have get 1 and 0. Integers, bools and causal masks are left out.

    Args:
        candidate_state: The model's parameters; values do not count.
        reference: The weights, under our names.
        n_head: The number of heads, which no shape shows.
    """
    state = {name: tensor for name, tensor in candidate_state.items() if _is_weight(tensor)}
    model = _Model(state, reference, n_head)
    tables = {name: model.table(name) for name in state if not model.is_of_block(name)}
    left = [name for name in state if not tables.get(name)]
    blocks = _block_numbers({name: model.shapes[name] for name in left}, len(model.blocks))
    decided: dict[str, _Choices | None] = dict.fromkeys(state) | tables
    for place, block in enumerate(model.blocks):
        decided |= model.block(block, [name for name in left if blocks.get(name) == place])
    outside = [name for name in left if name not in blocks]
    decided |= {name: model.table(name) or model.beyond(name) for name in outside}
    found = {name: list(dict.fromkeys(choices or ())) for name, choices in decided.items()}
    return Proposal(
        mapping={name: choices[0] for name, choices in found.items() if len(choices) == 1},
        reference=reference,
        ambiguous={name: choices for name, choices in found.items() if len(choices) != 1},
    )


def _is_weight(tensor: Tensor) -> bool:
    """Return whether a tensor holds numbers, and is no causal mask."""
    if not tensor.is_floating_point() or not tensor.numel():
        return False
    square = tensor.ndim >= _MATRIX and tensor.shape[-1] == tensor.shape[-2]
    if not square or tensor.shape[-1] == 1:
        return True
    flat = tensor.detach().reshape(-1, *tensor.shape[-2:])[0].nan_to_num()
    is_half = torch.equal(flat, flat.tril()) or torch.equal(flat, flat.triu())
    return not (is_half and len(torch.unique(flat)) == _MATRIX)


def _tokens(name: str) -> list[str]:
    """Return the words and numbers of a name: `blocks.0.attn.W_Q` has blocks, 0, attn, w, q."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)
    split = (re.sub(r"^([wb])(q|k|v|qkv|kv|o)$", r"\1 \2", word.lower()) for word in words)
    return " ".join(split).split()


def _numbers(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def _in_order(names: Iterable[str]) -> list[str]:
    """Return names that differ in numbers alone by these; otherwise as they come."""
    names = list(names)
    alike = len({re.sub(r"\d+", "#", name) for name in names}) == 1
    return sorted(names, key=_numbers) if alike else names


def _block_numbers(shapes: Mapping[str, tuple[int, ...]], count: int) -> dict[str, int]:
    """Return the block of each name, from 0; names outside the blocks are left out.

    The block's number is the first of a name, the second, ..., or the last: the one by which most
    names fall into as many groups of the same endings and shapes as there are blocks.
    """
    names = list(shapes)
    best: tuple[tuple[int, int, int], dict[str, int]] = ((0, 0, 0), {})
    for place in (*range(_MOST_NUMBERS), -1):
        endings: dict[str, dict[int, dict[str, str]]] = defaultdict(lambda: defaultdict(dict))
        for name in names:
            found = list(re.finditer(r"\d+", name))
            if -len(found) <= place < len(found):
                match = found[place]
                endings[name[: match.start()]][int(match[0])][name[match.end() :]] = name
        blocks: dict[str, int] = {}
        from_zero = largest = 0
        for numbers in endings.values():
            alike: dict[object, list[int]] = defaultdict(list)
            for number, ends in sorted(numbers.items()):
                alike[frozenset((end, shapes[name]) for end, name in ends.items())].append(number)
            for group in alike.values():
                if group != list(range(group[0], group[0] + count)):
                    continue
                members = {n: i for i, k in enumerate(group) for n in numbers[k].values()}
                blocks |= members
                from_zero += len(members) * (group[0] == 0)
                largest = max(largest, len(members))
        best = max(best, ((len(blocks), from_zero, largest), blocks), key=lambda one: one[0])
    each = len(names) // count
    chunks = [[shapes[name] for name in names[i * each :][:each]] for i in range(count)]
    is_periodic = len(names) == count * each and chunks == chunks[:1] * count
    if is_periodic and len(best[1]) < _MOST * len(names):  # they have names or numbers of their own
        return {name: place // each for place, name in enumerate(names)}
    return best[1]


_Choices = Sequence[Expression]
_Form = tuple[tuple[int, ...], bool, Expression]
"""A shape that a matrix may have, whether it is turned then, and what it is made of."""


class _Model:
    """The names and shapes of a model, beside the reference."""

    def __init__(
        self, state: Mapping[str, Tensor], reference: Mapping[str, Tensor], n_head: int
    ) -> None:
        self.shapes = {n: tuple(s for s in t.shape if s != 1) or (1,) for n, t in state.items()}
        self.blocks = blocks_of(reference)
        self.vocab, self.width = reference["tokens_embed.weight"].shape
        self.positions = reference["positions_embed.weight"].shape[0]
        self.inner = reference[f"h.{self.blocks[0]}.mlp.c_fc.weight"].shape[1]
        self.heads = n_head
        self.head_width = self.width // n_head

    def is_of_block(self, name: str) -> bool:
        """Return whether a block has a matrix of such a shape."""
        width = self.width
        sizes = (self.head_width, width, 2 * width, 3 * width, self.inner)
        return self.shapes[name] in {(n, width) for n in sizes} | {(width, n) for n in sizes}

    def table(self, name: str) -> _Choices | None:
        """Return what an embedding or a head is made of; None if it is none."""
        shape, words = self.shapes[name], set(_tokens(name))
        if len(shape) != _MATRIX or self.width not in shape:
            return None
        turned = shape[1] != self.width
        rows = shape[1] if turned else shape[0]
        is_hinted = bool(words & {*_TABLES})
        tokens, places = Source("tokens_embed.weight"), Source("positions_embed.weight")
        padding = max(rows - self.vocab, 0)
        if rows == self.vocab == self.positions and not words & {*_POSITIONS, *_TABLES}:
            return [Expression((tokens,)), Expression((places,))]
        if words & {*_POSITIONS} or rows == self.positions != self.vocab:
            more = max(rows - self.positions, 0)
            places = places if rows >= self.positions else places.part(0, rows, 0)
            return [Expression((places,), more, turned)]
        if rows == self.vocab + self.positions:
            return [Expression((tokens, places), 0, turned)]
        if rows < self.vocab or (padding and not is_hinted):
            return None
        one = not padding and turned
        return [Expression((dataclasses.replace(tokens, turned=one),), padding, turned and not one)]

    def beyond(self, name: str) -> _Choices:
        """Return what a parameter outside the blocks that GPT-1 does not have gets."""
        shape = self.shapes[name]
        if len(shape) == 1 and (shape[0] == self.width or shape[0] >= self.vocab):
            return [Expression(constant=int(_kind(name) not in _BIASES and shape[0] == self.width))]
        return []

    def block(self, number: int, names: Sequence[str]) -> dict[str, _Choices]:
        """Return what the parameters of a block are made of."""
        matrices = [n for n in names if len(self.shapes[n]) > 1 and self.width in self.shapes[n]]
        vectors = [name for name in names if name not in matrices]
        biases = self._biases(names, matrices)
        roles = self._roles(matrices, {m: b for b, m in biases.items()})
        forms = {m: self._forms(f"h.{number}.", *roles[m]) for m in matrices if m in roles}
        fitting = {
            m: [(turned, e) for shape, turned, e in forms[m] if shape == self.shapes[m]]
            for m in forms
        }
        decided: dict[str, _Choices] = dict.fromkeys(names, ())
        for name, found in fitting.items():
            alike = [n for n in fitting if n != name and _kind(n) == _kind(name)]
            known = [{turned for turned, _ in fitting[n]} for n in alike]
            directions = set().union(*(flags for flags in known if len(flags) == 1))
            sure = [e for turned, e in found if directions == {turned}]
            decided[name] = sure or [e for _, e in found]
        for name, matrix in biases.items():
            decided[name] = self._bias(
                f"h.{number}.", *roles.get(matrix, ("", 0)), self.shapes[name]
            )
        decided |= self._norms(f"h.{number}.", [name for name in vectors if name not in biases])
        return decided

    def _biases(self, names: Sequence[str], matrices: Sequence[str]) -> dict[str, str]:
        """Return the matrix of each bias: it has the same name but for `weight` and `bias`."""
        found: dict[str, str] = {}
        vectors = [name for name in names if name not in matrices]
        for fillers in ((), _FILLERS):
            stems = defaultdict(list)
            for matrix in matrices:
                stems[_stem(matrix, fillers)].append(matrix)
            for vector in vectors:
                owners = stems.get(_stem(vector, fillers), [])
                if len(owners) == 1 and vector not in found and owners[0] not in found.values():
                    found[vector] = owners[0]
        for matrix, vector in itertools.pairwise(names):  # of a plain list
            if _kind(matrix) == _kind(vector) == "" and matrix in matrices and vector in vectors:
                found.setdefault(vector, matrix)
        return found

    def _roles(
        self, matrices: Sequence[str], biases: Mapping[str, str]
    ) -> dict[str, tuple[str, int | None]]:
        """Return what each matrix is for, and of which head if it is of one."""
        sizes = {name: math.prod(self.shapes[name]) for name in matrices}
        square = self.width**2
        of_size = {
            count: [name for name, size in sizes.items() if size == count]
            for count in (3 * square, 2 * square, square, self.width * self.inner)
        }
        roles: dict[str, tuple[str, int | None]] = dict.fromkeys(of_size[3 * square], ("qkv", None))
        roles |= dict.fromkeys(of_size[2 * square], ("kv", None))
        roles |= {
            n: (role, None) for n, role in self._mlp(of_size[self.width * self.inner], biases)
        }
        is_packed = bool(of_size[3 * square])
        squares = _attention(of_size[square], is_packed=is_packed)
        roles |= {name: (role, None) for name, role in squares}
        if self.heads > 1:
            single = [n for n, size in sizes.items() if size == self.width * self.head_width]
            of_role: dict[str, list[str]] = defaultdict(list)
            for name in single:
                of_role[_attention_role(name)].append(name)
            for role, names in of_role.items():
                if len(names) == self.heads:
                    roles |= {n: (role, head) for head, n in enumerate(_in_order(names))}
        return roles

    def _mlp(self, names: Sequence[str], biases: Mapping[str, str]) -> Iterator[tuple[str, str]]:
        """Yield the two matrices of the MLP, each with its role."""
        if len(names) != _MATRIX:
            return
        names = _in_order(names)
        longs = [n for n in names if n in biases and self.shapes[biases[n]] == (self.inner,)]
        common = {*_tokens(names[0])} & {*_tokens(names[1])}
        down = [name for name in names if ({*_tokens(name)} - common) & {*_DOWN}]
        if len(longs) == 1:
            first = longs[0]
        elif len(down) == 1:
            first = next(name for name in names if name not in down)
        else:
            first = names[0]
        for name in names:
            yield name, "fc" if name == first else "proj"

    def _source(self, block: str, role: str, head: int | None) -> Source:
        """Return the matrix `[in, out]` of a role, or of one of its heads."""
        width, d = self.width, self.head_width
        if role in ("fc", "proj"):
            return Source(f"{block}mlp.c_{role}.weight")
        if role == "out":
            whole = Source(f"{block}attn.c_proj.weight")
            return whole if head is None else whole.part(head * d, (head + 1) * d, 0)
        packed = Source(f"{block}attn.c_attn.weight")
        if role == "qkv":
            return packed
        if role == "kv":
            return packed.part(width, 3 * width, 1)
        start = [*_ATTENTION].index(role) * width
        return packed.part(
            start + (head or 0) * d, start + (width if head is None else (head + 1) * d), 1
        )

    def _forms(self, block: str, role: str, head: int | None) -> list[_Form]:
        """Return the shapes that a matrix of a role may have."""
        source = self._source(block, role, head)
        plain, turned = (
            Expression((source,)),
            Expression((dataclasses.replace(source, turned=True),)),
        )
        width, h, d = self.width, self.heads, self.head_width
        if role in ("fc", "proj"):
            sizes = (width, self.inner) if role == "fc" else (self.inner, width)
            return [(sizes, False, plain), (sizes[::-1], True, turned)]
        if head is not None:
            sizes = (d, width) if role == "out" else (width, d)
            return [(sizes, False, plain), (sizes[::-1], True, turned)]
        if role == "out":
            parts = [source.part(i * d, (i + 1) * d, 0) for i in range(h)]
            flipped = tuple(dataclasses.replace(part, turned=True) for part in parts)
            return [
                ((width, width), False, plain),
                ((width, width), True, turned),
                ((h, d, width), False, plain),
                ((width, h, d), True, turned),
                ((h, width, d), True, Expression(flipped)),
            ]
        n = {"qkv": 3, "kv": 2}.get(role, 1)
        lead = () if n == 1 else (n,)
        each = tuple(source.part(i * width, (i + 1) * width, 1) for i in range(n))
        heads = tuple(source.part(i * d, (i + 1) * d, 1) for i in range(n * h))
        return [
            ((width, n * width), False, plain),
            ((n * width, width), True, turned),
            ((*lead, width, width), False, Expression(each) if lead else plain),
            ((*lead, width, width), True, turned),
            ((width, *lead, h, d), False, plain),
            ((*lead, h, d, width), True, turned),
            ((*lead, h, width, d), False, Expression(heads)),
        ]

    def _bias(self, block: str, role: str, head: int | None, shape: tuple[int, ...]) -> _Choices:
        """Return what the bias of a role's matrix is made of."""
        if not role or (role == "out" and head is not None):
            return []
        matrix = self._source(block, role, head)
        bias = Source(matrix.reference.removesuffix("weight") + "bias")
        if role not in ("fc", "proj", "out", "qkv"):
            bias = dataclasses.replace(bias, start=matrix.start, stop=matrix.stop)
        lengths = {"fc": self.inner, "proj": self.width, "out": self.width, "qkv": 3 * self.width}
        length = lengths.get(role, (matrix.stop or 0) - (matrix.start or 0))
        return [Expression((bias,))] if math.prod(shape) == length else []

    def _norms(self, block: str, names: Sequence[str]) -> dict[str, _Choices]:
        """Return what the vectors that are no bias of a matrix are made of."""
        stems: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for name in names:
            if self.shapes[name] == (self.width,):
                unnamed = [n for n in names if not _kind(n)]  # in a plain list, weight and bias
                pair = unnamed[unnamed.index(name) // 2 * 2] if name in unnamed else name
                stems[_stem(pair, ())].append(name)
        firsts = _in_order(group[0] for group in stems.values())
        order = [_stem(name, ()) for name in firsts]
        mlp_first = order and {*order[0]} & {*_MLP} and not {*order[-1]} & {*_MLP}
        order = order[::-1] if mlp_first else order
        decided: dict[str, _Choices] = {}
        for stem, group in stems.items():
            norm = [f"ln_{order.index(stem) + 1}"] if len(order) == _MATRIX else ["ln_1", "ln_2"]
            for place, name in enumerate(group):
                kind = "bias" if _kind(name) in _BIASES or place == 1 else "weight"
                decided[name] = [Expression((Source(f"{block}{one}.{kind}"),)) for one in norm]
        return decided


def _kind(name: str) -> str:
    """Return the last word of a name that says weight or bias; "" if none does."""
    return next((t for t in reversed(_tokens(name)) if t in _WEIGHTS + _BIASES), "")


def _stem(name: str, fillers: Sequence[str]) -> tuple[str, ...]:
    """Return the words that a weight and its bias have in common."""
    return tuple(t for t in _tokens(name) if t not in (*_WEIGHTS, *_BIASES, *fillers))


def _attention_role(name: str) -> str:
    """Return query, key or value if one of them is in the name; otherwise out."""
    found = [role for role, words in _ATTENTION.items() if {*words} & {*_tokens(name)}]
    return found[0] if len(found) == 1 else "out"


def _attention(names: Sequence[str], *, is_packed: bool) -> Iterator[tuple[str, str]]:
    """Yield the square matrices of attention, each with its role."""
    roles = {name: _attention_role(name) for name in names}
    every = [*_ATTENTION, "out"]
    if not is_packed and len(names) == len(every) and {*roles.values()} == {"out"}:
        yield from zip(_in_order(names), every, strict=True)
    elif len({*roles.values()}) == len(names):
        yield from roles.items()
