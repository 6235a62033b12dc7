"""A check places and names the fault of every edit, in models that show no taps."""

import dataclasses
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from parity import layerwise
from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core import inputs
from parity.core.results import Report, Verdict
from parity.core.runners import build_huggingface
from parity.errors import InconclusiveError
from scratch_gpt import GPTConfig

spec = importlib.util.spec_from_file_location("styles_edits", Path(__file__).parent / "edits.py")
edits: Any = importlib.util.module_from_spec(spec)
sys.modules[spec.name] = edits
spec.loader.exec_module(edits)

pytestmark = [pytest.mark.slow, pytest.mark.reference]

N_LAYER = 3
Check = Callable[..., Report]


@pytest.fixture(scope="module")
def weights() -> Weights:
    """Return the first blocks of the tiny weights."""
    whole = load_weights("tiny")
    kept = {name: array for name, array in whole.tensors.items() if block_of(name) < N_LAYER}
    config = {**whole.config, "n_layer": N_LAYER}
    return dataclasses.replace(whole, config=config, tensors=kept)


def block_of(name: str) -> int:
    return int(name.split(".")[1]) if name.startswith("h.") else 0


@pytest.fixture(scope="module")
def check(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Check:
    """Return the function that checks a style, with an edit or without."""
    folder = tmp_path_factory.mktemp("verdicts")
    reference = build_huggingface(weights)
    config = GPTConfig.from_huggingface(weights.config)
    ids = inputs.seeded(batch=2, time=11, vocab_size=config.vocab_size, seed=7).token_ids

    def run(style: str, edit: object = None, block: int | None = None) -> Report:
        state: dict[str, Tensor] = {n: torch.tensor(a).double() for n, a in weights.tensors.items()}
        model = edits.load_style(folder, style, edit, block)(config, state).eval()
        return layerwise(model, reference, ids, dtype="float64")

    return run


@dataclasses.dataclass(frozen=True)
class Row:
    """What a check says about an edit.

    Attributes:
        named: Whether the first mistake has the fault's name; that of one the harness does not
            know must be empty.
        lined: Whether the line of the first mistake is the edited one.
        said: All mistakes.
    """

    edit: Any
    placed: bool
    named: bool
    lined: bool
    said: str

    def __str__(self) -> str:
        words = [word for word in ("placed", "named", "lined") if not getattr(self, word)]
        return f"{self.edit!s:45} {'not ' + ', '.join(words) if words else '':25} {self.said}"


def row_of(check: Check, edit: Any, block: int | None = None) -> Row:  # noqa: ANN401 - an Edit
    try:
        report = check(edit.style, edit, block)
    except InconclusiveError as error:
        report, random = None, [str(error)]
    else:
        random = [f"{reason.what} {reason.where}" for reason in report.reasons]
    if report is None or report.verdict is Verdict.INCONCLUSIVE:
        found = "two runs" in " ".join(random) and f":{edit.line}" in " ".join(random)
        return Row(edit, placed=found, named=found, lined=found, said=" ".join(random))
    if not report.wrong:
        return Row(edit, placed=False, named=False, lined=False, said=str(report.verdict))
    first = report.wrong[0]
    line = re.search(r":(\d+)(?: to (\d+))?(?:,|$)", first.place)
    return Row(
        edit,
        placed=re.split(r"[ ,]", first.tap)[0] in edit.taps(N_LAYER, block),
        named=(first.fault in edit.names) if edit.names else not first.fault,
        lined=line is not None
        and int(line.group(1)) <= edit.line <= int(line.group(2) or line.group(1)),
        said=" | ".join(f"{one.tap} = {one.fault or '?'} at {one.code}" for one in report.wrong),
    )


@pytest.mark.parametrize("style", edits.STYLES)
def test_a_right_style_passes(style: str, check: Check) -> None:
    report = check(style)
    assert (report.verdict, report.wrong) == (Verdict.PASS, [])


UNPLACED = {
    # Rows of tokens and of positions are in one tensor.
    "joined_table": {"embedding-mean"},
}
"""Edits whose fault is not placed yet, by style."""

UNNAMED = {
    "annotated": {"positions-sinusoidal"},
    "functional": {"logits-scaled"},
    "last_only": {"final-norm"},
    "linear_qkv": {"embeddings-normalized", "positions-sinusoidal"},
    "time_first": {"embeddings-normalized"},
}
"""Edits whose fault is placed and not named yet, by style."""


def shows(edit: edits.Edit) -> bool:
    """Return whether so few blocks show a fault: sorted as strings, they are in order."""
    return edit.fault != "string-order"


@pytest.mark.parametrize("step", [6, pytest.param(1, marks=pytest.mark.release)])
@pytest.mark.parametrize("style", edits.STYLES)
def test_every_edit_is_placed_and_named(style: str, step: int, check: Check) -> None:
    """One edit in `step`. The table of a style is in the output (`pytest -rP`)."""
    chosen = [edit for edit in edits.EDITS if edit.style == style and shows(edit)][::step]
    rows = [row_of(check, edit) for edit in chosen]
    sys.stdout.write("\n".join(map(str, rows)))
    unplaced, unnamed = UNPLACED.get(style, set()), UNNAMED.get(style, set())
    assert {row.edit.fault for row in rows if not row.placed} <= unplaced
    assert {row.edit.fault for row in rows if not row.named} <= unplaced | unnamed
