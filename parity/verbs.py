"""What each verb of the command line does: from options to a report."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from parity import devices, faults, inputs, paths
from parity.candidates import build_candidate
from parity.checks import doctor as doctor_check
from parity.checks import golden as golden_check
from parity.checks import weights as weights_check
from parity.checks.gradients import gradients as gradients_check
from parity.checks.layerwise import layerwise as layerwise_check
from parity.chosen_options import chosen_options
from parity.drift.run import run as drift
from parity.errors import UsageError
from parity.generation.run import run as generation
from parity.gradients import faults as backward_faults
from parity.inputs import Inputs
from parity.models import build_huggingface, build_ours
from parity.results import Report
from parity.shell import Options, identity
from parity.sources.names import load_weights
from parity.tokens.run import run as tokens
from parity.training.run import run as training
from parity.weights import Weights
from reference import published
from scratch_gpt.command.progress import Progress


def _load(options: Options, progress: Progress) -> Weights:
    progress("weights", 0, 1)
    return load_weights(
        options.weights, lambda done, total: progress(f"weights {done}/{total}", done, total)
    )


def _inputs(options: Options, weights: Weights) -> Inputs:
    """Return the ids that the options ask for, within what the model takes."""
    vocab_size, longest = weights.config["vocab_size"], weights.config["n_positions"]
    if options.token_ids is None:
        chosen = inputs.seeded(
            batch=options.batch,
            time=min(options.time, longest) if options.time == _DEFAULT_TIME else options.time,
            vocab_size=vocab_size,
            seed=options.seed,
        )
    else:
        chosen = inputs.parse(options.token_ids)
    time, largest = chosen.token_ids.shape[1], int(chosen.token_ids.max())
    if time > longest:
        raise UsageError(
            f"{time} tokens in a row, the model takes {longest}",
            where="--time or --token-ids",
            fix=f"use at most {longest}",
        )
    if not 0 <= int(chosen.token_ids.min()) <= largest < vocab_size:
        raise UsageError(
            f"an id is outside the vocabulary of {vocab_size}",
            where="--token-ids",
            fix=f"use ids from 0 to {vocab_size - 1}",
        )
    return chosen


_DEFAULT_TIME = 512
"""A length that was not asked for gives way to a smaller model."""


def _candidates(options: Options, weights: Weights, wanted: Sequence[str]) -> dict[str, nn.Module]:
    """Return the models to judge, under the names of their attention paths."""
    if options.candidate is not None:
        if options.plant is not None:
            raise UsageError(
                "a fault is planted into our model, not into a candidate",
                where="--plant with --candidate",
                fix="give one of the two",
            )
        return {"plain": build_candidate(options.candidate, weights)}
    right = build_ours(weights)
    if options.plant is None:
        return {path: right.with_attention(path) for path in wanted}
    name, block = _fault(options, weights.config["n_layer"])
    if "compiled" in wanted:
        raise UsageError(
            "no fault can be planted into a compiled block",
            where="--plant with --attention compiled",
            fix="use another path",
        )
    table = faults if name in faults.FAULTS else backward_faults
    try:
        return {path: table.planted(right.with_attention(path), name, block) for path in wanted}
    except ValueError as error:
        raise UsageError(
            str(error), where="--plant with --attention", fix="use --attention plain"
        ) from error


def _fault(options: Options, n_layer: int) -> tuple[str, int]:
    """Return name and block of `NAME` or `NAME@BLOCK`; the block in the middle by default."""
    name, _, block = str(options.plant).partition("@")
    plantable = {key: fault.what for key, fault in faults.FAULTS.items()}
    if options.verb == "gradients":
        plantable |= {key: fault.what for key, fault in backward_faults.BACKWARD_FAULTS.items()}
    if name not in plantable:
        known = "; ".join(f"{key} ({what})" for key, what in plantable.items())
        raise UsageError(f"no fault is called {name!r}", where="--plant", fix=f"use {known}")
    chosen = int(block) if block.isdecimal() else n_layer // 2
    if (block and not block.isdecimal()) or chosen >= n_layer:
        raise UsageError(
            f"there is no block {block!r}",
            where="--plant",
            fix=f"use a block from 0 to {n_layer - 1}",
        )
    return name, chosen


def layerwise(options: Options, progress: Progress) -> Report:
    """Compare every tap."""
    return _judged(partial(layerwise_check, explain=options.explain), options, progress)


def gradients(options: Options, progress: Progress) -> Report:
    """Compare every gradient."""
    return _judged(gradients_check, options, progress)


def _judged(check: Callable[..., Report], options: Options, progress: Progress) -> Report:
    """Load what the options name, put it where it is to run, and compare it with the reference."""
    device = devices.resolve(options.device)
    wanted, left_out = paths.chosen(options.attention, device)
    weights = _load(options, progress)
    chosen = _inputs(options, weights)
    candidates = {path: m.to(device) for path, m in _candidates(options, weights, wanted).items()}
    said = chosen_options(options, _SAID) | ({"not_run": dict(left_out)} if left_out else {})
    reference = build_huggingface(weights)
    nn.Module.to(reference, device)
    stated = identity(weights.identity, weights.config)
    del weights  # both sides have copies; the source's half gigabyte is not needed any more
    mask = chosen.attention_mask
    report = check(
        candidates,
        reference,
        chosen.token_ids.to(device),
        attention_mask=None if mask is None else mask.to(device),
        dtype=options.dtype,
        select=options.taps,
        fingerprints=options.fingerprints,
        identity=stated,
        progress=progress,
    )
    return dataclasses.replace(report, inputs={**report.inputs, **said})


_SAID = ("candidate", "plant", "attention", "dtype", "seed", "token_ids", "taps")
"""Options that decide what a verdict is about."""


def weights(options: Options, progress: Progress) -> Report:
    """Compare every tensor."""
    source = _load(options, progress)
    progress("building both models", 0, 1)
    stated = identity(source.identity, source.config)
    return weights_check.weights(source, build_ours(source), build_huggingface(source), stated)


def doctor(options: Options, progress: Progress) -> Report:
    """Look at the machine, the libraries and the weights."""
    source = _load(options, progress)
    chosen = _inputs(options, source)
    progress("running the oracle", 0, 1)
    stated = identity(source.identity, source.config)
    return doctor_check.doctor(build_huggingface(source), chosen, stated)


def golden(options: Options, progress: Progress) -> Report:
    """Compute the numbers that others published of the released weights."""
    # The surrogate has no published numbers: here `auto` must not fall back to it.
    name = published.REPOSITORIES[0] if options.weights == "auto" else options.weights
    source = _load(dataclasses.replace(options, weights=name), progress)
    golden_check.require_read(source.provenance)
    stated = identity(source.identity, source.config)
    return golden_check.golden(
        build_ours(source), source.provenance, identity=stated, progress=progress
    )


VERBS: dict[str, Callable[[Options, Progress], Report]] = {
    "layerwise": layerwise,
    "gradients": gradients,
    "weights": weights,
    "tokens": tokens,
    "doctor": doctor,
    "training": training,
    "generation": generation,
    "golden": golden,
    "drift": drift,
}
"""Every verb that this version has."""
