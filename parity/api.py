"""What Python callers use beside the checks: models, names of weights and ids in, a report out.

The functions of the checks themselves take what the command line has prepared.
"""

import contextlib
import dataclasses
import difflib
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import Side
from parity.checkpoints.weights import Checkpoint, Weights, gather
from parity.checks import weights as weights_check
from parity.checks.compare import compare
from parity.checks.generation.check import generation as generation_check
from parity.checks.generation.check import generation_inputs
from parity.checks.gradients.check import gradients
from parity.checks.invariants.check import invariants as check_invariants
from parity.checks.invariants.subject import Sizes
from parity.checks.layerwise import layerwise
from parity.checks.tokens.check import tokens as tokens_check
from parity.checks.tokens.runners import CandidateTokenizer, choose_vocabulary
from parity.checks.training.check import training
from parity.checks.training.runners import batches
from parity.core.candidates import build_candidate, shows_taps
from parity.core.inputs import Inputs, from_rows, seeded
from parity.core.results import Report
from parity.core.runners import build_huggingface
from parity.core.tolerances import precision_of
from parity.errors import InputRejectedError, UsageError, mapped_errors
from parity.options import (
    INVARIANTS_SEQ_LEN,
    MOST,
    BatchOptions,
    GenerationOptions,
    file_digest,
    with_digests,
)
from parity.session import report_identity
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import quote
from scratch_gpt.model import GPT
from scratch_gpt.options import Pretokenizer, limits
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Model = nn.Module | Callable[..., object] | str | os.PathLike[str]
"""A model with its weights; or a class, a function or `FILE.py` that makes one."""

_DRAWN = ("seq_len", "batch_size", "seed")
_MADE = ("weights", "mapping")
TAKES = {
    "layerwise": ("ids", *_DRAWN, "dtype", "taps", "call", *_MADE),
    "gradients": ("ids", *_DRAWN, "dtype", "taps", "call", *_MADE),
    "training": (*_DRAWN, "dtype", "taps", *_MADE),
    "generation": ("ids", "seed", "dtype", *_MADE),
    "weights": _MADE,
}
"""The settings that have an effect on each check of `assert_parity`."""

_OF_ANOTHER = ("ids", *_DRAWN, "call")
"""The same with another reference than GPT-1's."""

_STEPS, _PARTS = 3, 2
"""Steps and micro-batches of a check of training."""


def weights(candidate: nn.Module, reference: OpenAIGPTLMHeadModel) -> Report:
    """Compare a model's tensors with those of Hugging Face's model, name by name and bit for bit.

    The candidate has the names of `scratch_gpt.GPT`; what it lacks or has more is a difference.
    """
    source = _weights_of(reference)
    identity = report_identity(source.identity, source.config)
    return weights_check.weights(source, candidate, reference, identity)  # type: ignore[arg-type]


def generation(  # noqa: PLR0913 - all but two have defaults
    candidate: GPT,
    reference: OpenAIGPTLMHeadModel,
    prompts: Sequence[Tensor] | None = None,
    *,
    new_tokens: int | None = None,
    seed: int = 0,
    dtype: str = "float32",
) -> Report:
    """Compare generation with a cache with generation without one.

    Args:
        candidate: Our model, on the CPU.
        reference: Hugging Face's model with the same weights.
        prompts: Ids `[1 time]` each; 8 of different lengths are drawn where None.
        new_tokens: Tokens to generate for each, at least 2; by default 32, or fewer in a model with
            few positions.
        seed: Of everything that is drawn.
        dtype: The dtype whose rounding is checked; `float64` for none.

    Raises:
        UsageError: Prompts and new tokens do not fit the model.
    """
    asked = generation_inputs(
        GenerationOptions(max_new_tokens=new_tokens, seed=seed),
        vocab_size=candidate.config.vocab_size,
        longest=candidate.config.n_positions,
        prompts=prompts,
    )
    identity = report_identity({"source": "the model's own"}, candidate.config.to_huggingface())
    return generation_check(candidate, reference, asked, dtype=dtype, identity=identity)


