"""From the options of the verb `generation` to its report."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from parity import inputs
from parity.checks.generation import generation as check
from parity.chosen_options import chosen_options
from parity.errors import UsageError
from parity.generation.asked import Asked
from parity.generation.continuations import drawn_prompts
from parity.generation.faults import GENERATION_FAULTS
from parity.models import build_huggingface, build_ours
from parity.results import Report
from parity.shell import Options, identity
from parity.sources.names import load_weights
from scratch_gpt.command.progress import Progress
from scratch_gpt.tokenizer import Tokenizer

_SAID = ("plant", "dtype", "seed", "token_ids", "text")
"""Options that decide what a verdict is about."""


def run(options: Options, progress: Progress) -> Report:
    """Compare what is generated."""
    _check_plant(options.plant)
    progress("weights", 0, 1)
    weights = load_weights(
        options.weights, lambda done, total: progress(f"weights {done}/{total}", done, total)
    )
    vocab_size, longest = weights.config["vocab_size"], weights.config["n_positions"]
    asked = Asked(
        prompts=_prompts(options, vocab_size=vocab_size, longest=longest),
        new=options.max_new_tokens,
        searched=_searched(vocab_size, options.seed),
        seed=options.seed,
        plant=options.plant,
    )
    ours, theirs = build_ours(weights), build_huggingface(weights)
    stated = identity(weights.identity, weights.config)
    del weights  # both sides have copies
    report = check(
        ours,
        theirs,
        asked,
        dtype=options.dtype,
        fingerprints=options.fingerprints,
        identity=stated,
        progress=progress,
    )
    said = chosen_options(options, _SAID)
    return dataclasses.replace(report, inputs={**report.inputs, **said})


def _check_plant(name: str | None) -> None:
    if name is not None and name not in GENERATION_FAULTS:
        known = "; ".join(f"{key} ({fault.what})" for key, fault in GENERATION_FAULTS.items())
        raise UsageError(f"no fault is called {name!r}", where="--plant", fix=f"use {known}")


def _prompts(options: Options, *, vocab_size: int, longest: int) -> list[Tensor]:
    """Return the prompts that were given, or drawn ones."""
    given = _given(options)
    if given is None:
        room = longest - options.max_new_tokens
        if room < 1:
            raise UsageError(
                f"{options.max_new_tokens} new tokens leave no room in {longest} positions",
                where="--max-new-tokens",
                fix=f"use at most {longest - 1}",
            )
        return drawn_prompts(
            options.prompts, longest=room, vocab_size=vocab_size, seed=options.seed
        )
    ids = torch.cat([prompt[0] for prompt in given])
    if not bool(((ids >= 0) & (ids < vocab_size)).all()):
        raise UsageError(
            f"an id is outside the vocabulary of {vocab_size}",
            where="--token-ids or --text",
            fix=f"use ids from 0 to {vocab_size - 1}, and the vocabulary of these weights",
        )
    return given


def _given(options: Options) -> list[Tensor] | None:
    """Return the prompts `[1 time]` that the options hold; None where they hold none."""
    if options.text is not None:
        if options.vocabulary is None:
            raise UsageError(
                "a text needs a vocabulary",
                where="--text",
                fix="give --vocabulary FOLDER, or --token-ids",
            )
        ids = Tokenizer.from_pretrained(options.vocabulary).encode(options.text)
        if not ids:
            raise UsageError("the text has no token", where="--text", fix="give some words")
        return [torch.tensor([ids])]
    if options.token_ids is None:
        return None
    given = inputs.parse(options.token_ids)
    mask = given.attention_mask
    real = torch.ones_like(given.token_ids).bool() if mask is None else mask
    return [row[kept][None] for row, kept in zip(given.token_ids, real, strict=True)]


def _searched(vocab_size: int, seed: int) -> Tensor:
    """Return the prompts of the beam searches, `[2 5]`: of one length, as a batch has to be."""
    generator = np.random.Generator(np.random.Philox([seed, 1]))
    return torch.from_numpy(generator.integers(0, vocab_size, size=(2, 5)))
