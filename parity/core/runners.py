"""The forward passes of both sides, and the models that they run.

`parity.core.candidates` calls a candidate, whatever its signature.
"""

import contextlib
import copy
import json
import tempfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save_file
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import OnTensor, load_weights
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import Provenance, Weights
from parity.core import candidates
from parity.core.inputs import Inputs
from parity.core.lockstep import Run, TapFunction
from parity.errors import ExitCode, InconclusiveError, ParityError, mapped_errors, message_of
from parity.threads import copy_parallel
from reference import huggingface, oracle
from scratch_gpt.checkpoint.checkpoint import CONFIG, WEIGHTS
from scratch_gpt.checkpoint.names import listed
from scratch_gpt.loss import negative_log_likelihood
from scratch_gpt.model import GPT


def candidate_run(model: nn.Module, inputs: Inputs) -> Run:
    """Return a run of a candidate; its loss is taken from the logits by our own formula.

    A prepared one may show its own.
    """

    def run(tap: TapFunction) -> None:
        shown: dict[str, Tensor] = {}

        def remembering(name: str, value: Tensor) -> Tensor:
            shown[name] = tap(name, value)
            return shown.pop(name) if name != "logits" else shown[name]

        logits = candidates.call(model, inputs, remembering)
        check_returned(logits, shown.get("logits"))
        if "logits" not in shown:
            tap("logits", logits)
        own = isinstance(model, candidates.PreparedCandidate) and model.shows_loss
        if not own and logits.shape[:-1] == inputs.token_ids.shape:
            _show_loss(tap, logits, inputs, negative_log_likelihood)

    return run


class OtherLogitsError(ValueError):
    """A model returned something else than it showed at the tap `logits`."""


def check_returned(returned: object, shown: Tensor | None) -> None:
    """Require that a model returns the logits of its tap.

    Raises:
        OtherLogitsError: It returns others, which were not compared.
    """
    if shown is None or returned is shown:
        return
    if not (isinstance(returned, Tensor) and torch.equal(returned, shown)):
        raise OtherLogitsError("the model returned something else than it showed at the tap logits")


def huggingface_run(model: OpenAIGPTLMHeadModel, inputs: Inputs) -> Run:
    """Return a run of Hugging Face's model; its loss is PyTorch's cross-entropy."""

    def run(tap: TapFunction) -> None:
        logits = huggingface.logits(
            model,
            inputs.token_ids,
            positions=inputs.positions,
            attention_mask=inputs.attention_mask,
            tap=tap,
        )
        _show_loss(tap, logits, inputs, huggingface.loss)

    return run


_STRETCH = 64
"""Rows of logits whose loss is computed at once."""


