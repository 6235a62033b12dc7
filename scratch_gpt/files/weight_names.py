"""Which files of a folder are somebody's weights: beside new ones nobody knows which are meant."""

from collections.abc import Collection
from pathlib import Path

_SUFFIXES = {".safetensors", ".bin", ".npy", ".pt", ".pth", ".npz", ".h5", ".ot", ".msgpack"}
_MARKS = {
    *("model.safetensors.index.json", "pytorch_model.bin.index.json"),
    *("params_shapes.json", ".metadata"),
}


def other_weights(folder: Path, own: Collection[str]) -> list[str]:
    """Return the names of files that are, or stand for, weights, and are none of one's own.

    Args:
        folder: Where to look; it need not be there.
        own: Names that are to be replaced.
    """
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(
        name
        for name in names
        if name not in own and (Path(name).suffix.lower() in _SUFFIXES or name in _MARKS)
    )
