"""The weights check of two sources: compares the tensors of A and B bit for bit.

Two GPT-1s are compared under our names, in float32. If one is no whole GPT-1, both are compared
under the names in their files, in their own dtypes. One tensor of each is read at a time. Tensors
that differ are looked up on the other side by digests: under another name, transposed, or rounded.
"""

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import Side, rows
from parity.checkpoints.names import is_path
from parity.checkpoints.tensor_files import SUFFIXES, TensorFiles, open_tensors
from parity.checkpoints.weights import DECIDES_NUMBERS, Weights
from parity.core.comparison import no_progress
from parity.core.environment import environment
from parity.core.metrics import Status
from parity.core.results import FirstDivergence, Mode, Plan, Reason, Report, Row, Section, finish
from parity.errors import (
    ExitCode,
    InputRejectedError,
    UsageError,
    mapped_errors,
    message_of,
    reading_untrusted,
)
from scratch_gpt.checkpoint.names import HEADS
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import one_line, quote
from scratch_gpt.progress import Progress


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Source:
    """One of the two: its tensors, and what the report records about it.

    Attributes:
        folder: Of its files; None if it has none.
        config: Hugging Face's fields; empty if there is no config.
        identity: As in `Provenance.identity`.
        whole: The weights, if it is a whole GPT-1.
    """

    label: str
    tensors: TensorFiles
    folder: Path | None
    config: Mapping[str, Any]
    identity: Mapping[str, Any]
    whole: Weights | None = None


def compare_sources(
    first: str,
    second: str,
    identity: Mapping[str, Any],
    *,
    strict: bool = False,
    progress: Progress = no_progress,
) -> Report:
    """Compare the tensors of two sources of weights.

    Args:
        first: The source A, which B is compared with: as in `load_weights`, or a file of tensors.
        second: The source B.
        identity: The code, for the report.
        strict: As in `load_weights`.
        progress: Called at every tensor.

    Returns:
        A report with a row for each name; inconclusive if no tensor is on both sides.

    Raises:
        UsageError: Both are the same.
        ParityError: One cannot be read.
    """
    same = UsageError(
        "both are the same, which would be compared with itself",
        where=f"{first} {second}",
        fix="name another source",
    )
    if first == second:
        raise same
    loaded = [_load(name, strict=strict, progress=progress) for name in (first, second)]
    a, b = _sources((first, second), loaded)
    if _opened(a) == _opened(b):
        raise same
    found = list(_compare(a.tensors, b.tensors, progress))
    notes = [f"{s.label}: {note}" for s in (a, b) for note in s.identity["notes"]]
    notes += [one.note for one in found if one.row is None]
    pairs = [(one.row, one.kinds, one.compared) for one in found if one.row is not None]
    compared = sum(was_compared for *_, was_compared in pairs)
    configs = [
        (name, a.config.get(name, _ABSENT), b.config.get(name, _ABSENT))
        for name in dict.fromkeys([*a.config, *b.config])
        if a.config and b.config and a.config.get(name) != b.config.get(name)
    ]
    kinds: dict[str, list[str]] = {}
    for row, of, *_ in pairs:
        for kind, words in of.items():
            kinds.setdefault(kind, []).append(f"{row.tap}: {words}")
    described = {**identity, "weights": _identity(a, b, notes), "config": dict(a.config)}
    return finish(
        "weights",
        rows=[row for row, *_ in pairs],
        plan=Plan.of({b.label: (len(pairs), compared)}),
        identity=described,
        environment=environment(),
        reasons=_reasons(a, b, configs, compared),
        first_divergence=next(
            (
                FirstDivergence(
                    tap=row.tap,
                    why=row.detail,
                    suspects="; ".join(_SUSPECTS[kind] for kind in of),
                    row=row,
                )
                for row, of, _ in pairs
                if of
            ),
            None,
        ),
        inputs={"names": "ours" if a.whole and b.whole else "those in the files"},
        appendix=_sections(kinds, configs),
        details={
            "kinds": {kind: len(of) for kind, of in kinds.items()},
            "config": {name: {"a": one, "b": other} for name, one, other in configs},
        },
    )


_ABSENT = "absent"


def _opened(source: _Source) -> object:
    """Return which tensors were read: the files of a source, or the digest of drawn ones."""
    if source.folder is None:
        return source.whole and source.whole.provenance.sha256
    names = [file["name"] for file in source.identity["files"]]
    with mapped_errors():
        files = [(source.folder / name).stat() for name in names if not name.endswith(".json")]
    return {(file.st_dev, file.st_ino) for file in files}


