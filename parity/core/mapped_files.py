"""A file of tensors under another program's names, to our tensors and back, by a file of `--map`.

Each line gives one of their tensors as an expression of ours. `read_mapped` solves the lines for
our tensors: each number must be in their file, once or in equal copies. `mapped_form` evaluates the
lines. Both move numbers and compute none, so every bit survives.
"""

import functools
import itertools
import json
import operator
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

from parity.checkpoints.export import Form
from parity.checkpoints.huggingface_files import CONFIG_FILE, READERS, Part, read_config
from parity.checkpoints.mapping import Side, rows, shape_sizes
from parity.checkpoints.torch_file import read_torch_file
from parity.checkpoints.weights import Checkpoint, Weights, gather
from parity.core.mapping import Expression, MapFile, blocks_of, of_every_block
from parity.errors import InputRejectedError, UsageError, mapped_errors, reading_untrusted
from scratch_gpt.checkpoint.names import listed, unwrapped
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import quote

FILE = "state.safetensors"
"""Another name than that of our own form: neither replaces the other."""

_CORRECT = "correct the line; the first lines of parity/core/mapping.py describe the form"


class Line(NamedTuple):
    """The line of one tensor: an expression, `mask` or `ignore`; and its place, for errors."""

    made: Expression | str
    where: str

    @property
    def expression(self) -> Expression | None:
        """The expression, if it has tensors of ours."""
        return self.made if isinstance(self.made, Expression) and self.made.sources else None


def read_mapped(
    file: MapFile,
    config: Mapping[str, float],
    source: str,
    _on_tensor: object = None,
    *,
    strict: bool = False,
) -> Weights:
    """Return the weights in a file of tensors under the map's names.

    Args:
        file: The map.
        config: Fields of the config; they go before those of the map.
        source: The path of a file of safetensors or of torch.save.
        strict: Whether to reject what would be rounded, left out or ignored.

    Raises:
        UsageError: The map does not give all of our tensors, or a line does not fit.
        InputRejectedError: The file has a tensor that is not in the map, or differing copies.
    """
    path = Path(source).expanduser()
    name = f"{path.name}, by the map {Path(file.path).name}"
    with mapped_errors(), reading_untrusted(source):
        return gather(_checkpoint(path, file, {**file.config, **config}, name), strict=strict)


