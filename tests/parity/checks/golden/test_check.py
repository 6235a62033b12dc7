"""The golden check: every kind of golden, right and wrong, and what a difference means."""

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import FileDigest, Provenance, Standing, Weights
from parity.checks.golden import check as golden_check
from parity.checks.golden import measure
from parity.checks.golden.check import golden, require_read
from parity.checks.golden.rows import MeasuredValue, golden_row
from parity.core.results import Report, Row
from parity.core.runners import build_huggingface, build_ours
from parity.errors import EnvironmentUnfitError, ExitCode, UsageError
from parity.faults.forward import inject
from reference.published import Golden, Goldens, Kind, Measure, Symptom, Tolerance, published
from scratch_gpt import GPT
from scratch_gpt.config import GPTConfig

Ask = Callable[..., Report]
Altered = Callable[..., Goldens]


def rows_of(report: Report) -> dict[str, Row]:
    return {row.tap: row for row in report.results}


def failing(report: Report) -> set[str]:
    return {row.tap for row in report.results if row.status.value != "pass"}


def kinds_failing(report: Report) -> set[str]:
    return {row.details["kind"] for row in rows_of(report).values() if row.status.value != "pass"}


def test_right_code_passes(passed: Report, recorded: Goldens) -> None:
    asked = len(recorded.rows) - 1
    assert passed.exit_code == 0
    assert passed.verdict.value == "pass"
    assert failing(passed) == set()
    assert passed.plan.planned == asked
    assert passed.plan.compared == asked
    assert passed.plan.per_backend == {"goldens": (asked, asked)}
    assert list(passed.reasons) == []
    assert passed.first_divergence is None


def test_every_kind_is_asked(passed: Report) -> None:
    asked = {row.details["kind"] for row in rows_of(passed).values()}
    assert asked == {row.kind.value for row in published().rows} - {"beam_texts"}
    assert set(Kind) == set(measure.KINDS) | set(measure.NOT_COMPARED)


def test_beams_are_exempt_with_the_reason(passed: Report) -> None:
    why = (
        "the search that made it may finish texts by other rules than ours: they were never "
        "compared"
    )
    assert [(entry["tap"], entry["reason"]) for entry in passed.plan.exempt] == [
        ("generate/beam", why)
    ]


def test_rows_have_the_fields_of_their_golden(passed: Report, recorded: Goldens) -> None:
    golden_row = next(row for row in recorded.rows if row.key == "last/logit")
    row = rows_of(passed)["last/logit"]
    assert row.details["expected"] == golden_row.expected
    assert row.details["tolerance"] == golden_row.tolerance
    assert row.details["source"] == golden_row.source
    assert row.details["grade"] == "H"
    assert row.details["kind"] == "logit"
    assert row.details["got"] == pytest.approx(golden_row.expected, abs=golden_row.tolerance.bound)
    assert row.details["difference"] == abs(row.details["got"] - row.details["expected"])


@pytest.mark.parametrize(
    ("fault", "must_fail"),
    [
        ("unbiased-variance", {"exp_loss", "word_probabilities", "median_difference"}),
        ("norms-swapped", {"greedy_ids", "logit", "exp_loss", "word_probabilities"}),
        ("no-mlp-residual", {"greedy_ids", "argmax", "logit", "exp_loss", "word_probabilities"}),
        ("untied-head", {"matrix_norms", "first_parameters", "parameter_count", "argmax"}),
    ],
)
def test_an_injected_fault_is_found(fault: str, must_fail: set[str], ours: GPT, ask: Ask) -> None:
    report = ask(model=inject(ours, fault, 5))
    assert (report.exit_code, report.verdict.value) == (1, "fail")
    assert must_fail <= kinds_failing(report)
    assert not {"file_digest", "logits_shape"} & kinds_failing(report)


