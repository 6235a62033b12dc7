"""The verbs of `parity.check`: from options to a report."""

import atexit
import contextlib
import dataclasses
import functools
import itertools
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Standing, Weights
from parity.checks import all as plan_of_all
from parity.checks import doctor as doctor_check
from parity.checks import weights as weights_check
from parity.checks.activations import Recorder, read_activations
from parity.checks.activations import activations as stored_activations
from parity.checks.compare import compare, load_reference, source_of
from parity.checks.drift.check import drift as drift_check
from parity.checks.drift.reading import gather_reports
from parity.checks.generation import faults as faults_of_generation
from parity.checks.generation.check import FEWEST, SEARCHED, generation_inputs
from parity.checks.generation.check import generation as generation_check
from parity.checks.generation.faults import GenerationFault
from parity.checks.golden import check as golden_check
from parity.checks.gradients import faults as backward
from parity.checks.gradients.check import gradients as gradients_check
from parity.checks.gradients.faults import BackwardFault
from parity.checks.invariants import faults as faults_of_invariants
from parity.checks.invariants.check import Injected
from parity.checks.invariants.check import invariants as invariants_check
from parity.checks.invariants.faults import InvariantFault
from parity.checks.invariants.subject import Sizes
from parity.checks.layerwise import layerwise as layerwise_check
from parity.checks.selftest import (
    Parts,
    Result,
    Runner,
    backward_runner,
    forward_runner,
    invariants_runner,
    selected,
)
from parity.checks.selftest import results as selftest_results
from parity.checks.selftest import selftest as selftest_check
from parity.checks.tokens import faults as tokenizer
from parity.checks.tokens.check import not_made
from parity.checks.tokens.check import tokens as tokens_check
from parity.checks.tokens.faults import TokenizerFault
from parity.checks.tokens.runners import (
    RELEASED,
    CandidateTokenizer,
    NotMadeError,
    choose_vocabulary,
    making,
    missing_vocabulary,
)
from parity.checks.tokens.strings import sources, training_texts
from parity.checks.training import faults as faults_of_training
from parity.checks.training.check import training as training_check
from parity.checks.training.faults import TrainingFault
from parity.checks.training.runners import batches
from parity.checks.two_sources import compare_sources
from parity.core import backends, inputs
from parity.core.candidates import build_as_given, build_candidate, shows_taps
from parity.core.candidates import call as call_candidate
from parity.core.comparison import CANDIDATE, by_backend, no_progress
from parity.core.inputs import Inputs
from parity.core.results import Report, exit_code, verdict_for
from parity.core.runners import build_huggingface, build_ours, model_in_dtype
from parity.errors import InconclusiveError, UsageError, mapped_errors
from parity.faults import forward
from parity.faults.forward import ForwardFault
from parity.faults.registry import Fault, faults_of, parse
from parity.known_faults import known_faults
from parity.options import (
    DEFAULT_SEQ_LEN,
    INVARIANTS_SEQ_LEN,
    MOST,
    TRAINING_SEQ_LEN,
    AllOptions,
    DoctorOptions,
    DriftOptions,
    ForwardOptions,
    GenerationOptions,
    GoldenOptions,
    GradientsOptions,
    InvariantsOptions,
    LayerwiseOptions,
    LoadOptions,
    ReportOptions,
    SelftestOptions,
    TokensOptions,
    TrainingOptions,
    WeightsOptions,
    recorded_options,
)
from parity.session import report_identity
from parity.threads import split_threads
from reference import published
from reference.published_token_ids import PUBLISHED
from scratch_gpt.checkpoint.strict_io import require_memory
from scratch_gpt.config import GPTConfig
from scratch_gpt.errors import quote
from scratch_gpt.progress import Progress
from scratch_gpt.tap import no_tap
from scratch_gpt.tokenizer.tokenizer import Tokenizer, check_text

IN_A_CANDIDATE = "a fault is injected into our model, not into a candidate"


def _load(options: LoadOptions, progress: Progress) -> Weights:
    progress("weights", 0, 1)
    return load_weights(
        options.weights,
        lambda done, total: progress(f"weights {done}/{total}", done, total),
        strict=options.strict,
    )


def _require_room(batch: int, time: int, config: Mapping[str, Any]) -> None:
    """Require memory for what every check of such ids holds at once.

    In float64 the oracle and another model each hold logits, and in each block scores.

    Raises:
        EnvironmentUnfitError: This machine has too little.
    """
    require_memory(
        16 * batch * time * max(config["vocab_size"], config["n_head"] * time),
        f"a batch of {batch:,} rows of {time:,} tokens",
        where=f"--batch-size {batch} with --seq-len {time}",
        fix="use smaller ones",
    )