def mapped_form(file: MapFile) -> Form:
    """Return the form of a folder with the map's names in `state.safetensors`."""

    def named(config: Mapping[str, Any], ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return their tensors; a constant's shape is not known, so it is left out."""
        time = config["n_positions"]
        found = {}
        for name, line in _lines(file, config["n_layer"]).items():
            if line.expression:
                found[name] = _rows(line.expression, ours, line)
            elif line.made == "mask":
                found[name] = torch.ones(1, 1, time, time).tril()
        return found

    def write(weights: Weights, folder: Path) -> None:
        ours = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
        found = named(weights.config, ours)
        _solved(found, _lines(file, weights.config["n_layer"]), weights.config, file)
        # Each with memory of its own, as safetensors requires.
        found = {name: tensor.clone().contiguous() for name, tensor in found.items()}
        save_file(found, folder / FILE, metadata={"format": "pt"})
        config = GPTConfig.from_huggingface(weights.config).to_huggingface()
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def read(folder: Path, source: str) -> Checkpoint:
        return _checkpoint(folder / FILE, file, read_config(folder), source)

    def tensors(config: Mapping[str, Any]) -> Iterator[tuple[str, str, Sequence[int]]]:
        lines = _lines(file, config["n_layer"])
        for name, tensor in named(config, _on_meta(config)).items():
            yield str(lines[name].made), name, tuple(tensor.shape)

    return Form(name="mapped", files=(FILE,), write=write, read=read, tensors=tensors)


def _checkpoint(path: Path, file: MapFile, config: Mapping[str, Any], source: str) -> Checkpoint:
    part = _read(path, file)
    state = {unwrapped(name): tensor for name, tensor in part.tensors.items()}
    wrapped = len(state) == len(part.tensors) and set(state) != set(part.tensors)
    state = state if wrapped else part.tensors
    notes = ["the parts of names that wrappers add were removed"] if wrapped else []
    blocks, given = _count_blocks(file, state), config.get("n_layer")
    if given not in (None, blocks) and any("{i}" in text for text in file.mapping):
        raise UsageError(
            f"n_layer is {given}, and the file has {blocks} blocks",
            where=f"--map {file.path}",
            fix="leave n_layer out",
        )
    lines = _lines(file, given or blocks)
    unexpected = [quote(name) for name in state if name not in lines]
    if unexpected:
        lacking = [line.where for name, line in lines.items() if name not in state]
        raise InputRejectedError(
            f"not in the map: {listed(unexpected)}",
            where=f"{path}; not in the file: {(lacking or ['nothing'])[0]}",
            fix="correct the names in the map; the words mask and ignore are for tensors that are "
            "no weights: blocks.{i}.attn.bias = mask",
        )
    fields = _fields(state, lines, config, file)
    ignored = [name for name, line in lines.items() if line.made == "ignore" and name in state]
    notes += [f"ignored, as the map requests: {listed(map(quote, ignored))}"] if ignored else []
    unused = file.unused(state)
    notes += [f"in the map, and not in the file: {listed(map(quote, unused))}"] if unused else []
    return Checkpoint(
        state=_solved(state, lines, fields, file),
        side=Side.OURS,
        fields=fields,
        source=source,
        files=[part.digest],
        notes=[*part.notes, *notes],
        folder=path.parent,
    )


def _read(path: Path, file: MapFile) -> Part:
    """Return the contents of a file of tensors."""
    if path.suffix not in READERS:
        raise UsageError(
            "with --map the source is one file of tensors, and this is none",
            where=str(path),
            fix=f"give a file ending in {', '.join(READERS)}; for the way back, give --to mapped",
        )
    if path.suffix == ".safetensors":
        return READERS[path.suffix](path)
    texts = (re.escape(text).replace(r"\{i\}", r"\d+") for text in (*file.mapping, *file.others))
    known = re.compile("|".join(texts))

    def count(names: Iterable[str]) -> int:
        return sum(known.fullmatch(unwrapped(name)) is not None for name in names)

    return Part(*read_torch_file(path, count))


def _lines(file: MapFile, blocks: int) -> dict[str, Line]:
    """Return the line of each tensor; a later line replaces an earlier one."""
    lines: dict[str, Line] = {}
    for text, expression in file.mapping.items():
        made = of_every_block({text: expression}, blocks)
        lines |= {name: Line(one, file.where(text)) for name, one in made.items()}
    for text, word in file.others.items():
        names = [text.replace("{i}", str(i)) for i in (range(blocks) if "{i}" in text else (0,))]
        lines |= {name: Line(word, file.where(text)) for name in names}
    return lines


def _count_blocks(file: MapFile, names: Mapping[str, Tensor]) -> int:
    """Return how many blocks the names with `{i}` have in a file."""
    texts = [text for text in file.mapping if "{i}" in text]
    return next(
        i for i in itertools.count() if not any(t.replace("{i}", str(i)) in names for t in texts)
    )


def _fields(
    state: Mapping[str, Tensor],
    lines: Mapping[str, Line],
    config: Mapping[str, Any],
    file: MapFile,
) -> dict[str, Any]:
    """Return the config; sizes that are not given are those of the two embeddings."""
    found: dict[str, int] = {}
    sizes = {"tokens_embed.weight": "vocab_size", "positions_embed.weight": "n_positions"}
    made = {name: line.expression for name, line in lines.items() if line.expression}
    for name, expression in made.items():
        if name not in state:
            continue
        (source, *others), shape = expression.sources, state[name].shape
        whole = source.start is source.stop is None and not others
        if source.reference in sizes and whole and len(shape) > 1:
            width = shape[0] if source.turned or expression.turned else shape[-1]
            length = state[name].numel() // max(width, 1) - expression.padding
            found |= {"n_embd": width, sizes[source.reference]: length}
    blocks = blocks_of(source.reference for one in made.values() for source in one.sources)
    fields = {"n_layer": len(blocks), **found, **config}
    needed = ("n_head", "vocab_size", "n_positions", "n_embd")
    absent = [name for name in needed if name not in fields]
    if absent:
        raise UsageError(
            f"no tensor shows {', '.join(absent)}",
            where=f"--map {file.path}",
            fix=f"add a line: {absent[0]} = 12; or give --n-head",
        )
    try:
        return GPTConfig.from_huggingface(fields).to_huggingface()
    except ValueError as error:
        raise UsageError(
            str(error), where=f"--map {file.path}", fix="correct the line of the field, or --n-head"
        ) from error


def _on_meta(config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return our tensors without numbers."""
    sizes = shape_sizes(config)
    return {
        row.ours: torch.empty(row.shape(Side.OURS, sizes), device="meta")
        for row in rows(config["n_layer"])
    }


def _rows(expression: Expression, ours: Mapping[str, Tensor], line: Line) -> Tensor:
    """Return what an expression makes of our tensors."""
    try:
        return expression.rows(ours)
    except ValueError as error:
        raise UsageError(str(error), where=line.where, fix=_CORRECT) from error


def _solved(
    state: Mapping[str, Tensor],
    lines: Mapping[str, Line],
    config: Mapping[str, Any],
    file: MapFile,
) -> dict[str, Tensor]:
    """Return our tensors, given theirs.

    Raises:
        UsageError: A line does not fit, or the lines do not give all of our numbers.
        InputRejectedError: Two lines give other values for the same of our numbers.
    """
    shapes = _on_meta(config)
    dtypes = {state[name].dtype for name in state if lines[name].expression}
    dtype = functools.reduce(torch.promote_types, dtypes, torch.bool)
    ours = {name: torch.zeros(t.shape, dtype=dtype) for name, t in shapes.items()}
    covered = {name: torch.zeros(t.shape, dtype=torch.bool) for name, t in shapes.items()}
    first: dict[str, str] = {}
    for name, line in lines.items():
        tensor = state.get(name)
        if tensor is None or line.made == "ignore":
            continue
        if (made := line.expression) is None:
            _require_constant(name, tensor, line)
            continue
        remaining = _before_reshape(tensor, _rows(made, shapes, line).shape, line)
        remaining = remaining.mT if made.turned else remaining
        for source in made.sources:
            place, seen = source.tensor(ours), source.tensor(covered)
            piece, remaining = remaining[: len(place)].to(dtype), remaining[len(place) :]
            differ = (place != piece) | (place.signbit() != piece.signbit())  # also of zeros
            if bool((seen & differ).any()):
                raise InputRejectedError(
                    f"{quote(name)} and {quote(first[source.reference])} give other values of "
                    f"{source}",
                    where=line.where,
                    fix="give each of our tensors once; two names of one tensor must be equal",
                )
            place.copy_(piece)
            seen.fill_(value=True)
            first.setdefault(source.reference, name)
        if remaining.numel() and bool(remaining.any()):
            raise InputRejectedError(
                f"the {len(remaining)} rows of padding of {quote(name)} are not zero",
                where=line.where,
                fix="they are tokens of the model: leave out pad() and use its vocab_size",
            )
    absent = [
        name if not seen.any() else f"{name} ({int((~seen).sum())} of {seen.numel()} numbers)"
        for name, seen in covered.items()
        if not seen.all()
    ]
    missing = [name for name, line in lines.items() if line.expression and name not in state]
    if absent:
        lacks = f"; not in the file: {listed(map(quote, missing))}" if missing else ""
        raise UsageError(
            f"{len(absent)} of our tensors are not given: {listed(absent)}{lacks}",
            where=lines[missing[0]].where if missing else f"--map {file.path}",
            fix="correct the name in this line"
            if missing
            else "add a line for each, with the tensor of the file that has its numbers",
        )
    return ours


def _require_constant(name: str, tensor: Tensor, line: Line) -> None:
    """Require a causal mask, or one number throughout."""
    if isinstance(line.made, Expression):
        if not bool((tensor == line.made.constant).all()):
            raise InputRejectedError(
                f"{quote(name)} is not {line.made} throughout",
                where=line.where,
                fix="GPT-1 has no such parameter: its numbers would be lost",
            )
        return
    time = tensor.shape[-1] if tensor.ndim else 0
    visible = torch.ones(time, time, dtype=torch.bool).tril()
    square = tensor.numel() == time * time
    if not square or not any(
        torch.equal(tensor.reshape(time, time), mask.to(tensor.dtype))
        for mask in (visible, ~visible)
    ):
        raise InputRejectedError(
            f"{quote(name)} is no causal mask of 0 and 1, but has shape {list(tensor.shape)}",
            where=line.where,
            fix="give it a line of its own, or leave it out of the file: NAME = ignore",
        )


def _before_reshape(tensor: Tensor, shape: Sequence[int], line: Line) -> Tensor:
    """Return their tensor in the shape of the expression, where axes are only split or joined."""
    sizes, wanted = (
        set(itertools.accumulate((n for n in one if n != 1), operator.mul))
        for one in (tensor.shape, shape)
    )
    if tensor.numel() == functools.reduce(operator.mul, shape, 1) and (
        sizes <= wanted or wanted <= sizes
    ):
        return tensor.reshape(tuple(shape))
    transposed = tuple(tensor.shape) == tuple(reversed(shape)) and len(shape) > 1
    raise UsageError(
        f"the tensor has shape {list(tensor.shape)}, the expression {list(shape)}",
        where=line.where,
        fix="add or remove .T: matrices of nn.Linear are [out, in], ours [in, out]"
        if transposed
        else _CORRECT,
    )