@pytest.mark.parametrize("name", ["tokens_embed.weight", "h.3.mlp.c_fc.bias"])
def test_nan_is_its_own_failure(name: str, ours: GPT, ask: Ask) -> None:
    model = copy.deepcopy(ours)
    with torch.no_grad():
        model.get_parameter(name)[0] = math.nan
    report = ask(model=model)
    found: dict[str, set[str]] = {}
    for row in rows_of(report).values():
        found.setdefault(row.details["kind"], set()).add(row.status.value)
    computed = {"greedy_ids", "logits_shape", "argmax", "logit", "word_probabilities", "exp_loss"}
    assert report.exit_code == 1
    assert set().union(*(found[kind] for kind in computed)) == {"nonfinite"}


def test_no_goldens_are_no_pass(ask: Ask, recorded: Goldens) -> None:
    report = ask(goldens=dataclasses.replace(recorded, rows=()))
    assert (report.exit_code, report.verdict.value) == (3, "inconclusive")


@pytest.mark.parametrize(
    ("key", "inputs", "why"),
    [
        ("last/argmax", {"token_ids": [5, 211]}, "id 211 is not in this model's vocabulary of 211"),
        ("last/logit", {"token_ids": [5], "id": 300}, "id 300 is not in"),
        ("loss/1", {"token_ids": [3] * 390}, "390 tokens are more than this model's 389"),
        ("first/tokens_embed.weight", {"tensor": "wte"}, "this model has no tensor wte"),
        (
            "norms/rms-mean",
            {"matrices": 148, "quantity": "rms", "statistic": "mean"},
            "this model has 50 matrices, not 148",
        ),
    ],
)
def test_a_golden_without_a_number_is_inconclusive(
    key: str, inputs: dict[str, Any], why: str, ask: Ask, altered: Altered
) -> None:
    report = ask(key.partition("/")[0], goldens=altered(key, inputs=inputs))
    row = rows_of(report)[key]
    assert report.exit_code == 3
    assert row.status.value == "not_run"
    assert row.details["got"] is None
    assert failing(report) == {key}
    assert report.plan.compared == report.plan.planned - 1
    assert row.detail.startswith(why)
    assert key in report.reasons[0].where


def test_rows_have_the_backend_of_the_model(ours: GPT, ask: Ask) -> None:
    report = ask(model=ours.with_backend("tiled"))
    assert (report.exit_code, {row.backend for row in report.results}) == (0, {"tiled"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda model: model.train(), "is in training mode"),
        (lambda model: model.half(), "holds torch.float16"),
        (lambda model: model.bfloat16(), "holds torch.bfloat16"),
    ],
    ids=["training", "float16", "bfloat16"],
)
def test_dropout_and_coarse_dtypes_are_rejected(
    change: Callable[[GPT], GPT],
    message: str,
    ours: GPT,
    recorded: Goldens,
    provenance: Callable[..., Provenance],
) -> None:
    with pytest.raises(UsageError, match=message):
        golden(change(copy.deepcopy(ours)), provenance(), recorded)


def test_progress_reaches_its_end(
    ours: GPT, recorded: Goldens, provenance: Callable[..., Any]
) -> None:
    steps_seen: list[tuple[str, int, int]] = []
    golden(ours, provenance(), recorded, progress=lambda *step: steps_seen.append(step))
    for what in ("running the prompts", "norms of the matrices"):
        steps = [(done, total) for name, done, total in steps_seen if name == what]
        assert steps
        assert steps[-1][0] == steps[-1][1]
        assert steps == sorted(steps)


def test_a_fault_fails_with_the_models_own_number(ours: GPT, ask: Ask, recorded: Goldens) -> None:
    faulty = inject(ours, "scale-missing", 5)
    asked = next(row for row in recorded.rows if row.key == "last/logit")
    with torch.no_grad():
        given = torch.tensor([asked.inputs["token_ids"]])
        got = float(faulty(given)[0, -1, asked.inputs["id"]])
    row = rows_of(ask("last", model=faulty))["last/logit"]
    assert row.status.value == "fail"
    assert row.details["got"] == pytest.approx(got, rel=1e-5)
    assert row.details["difference"] == abs(row.details["got"] - asked.expected)


