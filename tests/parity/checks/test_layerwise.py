"""The forward check: every tap on every backend, in every mode, at both sizes; fingerprints."""

import copy
import dataclasses
import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checks.layerwise import layerwise
from parity.core import comparison, inputs, reordered
from parity.core.backends import DEFAULT, EAGER
from parity.core.comparison import Comparison
from parity.core.explain import Explainer
from parity.core.fingerprints import Fingerprint, distance
from parity.core.gates import REFERENCES, RunNames
from parity.core.inputs import Inputs
from parity.core.lockstep import Observations, Pass, capture
from parity.core.metrics import Status
from parity.core.patterns import LEFT_ON, RANDOM
from parity.core.results import Mode, Report, Row, Verdict
from parity.core.runners import build_huggingface, build_ours, candidate_run, huggingface_run
from parity.core.taps import never_formed, taps
from parity.core.tolerances import Bounds
from parity.faults.forward import inject, with_tap
from parity.operations import OPERATIONS, Op, Operation, merge_heads, replacing
from parity.report.json import render
from parity.report.text import render as render_text
from scratch_gpt import GPT
from scratch_gpt.cli import render_rich

LAYERS = 12
PLANNED = {"plain": 173, "tiled": 149, "fused": 125}
Check = Callable[..., Report]
Rows = dict[tuple[str, str, Mode, str], Row]
LONG = 1_200
"""Timeout of a full-size test, in seconds, on a busy machine."""

CASES = [
    (backend, tap.name, mode, against)
    for backend in EAGER
    for tap in taps(LAYERS)
    if tap.name not in never_formed(backend, LAYERS)
    for mode in (Mode.FLOAT64, Mode.END_TO_END, Mode.PER_OP)
    for against in (REFERENCES if mode is Mode.FLOAT64 else ("oracle",))
]


def checker(size: str) -> Check:
    weights = load_weights(size)
    ours, theirs = build_ours(weights), build_huggingface(weights)
    candidates = {backend: ours.with_backend(backend) for backend in EAGER}

    def check(
        batch: int = 1,
        time: int = 37,
        seed: int = 0,
        given: Inputs | None = None,
        paths: Sequence[str] = EAGER,
    ) -> Report:
        chosen = given or inputs.seeded(
            batch=batch, time=time, vocab_size=weights.config["vocab_size"], seed=seed
        )
        return layerwise(
            {path: candidates[path] for path in paths},
            theirs,
            chosen.token_ids,
            positions=chosen.positions,
            attention_mask=chosen.attention_mask,
        )

    return check


SIZES = [
    "tiny",
    pytest.param("surrogate", marks=[pytest.mark.slow, pytest.mark.timeout(LONG)]),
]
_RELEASE = [*SIZES[1].marks, pytest.mark.release]
SIZES_OF_SHAPES = ["tiny", pytest.param("surrogate", marks=_RELEASE)]
WHOLE = {"tiny": {"batch": 2, "time": 37}, "surrogate": {"batch": 1, "time": 512}}
"""Inputs of the report on each size; that of the surrogate is what the command line uses."""
ON_TINY = pytest.mark.parametrize("size", ["tiny"], indirect=True)


