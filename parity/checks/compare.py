"""Compare any causal language model with any other, unmodified: both are watched."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, OpenAIGPTLMHeadModel, PreTrainedModel

from parity.align import TOLERANCE, Target, find_layout, match_parameters
from parity.checks.layerwise import layerwise
from parity.checks.watching import appendix, wrong_operations
from parity.core.comparison import CANDIDATE, evaluating
from parity.core.environment import environment, pinned_settings
from parity.core.inputs import Inputs
from parity.core.metrics import Status
from parity.core.results import FirstDivergence, Mode, Plan, Report, Row, finish
from parity.errors import InconclusiveError, InputRejectedError, ParityError, UsageError, message_of
from parity.watch import Event, Number, Trace, replay, watch
from parity.watch.calling import find_way, logits_in
from parity.watched import Judgement, in_dtype, judge, tap_of
from reference.compat import describe, dtype_keyword, unpickles_safely
from reference.huggingface import quiet
from scratch_gpt.checkpoint.strict_io import require_memory


def compare(
    candidate: nn.Module,
    reference: nn.Module,
    token_ids: Tensor,
    *,
    call: str | None = None,
    identity: Mapping[str, Any] | None = None,
    **options: Any,  # noqa: ANN401 - of layerwise
) -> Report:
    """Compare an unmodified model with a reference, operation by operation.

    With Hugging Face's GPT-1 as the reference this is `layerwise`: there is an oracle, and mistakes
    are named. Another reference is watched itself. Then the comparison is in float64 alone, there
    is no second reference, and mistakes are placed.

    Args:
        candidate: Any module that takes token ids and returns logits.
        reference: `OpenAIGPTLMHeadModel`, or any other such module.
        token_ids: `[batch time]`.
        call: How the candidate is called, as `model(ids, targets=ids)`; None to find out.
        identity: Weights, config and code, for the report.
        options: Those of `layerwise`.

    Raises:
        ParityError: The comparison cannot start.
    """
    if isinstance(reference, OpenAIGPTLMHeadModel):
        return layerwise(candidate, reference, token_ids, call=call, identity=identity, **options)
    inputs = Inputs(token_ids=token_ids)
    with (
        pinned_settings(),
        evaluating([reference, candidate]),
        in_dtype(reference, torch.float64),
        in_dtype(candidate, torch.float64),
    ):
        settings = environment()
        targets = reference_targets(reference, inputs)
        vocab_size = targets[-1].value.shape[-1]
        way = find_way(candidate, token_ids[:, :5], vocab_size, call)
        judgement = judge(candidate, way, inputs, targets)
        result = way.call(candidate, inputs)
        logits = logits_in(result, token_ids, vocab_size, way.layout)
        matches = match_parameters(
            dict(candidate.named_parameters()), dict(reference.named_parameters())
        )
    rows = list(_rows(judgement, targets, logits.tensor))
    first = next((row for row in rows if row.status is not Status.PASS), None)
    names = [row.tap for row in rows]
    report = finish(
        "compare",
        rows=rows,
        plan=Plan.of({CANDIDATE: (len(names), len(names))}),
        identity=identity,
        environment=settings,
        first_divergence=first
        and FirstDivergence(tap=first.tap, why=first.detail, suspects="", row=first),
        inputs={"compared with": "one reference, no oracle", **inputs.digests()},
    )
    failed = first is not None
    return dataclasses.replace(
        report,
        wrong=list(wrong_operations(judgement.mistakes if failed else ())),
        appendix=[appendix(report, way.text, matches, judgement)],
        details={"parameters": [str(match) for match in matches]},
    )


def load_reference(path: Path) -> PreTrainedModel:
    """Return Hugging Face's causal language model of a config, in float32 and evaluation mode.

    Weights in the config's folder are loaded. Without any they are drawn from a seed, and no gain
    is 1 and no bias 0, so that every parameter matters. Nothing is downloaded, no code is run.

    Args:
        path: A `config.json`, or a folder with one.

    Raises:
        UsageError: There is none; or it is a GPT-1's, which needs no other reference.
        InputRejectedError: It is damaged, or of no causal language model; or the weights are.
        EnvironmentUnfitError: This machine has too little memory.
    """
    where = f"--reference {path}"
    fix = "name a config.json of a causal language model, or a folder with one"
    file = path / "config.json" if path.is_dir() else path
    if not file.is_file():
        raise UsageError("there is no config", where=where, fix=fix)
    with _rejecting(where, fix):
        config = AutoConfig.from_pretrained(file, local_files_only=True, trust_remote_code=False)
    if config.model_type == "openai-gpt":
        raise UsageError(
            "it is a GPT-1's config, and GPT-1 has a reference and an oracle already",
            where=where,
            fix="leave --reference out; --weights names a folder of weights",
        )
    with _rejecting(where, fix), torch.device("meta"):
        empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    require_memory(
        24 * sum(parameter.numel() for parameter in empty.parameters()),
        "the reference and a candidate, in float32 and float64,",
        where=where,
        fix="use a smaller config of the same architecture",
    )
    with _rejecting(where, fix):
        model: PreTrainedModel = _filled(path, config, where).eval()
        return model


def weight_files(path: Path) -> list[Path]:
    """Return the files of weights in a folder."""
    files = path.iterdir() if path.is_dir() else ()
    return sorted(one for one in files if one.suffix in (".safetensors", ".bin"))


def source_of(path: Path) -> dict[str, str]:
    """Return where the weights of a reference are from, and the digest of their files."""
    files = weight_files(path)
    if not files:
        return {"source": "drawn from a fixed seed"}
    whole = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            digest = hashlib.file_digest(opened, "sha256").hexdigest()
        whole.update(f"{digest}  {file.name}\n".encode())
    return {
        "source": f"those in {path}",
        "sha256": digest if len(files) == 1 else whole.hexdigest(),
    }


@contextlib.contextmanager
def _rejecting(where: str, fix: str) -> Iterator[None]:
    """Raise any error of transformers as a rejection: it is more likely the config's than ours."""
    try:
        with quiet():
            yield
    except ParityError:
        raise
    except Exception as error:
        raise InputRejectedError(
            f"transformers makes no model of it: {type(error).__name__}: {message_of(error)}",
            where=where,
            fix=fix,
        ) from error