@pytest.mark.parametrize("place", [3, 7, 11])
def test_a_wrong_id_is_found_at_its_place(
    place: int, theirs: OpenAIGPTLMHeadModel, ask: Ask, recorded: Goldens, altered: Altered
) -> None:
    right = next(row for row in recorded.rows if row.key == "generate/greedy").expected
    wrong = (right[place] + 1) % 211
    other = [*right[:place], wrong, *right[place + 1 :]]
    report = ask("generate", goldens=altered("generate/greedy", expected=other))
    with torch.no_grad():
        logits: Tensor = theirs(input_ids=torch.tensor([right[:place]])).logits[0, -1]
    row = rows_of(report)["generate/greedy"]
    assert (failing(report), row.details["got"]) == ({"generate/greedy"}, right)
    assert row.details["difference"] == pytest.approx(
        float(logits[right[place]] - logits[wrong]), abs=1e-5
    )
    assert row.detail.startswith(f"first differs at place {place}: {right[place]} for {wrong}")


def test_the_golden_decides_about_repetition(ask: Ask, recorded: Goldens, altered: Altered) -> None:
    row = next(row for row in recorded.rows if row.key == "generate/no-repeat")
    allowed = dict(row.inputs, no_repeat_ngram_size=0)
    report = ask("generate", goldens=altered("generate/no-repeat", inputs=allowed))
    prompt = row.inputs["token_ids"]
    made = row.expected[len(prompt) :]
    assert failing(report) == {"generate/no-repeat"}
    assert len(set(made)) == len(made)
    assert set(made) & set(prompt) == set()


NORMS = [f"norms/{q}-{s}" for q in ("rms", "frobenius_over_sqrt2") for s in ("least", "mean")]


@pytest.mark.parametrize("key", NORMS)
def test_a_norm_off_by_a_ten_thousandth_fails(
    key: str, ask: Ask, recorded: Goldens, altered: Altered
) -> None:
    row = next(row for row in recorded.rows if row.key == key)
    report = ask("norms", goldens=altered(key, expected=row.expected * (1.0 + 1e-4)))
    within = row.expected * (1.0 + row.tolerance.bound / 2)
    near = ask("norms", goldens=altered(key, expected=within))
    assert (report.exit_code, failing(report), failing(near)) == (1, {key}, set())
    assert rows_of(report)[key].details["difference"] == pytest.approx(1e-4, rel=1e-3)


def test_a_larger_matrix_fails_the_norms(ours: GPT, ask: Ask) -> None:
    model = copy.deepcopy(ours)
    with torch.no_grad():
        model.tokens_embed.weight.mul_(1.01)
    assert {"norms/rms-mean", "norms/frobenius_over_sqrt2-mean"} <= failing(
        ask("norms", model=model)
    )