def tokens(
    vocabulary: str | Path, texts: Sequence[str], *, pretokenizer: Pretokenizer = "huggingface"
) -> Report:
    """Compare the ids of both tokenizers for some texts.

    Args:
        vocabulary: Folder of a vocabulary.
        texts: The texts; without any the report is inconclusive.
        pretokenizer: How text is split into words.

    Raises:
        ParityError: There is no vocabulary in the folder.
    """
    with mapped_errors(), choose_vocabulary(Path(vocabulary), "", ()) as found:
        ours = Tokenizer.from_pretrained(found.folder, pretokenizer=pretokenizer)
        return tokens_check(
            CandidateTokenizer(ours),
            found.reference(ours),
            {"texts": list(texts)},
            identity=report_identity({}, {}) | found.identity(ours),
            inputs={"pretokenizer": pretokenizer},
        )


def invariants(  # noqa: PLR0913 - all but one have defaults
    model: Model,
    *,
    weights: str | None = None,
    seq_len: int | None = None,
    seed: int = 0,
    dtype: str = "float64",
    call: str | None = None,
) -> Report:
    """Check properties that hold for every right GPT-1, without a reference.

    Args:
        model: Any torch module; or a class, a function or `FILE.py`, which gets the weights.
        weights: For a model that is made here: their name, by default `tiny`.
        seq_len: Tokens of the longest text; by default 129, or as many as the model takes.
        seed: Of the ids.
        dtype: Of the calls. Those of other shapes are compared in float64 alone.
        call: How a model without taps is called, as `model(ids, targets=ids)`.

    Raises:
        ParityError: The model cannot be made or called, it takes no row so long, or its sizes are
            not known.
    """
    precision_of(dtype)
    candidate: nn.Module
    if isinstance(model, nn.Module) and isinstance(
        config := getattr(model, "config", None), GPTConfig
    ):
        candidate, sizes = model, Sizes.of(config)
        identity = report_identity({"source": "the model's own"}, config.to_huggingface())
    elif isinstance(model, nn.Module):
        tables = [one.num_embeddings for one in model.modules() if isinstance(one, nn.Embedding)]
        _require(
            len(tables) > 1,
            "the sizes of its vocabulary and of its longest row are not known",
            f"a model of {type(model).__name__} without two nn.Embedding",
            "give its class, or FILE.py, and it is built from weights",
        )
        vocab_size, longest = tables[:2]
        candidate, sizes = model, Sizes(vocab_size=vocab_size, n_positions=longest)
        identity = report_identity({"source": "the model's own"}, {})
    else:
        source = load_weights(weights or "tiny")
        sizes = Sizes.of(GPTConfig.from_huggingface(source.config))
        candidate = build_candidate(_as_text(model), source)
        identity = report_identity(source.identity, source.config)
    time = min(INVARIANTS_SEQ_LEN, sizes.n_positions) if seq_len is None else seq_len
    _require(
        type(time) is int and 1 <= time <= sizes.n_positions,
        "it is no number of tokens that the model takes",
        f"seq_len={quote(time)}",
        f"use 1 to {sizes.n_positions}",
    )
    return check_invariants(
        candidate,
        sizes,
        longest=time,
        seed=seed,
        dtype=getattr(torch, dtype),
        call=call,
        identity=identity,
    )


def run_check(
    model: Model,
    reference: nn.Module | str | os.PathLike[str] | None,
    ids: Tensor | Sequence[Sequence[int]] | None,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
) -> Report:
    """Return the report of a check; the arguments are those of `parity.assert_parity`.

    Raises:
        ParityError: The check cannot start.
    """
    first, second = _as_text(model), _as_text(reference)
    given = {name: _as_text(value) for name, value in given.items()}
    report = _checked(first, second, ids, given, {**defaults, **given})
    files = with_digests({"map": given["mapping"]}) if "mapping" in given else {}
    return dataclasses.replace(report, inputs={**report.inputs, **_candidate(first), **files})