def _inputs(
    options: ForwardOptions | DoctorOptions,
    config: Mapping[str, Any],
    given: Inputs | None = None,
    where: str = "--token-ids",
) -> Inputs:
    """Return the token ids of the options, or those given, which come from `where`.

    Raises:
        UsageError: A row is too long for the model, or an id is outside the vocabulary.
        EnvironmentUnfitError: This machine has too little memory for so many.
    """
    vocab_size, longest = config["vocab_size"], config["n_positions"]
    if given is None and options.token_ids is not None:
        if options.seq_len is not None:
            raise UsageError(
                "the token ids have a length of their own",
                where="--seq-len with --token-ids",
                fix="give one of the two",
            )
        given = inputs.parse(options.token_ids)
    batch, time = options.batch_size, options.seq_len or min(DEFAULT_SEQ_LEN, longest)
    if given is not None:
        batch, time = given.token_ids.shape
    if time > longest:
        raise UsageError(
            f"{time} tokens in a row; the model takes {longest}",
            where=f"--seq-len or {where}",
            fix=f"use at most {longest}",
        )
    _require_room(batch, time, config)
    chosen = given or inputs.seeded(
        batch=batch, time=time, vocab_size=vocab_size, seed=options.seed
    )
    largest = int(chosen.token_ids.max())
    if not 0 <= int(chosen.token_ids.min()) <= largest < vocab_size:
        raise UsageError(
            f"an id is outside the vocabulary of {vocab_size}",
            where=where,
            fix=f"use ids from 0 to {vocab_size - 1}",
        )
    return chosen


def _candidates(
    options: ForwardOptions, weights: Weights, wanted: Sequence[str], left_out: dict[str, str]
) -> dict[str, nn.Module]:
    """Return the models to check, under the names of their backends.

    A default backend that cannot have the fault is added to `left_out` with the reason.
    """
    if (given := _given_candidate(options, weights)) is not None:
        return given
    right = build_ours(weights)
    if options.inject_fault is None:
        return {backend: right.with_backend(backend) for backend in wanted}
    is_gradients = isinstance(options, GradientsOptions)
    kinds = [ForwardFault, BackwardFault] if is_gradients else [ForwardFault]
    fault, block = parse(options.inject_fault, kinds, n_layer=weights.config["n_layer"])
    if "compiled" in wanted:
        raise UsageError(
            "no fault can be injected into a compiled block",
            where="--inject-fault with --backend compiled",
            fix="use another backend",
        )
    inject = forward.inject if isinstance(fault, ForwardFault) else backward.inject
    made: dict[str, nn.Module] = {}
    for backend in wanted:
        try:
            made[backend] = inject(right.with_backend(backend), fault.name, block)
        except ValueError as error:
            if options.backend != "default":
                raise UsageError(
                    str(error), where="--inject-fault with --backend", fix="use --backend plain"
                ) from error
            left_out[backend] = str(error)
    return made


def _given_candidate(
    options: ForwardOptions | InvariantsOptions, weights: Weights
) -> dict[str, nn.Module] | None:
    """Return the candidate of the options; None without one.

    Raises:
        UsageError: An option is of our model alone, or of a candidate alone.
    """
    if options.candidate is not None:
        if options.inject_fault is not None:
            raise UsageError(
                IN_A_CANDIDATE,
                where="--inject-fault with --candidate",
                fix="give one of the two",
            )
        return by_backend(build_candidate(options.candidate, weights, options.map))
    for name, value in (("--call", options.call), ("--map", options.map)):
        if value is not None:
            raise UsageError(
                "it says something about a candidate, and there is none",
                where=f"{name} {value}",
                fix="add --candidate, or leave it out",
            )
    return None


def layerwise(options: LayerwiseOptions, progress: Progress) -> Report:
    """Compare every tap."""
    if options.reference is not None:
        return _compared(options, options.reference)
    if options.activations is not None:
        return _stored(options, options.activations, progress)
    check = partial(layerwise_check, explain=options.explain, call=options.call)
    if options.save_activations is None:
        return _checked(check, options, progress)
    recorder = Recorder(path=options.save_activations, dtype=options.dtype)
    recorder.require_writable()
    if options.taps != LayerwiseOptions.taps:
        raise UsageError(
            "only the selected taps would be saved",
            where=f"--taps {options.taps} with --save-activations",
            fix="leave one of the two out",
        )
    given: list[Inputs] = []

    def recording(*models: Any, attention_mask: Tensor | None, **how: Any) -> Report:  # noqa: ANN401
        given.append(Inputs(token_ids=models[2], attention_mask=attention_mask))
        return check(*models, attention_mask=attention_mask, keep=recorder.take, **how)

    report = _checked(recording, options, progress)
    if report.plan.compared:
        saved = recorder.write(given[0], report.identity["weights"]["sha256"])
        words = f"{options.save_activations.name}: {saved}, {options.dtype}"
        report = dataclasses.replace(report, inputs={**report.inputs, "saved": words})
    return report


_OF_ACTIVATIONS = (
    *("weights", "strict", "activations", "taps", "explain", "dtype"),
    *("token_ids", "batch_size", "seq_len", "seed", "fingerprints"),
)
"""Options that hold for the activations in a file, beside those of the report."""


