"""Record the verdict of every check and every injected fault, and compare two such records.

    python tests/record_verdicts.py --output before.jsonl [--scale tiny|full|all] [--only GLOB]
                                    [--jobs N] [--fresh] [--resume]
    python tests/record_verdicts.py --compare before.jsonl after.jsonl [--limit N]

Record before a refactoring and after it; the comparison lists what the refactoring changed. A
record has one JSON line per run of the command line: exit code, verdict, first divergence, and
every row with its status. Errors of float64 rows and of exact rows are in hexadecimal, to the bit.
Nothing in a record depends on time, versions or wording, and nothing depends on the code's names:
old names are translated to new ones by the tables at the top of this file.

`tiny` runs every verb and every fault in minutes. `full` runs the seeded stand-in weights at full
size (10 GB per job). `--jobs` processes work at once, and each handles many runs; with `--fresh`
every run is a process of its own, which takes seconds longer and records the same. `--resume`
keeps the cases that the file has already and runs the others.
The runs always use one thread per process. If GPT1_VOCABULARY names a folder with the released
vocabulary, `tokens` runs on it too. A run that this machine cannot do, such as `triton` without a
GPU, is recorded with its exit code.

`--compare` exits 1 if a verdict, an exit code, a first divergence or a status differs, or if a case
or a row is missing. Additional cases and rows, and float64 errors that are not bit-equal, are
listed and do not fail; errors that changed by more than a factor of 2 are marked.
"""

import argparse
import contextlib
import dataclasses
import fnmatch
import io
import itertools
import json
import multiprocessing
import os
import re
import runpy
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

# ---- Adapter: every name of the code that this script uses. Adjust it when a name changes. ----

CHECK = "parity.check"
"""The module that `python -m` runs."""

OLD_OPTIONS = {
    "--inject-fault": "--plant",
    "--backend": "--attention",
    "--seq-len": "--time",
    "--num-strings": "--count",
    "--num-prompts": "--prompts",
    "--pretokenizer": "--splitting",
    "--micro-batches": "--parts",
}
"""Cases are written with the new options; one that `--help` does not list takes its old name."""

OLD_VALUES = {
    "--splitting": {"huggingface": "bert"},
    "--plant": {"other-variant": "other-form"},
}
"""Values of old options."""

KEYS = {
    "rows": ("rows", "results"),
    "tap": ("tap", "name"),
    "backend": ("backend", "attention", "subject"),
    "dtype": ("dtype",),
    "mode": ("mode",),
    "against": ("against", "witness", "reference"),
    "status": ("status",),
    "error": ("value", "error_candidate", "error_ours"),
    "first": ("first_divergence",),
    "findings": ("findings",),
    "fit": ("fit",),
    "drift": ("drift", "details"),
    "changes": ("changes", "moves"),
    "check": ("check",),
    "side": ("side", "subject"),
    "largest_change": ("largest_change",),
    "verdict": ("verdict",),
}
"""Keys of a report's JSON: the first that is there is read. `changes` are those of `drift`."""

WORDS = {
    "mode": {"identity": "float64", "propagated": "end-to-end", "isolated": "per-op"},
    "backend": {"ours": "candidate"},
    "against": {"ours": "candidate"},
}
"""Old values and their new words, by column. `--compare` applies them to both records."""