def _candidate(model: Any) -> dict[str, object]:  # noqa: ANN401 - a Model
    """Return what a report records of a candidate: `FILE.py` or `MODULE:NAME`, and its file."""
    if isinstance(model, str):
        return with_digests({"candidate": model})
    kind = type(model) if isinstance(model, nn.Module) else model
    name = getattr(kind, "__qualname__", type(kind).__qualname__)
    found: dict[str, object] = {"candidate": f"{getattr(kind, '__module__', '')}:{name}"}
    with contextlib.suppress(TypeError, OSError):  # it may have no file, or be typed in
        file = inspect.getsourcefile(kind)
        if file is not None and os.path.exists(file):  # noqa: PTH110 - as open() would find it
            found["candidate_file"] = f"{Path(file).name} {file_digest(file)}"
    return found


def _checked(
    first: Any,  # noqa: ANN401 - a Model
    second: Any,  # noqa: ANN401 - a Model
    ids: Tensor | Sequence[Sequence[int]] | None,
    given: Mapping[str, Any],
    settings: dict[str, Any],
) -> Report:
    check, dtype, taps, seed = (settings[name] for name in ("check", "dtype", "taps", "seed"))
    _require_sides(first, second, given)
    _require_settings(first, second, given, check, is_given=ids is not None)
    name, mapping = settings["weights"], settings["mapping"]
    candidate, theirs, identity = _sides(first, second, name, mapping)
    vocab_size, longest = _sizes(theirs)
    settings["seq_len"] = given.get("seq_len", min(settings["seq_len"], longest))
    shortest = 2 if check == "training" else 1
    _require(
        shortest <= settings["seq_len"] <= longest,
        f"{settings['seq_len']} tokens in a row",
        "seq_len",
        f"use {shortest} to {longest}: the model takes no more"
        + (", and one token predicts none" if check == "training" else ""),
    )
    drawn = _inputs(ids, vocab_size, longest, settings)
    token_ids, mask = drawn.token_ids, drawn.attention_mask
    if not isinstance(theirs, OpenAIGPTLMHeadModel):
        _require(
            mask is None,
            "with another reference than GPT-1's padding is not compared",
            "ids with rows of unequal lengths",
            "give rows of one length",
        )
        return compare(candidate, theirs, token_ids, call=settings["call"], identity=identity)
    if check == "weights":
        return weights(candidate, theirs)
    if check == "generation":
        fix = "give a scratch_gpt.GPT"
        if not isinstance(candidate, GPT):
            raise UsageError("only our own model generates here", where="the model", fix=fix)
        real = torch.ones_like(token_ids, dtype=torch.bool) if mask is None else mask
        rows = zip(token_ids, real, strict=True)
        prompts = None if ids is None else [row[keep][None] for row, keep in rows]
        return generation(candidate, theirs, prompts, seed=seed, dtype=dtype)
    options = {"dtype": dtype, "select": taps, "identity": identity}
    if check == "training":
        batch, time = token_ids.shape
        steps = batches(
            steps=_STEPS, parts=_PARTS, batch=batch, time=time, vocab_size=vocab_size, seed=seed
        )
        return training(candidate, theirs, steps, parts=_PARTS, **options)
    _require(
        settings["call"] is None or not shows_taps(candidate),
        "a model that takes a tap is called as model(ids, positions, mask, tap=tap)",
        f"call={quote(settings['call'])}",
        "leave it out",
    )
    run = layerwise if check == "layerwise" else gradients
    return run(candidate, theirs, token_ids, attention_mask=mask, call=settings["call"], **options)


def _as_text(value: Any) -> Any:  # noqa: ANN401 - any argument of a user
    """Return a path as text that is no name of the hub, and anything else as it is."""
    is_path = isinstance(value, os.PathLike) and isinstance(os.fspath(value), str)
    return os.path.join(os.curdir, value) if is_path else value  # noqa: PTH118 - Path drops "."


