"""Run right models through every check, with settings drawn from a seed: none may fail.

    python tests/clean_runs.py --runs 40              run, and print a table
    python tests/clean_runs.py --output record.json   write the record too, one line for each run
    python tests/clean_runs.py --runs 1 --first 17    repeat one run, and print its report

All runs share one process. Each has its own number, from which all of its settings are drawn: the
verb, the sizes and the weights of a small model, rows, tokens, padding, dtype, backend, threads.
A run may be inconclusive only for a reason that its report names. Exit code 1: a run failed.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import random
import sys
import tempfile
import time as clock
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from parity import verbs
from parity.checkpoints.weights import Provenance, Weights
from parity.checks.gradients.check import gradients
from parity.checks.layerwise import layerwise
from parity.core import backends, inputs
from parity.core.comparison import no_progress
from parity.core.inputs import Inputs
from parity.core.results import Report, Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.errors import InconclusiveError
from parity.options import (
    DoctorOptions,
    GenerationOptions,
    InvariantsOptions,
    TokensOptions,
    TrainingOptions,
    WeightsOptions,
)
from reference import surrogate
from scratch_gpt import Tokenizer

HOME = Path(__file__).parents[1]
KERNEL = f"{HOME / 'examples' / 'my_attention.py'}:attention"
LONGEST = 77
DTYPES = ("float32", "float32", "float64", "bfloat16", "float16")
BACKENDS = ("plain", "tiled", "fused")

Settings = dict[str, Any]


# Models.


def drawn_config(draw: random.Random) -> dict[str, int]:
    """Return the sizes of a small model; one in five has as many positions as tokens."""
    heads = draw.randint(1, 4)
    vocab_size = draw.randint(40, 300)
    positions = draw.randint(8, 128)
    if draw.random() < 0.2:
        positions = vocab_size = draw.randint(40, 128)
    return {
        "vocab_size": vocab_size,
        "n_positions": positions,
        "n_embd": heads * draw.randint(math.ceil(8 / heads), 64 // heads),
        "n_layer": draw.randint(1, 3),
        "n_head": heads,
    }


def weights_of(config: Mapping[str, int], name: str, scale: float) -> Weights:
    """Return weights by the surrogate's recipe, drawn from a name; their matrices are scaled."""
    surrogate.SIZES[name] = dict(config)
    drawn = surrogate.draw(name)
    del surrogate.SIZES[name]
    tensors = {
        key: np.float32(scale) * tensor if key.startswith("h.") and tensor.ndim > 1 else tensor
        for key, tensor in drawn.tensors.items()
    }
    provenance = Provenance(source=name, revision="drawn", sha256=drawn.sha256)
    return Weights(config=drawn.config, tensors=tensors, provenance=provenance)


# Settings, and the run of each verb.


def drawing(key: str | int) -> random.Random:
    """Return a stream of numbers."""
    return random.Random(key)  # noqa: S311 - settings, no secrets


def drawn_settings(seed: int, number: int) -> Settings:
    """Return the settings of a run."""
    draw = drawing(f"{seed}/{number}")
    verb = VERBS[number % len(VERBS)]
    config = drawn_config(draw)
    found: Settings = {
        "verb": verb,
        **config,
        "scale": round(2.0 ** draw.uniform(-1.0, 1.0), 3),
        "seed": draw.randrange(1_000_000),
        "threads": draw.randint(1, 2),
        "dtype": draw.choice(DTYPES),
        "backend": draw.choice(BACKENDS),
        "batch": draw.randint(1, 9),
        "time": draw.randint(1, min(LONGEST, config["n_positions"])),
    }
    return found | _RUNS[verb][0](draw, found)


Run = Callable[[Settings, Weights, Path], Report]


def of_models(draw: random.Random, found: Settings) -> Settings:
    """Return how rows are padded, and whether a kernel of one's own runs."""
    chosen = {"padding": draw.choice(["none", "none", "right", "left", "both"])}
    if draw.random() < 0.1:
        chosen["backend"] = "kernel"
    if found["verb"] == "gradients":
        chosen["time"] = max(2, found["time"])
    return chosen


