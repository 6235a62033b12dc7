"""Weights in Hugging Face's forms: a folder, or one file with `config.json` beside it.

Safetensors in one file or in shards, else a file of torch.save in one or in shards: of several
forms in one folder the first is read, as transformers does.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor

from parity.errors import InputRefusedError
from parity.mapping import Side
from parity.provenance import FileDigest
from parity.sources import config_beside, json_file, manifest, torch_file, vocabulary
from parity.weights import Checkpoint
from reference.plain_file import digested_path
from scratch_gpt.files import safetensors_file

Part = tuple[dict[str, Tensor], FileDigest]
CONFIG = config_beside.NAME


def read(
    path: Path, *, source: str, revision: str = "unknown", released: bool = False
) -> Checkpoint:
    """Return what a folder, or one file of it, holds.

    Args:
        path: The folder, or a file of weights or index in it.
        source: What it is, in words.
        revision: Which edition.
        released: Whether it is said to be the released model: then a published file's name
            claims the published bytes.

    Raises:
        InputRefusedError: The files are not a whole GPT-1.
        CheckpointError, SourceError: A file of it is unsound or cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    chosen = _choose(path) if path.is_dir() else path
    if chosen.suffix != ".json":
        _reader(chosen)  # another form is told before what is missing beside it
    fields = config_beside.read(folder)
    vocabulary.check(folder, fields)
    parts = _parts(chosen)
    files = [digest for _, digest in parts.values()]
    beside = {folder / CONFIG, *(p for p in [chosen] if p.suffix == ".json")}
    files += [FileDigest(**dataclasses.asdict(digested_path(path))) for path in sorted(beside)]
    return Checkpoint(
        state=_joined(parts, chosen),
        side=Side.HUGGINGFACE,
        fields=fields,
        source=source,
        revision=revision,
        files=[file.judged(released=released) for file in files],
        folder=folder,
        shards=manifest.shards(folder, files),
    )


def _safetensors(path: Path) -> Part:
    found = safetensors_file.read(path)
    return found.tensors, FileDigest(name=path.name, size=found.size, sha256=found.sha256)


def _torch(path: Path) -> Part:
    return torch_file.read(path)


READERS: dict[str, Callable[[Path], Part]] = {
    ".safetensors": _safetensors,
    ".bin": _torch,
    ".pt": _torch,
    ".pth": _torch,
}
"""What reads one file, by suffix; each looks at the contents and refuses another form's."""

FORMS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names under which a folder's weights are looked for, the first there is being read."""


def _choose(folder: Path) -> Path:
    """Return the file of a folder that says where its weights are."""
    for name in FORMS:
        if (folder / name).exists() or (folder / name).is_symlink():
            return folder / name
    found = sorted(entry.name for entry in folder.iterdir())[:6]
    raise InputRefusedError(
        "the folder holds no weights in a form that is known",
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
    _check_index(index, parts, chosen)
    return parts


def _reader(path: Path) -> Callable[[Path], Part]:
    if path.suffix not in READERS:
        raise InputRefusedError(
            f"no form of weights has names like {path.name}",
            where=str(path),
            fix=f"give a folder, or a file ending in {', '.join(READERS)} or .index.json",
        )
    return READERS[path.suffix]


def _index(path: Path) -> dict[str, str]:
    """Return which file each tensor is in; every file is plainly in the index's own folder."""
    index = json_file.read(path).get("weight_map")
    plain = isinstance(index, dict) and all(
        isinstance(name, str) and name not in {"", ".", ".."} and Path(name).name == name
        for name in index.values()
    )
    if not isinstance(index, dict) or not plain or not index:
        raise json_file.refused(path, "its weight_map does not give a plain file for each tensor")
    return index


def _check_index(index: Mapping[str, str], parts: Mapping[str, Part], path: Path) -> None:
    """Require every tensor in the very file that the index names, and none besides."""
    held = [(tensor, name) for name, (tensors, _) in parts.items() for tensor in tensors]
    problems = [f"{tensor} is not in {name}" for tensor, name in index.items() - set(held)]
    problems += [f"{tensor} is in {name}" for tensor, name in set(held) - index.items()]
    if problems:
        few = "; ".join(sorted(problems)[:4])
        raise json_file.refused(path, f"it disagrees with its files on {len(problems)}: {few}")


def _joined(parts: Mapping[str, Part], path: Path) -> dict[str, Tensor]:
    joined = {name: tensor for tensors, _ in parts.values() for name, tensor in tensors.items()}
    if len(joined) != sum(len(tensors) for tensors, _ in parts.values()):
        raise json_file.refused(path, "a tensor is in two of its files")
    return joined
