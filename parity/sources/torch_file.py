"""A file written by `torch.save`: read as tensors, or not at all; nothing in it is ever run.

A pickle is a program. `weights_only=True` is given explicitly, because an environment variable
can switch the default off; before torch 2.10 a prepared file could get round it, so there such
files are refused. What an archive would unpack to is summed up before it is unpacked.
"""

import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from parity.errors import InputRefusedError
from reference.plain_file import DigestedFile, digested_path, opened

_SAFE_SINCE = (2, 10)
_ROOM = 1 << 20
"""Bytes that an archive may unpack to beyond its own size: torch.save does not compress."""
_CONVERT = "convert it to safetensors where you trust it, and use that"


def read(path: Path) -> tuple[dict[str, Tensor], DigestedFile]:
    """Return the tensors of a file of torch.save by name, on the CPU, and the file's digest.

    Raises:
        InputRefusedError: It is not a dictionary of names to dense tensors, or would run code.
        SourceError: It cannot be read.
    """
    if _version() < _SAFE_SINCE:
        raise InputRefusedError(
            f"files of torch.save are not read with torch {torch.__version__}",
            where=str(path),
            fix="use safetensors, or convert the file with torch 2.10 or newer",
        )
    _check_kind(path)
    before = digested_path(path)
    tensors = {name: _dense(path, name, value) for name, value in _loaded(path).items()}
    if digested_path(path) != before:
        raise _refused(path, "it changed while it was read", "try again when nothing writes to it")
    return tensors, before


def _version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)


_KINDS = (
    (b"PK\x03\x04", "archive"),
    # A pickle of protocol 2 whose first object is torch.save's magic number.
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "legacy"),
)


def _check_kind(path: Path) -> None:
    """Require a file that torch.save wrote, and that unpacks to no more than it holds."""
    with opened(path) as (file, size):
        head = file.read(32) or b""
    kind = next((kind for magic, kind in _KINDS if head.startswith(magic)), None)
    if kind is None:
        raise _refused(path, "torch.save did not write it", "use safetensors")
    if kind == "archive":
        _check_archive(path, size)


def _check_archive(path: Path, size: int) -> None:
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise _refused(path, f"it is no whole archive: {error}", "download it again") from error
    if unpacked > size + _ROOM:
        raise _refused(path, f"it holds {size:,} bytes and unpacks to {unpacked:,}", _CONVERT)
    if any(name.endswith("/constants.pkl") for name in names):
        raise _refused(path, "it is a TorchScript program, not a file of tensors", _CONVERT)


def _loaded(path: Path) -> dict[str, Any]:
    try:
        with warnings.catch_warnings(action="ignore"):  # what is odd about it is refused below
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        reason = f"it is damaged, or holds more than tensors ({type(error).__name__})"
        raise _refused(path, reason, _CONVERT) from error
    if not isinstance(loaded, dict) or not all(isinstance(name, str) for name in loaded):
        raise _refused(path, f"it holds a {type(loaded).__name__}, not tensors by name", _CONVERT)
    return dict(loaded)


def _dense(path: Path, name: str, value: Any) -> Tensor:  # noqa: ANN401 - whatever was in it
    """Return an entry if it is a plain tensor with memory of its own and finite values."""
    if not isinstance(value, Tensor):
        raise _refused(path, f"{name!r} is a {type(value).__name__}, not a tensor", _CONVERT)
    if value.layout is not torch.strided or value.is_quantized or value.device.type != "cpu":
        form = f"{value.layout}, quantised: {value.is_quantized}, on {value.device.type}"
        raise _refused(path, f"{name!r} is no plain tensor ({form})", _CONVERT)
    if value.is_floating_point() and not bool(torch.isfinite(value).all()):
        count = int((~torch.isfinite(value)).sum())
        raise _refused(path, f"{name!r} has {count} values that are not finite", "train again")
    return value.detach().contiguous()


def _refused(path: Path, what: str, fix: str) -> InputRefusedError:
    return InputRefusedError(f"{path.name}: {what}", where=str(path), fix=fix)