def padded(draw: random.Random, ids: Tensor, padding: str) -> Inputs:
    """Return rows of unequal lengths, the first of full length; on the left with positions."""
    if padding == "none":
        return Inputs(token_ids=ids)
    batch, time = ids.shape
    mask, positions = torch.ones(batch, time, dtype=torch.bool), torch.arange(time).repeat(batch, 1)
    for row in range(1, batch):
        count = draw.randrange(time)
        if padding == "right" or (padding == "both" and draw.random() < 0.5):
            mask[row, time - count :] = False
        else:
            mask[row, :count] = False
            positions[row] = (positions[row] - count).clamp(min=0)
    return Inputs(token_ids=ids * mask, positions=positions, attention_mask=mask)


def run_models(check: Callable[..., Report], of: Settings, weights: Weights, _: Path) -> Report:
    """Run `layerwise` or `gradients`."""
    ids = inputs.seeded(
        batch=of["batch"], time=of["time"], vocab_size=of["vocab_size"], seed=of["seed"]
    )
    given = padded(drawing(of["seed"]), ids.token_ids, of["padding"])
    device = torch.device("cpu")
    is_own = of["backend"] == backends.KERNEL
    with backends.own_kernel(KERNEL, device) if is_own else contextlib.nullcontext():
        return check(
            {of["backend"]: build_ours(weights).with_backend(of["backend"])},
            build_huggingface(weights),
            given.token_ids,
            positions=given.positions,
            attention_mask=given.attention_mask,
            dtype=of["dtype"],
        )


MODELS_ALONE = "[ao][dp][ae]*"
"""The steps of both variants, adamw and openai, without the trainer's own small runs: these take
longer, and do not depend on the model."""


def of_training(draw: random.Random, found: Settings) -> Settings:
    """Return steps and rows."""
    return {
        "time": max(2, found["time"]),
        "batch": draw.randint(1, 3),
        "micro_batches": draw.randint(1, 3),
        "steps": draw.randint(2, 3),
        "dropout": draw.random() < 0.3,
        "taps": "*" if draw.random() < 0.1 else MODELS_ALONE,
    }


def run_training(of: Settings, _: Weights, folder: Path) -> Report:
    """Run `training`."""
    options = TrainingOptions(
        weights=str(folder),
        dtype=of["dtype"],
        backend=of["backend"],
        seq_len=of["time"],
        batch_size=of["batch"],
        **{key: of[key] for key in ("micro_batches", "steps", "dropout", "seed", "taps")},
    )
    return verbs.training(options, no_progress)