def _stored(options: LayerwiseOptions, path: Path, progress: Progress) -> Report:
    """Compare the activations in a file.

    Raises:
        UsageError: An option does not apply, or the file is of other ids, weights or dtype.
    """
    where = f"--activations {path}"
    _require_default(options, _OF_ACTIVATIONS, where, "for activations in a file")
    found = read_activations(path)
    if options.dtype not in (LayerwiseOptions.dtype, found.dtype):
        raise UsageError(
            f"the file holds {found.dtype}, which decides what is checked",
            where=f"--dtype {options.dtype} with {where}",
            fix="leave --dtype out",
        )
    given = [
        name
        for name in ("token_ids", "batch_size", "seq_len", "seed")
        if getattr(options, name) != getattr(LayerwiseOptions, name)
    ]
    if given and found.inputs is not None:
        raise UsageError(
            "the file has token_ids of its own",
            where=f"--{given[0].replace('_', '-')} with {where}",
            fix="leave the option out",
        )
    weights = _load(options, progress)
    written = found.metadata.get("weights", weights.provenance.sha256)
    if written != weights.provenance.sha256:
        raise UsageError(
            f"the file was written with other weights: sha256 {written[:16]}",
            where=f"{where} with --weights {options.weights}",
            fix="name the weights that it was written with",
        )
    chosen = _inputs(options, weights.config, found.inputs, f"the token_ids of {path}")
    if found.inputs is None and (shape := found.logits_shape[:2]) != chosen.token_ids.shape:
        rows, time = shape if len(shape) == 2 else (1, "N")  # noqa: PLR2004 - [batch time]
        raise UsageError(
            f"the file has no token_ids, and its logits are not of {chosen.token_ids.shape[1]} "
            "positions",
            where=where,
            fix="save the token_ids in it, or give --token-ids; seeded ones are "
            f"--batch-size {rows} --seq-len {time}",
        )
    reference = build_huggingface(weights)
    report = stored_activations(
        found,
        reference,
        chosen,
        select=options.taps,
        explain=options.explain,
        fingerprints=options.fingerprints,
        identity=report_identity(weights.identity, weights.config),
        progress=progress,
    )
    return dataclasses.replace(report, inputs={**report.inputs, **recorded_options(options)})


def _require_default(
    options: LayerwiseOptions, allowed: Sequence[str], where: str, what: str
) -> None:
    """Require that options without a meaning in this use are at their default.

    Raises:
        UsageError: One is not.
    """
    others = {f.name for f in dataclasses.fields(options)} - {*allowed}
    others -= {f.name for f in dataclasses.fields(ReportOptions)}
    for field in (f for f in dataclasses.fields(options) if f.name in others):
        if getattr(options, field.name) != field.default:
            raise UsageError(
                f"{what} this option has no meaning",
                where=f"--{field.name.replace('_', '-')} with {where}",
                fix="leave one of the two out",
            )


_OF_COMPARE = ("candidate", "reference", "call", "token_ids", "batch_size", "seq_len", "seed")
"""Options that hold for a comparison with any reference, beside those of the report."""


def _compared(options: LayerwiseOptions, path: Path) -> Report:
    """Compare a candidate with another reference than GPT-1's.

    Raises:
        UsageError: There is no candidate, an option does not apply, or rows have unequal lengths.
    """
    where = f"--reference {path}"
    if options.candidate is None:
        raise UsageError(
            "it is a reference for a candidate, and there is none",
            where=where,
            fix="add --candidate FILE.py, or leave it out",
        )
    _require_default(options, _OF_COMPARE, where, "with another reference")
    reference = load_reference(path)
    sizes = reference.config.get_text_config()
    config = {
        "vocab_size": sizes.vocab_size,
        "n_positions": getattr(sizes, "max_position_embeddings", None) or MOST,
        "n_head": getattr(sizes, "num_attention_heads", 1),
    }
    chosen = _inputs(options, config)
    if chosen.attention_mask is not None:
        raise UsageError(
            "the rows have unequal lengths, and padding is not compared here",
            where=f"--token-ids with {where}",
            fix="give rows of one length",
        )
    state = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    candidate = build_as_given(options.candidate, reference.config, state)
    identity = report_identity(source_of(path), config)
    report = compare(candidate, reference, chosen.token_ids, call=options.call, identity=identity)
    recorded = {**recorded_options(options), "reference": str(path)}
    return dataclasses.replace(report, inputs={**report.inputs, **recorded})


def gradients(options: GradientsOptions, progress: Progress) -> Report:
    """Compare every gradient."""
    return _checked(partial(gradients_check, call=options.call), options, progress)


def _checked(check: Callable[..., Report], options: ForwardOptions, progress: Progress) -> Report:
    """Load the models, move them to the device and compare them."""
    device = backends.resolve_device(options.device)
    wanted, unavailable = backends.chosen_backends(options.backend, device)
    if options.kernel is None:
        return _of_backends(check, options, progress, device, wanted, unavailable)
    if options.candidate is not None:
        raise UsageError(
            "a kernel is run in our model, and a candidate has its own attention",
            where="--kernel with --candidate",
            fix="give one of the two",
        )
    wanted = [*(["plain"] if options.backend == "default" else wanted), backends.KERNEL]
    is_gradients = isinstance(options, GradientsOptions)
    with backends.own_kernel(options.kernel, device, gradients=is_gradients) as limits:
        report = _of_backends(check, options, progress, device, wanted, unavailable)
    reasons = [*report.reasons, *limits]
    code, found = exit_code(report.plan, report.results, reasons, report.liveness, report.findings)
    found = list(dict.fromkeys(found))
    return dataclasses.replace(report, exit_code=code, verdict=verdict_for(code), reasons=found)


