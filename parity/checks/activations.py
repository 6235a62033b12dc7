"""Activations in a file: those of a JAX, NumPy or ONNX model judged, and ours written.

A file is `.safetensors` or `.npz`. It has an array for each tap that the model shows, under the
tap's name, the logits among them; `token_ids`, `[batch time]`; and with padding `attention_mask`,
of the same shape. The dtype of its logits decides the mode: float64, or end-to-end in that dtype.
"""

import contextlib
import dataclasses
import itertools
import json
import math
from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.tensor_files import TensorFiles, open_tensors
from parity.core import candidates, runners
from parity.core.candidates import PreparedCandidate
from parity.core.comparison import CANDIDATE, Comparison, conclude
from parity.core.explain import Explainer
from parity.core.fingerprints import DIGITS, Fingerprints
from parity.core.inputs import Inputs
from parity.core.lockstep import TapFunction, capture
from parity.core.metrics import visible_entries
from parity.core.results import Mode, Reason, Report, WrongOperation
from parity.core.tolerances import PRECISIONS, bounds_for
from parity.errors import (
    EnvironmentUnfitError,
    ExitCode,
    InputRejectedError,
    UsageError,
    mapped_errors,
    reading_untrusted,
)
from parity.faults.forward import FORWARD_FAULTS, ForwardFault, TensorFault
from parity.operations import OPERATIONS, Call, Op, split_heads, split_name
from parity.report import replace_file
from scratch_gpt.checkpoint.strict_io import load_strict_json
from scratch_gpt.errors import quote
from scratch_gpt.progress import Progress

_IDS, _MASK, _METADATA = "token_ids", "attention_mask", "metadata"
_SUFFIXES = (".safetensors", ".npz")
_DTYPES = ("float64", *PRECISIONS)
_CONTENTS = "an array for each tap under its name, logits and token_ids among them"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activations:
    """A file of activations.

    Attributes:
        path: The file.
        files: Its tensors.
        dtype: The dtype that its logits have, or could have without a change of value.
        inputs: The token ids and the mask in it; None if it has no token ids.
        logits_shape: `[batch time vocab]`, if it is right.
        metadata: Texts: `dtype`, `backend` and `weights`, a digest, if our check wrote it.
    """

    path: Path
    files: TensorFiles
    dtype: str
    inputs: Inputs | None
    logits_shape: tuple[int, ...]
    metadata: Mapping[str, str]

    @property
    def taps(self) -> list[str]:
        """The names of its arrays that are no inputs."""
        return [name for name in self.files.names if name not in (_IDS, _MASK, _METADATA)]

    def read(self, name: str) -> Tensor:
        """Return one tensor, in `dtype` if that holds its values."""
        tensor = self.files.read(name)
        dtype: torch.dtype = getattr(torch, self.dtype)
        return tensor.to(dtype) if _holds(dtype, tensor) else tensor


def read_activations(path: Path) -> Activations:
    """Return a file of activations, open; only its inputs and its logits are read.

    Raises:
        InputRejectedError: It is no file, is damaged or of another kind, or has no logits.
    """
    where = f"--activations {path}"
    if not path.is_file():
        raise InputRejectedError(
            "it is no file",
            where=where,
            fix=f"name a {' or '.join(_SUFFIXES)} file that has {_CONTENTS}",
        )
    _require_suffix(path, where)
    with mapped_errors(), reading_untrusted(where):
        files = open_tensors(path)
        if "logits" not in files.names:
            first = ", ".join(quote(name) for name in list(files.names)[:3])
            raise InputRejectedError(
                f"it has no logits, only {first}",
                where=where,
                fix=f"save {_CONTENTS}: docs/architecture.md has the names",
            )
        logits = files.read("logits")
        found = str(logits.dtype).removeprefix("torch.")
        if found not in _DTYPES:
            raise InputRejectedError(
                f"its logits are {found}", where=where, fix=f"save {', '.join(_DTYPES)}"
            )
        inputs = _inputs(files, where) if _IDS in files.names else None
        return Activations(
            path=path,
            files=files,
            dtype=_narrowest(logits),
            inputs=inputs,
            logits_shape=tuple(logits.shape),
            metadata=dict(files.metadata) or _metadata(files),
        )