FAULTS = {
    "layerwise": "erf-gelu@3 epsilon@3 unbiased-variance@3 norms-swapped@3 affine-ignored@3 "
    "no-mlp-residual@3 norm-inside-residual@3 projection-transposed@3 heads-interleaved@3 "
    "query-key-swapped@3 scale-missing@3 mask-off-by-one@3 weight-off@3 positions-from-one "
    "string-order bias-dropped@7 final-norm untied-head",
    "plain": "tables-exchanged ids-shifted positions-from-two positions-zero positions-reversed "
    "positions-sinusoidal positions-missing embeddings-scaled token-embeddings-scaled "
    "token-types-added embeddings-normalized positions-skip-id-0 dropout-left-on "
    "query-value-swapped@3 order-key-value-query@3 order-value-query-key@3 packed-by-head@3 "
    "key-value-swapped@3 heads-split-without-transpose@3 heads-fewer@3 heads-more@3 "
    "qkv-transposed@3 c-attn-reshaped@3 c-attn-bias-dropped@3 scale-without-root@3 "
    "scale-of-width@3 scale-of-heads@3 scale-inverted@3 scale-after-softmax@3 query-with-itself@3 "
    "scores-transposed@3 mask-missing@3 mask-strict@3 mask-strict-empty@3 mask-upside-down@3 "
    "mask-inverted@3 "
    "mask-window@3 mask-zero@3 mask-minus-ten@3 mask-added@3 mask-after-softmax@3 "
    "softmax-over-queries@3 softmax-over-heads@3 softmax-missing@3 softmax-bfloat16@3 "
    "softmax-float16@3 attention-dropout-left-on@3 heads-merged-without-transpose@3 "
    "heads-merged-interleaved@3 weights-transposed@3 projection-missing@3 "
    "attn-c-proj-bias-dropped@3 pre-norm@3 pre-norm-final-norm@3 no-attention-residual@3 "
    "attention-residual-twice@3 mlp-of-block-input@3 mlp-before-norm@3 mlp-in-parallel@3 "
    "mlp-residual-twice@3 mlp-residual-from-input@3 mlp-residual-before-norm@3 "
    "mlp-norm-inside-residual@3 epsilon-1e-8@3 epsilon-1e-12@3 epsilon-1e-3@3 "
    "epsilon-outside-root@3 unbiased-deviation@3 variance-without-root@3 rms-norm@3 "
    "rms-norm-with-bias@3 norm-not-centered@3 norm-over-time@3 norm-over-both@3 gain-ignored@3 "
    "norm-bias-ignored@3 gain-bias-swapped@3 gain-plus-one@3 norm-bfloat16@3 norm-float16@3 "
    "ln-2-for-both@3 ln-1-missing@3 norms-missing@3 ln-1-for-both@3 ln-2-missing@3 "
    "c-fc-reshaped@3 quick-gelu@3 relu@3 silu@3 leaky-relu@3 relu-squared@3 tanh@3 "
    "activation-missing@3 gelu-cubic@3 gelu-cubic-rounded@3 gelu-root-rounded@3 "
    "gelu-root-inverted@3 gelu-parenthesis@3 gelu-not-halved@3 gelu-after-c-proj@3 "
    "gelu-bfloat16@3 gelu-float16@3 mlp-c-proj-reshaped@3 mlp-c-proj-bias-dropped@3 "
    "biases-dropped@3 block-skipped@3 blocks-reversed blocks-swapped block-shared "
    "final-norm-repeated head-bias logits-scaled logits-capped logits-softmax "
    "logits-log-softmax logits-shifted",
    "gradients": "loss-not-divided head-detached lookup-detached repeat-overwritten "
    "norm-without-mean@3 norm-without-variance@3 gain-of-one-row@3 bias-of-one-row@3 "
    "erf-derivative@3 delta-missing@3 scale-missing-behind@3 transpose-missing@3 residual-cut@3 "
    "doubled@3",
    "training": "targets-not-shifted parts-not-averaged gradients-kept clip-per-parameter "
    "clip-after-step norm-without-embedding decay-in-gradient decay-on-vectors decay-missing "
    "no-bias-correction correction-one-late epsilon-inside-root other-variant schedule-off-by-one "
    "no-warmup beta1 beta2 moments-not-carried tied-stepped-twice",
    "dropout": "dropout-on-norm no-attention-dropout no-embedding-dropout keep-probability",
    "generation": "newest-key-unseen key-overwritten value-of-the-last cache-in-half "
    "positions-stuck cache-stale beams-not-reordered values-not-reordered "
    "penalty-divides penalty-for-each n-gram-longer n-gram-misses-the-last "
    "temperature-twice temperature-multiplies top-k-one-more top-k-cuts-ties "
    "top-p-stops-short second-likeliest not-drawn beams-all-alike beams-of-logits "
    "length-penalty-reversed length-penalty-missing end-ignored stops-too-soon "
    "first-id-never-drawn last-id-never-drawn draw-at-the-edge ties-to-the-last "
    "seed-for-every-row seed-ignored seed-in-32-bits streams-ignored "
    "one-stream-in-turn rules-in-half newest-unseen-by-rules samples-not-adjacent "
    "end-of-id-0-ignored end-not-filled end-filled-with-0 end-of-one-ends-all "
    "runs-on-after-all-ends end-in-the-prompt slide-from-one-later slide-by-one "
    "slide-to-the-prompt stops-one-short beams-past-the-positions "
    "overflow-without-error chunk-sees-itself-alone chunk-positions-from-0 "
    "never-reversed beams-filled-with-0 beams-one-short beams-worst-first "
    "beams-few-candidates beam-ties-to-the-last finished-forgotten spaces-lost "
    "stop-string-kept held-back-lost",
    "huggingface": "cleaning-skipped cjk-joined accents-kept case-kept punctuation-joined "
    "unk-split places-in-bytes header-counted last-merge-dropped leftmost-first no-end-of-word "
    "unknown-is-one unknown-dropped unknown-fused",
    "original": "case-kept unk-kept newline-dropped backslash-padded unrepaired header-counted "
    "last-merge-dropped leftmost-first no-end-of-word unknown-is-one unknown-dropped "
    "unknown-fused",
}
"""Injected faults by verb; `dropout` is of `training`, the pretokenizers are of `tokens`, and
`plain` is of `layerwise` on that backend alone. A fault with a block of its own, or with none, is
given without one."""