def _of_backends(  # noqa: PLR0913 - the options, and what was chosen by them
    check: Callable[..., Report],
    options: ForwardOptions,
    progress: Progress,
    device: torch.device,
    wanted: Sequence[str],
    unavailable: Mapping[str, str],
) -> Report:
    """Load the models of some backends, or the candidate, and compare them."""
    left_out = dict(unavailable)
    weights = _load(options, progress)
    chosen = _inputs(options, weights.config)
    models = _candidates(options, weights, wanted, left_out)
    candidates = {backend: model.to(device) for backend, model in models.items()}
    recorded = recorded_options(options) | ({"not_run": left_out} if left_out else {})
    reference = build_huggingface(weights)
    nn.Module.to(reference, device)
    identity = report_identity(weights.identity, weights.config)
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
        identity=identity,
        progress=progress,
    )
    if isinstance(options, LayerwiseOptions):
        ran = [] if options.candidate is not None else [*candidates]
        absent = plan_of_all.not_seen(chosen, ran, options.dtype)
        report = dataclasses.replace(report, appendix=[*report.appendix, *absent])
    return dataclasses.replace(report, inputs={**report.inputs, **recorded})


def weights(options: WeightsOptions, progress: Progress) -> Report:
    """Compare every tensor.

    Raises:
        UsageError: One source was given, more than two, or two beside `--weights`.
    """
    if options.sources:
        if len(options.sources) != 2:  # noqa: PLR2004 - A and B
            raise UsageError(
                "two sources are compared with each other: A and B",
                where=" ".join(options.sources),
                fix="give two, or one as --weights, which is compared with its models",
            )
        if options.weights != WeightsOptions.weights:
            raise UsageError(
                "it would not be read: A and B are compared alone",
                where=f"--weights {options.weights}",
                fix="leave it out, or leave A and B out",
            )
        return compare_sources(
            *options.sources, report_identity({}, {}), strict=options.strict, progress=progress
        )
    source = _load(options, progress)
    progress("building both models", 0, 1)
    identity = report_identity(source.identity, source.config)
    ours = build_ours(source)
    with mapped_errors():
        theirs = weights_check.load_huggingface(source) or build_huggingface(source)
    return weights_check.weights(source, ours, theirs, identity)


def doctor(options: DoctorOptions, progress: Progress) -> Report:
    """Inspect the machine, the libraries and the weights."""
    source = _load(options, progress)
    chosen = _inputs(options, source.config)
    progress("running the oracle", 0, 1)
    identity = report_identity(source.identity, source.config)
    return doctor_check.doctor(build_huggingface(source), chosen, identity)


def invariants(options: InvariantsOptions, progress: Progress) -> Report:
    """Check properties that need no reference.

    Raises:
        UsageError: A text is longer than the model takes, or a fault cannot be injected.
    """
    device = backends.resolve_device(options.device)
    wanted, unavailable = backends.chosen_backends(options.backend, device)
    weights = _load(options, progress)
    config = GPTConfig.from_huggingface(weights.config)
    injected: Injected = contextlib.nullcontext
    if options.inject_fault is not None:
        fault, block = parse(options.inject_fault, [InvariantFault], n_layer=config.n_layer)
        injected = partial(faults_of_invariants.inject, fault.name, block)
        if options.backend == "compiled":
            raise UsageError(
                "no fault can be injected into a compiled block",
                where="--inject-fault with --backend compiled",
                fix="use another backend",
            )
        wanted = [name for name in wanted if name != "compiled"]
    time = options.seq_len or min(INVARIANTS_SEQ_LEN, config.n_positions)
    if time > config.n_positions:
        raise UsageError(
            f"{time} tokens in a row; the model takes {config.n_positions}",
            where=f"--seq-len {time}",
            fix=f"use at most {config.n_positions}",
        )
    _require_room(5, time, weights.config)
    models = _given_candidate(options, weights)
    if models is None:
        right = build_ours(weights)
        models = {name: right.with_backend(name) for name in wanted}
    identity = report_identity(weights.identity, weights.config)
    del weights  # the models have copies
    report = invariants_check(
        {name: model.to(device) for name, model in models.items()},
        Sizes.of(config),
        longest=time,
        seed=options.seed,
        dtype=getattr(torch, options.dtype),
        call=options.call,
        injected=injected,
        identity=identity,
        progress=progress,
    )
    not_run = {**unavailable, **report.inputs.get("not_run", {})}
    recorded = recorded_options(options) | ({"not_run": not_run} if not_run else {})
    return dataclasses.replace(report, inputs={**report.inputs, **recorded})