@pytest.fixture(scope="module", params=SIZES)
def size(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def run(size: str) -> Check:
    return checker(size)


@pytest.fixture(scope="module")
def report(size: str, run: Check) -> Report:
    return run(**WHOLE[size])


@pytest.fixture(scope="module")
def rows(report: Report) -> Rows:
    return {(row.backend, row.tap, row.mode, row.against): row for row in report.results}


@pytest.mark.parametrize(("backend", "tap", "mode", "against"), CASES)
def test_every_tap_agrees(rows: Rows, backend: str, tap: str, mode: Mode, against: str) -> None:
    row = rows[backend, tap, mode, against]
    assert row.status is Status.PASS, row.detail
    assert row.required_tolerance is not None
    assert row.required_tolerance <= row.bound


@pytest.mark.parametrize("tap", ["logits", "loss"])
@pytest.mark.parametrize("backend", EAGER)
def test_output_is_identical_in_float64(rows: Rows, backend: str, tap: str) -> None:
    found = [rows[backend, tap, Mode.FLOAT64, against] for against in REFERENCES]
    assert all(row.bound == Bounds().float64 for row in found)
    assert all(0.0 < (row.error_ours or 0.0) <= row.bound for row in found)


@ON_TINY
def test_loss_is_the_mean_negative_log_likelihood(report: Report) -> None:
    losses = report.consequences["plain"]
    assert round(losses["loss_oracle"], 5) == round(losses["loss_ours"], 5)
    assert abs(losses["loss_oracle"] - float(torch.tensor(211.0).log())) < 1.0


def test_exempt_taps_have_a_reason(report: Report) -> None:
    exempt = Counter(entry["backend"] for entry in report.plan.exempt)
    assert exempt == {"tiled": 24, "fused": 48}
    assert all(entry["reason"] for entry in report.plan.exempt)


def test_looked_up_rows_are_equal_to_the_bit(rows: Rows) -> None:
    found = [
        rows["plain", tap, Mode.FLOAT64, against]
        for tap in ("embeddings.tokens", "embeddings.positions")
        for against in REFERENCES
    ]
    assert [(row.bound, row.error_ours) for row in found] == [(0.0, 0.0)] * 4


def assert_passes(report: Report, *, loss: bool = True, paths: Sequence[str] = EAGER) -> None:
    assert list(report.reasons) == []
    assert (report.verdict, report.exit_code) == (Verdict.PASS, 0)
    taps_each = {path: PLANNED[path] if loss else PLANNED[path] - 1 for path in paths}
    assert {path: (n, n) for path, n in taps_each.items()} == report.plan.per_backend


def test_plan_is_complete(report: Report, rows: Rows) -> None:
    assert_passes(report)
    assert sum(PLANNED.values()) == report.plan.planned == report.plan.compared
    assert set(rows) == set(CASES)


@pytest.mark.parametrize("size", SIZES_OF_SHAPES, indirect=True)
@pytest.mark.parametrize("time", [1, 2, 37], ids="time={}".format)
@pytest.mark.parametrize("batch", [1, 4], ids="batch={}".format)
def test_every_shape_passes(run: Check, batch: int, time: int) -> None:
    assert_passes(run(batch=batch, time=time), loss=time > 1)


@ON_TINY
@pytest.mark.parametrize("batch", [1, 4], ids="batch={}".format)
def test_the_longest_input_passes(run: Check, batch: int) -> None:
    assert_passes(run(batch=batch, time=389))


@pytest.mark.release
@pytest.mark.parametrize("size", SIZES[1:], indirect=True)
def test_four_longest_rows_pass_at_full_size(run: Check) -> None:
    """On the default backends: `fused` has another kernel for one row."""
    assert_passes(run(batch=4, time=512, paths=DEFAULT), paths=DEFAULT)


PADDED = {
    "right": [[5, 0, 210, 7, 7], [3, 9]],
    "long beside short": [list(range(40)), [1]],
}


@ON_TINY
@pytest.mark.parametrize("ids", PADDED.values(), ids=PADDED.keys())
def test_unequal_rows_pass(run: Check, ids: list[list[int]]) -> None:
    assert_passes(run(given=inputs.from_rows(ids)))


def test_a_row_of_padding_alone_passes(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """Its tokens see themselves, so that no softmax is NaN; a fault of other rows is found."""
    mask = torch.ones(3, 7, dtype=torch.bool)
    mask[1] = False
    given = {"attention_mask": mask, "modes": [Mode.FLOAT64]}
    assert layerwise(ours, theirs, ids_of(3, 7), **given).exit_code == 0
    faulty = inject(ours, "erf-gelu", 2)
    report = layerwise(faulty, theirs, ids_of(3, 7), **given)
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "h.2.mlp.gelu"


def test_left_padding_and_positions_pass(run: Check, size: str) -> None:
    vocab_size = {"tiny": 211, "surrogate": 40_478}[size]
    drawn = inputs.seeded(batch=2, time=40, vocab_size=vocab_size, seed=3)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, :9] = False
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    given = Inputs(token_ids=drawn.token_ids, positions=positions, attention_mask=mask)
    assert_passes(run(given=given))


# Fingerprints.


Key = tuple[str, str, str]
FingerprintsOf = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]
NAMES = [tap.name for tap in taps(LAYERS)]


