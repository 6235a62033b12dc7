"""Weights in Hugging Face's forms: a folder, or one file with `config.json` beside it.

Safetensors in one file or in shards, else a file of torch.save in one or in shards. Of several
forms in one folder the first is read, as transformers does. The vocabulary and the manifest of a
conversion (`conversion.json`) are handled here too.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import OpenAIGPTConfig

from parity.checkpoints import torch_file
from parity.checkpoints.mapping import Side
from parity.checkpoints.weights import Checkpoint, FileDigest, Shard, Weights
from parity.errors import InputRejectedError
from reference import compat
from reference.files import digest_path
from scratch_gpt.checkpoint import checkpoint, safetensors, strict_io
from scratch_gpt.checkpoint.strict_io import open_regular

_LARGEST = 16 << 20
"""Bytes of a JSON or vocabulary file; an index of ten thousand tensors has one million."""


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputRejectedError: It is too large, no JSON, or no object.
        CheckpointError: There is no such file, or it cannot be read.
    """
    try:
        found = strict_io.load_strict_json(_read(path))
    except ValueError as error:
        raise rejected(path, f"it is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise rejected(path, f"it holds a {type(found).__name__}, not an object")
    return found


def _read(path: Path) -> bytes:
    with open_regular(path) as file:
        text = file.read(_LARGEST + 1) or b""
    if len(text) > _LARGEST:
        raise rejected(path, f"it has more than {_LARGEST:,} bytes")
    return text


def rejected(path: Path, what: str) -> InputRejectedError:
    """Return the error of an unusable file."""
    return InputRejectedError(
        f"{path.name}: {what}", where=str(path), fix="take the file that belongs to the weights"
    )


# The vocabulary beside weights.

VOCABULARY_FILES = {"vocab.json": "encoder_bpe_40000.json", "merges.txt": "vocab_40000.bpe"}
"""Hugging Face's name to OpenAI's: the bytes are the same."""


def check_vocabulary(folder: Path, fields: Mapping[str, Any]) -> None:
    """Require the config's size of a vocabulary in the folder, if there is one.

    Raises:
        InputRejectedError: It has another size, or is no vocabulary.
    """
    for name in ("vocab.json", VOCABULARY_FILES["vocab.json"]):
        path = folder / name
        if not path.exists():
            continue
        ids = read_json(path).values()
        wanted = fields.get("vocab_size")
        if not all(type(number) is int for number in ids) or set(ids) != set(range(len(ids))):
            raise rejected(path, "its ids are not 0, 1, 2, ... each once")
        if len(ids) != wanted:
            raise rejected(path, f"it has {len(ids)} tokens, the config {wanted}")


_OTHERS = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    "generation_config.json",
)
"""Hugging Face's other files about text, which OpenAI's release does not have."""


def copy_vocabulary(folder: Path | None, target: Path, *, openai: bool) -> None:
    """Copy the vocabulary in a folder, if there is one, under OpenAI's or Hugging Face's names.

    Raises:
        InputRejectedError, CheckpointError: A file of it is not regular, or far too large.
    """
    if folder is None:
        return
    for hugging_face, release in VOCABULARY_FILES.items():
        found = next((n for n in (hugging_face, release) if os.path.lexists(folder / n)), None)
        if found is not None:
            name = release if openai else hugging_face
            (target / name).write_bytes(_read(folder / found))
    for name in () if openai else _OTHERS:
        if os.path.lexists(folder / name):
            (target / name).write_bytes(_read(folder / name))


# The config beside weights of any form.

CONFIG_FILE = "config.json"


def read_config(folder: Path) -> dict[str, Any]:
    """Return the fields of a folder's config.

    Raises:
        CheckpointError: It is not a complete config of a GPT-1.
        InputRejectedError: There is none, or transformers reads another model from it.
    """
    path = folder / CONFIG_FILE
    if not os.path.lexists(path):
        raise InputRejectedError(
            "there is no config.json beside the weights",
            where=str(folder),
            fix="copy it from their source: no tensor shows the number of heads",
        )
    config, fields = checkpoint.read_config(path)
    try:
        theirs = OpenAIGPTConfig.from_dict(dict(fields)).to_dict()
    except Exception as error:
        raise rejected(path, str(error).replace("\n", " ")[:200]) from error
    ours = dataclasses.asdict(config)
    differing = [name for name, value in ours.items() if theirs.get(name) != value]
    if differing:
        read = [f"{name}: {theirs.get(name)!r} and {ours[name]!r}" for name in differing]
        raise rejected(path, f"transformers and we read it differently: {read}")
    return fields


# The manifest that a conversion writes beside its weights.

INDEX_FILE = "conversion.json"
_VERSIONS = ("gpt1-parity", "torch", "numpy", "safetensors")


def index_text(weights: Weights, *, form: str, files: Sequence[FileDigest]) -> str:
    """Return the manifest of one conversion to a form, which wrote the files."""
    shards = weights.shards
    described = {
        "form": form,
        "source": weights.identity,
        "files": {file.name: {"size": file.size, "sha256": file.sha256} for file in files},
        "tensors": {name: list(array.shape) for name, array in weights.tensors.items()},
        "shards": None if shards is None else [shard._asdict() for shard in shards],
        "versions": {package: compat.describe(package) for package in _VERSIONS},
    }
    return json.dumps(described, indent=1, allow_nan=False) + "\n"


