"""Faults that training loops really have, planted into our side of a step from outside."""

import copy
import dataclasses
from collections.abc import Callable, Mapping

from parity.training import wrong, wrong_dropout
from parity.training.procedure import Procedure
from parity.training.recipe import FORMS
from scratch_gpt.model import GPT


@dataclasses.dataclass(frozen=True)
class TrainingFault:
    """One fault.

    Attributes:
        what: What is wrong, in words.
        first: The place that must be named first; `{last}` is the last block, `{moving}` the first
            step whose learning rate is not 0.
        look_for: What the reason must say.
        procedure: How a side trains that has it.
        plant: Plants it into a model, where it is the model's.
        dropout: Whether it shows with dropout alone.
        parts: Whether it shows with more parts than one alone.
    """

    what: str
    first: str
    look_for: str
    procedure: type[Procedure] = Procedure
    plant: Callable[[GPT], None] | None = None
    dropout: bool = False
    parts: bool = False


TRAINING_FAULTS: Mapping[str, TrainingFault] = {
    "targets-not-shifted": TrainingFault(
        "each position predicts its own token",
        "{form}.1.loss",
        "targets not shifted",
        wrong.TargetsNotShifted,
    ),
    "parts-not-averaged": TrainingFault(
        "accumulated gradients are added up and not averaged",
        "{form}.1.gradient.h.{last}.ln_2.weight",
        "2 times the reference's: parts of the batch are added up",
        wrong.PartsNotAveraged,
        parts=True,
    ),
    "gradients-kept": TrainingFault(
        "gradients are not let go after a step",
        "{form}.2.gradient.h.{last}.ln_2.weight",
        "not let go (zero_grad)",
        wrong.GradientsKept,
    ),
    "clip-per-parameter": TrainingFault(
        "each gradient is clipped by its own norm, as in the official PyTorch port",
        "{form}.1.first_moment",
        "clipped one parameter at a time",
        wrong.ClippedEach,
    ),
    "clip-after-step": TrainingFault(
        "gradients are clipped when the step is made already",
        "{form}.1.first_moment",
        "after it, never",
        wrong.ClippedAfter,
    ),
    "norm-without-embedding": TrainingFault(
        "the norm leaves the token embedding out",
        "{form}.1.norm",
        "not of all gradients together",
        wrong.NormWithoutTable,
    ),
    "decay-in-gradient": TrainingFault(
        "weight decay is added to the gradient (L2)",
        "{form}.1.first_moment",
        "decay added to them",
        wrong.DecayInGradient,
    ),
    "decay-on-vectors": TrainingFault(
        "biases and gains decay too",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "weight decay on them",
        wrong.DecayOnVectors,
    ),
    "decay-missing": TrainingFault(
        "nothing decays",
        "{form}.{moving}.weight.h.{last}.mlp.c_proj.weight",
        "weight decay is missing",
        wrong.DecayMissing,
    ),
    "no-bias-correction": TrainingFault(
        "the moments are used as they are",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "bias correction missing",
        wrong.NoBiasCorrection,
    ),
    "correction-one-late": TrainingFault(
        "bias correction counts the steps before this one",
        "{form}.2.weight.h.{last}.ln_2.weight",
        "bias correction",
        wrong.CorrectionLate,
    ),
    "epsilon-inside-root": TrainingFault(
        "the root of v + epsilon for the root of v, plus epsilon",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "epsilon inside the root",
        wrong.EpsilonInsideRoot,
    ),
    "other-form": TrainingFault(
        "the release's form for AdamW's, and the other way round",
        "{form}.{moving}.weight.h.{last}.ln_2.weight",
        "bias correction",
        wrong.OtherForm,
    ),
    "schedule-off-by-one": TrainingFault(
        "the schedule counts steps from the other end of the step",
        "{form}.1.rate",
        "off by one",
        wrong.ScheduleOffByOne,
    ),
    "no-warmup": TrainingFault(
        "the schedule has no warm-up", "{form}.1.rate", "its warm-up", wrong.NoWarmup
    ),
    "beta1": TrainingFault(
        "0.85 for beta1, 0.9", "{form}.1.first_moment", "another beta1", wrong.Beta1
    ),
    "beta2": TrainingFault(
        "0.99 for beta2, 0.999", "{form}.1.second_moment", "another beta2", wrong.Beta2
    ),
    "moments-not-carried": TrainingFault(
        "every step begins with moments of zero",
        "{form}.2.first_moment",
        "not carried over",
        wrong.MomentsNotCarried,
    ),
    "tied-stepped-twice": TrainingFault(
        "the token embedding is stepped as an embedding and as a head",
        "{form}.{moving}.weight.tokens_embed.weight",
        "stepped twice",
        wrong.TiedSteppedTwice,
    ),
    "dropout-on-norm": TrainingFault(
        "dropout on ln_1's output and not before its residual sum",
        "{form}.1.loss",
        "a norm's output",
        plant=wrong_dropout.dropout_on_norm,
        dropout=True,
    ),
    "no-attention-dropout": TrainingFault(
        "no dropout on the attention weights of a block",
        "{form}.1.dropout",
        "no dropout at h.0.attn.weights",
        plant=wrong_dropout.no_attention_dropout,
        dropout=True,
    ),
    "no-embedding-dropout": TrainingFault(
        "no dropout on the embeddings",
        "{form}.1.dropout",
        "no dropout at embeddings",
        plant=wrong_dropout.no_embedding_dropout,
        dropout=True,
    ),
    "keep-probability": TrainingFault(
        "elements are kept with the probability of being dropped",
        "{form}.1.loss",
        "kept with the probability of being dropped",
        plant=wrong_dropout.keep_probability,
        dropout=True,
    ),
}
"""Every fault by name."""


def first_place(name: str, n_layer: int, form: str) -> str:
    """Return the place that must be named first in a model of so many blocks."""
    moving = 2 - FORMS[form]
    return TRAINING_FAULTS[name].first.format(form=form, moving=moving, last=n_layer - 1)


def planted(model: GPT, name: str) -> GPT:
    """Return a model with the fault, a copy where the fault is the model's."""
    plant = TRAINING_FAULTS[name].plant
    if plant is None:
        return model
    faulty = copy.deepcopy(model)
    plant(faulty)
    return faulty