def _require_suffix(path: Path, where: str) -> None:
    if path.suffix.lower() not in _SUFFIXES:
        raise UsageError(
            f"files of activations end in {' or '.join(_SUFFIXES)}, not {path.suffix or 'nothing'}",
            where=where,
            fix="write such a file: numpy.savez(FILE, **arrays), or safetensors' save_file",
        )


def _inputs(files: TensorFiles, where: str) -> Inputs:
    """Return the inputs in a file."""
    ids = files.read(_IDS)
    mask = files.read(_MASK) if _MASK in files.names else None
    if ids.ndim != 2 or ids.is_floating_point() or ids.dtype == torch.bool or not ids.numel():  # noqa: PLR2004
        raise InputRejectedError(
            f"its token_ids are {str(ids.dtype)[6:]} of shape {list(ids.shape)}",
            where=where,
            fix="save whole numbers of shape [batch time]",
        )
    if mask is not None and (mask.shape != ids.shape or bool(((mask != 0) & (mask != 1)).any())):
        raise InputRejectedError(
            f"its attention_mask of shape {list(mask.shape)} is no mask of its token_ids",
            where=where,
            fix="save 1 at tokens and 0 at padding, of the shape of token_ids",
        )
    return Inputs(
        token_ids=ids.long(),
        attention_mask=None if mask is None or bool(mask.all()) else mask.bool(),
    )


def _metadata(files: TensorFiles) -> dict[str, str]:
    """Return the texts of an `.npz` file that our check wrote; none if there are none."""
    if _METADATA not in files.names:
        return {}
    try:
        found = load_strict_json(files.read(_METADATA).to(torch.uint8).numpy().tobytes())
    except (ValueError, InputRejectedError):  # another program's
        return {}
    return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}


def _narrowest(logits: Tensor) -> str:
    """Return the narrowest dtype that holds the logits without a change.

    NumPy has no bfloat16: such logits are saved as float32. Zeros and infinities show no dtype.
    Most numbers of bfloat16 are numbers of float16 too, and few the other way round.
    """
    found = str(logits.dtype).removeprefix("torch.")
    if int((logits.isfinite() & (logits != 0)).sum()) * 2 <= logits.numel():
        return found
    narrower = ("bfloat16", "float16", "float32")
    return next((name for name in narrower if _holds(getattr(torch, name), logits)), found)


def _holds(dtype: torch.dtype, tensor: Tensor) -> bool:
    """Return whether a narrower dtype holds all values of a tensor."""
    if not tensor.is_floating_point() or tensor.element_size() <= dtype.itemsize:
        return False
    same = tensor.to(dtype).to(tensor.dtype) == tensor
    return bool((same | tensor.isnan()).all())


class _Stored(nn.Module):
    """Stands for the model that wrote a file, until it is prepared."""

    def forward(self, token_ids: Tensor) -> Tensor:
        """Reject a call: the activations are those of one call."""
        raise NotImplementedError


class StoredActivations(PreparedCandidate):
    """A candidate whose run is read from a file.

    Attributes:
        error: Why a tensor could not be read; None if all could.
    """

    error: InputRejectedError | None = None

    def __init__(self, stored: Activations, order: list[str]) -> None:
        super().__init__()
        known = [name for name in order if name in stored.taps]
        unknown = [name for name in stored.taps if name not in order]
        self._stored, self._order = stored, [*known, *unknown]
        self.shows_loss = "loss" in known
        self.profile = candidates.Profile(shown=known)

    def in_dtype(self, dtype: torch.dtype) -> "StoredActivations":  # noqa: ARG002 - it has one
        """Return the same: its dtype is that of the file."""
        return self

    def forward(
        self,
        token_ids: Tensor,  # noqa: ARG002 - as every candidate is called
        positions: Tensor | None = None,  # noqa: ARG002
        attention_mask: Tensor | None = None,  # noqa: ARG002
        *,
        tap: TapFunction,
    ) -> Tensor:
        """Show every array in network order, those of unknown names last; return the logits."""
        logits = torch.empty(0)
        for name in self._order:
            try:
                tensor = self._stored.read(name)
            except InputRejectedError as error:
                self.error = error
                raise
            shown = tap(name, tensor)
            logits = shown if name == "logits" else logits
        return logits


