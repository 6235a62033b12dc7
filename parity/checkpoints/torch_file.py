"""Tensors of a file written by `torch.save`; nothing in it is run.

A pickle is a program. `weights_only=True` is explicit, because an environment variable can switch
the default off. With a torch that a prepared file can exploit (see `reference.compat`) no such file
is opened. The unpacked size of an archive is checked before it is unpacked.
"""

import hashlib
import io
import os
import pickletools
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from torch import Tensor

from parity.checkpoints.weights import FileDigest
from parity.errors import InputRejectedError
from reference import compat
from reference.files import open_plain
from scratch_gpt.checkpoint.names import count_known
from scratch_gpt.checkpoint.safetensors import LONGEST_NAME, MOST_TENSORS, count_not_finite
from scratch_gpt.errors import quote

_ROOM = 1 << 20
"""Bytes by which an archive may exceed its own size unpacked: torch.save does not compress."""
_CONVERT = "convert it to safetensors where you trust it, and use that"


def read_torch_file(
    path: Path,
    count: Callable[[Iterable[str]], int] = count_known,
    *,
    any_model: bool = False,
) -> tuple[dict[str, Tensor], FileDigest, list[str]]:
    """Return the tensors by name, on the CPU, the file's digest, and what was not read.

    The tensors of a model may lie in a dictionary within the file's own, as trainers save them: the
    one of which `count` returns that it has the most of the model's names. With `any_model` it may
    have none of them, and values need not be finite.

    Raises:
        InputRejectedError: It is not a dictionary of names to dense tensors, or would run code.
        SourceError: It cannot be read.
    """
    if not compat.unpickles_safely():
        raise InputRejectedError(
            f"files of torch.save are not read with torch {compat.describe('torch')}",
            where=str(path),
            fix="use safetensors, or convert the file with torch 2.10 or newer",
        )
    with open_plain(path) as (raw, size):
        before = _state(raw)
        file = io.BufferedReader(cast("io.RawIOBase", raw))
        _check_kind(path, file, size)
        digest = _digest(path, file, size)
        state, notes = _model_state(path, _loaded(path, file), count, any_model=any_model)
        tensors = {name: _dense(path, name, v, finite=not any_model) for name, v in state.items()}
        if _digest(path, file, size) != digest or _state(raw) != before:
            fix = "try again when nothing writes to it"
            raise _refused(path, "it changed while it was read", fix)
        file.detach()
    return tensors, digest, notes


def _state(file: IO[bytes]) -> tuple[int, int, int]:
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _digest(path: Path, file: BinaryIO, size: int) -> FileDigest:
    file.seek(0)
    sha256 = hashlib.file_digest(cast("io.BufferedReader", file), "sha256").hexdigest()
    return FileDigest(name=path.name, size=size, sha256=sha256)


_ARCHIVE = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""A pickle of protocol 2 whose first object is torch.save's magic number."""


def _check_kind(path: Path, file: BinaryIO, size: int) -> None:
    """Require a file of torch.save that unpacks to no more than its size."""
    head = file.read(32)
    if head.startswith(_LEGACY):
        file.seek(0)
        _check_pickles(path, file, 5)  # magic number, version, machine, tensors, names of storages
        return
    if not head.startswith(_ARCHIVE):
        raise _refused(path, "torch.save did not write it", "use safetensors")
    try:
        with zipfile.ZipFile(file) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist()
            for entry in archive.infolist():
                if entry.filename.endswith("data.pkl") and unpacked <= size + _ROOM:
                    with archive.open(entry) as pickled:
                        _check_pickles(path, pickled, 1)
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _refused(path, f"it is no whole archive: {error}", "download it again") from error
    if unpacked > size + _ROOM:
        raise _refused(path, f"it holds {size:,} bytes and unpacks to {unpacked:,}", _CONVERT)
    if any(name.endswith("/constants.pkl") for name in names):
        raise _refused(path, "it is a TorchScript program, not a file of tensors", _CONVERT)


_MOST_STEPS = 1_000_000
"""Operations of a pickle; ten thousand tensors take half of it. One can make 500 bytes."""


