"""Hugging Face's `OpenAIGPTLMHeadModel` as a reference: built, tapped, with supplied dropout masks.

Silent behavior of the library is an error or explicit here: keys that a load left out, keyword
arguments that version 5 ignores, the choice of an attention implementation, dropout left on.
"""

import contextlib
import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel
from transformers.utils import logging as transformers_logging

from reference.compat import dtype_keyword


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the library's log, progress bars and deprecation warnings; callers check the result.

    Versions 5.0 to 5.2 cause a deprecation warning by how they call tokenizers.
    """
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
            yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


TapFunction = Callable[[str, Tensor], Tensor]
"""Called with a tap's name and tensor; returns the tensor to continue with."""


class LoadReportError(ValueError):
    """Missing, unexpected or misshapen keys in Hugging Face's loading report, by name."""


def build(
    config: Mapping[str, Any], state: Mapping[str, Tensor], *, dtype: torch.dtype = torch.float32
) -> OpenAIGPTLMHeadModel:
    """Return the model in evaluation mode, with fields of `OpenAIGPTConfig` and every tensor.

    The names are Hugging Face's, without `lm_head`. The model may use the tensors of `state` as its
    own storage: pass tensors that are used nowhere else.

    Raises:
        LoadReportError: Keys missing, unexpected or of another shape.
        ValueError: A config field that this version lacks, or a head in `state`: one that differs
            from the embedding would be loaded as a separate head.
    """
    if "lm_head.weight" in state:
        message = "lm_head.weight is the token embedding's second name; leave it out"
        raise ValueError(message)
    with quiet():
        loaded: Any = OpenAIGPTLMHeadModel.from_pretrained(
            None,
            config=_config(config),
            state_dict=dict(state),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # the report then names them, and they raise below
            attn_implementation="eager",
            **dtype_keyword(dtype),
        )
    model, report = loaded
    check_load_report(report)
    return cast("OpenAIGPTLMHeadModel", model.eval())


def load(folder: Path) -> OpenAIGPTLMHeadModel:
    """Return the model that the library itself reads from a folder, in evaluation mode.

    Raises:
        LoadReportError: Keys missing, unexpected or of another shape.
    """
    with quiet():
        loaded: Any = OpenAIGPTLMHeadModel.from_pretrained(
            folder,
            output_loading_info=True,
            local_files_only=True,
            attn_implementation="eager",
            **dtype_keyword(torch.float32),
        )
    model, report = loaded
    check_load_report(report)
    return cast("OpenAIGPTLMHeadModel", model.eval())


def check_load_report(report: Mapping[str, Any]) -> None:
    """Require an empty loading report.

    Raises:
        LoadReportError: It is not empty; every key is named.
    """
    problems = {kind: sorted(map(str, keys)) for kind, keys in report.items() if keys}
    if problems:
        message = f"Hugging Face's loader did not place every tensor: {problems}"
        raise LoadReportError(message)


def logits(
    model: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
    *,
    positions: Tensor | None = None,
    attention_mask: Tensor | None = None,
    tap: TapFunction | None = None,
) -> Tensor:
    """Return the logits `[batch time vocab]` of a model in evaluation mode.

    Token ids are `[batch time]`, positions `[batch time]` or `[1 time]`. The mask `[batch time]` is
    bool, False at padding. `tap` may replace each tensor; see `forward_with_taps`.
    """
    arguments = {"position_ids": positions, "attention_mask": attention_mask}
    given = {name: value for name, value in arguments.items() if value is not None}
    check_keywords(model.forward, {"input_ids", *given})
    with forward_with_taps(model, tap) if tap else contextlib.nullcontext():
        return cast("Tensor", model(input_ids=token_ids, **given).logits)


def check_keywords(function: Callable[..., object], names: set[str]) -> None:
    """Require that `function` names each argument; `**kwargs` does not count.

    Raises:
        ValueError: An argument that the function would ignore.
    """
    unknown = sorted(names - set(inspect.signature(function).parameters))
    if unknown:
        message = f"this version of transformers has no argument {unknown}, and would ignore it"
        raise ValueError(message)


def loss(logits: Tensor, token_ids: Tensor) -> Tensor:
    """Return PyTorch's cross-entropy of each next token, `[batch time-1]`, in the logits' dtype.

    `labels=` is not used: it computes in float32 even for a float64 model. The rows are flattened:
    CUDA has no deterministic kernel for losses that keep their axes.
    """
    targets = nn.functional.pad(token_ids[:, 1:].long(), (0, 1), value=_IGNORED).flatten()
    losses = nn.functional.cross_entropy(
        logits.flatten(0, 1), targets, reduction="none", ignore_index=_IGNORED
    )
    return losses.view(token_ids.shape)[:, :-1]


_IGNORED = -100


@contextlib.contextmanager
def forward_with_taps(model: OpenAIGPTLMHeadModel, tap: TapFunction) -> Iterator[None]:
    """Call `tap` with every tap of a forward pass, and continue with the tensor it returns.

    Modules are hooked. Taps without a module are reached from outside: query, key and value are
    the arguments of `_attn`; scores and weights are the input and output of its softmax.
    The activation is one object shared by all blocks, so the GELU is taken at the input of
    `mlp.c_proj`.
    """
    with contextlib.ExitStack() as stack:
        transformer = model.transformer
        _after(stack, transformer.tokens_embed, "embeddings.tokens", tap)
        _after(stack, transformer.positions_embed, "embeddings.positions", tap)
        _after(stack, transformer.drop, "embeddings", tap)
        for index, block in enumerate(transformer.h):
            _tap_block(stack, f"h.{index}", block, tap)
        _after(stack, model.lm_head, "logits", tap)
        yield