def activations(  # noqa: PLR0913 - as `layerwise`
    stored: Activations,
    reference: OpenAIGPTLMHeadModel,
    inputs: Inputs,
    *,
    select: str,
    explain: str | None,
    fingerprints: bool,
    identity: Mapping[str, Any],
    progress: Progress,
) -> Report:
    """Compare the activations in a file with Hugging Face's and the oracle's, tap by tap.

    Args:
        stored: The file.
        reference: Hugging Face's model with the weights of the model that wrote the file.
        inputs: The inputs of the file, or those that it was made from.
        select: Shell pattern of the taps to compare.
        explain: Tap whose errors are reported in detail.
        fingerprints: Whether the report has the fingerprints of all compared tensors.
        identity: Weights, config and code, for the report.
        progress: Called at every tap.

    Returns:
        A report; inconclusive if nothing could be compared.

    Raises:
        ParityError: The comparison cannot start, or the file changed during it.
    """
    made: list[StoredActivations] = []

    def prepare(run: Comparison, _model: nn.Module) -> StoredActivations:
        made.append(StoredActivations(stored, [tap.name for tap in run.plan]).eval())
        return made[0]

    run = Comparison(
        candidates={CANDIDATE: _Stored()},
        reference=reference,
        inputs=inputs,
        precision=PRECISIONS.get(stored.dtype),
        modes=frozenset({Mode.END_TO_END if stored.dtype in PRECISIONS else Mode.FLOAT64}),
        select=select,
        bounds=bounds_for(stored.dtype),
        explainer=Explainer(explain),
        progress=progress,
        fingerprints=Fingerprints(wanted=fingerprints, select=select),
        prepare=prepare,
    )
    saved = str(stored.files.read("logits").dtype).removeprefix("torch.")
    if saved != stored.dtype:
        run.reasons.append(
            Reason(
                what=f"its logits are saved as {saved} and hold {stored.dtype}: that is checked",
                where=str(stored.path),
                fix="no change is needed; a model that computes in float64 gives other values",
                code=ExitCode.PASS,
            )
        )
    report = conclude(run, identity, check="layerwise")
    for error in (one.error for one in made if one.error is not None):
        raise error
    digest = stored.files.files[0].sha256[:DIGITS]
    file = f"{stored.path.name}, {stored.dtype}, sha256 {digest}"
    wrong = list(_diagnosed(report, run, stored))
    return dataclasses.replace(report, wrong=wrong, inputs={**report.inputs, "activations": file})


# Diagnosis.

_FAR = 10.0
"""How many times worse the right operation must be than the mistake that is named."""