def _load(name: str, *, strict: bool, progress: Progress) -> Weights | InputRejectedError:
    """Return a source's weights, or why it is no whole GPT-1 if it may be a file of tensors."""
    progress(f"reading {name}", 0, 1)
    path = Path(os.path.expanduser(name))  # noqa: PTH111 - of an unknown user it stays as it is
    if path.suffix.lower() == ".npz" and os.path.exists(path):  # noqa: PTH110 - pathlib's may raise
        return InputRejectedError("an .npz file has no config", where=name, fix="")
    try:
        return load_weights(
            name, lambda done, total: progress(f"{name} {done}/{total}", done, total), strict=strict
        )
    except UsageError as error:
        raise UsageError(error.what, where=name, fix=error.fix) from error
    except InputRejectedError as error:
        if strict or not is_path(name) or not os.path.exists(path):  # noqa: PTH110
            raise
        if not path.is_dir() and path.suffix.lower() not in SUFFIXES:
            raise
        return error


def _sources(
    names: tuple[str, str], loaded: list[Weights | InputRejectedError]
) -> tuple[_Source, _Source]:
    """Return both sources under names that can be compared: ours, or those in their files."""
    first, second = loaded
    if isinstance(first, Weights) and isinstance(second, Weights):
        return _whole("A", first), _whole("B", second)
    made: dict[str, _Source] = {}
    for label, name, found in zip("AB", names, loaded, strict=True):
        if not is_path(name):
            continue
        path = Path(name).expanduser()
        weights = found if isinstance(found, Weights) else None
        try:
            with mapped_errors(), reading_untrusted(name):
                tensors = open_tensors(path)
        except InputRejectedError:
            if isinstance(found, InputRejectedError):
                if path.suffix.lower() in SUFFIXES:
                    raise
                raise found from None  # the folder has shards of the release, or no weights at all
            continue  # OpenAI's shards
        folder = path if path.is_dir() else path.parent
        notes = list(tensors.notes)
        if isinstance(found, InputRejectedError) and (folder / "config.json").exists():
            notes.append(f"compared by the names in its files: {one_line(found.what)}")
        made[label] = _Source(
            label=label,
            tensors=dataclasses.replace(tensors, names=sorted(tensors.names, key=_natural)),
            folder=folder,
            config=_fields(weights) if weights else _config(folder, notes),
            identity={
                "source": f"{path.resolve().name}, by the names in its files",
                "files": [dataclasses.asdict(file) for file in tensors.files],
                "notes": notes,
            },
        )
    known = {name for source in made.values() for name in source.tensors.names}
    for label, found in zip("AB", loaded, strict=True):
        if label not in made and isinstance(found, Weights):
            made[label] = _whole(label, found, known)
    return made["A"], made["B"]


def _config(folder: Path, notes: list[str]) -> dict[str, Any]:
    """Return the fields of a config of any architecture; none, and a note, if it is not sound.

    Fields within fields are returned as their text, and NaN as `NaN`: each equals itself.
    """
    path = folder / "config.json"
    if not os.path.lexists(path):
        return {}
    try:
        with open_regular(path) as file:
            found = json.loads(file.read(_LARGEST_CONFIG), parse_constant=str)
        if isinstance(found, dict):
            return {
                name: json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else value
                for name, value in found.items()
            }
        why = "it is no JSON object"
    except (ValueError, RecursionError) as error:
        why = message_of(error)
    notes.append(f"config.json was not compared: {why}")
    return {}


_LARGEST_CONFIG = 1 << 20


def _fields(weights: Weights) -> dict[str, Any]:
    """Return the whole config, with defaults where a source gives no field."""
    return GPTConfig.from_huggingface(weights.config).to_huggingface()


def _whole(label: str, weights: Weights, like: Iterable[str] = ()) -> _Source:
    """Return the source of a whole GPT-1, under the side's names that most of `like` have."""
    wanted = set(like)
    table = rows(weights.config["n_layer"])
    side = max(Side, key=lambda side: sum(row.name(side) in wanted for row in table))
    ours = {row.name(side): row.ours for row in table}

    def read(name: str) -> Tensor:
        return torch.from_numpy(np.require(weights.tensors[ours[name]], requirements=["C", "W"]))

    provenance = weights.provenance
    notes = list(provenance.notes)
    if provenance.dtype != "float32":
        notes.append(f"stored as {provenance.dtype}, compared in float32")
    return _Source(
        label=label,
        tensors=TensorFiles(names=list(ours), read=read, notes=notes),
        folder=weights.folder,
        config=_fields(weights),
        identity={**weights.identity, "notes": notes},
        whole=weights,
    )


