"""What each verb of the command line does: from options to a report."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.checks import doctor as doctor_check
from parity.checks import weights as weights_check
from parity.checks.drift.check import drift
from parity.checks.drift.reading import gather_reports
from parity.checks.generation.check import run_generation as generation
from parity.checks.golden import check as golden_check
from parity.checks.gradients.check import gradients as gradients_check
from parity.checks.layerwise import layerwise as layerwise_check
from parity.checks.tokens.check import run_tokens as tokens
from parity.checks.training.check import run_training as training
from parity.core import backends, inputs
from parity.core.inputs import Inputs
from parity.core.results import Report
from parity.core.runners import build_candidate, build_huggingface, build_ours
from parity.errors import UsageError
from parity.faults import backward, forward
from parity.faults.backward import BackwardFault
from parity.faults.forward import ForwardFault
from parity.faults.registry import parse
from parity.options import recorded_options
from parity.session import Options, report_identity
from reference import published
from scratch_gpt.progress import Progress

# From the options of the verb `drift` to its report.


def run_drift(options: Options, progress: Progress) -> Report:
    """Lay rows of reports side by side."""
    rows = gather_reports(options.rows, options.expect, progress)
    return drift(rows, report_identity({}, {}), same_code=options.same_code)


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
            where="--seq-len or --token-ids",
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
        if options.inject_fault is not None:
            raise UsageError(
                "a fault is injected into our model, not into a candidate",
                where="--inject-fault with --candidate",
                fix="give one of the two",
            )
        return {"plain": build_candidate(options.candidate, weights)}
    right = build_ours(weights)
    if options.inject_fault is None:
        return {path: right.with_backend(path) for path in wanted}
    kinds = [ForwardFault, BackwardFault] if options.verb == "gradients" else [ForwardFault]
    fault, block = parse(options.inject_fault, kinds, n_layer=weights.config["n_layer"])
    if "compiled" in wanted:
        raise UsageError(
            "no fault can be injected into a compiled block",
            where="--inject-fault with --backend compiled",
            fix="use another backend",
        )
    inject = forward.inject if isinstance(fault, ForwardFault) else backward.inject
    try:
        return {path: inject(right.with_backend(path), fault.name, block) for path in wanted}
    except ValueError as error:
        raise UsageError(
            str(error), where="--inject-fault with --backend", fix="use --backend plain"
        ) from error


def layerwise(options: Options, progress: Progress) -> Report:
    """Compare every tap."""
    return _judged(partial(layerwise_check, explain=options.explain), options, progress)


def gradients(options: Options, progress: Progress) -> Report:
    """Compare every gradient."""
    return _judged(gradients_check, options, progress)


def _judged(check: Callable[..., Report], options: Options, progress: Progress) -> Report:
    """Load what the options name, put it where it is to run, and compare it with the reference."""
    device = backends.resolve_device(options.device)
    wanted, left_out = backends.chosen_backends(options.backend, device)
    weights = _load(options, progress)
    chosen = _inputs(options, weights)
    candidates = {path: m.to(device) for path, m in _candidates(options, weights, wanted).items()}
    said = recorded_options(options, _SAID) | ({"not_run": dict(left_out)} if left_out else {})
    reference = build_huggingface(weights)
    nn.Module.to(reference, device)
    stated = report_identity(weights.identity, weights.config)
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


_SAID = ("candidate", "inject_fault", "backend", "dtype", "seed", "token_ids", "taps")
"""Options that decide what a verdict is about."""


def weights(options: Options, progress: Progress) -> Report:
    """Compare every tensor."""
    source = _load(options, progress)
    progress("building both models", 0, 1)
    stated = report_identity(source.identity, source.config)
    return weights_check.weights(source, build_ours(source), build_huggingface(source), stated)


def doctor(options: Options, progress: Progress) -> Report:
    """Look at the machine, the libraries and the weights."""
    source = _load(options, progress)
    chosen = _inputs(options, source)
    progress("running the oracle", 0, 1)
    stated = report_identity(source.identity, source.config)
    return doctor_check.doctor(build_huggingface(source), chosen, stated)


def golden(options: Options, progress: Progress) -> Report:
    """Compute the numbers that others published of the released weights."""
    # The surrogate has no published numbers: here `auto` must not fall back to it.
    name = published.REPOSITORIES[0] if options.weights == "auto" else options.weights
    source = _load(dataclasses.replace(options, weights=name), progress)
    golden_check.require_read(source.provenance)
    stated = report_identity(source.identity, source.config)
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
    "drift": run_drift,
}
"""Every verb that this version has."""
