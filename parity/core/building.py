"""The arguments of a stranger's function or class: a config, the weights and sizes, by their names.

GPT implementations use many names for the same sizes. The tables here map the names of arguments,
dataclass fields and config attributes to ours.
"""

import ast
import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from parity.errors import UsageError
from scratch_gpt.config import GPTConfig

_SPELLINGS: dict[str, str] = {
    "vocab_size": "vocab_size n_vocab vocab num_tokens n_tokens num_embeddings d_vocab "
    "vocabulary_size src_vocab_size vocab_len",
    "n_positions": "n_positions block_size n_ctx context_length context_size context_len ctx_len "
    "max_seq_len max_seq_length max_sequence_length seq_len seq_length sequence_length max_len "
    "max_length max_position_embeddings max_positions num_positions context context_window",
    "n_embd": "n_embd d_model dim hidden_size embed_dim emb_dim embedding_dim n_embed d_embed "
    "model_dim width emb_size embed_size embedding_size dim_model n_state",
    "n_layer": "n_layer n_layers num_layers depth num_hidden_layers n_blocks num_blocks layers "
    "n_transformer_layers num_transformer_layers",
    "n_head": "n_head n_heads num_heads heads num_attention_heads nhead n_attn_heads",
    "n_inner": "n_inner d_ff d_inner d_mlp ff_dim ffn_dim mlp_dim dim_feedforward hidden_dim "
    "intermediate_size d_hid dim_ff d_ffn ffn_hidden",
    "head_width": "head_width head_dim d_head dim_head head_size d_k d_v d_kv",
    "layer_norm_epsilon": "layer_norm_epsilon layer_norm_eps norm_eps ln_eps eps epsilon",
}
_CONSTANTS: dict[object, str] = {
    0.0: "dropout drop dropout_rate dropout_p dropout_prob p_drop p_dropout drop_rate drop_prob "
    "attn_dropout attention_dropout resid_dropout residual_dropout embd_dropout emb_dropout "
    "embed_dropout embedding_dropout ff_dropout ffn_dropout mlp_dropout attn_drop resid_drop "
    "hidden_dropout hidden_dropout_prob attention_probs_dropout_prob",
    True: "bias qkv_bias attn_bias use_bias linear_bias tie_weights tie_word_embeddings "
    "weight_tying tied",
    None: "model_type",  # minGPT takes one, or sizes
    4: "mlp_ratio ff_mult mlp_mult expansion expansion_factor ffn_mult mlp_expansion",
}
_KNOWN: dict[str, str] = {
    spelling: field for field, text in _SPELLINGS.items() for spelling in text.split()
}
_FIXED: dict[str, object] = {
    spelling: value for value, text in _CONSTANTS.items() for spelling in text.split()
}
_FIELDS = (*(f.name for f in dataclasses.fields(GPTConfig)), "head_width", "n_inner")
_CONTRACT = ("config", "weights")
_CONFIG = ("config", "cfg", "conf", "configuration", "args", "hparams", "hps", "params", "options")
_WEIGHTS = ("weights", "state_dict", "state", "weight_dict", "checkpoint", "tensors")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(GPTConfig):
    """A `GPTConfig` that answers to other names too: `block_size`, `d_model`, `dropout`, ...

    Raises:
        AttributeError: None of them is the name.
    """

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - a number, or a bool
        """Return a size or a constant by another name."""
        if name in _FIXED:
            return _FIXED[name]
        if _KNOWN.get(name, name) != name:
            return getattr(self, _KNOWN[name])
        raise AttributeError(f"the config has no {name}")

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - as above
        """Return the same, for a config that is used as a dictionary."""
        return getattr(self, name)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Maker:
    """What makes a model.

    Attributes:
        text: How it is called, in words of Python.
        call: Takes the config's fields in Hugging Face's names, and the weights.
        takes_weights: Whether it does, so that the model is its answer to them.
    """

    text: str
    call: Callable[[Mapping[str, Any], Mapping[str, Tensor]], object]
    takes_weights: bool