def _identity(a: _Source, b: _Source, notes: list[str]) -> dict[str, Any]:
    """Return the weights' entry of the report: both sources in one."""
    return {
        "source": "; ".join(f"{one.label}: {one.identity['source']}" for one in (a, b)),
        "files": [
            {**file, "name": f"{one.label}: {file['name']}"}
            for one in (a, b)
            for file in one.identity["files"]
        ],
        "notes": notes,
        **{one.label.lower(): dict(one.identity) for one in (a, b)},
    }


class _Found(NamedTuple):
    """The result for one name: its row, or a note if the tensor was left out.

    Attributes:
        kinds: Each of `_SUSPECTS` that it shows, with a phrase; none for equal tensors.
    """

    row: Row | None
    kinds: Mapping[str, str] = MappingProxyType({})
    compared: bool = True
    note: str = ""


_SUSPECTS = {
    "under another name": "a name that the mapping does not have",
    "under each other's names": "two names swapped, or blocks in another order",
    "transposed": "nn.Linear stores [out, in], GPT-1's Conv1D [in, out]: transpose it",
    "rounded": "saved in a narrower dtype on the way",
    "of another dtype": "a cast on the way",
    "of another shape": "another config, or axes that were joined, split or squeezed",
    "only in A": "a name that the mapping does not have, or a tensor that was not saved",
    "only in B": "a name that the mapping does not have, or a tensor that was added",
    "of other values": "other weights, a training step, or a tensor that was not copied",
}
"""What may differ, in the order of the report's table, and its likely cause."""


def _compare(a: TensorFiles, b: TensorFiles, progress: Progress) -> Iterator[_Found]:
    """Yield the result for each name, those of A first."""
    names = list(dict.fromkeys([*a.names, *b.names]))
    both = set(a.names) & set(b.names)
    equal: dict[str, _Found] = {}
    for done, name in enumerate(names):
        progress(f"comparing {name}", done, 2 * len(names))
        if name in both:
            x, y = a.read(name), b.read(name)
            if _same(x, y):
                equal[name] = _Found(_row(name, y, Status.PASS, differing=0))
    differing = [name for name in names if name not in equal]
    found = equal | _differing(differing, a, b, progress)
    yield from (found[name] for name in names if name in found)


def _differing(
    names: list[str], a: TensorFiles, b: TensorFiles, progress: Progress
) -> dict[str, _Found]:
    """Return the result for each name whose tensors are not equal, but for B's renamed ones."""
    both = set(a.names) & set(b.names)
    table: dict[tuple[str, str], list[tuple[str, _View]]] = {}
    for done, name in enumerate(names):
        progress(f"looking for {name}", len(names) + done, 2 * len(names))
        for view, key in _keys(b.read(name)).items() if name in b.names else ():
            table.setdefault(key, []).append((name, view))
    taken: set[str] = set()
    results: dict[str, _Found] = {}
    for name in (name for name in names if name in a.names):
        x = a.read(name)
        match = _match(name, x, table, both, taken)
        if match is not None:
            taken |= {match.name} - both
            results[name] = _described(name, match, x, b)
        elif name in both:
            results[name] = _described(name, _Match(name, None), x, b)
        else:
            results[name] = _only(name, x, "A", a)
    return results | {
        name: _only(name, b.read(name), "B", b) for name in names if name not in {*a.names, *taken}
    }


def _only(name: str, tensor: Tensor, label: str, side: TensorFiles) -> _Found:
    """Return the result for a tensor that one side alone has."""
    if note := _left_out(name, tensor, side):
        return _Found(None, compared=False, note=f"{label}: {note}")
    status = Status.MISSING if label == "A" else Status.EXTRA
    detail = f"only {label} has it"
    row = _row(name, tensor, status, detail=detail)
    return _Found(row, {f"only in {label}": detail}, compared=False)


def _natural(name: str) -> list[Any]:
    """Return a key that sorts block 2 before block 10."""
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in re.split(r"(\d+)", name)]


class _View(NamedTuple):
    """A tensor, perhaps transposed, perhaps rounded."""

    transposed: bool = False
    rounded: str = ""


class _Match(NamedTuple):
    """A tensor of B and the view, of either side, in which it has the values; None for no view."""

    name: str
    view: _View | None


_AS_THEY_ARE = _View()
_NARROWER = {
    torch.float64: (torch.float32, torch.bfloat16, torch.float16),
    torch.float32: (torch.bfloat16, torch.float16),
}