def golden(options: GoldenOptions, progress: Progress) -> Report:
    """Compare with the numbers that others published for the released weights."""
    # The surrogate has no published numbers: here `auto` must not fall back to it.
    name = published.REPOSITORIES[0] if options.weights == "auto" else options.weights
    source = _load(dataclasses.replace(options, weights=name), progress)
    golden_check.require_read(source.provenance)
    identity = report_identity(source.identity, source.config)
    return golden_check.golden(
        build_ours(source), source.provenance, identity=identity, progress=progress
    )


def drift(options: DriftOptions, progress: Progress) -> Report:
    """Compare runs."""
    runs = gather_reports(options.runs, options.require, progress)
    return drift_check(runs, report_identity({}, {}), same_code=options.same_code)


def tokens(options: TokensOptions, progress: Progress, *, first_alone: bool = False) -> Report:
    """Compare two tokenizers; with `first_alone`, up to the first difference."""
    if options.inject_fault is not None:
        parse(
            options.inject_fault,
            [TokenizerFault],
            fits=lambda fault: options.pretokenizer in fault.of,
            where=f"--inject-fault with --pretokenizer {options.pretokenizer}",
        )
    if options.text is not None and options.corpus:
        raise UsageError(
            "a text is compared alone, so the corpus would not be read",
            where="--text with --corpus",
            fix="give one of the two",
        )
    if options.text is not None:
        check_text(options.text, "--text")
    try:
        return _tokens(options, progress, first_alone=first_alone)
    except NotMadeError as error:
        return not_made(error, _token_inputs(options))


def _tokens(options: TokensOptions, progress: Progress, *, first_alone: bool) -> Report:
    progress("vocabulary", 0, 1)
    vocabulary = choose_vocabulary(options.vocabulary, options.weights, training_texts())
    with mapped_errors(), vocabulary as found:
        with making("from_pretrained"):
            right = Tokenizer.from_pretrained(found.folder, pretokenizer=options.pretokenizer)
        candidate = CandidateTokenizer(right)
        if options.inject_fault is not None:
            candidate = tokenizer.inject(right, options.inject_fault)
        return tokens_check(
            candidate,
            found.reference(right),
            sources(options, right),
            whole=options.text is None,
            first_alone=first_alone,
            seed=options.seed,
            published=PUBLISHED if right.digest == RELEASED and options.text is None else (),
            identity=report_identity({}, {}) | found.identity(right),
            fingerprints=options.fingerprints,
            inputs=_token_inputs(options),
            progress=progress,
        )


def _token_inputs(options: TokensOptions) -> dict[str, Any]:
    """Return the description of the strings, for the report."""
    described: dict[str, Any] = {"pretokenizer": options.pretokenizer}
    if options.text is not None:
        described["text"] = ascii(options.text)
    else:
        described |= {"generated": options.num_strings, "seed": options.seed}
        described["corpus"] = ", ".join(map(str, options.corpus)) or "the standard library's words"
    return described | ({"inject_fault": options.inject_fault} if options.inject_fault else {})


_OWN_MASKS = "its dropout draws in compiled code, so the reference cannot use the same mask"
_NO_SHARED_MASKS = ("compiled", "triton")


def training(options: TrainingOptions, progress: Progress, *, blocks: int | None = None) -> Report:
    """Compare training steps, of the whole model or of its first blocks alone."""
    fault = _training_fault(options)
    wanted, left_out = backends.chosen_backends(options.backend, torch.device("cpu"))
    if options.dropout:
        if options.backend in _NO_SHARED_MASKS:
            raise UsageError(
                f"the path {options.backend} cannot be compared with dropout: {_OWN_MASKS}",
                where=f"--dropout with --backend {options.backend}",
                fix="use --backend plain, tiled or fused, or leave --backend out",
            )
        own = {name: _OWN_MASKS for name in wanted if name in _NO_SHARED_MASKS}
        left_out = own | dict(left_out)
        wanted = [name for name in wanted if name not in own]
    weights = _load(options, progress)
    if is_cut := blocks is not None and blocks < int(weights.config["n_layer"]):
        weights = Parts(weights).cut(range(blocks))
    longest = int(weights.config["n_positions"])
    time = options.seq_len or min(TRAINING_SEQ_LEN, longest)
    if not 1 < time <= longest:
        raise UsageError(
            f"{time} tokens in a row",
            where="--seq-len",
            fix=f"use 2 to {longest}: the model takes no more, and one token predicts none",
        )
    _require_room(options.batch_size, time, weights.config)
    rows = options.steps * options.micro_batches * options.batch_size
    require_memory(
        8 * rows * time,
        f"the token ids of {options.steps:,} steps",
        where="--steps, --micro-batches, --batch-size and --seq-len",
        fix="use smaller ones",
    )
    ids = batches(
        steps=options.steps,
        parts=options.micro_batches,
        batch=options.batch_size,
        time=time,
        vocab_size=weights.config["vocab_size"],
        seed=options.seed,
    )
    if options.candidate is not None:
        candidates = by_backend(build_candidate(options.candidate, weights))
    else:
        right = build_ours(weights)
        candidates = {
            path: right if path == "plain" else right.with_backend(path) for path in wanted
        }
    reference = build_huggingface(weights)
    recorded = recorded_options(options) | ({"not_run": dict(left_out)} if left_out else {})
    recorded |= {"blocks": f"the first {blocks}"} if is_cut else {}
    identity = report_identity(weights.identity, weights.config)
    del weights  # both sides have copies; the source's half gigabyte is not needed any more
    with faults_of_training.injected(fault.name if fault else None):
        report = training_check(
            candidates,
            reference,
            ids,
            parts=options.micro_batches,
            dropout=options.dropout,
            dtype=options.dtype,
            select=options.taps,
            fingerprints=options.fingerprints,
            identity=identity,
            progress=progress,
        )
    return dataclasses.replace(report, inputs={**report.inputs, **recorded})