# ---- End of the adapter. ----

HERE = Path(__file__).resolve().parent
sys.path = [entry for entry in sys.path if Path(entry).resolve() != HERE]  # it has a `parity` too
EXACT = ("float64", "exact")
"""Modes whose errors are recorded: rounding in other modes depends on the order of sums."""
BACKENDS = ("plain", "tiled", "fused", "compiled", "triton")


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of the command line: a verb and its options, in the new words."""

    verb: str
    options: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()
    fresh: bool = False


@dataclasses.dataclass(frozen=True)
class Case:
    """A run to record, and the runs whose reports it reads, by the files they write."""

    name: str
    run: Run
    before: tuple[tuple[str, Run], ...] = ()


def _run(verb: str, *options: str, weights: str = "tiny", fresh: bool = False) -> Run:
    # Compiled code is cached per process and recompiled up to a limit: no other run may precede it.
    # A fault ends before anything is compiled.
    compiled = "compiled" in options and "--inject-fault" not in options
    return Run(verb, ("--weights", weights, *options), fresh=fresh or compiled)


def _clean_and(faults: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "clean", ()
    for fault in faults.split():
        yield fault, ("--inject-fault", fault)


def _forward_and_backward() -> Iterator[Case]:
    short = ("--seq-len", "37")
    faults = {"layerwise": FAULTS["layerwise"]}
    faults["gradients"] = f"{FAULTS['layerwise']} {FAULTS['gradients']}"
    for verb, backend in itertools.product(faults, BACKENDS):
        device = ("--device", "auto") if backend == "triton" else ()
        for name, fault in _clean_and(faults[verb]):
            run = _run(verb, *short, *device, "--backend", backend, *fault)
            yield Case(f"{verb}/{backend}/{name}", run)
    for name in FAULTS["plain"].split():
        run = _run("layerwise", *short, "--backend", "plain", "--inject-fault", name)
        yield Case(f"layerwise/plain/{name}", run)
    for verb, backend in itertools.product(faults, ("plain", "fused")):
        variants = {f"dtype-{name}": ("--dtype", name) for name in ("float64", "bfloat16")}
        variants["padded"] = ("--token-ids", "5,17,90,4,4,200,31;8,9,210")
        variants["selected"] = (*short, "--taps", "h.3.*")
        variants["block-99"] = (*short, "--inject-fault", "erf-gelu@99")
        variants["unknown-fault"] = (*short, "--inject-fault", "no-such-fault")
        for name, options in variants.items():
            yield Case(f"{verb}/{backend}/{name}", _run(verb, "--backend", backend, *options))
    broken = ("--candidate", str(HERE.parent / "examples" / "broken_gpt.py"))
    for verb in faults:
        yield Case(f"{verb}/broken_gpt.py", _run(verb, *short, *broken, "--backend", "plain"))


def _training() -> Iterator[Case]:
    plain = ("--seq-len", "37", "--backend", "plain")
    for backend in BACKENDS[1:]:
        run = _run("training", "--seq-len", "37", "--backend", backend)
        yield Case(f"training/{backend}/clean", run)
    yield Case("training/plain/one-part", _run("training", *plain, "--micro-batches", "1"))
    for name, fault in _clean_and(FAULTS["training"]):
        yield Case(f"training/plain/{name}", _run("training", *plain, *fault))
    for name, fault in _clean_and(FAULTS["dropout"]):
        yield Case(f"training/dropout/{name}", _run("training", *plain, "--dropout", *fault))


def _generation_and_tokens() -> Iterator[Case]:
    few = ("--num-prompts", "4", "--max-new-tokens", "12")
    for name, fault in _clean_and(FAULTS["generation"]):
        yield Case(f"generation/{name}", _run("generation", *few, *fault))
    strings = ("--num-strings", "200", "--corpus", str(HERE / "small_text.txt"))
    vocabularies = {"trained": ()}
    if folder := os.environ.get("GPT1_VOCABULARY"):
        vocabularies["released"] = ("--vocabulary", str(Path(folder).resolve()))
    for (kind, vocabulary), split in itertools.product(
        vocabularies.items(), ("huggingface", "original")
    ):
        for name, fault in _clean_and(FAULTS[split]):
            run = _run("tokens", *strings, *vocabulary, "--pretokenizer", split, *fault)
            yield Case(f"tokens/{kind}/{split}/{name}", run)


def _rest() -> Iterator[Case]:
    for verb in ("weights", "doctor", "golden"):
        yield Case(f"{verb}/clean", _run(verb))
    wanted = ("--seq-len", "37", "--backend", "plain", "--fingerprints")
    clean = {verb: _run(verb, *wanted) for verb in ("layerwise", "gradients")}
    second = {
        "same": clean,
        # Other vector instructions sum in another order.
        "other-instructions": {
            verb: dataclasses.replace(
                run, environment=(("ATEN_CPU_CAPABILITY", "default"),), fresh=True
            )
            for verb, run in clean.items()
        },
        "fault": {v: _run(v, *wanted, "--inject-fault", "erf-gelu@3") for v in clean},
        "one-report": {"layerwise": clean["layerwise"]},
    }
    for name, runs in second.items():
        before = [(f"a/{verb}.json", run) for verb, run in clean.items()]
        before += [(f"b/{verb}.json", run) for verb, run in runs.items()]
        yield Case(f"drift/{name}", Run("drift", ("a", "b")), tuple(before))


def _full() -> Iterator[Case]:
    for verb, length in {"layerwise": "512", "gradients": "64"}.items():
        for backend in BACKENDS:
            options = ("--seq-len", length, "--backend", backend)
            device = ("--device", "auto") if backend == "triton" else ()
            run = _run(verb, *options, *device, weights="surrogate", fresh=True)
            yield Case(f"full/{verb}/{backend}/clean", run)


def cases(scale: str) -> list[Case]:
    """Return the cases of a scale, in the order of the record."""
    parts = [] if scale == "full" else [_forward_and_backward, _training, _generation_and_tokens]
    parts += [] if scale == "full" else [_rest]
    parts += [] if scale == "tiny" else [_full]
    return [case for part in parts for case in part()]


@cache
def _known_options(verb: str) -> frozenset[str]:
    command = [sys.executable, "-m", CHECK, verb, "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, cwd="/")
    return frozenset(re.findall(r"^\s+(--[\w-]+)", shown.stdout, re.MULTILINE))


def arguments(run: Run) -> list[str]:
    """Return the arguments of a run in the words that the code at hand has."""
    known, words = _known_options(run.verb), list(run.options)
    for place, word in enumerate(words):
        if word in OLD_OPTIONS and word not in known:
            words[place] = OLD_OPTIONS[word]
            value = OLD_VALUES.get(words[place], {})
            words[place + 1] = value.get(words[place + 1], words[place + 1])
    return [run.verb, *words]


def execute(run: Run, output: Path, *, fresh: bool) -> tuple[int, str]:
    """Run the command line in the current folder; return its exit code and what it printed."""
    argv = [*arguments(run), "--quiet", "--output", str(output)]
    if fresh or run.fresh:
        ended = subprocess.run(
            [sys.executable, "-m", CHECK, *argv],
            capture_output=True,
            text=True,
            env={**os.environ, **dict(run.environment)},
            check=False,
        )
        return ended.returncode, ended.stderr
    sys.argv = [CHECK, *argv]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            runpy.run_module(CHECK, run_name="__main__", alter_sys=True)
        except SystemExit as ended:
            return int(ended.code or 0), printed.getvalue()
    return 0, printed.getvalue()


def record(case: Case, *, fresh: bool) -> tuple[dict[str, Any], str]:
    """Run a case in an empty folder; return its record and the first line that it printed."""
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        for path, run in case.before:
            Path(path).parent.mkdir(exist_ok=True)
            execute(run, Path(path), fresh=fresh)
        output = Path("report.json")
        code, printed = execute(case.run, output, fresh=fresh)
        document = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    found: dict[str, Any] = {"case": case.name, "exit_code": code, "verdict": None}
    found |= {"first_divergence": None, "rows": []}
    if document:
        first = _get(document, "first")
        found["verdict"] = _get(document, "verdict")
        found["first_divergence"] = first and _divergence(first)
        found["rows"] = list(_rows(document))
    return found, (printed.strip().splitlines() or [""])[0]


def _get(entry: dict[str, Any], name: str) -> Any:  # noqa: ANN401 - any JSON value
    for key in KEYS[name]:
        if key in entry:
            return entry[key]
    raise KeyError(f"none of {KEYS[name]} is in {sorted(entry)}: adjust KEYS[{name!r}]")


def _divergence(first: dict[str, Any]) -> dict[str, Any]:
    row = _row(first.get("row", first))
    return {"tap": _get(first, "tap"), "mode": row[3], "backend": row[1]}


def _rows(document: dict[str, Any]) -> Iterator[list[Any]]:
    """Yield the rows; those of `doctor` are its criteria, and `drift` adds a row per change."""
    yield from map(_row, _get(document, "rows"))
    fits = [_get(finding, "fit") for finding in _get(document, "findings")]
    for number, fit in enumerate(fit for fit in fits if fit is not None):
        yield [f"criterion {number}", "", "", "finding", "", "pass" if fit else "fail", None]
    changes = _get(document, "drift") if document["check"] == "drift" else {"changes": []}
    for change in _get(changes, "changes"):
        side = _get(change, "side").replace("ours", "candidate")
        mode = _word("mode", _get(change, "mode"))
        size = float(_get(change, "largest_change"))
        name = f"{_get(change, 'check')}/{side}"
        yield [name, "", change["dtype"], mode, "", _changed(size), size.hex()]


def _changed(size: float) -> str:
    return "changed" if size else "unchanged"


def _row(raw: dict[str, Any]) -> list[Any]:
    names = ("tap", "backend", "dtype", "mode", "against", "status")
    row = [_word(name, _get(raw, name)) for name in names]
    error = _get(raw, "error") if row[3] in EXACT else None
    return [*row, None if error is None else float(error).hex()]


def _word(column: str, value: Any) -> Any:  # noqa: ANN401 - any JSON value
    return WORDS.get(column, {}).get(value, value)


def _timed(case: Case, fresh: bool) -> tuple[dict[str, Any], str]:  # noqa: FBT001 - for a pool
    started = time.perf_counter()
    found, line = record(case, fresh=fresh)
    about = f"{time.perf_counter() - started:6.1f} s  {case.name}: {found['verdict']}"
    return found, f"{about}, exit code {found['exit_code']}{f' ({line})' if line else ''}\n"


def write(output: Path, wanted: list[Case], *, jobs: int, fresh: bool) -> None:
    """Add the records of some cases to a file."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with output.open("a", encoding="utf-8") as file, ProcessPoolExecutor(jobs, context) as pool:
        for found, line in pool.map(_timed, wanted, itertools.repeat(fresh)):
            file.write(json.dumps(found) + "\n")
            file.flush()
            sys.stderr.write(line)