def _show_loss(
    tap: TapFunction, logits: Tensor, inputs: Inputs, loss: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Compute the loss, a stretch of rows at a time: its temporaries are as wide as the vocabulary.

    Every loss is of one row and the next token, so that cutting the rows changes no bit.
    """
    time = inputs.token_ids.shape[1]
    if time > 1:
        parts = [
            loss(logits[:, at : at + _STRETCH + 1], inputs.token_ids[:, at : at + _STRETCH + 1])
            for at in range(0, time - 1, _STRETCH)
        ]
        tap("loss", torch.cat(parts, dim=1))


def oracle_run(model: OpenAIGPTLMHeadModel, inputs: Inputs) -> Run:
    """Return a run of the oracle, given the reference model's weights in the release's form."""
    weights, epsilon = oracle_weights(model), model.config.layer_norm_epsilon
    positions, mask = inputs.positions, inputs.attention_mask

    def run(tap: TapFunction) -> None:
        taps = oracle.forward(
            weights,
            inputs.token_ids.cpu().numpy(),
            positions=None if positions is None else positions.cpu().numpy(),
            mask=None if mask is None else mask.cpu().numpy(),
            epsilon=epsilon,
        )
        answer = None
        with contextlib.suppress(StopIteration):
            while True:
                name, value = taps.send(answer)
                answer = tap(name, torch.from_numpy(value)).numpy()

    return run


def rounded_oracle(
    model: OpenAIGPTLMHeadModel, inputs: Inputs, dtype: torch.dtype, raw: Collection[str]
) -> dict[str, Tensor]:
    """Return every tap of the oracle in `dtype`, each operation on inputs rounded to it.

    The taps in `raw` go on unrounded.
    """
    values: dict[str, Tensor] = {}

    def tap(name: str, value: Tensor) -> Tensor:
        values[name] = value.to(dtype)
        return value if name in raw else values[name].double()

    oracle_run(model, inputs)(tap)
    return values


def last_logits(run: Run) -> Run:
    """Return a run that shows the logits of the last position alone."""

    def cut(tap: TapFunction) -> object:
        def last(name: str, value: Tensor) -> Tensor:
            if name != "logits":
                return tap(name, value)
            tap(name, value[:, -1:])
            return value

        return run(last)

    return cut


def oracle_weights(model: OpenAIGPTLMHeadModel) -> oracle.Weights:
    """Return the reference model's weights as the oracle takes them."""
    config = model.config.to_dict()
    state = {name: array(tensor) for name, tensor in model.state_dict().items()}
    released = convert(state, config, source=Side.HUGGINGFACE, target=Side.RELEASE)
    return oracle.arrange(list(released.values()), n_head=config["n_head"])


def array(tensor: Tensor) -> NDArray[np.floating]:
    """Return a tensor as an array of its dtype; a half-precision one, exactly, as float32."""
    tensor = tensor.detach().cpu()
    half = tensor.dtype in (torch.bfloat16, torch.float16)
    array: NDArray[np.floating] = (tensor.float() if half else tensor).numpy()
    return array


def model_in_dtype(models: Mapping[str, nn.Module], dtype: torch.dtype) -> dict[str, nn.Module]:
    """Return the models in `dtype`: as they are where they have it, else as copies.

    Tensors that the models share, the copies share too. A candidate is built anew instead.

    Raises:
        InconclusiveError: A parameter or buffer of a copy kept another float type.
    """
    if all(_dtypes(model) == {dtype} for model in models.values()):
        return dict(models)
    again = {name: candidates.rebuilt(model, dtype) for name, model in models.items()}
    made = {name: model for name, model in again.items() if model is not None}
    if made:
        copied = model_in_dtype({n: m for n, m in models.items() if n not in made}, dtype)
        return {name: made.get(name) or copied[name] for name in models}
    # A tensor is converted as it is copied: no second copy in the old dtype is ever made.
    tensors = [t for model in models.values() for t in (*model.parameters(), *model.buffers())]
    once = {id(t): t for t in tensors if t.dtype.is_floating_point}
    converted = copy_parallel(lambda tensor: _in_dtype(tensor, dtype), once.values())
    copies = copy.deepcopy(dict(models), memo=dict(zip(once, converted, strict=True)))
    for name, model in copies.items():
        if _dtypes(model) != {dtype}:
            raise InconclusiveError(
                f"{name} still holds {sorted(map(str, _dtypes(model)))} in its {dtype} copy",
                where="its parameters and buffers",
                fix="register every tensor as a parameter or a buffer, so that .to() reaches it",
            )
    return copies


def _in_dtype(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    copied = tensor.detach().to(dtype, copy=True)
    return nn.Parameter(copied) if isinstance(tensor, nn.Parameter) else copied


def _dtypes(model: nn.Module) -> set[torch.dtype]:
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.dtype for tensor in tensors if tensor.dtype.is_floating_point}


def check_apart(models: Mapping[str, nn.Module], reference: nn.Module) -> None:
    """Require that the two sides are different objects with different storage.

    Raises:
        InconclusiveError: They share something, so that agreement would prove nothing.
    """

    def storage(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    theirs = {storage(tensor) for tensor in reference.state_dict().values()}
    for name, model in models.items():
        shared = [
            tensor_name
            for tensor_name, tensor in model.state_dict().items()
            if tensor.numel() > 0 and storage(tensor) in theirs
        ]
        if model is reference or shared:
            raise InconclusiveError(
                f"{name} and the reference share storage: agreement would prove nothing",
                where=f"{len(shared)} tensors, the first is {shared[0] if shared else 'the model'}",
                fix="load the weights into each side separately",
            )


def check_evaluating(models: Mapping[str, nn.Module]) -> None:
    """Require that no module of any model is in training mode.

    Raises:
        InconclusiveError: Names the first one that is: its dropout would be random.
    """
    for name, model in models.items():
        training = [path or "the model" for path, part in model.named_modules() if part.training]
        if training:
            raise InconclusiveError(
                f"{name} is in training mode",
                where=f"{len(training)} modules, the first is {training[0]}",
                fix="call .eval() on the model; one of its modules overrides train()",
            )


def load_pretrained(
    source: str, *, backend: str = "plain", on_tensor: OnTensor | None = None
) -> tuple[GPT, Provenance]:
    """Return our model with pretrained weights, in evaluation mode, and their provenance.

    `source` is as `--weights`: `openai-gpt`, a hub repository `owner/name[@revision]`, a folder or
    file of any published form, `surrogate` or `tiny`. `on_tensor` is called with (tensors done,
    tensors in all) while weights are drawn.

    Raises:
        ParityError: The weights are missing, damaged or not a GPT-1's.
    """
    weights = load_weights(source, on_tensor)
    return build_ours(weights, backend), weights.provenance


def build_ours(weights: Weights, backend: str = "plain") -> GPT:
    """Return our model with the weights as `GPT.from_pretrained` reads them, in evaluation mode.

    It reads the weights' own folder where that has their form. Others are written into a temporary
    folder first, by the safetensors library and our table of names.

    Raises:
        LoadingFailedError: It raises, or leaves a parameter without values.
        EnvironmentUnfitError: The temporary folder cannot be written.
    """
    with contextlib.ExitStack() as stack:
        folder = _own_folder(weights)
        if folder is None:
            with mapped_errors():
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpt1-")))
                named = convert(
                    weights.tensors, weights.config, source=Side.OURS, target=Side.HUGGINGFACE
                )
                save_file(named, folder / WEIGHTS)
                (folder / CONFIG).write_text(json.dumps(dict(weights.config)), encoding="utf-8")
        try:
            model = GPT.from_pretrained(folder, backend=backend)
            empty = [name for name, tensor in model.named_parameters() if tensor.is_meta]
        except Exception as error:
            what = f"it raised {type(error).__name__}: {message_of(error)}"
            raise LoadingFailedError(what, where=_LOADER, fix=_LOAD_ALONE) from error
    if empty:
        what = f"it left {listed(empty)} without values"
        raise LoadingFailedError(what, where=_LOADER, fix=_LOAD_ALONE)
    return model


_LOADER = "GPT.from_pretrained, on weights that Hugging Face's model takes"
_LOAD_ALONE = "run it alone on a folder that Hugging Face's save_pretrained wrote"


class LoadingFailedError(ParityError):
    """Our model cannot be loaded from sound weights: a difference, as a wrong number is."""

    exit_code = ExitCode.FAIL


def _own_folder(weights: Weights) -> Path | None:
    """Return the folder of the weights if `GPT.from_pretrained` reads the same from it."""
    names = [file.name for file in weights.provenance.files if not file.name.endswith(".json")]
    return weights.folder if names == [WEIGHTS] and not weights.provenance.notes else None


def build_huggingface(weights: Weights) -> OpenAIGPTLMHeadModel:
    """Return Hugging Face's model with a copy of the weights, in evaluation mode."""
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.HUGGINGFACE)
    return huggingface.build(weights.config, _copies(named))


def _copies(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    made = copy_parallel(lambda array: torch.from_numpy(array).clone(), arrays.values())
    return dict(zip(arrays, made, strict=True))
