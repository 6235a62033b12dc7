"""Load the weights into a model that does not take them: what each of its parameters is made of.

`propose` decides it from names, shapes and order. A line says it for one parameter, and
`read_mapping` reads such lines from a file:

    blocks.0.attn.query.weight = h.0.attn.c_attn.weight[:, :768].T   # cut, then turned
    blocks.0.attn.in_proj.weight = cat(h.0.attn.c_attn.weight[:, 768:1536].T, ...)
    blocks.{i}.mlp.0.weight = h.{i}.mlp.c_fc.weight.T                # of every block
    lm_head.weight = pad(tokens_embed.weight, 7)                     # 7 more rows of zeros
    ln_f.weight = 1                                                  # 1 throughout

`cat` and `pad` add rows, and `.T` may follow them. In a file, `{i}` stands for every block's
number, from 0. The numbers are then reshaped, row by row, to
the parameter's shape. GPT-1's matrices are `[in, out]`; those of `nn.Linear` are `[out, in]`.
"""

import dataclasses
import itertools
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from parity.errors import UsageError, mapped_errors
from scratch_gpt.checkpoint.names import listed
from scratch_gpt.errors import quote

_MATRIX = 2
_MOST_NUMBERS = 4


@dataclasses.dataclass(frozen=True)
class Source:
    """A reference tensor, cut along one axis, then turned."""

    reference: str
    axis: int = 0
    start: int | None = None
    stop: int | None = None
    turned: bool = False

    def __str__(self) -> str:
        """Return it as indexing: `h.0.attn.c_attn.weight[:, :768].T`."""
        first, last = ("" if end is None else str(end) for end in (self.start, self.stop))
        cut = f"[{':, ' * self.axis}{first}:{last}]" if first or last else ""
        return self.reference + cut + ".T" * self.turned

    def tensor(self, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers."""
        whole = reference[self.reference]
        cut = whole.movedim(self.axis, 0)[self.start : self.stop].movedim(0, self.axis)
        return cut.mT if self.turned else cut

    def part(self, start: int, stop: int, axis: int) -> "Source":
        """Return a part of it; it is not cut yet, or along the same axis."""
        before = self.start or 0
        return dataclasses.replace(
            self, axis=axis, start=(before + start) or None, stop=before + stop
        )


@dataclasses.dataclass(frozen=True)
class Expression:
    """What a parameter is made of: sources one below the other, or one number throughout."""

    sources: tuple[Source, ...] = ()
    padding: int = 0
    turned: bool = False
    constant: int = 0

    def __str__(self) -> str:
        """Return the right side of a line."""
        if not self.sources:
            return str(self.constant)
        text = ", ".join(map(str, self.sources))
        text = f"cat({text})" if len(self.sources) > 1 else text
        text = f"pad({text}, {self.padding})" if self.padding else text
        return text + ".T" * self.turned

    def packs_attention(self) -> bool:
        """Return whether it is query, key and value at once, whose order no shape shows."""
        whole = [source for source in self.sources if source.stop is None]
        return any(re.search(r"\.c_attn\.weight$", source.reference) for source in whole)

    def tensor(self, reference: Mapping[str, Tensor], shape: Sequence[int]) -> Tensor:
        """Return the numbers in a shape.

        Raises:
            ValueError: A tensor is not there, or they do not fit.
        """
        if not self.sources:
            return torch.full(tuple(shape), float(self.constant))
        for source in self.sources:
            found = reference.get(source.reference)
            if found is None:
                raise ValueError(f"there is no tensor {quote(source.reference)}")
            if source.axis >= found.ndim or (source.turned and found.ndim != _MATRIX):
                raise ValueError(f"{source.reference} has shape {list(found.shape)}")
            size = found.shape[source.axis]
            stop = size if source.stop is None else source.stop
            if not (source.start or 0) < stop <= size:
                raise ValueError(f"{source}: the axis has {size}")
        parts = [source.tensor(reference) for source in self.sources]
        if len({part.shape[1:] for part in parts}) > 1:
            raise ValueError(f"cat joins shapes {', '.join(str(list(p.shape)) for p in parts)}")
        more = [parts[0].new_zeros(self.padding, *parts[0].shape[1:])] * (self.padding > 0)
        rows = torch.cat([*parts, *more]) if len(parts) + len(more) > 1 else parts[0]
        rows = rows.mT if self.turned else rows
        if rows.numel() != math.prod(shape):
            raise ValueError(f"it has shape {list(rows.shape)}, the parameter {list(shape)}")
        return rows.reshape(tuple(shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """What every parameter of a model is made of.

    Attributes:
        reference: The weights, under our names.
        ambiguous: Parameters that could not be decided, each with the choices; none if no tensor
            fits.
    """

    mapping: Mapping[str, Expression]
    reference: Mapping[str, Tensor]
    ambiguous: Mapping[str, Sequence[Expression]] = dataclasses.field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return the table, a line for each parameter."""
        return [f"{name} = {expression}" for name, expression in self.mapping.items()]

    def unused(self) -> list[str]:
        """Return the names of reference tensors that are in no parameter."""
        used = {s.reference for one in self.mapping.values() for s in one.sources}
        return [name for name in self.reference if name not in used]

    def overridden(self, given: Mapping[str, Expression]) -> "Proposal":
        """Return it with the given lines instead of its own; `{i}` stands for every block."""
        numbers = range(len(_blocks(self.reference)))
        given = {
            name.replace("{i}", str(i)): _numbered(expression, i)
            for name, expression in given.items()
            for i in (numbers if "{i}" in name else (0,))
        }
        left = {name: c for name, c in self.ambiguous.items() if name not in given}
        return dataclasses.replace(self, mapping={**self.mapping, **given}, ambiguous=left)


def apply(proposal: Proposal, model: nn.Module) -> None:
    """Copy the weights into the parameters; their dtypes stay.

    Raises:
        UsageError: Something is ambiguous, or a line does not fit its parameter.
    """
    if proposal.ambiguous:
        listed = [
            f"{name} = {' or '.join(map(str, choices)) or '?'}"
            for name, choices in proposal.ambiguous.items()
        ]
        more = f"; and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
        raise UsageError(
            "names and shapes do not decide which weights these parameters hold",
            where="; ".join(listed[:_SHOWN]) + more,
            fix="write the right lines into a file and give --map FILE; or load the weights "
            "yourself, in a function build(config, weights)",
        )
    parameters = dict(model.named_parameters())
    for name, expression in proposal.mapping.items():
        line = f"{name} = {expression}"
        fix = "correct the line in the file of --map; parity/core/mapping.py has the form"
        if name not in parameters:
            few = ", ".join(list(parameters)[:3])
            raise UsageError(
                f"the model has no parameter {quote(name)}; it has {few}, ...", where=line, fix=fix
            )
        parameter = parameters[name]
        try:
            numbers = expression.tensor(proposal.reference, parameter.shape)
        except ValueError as error:
            raise UsageError(str(error), where=line, fix=fix) from error
        with torch.no_grad():
            parameter.copy_(numbers)


_SHOWN = 6


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


# Propose.

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
_IN_ATTENTION = ("attn", "attention", "sa", "qkv", "kv", *sum(_ATTENTION.values(), ()))
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
    decided = {name: model.table(name) for name in state}
    left = [name for name, choices in decided.items() if choices is None]
    blocks = _block_numbers(left, len(model.blocks))
    for block in model.blocks:
        decided |= model.block(block, [name for name in left if blocks.get(name) == block])
    decided |= {name: model.beyond(name) for name in left if name not in blocks}
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


def _block_numbers(names: Sequence[str], count: int) -> dict[str, int]:
    """Return the block of each name; names outside the blocks are left out.

    The block's number is the first of a name, the second, ..., or the last: the one by which most
    names fall into as many groups of the same endings as there are blocks.
    """
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
            alike: dict[frozenset[str], list[int]] = defaultdict(list)
            for number, ends in sorted(numbers.items()):
                alike[frozenset(ends)].append(number)
            groups = [sorted(numbers)] if len(numbers) == count else list(alike.values())
            for group in (group for group in groups if len(group) == count):
                members = {n: i for i, k in enumerate(group) for n in numbers[k].values()}
                blocks |= members
                from_zero += len(members) * (group[0] == 0)
                largest = max(largest, len(members))
        best = max(best, ((len(blocks), from_zero, largest), blocks), key=lambda one: one[0])
    if len(best[1]) < len(names) / 2 and len(names) % count == 0:  # blocks have names, in order
        return {name: place * count // len(names) for place, name in enumerate(names)}
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
        self.blocks = _blocks(reference)
        self.vocab, self.width = reference["tokens_embed.weight"].shape
        self.positions = reference["positions_embed.weight"].shape[0]
        self.inner = reference[f"h.{self.blocks[0]}.mlp.c_fc.weight"].shape[1]
        self.heads = n_head
        self.head_width = self.width // n_head

    def table(self, name: str) -> _Choices | None:
        """Return what an embedding or a head is made of; None if it is none."""
        shape, words = self.shapes[name], set(_tokens(name))
        if len(shape) != _MATRIX or self.width not in shape:
            return None
        turned = shape[1] != self.width
        rows = shape[1] if turned else shape[0]
        is_hinted = bool(words & {*_POSITIONS, *_TABLES}) and not words & {*_MLP, *_IN_ATTENTION}
        is_exact = rows in (self.vocab, self.positions, self.vocab + self.positions)
        of_block = rows in (self.width, 3 * self.width, self.inner, self.head_width)
        if of_block and not (is_hinted and is_exact):
            return None
        tokens, places = Source("tokens_embed.weight"), Source("positions_embed.weight")
        padding = max(rows - self.vocab, 0)
        if words & set(_POSITIONS) or (rows == self.positions != self.vocab):
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


# Read.

_TERM = (
    r"(?P<name>[\w{}]+(?:\.[\w{}]+)*?)"
    r"(?:\[(?P<axis>:,)?(?P<start>\d*):(?P<stop>\d*)\])?(?P<turned>\.T)?"
)
_PLAIN = re.sub(r"\?P<\w+>", "", _TERM)
_EXPRESSION = re.compile(
    rf"(?P<pad>pad\()?(?:cat\((?P<cat>{_PLAIN}(?:,{_PLAIN})*)\)|(?P<one>{_PLAIN}))"
    r"(?(pad),(?P<padding>\d{1,9})\))(?P<turned>\.T)?"
)


def read_mapping(path: str | Path) -> dict[str, Expression]:
    """Return the lines of a file, by parameter.

    Raises:
        UsageError: A line is not of that form, or names a parameter again.
        ParityError: The file cannot be read.
    """
    found: dict[str, Expression] = {}
    with mapped_errors():
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(lines, 1):
        line = re.sub(r"(^|\s)#.*", "", text).strip()
        if not line:
            continue
        name, equals, right = (part.strip() for part in line.partition(" = "))
        expression = parse_expression(right) if equals and name else None
        if expression is None or name in found:
            why = "it names the parameter again" if name in found else "it is no such line"
            raise UsageError(
                f"{why}: {quote(line)}",
                where=f"--map {path}, line {number}",
                fix="write PARAMETER = h.0.attn.c_attn.weight[:, :768].T, cat(A, B), pad(A, 7), "
                "0 or 1; one line for each parameter",
            )
        found[name] = expression
    return found


def parse_expression(text: str) -> Expression | None:
    """Return the right side of a line; None if it is none."""
    text = re.sub(r"\s", "", text)
    if text in ("0", "1"):
        return Expression(constant=int(text))
    match = _EXPRESSION.fullmatch(text)
    if match is None:
        return None
    terms = re.split(r",(?![^\[]*\])", match["cat"]) if match["cat"] else [match["one"]]
    parts = [part for term in terms if (part := re.fullmatch(_TERM, term))]
    sources = tuple(
        Source(
            part["name"],
            1 if part["axis"] else 0,
            int(part["start"]) if part["start"] else None,
            int(part["stop"]) if part["stop"] else None,
            bool(part["turned"]),
        )
        for part in parts
    )
    turned = bool(match["turned"])
    if len(sources) == 1 and not match["padding"] and turned:  # one way to write it
        if sources[0].turned:
            return None
        sources, turned = (dataclasses.replace(sources[0], turned=True),), False
    return Expression(sources, int(match["padding"] or 0), turned)


def _numbered(expression: Expression, block: int) -> Expression:
    sources = (
        dataclasses.replace(source, reference=source.reference.replace("{i}", str(block)))
        for source in expression.sources
    )
    return dataclasses.replace(expression, sources=tuple(sources))


def _blocks(reference: Iterable[str]) -> list[int]:
    """Return the numbers of the reference's blocks."""
    found = {int(match[1]) for name in reference if (match := re.match(r"h\.(\d+)\.", name))}
    return sorted(found)