def _check_pickles(path: Path, file: IO[bytes], count: int) -> None:
    """Require pickles with few operations, none of which makes a buffer as large as it likes."""
    try:
        for _ in range(count):
            for steps, (code, given, _) in enumerate(pickletools.genops(file)):
                if steps == _MOST_STEPS:
                    what = f"its pickle has more than {_MOST_STEPS:,} operations"
                    raise _refused(path, what, _CONVERT)
                if code.name == "GLOBAL" and str(given).endswith(" bytearray"):
                    raise _refused(path, "it holds a bytearray, not only tensors", _CONVERT)
    except (ValueError, LookupError) as error:
        raise _refused(path, f"its pickle is damaged: {error}", "download it again") from error


def _loaded(path: Path, file: BinaryIO) -> dict[str, Any]:
    file.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"):  # unusual contents are rejected below
            loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        reason = f"it is damaged, or holds more than tensors ({type(error).__name__})"
        raise _refused(path, reason, _CONVERT) from error
    if not isinstance(loaded, dict):
        raise _refused(path, f"it holds a {type(loaded).__name__}, not tensors by name", _CONVERT)
    return dict(loaded)


def _model_state(
    path: Path,
    loaded: dict[Any, Any],
    count: Callable[[Iterable[str]], int],
    *,
    any_model: bool,
) -> tuple[dict[str, Any], list[str]]:
    """Return the entries that are tensors of a model, and notes about the others.

    They are in the file's own dictionary or in one of those below it: the one with the most names.
    """
    found = {place: count(map(str, state)) for place, state in _dictionaries(loaded)}
    if any_model and not any(found.values()):  # the dictionary with the most tensors
        found = {
            place: sum(isinstance(value, Tensor) for value in state.values())
            for place, state in _dictionaries(loaded)
        }
    best = [place for place, count in found.items() if count == max(found.values())]
    if len(best) > 1 and () not in best and found[best[0]]:
        names = ", ".join(quote(".".join(place)) for place in best)
        raise _refused(path, f"it holds the states {names}", "save the one that you mean alone")
    place = () if () in best else best[0]
    state = loaded
    notes = []
    for key in place:
        left = ", ".join(quote(other) for other in list(state)[:_MOST_SHOWN] if other != key)
        notes.append(f"the state under {quote(key)} was read; not read: {left or 'nothing'}")
        state = state[key]
    kept = {n: value for n, value in state.items() if isinstance(value, Tensor) and type(n) is str}
    others = [name for name in state if name not in kept]
    if others:
        shown = ", ".join(quote(name) for name in others[:_MOST_SHOWN])
        notes.append(f"no tensors, not read: {shown}")
    if not kept:
        kinds = ", ".join(f"{quote(k)}: {type(v).__name__}" for k, v in list(state.items())[:4])
        raise _refused(path, f"it holds no tensor by name, but {kinds or 'nothing'}", _CONVERT)
    unfit = [name for name in kept if not 0 < len(name) <= LONGEST_NAME or not name.isprintable()]
    if unfit or len(kept) > MOST_TENSORS:
        what = f"the name {quote(unfit[0])}" if unfit else f"{len(kept)} tensors"
        raise _refused(path, f"it holds {what}, more than is read", _CONVERT)
    return kept, notes


_MOST_SHOWN = 6
_DEEPEST = 3


def _dictionaries(
    state: dict[Any, Any], place: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[Any, Any]]]:
    """Yield a dictionary and those in it, each with the keys that lead to it."""
    yield place, state
    for key, value in state.items():
        if isinstance(value, dict) and isinstance(key, str) and len(place) < _DEEPEST:
            yield from _dictionaries(value, (*place, key))


def _dense(
    path: Path,
    name: str,
    value: Any,  # noqa: ANN401 - whatever was in it
    *,
    finite: bool,
) -> Tensor:
    """Return an entry, which must be a plain tensor within the file's storage."""
    if not isinstance(value, Tensor):
        raise _refused(path, f"{quote(name)} is a {type(value).__name__}, not a tensor", _CONVERT)
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        form = f"{value.layout}, quantized: {value.is_quantized}, on {value.device.type}"
        raise _refused(path, f"{quote(name)} is no plain tensor ({form})", _CONVERT)
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise _refused(path, f"{quote(name)} claims more numbers than the file holds", _CONVERT)
    if finite and value.is_floating_point() and (count := count_not_finite(value)):
        raise _refused(path, f"{quote(name)} has {count} values that are not finite", "train again")
    return value.detach().contiguous()


def _refused(path: Path, what: str, fix: str) -> InputRejectedError:
    return InputRejectedError(f"{path.name}: {what}", where=str(path), fix=fix)