def of_generation(draw: random.Random, found: Settings) -> Settings:
    """Return prompts, and a number of new tokens for which there is room."""
    most = min(12, found["n_positions"] - 5, found["n_positions"] // 2)
    return {"prompts": draw.randint(1, 3), "new": draw.randint(2, most)}


def run_generation(of: Settings, _: Weights, folder: Path) -> Report:
    """Run `generation`."""
    options = GenerationOptions(
        weights=str(folder),
        dtype=of["dtype"],
        seed=of["seed"],
        num_prompts=of["prompts"],
        max_new_tokens=of["new"],
    )
    return verbs.generation(options, no_progress)


def of_tokens(draw: random.Random, _: Settings) -> Settings:
    """Return the size of a vocabulary, and what is compared."""
    return {"merges": draw.randint(10, 200), "lines": draw.randint(5, 20)}


def run_tokens(of: Settings, _: Weights, folder: Path) -> Report:
    """Run `tokens` on a vocabulary of some lines, and on other lines."""
    lines = (HOME / "tests" / "small_text.txt").read_text("utf-8").splitlines()
    drawing(of["seed"]).shuffle(lines)
    Tokenizer.train(lines[: of["lines"]], merges=of["merges"]).save_pretrained(folder)
    corpus = folder / "corpus.txt"
    corpus.write_text("\n".join(lines[of["lines"] :]), "utf-8")
    options = TokensOptions(
        weights="tiny", vocabulary=folder, corpus=(corpus,), num_strings=20, seed=of["seed"]
    )
    return verbs.tokens(options, no_progress)


def run_invariants(of: Settings, _: Weights, folder: Path) -> Report:
    """Run `invariants`."""
    options = InvariantsOptions(
        weights=str(folder),
        dtype=of["dtype"],
        backend=of["backend"],
        seq_len=of["time"],
        seed=of["seed"],
    )
    return verbs.invariants(options, no_progress)


def run_weights(_: Settings, __: Weights, folder: Path) -> Report:
    """Run `weights`."""
    return verbs.weights(WeightsOptions(weights=str(folder)), no_progress)


def run_doctor(of: Settings, _: Weights, folder: Path) -> Report:
    """Run `doctor`."""
    options = DoctorOptions(
        weights=str(folder), batch_size=of["batch"], seq_len=of["time"], seed=of["seed"]
    )
    return verbs.doctor(options, no_progress)


def nothing(_: random.Random, __: Settings) -> Settings:
    """Return no further setting."""
    return {}


_RUNS: Mapping[str, tuple[Callable[[random.Random, Settings], Settings], Run]] = {
    "layerwise": (of_models, partial(run_models, layerwise)),
    "gradients": (of_models, partial(run_models, gradients)),
    "training": (of_training, run_training),
    "generation": (of_generation, run_generation),
    "tokens": (of_tokens, run_tokens),
    "weights": (nothing, run_weights),
    "invariants": (nothing, run_invariants),
    "doctor": (nothing, run_doctor),
}
VERBS = (
    *("layerwise", "gradients", "invariants", "layerwise", "weights", "layerwise"),
    *("gradients", "layerwise", "training", "layerwise", "invariants", "layerwise"),
    *("gradients", "layerwise", "layerwise", "generation", "invariants", "layerwise"),
    *("gradients", "weights", "layerwise", "doctor", "layerwise", "training"),
    *("layerwise", "invariants", "layerwise", "gradients", "layerwise", "weights"),
    *("tokens", "layerwise", "gradients", "layerwise", "invariants", "layerwise"),
    *("training", "layerwise", "doctor", "gradients", "layerwise"),
)
"""The verbs of consecutive runs: those that judge rounding are run more often."""


# Results.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Result:
    """What a run found.

    Attributes:
        fraction: The largest error over its bound; `at` is where.
        why: What is no pass, or why there is no verdict.
    """

    number: int
    settings: Settings
    verdict: str
    fraction: float
    at: str
    why: Sequence[str]
    seconds: float


def run(seed: int, number: int) -> tuple[Result, Report | None]:
    """Run one check."""
    of = drawn_settings(seed, number)
    torch.set_num_threads(of["threads"])
    started = clock.perf_counter()
    report: Report | None = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = weights_of(
            {key: of[key] for key in surrogate.SIZES["tiny"]}, f"{seed}/{number}", of["scale"]
        )
        try:
            build_ours(weights).save_pretrained(folder)
            report = _RUNS[of["verb"]][1](of, weights, folder)
        except InconclusiveError as error:
            verdict, why = "INCONCLUSIVE", [error.what]
        except Exception as error:  # noqa: BLE001 - it is the finding
            verdict, why = "ERROR", [f"{type(error).__name__}: {error}"]
        else:
            verdict, why = report.verdict.name, list(reasons(report))
            if not why and report.verdict is Verdict.INCONCLUSIVE:
                verdict = "ERROR"  # the report must name the reason
    fraction, at = used(report) if report is not None else (0.0, "")
    seconds = round(clock.perf_counter() - started, 2)
    return (
        Result(
            number=number,
            settings=of,
            verdict=verdict,
            fraction=fraction,
            at=at,
            why=why,
            seconds=seconds,
        ),
        report,
    )


def reasons(report: Report) -> Iterator[str]:
    """Yield why a report is no pass."""
    if report.verdict is Verdict.PASS:
        return
    if report.first_divergence is not None:
        yield f"{report.first_divergence.tap}: {report.first_divergence.why}"
    yield from (reason.what for reason in report.reasons)
    yield from (f"{one.name}: {one.why}" for one in report.findings if one.fit is False)


def used(report: Report) -> tuple[float, str]:
    """Return the largest error over its bound, and where it is."""
    found = [
        (row.required_tolerance / row.bound, f"{row.tap}, {row.dtype} {row.mode}")
        for row in report.results
        if row.required_tolerance is not None and row.bound > 0.0
    ]
    largest, at = max(found, default=(0.0, ""))
    return float(f"{largest:.3g}"), at


COLUMNS = ("number", "verb", "dtype", "verdict", "fraction", "at", "seconds", "why")


def line_of(result: Result) -> list[Any]:
    """Return what the record has of a run; its settings follow from its number."""
    of = {**result.settings, **dataclasses.asdict(result)}
    return [of[name] for name in COLUMNS]


def table(record: Mapping[str, Any], key: str) -> Iterator[str]:
    """Yield a Markdown table with a line for each verb or dtype."""
    runs = [dict(zip(record["columns"], line, strict=True)) for line in record["runs"]]
    yield f"| {key} | runs | passed | inconclusive | failed | largest error over its bound |"
    yield "|---|---|---|---|---|---|"
    for value in [*sorted({one[key] for one in runs}), "all"]:
        of_it = [one for one in runs if value in ("all", one[key])]
        counts = [sum(one["verdict"] == kind for one in of_it) for kind in ("PASS", "INCONCLUSIVE")]
        largest = max(one["fraction"] for one in of_it)
        cells = (len(of_it), *counts, len(of_it) - sum(counts), f"{largest:.2f}")
        yield f"| {value} | {' | '.join(map(str, cells))} |"


def recorded(results: Sequence[Result], seed: int) -> dict[str, Any]:
    """Return the record."""
    versions = {name: metadata.version(name) for name in ("torch", "transformers", "numpy")}
    lines = list(map(line_of, results))
    return {"seed": seed, "versions": versions, "columns": COLUMNS, "runs": lines}


def dumped(record: Mapping[str, Any]) -> str:
    """Return the record as JSON, with a line for each run."""
    parts = {key: json.dumps(value) for key, value in record.items()}
    parts["runs"] = "[\n" + ",\n".join(map(json.dumps, record["runs"])) + "\n]"
    return "{" + ",\n".join(f'"{key}": {text}' for key, text in parts.items()) + "}\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print and write; return the exit code."""
    words = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=words[0],
        epilog=words[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=int, default=1_000, help="number of runs (1000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first run (0)")
    parser.add_argument("--seed", type=int, default=0, help="of all settings (0)")
    parser.add_argument("--output", type=Path, help="file of the record")
    asked = parser.parse_args(arguments)
    results: list[Result] = []

    def show(text: str) -> None:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()

    for number in range(asked.first, asked.first + asked.runs):
        result, report = run(asked.seed, number)
        results.append(result)
        of = result.settings
        line = f"{number} {of['verb']} {of['dtype']} {result.verdict} {result.fraction:.2f} "
        show(line + f"{result.at} {result.seconds:.1f} s")
        if result.verdict != "PASS":
            show("\n  ".join([f"  {of}", *result.why]))
        if asked.runs == 1 and report is not None:
            show(str(report))
        if asked.output is not None and (
            number % 10 == 9 or number == asked.first + asked.runs - 1
        ):
            asked.output.write_text(dumped(recorded(results, asked.seed)), encoding="utf-8")
    for key in ("verb", "dtype"):
        show("\n".join(table(recorded(results, asked.seed), key)))
    return int(any(one.verdict not in ("PASS", "INCONCLUSIVE") for one in results))


if __name__ == "__main__":
    sys.exit(main())