def _diagnosed(report: Report, run: Comparison, stored: Activations) -> Iterator[WrongOperation]:
    """Yield the mistake that reproduces the first tap that differs, if a known one does.

    Each is computed on the file's own inputs of the operation, or on the right ones if these are
    not in the file.
    """
    first = report.first_divergence
    tap = next((tap for tap in run.plan if first is not None and tap.name == first.tap), None)
    if tap is None or tap.name not in stored.taps:
        return
    value = stored.read(tap.name).double()
    call, seen, hidden = _before(run, stored, tap.name)
    block, kind = split_name(tap.name)
    right = OPERATIONS[kind](Op(call, seen, OPERATIONS, block))
    visible = visible_entries(tap.kind.axes, run.mask, run.inputs.token_ids.shape[1])
    unit = PRECISIONS[stored.dtype].unit if stored.dtype in PRECISIONS else 0.0
    alike = max(1e-9, 16 * unit)
    wrong = WrongOperation(
        tap=tap.name,
        place=f"{tap.name} in {stored.path.name}",
        code="",
        fault="",
        diagnosis=f"the right numbers in another layout: its shape is {list(value.shape)}",
        fix="",
    )
    for fix, turned in _layouts(value, right.shape, call.n_head):
        if _gap(right, turned, visible) <= alike:
            yield dataclasses.replace(wrong, fix=fix)
            return
    off = _gap(right, value, visible)
    best: tuple[float, ForwardFault | None] = (min(alike, off / _FAR), None)
    for fault, made in _mistakes(call, seen, tap.name, {kind, *hidden}):
        best = min(best, (_gap(made, value, visible), fault), key=lambda one: one[0])
    error, found = best
    if found is not None:
        with_it = f"with this mistake the numbers agree to {error:.0e}"
        words = f"{found.what}; {found.right} ({with_it}; without it they differ by {off:.0e})"
        yield dataclasses.replace(wrong, fault=found.name, diagnosis=words, fix=found.fix)


def _before(
    run: Comparison, stored: Activations, name: str
) -> tuple[Call, dict[str, Tensor], list[str]]:
    """Return the call, the taps beside one, and the kinds in its block that the file lacks.

    Of a tap that the file lacks in other blocks, or has in another shape, it is the right one.
    """
    right = capture(runners.oracle_run(run.reference, run.inputs))
    block, _ = split_name(name)
    hidden = [n for n in right if n not in stored.taps and split_name(n)[0] == block]
    seen = {n: tensor for n, tensor in right.items() if n != name and n not in hidden}
    for n in seen.keys() & set(stored.taps):
        if (tensor := stored.read(n)).shape == seen[n].shape:
            seen[n] = tensor.double()
    config = run.reference.config
    state = {n: runners.array(tensor) for n, tensor in run.reference.state_dict().items()}
    ours = convert(state, config.to_dict(), source=Side.HUGGINGFACE, target=Side.OURS)
    call = Call(
        parameters={n: torch.from_numpy(array).double() for n, array in ours.items()},
        n_layer=config.n_layer,
        n_head=config.n_head,
        epsilon=config.layer_norm_epsilon,
        token_ids=run.inputs.token_ids,
        mask=run.inputs.attention_mask,
    )
    return call, seen, [split_name(n)[1] for n in hidden]


def _mistakes(
    call: Call, seen: Mapping[str, Tensor], name: str, kinds: set[str]
) -> Iterator[tuple[ForwardFault, Tensor]]:
    """Yield the tensor that each fault of some kinds of taps, or of the weights, makes at a tap."""
    block, kind = split_name(name)
    for fault in FORWARD_FAULTS.values():
        if not isinstance(fault, TensorFault) and not kinds & fault.operations.keys():
            continue
        # Some faults are of another block, or of shapes that do not fit.
        with contextlib.suppress(RuntimeError, LookupError):
            table = {**OPERATIONS, **fault.operations}
            changed = ChainMap(dict(fault.tensors(call.parameters, block or 0)))
            changed.maps.append(dict(call.parameters))
            op = Op(dataclasses.replace(call, parameters=changed), seen, table, block)
            yield fault, table[kind](op)


def _gap(made: Tensor, found: Tensor, visible: Tensor | None) -> float:
    """Return the RMS difference over the RMS of `made`; infinity for another shape."""
    if made.shape != found.shape:
        return math.inf
    counts = torch.ones((), dtype=torch.bool) if visible is None else visible
    chosen = counts.expand(made.shape)
    error = (made - found)[chosen].square().mean().sqrt() / made[chosen].square().mean().sqrt()
    return float(error.nan_to_num(nan=math.inf))