def _tap_block(stack: contextlib.ExitStack, name: str, block: nn.Module, tap: TapFunction) -> None:
    backend, mlp = cast("Any", block.attn), cast("Any", block.mlp)
    stack.enter_context(_tapped_attention(backend, f"{name}.attn", tap))
    _before(stack, backend.c_proj, f"{name}.attn.context", tap)
    _after(stack, backend.c_proj, f"{name}.attn", tap)
    _before(stack, cast("nn.Module", block.ln_1), f"{name}.ln_1.input", tap)
    _after(stack, cast("nn.Module", block.ln_1), f"{name}.ln_1", tap)
    _after(stack, mlp.c_fc, f"{name}.mlp.c_fc", tap)
    _before(stack, mlp.c_proj, f"{name}.mlp.gelu", tap)
    _after(stack, mlp.c_proj, f"{name}.mlp", tap)
    _before(stack, cast("nn.Module", block.ln_2), f"{name}.ln_2.input", tap)
    _after(stack, cast("nn.Module", block.ln_2), f"{name}.ln_2", tap)


def _after(stack: contextlib.ExitStack, module: nn.Module, name: str, tap: TapFunction) -> None:
    """Tap the module's output."""
    handle = module.register_forward_hook(lambda _module, _inputs, output: tap(name, output))
    stack.callback(handle.remove)


def _before(stack: contextlib.ExitStack, module: nn.Module, name: str, tap: TapFunction) -> None:
    """Tap the module's only input."""
    handle = module.register_forward_pre_hook(lambda _module, inputs: (tap(name, inputs[0]),))
    stack.callback(handle.remove)


@contextlib.contextmanager
def _tapped_attention(backend: Any, name: str, tap: TapFunction) -> Iterator[None]:
    """Wrap one layer's `_attn`, which takes `key` as `[batch head width time]`."""
    original = backend._attn

    def tapped(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> Any:
        query = tap(f"{name}.query", query)
        key = tap(f"{name}.key", key.transpose(-2, -1)).transpose(-2, -1)
        value = tap(f"{name}.value", value)
        with _TappedSoftmax(name, tap):
            return original(query, key, value, *rest, **named)

    backend._attn = tapped
    try:
        yield
    finally:
        del backend._attn  # the class's own method is found again


class _TappedSoftmax(TorchFunctionMode):
    """Taps the input and output of the one softmax in a layer's attention.

    The scores that go in are masked already. A replacement changes the visible entries only, so
    that the model's own mask stays in force.
    """

    def __init__(self, name: str, tap: TapFunction) -> None:
        super().__init__()
        self._name = name
        self._tap = tap

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call `func`; tap it if it is the softmax."""
        if func is not nn.functional.softmax:
            return func(*args, **(kwargs or {}))
        masked, *rest = args
        scores = self._tap(f"{self._name}.scores", masked)
        if scores is not masked:
            scores = torch.where(masked > _MASKED, scores, masked)
        return self._tap(f"{self._name}.weights", func(scores, *rest, **(kwargs or {})))


_MASKED = -9e3
"""Hugging Face writes -1e4 at hidden keys; real scores this low are reported as a leak."""


def _config(fields: Mapping[str, Any]) -> OpenAIGPTConfig:
    unknown = sorted(set(fields) - set(OpenAIGPTConfig().to_dict()) - {"model_type"})
    if unknown:
        message = f"OpenAIGPTConfig has no fields {unknown} and would ignore them"
        raise ValueError(message)
    return OpenAIGPTConfig(**{k: v for k, v in fields.items() if k != "model_type"})


KeepMasks = Callable[[str, Tensor, float], Tensor]
"""Called with (place, input, probability); returns which elements are kept."""

_PLACES = {"attn_dropout": "attn.weights", "resid_dropout": "attn", "dropout": "mlp"}
"""Tap that a block's dropout is applied to, by the module's name."""


@contextlib.contextmanager
def supply_dropout_masks(model: OpenAIGPTLMHeadModel, keeps: KeepMasks) -> Iterator[None]:
    """Let every dropout of a model in training mode keep the elements that `keeps` returns.

    Kept elements are scaled up. Places are named as taps are: `embeddings`, `h.3.attn.weights`,
    `h.3.attn`, `h.3.mlp`.

    Raises:
        ValueError: This version has a dropout at a place that is not listed here.
    """
    modules = {name: m for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    placed = {_place(name): module for name, module in modules.items()}
    try:
        for place, module in placed.items():
            module.forward = partial(_dropped, place, module, keeps)  # type: ignore[method-assign]
        yield
    finally:
        for module in modules.values():
            vars(module).pop("forward", None)  # the class's own method is found again


def _dropped(place: str, module: nn.Dropout, keeps: KeepMasks, x: Tensor) -> Tensor:
    """Return the module's output for given kept elements."""
    if not module.training or module.p == 0.0:
        return x
    return x * (keeps(place, x, module.p).to(x.dtype) / (1.0 - module.p))


def _place(name: str) -> str:
    """Return the place of a dropout module: `transformer.h.3.mlp.dropout` is at `h.3.mlp`."""
    if name == "transformer.drop":
        return "embeddings"
    _, *block, _, last = name.split(".")
    if last not in _PLACES:
        message = f"this version of transformers has an unknown dropout at {name}"
        raise ValueError(message)
    return ".".join([*block, _PLACES[last]])