def moved(one: Mapping[str, Fingerprint], other: Mapping[str, Fingerprint]) -> list[str]:
    assert list(one) == list(other)
    return [tap for tap in one if one[tap] != other[tap]]


@pytest.fixture(scope="module")
def with_fingerprints(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel, token_ids: Tensor
) -> Report:
    return layerwise(paths, theirs, token_ids, fingerprints=True)


def test_fingerprints_change_no_row(
    with_fingerprints: Report,
    paths: dict[str, GPT],
    theirs: OpenAIGPTLMHeadModel,
    token_ids: Tensor,
) -> None:
    without = layerwise(paths, theirs, token_ids)
    assert list(without.fingerprints) == []
    assert repr(without) == repr(
        dataclasses.replace(with_fingerprints, fingerprints=without.fingerprints)
    )


def test_every_tap_of_every_run_has_one(
    with_fingerprints: Report, fingerprints_of: FingerprintsOf
) -> None:
    whole, tiled = NAMES, [name for name in NAMES if name not in never_formed("tiled", LAYERS)]
    planned: dict[Key, list[str]] = {
        ("oracle", "float64", "float64"): whole,
        ("huggingface", "float64", "float64"): whole,
        ("ours/plain", "float64", "float64"): whole,
        ("ours/tiled", "float64", "float64"): tiled,
        ("huggingface", "float32", "end-to-end"): whole,
        ("ours/plain", "float32", "end-to-end"): whole,
        ("ours/tiled", "float32", "end-to-end"): tiled,
        ("oracle/plain", "float32", "per-op"): whole,
        ("huggingface/plain", "float32", "per-op"): whole,
        ("ours/plain", "float32", "per-op"): whole,
        ("oracle/tiled", "float32", "per-op"): tiled,
        ("huggingface/tiled", "float32", "per-op"): tiled,
        ("ours/tiled", "float32", "per-op"): tiled,
    }
    assert (len(whole), len(tiled)) == (173, 149)
    assert planned == {
        key: list(found) for key, found in fingerprints_of(with_fingerprints).items()
    }
    assert len(with_fingerprints.fingerprints) == 8 * 173 + 5 * 149
    assert all(entry.norm is not None and entry.sketch for entry in with_fingerprints.fingerprints)


def test_per_op_inputs_are_the_rounded_truth(
    with_fingerprints: Report, fingerprints_of: FingerprintsOf
) -> None:
    """Rows of float32 tables are equal in all modes; a sum is not."""
    found = fingerprints_of(with_fingerprints)
    given = found["oracle/plain", "float32", "per-op"]
    exact = found["oracle", "float64", "float64"]
    theirs = found["huggingface", "float32", "end-to-end"]
    tap = "embeddings.tokens"
    assert given[tap].digest == theirs[tap].digest != exact[tap].digest
    assert given["h.11.ln_2"].digest != theirs["h.11.ln_2"].digest
    for tap, entry in given.items():
        norm = exact[tap].norm or 0.0
        assert distance(entry.sketch, exact[tap].sketch) < 1e-5 * norm, tap
        assert entry.sketch != exact[tap].sketch or tap.startswith("embeddings."), tap