def _keys(tensor: Tensor) -> dict[_View, tuple[str, str]]:
    """Return the digest of each view of a tensor, over the values without the shape.

    Half precision is widened first, so that a copy in float32 has the same digest.
    """
    keys: dict[_View, tuple[str, str]] = {}
    for transposed in (False, True) if tensor.ndim == 2 else (False,):  # noqa: PLR2004 - matrices
        turned = tensor.T if transposed else tensor
        keys[_View(transposed)] = _key(turned)
        for dtype in _NARROWER.get(tensor.dtype, ()):
            keys[_View(transposed, str(dtype).removeprefix("torch."))] = _key(turned.to(dtype))
    return keys


def _key(tensor: Tensor) -> tuple[str, str]:
    if tensor.dtype in (torch.float16, torch.bfloat16):
        tensor = tensor.float()
    contents = _bits(tensor.contiguous()).reshape(-1).view(torch.uint8).numpy()
    return str(tensor.dtype), hashlib.sha256(contents.data).hexdigest()


def _match(
    name: str,
    x: Tensor,
    table: Mapping[tuple[str, str], list[tuple[str, _View]]],
    both: set[str],
    taken: set[str],
) -> _Match | None:
    """Return the tensor of B that has the values of A's `x`; None if none has.

    One of the two is as it is; the other may be transposed and rounded.
    """
    if not x.numel():
        return None
    constant = _is_constant(x)
    found = [
        (other, theirs if ours == _AS_THEY_ARE else ours)  # at least one is
        for ours, key in _keys(x).items()
        for other, theirs in table.get(key, ())
        if _AS_THEY_ARE in (ours, theirs)
        and other not in taken
        # Equal constants, such as zero biases, show no swap.
        and (other == name or not (constant and other in both))
    ]
    if not found:
        return None
    best = min(found, key=lambda one: (one[0] != name, bool(one[1].rounded), one[1].transposed))
    return _Match(*best)


def _described(name: str, match: _Match, x: Tensor, b: TensorFiles) -> _Found:
    """Return the result for A's tensor `x` and the tensor of B that was matched with it."""
    y = b.read(match.name)
    renamed = name not in b.names
    found = y if renamed or match.name == name else b.read(name)
    differing, worst = _difference(x, found) if found.shape == x.shape else (None, None)
    kinds: dict[str, str] = {}
    if match.name != name:
        kind = "under another name" if renamed else "under each other's names"
        kinds[kind] = f"B has its values as {quote(match.name)}"
    if match.view is not None and match.view.transposed:
        kinds["transposed"] = "equal after a transpose"
    if match.view is not None and match.view.rounded:
        kinds |= _rounding(x, y, match.view)
    if found.dtype != x.dtype:
        kinds["of another dtype"] = f"{_dtype(x)} in A, {_dtype(found)} in B"
    if found.shape != x.shape and "transposed" not in kinds:
        kinds["of another shape"] = f"{list(x.shape)} in A, {list(found.shape)} in B"
    if differing and match.view is None:
        kinds["of other values"] = f"{differing:,} of {x.numel():,} elements differ"
    if renamed:
        status = Status.MISSING
    elif found.shape != x.shape:
        status = Status.SHAPE
    else:
        status = Status.DTYPE if found.dtype != x.dtype else Status.FAIL
    shown = None if renamed else differing
    row = _row(name, found, status, differing=shown, detail=", ".join(kinds.values()))
    if worst is not None:
        place, value_a, value_b = worst
        row = dataclasses.replace(row, worst_index=place, value_against=value_a, value_ours=value_b)
    return _Found(row, kinds)


def _rounding(x: Tensor, y: Tensor, view: _View) -> dict[str, str]:
    """Return by how much the values changed, if they did: then one is the other, rounded."""
    _, worst = _difference(x, (y.T if view.transposed else y).reshape(x.shape))
    if worst is None:
        return {}
    dtype = getattr(torch, view.rounded)
    narrow = "B" if torch.equal(_bits(y.to(dtype).to(y.dtype)), _bits(y)) else "A"
    change = abs(worst[1] - worst[2])
    relative = change / (_rms(x) or 1.0)
    return {
        "rounded": f"{narrow} is rounded to {view.rounded}: values change by up to {change:.2g} "
        f"({relative:.2g} of their RMS)"
    }


def _row(
    name: str, tensor: Tensor, status: Status, *, differing: int | None = None, detail: str = ""
) -> Row:
    number = None if differing is None else float(differing)
    return Row(
        tap=name,
        backend="B",
        dtype=_dtype(tensor),
        mode=Mode.EXACT,
        against="A",
        shape=tuple(tensor.shape),
        status=status,
        error_ours=number,
        bound=0.0,
        required_tolerance=number,
        detail=detail,
    )


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _bits(tensor: Tensor) -> Tensor:
    """Return the bits as integers: zeros of two signs differ, and so do two NaNs."""
    return tensor.view(_INTEGERS[tensor.element_size()])


