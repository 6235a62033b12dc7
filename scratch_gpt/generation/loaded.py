"""The model and the tokenizer that the command line names, made sure to belong together."""

import shlex
from pathlib import Path

import torch

from scratch_gpt.command.errors import EnvironmentUnfitError, InputRefusedError, UsageError
from scratch_gpt.generation.asked import Asked
from scratch_gpt.model import GPT
from scratch_gpt.tokenizer import Tokenizer

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def loaded(asked: Asked) -> tuple[GPT, Tokenizer]:
    """Return the model and its tokenizer.

    Raises:
        UsageError: The weights are no folder.
        InputRefusedError: Weights and vocabulary are of different sizes.
        EnvironmentUnfitError: There is no such device.
        CheckpointError: Either is not sound.
    """
    folder = Path(asked.weights)
    if not folder.is_dir():
        made = shlex.join(["python", "-m", "parity.convert", asked.weights, "DIRECTORY"])
        raise UsageError(
            f"{asked.weights} is no folder of weights",
            where="--weights",
            fix=f"make one with: {made}    then --weights DIRECTORY",
        )
    device = _device(asked.device)
    tokenizer = Tokenizer.from_pretrained(asked.vocabulary or folder, splitting=asked.splitting)
    model = GPT.from_pretrained(folder, attention="fused")
    if tokenizer.vocab_size != model.config.vocab_size:
        raise InputRefusedError(
            f"the vocabulary has {tokenizer.vocab_size} tokens, the weights have "
            f"{model.config.vocab_size}",
            where=str(asked.vocabulary or folder),
            fix="name the vocabulary of these weights with --vocabulary",
        )
    return model.to(device, _DTYPES[asked.dtype]), tokenizer


def _device(name: str) -> torch.device:
    there = torch.cuda.is_available()
    if name == "cuda" and not there:
        raise EnvironmentUnfitError(
            "there is no CUDA device", where="--device cuda", fix="use --device cpu"
        )
    return torch.device("cuda" if there and name != "cpu" else "cpu")