def _layouts(value: Tensor, shape: torch.Size, n_head: int) -> Iterator[tuple[str, Tensor]]:
    """Yield each other arrangement of a tensor that has the right shape, and how it is made."""
    for axes in itertools.permutations(range(value.ndim)):
        if axes != tuple(range(value.ndim)) and value.permute(axes).shape == shape:
            yield f"save x.transpose{axes}, in NumPy's words", value.permute(axes)
    if value.ndim == 3 and len(shape) == 4 and value.shape[-1] % n_head == 0:  # noqa: PLR2004
        turned = split_heads(value, n_head)
        if turned.shape == shape:
            yield f"save x.reshape(batch, time, {n_head}, -1).transpose(0, 2, 1, 3)", turned


# Writing.


@dataclasses.dataclass(kw_only=True)
class Recorder:
    """Keeps the activations of one run, and writes them.

    Attributes:
        path: Where they go.
        dtype: The checked dtype, in which the run is.
    """

    path: Path
    dtype: str

    def __post_init__(self) -> None:
        self._taken: dict[str, Tensor] = {}
        self._run = ""

    def require_writable(self) -> None:
        """Require that the file can be written, before anything runs.

        Raises:
            UsageError: Its suffix is unknown, it cannot hold the dtype, or another file is there.
            EnvironmentUnfitError: Its folder does not exist, or it is no regular file.
        """
        where = f"--save-activations {self.path}"
        _require_suffix(self.path, where)
        if self.path.suffix.lower() == ".npz" and self.dtype == "bfloat16":
            raise UsageError(
                ".npz cannot hold bfloat16: NumPy has no such dtype",
                where=f"{where} with --dtype bfloat16",
                fix="name a .safetensors file",
            )
        if not self.path.parent.is_dir() or (self.path.exists() and not self.path.is_file()):
            raise EnvironmentUnfitError(
                "no file can be written there",
                where=where,
                fix="name a file in a folder that exists",
            )
        if self.path.exists():
            names: set[str] = set()
            ignored = contextlib.suppress(InputRejectedError, UsageError)
            with ignored, mapped_errors(), reading_untrusted(where):
                names = set(open_tensors(self.path).names)
            if not {"logits", _IDS} <= names:
                raise UsageError(
                    "the file there holds no activations, and would be lost",
                    where=where,
                    fix="choose another name, or remove the file",
                )

    def take(self, run: str, tap: str, tensor: Tensor) -> None:
        """Keep a tensor of the first candidate's run in the dtype."""
        _, *backend, dtype = run.split("/")
        if backend and dtype == self.dtype and self._run in ("", run):
            self._run = run
            self._taken[tap] = tensor.detach().cpu().clone()

    def write(self, inputs: Inputs, weights: str) -> str:
        """Write the file, whole or not at all; return the name of the run in it.

        Args:
            inputs: The inputs of the run.
            weights: Digest of the weights.

        Raises:
            UsageError: The run showed no logits of the right shape.
            EnvironmentUnfitError: The file system refused; a former file is unchanged.
        """
        where = f"--save-activations {self.path}"
        if "logits" not in self._taken:
            raise UsageError(
                "the model showed no logits of the right shape, so nothing was written",
                where=where,
                fix="check the model without this option first",
            )
        backend = self._run.split("/")[1]
        metadata = {"dtype": self.dtype, "backend": backend, "weights": weights}
        tensors = {_IDS: inputs.token_ids.cpu(), **self._taken}
        if inputs.attention_mask is not None:
            tensors[_MASK] = inputs.attention_mask.cpu().to(torch.uint8)
        with replace_file(self.path, where) as partial:
            if self.path.suffix.lower() == ".npz":
                text = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
                arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
                with partial.open("wb") as file:
                    np.savez(file, **arrays, metadata=text)  # type: ignore[arg-type]
            else:
                whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
                save_file(whole, partial, metadata)
        return backend
