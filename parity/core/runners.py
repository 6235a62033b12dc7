"""The forward passes of both sides, and the models that they run.

A candidate is a module called as ours is: `model(token_ids, positions, attention_mask, tap=tap)`.
"""

import contextlib
import copy
import importlib
import inspect
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import OnTensor, load_weights
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import Provenance, Weights
from parity.core.inputs import Inputs
from parity.core.lockstep import Run, TapFunction
from parity.errors import InconclusiveError, InputRejectedError, UsageError
from parity.threads import copy_parallel
from reference import huggingface, oracle
from scratch_gpt.config import GPTConfig
from scratch_gpt.loss import negative_log_likelihood
from scratch_gpt.model import GPT


def candidate_run(model: nn.Module, inputs: Inputs) -> Run:
    """Return a run of a candidate; its loss is taken from the logits by our own formula."""

    def run(tap: TapFunction) -> None:
        shown: dict[str, Tensor] = {}

        def remembering(name: str, value: Tensor) -> Tensor:
            shown[name] = tap(name, value)
            return shown.pop(name) if name != "logits" else shown[name]

        logits = model(inputs.token_ids, inputs.positions, inputs.attention_mask, tap=remembering)
        check_returned(logits, shown.get("logits"))
        _show_loss(tap, logits, inputs, negative_log_likelihood)

    return run


def check_returned(returned: object, shown: Tensor | None) -> None:
    """Require that a model returns the logits of its tap.

    Raises:
        ValueError: It returns others, which were not compared.
    """
    if shown is None or returned is shown:
        return
    if not (isinstance(returned, Tensor) and torch.equal(returned, shown)):
        message = "the model returned something else than it showed at the tap logits"
        raise ValueError(message)


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

    Tensors that the models share, the copies share too.

    Raises:
        InconclusiveError: A parameter or buffer of a copy kept another float type.
    """
    if all(_dtypes(model) == {dtype} for model in models.values()):
        return dict(models)
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


def check_candidate(model: nn.Module) -> None:
    """Require that a candidate has taps.

    Raises:
        UsageError: Its forward has no `tap` argument.
    """
    parameters = inspect.signature(model.forward).parameters
    if "tap" not in parameters:
        raise UsageError(
            f"{type(model).__name__}.forward has no argument named tap",
            where=f"its arguments are {list(parameters)}",
            fix="call tap(name, tensor) at each tap and go on with what it returns; "
            "see scratch_gpt/tap.py",
        )


def check_apart(candidates: Mapping[str, nn.Module], reference: nn.Module) -> None:
    """Require that the two sides are different objects with different storage.

    Raises:
        InconclusiveError: They share something, so that agreement would prove nothing.
    """

    def storage(tensor: Tensor) -> int:
        return tensor.untyped_storage().data_ptr()

    theirs = {storage(tensor) for tensor in reference.state_dict().values()}
    for name, model in candidates.items():
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


# `--candidate`: `FILE.py` is run and its function `build` is used; `MODULE:NAME` is imported. It is
# called as `build(config, weights)` with a `GPTConfig` and a dictionary of our tensor names to
# float32 copies, and returns a module that is called as ours is.


def build_candidate(name: str, weights: Weights) -> nn.Module:
    """Return the candidate `FILE.py` or `MODULE:NAME` with the weights, in evaluation mode.

    Raises:
        UsageError: There is no such function.
        InputRejectedError: The file or the function raised, or did not return a module.
    """
    state = {key: torch.from_numpy(array.copy()) for key, array in weights.tensors.items()}
    with _beside(name):
        build = _function(name)
        with _running(name, "it is called as build(config, weights)"):
            model = build(GPTConfig.from_huggingface(weights.config), state)
    if not isinstance(model, nn.Module):
        raise InputRejectedError(
            f"the candidate's function returned {type(model).__name__}, not a torch module",
            where=f"--candidate {name}",
            fix="return a torch.nn.Module called as model(ids, positions, mask, tap=tap)",
        )
    model.eval()  # it may be overridden and return nothing
    return model


def _function(name: str) -> Callable[..., Any]:
    """Return the function that builds the candidate."""
    if name.endswith(".py"):
        if not Path(name).is_file():
            raise _absent(name, "there is no such file")
        with _running(name, "run it alone to see what is wrong"):
            found = runpy.run_path(name).get("build")
    else:
        found = _named(name)
    if not callable(found):
        what = "build" if name.endswith(".py") else name.partition(":")[2]
        kind = "it has none" if found is None else f"it is of type {type(found).__name__}"
        raise _absent(name, f"{what} is no function: {kind}")
    return found  # type: ignore[no-any-return]


def _named(name: str) -> object:
    """Return the object `MODULE:NAME`; None if the module does not have it."""
    module, _, attribute = name.partition(":")
    if not attribute or not all(part.isidentifier() for part in module.split(".")):
        raise _absent(name, "it is neither FILE.py nor MODULE:NAME")
    with _running(name, "import it alone to see what is wrong"):
        try:
            return getattr(importlib.import_module(module), attribute, None)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists, and one of its own imports does not
            raise _absent(name, f"there is no module {error.name}") from error


def _absent(name: str, why: str) -> UsageError:
    return UsageError(
        f"no candidate there: {why}",
        where=f"--candidate {name}",
        fix="name a FILE.py with a function build(config, weights), or MODULE:NAME",
    )


@contextlib.contextmanager
def _beside(name: str) -> Iterator[None]:
    """Let a file import modules from its own folder."""
    before = list(sys.path)
    if name.endswith(".py"):
        sys.path.insert(0, str(Path(name).resolve().parent))
    try:
        yield
    finally:
        sys.path[:] = before


@contextlib.contextmanager
def _running(name: str, fix: str) -> Iterator[None]:
    """Raise any error of the candidate's code, an exit too, as a rejection with its line."""
    try:
        yield
    except UsageError:
        raise
    except (Exception, SystemExit) as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == name]
        raise InputRejectedError(
            f"the candidate raised {type(error).__name__}: {error}",
            where=f"--candidate {name}" + (f", line {lines[-1]}" if lines else ""),
            fix=f"{fix}; --debug shows the traceback",
        ) from error


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
    """Return our model with a copy of the weights, in evaluation mode."""
    config = GPTConfig.from_huggingface(weights.config)
    with torch.device("meta"):
        model = GPT(config, backend=backend)
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.OURS)
    model.load_state_dict(_copies(named), assign=True)
    return model.eval()


def build_huggingface(weights: Weights) -> OpenAIGPTLMHeadModel:
    """Return Hugging Face's model with a copy of the weights, in evaluation mode."""
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.HUGGINGFACE)
    return huggingface.build(weights.config, _copies(named))


def _copies(arrays: Mapping[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    made = copy_parallel(lambda array: torch.from_numpy(array).clone(), arrays.values())
    return dict(zip(arrays, made, strict=True))
