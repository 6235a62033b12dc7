"""The model and the tokenizer that the command line names, made sure to belong together."""

import re
import shlex
from pathlib import Path

import torch

from scratch_gpt.command.errors import InputRefusedError, UsageError
from scratch_gpt.devices import device_named
from scratch_gpt.generation.asked import Asked
from scratch_gpt.model import GPT
from scratch_gpt.tokenization.refusal import TokenizerError
from scratch_gpt.tokenizer import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def loaded(asked: Asked) -> tuple[GPT, Tokenizer]:
    """Return the model and its tokenizer.

    Raises:
        UsageError: The weights are no folder, or a training run's.
        InputRefusedError: Weights and vocabulary are of different sizes.
        EnvironmentUnfitError: There is no such device.
        CheckpointError: Either is not sound.
    """
    folder = _folder(asked.weights)
    device = device_named(asked.device)
    try:
        tokenizer = Tokenizer.from_pretrained(asked.vocabulary or folder, splitting=asked.splitting)
    except TokenizerError as error:
        fix = f"{error.fix}, or name the folder of the vocabulary with --vocabulary"
        raise InputRefusedError(error.what, where=error.where, fix=fix) from error
    model = GPT.from_pretrained(folder, attention="fused")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InputRefusedError(
            f"the vocabulary has {tokenizer.vocab_size} tokens, the weights have "
            f"{model.config.vocab_size}",
            where=str(asked.vocabulary or folder),
            fix="name the vocabulary of these weights with --vocabulary",
        )
    return model.to(device, _DTYPES[asked.dtype]), tokenizer


_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
"""What could be a name that parity.convert takes: no path that is absolute, begins with '.', ..."""


def _folder(weights: str) -> Path:
    """Return the folder of weights.

    Raises:
        UsageError: There is none, or it is a run's, which has the weights in a folder of its own.
    """
    folder = Path(weights)
    if folder.is_dir():
        if (folder / "model").is_dir() and (folder / "checkpoints").is_dir():
            fix = f"use --weights {shlex.quote(str(folder / 'model'))}"
            raise UsageError(f"{weights} is a run's folder", where="--weights", fix=fix)
        return folder
    if folder.exists():
        what, fix = f"{weights} is a file", "name the folder it is in"
    elif _HUB_NAME.fullmatch(weights):
        made = shlex.join(["python", "-m", "parity.convert", weights, "DIRECTORY"])
        what = f"{weights} is no folder of weights"
        fix = f"make one with: {made}    then --weights DIRECTORY"
    else:
        what, fix = f"there is no such folder: {weights}", "name the folder of the weights"
    raise UsageError(what, where="--weights", fix=fix)
