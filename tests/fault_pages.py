"""Make the pages of docs/faults: one for every fault of the registry, and an index.

    python tests/fault_pages.py              write the pages from the registry and the record
    python tests/fault_pages.py --measure    make the record first, docs/faults/measured.json

The record has the error of every tensor, in float64, for each fault of the forward and the backward
pass in the tiny model. Errors are ten times their decimal logarithm, rounded. A page has no number
from anywhere else, so that a test can compare the pages with the record and the registry.
"""

import argparse
import ast
import itertools
import json
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from parity.checks.generation import faults as generation
from parity.checks.generation.faults import GenerationFault
from parity.checks.gradients import faults as backward
from parity.checks.gradients.faults import BACKWARD_FAULTS, BackwardFault
from parity.checks.invariants import faults as invariants
from parity.checks.invariants.faults import InvariantFault
from parity.checks.tokens import faults as tokenizer
from parity.checks.tokens.faults import TokenizerFault
from parity.checks.training import faults as training
from parity.checks.training.faults import TrainingFault
from parity.core.results import Mode
from parity.core.taps import BLOCK_KINDS, EMBEDDING_KINDS, OUTPUT_KINDS
from parity.faults import conditional_faults, forward, forward_faults
from parity.faults.forward import FORWARD_FAULTS, ForwardFault
from parity.faults.registry import Fault, faults_of
from parity.faults.replacing import ReplacingFault

FOLDER = Path(__file__).parents[1] / "docs" / "faults"
RECORD = "measured.json"
MODULES = (
    *(forward_faults, conditional_faults, forward, backward),
    *(training, tokenizer, generation, invariants),
)
BLOCK = 3
SMALLEST, LARGEST = -170, 40
"""Limits of a picture: errors of 1e-17 and 1e4."""


# Measure.


def measure() -> dict[str, Any]:
    """Return the errors of every fault of the forward and the backward pass."""
    from parity.checkpoints.load import load_weights
    from parity.checks.selftest import backward_runner, forward_runner, part_of, with_epsilon
    from parity.core.runners import build_huggingface, build_ours

    weights = load_weights("tiny")
    whole, other = (
        (build_ours(one), build_huggingface(one)) for one in (weights, with_epsilon(weights))
    )

    def models(fault: Fault | None) -> Any:  # noqa: ANN401
        return other if part_of(fault) == "epsilon" else whole

    def record(faults: Mapping[str, Fault], run: Any, against: str, last: str) -> dict[str, Any]:  # noqa: ANN401
        def errors(fault: Fault | None) -> tuple[dict[str, float | None], Any]:
            report = run(fault)
            rows = [
                row
                for row in report.results
                if row.against == against and row.mode is Mode.FLOAT64  # each model's own values
            ]
            return {row.tap: row.error_ours for row in rows}, report.first_divergence

        right, _ = errors(None)
        found: dict[str, Any] = {
            "tensors": list(right),
            "right": list(map(logarithm, right.values())),
            "faults": {},
        }
        for name, fault in faults.items():
            wrong, first = errors(fault)
            if first is None:
                continue  # an equivalent form
            found["faults"][name] = {
                "first": first.tap,
                "error": number(wrong[first.tap]),
                "last": number(wrong[last]),
                "causes": first.suspects,
                "errors": [logarithm(wrong.get(tap)) for tap in right],
            }
        return found

    taps = forward_runner(models, block=BLOCK)
    slopes = backward_runner(models, block=BLOCK, time=37, select="*")
    return {
        "layerwise": record(FORWARD_FAULTS, taps, "oracle", "logits"),
        "gradients": record(BACKWARD_FAULTS, slopes, "huggingface", "tokens_embed.weight"),
    }


def logarithm(error: float | None) -> int | None:
    """Return ten times the decimal logarithm; None for a tensor of another shape."""
    if error is None or math.isnan(error):
        return None
    tenth = 10 * math.log10(error) if error else SMALLEST
    return round(min(max(tenth, SMALLEST), LARGEST))


def number(error: float | None) -> str:
    """Return an error in two digits, or that there is none."""
    return "another shape" if error is None else f"off by {error:.1e}"


