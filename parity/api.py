"""What Python callers use beside the checks: models, names of weights and ids in, a report out.

The functions of the checks themselves take what the command line has prepared.
"""

import dataclasses
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
from parity.checks.layerwise import layerwise
from parity.checks.tokens.check import tokens as tokens_check
from parity.checks.tokens.runners import CandidateTokenizer, choose_vocabulary
from parity.checks.training.check import training
from parity.checks.training.runners import batches
from parity.core.candidates import build_candidate
from parity.core.inputs import Inputs, from_rows, seeded
from parity.core.results import Report
from parity.core.runners import build_huggingface
from parity.errors import InputRejectedError, UsageError, mapped_errors
from parity.options import MOST, GenerationOptions
from parity.session import report_identity
from scratch_gpt.model import GPT
from scratch_gpt.options import Pretokenizer
from scratch_gpt.tokenizer.tokenizer import Tokenizer

Model = nn.Module | Callable[..., object] | str | os.PathLike[str]
"""A model with its weights; or a class, a function or `FILE.py` that makes one."""

CHECKS = ("layerwise", "gradients", "training", "generation", "weights")

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
    new_tokens: int = 32,
    seed: int = 0,
    dtype: str = "float32",
) -> Report:
    """Compare generation with a cache with generation without one.

    Args:
        candidate: Our model, on the CPU.
        reference: Hugging Face's model with the same weights.
        prompts: Ids `[1 time]` each; 8 of different lengths are drawn where None.
        new_tokens: Tokens to generate for each, at least 2.
        seed: Of everything that is drawn.
        dtype: The dtype whose rounding is checked; `float64` for none.

    Raises:
        UsageError: Prompts and new tokens do not fit the model.
    """
    asked = generation_inputs(
        GenerationOptions(max_new_tokens=new_tokens, seed=seed),
        vocab_size=candidate.config.vocab_size,
        longest=candidate.config.n_positions,
    )
    if prompts is not None:
        asked = dataclasses.replace(asked, prompts=prompts)
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


def run_check(
    model: Model,
    reference: nn.Module | str | None,
    ids: Tensor | Sequence[Sequence[int]] | None,
    settings: Mapping[str, Any],
) -> Report:
    """Return the report of a check; the arguments are those of `parity.assert_parity`.

    Raises:
        ParityError: The check cannot start.
    """
    check, dtype, taps = settings["check"], settings["dtype"], settings["taps"]
    _require(check in CHECKS, f"there is no check {check!r}", "check", f"use {', '.join(CHECKS)}")
    candidate, theirs, identity = _sides(model, reference, settings["weights"], settings["mapping"])
    vocab_size, longest = _sizes(theirs)
    given = _inputs(ids, vocab_size, longest, settings)
    token_ids, mask = given.token_ids, given.attention_mask
    if not isinstance(theirs, OpenAIGPTLMHeadModel):
        _require(
            (check, dtype, taps, mask) == ("layerwise", "float32", "*", None),
            "with another reference than GPT-1's there is only layerwise, in float64, of all taps",
            f"the reference is {type(theirs).__name__}",
            "leave out check, dtype and taps, and give rows of one length",
        )
        return compare(candidate, theirs, token_ids, call=settings["call"], identity=identity)
    if check == "weights":
        return weights(candidate, theirs)
    if check == "generation":
        fix = "give a scratch_gpt.GPT"
        if not isinstance(candidate, GPT):
            raise UsageError("only our own model generates here", where="the model", fix=fix)
        prompts = None if ids is None else [row[None] for row in token_ids]
        return generation(candidate, theirs, prompts, seed=settings["seed"], dtype=dtype)
    options = {"dtype": dtype, "select": taps, "identity": identity}
    if check == "training":
        _require(ids is None, "the ids of every step are drawn", "ids", "give seq_len and seed")
        batch, time = token_ids.shape
        steps = batches(
            steps=_STEPS,
            parts=_PARTS,
            batch=batch,
            time=time,
            vocab_size=vocab_size,
            seed=settings["seed"],
        )
        return training(candidate, theirs, steps, parts=_PARTS, **options)
    run = layerwise if check == "layerwise" else gradients
    return run(candidate, theirs, token_ids, attention_mask=mask, call=settings["call"], **options)


def _require(condition: bool, what: str, where: str, fix: str) -> None:  # noqa: FBT001
    if not condition:
        raise UsageError(what, where=where, fix=fix)


def _sides(
    model: Model, reference: nn.Module | str | None, name: str | None, mapping: str | None
) -> tuple[nn.Module, nn.Module, dict[str, Any]]:
    """Return the candidate, its reference with the same weights, and both for the report.

    `name` is that of weights, which both sides get.
    """
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    _require(
        isinstance(model, str) or callable(model),
        f"a model is expected, not {type(model).__name__}",
        "the first argument",
        "give a torch module, a class, a function or FILE.py",
    )
    _require(
        reference is None or name is None,
        "the weights are given twice",
        f"weights={name!r} with a reference",
        "give one: the reference has its weights",
    )
    if isinstance(reference, nn.Module):
        _require(
            isinstance(model, nn.Module),
            "a model that is only made here cannot have the weights of a reference",
            "the first argument with a reference",
            "give a model with the same weights, or the name of weights instead of the reference",
        )
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
            time=min(settings["seq_len"], longest),
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
