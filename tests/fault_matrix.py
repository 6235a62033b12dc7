"""Measure every fault with every check, and with what others accept a model by.

    python tests/fault_matrix.py              write docs/selftest.md and its picture from the record
    python tests/fault_matrix.py --measure    make the record first, docs/fault-matrix.json

A cell of the record is `[outcome, margin, named]`: outcome is `at` (killed at the very tap), `off`
(killed elsewhere) or `no`, margin the error over the bound there, null where it is no number. A
fault has a cell for each check that can run it. Forward faults also have the peers that reject the
logits: `make fault-matrix` installs pytest-torch beside the environment, because pytest would load
it in every run.
"""

import argparse
import hashlib
import itertools
import json
import math
import multiprocessing
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import OpenAIGPTLMHeadModel

from parity import verbs
from parity.checkpoints.load import load_weights
from parity.checks.selftest import (
    COLUMNS,
    Parts,
    Runner,
    Trial,
    backward_runner,
    faulty,
    forward_runner,
    invariants_runner,
    part_of,
    table,
    tried,
    with_epsilon,
)
from parity.core.inputs import Inputs, seeded
from parity.core.results import Mode
from parity.core.runners import build_huggingface, build_ours
from parity.faults.forward import INPUTS, ForwardFault
from parity.faults.registry import Fault, faults_of
from parity.known_faults import known_faults
from reference import huggingface
from scratch_gpt.errors import MissingExtraError

DOCS = Path(__file__).parents[1] / "docs"
RECORD, PAGE, PICTURE = "fault-matrix.json", "selftest.md", "fault-matrix.svg"
BLOCK = 5
"""The block of the tiny model that has the fault when logits alone are compared."""


def digest() -> str:
    """Return a digest of the registry's descriptions."""
    text = resources.files("parity").joinpath("faults/faults.json").read_bytes()
    return hashlib.sha256(text).hexdigest()[:16]


# The checks.

MODEL_CHECKS: dict[str, tuple[str, Callable[[Parts], Runner]]] = {
    "layerwise": ("plain", forward_runner),
    "layerwise, fused": ("fused", lambda parts: forward_runner(parts, "fused")),
    "layerwise, float32": (
        "plain",
        lambda parts: forward_runner(parts, modes=[Mode.PER_OP, Mode.END_TO_END]),
    ),
    "gradients": ("plain", backward_runner),
}
"""The checks of a model, each with its backend; in float64 where nothing else is said."""

VERB_CHECKS = {"training": "training", "generation": "generation", "tokenizer": "tokens"}
INVARIANTS = "invariants"
"""The check of each other kind; that of properties runs the violated one alone."""


def cells(
    faults: Sequence[Fault], kind: str, checks: Mapping[str, tuple[str, Runner]]
) -> dict[str, dict[str, Any]]:
    """Return the cells of some faults by name and check."""
    return {
        fault.name: {
            name: cell(one)
            for name, (backend, run) in checks.items()
            if (one := _tried(fault, kind, run, backend)) is not None
        }
        for fault in faults
    }


def _tried(fault: Fault, kind: str, run: Runner, backend: str) -> Trial | None:
    """Return a trial; None if the backend does not form the tensor, or a package is missing."""
    try:
        return tried(fault, kind, run, backend)
    except (ValueError, MissingExtraError):
        return None


def cell(trial: Trial) -> list[Any]:
    """Return a trial as the record has it."""
    outcome = "at" if trial.placed else "off" if trial.killed else "no"
    margin = float(f"{trial.margin:.2g}") if 0.0 < trial.margin < math.inf else None
    return [outcome, margin, trial.named]


def of_kinds() -> dict[str, list[Fault]]:
    """Return the faults of the registry by kind."""
    return {
        kind: [faults_of(Fault)[one["name"]] for one in faults]
        for kind, faults in known_faults().items()
    }