def test_unshifted_targets_are_recognised(
    ask: Ask, recorded: Goldens, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unshifted(logits: Tensor, token_ids: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits[0], token_ids[0])

    monkeypatch.setattr(measure, "next_token_loss", unshifted)
    report = ask("loss", "last")
    losses = {row.key: row for row in recorded.rows if row.kind is Kind.EXP_LOSS}
    assert set(losses) == failing(report)
    for key, row in losses.items():
        found = rows_of(report)[key]
        assert found.details["got"] == pytest.approx(row.symptoms[0].got, rel=1e-5)
        assert found.detail == "targets that are not shifted"


def test_another_wrong_loss_is_given_no_cause(ask: Ask, altered: Altered) -> None:
    row = rows_of(ask("loss", goldens=altered("loss/1", expected=7.0)))["loss/1"]
    assert (row.status.value, row.detail) == ("fail", "")


def test_a_right_loss_has_no_symptom(ask: Ask, recorded: Goldens, altered: Altered) -> None:
    right = next(row for row in recorded.rows if row.key == "loss/1").expected
    symptom = Symptom(got=right, means="a fault")
    row = rows_of(ask("loss", goldens=altered("loss/1", symptoms=(symptom,))))["loss/1"]
    assert (row.status.value, row.detail) == ("pass", "")


def test_the_median_sees_what_every_row_lets_pass(ask: Ask, recorded: Goldens) -> None:
    """Probabilities that are all 5e-4 off pass alone, and fail together."""
    rows = tuple(
        dataclasses.replace(row, expected=[p * math.exp(5e-4) for p in row.expected])
        if row.kind is Kind.WORD_PROBABILITIES
        else row
        for row in recorded.rows
    )
    report = ask("words", goldens=dataclasses.replace(recorded, rows=rows))
    assert failing(report) == {"words/median"}
    assert rows_of(report)["words/median"].details["got"] == pytest.approx(5e-4, rel=1e-2)


def test_the_worse_of_two_words_decides(ask: Ask, recorded: Goldens, altered: Altered) -> None:
    first, second = next(r for r in recorded.rows if r.key == "words/007").expected
    report = ask("words", goldens=altered("words/007", expected=[first, second * math.exp(0.02)]))
    assert failing(report) == {"words/007"}
    assert rows_of(report)["words/007"].details["difference"] == pytest.approx(0.02, rel=1e-3)


def test_a_difference_without_a_number_fails() -> None:
    nothing = MeasuredValue(got=math.nan, difference=math.nan)
    asked = dataclasses.replace(
        next(r for r in published().rows if r.kind is Kind.LOGIT),
        tolerance=Tolerance(measure=Measure.ABSOLUTE, bound=1e-4),
    )
    row = golden_row(asked, nothing, backend="plain", dtype="float32")
    assert row.status.value == "nonfinite"


ProvenanceOf = Callable[..., Provenance]


@pytest.fixture
def as_released(
    recorded: Goldens, ours: GPT, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Provenance, GPT], Report]:
    monkeypatch.setattr(golden_check, "GPTConfig", lambda: ours.config)
    groups = ("last", "loss", "file", "norms")
    rows = tuple(row for row in recorded.rows if row.group in groups)
    goldens = Goldens(about="the released weights", rows=rows)
    return lambda provenance, model: golden(model, provenance, goldens)


AsReleased = Callable[[Provenance, GPT], Report]


@pytest.mark.parametrize(
    ("standing", "fault", "code"),
    [
        (Standing.KNOWN, None, 0),
        (Standing.KNOWN, "norms-swapped", 1),
        (Standing.UNKNOWN, None, 0),
        (Standing.UNKNOWN, "norms-swapped", 4),
        (Standing.DIFFERS, None, 4),
        (Standing.DIFFERS, "norms-swapped", 4),
    ],
)
def test_the_files_decide_what_a_difference_means(  # noqa: PLR0913 - a table and its fixtures
    standing: Standing,
    fault: str | None,
    code: int,
    ours: GPT,
    provenance: ProvenanceOf,
    as_released: AsReleased,
) -> None:
    model = ours if fault is None else inject(ours, fault, 5)
    report = as_released(provenance(standing), model)
    words = {0: "pass", 1: "fail", 4: "error"}
    assert report.exit_code == code
    assert report.verdict.value == words[code]
    assert report.inputs["provenance"] == str(standing)
    assert any(reason.code is ExitCode.REFUSED for reason in report.reasons) == (code == 4)


