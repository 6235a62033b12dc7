"""What a model's parameters are made of, in lines that people read and write.

`parity.core.loading` proposes them, and `read_map_file` reads them from the file of `--map`:

    blocks.0.attn.query.weight = h.0.attn.c_attn.weight[:, :768].T   # cut, then turned
    blocks.0.attn.in_proj.weight = cat(h.0.attn.c_attn.weight[:, 768:1536].T, ...)
    blocks.{i}.mlp.0.weight = h.{i}.mlp.c_fc.weight.T                # of every block
    lm_head.weight = pad(tokens_embed.weight, 7)                     # 7 more rows of zeros
    ln_f.weight = 1                                                  # 1 throughout

`cat` and `pad` add rows, and `.T` may follow them. In a file, `{i}` stands for every block's
number, from 0. The numbers are then reshaped, row by row, to
the parameter's shape. GPT-1's matrices are `[in, out]`; those of `nn.Linear` are `[out, in]`.

`parity.convert --map` reads the same file, and three more kinds of lines:

    n_head = 12                          # a field of the config that no tensor shows
    blocks.{i}.attn.bias = mask          # a buffer: the causal mask, [1, 1, time, time]
    lm_head.bias = ignore                # a tensor that is not converted
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from parity.errors import UsageError, mapped_errors
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import one_line, quote

_MATRIX = 2


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
        rows = self.rows(reference)
        if rows.numel() != math.prod(shape):
            raise ValueError(f"it has shape {list(rows.shape)}, the parameter {list(shape)}")
        return rows.reshape(tuple(shape))

    def rows(self, reference: Mapping[str, Tensor]) -> Tensor:
        """Return the numbers of sources in the shape that they have, before it is changed.

        Raises:
            ValueError: A tensor is not there, or they do not fit.
        """
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
        return rows.mT if self.turned else rows


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
        given = of_every_block(given, len(blocks_of(self.reference)))
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
    parameters = dict(model.named_parameters(remove_duplicate=False))  # tied ones have two names
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class MapFile:
    """The lines of a file of `--map`; `{i}` in names and expressions stands for every block.

    Attributes:
        path: As given.
        mapping: The expression of each parameter.
        others: `mask` or `ignore` for each other tensor.
        config: Numbers of the config by Hugging Face's names.
        places: The number of each name's line.
    """

    path: str
    mapping: Mapping[str, Expression]
    others: Mapping[str, str]
    config: Mapping[str, float]
    places: Mapping[str, int]

    def where(self, name: str) -> str:
        """Return the place of a name's line, for an error."""
        kind = self.mapping.get(name, self.others.get(name))
        return one_line(f"--map {self.path}, line {self.places[name]}: {name} = {kind}")

    def unused(self, names: Iterable[str]) -> list[str]:
        """Return the names in the file that are none of these; with `{i}`, in no block."""
        given = list(names)
        patterns = {
            name: re.compile(re.escape(name).replace(r"\{i\}", r"\d+"))
            for name in (*self.mapping, *self.others)
        }
        return [name for name, one in patterns.items() if not any(map(one.fullmatch, given))]


_OTHERS = ("mask", "ignore")
_FIELDS = [field.name for field in dataclasses.fields(GPTConfig) if field.name != "afn"]


def read_map_file(path: str | Path) -> MapFile:
    """Return the lines of a file.

    Raises:
        UsageError: It is not UTF-8; a line is not of that form, or names a parameter again.
        ParityError: The file cannot be read.
    """
    mapping: dict[str, Expression] = {}
    others: dict[str, str] = {}
    config: dict[str, float] = {}
    places: dict[str, int] = {}
    try:
        with mapped_errors():
            lines = Path(path).read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise UsageError(
            f"it is not UTF-8: {error}", where=f"--map {path}", fix="save it as text in UTF-8"
        ) from error
    for number, text in enumerate(lines, 1):
        line = re.sub(r"(^|\s)#.*", "", text).strip()
        if not line:
            continue
        name, equals, right = (part.strip() for part in line.partition(" = "))
        is_line = bool(equals and name)
        expression = parse_expression(right) if is_line and right not in _OTHERS else None
        is_number = name in _FIELDS and re.fullmatch(r"\d{1,9}|\d*\.?\d+(e-?\d{1,3})?", right)
        if name in places:
            why = "it names the parameter again"
        elif name in _FIELDS:
            why = "" if is_number else "the value is no number"
        else:
            why = "" if expression or (is_line and right in _OTHERS) else "it is no such line"
        if why:
            raise UsageError(
                f"{why}: {quote(line)}",
                where=f"--map {path}, line {number}",
                fix="write PARAMETER = h.0.attn.c_attn.weight[:, :768].T, cat(A, B), pad(A, 7), "
                "0 or 1; one line for each parameter",
            )
        places[name] = number
        if is_number:
            config[name] = int(right) if right.isdecimal() else float(right)
        elif expression:
            mapping[name] = expression
        else:
            others[name] = right
    return MapFile(path=str(path), mapping=mapping, others=others, config=config, places=places)


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


def of_every_block(given: Mapping[str, Expression], blocks: int) -> dict[str, Expression]:
    """Return the lines of every block for those with `{i}`, and the others."""
    return {
        name.replace("{i}", str(i)): _numbered(expression, i)
        for name, expression in given.items()
        for i in (range(blocks) if "{i}" in name else (0,))
    }


def _numbered(expression: Expression, block: int) -> Expression:
    sources = (
        dataclasses.replace(source, reference=source.reference.replace("{i}", str(block)))
        for source in expression.sources
    )
    return dataclasses.replace(expression, sources=tuple(sources))


def blocks_of(reference: Iterable[str]) -> list[int]:
    """Return the numbers of the reference's blocks."""
    found = {int(match[1]) for name in reference if (match := re.match(r"h\.(\d+)\.", name))}
    return sorted(found)