def _training_fault(options: TrainingOptions) -> TrainingFault | None:
    """Return the fault of the options, if the other options let it show."""
    if options.inject_fault is None:
        return None
    fault, _ = parse(options.inject_fault, [TrainingFault])
    if options.candidate is not None and not fault.is_of_steps:
        raise UsageError(
            "the fault shows in the trainer's own small runs, and a candidate has none",
            where=f"--inject-fault {fault.name}",
            fix="drop --candidate",
        )
    return fault


def generation(options: GenerationOptions, progress: Progress) -> Report:
    """Compare generation with a cache and without one."""
    if options.inject_fault is not None:
        parse(options.inject_fault, [GenerationFault])
    weights = _load(options, progress)
    asked = generation_inputs(
        options, vocab_size=weights.config["vocab_size"], longest=weights.config["n_positions"]
    )
    candidate, reference = build_ours(weights), build_huggingface(weights)
    identity = report_identity(weights.identity, weights.config)
    del weights  # both sides have copies
    report = generation_check(
        candidate,
        reference,
        asked,
        dtype=options.dtype,
        injected=partial(faults_of_generation.inject, options.inject_fault),
        fingerprints=options.fingerprints,
        identity=identity,
        progress=progress,
    )
    return dataclasses.replace(report, inputs={**report.inputs, **recorded_options(options)})


def selftest(options: SelftestOptions, progress: Progress) -> Report:
    """Run every fault of the registry against the check that must find it.

    Raises:
        UsageError: No fault matches the pattern.
    """
    kinds = {
        kind: [faults_of(Fault)[fault["name"]] for fault in faults]
        for kind, faults in known_faults().items()
    }
    chosen = selected(kinds, options.faults)
    if not chosen:
        families = dict.fromkeys(fault.group for members in kinds.values() for fault in members)
        raise UsageError(
            f"no fault matches the pattern {quote(options.faults)}",
            where="--faults",
            fix=f"use a name, a kind ({', '.join(kinds)}) or a family: {', '.join(families)}",
        )
    weights = _load(options, progress)
    identity = report_identity(weights.identity, weights.config)
    with_right = {kind: [None, *members] for kind, members in chosen.items()}
    with contextlib.ExitStack() as stack:
        if sum(map(len, chosen.values())) < _MANY:
            found = selftest_results(with_right, stack.enter_context(_runners(weights, chosen)))
        else:
            found = stack.enter_context(_by_processes(options, with_right))
        return selftest_check(
            chosen,
            found,
            identity=identity,
            inputs=recorded_options(options),
            progress=progress,
        )


_MANY, _AT_ONCE, _MOST_PROCESSES = 60, 12, 8
"""Faults from which processes share them, because each imports torch first; faults of a task; and
processes, because each holds a model."""


@contextlib.contextmanager
def _runners(weights: Weights, kinds: Collection[str]) -> Iterator[dict[str, Runner]]:
    """Yield the runner of each kind of fault."""
    parts = Parts(weights)
    # On tensors this small a second thread only waits.
    runs = torch.get_num_threads() if weights.config["n_embd"] < _NARROW else 1
    with tempfile.TemporaryDirectory() as name, split_threads(runs):
        yield {
            "forward": forward_runner(parts),
            "backward": backward_runner(parts),
            "invariants": invariants_runner(parts),
            **runners_by_verb(parts, Path(name), [kind for kind in kinds if kind in _BY_VERB]),
        }


@contextlib.contextmanager
def _by_processes(
    options: SelftestOptions, faults: Mapping[str, Sequence[Fault | None]]
) -> Iterator[Iterator[Result]]:
    """Yield the results of faults that a process for each core finds."""
    tasks = [
        (kind, members[at : at + _AT_ONCE])
        for kind, members in faults.items()
        for at in range(0, len(members), _AT_ONCE)
    ]
    spawned = multiprocessing.get_context("spawn")  # a forked process may hang in OpenMP
    with ProcessPoolExecutor(min(_MOST_PROCESSES, os.cpu_count() or 1), mp_context=spawned) as pool:
        futures = [pool.submit(_task, options, *task) for task in tasks]
        try:
            yield (one for future in futures for one in future.result())
        finally:
            pool.shutdown(cancel_futures=True)


def _task(options: SelftestOptions, kind: str, faults: Sequence[Fault | None]) -> list[Result]:
    return list(selftest_results({kind: faults}, _own_runners(options)))


