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
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import OpenAIGPTConfig

from parity.checkpoints import torch_file
from parity.checkpoints.mapping import Side, rows, shape_sizes
from parity.checkpoints.weights import Checkpoint, FileDigest, Shard, Weights
from parity.errors import InputRejectedError
from reference import compat
from reference.files import digest_path
from scratch_gpt.checkpoint import checkpoint, safetensors, strict_io
from scratch_gpt.checkpoint.strict_io import open_regular
from scratch_gpt.errors import CommandError, one_line, quote

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


def vocabulary_notes(folder: Path, fields: Mapping[str, Any]) -> list[str]:
    """Return a note if a vocabulary lies in the folder that does not fit the token embedding.

    The model can be checked without it: `tokens` and `generate` read it.
    """
    rows = fields.get("vocab_size")
    for name in ("vocab.json", VOCABULARY_FILES["vocab.json"]):
        path = folder / name
        if not os.path.lexists(path):
            continue
        try:
            ids = read_json(path).values()
        except CommandError as error:
            return [f"{name} is not used: {one_line(error.what)}"]
        if not all(type(number) is int for number in ids) or set(ids) != set(range(len(ids))):
            return [f"{name} is not used: its ids are not 0, 1, 2, ... each once"]
        if len(ids) != rows:
            return [f"{name} has {len(ids)} tokens, the token embedding {rows} rows"]
    return []


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


def links_out(folder: Path | None) -> list[str]:
    """Return a note for each file that `copy_vocabulary` copies from outside the folder.

    In the hub's cache all files of a commit are links to the repository's blobs.
    """
    if folder is None:
        return []
    home = Path(os.path.realpath(folder))
    home = home.parents[1] if home.parent.name == "snapshots" else home
    names = (*VOCABULARY_FILES, *VOCABULARY_FILES.values(), *_OTHERS)
    links = [folder / name for name in names if (folder / name).is_symlink()]
    return [
        f"{link.name} is a link to {os.path.realpath(link)}, outside the folder"
        for link in links
        if not Path(os.path.realpath(link)).is_relative_to(home)
    ]


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
    parts, notes = _parts(chosen, _float32_bytes(fields))
    beside = [name for name in FORMS if name != chosen.name and os.path.lexists(folder / name)]
    if path.is_dir() and beside:
        notes.append(f"{', '.join(beside)}: beside {chosen.name}, not read")
    files = [part.digest for part in parts.values()]
    jsons = {folder / CONFIG_FILE, *(p for p in [chosen] if p.suffix == ".json")}
    files += [FileDigest(**dataclasses.asdict(digest_path(path))) for path in sorted(jsons)]
    return Checkpoint(
        state=_joined(parts, chosen),
        side=Side.HUGGINGFACE,
        fields=fields,
        source=source,
        revision=revision,
        files=[file.judged(released=released) for file in files],
        notes=[*notes, *vocabulary_notes(folder, fields)],
        folder=folder,
        shards=index_shards(folder, files),
    )


def weight_files(path: Path) -> list[Path]:
    """Return the files that hold the weights of a folder, an index or a file, whatever model's.

    Raises:
        InputRejectedError: There are none in a known form.
        CheckpointError: An index cannot be read.
    """
    chosen = _choose(path) if path.is_dir() else path
    if chosen.suffix != ".json":
        return [chosen]
    return [chosen.parent / name for name in sorted(set(_index(chosen).values()))]


class Part(NamedTuple):
    """The contents of one file of weights."""

    tensors: dict[str, Tensor]
    digest: FileDigest
    notes: Sequence[str] = ()


def _safetensors(path: Path) -> Part:
    found = safetensors.read_safetensors(path)
    return Part(found.tensors, FileDigest(name=path.name, size=found.size, sha256=found.sha256))


def _torch(path: Path) -> Part:
    return Part(*torch_file.read_torch_file(path))


READERS: dict[str, Callable[[Path], Part]] = {
    ".safetensors": _safetensors,
    ".bin": _torch,
    ".pt": _torch,
    ".pth": _torch,
    ".ckpt": _torch,
}
"""Reader of one file, by suffix; each rejects the contents of another form."""

FORMS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Names of a folder's weights; the first that exists is read."""


_OTHER_FORMS = {
    "adapter_model.safetensors": "merge the adapter into its base model first (merge_and_unload)",
    "adapter_model.bin": "merge the adapter into its base model first (merge_and_unload)",
    "tf_model.h5": "convert it with transformers 4: from_pretrained(FOLDER, from_tf=True)",
    "flax_model.msgpack": "convert it with transformers 4: from_pretrained(FOLDER, from_flax=True)",
    "zero_to_fp32.py": "run python zero_to_fp32.py in it, which gathers DeepSpeed's shards",
}
"""Files that show another form, and how to go on."""


def _choose(folder: Path) -> Path:
    """Return the file of a folder that holds or lists its weights."""
    for name in FORMS:
        if os.path.lexists(folder / name):
            return folder / name
    entries = sorted(folder.iterdir())
    below = [e.name for e in entries if e.is_dir() and any((e / name).exists() for name in FORMS)]
    own_names = [e.name for e in entries if e.suffix in READERS]
    fix = f"it must have {', '.join(FORMS[:-1])} or {FORMS[-1]}, or the release's ten shards"
    for name, advice in _OTHER_FORMS.items():
        fix = advice if (folder / name).exists() else fix
    if own_names:
        fix = f"give the path of the file, for example {quote(own_names[0])}"
    if below:
        fix = f"give the folder below that you mean, for example {quote(below[-1])}"
    found = ", ".join(quote(entry.name) for entry in entries[:6])
    raise InputRejectedError(
        "the folder holds no weights in a known form",
        where=f"{one_line(folder)}: {found or 'it is empty'}",
        fix=fix,
    )


def _float32_bytes(fields: Mapping[str, Any]) -> int:
    config = checkpoint.config_of(fields).to_huggingface()
    sizes = shape_sizes(config)
    return checkpoint.float32_bytes(row.shape(Side.OURS, sizes) for row in rows(config["n_layer"]))


def _parts(chosen: Path, needed: int) -> tuple[dict[str, Part], list[str]]:
    """Return every file's contents by the file's name, and what to report about them.

    The model takes `needed` bytes in float32; far larger files are not read.
    """
    if chosen.suffix != ".json":
        strict_io.require_plausible_size([chosen], needed)
        part = _reader(chosen)(chosen)
        return {chosen.name: part}, list(part.notes)
    index = _index(chosen)
    shards = [chosen.parent / name for name in sorted(set(index.values()))]
    strict_io.require_plausible_size(shards, needed)
    parts = {shard.name: _reader(shard)(shard) for shard in shards}
    notes = [f"{quote(name)}: {note}" for name, part in parts.items() for note in part.notes]
    held = {(tensor, name) for name, part in parts.items() for tensor in part.tensors}
    listed = set(index.items())
    # transformers, too, takes what the files hold.
    for kind, pairs in (
        ("listed for a file that does not hold it", listed - held),
        ("not listed", held - listed),
    ):
        if pairs:
            names = sorted(tensor for tensor, _ in pairs)
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""  # noqa: PLR2004
            notes.append(f"{chosen.name}: {', '.join(map(quote, names[:4]))}{more} {kind}")
    return parts, notes


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


def _joined(parts: Mapping[str, Part], path: Path) -> dict[str, Tensor]:
    joined: dict[str, Tensor] = {}
    for part in parts.values():
        for name, tensor in part.tensors.items():
            if not torch.equal(joined.setdefault(name, tensor), tensor):
                raise rejected(path, f"two of its files hold {quote(name)}, with other values")
    return joined
