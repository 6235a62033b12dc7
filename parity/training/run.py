"""From the options of the verb `training` to its report."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import nn

from parity import paths
from parity.candidates import build_candidate
from parity.checks.training import training as check
from parity.chosen_options import chosen_options
from parity.errors import UsageError
from parity.models import build_huggingface, build_ours
from parity.results import Report
from parity.shell import Options, identity
from parity.sources.names import load_weights
from parity.training.faults import TRAINING_FAULTS, planted
from parity.training.procedure import Procedure
from parity.training.recipe import batches
from parity.weights import Weights
from scratch_gpt.command.progress import Progress

_SAID = ("candidate", "plant", "attention", "dtype", "seed", "taps")
"""Options that decide what a verdict is about."""

_DRAWS_ELSEWHERE = "its attention draws tile by tile, which no other model can be given"


def run(options: Options, progress: Progress) -> Report:
    """Compare training steps."""
    _check_plant(options)
    wanted, left_out = paths.chosen(options.attention, torch.device("cpu"))
    if options.dropout:
        _check_plain(options.attention)
        left_out = {name: _DRAWS_ELSEWHERE for name in wanted if name != "plain"} | dict(left_out)
        wanted = ["plain"]
    progress("weights", 0, 1)
    weights = load_weights(
        options.weights, lambda done, total: progress(f"weights {done}/{total}", done, total)
    )
    ids = batches(
        steps=options.steps,
        parts=options.parts,
        batch=options.batch,
        time=_time(options, int(weights.config["n_positions"])),
        vocab_size=weights.config["vocab_size"],
        seed=options.seed,
    )
    candidates, reference = _candidates(options, weights, wanted), build_huggingface(weights)
    said = chosen_options(options, _SAID) | ({"not_run": dict(left_out)} if left_out else {})
    stated = identity(weights.identity, weights.config)
    del weights  # both sides have copies; the source's half gigabyte is not needed any more
    report = check(
        candidates,
        reference,
        ids,
        parts=options.parts,
        dropout=options.dropout,
        procedure=TRAINING_FAULTS[options.plant].procedure() if options.plant else Procedure(),
        dtype=options.dtype,
        select=options.taps,
        fingerprints=options.fingerprints,
        identity=stated,
        progress=progress,
    )
    return dataclasses.replace(report, inputs={**report.inputs, **said})


def _time(options: Options, longest: int) -> int:
    """Return how many tokens a row has.

    Raises:
        UsageError: More than the model takes, or too few to predict one.
    """
    if 1 < options.time <= longest:
        return options.time
    raise UsageError(
        f"{options.time} tokens in a row",
        where="--time",
        fix=f"use 2 to {longest}: the model takes no more, and one token predicts none",
    )


def _check_plain(attention: str) -> None:
    """Require that no path is asked for whose draws cannot be given."""
    if attention not in ("plain", "default", "all"):
        raise UsageError(
            f"the path {attention} cannot be compared with dropout: {_DRAWS_ELSEWHERE}",
            where=f"--dropout with --attention {attention}",
            fix="use --attention plain, or leave --attention out",
        )


def _check_plant(options: Options) -> None:
    name = options.plant
    if name is None:
        return
    if name not in TRAINING_FAULTS:
        known = "; ".join(f"{key} ({fault.what})" for key, fault in TRAINING_FAULTS.items())
        raise UsageError(f"no fault is called {name!r}", where="--plant", fix=f"use {known}")
    fault = TRAINING_FAULTS[name]
    refused = {
        "a fault of dropout does not show without it": fault.dropout and not options.dropout,
        "a batch in one part cannot be averaged wrongly": fault.parts and options.parts == 1,
        "a fault is planted into our model, not into a candidate": (
            options.candidate is not None and fault.plant is not None
        ),
    }
    for what, applies in refused.items():
        if applies:
            raise UsageError(
                what, where=f"--plant {name}", fix="add --dropout, --parts 2, or drop --candidate"
            )


def _candidates(options: Options, weights: Weights, wanted: Sequence[str]) -> dict[str, nn.Module]:
    """Return the models to judge, under the names of their attention paths."""
    if options.candidate is not None:
        return {"plain": build_candidate(options.candidate, weights)}
    right = build_ours(weights)
    model = planted(right, options.plant) if options.plant else right
    return {path: model if path == "plain" else model.with_attention(path) for path in wanted}
