"""What a difference means: the model is wrong, or the weights are not what they say."""

import dataclasses
from collections.abc import Callable

import pytest

from parity.checkpoints.weights import FileDigest, Provenance, Standing, Weights
from parity.checks.golden import check
from parity.checks.golden.check import golden, require_read
from parity.core.results import Report
from parity.errors import EnvironmentUnfitError, ExitCode
from parity.faults.forward import inject
from reference.published import Goldens, published
from scratch_gpt import GPT
from scratch_gpt.config import GPTConfig

ProvenanceOf = Callable[..., Provenance]


@pytest.fixture
def as_released(
    recorded: Goldens, ours: GPT, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Provenance, GPT], Report]:
    monkeypatch.setattr(check, "GPTConfig", lambda: ours.config)
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
def test_the_files_say_what_a_difference_means(  # noqa: PLR0913 - a table and its fixtures
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
def test_a_name_alone_claims_nothing(  # noqa: PLR0913 - a table and its fixtures
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
    assert Standing[standing] is check.standing_of(goldens, provenance)


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
    (altered,) = check._altered(goldens, config)
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
    assert check._altered(dataclasses.replace(recorded, sha256=None), config) == []


def test_drawn_weights_are_not_asked(ours: GPT, weights: Weights) -> None:
    with pytest.raises(EnvironmentUnfitError) as caught:
        golden(ours, weights.provenance)
    assert caught.value.exit_code == ExitCode.ENVIRONMENT
    assert "surrogate" in caught.value.where
    assert "--weights openai-gpt" in caught.value.fix
    assert "params_0.npy" in caught.value.fix


def test_weights_that_were_read_may_be_asked(provenance: ProvenanceOf) -> None:
    require_read(provenance(Standing.UNKNOWN))


def test_the_surrogate_has_none_of_the_published_numbers(ours: GPT, weights: Weights) -> None:
    report = golden(ours, weights.provenance, published())
    statuses = {row.status.value for row in report.results}
    assert report.exit_code == 4
    assert report.verdict.value == "error"
    assert statuses == {"fail", "not_run"}
    assert report.plan.planned == 354