def measured(chosen: Mapping[str, Sequence[Fault]]) -> dict[str, dict[str, Any]]:
    """Return the cells of every chosen fault."""
    torch.set_num_threads(1)
    parts = Parts(load_weights("tiny"))
    checks = {name: (backend, make(parts)) for name, (backend, make) in MODEL_CHECKS.items()}
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        by_verb = verbs.runners_by_verb(
            parts, Path(folder), [k for k in chosen if k in VERB_CHECKS]
        )
        for kind, faults in chosen.items():
            of_kind = checks
            if kind == INVARIANTS:
                of_kind = {INVARIANTS: ("plain", invariants_runner(parts))}
            if kind in VERB_CHECKS:
                of_kind = {VERB_CHECKS[kind]: ("plain", by_verb[kind])}
            found |= cells(faults, kind, of_kind)
    return found


# Peers.


class Logits(nn.Module):
    """A model as others see it: ids in, logits out; only those of real tokens."""

    def __init__(self, model: nn.Module, given: Inputs) -> None:
        super().__init__()
        self.model, self.given = model, given

    def forward(self, token_ids: Tensor) -> Tensor:
        """Return the logits of the real tokens, `[tokens vocab]`."""
        mask, positions = self.given.attention_mask, self.given.positions
        of: Callable[..., Tensor] = self.model
        if isinstance(self.model, OpenAIGPTLMHeadModel):
            of = partial(huggingface.logits, self.model)
        found = of(token_ids, positions=positions, attention_mask=mask)
        return found[mask] if mask is not None else found.flatten(0, 1)


def _raises(check: Callable[[], object]) -> bool:
    try:
        check()
    except AssertionError:
        return True
    return False


def _pytest_torch(ours: Logits, theirs: Logits) -> bool:
    from pytest_torch import assert_matches_reference  # type: ignore[import-not-found, unused-ignore]

    ids = ours.given.token_ids
    return _raises(lambda: assert_matches_reference(ours, theirs, ids))


def _on_logits(rejects: Callable[[Tensor, Tensor], bool]) -> Callable[[Logits, Logits], bool]:
    def check(ours: Logits, theirs: Logits) -> bool:
        ids = ours.given.token_ids
        with torch.no_grad():
            return rejects(ours(ids), theirs(ids))

    return check


def _close(a: Tensor, b: Tensor) -> bool:
    return _raises(lambda: torch.testing.assert_close(a, b))


PEERS: dict[str, Callable[[Logits, Logits], bool]] = {
    "pytest-torch": _pytest_torch,
    "assert_close": _on_logits(_close),
    "allclose 1e-4": _on_logits(lambda a, b: not torch.allclose(a, b, rtol=1e-4, atol=1e-4)),
    "allclose 1e-2": _on_logits(lambda a, b: not torch.allclose(a, b, rtol=1e-2, atol=1e-2)),
    "equal argmax": _on_logits(lambda a, b: not torch.equal(a.argmax(-1), b.argmax(-1))),
    "cosine 0.999": _on_logits(
        lambda a, b: bool(functional.cosine_similarity(a, b).min() <= 0.999)
    ),
}
"""How others accept a model, as functions that say whether they reject it."""
DTYPES = {"float32": torch.float32, "float64": torch.float64}
SEEDS = 20
LENGTHS = (1, 2, 5, 37, 77)