def test_another_digest_is_a_row_that_fails(
    ours: GPT, provenance: ProvenanceOf, as_released: AsReleased
) -> None:
    report = as_released(provenance(Standing.DIFFERS, data=b"other bytes"), ours)
    wrong = [row for row in report.results if row.status.value != "pass"]
    assert report.exit_code == 4
    assert [row.tap for row in wrong] == ["file/recorded.bin"]
    assert report.reasons[0].where == "recorded.bin (differs from the published file)"


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("mine.bin", b"other bytes", "no file of that name was read"),
        ("recorded.bin", b"other bytes", "does not claim to be the published one"),
    ],
)
def test_a_file_name_alone_is_no_claim(  # noqa: PLR0913 - a table and its fixtures
    name: str,
    data: bytes,
    reason: str,
    ours: GPT,
    provenance: ProvenanceOf,
    as_released: AsReleased,
) -> None:
    report = as_released(provenance(Standing.UNKNOWN, name=name, data=data), ours)
    (exempt,) = report.plan.exempt
    assert report.exit_code == 0
    assert exempt["tap"] == "file/recorded.bin"
    assert report.inputs["provenance"] == "unknown"
    assert reason in exempt["reason"]


def test_the_published_bytes_need_no_claim(
    ours: GPT, provenance: ProvenanceOf, as_released: AsReleased
) -> None:
    report = as_released(provenance(Standing.UNKNOWN), ours)
    passing = {row.tap for row in report.results if row.status.value == "pass"}
    assert (report.plan.exempt, "file/recorded.bin" in passing) == ([], True)


def test_a_git_blob_that_was_not_taken_is_exempt(
    ours: GPT, provenance: ProvenanceOf, recorded: Goldens
) -> None:
    row = next(row for row in recorded.rows if row.group == "file")
    blob = dataclasses.replace(row, inputs=row.inputs | {"algorithm": "git_blob"})  # type: ignore[operator]
    goldens = dataclasses.replace(recorded, rows=(blob, recorded.rows[-4]))
    report = golden(ours, provenance(), goldens)
    assert [entry["reason"] for entry in report.plan.exempt] == ["its git_blob was not taken"]


@pytest.mark.parametrize(
    ("files", "standing"),
    [
        ({"model.safetensors": "KNOWN", "config.json": "UNKNOWN"}, "KNOWN"),
        ({"model.safetensors": "UNKNOWN", "vocab.json": "KNOWN"}, "UNKNOWN"),
        ({"params_0.npy": "KNOWN", "params_1.npy": "UNKNOWN"}, "UNKNOWN"),
        ({"model.safetensors": "KNOWN", "merges.txt": "DIFFERS"}, "DIFFERS"),
        ({"config.json": "UNKNOWN"}, "UNKNOWN"),
        ({}, "UNKNOWN"),
    ],
)
def test_the_files_with_tensors_decide(
    files: dict[str, str], standing: str, recorded: Goldens, weights: Weights
) -> None:
    read = [
        FileDigest(name=name, size=1, sha256="0" * 64, standing=Standing[how])
        for name, how in files.items()
    ]
    goldens = dataclasses.replace(recorded, sha256=None)
    provenance = dataclasses.replace(weights.provenance, files=tuple(read))
    assert Standing[standing] is golden_check.standing_of(goldens, provenance)


def test_recorded_weights_are_known_by_their_tensors(
    ours: GPT, provenance: ProvenanceOf, recorded: Goldens
) -> None:
    other = dataclasses.replace(recorded, sha256="0" * 64)
    faulty = inject(ours, "norms-swapped", 5)
    codes = [golden(faulty, provenance(), goldens).exit_code for goldens in (recorded, other)]
    assert codes == [1, 4]


@pytest.mark.parametrize(
    ("field", "value"), [("n_head", 8), ("layer_norm_epsilon", 1e-12), ("n_layer", 11)]
)
def test_another_config_is_refused(field: str, value: float, recorded: Goldens) -> None:
    config = dataclasses.replace(GPTConfig(), **{field: value})  # type: ignore[arg-type]
    goldens = dataclasses.replace(recorded, sha256=None)
    (altered,) = golden_check._altered(goldens, config)
    assert altered.startswith(f"{field} {value} for ")


