"""OpenAI's release of GPT-1 as a folder: read whole, and written back to the byte.

    params_0.npy … params_9.npy   all numbers in one row, cut into ten without regard to tensors
    params_shapes.json            the tensors' shapes, in order
    config.json                   not in the release: written beside other shapes, read if there
    encoder_bpe_40000.json, vocab_40000.bpe   the vocabulary, digested here and not read

Blocks that were swapped, or shards under each other's names, show in no shape. They show in the
digests, which every file is returned with.

Source: openai/finetune-transformer-lm, model/ and train.py:404-411.
"""

import dataclasses
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reference import npy_shard, release_row, release_shapes
from reference.plain_file import DigestedFile, contents, digested, digested_path, written
from reference.refusal import RefusedError, UnavailableError
from reference.release_row import Array, OnFile

SHARDS = tuple(f"params_{index}.npy" for index in range(10))
CONFIG = "config.json"
VOCABULARY = ("encoder_bpe_40000.json", "vocab_40000.bpe")

_SHARD_NAME = re.compile(r"params_\d+\.npy", re.IGNORECASE)
_LARGEST_JSON = 1 << 20
_GET_AGAIN = "give a complete copy of the release's model folder"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Release:
    """What a release's folder holds.

    Attributes:
        tensors: In the release's order and shapes, matrices `[1, in, out]`; positions first, then
            tokens, then twelve a block. Float32 views of one buffer, writable.
        config: Fields of `config.json`; None where there is none, and then the shapes are the
            published ones.
        files: Every file that was read, with its digests.
        lengths: How many numbers each shard holds, as `write` takes them.
        headers: What stands before the numbers of each shard, as `write` takes it: bytes as text
            of the same code points, which JSON can keep.
    """

    tensors: Sequence[Array]
    config: Mapping[str, Any] | None
    files: Sequence[DigestedFile]
    lengths: Sequence[int]
    headers: Sequence[str]


def read(folder: Path, on_file: OnFile | None = None) -> Release:
    """Read a release. Memory: its numbers once, and nothing of that size besides.

    Args:
        folder: Where the files lie.
        on_file: Called as the shards are read.

    Raises:
        RefusedError: A file is missing, superfluous, damaged or not what it is called; shards,
            shapes and config do not fit each other; or a number is NaN or infinite.
        UnavailableError: A file cannot be read.
    """
    folder = Path(folder)
    _refuse_strangers(folder)
    text = contents(folder / release_shapes.NAME, _LARGEST_JSON)
    shapes = release_shapes.parse(text, str(folder / release_shapes.NAME))
    config_text = _config_text(folder / CONFIG)
    config = None if config_text is None else _config(config_text, folder / CONFIG)
    release_shapes.check_config(shapes, config, str(folder))
    shards = [npy_shard.inspect(folder / name) for name in SHARDS]
    row, files = release_row.read(shards, release_shapes.count(shapes), on_file)
    tensors = release_row.split(row, shapes)
    release_row.refuse_non_finite(tensors, str(folder))
    files.append(digested(release_shapes.NAME, text))
    if config_text is not None:
        files.append(digested(CONFIG, config_text))
    files += [digested_path(folder / name) for name in VOCABULARY if (folder / name).exists()]
    lengths = [shard.length for shard in shards]
    headers = [shard.header.decode("latin-1") for shard in shards]
    return Release(tensors=tensors, config=config, files=files, lengths=lengths, headers=headers)


def write(  # noqa: PLR0913 - what it can be told is all there is to tell
    folder: Path,
    tensors: Sequence[Array],
    *,
    config: Mapping[str, Any] | None,
    lengths: Sequence[int] | None = None,
    headers: Sequence[str] | None = None,
    on_file: OnFile | None = None,
) -> list[DigestedFile]:
    """Write shards, shapes and config into `folder`, which exists; its other files stay.

    A release that was read is written to the same bytes, given its lengths, and its headers where
    they are not those that NumPy writes today. Nothing is synced or renamed into place here.

    Args:
        folder: Where to write.
        tensors: In the release's order and shapes, as `Release.tensors`.
        config: Fields for `config.json`; None writes none, for the published shapes alone.
        lengths: Numbers in each of the ten shards; None cuts ten equal ones, the last shorter.
        headers: Of each of the ten shards, as in `Release`; None are those of NumPy.
        on_file: Called as the shards are written.

    Returns:
        Every file written, with its digests.

    Raises:
        RefusedError: Tensors, config and lengths do not fit each other.
        UnavailableError: The folder cannot be written to, or the disk is full.
    """
    folder = Path(folder)
    shapes = [tensor.shape for tensor in tensors]
    release_shapes.check_config(shapes, config, str(folder))
    cuts = release_row.cuts(release_shapes.count(shapes), len(SHARDS), lengths, str(folder))
    starts = _headers(cuts, headers, str(folder))
    files: list[DigestedFile] = []
    pieces = release_row.pieces(tensors, cuts, str(folder))
    for name, start, parts in zip(SHARDS, starts, pieces, strict=True):
        files.append(written(folder / name, [start, *parts]))
        if on_file is not None:
            on_file(len(files), len(SHARDS))
    files.append(written(folder / release_shapes.NAME, [release_shapes.dump(shapes)]))
    if config is not None:
        text = json.dumps(dict(config), indent=2, sort_keys=True, allow_nan=False) + "\n"
        files.append(written(folder / CONFIG, [text.encode()]))
    return files


def _refuse_strangers(folder: Path) -> None:
    """Refuse a folder that is none, and shards beyond the ten."""
    try:
        names = [path.name for path in folder.iterdir()]
    except (FileNotFoundError, NotADirectoryError) as error:
        what = "there is no such folder"
        raise RefusedError(what, where=str(folder), fix=_GET_AGAIN) from error
    except OSError as error:
        what = f"the folder cannot be read: {error.strerror}"
        raise UnavailableError(what, where=str(folder), fix="check its permissions") from error
    strangers = sorted(name for name in names if _SHARD_NAME.fullmatch(name) and name not in SHARDS)
    if strangers:
        what = f"{strangers[0]} is no shard of the release, which has {SHARDS[0]} to {SHARDS[-1]}"
        raise RefusedError(what, where=str(folder), fix="remove it, or give the whole release")


def _headers(cuts: Sequence[int], headers: Sequence[str] | None, where: str) -> list[bytes]:
    """Return what is written before the numbers of each shard."""
    if headers is None:
        return [npy_shard.header(cut) for cut in cuts]
    if len(headers) != len(cuts):
        what = f"there are {len(headers)} headers for {len(cuts)} shards"
        raise RefusedError(what, where=where, fix="leave the headers out, or restore the manifest")
    given = zip(headers, cuts, strict=True)
    return [npy_shard.checked_header(text, cut, where) for text, cut in given]


def _config_text(path: Path) -> bytes | None:
    """Return the bytes of config.json, None where there is none; a dangling link is refused."""
    return contents(path, _LARGEST_JSON) if os.path.lexists(path) else None


def _config(text: bytes, path: Path) -> dict[str, Any]:
    """Return the fields of config.json."""
    fix = "put the model's own config.json beside the shards"
    try:
        fields = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        what = f"{CONFIG} is not JSON ({type(error).__name__})"
        raise RefusedError(what, where=str(path), fix=fix) from error
    if not isinstance(fields, dict):
        raise RefusedError(f"{CONFIG} is not a JSON object", where=str(path), fix=fix)
    return fields


def _refuse_constant(name: str) -> None:
    """Refuse NaN and Infinity, which JSON has not."""
    raise ValueError(name)