def peers(faults: Sequence[Fault]) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the peers that reject each fault, and their false alarms on right pairs."""
    weights = load_weights("tiny")
    pairs = {
        (name, dtype): (build_ours(one).to(kind), nn.Module.to(build_huggingface(one), kind))
        for name, one in {"": weights, "epsilon": with_epsilon(weights)}.items()
        for dtype, kind in DTYPES.items()
    }
    killed: dict[str, list[str]] = {}
    for fault in faults:
        if isinstance(fault, ForwardFault) and not fault.proof:
            given = INPUTS[fault.inputs](weights.config["vocab_size"], 0)
            part = "epsilon" if part_of(fault) == "epsilon" else ""
            killed[fault.name] = [
                f"{name}, {dtype}"
                for dtype in DTYPES
                for name, rejects in PEERS.items()
                if rejects(
                    Logits(faulty(pairs[part, dtype][0], fault, BLOCK), given).eval(),
                    Logits(pairs[part, dtype][1], given).eval(),
                )
            ]
    alarms = {f"{name}, {dtype}": 0 for dtype in DTYPES for name in PEERS}
    for seed in range(SEEDS):
        for time in LENGTHS:
            given = seeded(batch=1, time=time, vocab_size=weights.config["vocab_size"], seed=seed)
            for dtype in DTYPES:
                sides = [Logits(model, given).eval() for model in pairs["", dtype]]
                for name, rejects in PEERS.items():
                    alarms[f"{name}, {dtype}"] += rejects(*sides)
    return killed, alarms


AT_ONCE = 24
"""Faults that one process measures."""


def measure(jobs: int) -> dict[str, Any]:
    """Return the record, made by some processes."""
    chosen = of_kinds()
    chunks = [
        (kind, at)
        for kind, faults in chosen.items()
        for at in range(0, len(faults), len(faults) if kind in VERB_CHECKS else AT_ONCE)
    ]
    found: dict[str, dict[str, Any]] = {}
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=jobs, mp_context=spawn) as pool:
        both = pool.submit(_peers_of_all)
        for part in pool.map(_measured_chunk, chunks):
            found |= part
        killed, alarms = both.result()
    return {
        "registry": digest(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers")}
        | {"pytest-torch": metadata.version("pytest-torch")},
        "false alarms": alarms,
        "clean pairs": SEEDS * len(LENGTHS),
        "faults": {
            fault.name: {
                "kind": kind,
                "family": fault.group,
                "checks": found[fault.name],
                **({"peers": killed[fault.name]} if fault.name in killed else {}),
            }
            for kind, faults in chosen.items()
            for fault in faults
        },
    }


def dumped(record: Mapping[str, Any]) -> str:
    """Return the record as JSON, a row for each fault."""
    rows = [f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in record["faults"].items()]
    heads = [f" {json.dumps(k)}: {json.dumps(v)}" for k, v in record.items() if k != "faults"]
    return "{\n" + ",\n".join([*heads, ' "faults": {\n' + ",\n".join(rows) + "\n }"]) + "\n}\n"


def _peers_of_all() -> tuple[dict[str, list[str]], dict[str, int]]:
    torch.set_num_threads(1)
    return peers(of_kinds()["forward"])


def _measured_chunk(chunk: tuple[str, int]) -> dict[str, dict[str, Any]]:
    kind, at = chunk
    faults = of_kinds()[kind]
    return measured({kind: faults if kind in VERB_CHECKS else faults[at : at + AT_ONCE]})


# The picture: a line for each fault, a column for each check and peer.

CHECKS = (*MODEL_CHECKS, INVARIANTS, *VERB_CHECKS.values())
CELL, LINE, LEFT, TOP = 26, 4, 120, 128
STYLE = (
    "text{font:11px sans-serif;fill:#555}path{stroke-width:3}.at{stroke:#2a7}.off{stroke:#e90}"
    ".no{stroke:#c22}.g{stroke:#8885;stroke-width:.5}"
    "@media(prefers-color-scheme:dark){text{fill:#aaa}}"
)


def _outcomes(row: Mapping[str, Any]) -> dict[str, str]:
    """Return the outcome of a fault for each check and peer."""
    found = {name: cell[0] for name, cell in row["checks"].items()}
    if "peers" in row:
        found |= {
            f"{peer}, {dtype}": "off" if f"{peer}, {dtype}" in row["peers"] else "no"
            for dtype in DTYPES
            for peer in PEERS
        }
    return found


def picture(record: Mapping[str, Any]) -> str:
    """Return an SVG of the matrix."""
    columns = [*CHECKS, *(f"{peer}, {dtype}" for dtype in DTYPES for peer in PEERS)]
    drawn: dict[str, list[str]] = {"at": [], "off": [], "no": []}
    labels, grid, y, group = [], [], TOP, ""
    families: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for row in record["faults"].values():
        families.setdefault((row["kind"], row["family"]), []).append(row)
    for row in itertools.chain.from_iterable(families.values()):
        here = f"{row['kind']}: {row['family']}"
        if here != group:
            y, group = y + 10, here
            labels.append(
                f'<text x="{LEFT - 6}" y="{y + 6}" text-anchor="end">{row["family"]}</text>'
            )
            grid.append(f"M{LEFT} {y - 4}h{CELL * len(columns)}")
        for name, outcome in _outcomes(row).items():
            drawn[outcome].append(f"M{LEFT + CELL * columns.index(name)} {y}h{CELL - 3}")
        y += LINE
    names = "".join(
        f'<text transform="translate({LEFT + CELL * at + 14} {TOP - 4}) rotate(-60)">{name}</text>'
        for at, name in enumerate(columns)
    )
    lines = "".join(f'<path class="{kind}" d="{"".join(d)}"/>' for kind, d in drawn.items())
    width, height = LEFT + CELL * len(columns) + 70, y + 10
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        "<title>each fault and each check: green, killed at the very tap; orange, killed "
        "elsewhere or not placed; red, not seen</title>"
        f'<style>{STYLE}</style>{names}{"".join(labels)}<path class="g" d="{"".join(grid)}"/>'
        f"{lines}</svg>\n"
    )


# The page.


def live(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the faults that are not equivalent to right code."""
    known = faults_of(Fault)
    for name, row in record["faults"].items():
        if not known[name].proof:
            yield name, row