def test_a_wrong_head_count_beside_known_weights_is_refused(
    ours: GPT, provenance: ProvenanceOf, as_released: AsReleased
) -> None:
    """Seven heads instead of three load the same tensors: the config is wrong, not the model."""
    other = GPT(dataclasses.replace(ours.config, n_head=7))
    other.load_state_dict(ours.state_dict())
    report = as_released(provenance(Standing.KNOWN), other.eval())
    (reason,) = report.reasons
    assert report.exit_code == 4
    assert reason.what == "this is not the released model's config: n_head 7 for 3"
    assert report.inputs["provenance"] == "known"


def test_dropout_probabilities_decide_no_number(recorded: Goldens) -> None:
    """They have no effect in evaluation mode."""
    config = dataclasses.replace(GPTConfig(), embd_pdrop=0.0, initializer_range=0.5)
    assert golden_check._altered(dataclasses.replace(recorded, sha256=None), config) == []


def test_drawn_weights_are_rejected(ours: GPT, weights: Weights) -> None:
    with pytest.raises(EnvironmentUnfitError) as caught:
        golden(ours, weights.provenance)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "surrogate" in caught.value.where
    assert "--weights openai-gpt" in caught.value.fix
    assert "params_0.npy" in caught.value.fix


def test_weights_from_files_are_accepted(provenance: ProvenanceOf) -> None:
    require_read(provenance(Standing.UNKNOWN))


def test_the_surrogate_has_none_of_the_published_numbers(ours: GPT, weights: Weights) -> None:
    report = golden(ours, weights.provenance, published())
    statuses = {row.status.value for row in report.results}
    assert report.exit_code == 4
    assert report.verdict.value == "error"
    assert statuses == {"fail", "not_run"}
    assert report.plan.planned == 354


@pytest.fixture(scope="module")
def surrogate() -> Weights:
    return load_weights("surrogate")


@pytest.fixture(scope="module")
def model(surrogate: Weights) -> GPT:
    return build_ours(surrogate)


@pytest.fixture(scope="module")
def full(
    recorder: Callable[[OpenAIGPTLMHeadModel], Callable[[], list[Golden]]], surrogate: Weights
) -> Goldens:
    rows = tuple(recorder(build_huggingface(surrogate))())
    return Goldens(about="the surrogate", rows=rows, sha256=surrogate.provenance.sha256)


@pytest.fixture(scope="module")
def from_a_file(surrogate: Weights, provenance: Callable[..., Provenance]) -> Provenance:
    return dataclasses.replace(surrogate.provenance, files=provenance().files)


@pytest.mark.slow
def test_right_code_passes_at_full_size(model: GPT, full: Goldens, from_a_file: Provenance) -> None:
    report = golden(model, from_a_file, full)
    assert report.exit_code == 0
    assert failing(report) == set()
    assert report.plan.compared == len(full.rows) - 1


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["erf-gelu", "unbiased-variance"])
def test_a_small_fault_in_every_block_is_found(
    fault: str, model: GPT, full: Goldens, from_a_file: Provenance
) -> None:
    faulty = model
    for block in range(model.config.n_layer):
        faulty = inject(faulty, fault, block)
    words = tuple(row for row in full.rows if row.group == "words")
    report = golden(faulty, from_a_file, dataclasses.replace(full, rows=words))
    assert (report.exit_code, "words/median" in failing(report)) == (1, True)


@pytest.mark.slow
def test_the_full_surrogate_has_none_of_the_published_numbers(
    model: GPT, surrogate: Weights, provenance: Callable[..., Provenance]
) -> None:
    files = provenance(Standing.UNKNOWN).files
    report = golden(model, dataclasses.replace(surrogate.provenance, files=files))
    met = {row.tap for row in report.results} - failing(report)
    assert report.exit_code == 4
    assert report.verdict.value == "error"
    assert met == {"rust-bert/shape", "params/count"}
    assert report.plan.compared == 354