@functools.cache
def _own_runners(options: SelftestOptions) -> Mapping[str, Runner]:
    """Return the runners of this process, which ends after its tasks."""
    torch.set_num_threads(1)
    runners = _runners(_load(options, no_progress), _BY_VERB)
    atexit.register(runners.__exit__, None, None, None)
    return runners.__enter__()


def runners_by_verb(parts: Parts, folder: Path, kinds: Sequence[str]) -> dict[str, Runner]:
    """Return the runners of kinds of fault that a verb runs, on a model and a vocabulary of files.

    The model is the first block, with few tokens.
    """
    if kinds:
        parts.models("few")[0].save_pretrained(folder)
    if "tokenizer" in kinds:
        texts = list(itertools.islice(training_texts(), _FEW_TEXTS))
        Tokenizer.train(texts, merges=_FEW_MERGES).save_pretrained(folder)
        (folder / "corpus.txt").write_text(texts[0][:_FEW_LETTERS], "utf-8")
    return {kind: partial(_BY_VERB[kind], folder) for kind in kinds}


_NARROW = 256
_FEW_TEXTS, _FEW_MERGES, _FEW_LETTERS = 40, 500, 2_000


def _named(fault: Fault | None) -> str | None:
    return None if fault is None else fault.name


def _trained(folder: Path, fault: Fault | None) -> Report:
    taps = "*"
    if isinstance(fault, TrainingFault):
        run = fault.first_seen(variant="openai", last=0).partition(".")[0]
        taps = f"{run}.*"
    options = TrainingOptions(
        weights=str(folder),
        inject_fault=_named(fault),
        backend="plain",
        dtype="float64",
        seq_len=5,
        steps=2,
        taps=taps,
    )
    return training(options, no_progress)


def _generated(folder: Path, fault: Fault | None) -> Report:
    options = GenerationOptions(
        weights=str(folder),
        inject_fault=_named(fault),
        dtype="float64",
        num_prompts=2,
        max_new_tokens=8,
    )
    return generation(options, no_progress)


def _tokenized(folder: Path, fault: Fault | None) -> Report:
    options = TokensOptions(
        weights="tiny",
        vocabulary=folder,
        inject_fault=_named(fault),
        pretokenizer=fault.of[0] if isinstance(fault, TokenizerFault) else "huggingface",  # type: ignore[arg-type]
        corpus=(folder / "corpus.txt",),
        num_strings=0,
    )
    return tokens(options, no_progress, first_alone=True)


_BY_VERB: dict[str, Callable[[Path, Fault | None], Report]] = {
    "training": _trained,
    "generation": _generated,
    "tokenizer": _tokenized,
}
"""The run of a verb that finds a fault of a kind."""


def all_checks(options: AllOptions, progress: Progress) -> Report:
    """Run every check, and `layerwise` on a plan of inputs.

    Raises:
        UsageError: A fault is to be injected into a candidate.
    """
    if options.candidate is not None and options.inject_fault is not None:
        raise UsageError(
            IN_A_CANDIDATE, where="--inject-fault with --candidate", fix="give one of the two"
        )
    source = _load(LoadOptions(weights=options.weights), progress)
    name = options.inject_fault
    kinds = (
        *(ForwardFault, BackwardFault, InvariantFault),
        *(TokenizerFault, TrainingFault, GenerationFault),
    )
    kind = next((one for one in kinds if name and name.partition("@")[0] in faults_of(one)), None)
    found = _verbs_of_all(options, source, kind)
    is_released = source.provenance.standing is Standing.KNOWN
    absent = {} if is_released else {"golden": "it needs the released weights"}
    if options.candidate is not None:
        names = [name for name in found if name not in _OF_MODELS]
        absent = dict.fromkeys([*names, "golden"], "it is not of a candidate")
    else:
        if int(source.config["n_positions"]) < SEARCHED + FEWEST:
            absent["generation"] = f"it needs {SEARCHED + FEWEST} positions"
        if kind is not TokenizerFault and (missing := missing_vocabulary(options.weights)):
            absent["tokens"] = missing
    checks: list[tuple[str, str, plan_of_all.Check]] = []
    identity = report_identity(source.identity, source.config)
    for verb, (run, its_options) in found.items():
        if verb == "layerwise":
            plan = plan_of_all.cases(source.config)
            models = _ModelsOfAll(options, source, name if kind is ForwardFault else None)
            checks += plan_of_all.layerwise_checks(models.fitting(plan), models, identity)
        elif verb not in absent:
            checks.append((verb, "", partial(run, its_options)))
    del source, models  # held by the checks that need them, up to their end
    report = plan_of_all.run_all(checks, absent, progress, identity, keep_going=options.keep_going)
    return dataclasses.replace(report, inputs={**report.inputs, **recorded_options(options)})


_OF_MODELS = ("doctor", "layerwise", "gradients", "invariants", "training")
"""The checks that a candidate can have."""