CHEAPEST = {
    "forward": "layerwise",
    "backward": "gradients",
    INVARIANTS: INVARIANTS,
    **VERB_CHECKS,
}


def summary(record: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of kinds: the self-test's own checks."""
    lines = [
        "| kind | live faults | killed | at the very tap | named |",
        "|---|---|---|---|---|",
    ]
    total = [0, 0, 0, 0]
    for kind, check in CHEAPEST.items():
        found = [row["checks"].get(check) for _, row in live(record) if row["kind"] == kind]
        cells_ = [one for one in found if one is not None]
        counts = [
            len(cells_),
            sum(one[0] != "no" for one in cells_),
            sum(one[0] == "at" for one in cells_),
            sum(bool(one[2]) for one in cells_),
        ]
        total = [a + b for a, b in zip(total, counts, strict=True)]
        named = "-" if all(one[2] is None for one in cells_) else counts[3]
        lines.append(f"| {kind} | {counts[0]} | {counts[1]} | {counts[2]} | {named} |")
    worded = sum(one[2] is not None for one in _own(record))
    return [*lines, f"| all | {total[0]} | {total[1]} | {total[2]} | {total[3]} of {worded} |"]


def _own(record: Mapping[str, Any]) -> list[list[Any]]:
    """Return the cell of each live fault's own check."""
    rows = [row for _, row in live(record)]
    own = (row["checks"].get(CHEAPEST[row["kind"]]) for row in rows)
    return [one for one in own if one is not None]


def contest(record: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of peers on forward faults."""
    rows = [row for _, row in live(record) if "peers" in row]
    ours = [row["checks"]["layerwise"] for row in rows]
    killed, placed, named = (
        sum(one[0] != "no" for one in ours),
        sum(one[0] == "at" for one in ours),
        sum(one[2] for one in ours),
    )
    lines = [
        "| check | dtype | killed | placed | named | false alarms |",
        "|---|---|---|---|---|---|",
        f"| `layerwise` | float64 | {killed} of {len(rows)} | {placed} | {named} | - |",
    ]
    for dtype in DTYPES:
        for peer in PEERS:
            name = f"{peer}, {dtype}"
            seen = sum(name in row["peers"] for row in rows)
            alarms = f"{record['false alarms'][name]} of {record['clean pairs']}"
            lines.append(f"| {peer} | {dtype} | {seen} of {len(rows)} | - | - | {alarms} |")
    return lines


def families(record: Mapping[str, Any]) -> list[str]:
    """Return the lines of the table of families."""
    known = faults_of(Fault)
    trials = []
    for name, row in record["faults"].items():
        if row["kind"] not in CHEAPEST or CHEAPEST[row["kind"]] not in row["checks"]:
            continue
        outcome, margin, named = row["checks"][CHEAPEST[row["kind"]]]
        trials.append(
            Trial(
                fault=known[name],
                kind=row["kind"],
                expected="there",
                place={"at": "there"}.get(outcome, "elsewhere"),
                killed=outcome != "no",
                named=named,
                margin=math.inf if margin is None else margin,
            )
        )
    head = ["| " + " | ".join(COLUMNS) + " |", "|---" * len(COLUMNS) + "|"]
    return head + ["| " + " | ".join(row) + " |" for row in table(trials)]


PROSE = f"""
# What the checks catch

@@sh
python -m parity.check selftest --weights tiny
@@

`selftest` injects every fault of the registry, one at a time, and runs the cheapest check that must
find it. A fault is *killed* if the check fails. It is *placed* if the first divergence is the tap
where it was injected. It is *named* if the report's cause has its words. A dash: the rows have the
names of rules, steps or properties, and no words beside them are judged. A live fault that survives
or is misplaced fails the self-test (exit 1), and so does right code that is rejected.

Forward and backward faults are injected into a model of one block. It is the block in the middle,
on its own clean input, or the first with the real tables for faults of the embeddings and the head.
So `--weights surrogate` costs one block of full size for each fault, and not twelve.

- Of a property's fault, only that property's cases run.
- Of a trainer's fault, only the run in which it shows.
- A tokenizer's check ends at the first difference.
- Faults of the trainer and of generation run in a model of the first block with few tokens. Its
  logits are scaled down, so that no token is certain.

Many faults are shared among the cores. `--faults` selects by name, kind or family.

On 2 cores `--weights tiny` takes 100 s and 0.8 GiB, `--weights surrogate` 593 s and 5.4 GiB; both
pass.

## Results

[summary]

Measured with [versions], tiny weights.

## Peers on the same faults

The live forward faults, in one block of the tiny model. Each peer compares the logits with Hugging
Face's for the same ids; none names a place.
[pytest-torch](https://pypi.org/project/pytest-torch/) is used as its page says, by
`assert_matches_reference` with its own tolerances. Thirteen of the faults round to float32,
which is none in a float32 model. False alarms are rejections of [pairs] right pairs: seeds 0 to
{SEEDS - 1}, lengths {", ".join(map(str, LENGTHS))}.

[contest]

## Every fault by every check

![A line for each fault, a column for each check]({PICTURE})

Green: killed at the very tap. Orange: killed, elsewhere or without a place. Red: not seen. Blank:
the check cannot run it. [The numbers]({RECORD}) have a line for each fault.

## Families

The margin is the weakest fault's error over the bound: a fault of this family that many times
smaller would survive.

[families]

## Equivalent forms

They look like faults and are right. A test shows that their tensors are equal, and the self-test
fails if a check rejects one.

[equivalent]

`make fault-matrix` writes this page from the record; with `ARGS=--measure` it makes the record
first.
"""


def page(record: Mapping[str, Any]) -> str:
    """Return the page."""
    equal = [fault for fault in faults_of(Fault).values() if fault.proof]
    rows = ["| form | proof |", "|---|---|", *(f"| {one.what} | {one.proof} |" for one in equal)]
    filled = {
        "summary": "\n".join(summary(record)),
        "versions": ", ".join(f"{name} {text}" for name, text in record["versions"].items()),
        "pairs": str(record["clean pairs"]),
        "contest": "\n".join(contest(record)),
        "families": "\n".join(families(record)),
        "equivalent": "\n".join(rows),
    }
    paragraphs = [
        part if "@@" in part else " ".join(part.split()) for part in PROSE.strip().split("\n\n")
    ]
    text = "\n\n".join(paragraphs).replace("@@", "```")
    for name, value in filled.items():
        text = text.replace(f"[{name}]", value)
    return text + "\n"


def main() -> None:
    """Write the page and the picture."""
    parser = argparse.ArgumentParser(description="Write docs/selftest.md.")
    parser.add_argument("--measure", action="store_true", help="make the record first")
    parser.add_argument("--jobs", type=int, default=2, help="processes that measure")
    asked = parser.parse_args()
    if asked.measure:
        (DOCS / RECORD).write_text(dumped(measure(asked.jobs)), encoding="utf-8")
    record = json.loads((DOCS / RECORD).read_text(encoding="utf-8"))
    (DOCS / PAGE).write_text(page(record), encoding="utf-8")
    (DOCS / PICTURE).write_text(picture(record), encoding="utf-8")


if __name__ == "__main__":
    main()
