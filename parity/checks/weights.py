"""The weights check: compares every tensor of each side with the source, bit for bit.

The sides are our model as the other checks build it and as `GPT.from_pretrained` loads it, Hugging
Face's, and the source converted to the release's form and back.
Names are compared as sets. The tied head is checked by storage: values alone do not show it.
"""

import contextlib
import tempfile
from collections.abc import Iterable, Iterator, Mapping
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
from parity.errors import ExitCode, message_of
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
    loaded: GPT | Exception | None = None,
) -> Report:
    """Compare the weights of both models with their source.

    `loaded` is the model that `GPT.from_pretrained` gives, or its exception.
    """
    at = "from_pretrained"
    sides = {
        "ours": _arrays(ours.state_dict()),
        **({at: _arrays(loaded.state_dict())} if isinstance(loaded, GPT) else {}),
        **({at: {}} if isinstance(loaded, Exception) else {}),
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
        reasons=[*_untied(theirs), *_not_loaded(loaded)],
        first_divergence=first_exact_difference(found),
        inputs={"parameters": sum(tensor.size for tensor in source.tensors.values())},
    )


@contextlib.contextmanager
def loadable(source: Weights) -> Iterator[Path]:
    """Yield a folder with the weights for both libraries: their own, or else one written here."""
    read = {file.name for file in source.provenance.files}
    if source.folder is not None and checkpoint.WEIGHTS in read:
        yield source.folder
        return
    with tempfile.TemporaryDirectory() as name:
        tensors = {key: torch.from_numpy(array) for key, array in source.tensors.items()}
        config = GPTConfig.from_huggingface(source.config)
        checkpoint.write_checkpoint(Path(name), config, tensors)
        yield Path(name)


def load_both(folder: Path) -> tuple[GPT | Exception, OpenAIGPTLMHeadModel | None]:
    """Return the models of a folder: ours, or its exception, and Hugging Face's, None if it fails.

    Our loader accepts names that Hugging Face's does not.
    """
    try:
        ours: GPT | Exception = GPT.from_pretrained(folder, backend="plain")
    except Exception as error:  # noqa: BLE001 - of the code that is checked
        ours = error
    try:
        return ours, huggingface.load(folder)
    except (ValueError, KeyError, RuntimeError, OSError):
        return ours, None


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


def _not_loaded(loaded: GPT | Exception | None) -> list[Reason]:
    """Return a reason if `GPT.from_pretrained` raised, or gave a model in training mode."""
    if isinstance(loaded, Exception):
        what = f"it raises {type(loaded).__name__}: {message_of(loaded)}"
    elif loaded is not None and any(module.training for module in loaded.modules()):
        what = "its model is in training mode, so dropout changes what it computes"
    else:
        return []
    fix = "compare it with `parity.load_pretrained`, which reads the same files"
    return [Reason(what=what, where="GPT.from_pretrained", fix=fix, code=ExitCode.FAIL)]


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