def maker_of(found: Callable[..., object], name: str) -> Maker:
    """Return how a function or class is called.

    A function's arguments of unknown names are the config and the weights, a class's is the config.

    Raises:
        UsageError: An argument is required, and its name is not known.
    """
    parameters = _parameters(found)
    named = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    takes_any = any(parameter.kind == parameter.VAR_POSITIONAL for parameter in parameters)
    if takes_any and not named and not inspect.isclass(found):
        named = [inspect.Parameter(n, inspect.Parameter.POSITIONAL_ONLY) for n in _CONTRACT]
    parameters = named
    kinds = _dataclasses_of(found, parameters)
    places = {p.name: _what(p.name, kinds) for p in parameters}
    unknown = ["config"] if inspect.isclass(found) else list(_CONTRACT)
    unknown = [what for what in unknown if what not in places.values()]
    if not {*places.values()} <= {"", *_CONTRACT}:
        unknown = []
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    for parameter in (p for p in required if not places[p.name]):
        if not unknown:
            _refuse(name, parameter.name, "an argument")
        places[parameter.name] = unknown.pop(0)
    takes_weights = "weights" in places.values()

    def call(fields: Mapping[str, Any], state: Mapping[str, Tensor]) -> object:
        config = Config(**dataclasses.asdict(GPTConfig.from_huggingface(fields)))
        if not takes_weights:
            config = dataclasses.replace(config, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0)
        given: dict[str, object] = {"config": config, "weights": state}
        given |= {argument: _filled(kind, config, name) for argument, kind in kinds.items()}
        positional, by_name = [], {}
        for parameter in (p for p in parameters if places[p.name]):
            what = places[parameter.name]
            value = given[what] if what in given else getattr(config, what)
            if parameter in required and parameter.kind != parameter.KEYWORD_ONLY:
                positional.append(value)
            else:
                by_name[parameter.name] = value
        return found(*positional, **by_name)

    text = ", ".join(argument for argument, what in places.items() if what)
    called = getattr(found, "__name__", "build")
    return Maker(text=f"{called}({text})", call=call, takes_weights=takes_weights)


def _what(name: str, kinds: Mapping[str, object]) -> str:
    """Return what an argument is given: `config`, `weights`, its own dataclass or a size; or ""."""
    for what, names in (("config", _CONFIG), ("weights", _WEIGHTS)):
        if name in names and name not in kinds:
            return what
    return name if name in kinds or _is_known(name) else ""


def _is_known(name: str) -> bool:
    return name in _KNOWN or name in _FIXED or name in _FIELDS


def _parameters(found: Callable[..., object]) -> Sequence[inspect.Parameter]:
    if inspect.isclass(found) and found.__init__ is nn.Module.__init__:
        return ()
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):  # something built in
        return [inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL)]


def _dataclasses_of(
    found: Callable[..., object], parameters: Sequence[inspect.Parameter]
) -> dict[str, Any]:
    """Return the user's dataclass of each argument that is one.

    It is the annotation, or the default, or for a class's config the only dataclass of its file.
    """
    made = found.__init__ if inspect.isclass(found) else found
    try:
        hints = typing.get_type_hints(made)
    except Exception:  # noqa: BLE001 - an annotation may be anything, and name what is not there
        hints = {}
    beside = getattr(made, "__globals__", {}).values() if inspect.isclass(found) else ()
    own = [
        kind
        for kind in beside
        if dataclasses.is_dataclass(kind) and getattr(kind, "__module__", "") == found.__module__
        if isinstance(kind, type)
    ]
    kinds: dict[str, Any] = {}
    for parameter in parameters:
        kind = hints.get(parameter.name)
        if dataclasses.is_dataclass(parameter.default):
            kind = type(parameter.default)
        if kind is None and parameter.name in _CONFIG and len(own) == 1:
            kind = own[0]
        if dataclasses.is_dataclass(kind) and kind not in (GPTConfig, Config):
            kinds[parameter.name] = kind
    return kinds


def _filled(kind: Any, config: Config, name: str) -> object:  # noqa: ANN401 - a dataclass
    """Return a dataclass with the fields that are known; the others keep their defaults."""
    hints = typing.get_type_hints(kind)
    values = {}
    for field in (field for field in dataclasses.fields(kind) if field.init):
        inner = hints.get(field.name)
        if dataclasses.is_dataclass(inner):
            values[field.name] = _filled(inner, config, name)
        elif _is_known(field.name):
            values[field.name] = getattr(config, field.name)
        elif field.default is field.default_factory is dataclasses.MISSING:
            _refuse(name, field.name, f"a field of {kind.__name__}")
    return kind(**values)


def _refuse(name: str, what: str, kind: str) -> NoReturn:
    raise UsageError(
        f"the candidate needs {what}, {kind} whose name is not known",
        where=f"--candidate {name}",
        fix="give it a default, or write a function build(config, weights) that returns the model",
    )


def model_classes(namespace: Mapping[str, object], path: str) -> list[str]:
    """Return the names of a file's classes of modules that no other class of it uses.

    What a function uses counts where a class uses the function.
    """
    body = ast.parse(Path(path).read_bytes()).body
    definitions = {n.name: n for n in body if isinstance(n, ast.ClassDef | ast.FunctionDef)}
    uses = {
        name: {inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name)} - {name}
        for name, node in definitions.items()
    }
    classes = [name for name, node in definitions.items() if isinstance(node, ast.ClassDef)]
    used: set[str] = set()
    for owner in classes:
        open_ = [*uses[owner]]
        seen: set[str] = set()
        while open_:
            name = open_.pop()
            if name not in seen and name not in classes:
                open_ += uses.get(name, ())
            seen.add(name)
        used |= seen - {owner}
    return [
        name
        for name in classes
        if name not in used and isinstance(kind := namespace.get(name), type)
        if issubclass(kind, nn.Module)
    ]