def _filled(path: Path, config: Any, where: str) -> Any:  # noqa: ANN401 - as transformers
    """Return the model with the weights of its folder, or with drawn ones.

    Raises:
        InputRejectedError: A parameter is in no file, or reading the files could run code.
    """
    # Eager attention has scores and weights; the fused one also scales query and key apart.
    options = {**dtype_keyword(torch.float32), "attn_implementation": "eager"}
    if files := weight_files(path):
        if not unpickles_safely() and all(one.suffix == ".bin" for one in files):
            raise InputRejectedError(
                f"files of torch.save are not read with torch {describe('torch')}",
                where=where,
                fix="use safetensors, or convert the files with torch 2.10 or newer",
            )
        options |= {"local_files_only": True, "output_loading_info": True}
        loaded: Any = AutoModelForCausalLM.from_pretrained(path, trust_remote_code=False, **options)
        model, info = loaded
        if missing := sorted(info["missing_keys"]):
            raise InputRejectedError(
                f"{len(missing)} parameters are in no file: {', '.join(missing[:3])}",
                where=where,
                fix="save the whole model, or remove the files: weights are drawn then",
            )
        return model
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False, **options)
        for parameter in model.parameters():
            scale = min(parameter.shape) ** -0.5 if parameter.ndim > 1 else 0.2
            parameter.add_(scale * torch.randn_like(parameter))
    return model


