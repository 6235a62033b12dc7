"""The weights check: compares every tensor of each side with the source, bit for bit.

The sides are our model as `GPT.from_pretrained` loads it, Hugging Face's, and the source converted
to the release's form and back.
Names are compared as sets. The tied head is checked by storage: values alone do not show it.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import ALIASES, Side, convert, is_buffer, rows
from parity.checkpoints.weights import Weights
from parity.core.environment import environment
from parity.core.metrics import Status
from parity.core.results import Mode, Plan, Reason, Report, Row, finish, first_exact_difference
from parity.errors import ExitCode
from reference import huggingface
from scratch_gpt.checkpoint import checkpoint
from scratch_gpt.config import GPTConfig
from scratch_gpt.model import GPT

Arrays = Mapping[str, NDArray[np.floating]]


def weights(
    source: Weights,
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    identity: Mapping[str, Any],
) -> Report:
    """Compare the weights of both models with their source."""
    sides = {
        "ours": _arrays(ours.state_dict()),
        "huggingface": _under_our_names(_arrays(theirs.state_dict()), source),
        "release": _through_release(source),
    }
    found = [row for side, arrays in sides.items() for row in _compared(source, side, arrays)]
    compared = {side: sum(row.against == side for row in found) for side in sides}
    planned = len(rows(source.config["n_layer"]))
    return finish(
        "weights",
        rows=found,
        plan=Plan.of({side: (planned, number) for side, number in compared.items()}),
        identity=identity,
        environment=environment(),
        reasons=[*_untied(theirs), *_training(ours)],
        first_divergence=first_exact_difference(found),
        inputs={"parameters": sum(tensor.size for tensor in source.tensors.values())},
    )


def load_huggingface(source: Weights) -> OpenAIGPTLMHeadModel | None:
    """Return Hugging Face's model, by its own loader; None where that rejects the files.

    It reads the source's own folder, or one that is written for it: ours accepts more names.
    """
    with contextlib.ExitStack() as stack:
        folder = source.folder
        if folder is None or checkpoint.WEIGHTS not in {f.name for f in source.provenance.files}:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            tensors = {key: torch.from_numpy(array) for key, array in source.tensors.items()}
            config = GPTConfig.from_huggingface(source.config)
            checkpoint.write_checkpoint(folder, config, tensors)
        try:
            return huggingface.load(folder)
        except (ValueError, KeyError, RuntimeError, OSError):
            return None


def _arrays(state: Mapping[str, Any]) -> dict[str, NDArray[np.floating]]:
    return {name: tensor.detach().cpu().numpy() for name, tensor in state.items()}


def _under_our_names(state: Arrays, source: Weights) -> Arrays:
    """Return Hugging Face's tensors under our names; unknown ones keep their own."""
    known = {row.huggingface: row.ours for row in rows(source.config["n_layer"])}
    return {
        known.get(name, name): tensor
        for name, tensor in state.items()
        if name not in ALIASES[Side.HUGGINGFACE] and not is_buffer(Side.HUGGINGFACE, name)
    }


def _through_release(source: Weights) -> Arrays:
    there = convert(source.tensors, source.config, source=Side.OURS, target=Side.RELEASE)
    return convert(there, source.config, source=Side.RELEASE, target=Side.OURS)


def _compared(source: Weights, side: str, arrays: Arrays) -> Iterable[Row]:
    """Yield a row for each tensor that either the source or this side has."""
    for name in dict.fromkeys([*source.tensors, *arrays]):
        wanted, found = source.tensors.get(name), arrays.get(name)
        status, differing = _status(wanted, found)
        yield Row(
            tap=name,
            backend=side,
            dtype=str((wanted if found is None else found).dtype),  # type: ignore[union-attr]
            mode=Mode.EXACT,
            against=side,
            shape=() if found is None else found.shape,
            status=status,
            error_ours=differing,
            bound=0.0,
            required_tolerance=differing,
        )


def _status(
    wanted: NDArray[np.floating] | None, found: NDArray[np.floating] | None
) -> tuple[Status, float | None]:
    """Return the status of a pair of tensors, and the number of elements whose bits differ."""
    if found is None:
        return Status.MISSING, None
    if wanted is None:
        return Status.EXTRA, None
    if wanted.shape != found.shape:
        return Status.SHAPE, None
    if wanted.dtype != found.dtype:
        return Status.DTYPE, None
    bits = f"u{wanted.dtype.itemsize}"
    differing = int(np.count_nonzero(wanted.view(bits) != np.ascontiguousarray(found).view(bits)))
    return (Status.FAIL if differing else Status.PASS), float(differing)


def _training(ours: GPT) -> list[Reason]:
    """Return a reason if our model is in training mode."""
    if not any(module.training for module in ours.modules()):
        return []
    return [
        Reason(
            what="its model is in training mode, so dropout changes what it computes",
            where="GPT.from_pretrained",
            fix="call .eval() on the model before it is returned",
            code=ExitCode.FAIL,
        )
    ]


def _untied(theirs: OpenAIGPTLMHeadModel) -> list[Reason]:
    """Return a reason if Hugging Face's head and embedding do not share storage."""
    if theirs.lm_head.weight.data_ptr() == theirs.transformer.tokens_embed.weight.data_ptr():
        return []
    return [
        Reason(
            what="Hugging Face's head and its token embedding are two tensors",
            where="lm_head.weight, transformer.tokens_embed.weight",
            fix="a training step would move them apart; load with tie_word_embeddings=True",
            code=ExitCode.FAIL,
        )
    ]