def index_shards(folder: Path, files: Sequence[FileDigest]) -> list[Shard] | None:
    """Return the release's shards that a folder's weights were converted from, if recorded.

    A manifest of files other than `files`, which were read, is out of date and ignored.

    Raises:
        InputRejectedError: The manifest is damaged.
    """
    path = folder / INDEX_FILE
    if not path.exists():
        return None
    manifest = read_json(path)
    found, written = manifest.get("shards"), manifest.get("files")
    if found is None:
        return None
    sound = isinstance(found, list) and all(
        isinstance(shard, dict)
        and set(shard) == set(Shard._fields)
        and type(shard["length"]) is int
        and isinstance(shard["header"], str)
        for shard in found
    )
    if not sound:
        raise rejected(path, f"its shards are no lengths and headers: {str(found)[:60]}")
    if not isinstance(written, dict) or any(
        written.get(file.name) != {"size": file.size, "sha256": file.sha256} for file in files
    ):
        return None
    return [Shard(**shard) for shard in found]


# The weights.

Part = tuple[dict[str, Tensor], FileDigest]


def read_huggingface(
    path: Path, *, source: str, revision: str = "unknown", released: bool = False
) -> Checkpoint:
    """Return the checkpoint of a folder, or of a file of weights or an index in it.

    One that is `released` claims to be the released model: then a published file's name requires
    the published bytes.

    Raises:
        InputRejectedError: The files are not a whole GPT-1.
        CheckpointError, SourceError: A file of it is unsound or cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    chosen = _choose(path) if path.is_dir() else path
    if chosen.suffix != ".json":
        _reader(chosen)  # an unknown suffix is reported before a missing config
    fields = read_config(folder)
    check_vocabulary(folder, fields)
    parts = _parts(chosen)
    files = [digest for _, digest in parts.values()]
    beside = {folder / CONFIG_FILE, *(p for p in [chosen] if p.suffix == ".json")}
    files += [FileDigest(**dataclasses.asdict(digest_path(path))) for path in sorted(beside)]
    return Checkpoint(
        state={name: tensor for tensors, _ in parts.values() for name, tensor in tensors.items()},
        side=Side.HUGGINGFACE,
        fields=fields,
        source=source,
        revision=revision,
        files=[file.judged(released=released) for file in files],
        folder=folder,
        shards=index_shards(folder, files),
    )


def _safetensors(path: Path) -> Part:
    found = safetensors.read_safetensors(path)
    return found.tensors, FileDigest(name=path.name, size=found.size, sha256=found.sha256)


READERS: dict[str, Callable[[Path], Part]] = {
    ".safetensors": _safetensors,
    **dict.fromkeys((".bin", ".pt", ".pth"), torch_file.read_torch_file),
}
"""Reader of one file, by suffix; each rejects the contents of another form."""

FORMS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of a folder's weights; the first that exists is read."""


def _choose(folder: Path) -> Path:
    """Return the file of a folder that holds or lists its weights."""
    for name in FORMS:
        if (folder / name).exists() or (folder / name).is_symlink():
            return folder / name
    found = sorted(entry.name for entry in folder.iterdir())[:6]
    raise InputRejectedError(
        "the folder holds no weights in a known form",
        where=f"{folder}: {', '.join(found) or 'it is empty'}",
        fix=f"it must have {', '.join(FORMS[:-1])} or {FORMS[-1]}, or the release's ten shards",
    )


def _parts(chosen: Path) -> dict[str, Part]:
    """Return every file's tensors and digest, by the file's name."""
    if chosen.suffix != ".json":
        return {chosen.name: _reader(chosen)(chosen)}
    index = _index(chosen)
    shards = [chosen.parent / name for name in sorted(set(index.values()))]
    parts = {shard.name: _reader(shard)(shard) for shard in shards}
    # Every tensor must be in the file that the index names, and no other tensor in any.
    held = [(tensor, name) for name, (tensors, _) in parts.items() for tensor in tensors]
    problems = [f"{tensor} is not in {name}" for tensor, name in index.items() - set(held)]
    problems += [f"{tensor} is in {name}" for tensor, name in set(held) - index.items()]
    if problems:
        few = "; ".join(sorted(problems)[:4])
        raise rejected(chosen, f"it disagrees with its files on {len(problems)}: {few}")
    return parts


def _reader(path: Path) -> Callable[[Path], Part]:
    if path.suffix not in READERS:
        raise InputRejectedError(
            f"no form of weights has names like {path.name}",
            where=str(path),
            fix=f"give a folder, or a file ending in {', '.join(READERS)} or .index.json",
        )
    return READERS[path.suffix]


def _index(path: Path) -> dict[str, str]:
    """Return the file of each tensor; each is a plain name in the index's own folder."""
    index = read_json(path).get("weight_map")
    plain = isinstance(index, dict) and all(
        isinstance(name, str) and name not in {"", ".", ".."} and Path(name).name == name
        for name in index.values()
    )
    if not isinstance(index, dict) or not plain or not index:
        raise rejected(path, "its weight_map does not give a plain file for each tensor")
    return index