def _require_sides(model: object, reference: object, given: Mapping[str, Any]) -> None:
    """Require a model, and a reference or weights that fit it.

    Raises:
        UsageError: One is of another type, or they contradict each other.
    """
    _require(
        isinstance(model, str) or callable(model),
        f"a model is expected, not {type(model).__name__}",
        "the first argument",
        "give a torch module, a class, a function or FILE.py",
    )
    _require(
        reference is None or isinstance(reference, nn.Module) or _is_text(reference),
        f"a reference is expected, not {quote(reference)}",
        "the second argument",
        "give a torch module, or the name of weights, as openai-gpt",
    )
    _require(
        reference is None or "weights" not in given,
        "the weights are given twice",
        f"weights={quote(given.get('weights'))} with a reference",
        "give one: the reference has its weights",
    )
    _require(
        isinstance(model, nn.Module) or not isinstance(reference, nn.Module),
        "a model that is only made here cannot have the weights of a reference",
        "the first argument with a reference",
        "give a model with the same weights, or the name of weights instead of the reference",
    )


def _require_settings(
    model: object, reference: object, given: Mapping[str, Any], check: object, *, is_given: bool
) -> None:
    """Require settings of the right type and range, each with an effect on the check.

    A setting without an effect would pass for one that was checked.

    Raises:
        UsageError: One is another.
    """
    near = difflib.get_close_matches(str(check), TAKES, n=1)
    guess = f"did you mean {near[0]}? " if near else ""
    fix = f"{guess}use {', '.join(TAKES)}"
    _require(check in [*TAKES], f"there is no check {quote(check)}", "check", fix)
    is_another = not isinstance(reference, OpenAIGPTLMHeadModel | str | None)
    what = "with another reference than GPT-1's there is only layerwise, in float64, of all taps"
    where = f"the reference is {type(reference).__name__}"
    _require(check == "layerwise" or not is_another, what, where, "leave out check")
    takes = _OF_ANOTHER if is_another else TAKES[str(check)]
    for name in [*given, *(["ids"] if is_given else [])]:
        others = [one for one, its in TAKES.items() if name in its and not is_another]
        _require(
            name in ("check", *takes),
            what if is_another else f"the check {check} does not use {name}",
            f"{name} with " + (where if is_another else f"check={check!r}"),
            "leave it out" + (f", or use check={' or '.join(others)}" if others else ""),
        )
    for name, value in given.items():
        where = f"{name}={quote(value)}"
        if name in _DRAWN:
            low, high = limits(BatchOptions, name)
            is_right = type(value) is int and low <= value <= high
            _require(is_right, "it is no number for this", where, f"use {low} to {high}, an int")
        elif name != "dtype":
            _require(_is_text(value), "it is no text, or empty", where, "give a text, or no value")
    precision_of(given.get("dtype", "float64"))
    of_ids = _DRAWN[:2] if check == "generation" else _DRAWN  # its seed draws logits too
    unused = [name for name in of_ids if name in given and is_given]
    _require(not unused, "no ids are drawn", f"{', '.join(unused)} with ids", "give one of the two")
    holds = isinstance(model, nn.Module) and "weights" not in given
    _require(
        "mapping" not in given or not holds,
        "the model holds its weights already, so nothing is mapped",
        f"mapping={quote(given.get('mapping'))}",
        "leave it out, or name the weights to copy into the model: weights='tiny'",
    )
    is_made = not isinstance(model, nn.Module) and "weights" in given
    _require(
        check != "weights" or reference is not None or is_made,
        "the model's weights would be compared with themselves",
        "check='weights' without a reference",
        "give a reference with the right weights, or their name, as openai-gpt",
    )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _require(condition: bool, what: str, where: str, fix: str) -> None:  # noqa: FBT001
    if not condition:
        raise UsageError(what, where=where, fix=fix)