def dumped(record: Mapping[str, Any]) -> str:
    """Return the record as JSON, a row for each fault."""
    parts = []
    for check, found in record.items():
        rows = [f"   {json.dumps(n)}: {json.dumps(e)}" for n, e in found["faults"].items()]
        fields = [f"  {json.dumps(key)}: {json.dumps(found[key])}" for key in ("tensors", "right")]
        fields.append('  "faults": {\n' + ",\n".join(rows) + "\n  }")
        parts.append(f" {json.dumps(check)}: {{\n" + ",\n".join(fields) + "\n }")
    return "{\n" + ",\n".join(parts) + "\n}\n"


# The code of a fault.


@cache
def snippets() -> dict[str, tuple[str, str]]:
    """Return the file and the code of each fault, as its module has it."""
    found: dict[str, tuple[str, str]] = {}
    for module in MODULES:
        path = Path(str(module.__file__))
        source = path.read_text(encoding="utf-8")
        home = Path(*path.parts[path.parts.index("parity", -5) :]).as_posix()
        for node in ast.walk(ast.parse(source)):
            for name, code in _registered(node):
                lines = ast.get_source_segment(source, code, padded=True) or ""
                decorators = getattr(code, "decorator_list", [])[1:]
                above = [f"@{ast.get_source_segment(source, one)}\n" for one in decorators]
                found.setdefault(name, (home, "".join(above) + textwrap.dedent(lines)))
    return found