def _is_constant(tensor: Tensor) -> bool:
    """Return whether it holds one number throughout, or none."""
    bits = _bits(tensor).reshape(-1)
    return bool((bits == bits[:1]).all())


def _same(x: Tensor, y: Tensor) -> bool:
    return x.dtype == y.dtype and x.shape == y.shape and torch.equal(_bits(x), _bits(y))


_CHUNK = 1 << 22
"""Elements that are widened to float64 at once."""


def _difference(x: Tensor, y: Tensor) -> tuple[int, tuple[tuple[int, ...], float, float] | None]:
    """Return how many elements differ, and of the largest difference index and both values.

    Equal dtypes are compared by bits, others by values in float64.
    """
    count, largest, place = 0, -1.0, None
    one, other = x.reshape(-1), y.reshape(-1)
    for start in range(0, x.numel(), _CHUNK):
        p, q = one[start : start + _CHUNK], other[start : start + _CHUNK]
        wide_p, wide_q = p.double(), q.double()
        exact = p.dtype == q.dtype
        unequal = _bits(p) != _bits(q) if exact else _bits(wide_p) != _bits(wide_q)
        count += int(unequal.sum())
        gaps = torch.where(unequal, (wide_p - wide_q).abs().nan_to_num(nan=float("inf")), -1.0)
        if gaps.numel() and (most := float(gaps.max())) > largest:
            largest, place = most, start + int(gaps.argmax())
    if place is None:
        return count, None
    index = tuple(int(i) for i in np.unravel_index(place, tuple(x.shape)))
    return count, (index, float(one[place]), float(other[place]))


def _rms(tensor: Tensor) -> float:
    norm = float(torch.linalg.vector_norm(tensor.float()))
    return norm / math.sqrt(max(tensor.numel(), 1))


def _left_out(name: str, tensor: Tensor, side: TensorFiles) -> str:
    """Return why a tensor that one side alone has is no difference; empty if it is one.

    A head may repeat the token embedding, and old versions saved the causal masks. One number
    throughout is neither: many tensors begin as ones or zeros.
    """
    shape = tuple(tensor.shape)
    if len(shape) == 4 and shape[:2] == (1, 1) and shape[2] == shape[3] > 1:  # noqa: PLR2004
        mask = tensor.double()
        if torch.equal(mask, torch.ones_like(mask).tril()):
            return f"{quote(name)} is a causal mask, left out"
    is_head = any(name == head or name.endswith(f".{head}") for head in HEADS)
    if is_head and not _is_constant(tensor):
        for other in side.names:
            tied = tensor if other == name else side.read(other)
            if tied is not tensor and _same(tied, tensor):
                return f"{quote(name)} repeats {quote(other)} to the bit, left out"
    return ""


def _reasons(
    a: _Source,
    b: _Source,
    configs: list[tuple[str, Any, Any]],
    compared: int,
) -> list[Reason]:
    reasons = []
    decisive = [name for name, *both in configs if name in DECIDES_NUMBERS and _ABSENT not in both]
    if decisive:
        reasons.append(
            Reason(
                what=f"the configs give different functions: {', '.join(decisive)}",
                where="; ".join(
                    f"{name}: {one!r} in A, {other!r} in B"
                    for name, one, other in configs
                    if name in decisive
                ),
                fix="give both the config that the weights were trained with",
                code=ExitCode.FAIL,
            )
        )
    if not compared:
        first = [next(iter(one.tensors.names), "none") for one in (a, b)]
        reasons.append(
            Reason(
                what="no tensor is on both sides, under any name",
                where=f"A begins with {quote(first[0])}, B with {quote(first[1])}",
                fix="check that both are of one model; python -m parity.convert renames a GPT-1's",
                code=ExitCode.INCONCLUSIVE,
            )
        )
    return reasons


def _sections(kinds: Mapping[str, list[str]], configs: list[tuple[str, Any, Any]]) -> list[Section]:
    """Return the tables of the kinds of differences and of the configs."""
    sections = []
    if kinds:
        sections.append(
            Section(
                title="what differs between A and B",
                columns=("tensors", "count", "first"),
                rows=[
                    (kind, f"{len(kinds[kind]):,}", kinds[kind][0])
                    for kind in _SUSPECTS
                    if kind in kinds
                ],
                right=(1,),
                folds=(2,),
            )
        )
    if configs:
        sections.append(
            Section(
                title="what differs between the configs",
                columns=("field", "A", "B"),
                rows=[(name, str(one), str(other)) for name, one, other in configs],
                folds=(1, 2),
            )
        )
    return sections