def _kept(path: Path) -> dict[str, str]:
    """Return the finished lines of an interrupted record by case."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    return {json.loads(line)["case"]: line for line in lines if line.endswith("\n")}


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """Return the runs by case, in today's names of the optimizer's variants."""
    text = path.read_text(encoding="utf-8")
    text = text.replace('"released.', '"openai.').replace("/other-form", "/other-variant")
    lines = text.splitlines()
    return {found["case"]: found for found in map(json.loads, lines)}


def _keyed(rows: list[list[Any]]) -> dict[tuple[Any, ...], list[Any]]:
    seen: Counter[tuple[Any, ...]] = Counter()
    keyed = {}
    for row in rows:
        tap, backend, dtype, mode, against, *_ = row
        key = (tap, _word("backend", backend), dtype)
        key += (_word("mode", mode), _word("against", against))
        seen[key] += 1
        keyed[*key, seen[key]] = row[5:]
    return keyed


def _ratio(one: str | None, two: str | None) -> float:
    """Return how many times the larger error is the smaller one."""
    if one is None or two is None:
        return float("inf")
    small, large = sorted(abs(float.fromhex(error)) for error in (one, two))
    return large / small if small else float("inf")


def differences(before: Path, after: Path) -> Iterator[tuple[str, float, str]]:
    """Yield each difference: its kind, how large it is, and what differs."""
    one, two = _read(before), _read(after)
    yield from (("missing cases", 0.0, case) for case in one if case not in two)
    yield from (("additional cases", 0.0, case) for case in two if case not in one)
    for case in (case for case in one if case in two):
        a, b = one[case], two[case]
        for key in ("verdict", "exit_code"):
            if a[key] != b[key]:
                yield "verdicts and exit codes", 0.0, f"{case}: {key} {a[key]} -> {b[key]}"
        places = [
            found and {key: _word(key, value) for key, value in found.items()}
            for found in (a["first_divergence"], b["first_divergence"])
        ]
        if places[0] != places[1]:
            yield "first divergences", 0.0, f"{case}: {places[0]} -> {places[1]}"
        rows, others = _keyed(a["rows"]), _keyed(b["rows"])
        for key in rows | others:
            where = f"{case}: {' '.join(str(part) for part in key[:5])}"
            if key not in others:
                yield "missing rows", 0.0, where
            elif key not in rows:
                yield "additional rows", 0.0, where
            else:
                (status, error), (status_after, error_after) = rows[key], others[key]
                if status != status_after:
                    yield "statuses", 0.0, f"{where}: {status} -> {status_after}"
                if error != error_after:
                    ratio = _ratio(error, error_after)
                    mark = "  MORE THAN A FACTOR OF 2" if ratio > 2 else ""
                    yield "errors", ratio, f"{where}: {error} -> {error_after}, {ratio:.4g}x{mark}"


FAILING = ("verdicts and exit codes", "first divergences", "statuses")
FAILING += ("missing cases", "missing rows")
LISTED = ("additional cases", "additional rows", "errors")


def compare(before: Path, after: Path, limit: int) -> int:
    """Print the differences of two records; return the exit code."""
    found = list(differences(before, after))
    for kind in FAILING + LISTED:
        of_kind = [(size, text) for name, size, text in found if name == kind]
        of_kind.sort(key=lambda entry: -entry[0])
        beyond = sum(size > 2 for size, _ in of_kind)
        more = f", {beyond} of them by more than a factor of 2" if beyond else ""
        sys.stdout.write(f"{kind}: {len(of_kind)}{more}\n")
        sys.stdout.writelines(f"  {text}\n" for _, text in of_kind[:limit])
        if len(of_kind) > limit:
            sys.stdout.write(f"  and {len(of_kind) - limit} more\n")
    return int(any(kind in FAILING for kind, _, _ in found))


def main() -> int:
    """Record or compare, as the arguments say."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path)
    parser.add_argument("--scale", choices=("tiny", "full", "all"), default="tiny")
    parser.add_argument("--only", default="*", metavar="GLOB")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--compare", type=Path, nargs=2)
    parser.add_argument("--limit", type=int, default=40, help="lines printed of each kind")
    given = parser.parse_args()
    if given.compare:
        return compare(*given.compare, given.limit)
    wanted = [case for case in cases(given.scale) if fnmatch.fnmatch(case.name, given.only)]
    if given.output is None or not wanted:
        parser.error("give --compare, or --output and an --only that matches a case")
    kept = _kept(given.output) if given.resume else {}
    given.output.write_text("".join(kept.values()), encoding="utf-8")
    wanted = [case for case in wanted if case.name not in kept]
    write(given.output, wanted, jobs=given.jobs, fresh=given.fresh)
    return 0


if __name__ == "__main__":
    sys.exit(main())
