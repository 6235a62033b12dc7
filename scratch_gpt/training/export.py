"""What a run leaves: a folder that `generate` and Hugging Face load, vocabulary and all."""

import shutil
from pathlib import Path

from scratch_gpt import checkpoint
from scratch_gpt.files.replaced_folder import replaced_folder
from scratch_gpt.model import GPT


def export(model: GPT, vocabulary: Path, folder: Path) -> None:
    """Write weights in float32, config, and the vocabulary's files, whole or not at all.

    Args:
        model: The trained model.
        vocabulary: The folder of the vocabulary.
        folder: Where to; an older export is replaced.

    Raises:
        WriteError: The file system refused; what was there is as it was.
    """
    weights = {name: p.detach().float().to("cpu") for name, p in model.named_parameters()}
    with replaced_folder(folder, overwrite=True) as staging:
        checkpoint.write(staging, model.config, weights)
        for file in files_of(vocabulary):
            shutil.copyfile(file, staging / file.name)


def files_of(folder: Path) -> list[Path]:
    """Return a folder's plain files in the order of their names."""
    return sorted(entry for entry in folder.iterdir() if entry.is_file())