def reference_targets(reference: nn.Module, inputs: Inputs) -> list[Target]:
    """Return the operations of a reference as targets: outputs of its modules, and the rest.

    Raises:
        InconclusiveError: It cannot be called on token ids.
    """
    size = next((m.num_embeddings for m in reference.modules() if isinstance(m, nn.Embedding)), 1)
    try:
        way = find_way(reference, inputs.token_ids[:, :5], size)
    except InconclusiveError as error:
        raise InconclusiveError(
            "the reference returns no logits for token ids",
            where=f"{type(reference).__name__}: {error.what}",
            fix="use a causal language model",
        ) from error
    trace = watch(reference, lambda: way.call(reference, inputs))
    kept = dict(_named(reference, trace))
    values: dict[Number, Tensor] = {}

    def visit(number: Number, tensor: Tensor) -> None:
        if number in kept:
            values[number] = tensor.detach().clone()

    result = replay(reference, lambda: way.call(reference, inputs), visit)
    logits = logits_in(result, inputs.token_ids, size)
    made = [trace.made.get(id(leaf)) for leaf in (logits.raw,)]
    feeds: dict[Number, tuple[Number, ...]] = {}  # of each event, the kept ones before it
    for event in trace.events:
        before = [n for one in event.inputs for n in ([one] if one in kept else feeds.get(one, ()))]
        feeds[event.number] = tuple(dict.fromkeys(before))
    numbers = [number for number in kept if number not in made]
    targets = [
        Target(
            name=kept[number],
            value=values[number],
            inputs=tuple(kept[one] for one in feeds[number]),
            heads=1 if values[number].ndim == 4 else None,  # noqa: PLR2004
            causal=_is_masked(values[number]),
        )
        for number in numbers
        if values[number].dtype == torch.float64
    ]
    known = {target.name for target in targets}
    targets = [
        dataclasses.replace(target, inputs=[name for name in target.inputs if name in known])
        for target in targets
    ]
    last = targets[-1].name
    return [*targets, Target(name="logits", value=logits.tensor.double(), inputs=(last,))]


def _is_masked(value: Tensor) -> bool:
    square = value.ndim > 1 and value.shape[-1] == value.shape[-2] > 1
    return square and float(value.min()) < -1e30  # noqa: PLR2004 - no score is so low


def _named(reference: nn.Module, trace: Trace) -> Iterator[tuple[Number, str]]:
    """Yield the events to compare, with names: of a module without parts only its last operation.

    What depends on no parameter, such as a mask, is nothing to compare.
    """
    leaves = {name for name, part in reference.named_modules() if not any(part.children())}
    parameters = {name for name, _ in reference.named_parameters()}
    counts: dict[str, int] = {}
    reached: set[Number] = set()
    for event in trace.events:
        if parameters & {*event.leaves} or reached & {*event.inputs}:
            reached.add(event.number)

    def of(event: Event) -> tuple[str, bool]:
        return event.module, event.module in leaves

    for (module, is_leaf), run in groupby(trace.events, of):
        made = [
            event
            for event in run
            if event.number in reached
            and not event.shares
            and (event.inputs or event.kernel == "embedding")
            and event.number[1] == 0
        ]
        if is_leaf and made:  # a norm also makes its means, after its output
            last = made[-1].kernel, made[-1].inputs
            made = [next(event for event in made if (event.kernel, event.inputs) == last)]
        for event in made:
            name = module if is_leaf else f"{module}: {event.kernel}".removeprefix(": ")
            counts[name] = counts.get(name, 0) + 1
            yield event.number, name if counts[name] == 1 else f"{name} {counts[name]}"


def _rows(judgement: Judgement, targets: Sequence[Target], logits: Tensor) -> Iterator[Row]:
    """Yield a row for every target that is there, and for every mistake if the logits differ."""
    last = targets[-1]
    value = last.value[:, -logits.shape[1] :]
    layout, error = find_layout(logits, value, limit=float("inf"))
    failed = layout is None or not error <= TOLERANCE
    wrong = {tap_of(one.target): one for one in judgement.mistakes if failed}
    for target in targets:
        places = judgement.places.get(target.name, ())
        is_last = target is last
        if not (places or target.name in wrong or is_last):
            continue
        status = Status.FAIL if target.name in wrong or (is_last and failed) else Status.PASS
        found = error if is_last else max((place.error for place in places), default=None)
        yield Row(
            tap=target.name,
            backend=CANDIDATE,
            dtype="float64",
            mode=Mode.FLOAT64,
            against="reference",
            shape=tuple(target.value.shape),
            status=status,
            error_ours=found,
            required_tolerance=found,
            bound=TOLERANCE,
            detail="the candidate makes something else" if status is Status.FAIL else "",
        )