def _verbs_of_all(
    options: AllOptions, source: Weights, kind: type[Fault] | None
) -> dict[str, tuple[Callable[..., Report], Any]]:
    """Return the verbs in causal order, each with its options; the fault is in that of its kind."""
    given: dict[str, Any] = {"weights": options.weights}
    of_model = {**given, "candidate": options.candidate}
    longest, fault = int(source.config["n_positions"]), options.inject_fault
    steps: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    words: dict[str, Any] = {}
    pairs: dict[str, Any] = {}
    steps_of = training
    if plan_of_all.is_large(source.config):
        steps = {"steps": 2, "dtype": "float64", "backend": "fused"}
        texts = {"num_prompts": 2, "max_new_tokens": min(8, longest - SEARCHED)}
        if kind is not InvariantFault:  # not every backend can have every fault
            pairs = {"backend": "fused"}
        if options.candidate is None:  # gradients and moments of twelve blocks take 10 GB
            steps_of = partial(training, blocks=3)
    if fault and kind is TokenizerFault:
        words = {"pretokenizer": faults_of(TokenizerFault)[fault].of[0]}

    def injected(wanted: type[Fault]) -> dict[str, Any]:
        return {"inject_fault": fault} if kind is wanted else {}

    calls: dict[str, Any] = {"device": options.device}
    rows = {**calls, "seq_len": min(128, longest)}
    return {
        "doctor": (doctor, DoctorOptions(**given)),
        "weights": (weights, WeightsOptions(**given)),
        "tokens": (tokens, TokensOptions(**given, **words, **injected(TokenizerFault))),
        "layerwise": (layerwise, None),
        "gradients": (gradients, GradientsOptions(**of_model, **rows, **injected(BackwardFault))),
        "invariants": (
            invariants,
            InvariantsOptions(**of_model, **calls, **pairs, **injected(InvariantFault)),
        ),
        "training": (steps_of, TrainingOptions(**of_model, **steps, **injected(TrainingFault))),
        "generation": (
            generation,
            GenerationOptions(**given, **texts, **injected(GenerationFault)),
        ),
        "golden": (golden, GoldenOptions(**given)),
    }


class _ModelsOfAll:
    """The models of the plan of inputs, each made once for a config and a dtype."""

    def __init__(self, options: AllOptions, source: Weights, fault: str | None) -> None:
        self._candidate, self._source, self._fault = options.candidate, source, fault
        self._device = backends.resolve_device(options.device)
        found, _ = backends.chosen_backends("all", self._device)
        self._backends = [name for name in found if fault is None or name in backends.EAGER]
        self._made: dict[tuple[str, bool], plan_of_all.Both] = {}

    def fitting(self, plan: Sequence[plan_of_all.Case]) -> list[plan_of_all.Case]:
        """Return the cases that the model takes: a candidate may have no mask, and fixed sizes."""
        if self._candidate is None:
            return list(plan)
        model = build_candidate(self._candidate, self._source)
        takes_all = shows_taps(model) and _takes_padding(model)
        return [
            one
            for one in plan
            if not one.config and (takes_all or one.inputs.attention_mask is None)
        ]

    def __call__(self, case: plan_of_all.Case) -> plan_of_all.Both:
        """Return the models by backend, and the reference."""
        in_float64 = case.dtype == "float64" and self._candidate is None
        models, reference = self._of(case.config, in_float64=in_float64)
        wanted = (*case.backends, CANDIDATE)
        return {name: model for name, model in models.items() if name in wanted}, reference

    def _of(self, config: Mapping[str, Any], *, in_float64: bool) -> plan_of_all.Both:
        key = str(dict(config)), in_float64
        if key not in self._made and in_float64:
            models, reference = self._of(config, in_float64=False)
            found = model_in_dtype({**models, "huggingface": reference}, torch.float64)
            theirs = cast("OpenAIGPTLMHeadModel", found.pop("huggingface"))
            self._made[key] = found, theirs
        elif key not in self._made:
            source = self._source
            if config:
                source = dataclasses.replace(
                    source, config={**source.config, **config}, folder=None
                )
            reference = build_huggingface(source)
            nn.Module.to(reference, self._device)
            models = {name: model.to(self._device) for name, model in self._ours(source).items()}
            self._made[key] = models, reference
        return self._made[key]

    def _ours(self, source: Weights) -> dict[str, nn.Module]:
        if self._candidate is not None:
            return by_backend(build_candidate(self._candidate, source))
        right = build_ours(source)
        models: dict[str, nn.Module] = {name: right.with_backend(name) for name in self._backends}
        if self._fault is None:
            return models
        fault, block = parse(self._fault, [ForwardFault], n_layer=source.config["n_layer"])
        faulty: dict[str, nn.Module] = {}
        for name in models:
            with contextlib.suppress(ValueError):  # not every backend can have every fault
                faulty[name] = forward.inject(right.with_backend(name), fault.name, block)
        return faulty


def _takes_padding(model: nn.Module) -> bool:
    given = plan_of_all.padded(torch.zeros(1, 2, dtype=torch.long), "left")
    try:
        with torch.no_grad():
            call_candidate(model, given, no_tap)
    except InconclusiveError:
        return False
    except Exception:  # noqa: BLE001 - the comparison reports it
        return True
    return True