def test_shapes_are_the_rows(with_fingerprints: Report, fingerprints_of: FingerprintsOf) -> None:
    found = fingerprints_of(with_fingerprints)
    for row in with_fingerprints.results:
        if row.mode != "per-op":
            key = (f"ours/{row.backend}", row.dtype, str(row.mode))
            assert row.shape == found[key][row.tap].shape


def test_only_selected_taps_have_one(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor, fingerprints_of: FingerprintsOf
) -> None:
    report = layerwise(ours, theirs, token_ids, select="h.3.mlp*", fingerprints=True)
    names = ["h.3.mlp.c_fc", "h.3.mlp.gelu", "h.3.mlp"]
    assert [names] * 8 == [list(found) for found in fingerprints_of(report).values()]


@pytest.fixture(scope="module")
def faulty(paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> Report:
    models = {path: inject(model, "erf-gelu", 3) for path, model in paths.items()}
    return layerwise(models, theirs, token_ids, fingerprints=True)


FAULT = "h.3.mlp.gelu"


def test_a_fault_moves_its_tap_and_none_before(
    with_fingerprints: Report, faulty: Report, fingerprints_of: FingerprintsOf
) -> None:
    right, wrong = fingerprints_of(with_fingerprints), fingerprints_of(faulty)
    behind = NAMES[NAMES.index(FAULT) :]
    for key, found in right.items():
        changed = moved(found, wrong[key])
        if not key[0].startswith("ours"):
            assert changed == []
        elif key[2] == "per-op":
            assert changed == [FAULT]
        else:
            assert changed == [name for name in behind if name in found]


def test_the_estimated_change_is_the_error_of_the_row(
    faulty: Report, fingerprints_of: FingerprintsOf
) -> None:
    found = fingerprints_of(faulty)
    mine, true = (found[side, "float64", "float64"] for side in ("ours/plain", "oracle"))
    wanted = ("plain", FAULT, "end-to-end")
    rows = {(row.backend, row.tap, str(row.mode)): row for row in faulty.results}
    estimate = distance(mine[FAULT].sketch, true[FAULT].sketch) / (true[FAULT].norm or 0.0)
    assert 0.7 < estimate / (rows[wanted].error_ours or 0.0) < 1.3


def test_padding_is_not_in_a_fingerprint(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, padded: Inputs, fingerprints_of: FingerprintsOf
) -> None:
    report = layerwise(
        ours,
        theirs,
        padded.token_ids,
        attention_mask=padded.attention_mask,
        dtype="float64",
        fingerprints=True,
    )
    found = fingerprints_of(report)
    mine, its, true = (
        found[side, "float64", "float64"] for side in ("ours/plain", "huggingface", "oracle")
    )
    for tap, entry in true.items():
        for other in (mine, its):
            assert distance(entry.sketch, other[tap].sketch) < 1e-12 * (entry.norm or 0.0), tap


def test_a_report_holds_them_in_json_alone(
    with_fingerprints: Report, strictly: Callable[[str], Any]
) -> None:
    written = strictly(render(with_fingerprints))["fingerprints"]
    expected = [dataclasses.asdict(entry) for entry in with_fingerprints.fingerprints]
    assert [{**entry, "shape": list(entry["shape"])} for entry in expected] == written
    without = dataclasses.replace(with_fingerprints, fingerprints=())
    one, other = (
        render_rich(lambda console, report=report: render_text(report, console), None)
        for report in (with_fingerprints, without)
    )
    assert one == other


# Mode float64-per-op.


def with_operation(model: GPT, kind: str, operation: Operation, block: int) -> GPT:
    """Return a model that has another operation in one block."""
    return with_tap(model, lambda call, tap: replacing({kind: operation}, call, tap, block))


def gelu_with(root: float) -> Operation:
    def operation(op: Op) -> Tensor:
        x = op.input("mlp.c_fc")
        return 0.5 * x * (1.0 + torch.tanh(root * (x + 0.044715 * x**3)))

    return operation


SHORT_ROOT = gelu_with(0.79788456)
"""GELU with sqrt(2 / pi) in 8 digits: 2e-10 off, which the next block amplifies."""


@pytest.fixture(scope="module")
def short_root(ours: GPT) -> dict[str, GPT]:
    """Return a model with a constant of 8 digits in block 0, and a right one, on two backends."""
    wrong = with_operation(ours, "mlp.gelu", SHORT_ROOT, 0)
    return {"plain": wrong, "tiled": ours.with_backend("tiled")}


def ids_of(batch: int, time: int, seed: int = 0) -> Tensor:
    return inputs.seeded(batch=batch, time=time, vocab_size=211, seed=seed).token_ids


def test_a_short_constant_is_located_where_it_is(
    short_root: dict[str, GPT], theirs: OpenAIGPTLMHeadModel
) -> None:
    report = layerwise(short_root, theirs, ids_of(2, 37))
    assert report.first_divergence is not None
    row = report.first_divergence.row
    assert (report.verdict, row.tap) == (Verdict.FAIL, "h.0.mlp.gelu")
    assert (row.backend, row.mode, row.against) == ("plain", Mode.FLOAT64_PER_OP, "oracle")
    assert row.error_ours is not None
    assert 1e-10 < row.error_ours < Bounds().float64
    words = "small and even differences, as if a constant has too few digits; GPT-1 uses gelu("
    assert report.first_divergence.suspects.startswith(words)
    assert "on equal inputs it differs from the oracle by 2" in report.first_divergence.why
    own = [one for one in report.results if one.mode is Mode.FLOAT64_PER_OP]
    assert [one.tap for one in own if one.status is not Status.PASS] == ["h.0.mlp.gelu"]
    assert {one.backend for one in own} == {"plain"}  # the right one has nothing to locate
    end_to_end = [one for one in report.results if one.mode is Mode.FLOAT64]
    assert min(place for place, one in enumerate(end_to_end) if one.status is not Status.PASS) > [
        one.tap for one in end_to_end
    ].index("h.0.mlp.gelu")


def test_float64_per_op_runs_only_after_a_failure_or_if_it_is_wanted(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel, report: Report
) -> None:
    assert Mode.FLOAT64_PER_OP not in {row.mode for row in report.results}
    for dtype in ("float64", "bfloat16"):
        wanted = layerwise(paths, theirs, ids_of(3, 5), modes=[Mode.FLOAT64_PER_OP], dtype=dtype)
        rows = wanted.results
        assert wanted.verdict is Verdict.PASS
        assert {(row.mode, row.dtype) for row in rows} == {(Mode.FLOAT64_PER_OP, "float64")}
        assert Counter(row.backend for row in rows) == {"plain": 173, "tiled": 149}
        assert max(row.error_ours or 0.0 for row in rows) > 0.0
        assert all(row.bound <= 4 * Bounds().float64_per_op for row in rows)


def test_hugging_face_runs_on_equal_inputs_only_beside_a_backend_that_fails(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Backends without a failure run together; one that fails runs again with Hugging Face's."""
    ran: list[list[str]] = []
    walk = comparison.walk_in_lockstep

    def walked(lockstep: Pass, **named: Any) -> Observations:  # noqa: ANN401
        ran.append([subject.name for subject in lockstep.subjects])
        return walk(lockstep, **named)

    monkeypatch.setattr(comparison, "walk_in_lockstep", walked)
    modes, ids = [Mode.FLOAT64, Mode.FLOAT64_PER_OP], ids_of(2, 5)
    ours = [f"ours/{backend}/float64" for backend in paths]
    together = ["huggingface/float64", *ours]
    assert layerwise(paths, theirs, ids, modes=modes).verdict is Verdict.PASS
    assert ran == [together, ours]
    ran.clear()
    eleven_digits = with_operation(paths["tiled"], "mlp.gelu", gelu_with(0.79788456080), 5)
    report = layerwise({**paths, "tiled": eleven_digits}, theirs, ids, modes=modes)
    assert ran == [together, ours, ["huggingface/float64", "ours/tiled/float64"]]
    own = [row for row in report.results if row.mode is Mode.FLOAT64_PER_OP]
    assert [(r.tap, r.backend) for r in own if r.status is not Status.PASS] == [
        ("h.5.mlp.gelu", "tiled")
    ]
    assert Counter(row.backend for row in own) == {"plain": 173, "tiled": 149}
    ran.clear()
    layerwise({**paths, "tiled": inject(paths["tiled"], "erf-gelu", 3)}, theirs, ids, modes=modes)
    assert ran == [together, ours[:1], ["huggingface/float64", "ours/tiled/float64"]]


def test_the_smallest_score_is_a_visible_one(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel
) -> None:
    run = Comparison(
        candidates=dict(paths),
        reference=theirs,
        inputs=Inputs(token_ids=ids_of(1, 3)),
        precision=None,
        modes=frozenset(),
        select="*",
        bounds=Bounds(),
        explainer=Explainer(None),
        progress=comparison.no_progress,
    )
    for smallest, noted in ((-5.0, -5.0), (-10_001.0, -10_001.0), (-10_000.5, -10_001.0)):
        scores = torch.rand(1, 3, 3, 3, dtype=torch.float64)
        scores[0, 1, 0, 2] = -1e6  # of a key in the future
        scores[0, 2, 1, 0] = smallest
        run._note_smallest("h.3.attn.scores", scores)
        assert run.smallest_score == noted


def test_a_constant_that_no_other_mode_sees_fails(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    wrong = with_operation(ours, "mlp.gelu", gelu_with(0.79788456080), 5)  # 11 digits
    ids = ids_of(1, 37)
    assert layerwise(wrong, theirs, ids).verdict is Verdict.PASS
    report = layerwise(wrong, theirs, ids, modes=tuple(Mode))
    assert report.verdict is Verdict.FAIL
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "h.5.mlp.gelu"


def test_an_earlier_failure_end_to_end_keeps_its_place(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    """Where both fail at one tap, the row of mode float64 is the first divergence."""
    report = layerwise(inject(ours, "erf-gelu", 3), theirs, ids_of(1, 5), modes=[Mode.FLOAT64])
    assert report.first_divergence is not None
    row = report.first_divergence.row
    assert (row.tap, row.mode) == ("h.3.mlp.gelu", Mode.FLOAT64)
    own = [row for row in report.results if row.mode is Mode.FLOAT64_PER_OP]
    assert [row.tap for row in own if row.status is not Status.PASS] == ["h.3.mlp.gelu"]


# Rounding that is measured again before a failure counts.


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Mode]]:
    """Collect each time that the reference's rounding is measured again."""
    found: list[tuple[str, Mode]] = []
    measured_again = Comparison._measured_again

    def noted(self: Comparison, backend: str, mode: Mode, dtype: torch.dtype, seed: int) -> object:
        found.append((backend, mode))
        return measured_again(self, backend, mode, dtype, seed)

    monkeypatch.setattr(Comparison, "_measured_again", noted)
    return found


def lucky(found: Observations, huggingface: str) -> Observations:
    """Return the observations of a run of Hugging Face's model that is hardly off."""
    small = {
        key: dataclasses.replace(seen, rms=seen.rms / 30, largest=seen.largest / 30)
        for key, seen in found.differences.items()
        if key[0] == huggingface
    }
    return dataclasses.replace(found, differences={**found.differences, **small})


def test_one_lucky_run_of_the_reference_is_no_failure(
    paths: dict[str, GPT],
    theirs: OpenAIGPTLMHeadModel,
    looks: list[tuple[str, Mode]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = comparison.rounding_rows

    def rounding_rows(found: Observations, names: RunNames, *rest: Any) -> list[Row]:  # noqa: ANN401
        return right(lucky(found, names.huggingface), names, *rest)

    monkeypatch.setattr(comparison, "rounding_rows", rounding_rows)
    report = layerwise(paths, theirs, ids_of(2, 7), modes=[Mode.END_TO_END])
    assert report.verdict is Verdict.PASS
    assert set(looks) == {("plain", Mode.END_TO_END), ("tiled", Mode.END_TO_END)}


def test_a_passing_run_measures_nothing_again(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel, looks: list[tuple[str, Mode]]
) -> None:
    assert layerwise(paths, theirs, ids_of(1, 37)).verdict is Verdict.PASS
    assert looks == []


@pytest.mark.parametrize("narrow", [torch.bfloat16, torch.float16])
def test_a_narrow_operation_of_the_checked_dtype_alone_survives_every_look(
    ours: GPT,
    theirs: OpenAIGPTLMHeadModel,
    looks: list[tuple[str, Mode]],
    narrow: torch.dtype,
) -> None:
    def gelu(op: Op) -> Tensor:
        x = op.input("mlp.c_fc")
        is_checked = x.dtype == torch.float32
        return OPERATIONS["mlp.gelu"](op).to(narrow if is_checked else x.dtype).to(x.dtype)

    report = layerwise(with_operation(ours, "mlp.gelu", gelu, 11), theirs, ids_of(1, 5))
    assert report.first_divergence is not None
    row = report.first_divergence.row
    assert (row.tap, row.mode, row.dtype) == ("h.11.mlp.gelu", Mode.PER_OP, "float32")
    assert looks.count(("plain", Mode.PER_OP)) == reordered.RUNS
    assert Mode.FLOAT64_PER_OP not in {row.mode for row in report.results}


# Words that the numbers of a wrong tensor give.


def narrow_in(kind: str, dtype: torch.dtype) -> Operation:
    return lambda op: OPERATIONS[kind](op).to(dtype).double()


def first_cause(candidate: GPT, theirs: OpenAIGPTLMHeadModel, time: int = 37) -> tuple[str, str]:
    report = layerwise(candidate, theirs, ids_of(2, time), modes=[Mode.FLOAT64])
    assert report.first_divergence is not None
    return report.first_divergence.tap, report.first_divergence.suspects


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize("kind", ["attn.query", "attn.scores", "attn.context", "ln_1", "mlp"])
def test_a_narrower_type_has_words_at_every_tap(
    kind: str, dtype: torch.dtype, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    tap, words = first_cause(with_operation(ours, kind, narrow_in(kind, dtype), 2), theirs, 7)
    assert tap == f"h.2.{kind}"
    assert (
        words == f"all of its values are numbers of {str(dtype)[6:]}: an operation computes in it"
    )


@pytest.mark.parametrize(
    ("kind", "branch"), [("attn.weights", ""), ("ln_1.input", "attn"), ("ln_2.input", "mlp")]
)
def test_dropout_is_named_wherever_it_is_left_on(
    kind: str, branch: str, ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    def dropped(op: Op) -> Tensor:
        right = OPERATIONS[kind](op)
        part = op.input(branch) if branch else right
        draws = torch.Generator().manual_seed(0)
        return right - part + part * (torch.rand(part.shape, generator=draws) >= 0.1) / 0.9

    tap, words = first_cause(with_operation(ours, kind, dropped, 3), theirs)
    assert (tap, words) == (f"h.3.{kind}", LEFT_ON)


def test_random_numbers_are_named_where_no_pattern_is_seen(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    def dropped(op: Op) -> Tensor:
        weights = torch.nn.functional.dropout(op.input("attn.weights"), 0.1)
        return merge_heads(weights @ op.input("attn.value"))

    tap, words = first_cause(with_operation(ours, "attn.context", dropped, 3), theirs)
    assert (tap, words) == ("h.3.attn.context", RANDOM)


def test_a_wrong_tile_is_named_beside_the_usual_causes(
    ours: GPT, theirs: OpenAIGPTLMHeadModel
) -> None:
    def ragged(op: Op) -> Tensor:
        right = OPERATIONS["attn.context"](op)
        return torch.cat([right[:, :32], right[:, 32:].flip(-1)], 1)

    tap, words = first_cause(with_operation(ours, "attn.context", ragged, 3), theirs)
    where, _, usual = words.partition("; ")
    assert tap == "h.3.attn.context"
    assert where.startswith("only from token 32 on, of 37 (from the edge of a tile on")
    assert usual.startswith("heads merged without")


def test_a_rounding_error_is_no_wrong_formula(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    def weights(op: Op) -> Tensor:
        right = OPERATIONS["attn.weights"](op)
        return right.bfloat16().to(right.dtype) if right.dtype == torch.float32 else right

    report = layerwise(with_operation(ours, "attn.weights", weights, 4), theirs, ids_of(1, 37))
    assert report.first_divergence is not None
    assert report.first_divergence.tap == "h.4.attn.weights"
    words = "the function is right in float64: an operation here computes in bfloat16, or sums"
    assert report.first_divergence.suspects.startswith(words)


# Which model each name in the observations belongs to.


def test_each_name_belongs_to_its_model(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[tuple[str, str, torch.dtype]] = []
    expected: dict[str, tuple[str, str, torch.dtype]] = {}

    def note(cls: type[nn.Module]) -> None:
        forward = cls.forward

        def noted(self: nn.Module, *given: object, **named: object) -> object:
            dtype = next(self.parameters()).dtype
            ran.append((cls.__name__, str(getattr(self, "backend", "")), dtype))
            return forward(self, *given, **named)

        monkeypatch.setattr(cls, "forward", functools.wraps(forward)(noted))

    note(GPT)
    note(OpenAIGPTLMHeadModel)
    walk = comparison.walk_in_lockstep

    def walked(lockstep: Pass, **named: Any) -> Observations:  # noqa: ANN401
        for subject in lockstep.subjects:
            ran.clear()
            capture(subject.run)
            (expected[subject.name],) = ran
        return walk(lockstep, **named)

    monkeypatch.setattr(comparison, "walk_in_lockstep", walked)
    assert layerwise(paths, theirs, ids_of(1, 3), modes=tuple(Mode)).verdict is Verdict.PASS
    names = {"float64": torch.float64, "float32": torch.float32}
    theirs_by_name = {
        f"huggingface/{name}": ("OpenAIGPTLMHeadModel", "", dtype) for name, dtype in names.items()
    }
    ours_by_name = {
        f"ours/{backend}/{name}": ("GPT", backend, dtype)
        for name, dtype in names.items()
        for backend in paths
    }
    assert expected == theirs_by_name | ours_by_name


def test_the_second_reference_of_every_backend_is_hugging_face(
    paths: dict[str, GPT], theirs: OpenAIGPTLMHeadModel
) -> None:
    """Its numbers are Hugging Face's to the bit, and those of our plain model are others."""
    ids = ids_of(2, 37)
    report = layerwise(paths, theirs, ids, modes=[Mode.FLOAT64])
    second, own = (
        capture(run(copy.deepcopy(model).double(), Inputs(token_ids=ids)))
        for run, model in ((huggingface_run, theirs), (candidate_run, paths["plain"]))
    )
    for backend in paths:
        rows = [
            row for row in report.results if (row.backend, row.against) == (backend, "huggingface")
        ]
        equal, other = (
            sum(row.value_against == float(one[row.tap][row.worst_index]) for row in rows)
            for one in (second, own)
        )
        assert equal == len(rows)
        assert other < 0.8 * len(rows)