def _sides(
    model: Any,  # noqa: ANN401 - a Model
    reference: nn.Module | str | None,
    name: str | None,
    mapping: str | None,
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Return the candidate, its reference with the same weights, and both for the report.

    `name` is that of weights, which both sides get.
    """
    if isinstance(reference, nn.Module):
        fields = getattr(getattr(reference, "config", None), "to_dict", dict[str, Any])()
        identity = report_identity({"source": "the reference's own"}, fields)
        return cast("nn.Module", model), reference, identity
    if isinstance(model, nn.Module) and name is None:
        source = _weights_of(model) if reference is None else load_weights(reference)
        candidate: nn.Module = model
    else:
        source = load_weights(name or reference or "tiny")
        candidate = build_candidate(model, source, mapping)
    theirs = build_huggingface(source)
    device = next((one.device for one in candidate.parameters()), torch.device("cpu"))
    nn.Module.to(theirs, device)
    return candidate, theirs, report_identity(source.identity, source.config)


def _weights_of(model: nn.Module) -> Weights:
    """Return the weights of a model with the names of our GPT-1 or of Hugging Face's.

    Raises:
        UsageError: It has other names, or no config.
    """
    config = getattr(model, "config", None)
    ways = [getattr(config, name, None) for name in ("to_huggingface", "to_dict")]
    fields: dict[str, Any] = next((way() for way in ways if callable(way)), {})
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    source = f"the weights of {type(model).__name__}"
    try:
        return gather(Checkpoint(state=state, side=Side.HUGGINGFACE, fields=fields, source=source))
    except InputRejectedError as error:
        raise UsageError(
            f"its weights cannot be given to a reference: {error.what}",
            where=f"a model of {type(model).__name__} without a reference",
            fix="give a reference with the same weights, or the model's class, or weights='tiny'",
        ) from error


def _sizes(reference: nn.Module) -> tuple[int, int]:
    """Return the sizes of a reference's vocabulary and of its longest row, if it has a limit."""
    config: Any = getattr(reference, "config", None)
    config = getattr(config, "get_text_config", lambda: config)()
    tables = [one.num_embeddings for one in reference.modules() if isinstance(one, nn.Embedding)]
    vocab_size = getattr(config, "vocab_size", None) or next(iter(tables), 1)
    return int(vocab_size), int(getattr(config, "max_position_embeddings", None) or MOST)


def _inputs(
    ids: Tensor | Sequence[Sequence[int]] | None,
    vocab_size: int,
    longest: int,
    settings: Mapping[str, Any],
) -> Inputs:
    """Return the given ids, or drawn ones.

    Raises:
        UsageError: They are no ids `[batch time]` of the reference.
    """
    if ids is None:
        return seeded(
            batch=settings["batch_size"],
            time=settings["seq_len"],
            vocab_size=vocab_size,
            seed=settings["seed"],
        )
    fix = f"give whole numbers [batch time] from 0 to {vocab_size - 1}, at most {longest} in a row"
    try:
        found = Inputs(token_ids=ids) if isinstance(ids, Tensor) else from_rows(ids)
    except (TypeError, ValueError, RuntimeError) as error:
        raise UsageError(f"they are no rows of ids: {error}", where="ids", fix=fix) from error
    given = found.token_ids
    is_whole = given.dtype in (torch.int64, torch.int32)
    if not is_whole or given.ndim != 2 or not given.numel():  # noqa: PLR2004 - batch and time
        what = f"they are {given.dtype} of shape {list(given.shape)}"
        raise UsageError(what, where="ids", fix=fix)
    low, high, time = int(given.min()), int(given.max()), given.shape[1]
    if low < 0 or high >= vocab_size or time > longest:
        what = f"they are from {low} to {high}, {time} in a row"
        raise UsageError(what, where="ids", fix=fix)
    return dataclasses.replace(found, token_ids=given.long())