def _registered(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yield the names and the code of the faults that a node may register."""
    if isinstance(node, ast.Dict):
        for key, value in zip(node.keys, node.values, strict=True):
            if isinstance(key, ast.Constant) and isinstance(value, ast.Tuple):
                yield str(key.value), value.elts[-1]
    if isinstance(node, ast.FunctionDef):
        yield node.name.replace("_", "-"), node
    for call in getattr(node, "decorator_list", [])[:1]:
        yield from ((name, node) for name in _named(call))
    if isinstance(node, ast.Call):
        yield from ((name, node.args[0]) for name in _named(node.func) if node.args)
        if isinstance(node.func, ast.Name) and node.func.id == "_equivalent":
            yield ast.literal_eval(node.args[1]), node.args[-1]
    if isinstance(node, ast.Tuple) and node.elts and isinstance(node.elts[0], ast.Constant):
        yield str(node.elts[0].value), node


def _named(node: ast.AST) -> Iterator[str]:
    """Yield the first argument of a call, if it is a constant."""
    if isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
        yield str(node.args[0].value)


# Pictures.

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 220, 46, 10, 22, 24
STYLE = (
    "text{font:11px sans-serif;fill:#555}path{fill:none}.g{stroke:#ddd}.b{stroke:#888;"
    "stroke-dasharray:4 3}.r{stroke:#999}.w{stroke:#c22;stroke-width:1.5}circle{fill:#c22}"
    "@media(prefers-color-scheme:dark){text{fill:#aaa}.g{stroke:#333}.w{stroke:#f66}"
    "circle{fill:#f66}}"
)


def picture(tensors: Sequence[str], right: Sequence[int | None], fault: Mapping[str, Any]) -> str:
    """Return an SVG: the error of each tensor, of the model with the fault and without."""

    def x(place: int) -> int:
        return round(LEFT + place * (WIDTH - LEFT - RIGHT) / (len(tensors) - 1))

    def y(tenth: int | None) -> int:
        part = (LARGEST - (LARGEST if tenth is None else tenth)) / (LARGEST - SMALLEST)
        return round(TOP + part * (HEIGHT - TOP - BOTTOM))

    def line(tenths: Sequence[int | None]) -> str:
        points = [(x(place), y(tenth)) for place, tenth in enumerate(tenths)]
        steps = [
            f"{b[0] - a[0]}{'' if b[1] < a[1] else ' '}{b[1] - a[1]}"
            for a, b in itertools.pairwise(points)
        ]
        return f"M{points[0][0]} {points[0][1]}l" + " ".join(steps)

    blocks = [place for place, name in enumerate(tensors) if _starts_block(tensors, place)]
    grid = "".join(f"M{x(place)} {TOP}V{HEIGHT - BOTTOM}" for place in blocks)
    labels = "".join(
        f'<text x="{x(place) + 2}" y="{HEIGHT - 8}">{_block(tensors[place])}</text>'
        for place in blocks
    )
    scale = "".join(
        f'<text x="4" y="{y(tenth) + 4}">1e{tenth // 10:+d}</text>' for tenth in range(-150, 31, 30)
    )
    place = tensors.index(fault["first"])
    at, side = x(place), "start" if place < len(tensors) / 2 else "end"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">'
        f"<title>error of each tensor; the first wrong one is {fault['first']}</title>"
        f'<style>{STYLE}</style><path class="g" d="{grid}"/>{labels}{scale}'
        f'<path class="b" d="M{LEFT} {y(-90)}H{WIDTH - RIGHT}"/>'
        f'<path class="r" d="{line(right)}"/><path class="w" d="{line(fault["errors"])}"/>'
        f'<circle cx="{at}" cy="{y(fault["errors"][place])}" r="4"/>'
        f'<text x="{at}" y="14" text-anchor="{side}">{fault["first"]}</text></svg>\n'
    )


def _block(name: str) -> str:
    return name.split(".")[1] if name.startswith("h.") else ""


def _starts_block(tensors: Sequence[str], place: int) -> bool:
    name = _block(tensors[place])
    return bool(name) and (place == 0 or _block(tensors[place - 1]) != name)


# Pages.

COMMANDS = {
    ForwardFault: "layerwise --weights tiny --seq-len 37 --backend plain",
    BackwardFault: "gradients --weights tiny --seq-len 37 --backend plain",
    TrainingFault: "training --weights tiny",
    TokenizerFault: "tokens",
    GenerationFault: "generation --weights tiny",
    InvariantFault: "invariants --weights tiny --backend plain",
}
RIGHT_CODE = {
    BackwardFault: "autograd computes the right gradient; of a hand-written backward pass, compare "
    "each term with [`fused_ops.py`](../../scratch_gpt/kernels/fused_ops.py)",
    TokenizerFault: "the right tokenizer is "
    "[`scratch_gpt/tokenizer`](../../scratch_gpt/tokenizer/tokenizer.py)",
    InvariantFault: "the right code is what the fault replaces: see "
    "[`model.py`](../../scratch_gpt/model.py)",
}


def kind_of(fault: Fault) -> type[Fault]:
    """Return the kind of a fault, a key of `COMMANDS`."""
    return next(kind for kind in COMMANDS if isinstance(fault, kind))


def _command(fault: Fault) -> str:
    """Return the command that shows a fault; the self-test knows which ids one of rows needs."""
    if getattr(fault, "inputs", "one row") != "one row" or fault.proof:
        return f"selftest --weights tiny --faults {fault.name}"
    return COMMANDS[kind_of(fault)] + _options(fault)


def _options(fault: Fault) -> str:
    block = f"@{BLOCK}" if "{i}" in fault.at or fault.at == "<before" else ""
    options = f" --inject-fault {fault.name}{block}"
    if isinstance(fault, TokenizerFault) and fault.of == ("original",):
        options += " --pretokenizer original"
    return options


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def page(fault: Fault, measured: Mapping[str, Any] | None) -> str:
    """Return the page of a fault."""
    kind = kind_of(fault)
    check = COMMANDS[kind].split()[0]
    right = f" {_sentence(fault.right)}." if isinstance(fault, ForwardFault) else ""
    lines = [f"# {fault.name}", "", f"{_sentence(fault.what)}.{right}", "", "## Symptom", ""]
    if measured:
        end = "the logits are" if check == "layerwise" else "the token embedding's gradient is"
        of = "" if check == "layerwise" else "the gradient of "
        lines += [
            (
                f"`{check}` fails first at {of}`{measured['first']}`: {measured['error']}. "
                f"At the end, {end} {measured['last']}."
            ),
            "",
            f"![The error of each tensor, log scale]({fault.name}.svg)",
            "",
            (
                "Errors are the largest difference over the tensor's RMS, in the order of the "
                "computation; the numbers are blocks. Red: with the fault. Grey: without it. "
                "Dashed: the bound."
            ),
        ]
    elif fault.proof:
        lines += [f"None: it is equivalent. {_sentence(fault.proof)}."]
    elif isinstance(fault, TokenizerFault):
        lines += [f"`tokens` finds other ids, and names the step `{fault.at}`."]
    else:
        first = fault.first_seen(BLOCK, variant="openai", last=11)
        lines += [f"`{check}` fails first at `{first}`."]
    if isinstance(fault, InvariantFault):
        lines += ["", f"It violates the property {fault.violates}."]
    if isinstance(fault, TrainingFault):
        lines += ["", f"The cause in the report has these words: {fault.look_for}."]
    lines += [
        *("", "```sh", f"python -m parity.check {_command(fault)}", "```", ""),
        *("## Cause in code", ""),
    ]
    home, code = snippets()[fault.name]
    lines += [f"As [`{home}`](../../{home}) injects it:", "", "```python", code, "```", ""]
    if measured and measured["causes"]:
        lines += [f"Other causes at this tensor: {measured['causes']}.", ""]
    lines += ["## Fix", ""]
    if isinstance(fault, ForwardFault):
        return "\n".join([*lines, "```text", fault.fix, "```", ""])
    if isinstance(fault, ReplacingFault):
        owner, function = fault.replaces
        module = getattr(owner, "__module__", owner.__name__ if hasattr(owner, "__name__") else "")
        file = module.replace(".", "/") + ".py"
        name = f"{owner.__name__}.{function}" if isinstance(owner, type) else function
        return "\n".join([*lines, f"`{name}` in [`{file}`](../../{file}) is right.", ""])
    return "\n".join([*lines, f"{_sentence(RIGHT_CODE[kind])}.", ""])


GROUPS = {
    "embeddings": "Embeddings",
    "attn.query": "Query, key and value",
    "attn.scores": "Attention scores",
    "attn.weights": "Mask and softmax",
    "attn.context": "Attention output",
    "ln_1": "Residual sums and norms",
    "mlp.c_fc": "Feed-forward layer",
    "logits": "Head",
}
STARTS = {"attn": "attn.context", "attn.key": "attn.query", "ln_1.input": "ln_1"}
STARTS |= {"ln_2.input": "ln_1", "ln_2": "ln_1", "mlp": "mlp.c_fc", "mlp.gelu": "mlp.c_fc"}
TITLES = {
    BackwardFault: "Backward pass",
    TrainingFault: "Training",
    TokenizerFault: "Tokenizer",
    GenerationFault: "Generation",
    InvariantFault: "Properties",
}


def group_of(fault: Fault) -> str:
    """Return the heading of a fault in the index."""
    if not isinstance(fault, ForwardFault):
        return TITLES[kind_of(fault)]
    parts = fault.at.split(".", 2)
    tap = parts[2] if parts[0] == "h" else parts[0]
    known = {kind.name for kind in (*EMBEDDING_KINDS, *BLOCK_KINDS, *OUTPUT_KINDS)}
    assert tap in known, tap
    return GROUPS[STARTS.get(tap, tap)]


def index(faults: Mapping[str, Fault]) -> str:
    """Return the index, grouped by the place of the fault."""
    lines = [
        "# Faults",
        "",
        (
            f"Every mistake that the checks are tested with: {len(faults)} in all, each with its "
            "symptom, its cause in code and the fix. Re-implementations of GPT-1 really have them. "
            "`--inject-fault NAME` puts one into our model; `--inject-fault list` lists them."
        ),
        "",
        "Start from the first tensor that your report names, or from a word such as mask.",
    ]
    for group in (*GROUPS.values(), *TITLES.values()):
        members = [fault for fault in faults.values() if group_of(fault) == group]
        lines += ["", f"## {group}", "", "| fault | mistake | first seen at |", "|---|---|---|"]
        lines += [f"| [{f.name}]({f.name}.md) | {f.what} | `{f.at}` |" for f in members]
    lines += [
        "",
        (
            f"The pictures show [recorded numbers]({RECORD}) of the tiny model. `make fault-pages` "
            'writes the pages, and `make fault-pages ARGS="--measure"` records the numbers again.'
        ),
        "",
    ]
    return "\n".join(lines)


def pages(record: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of every file of the folder by name, except the record."""
    faults = faults_of(Fault)
    found = {"README.md": index(faults)}
    for name, fault in faults.items():
        of = record.get(COMMANDS[kind_of(fault)].split()[0])
        measured = of["faults"].get(name) if of else None
        found[f"{name}.md"] = page(fault, measured)
        if of and measured:
            found[f"{name}.svg"] = picture(of["tensors"], of["right"], of["faults"][name])
    return found


def main() -> None:
    """Write the pages."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/faults.")
    parser.add_argument("--measure", action="store_true", help="make the record first")
    path = FOLDER / RECORD
    FOLDER.mkdir(exist_ok=True)
    if parser.parse_args().measure:
        path.write_text(dumped(measure()), encoding="utf-8")
    found = pages(json.loads(path.read_text(encoding="utf-8")))
    for old in FOLDER.iterdir():
        if old.name != RECORD and old.name not in found:
            old.unlink()
    for name, text in found.items():
        (FOLDER / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
