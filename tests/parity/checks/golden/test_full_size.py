"""Goldens at the released size, recorded from Hugging Face's model on the surrogate's weights."""

import dataclasses
from collections.abc import Callable

import pytest
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Provenance, Standing, Weights
from parity.checks.golden.check import golden
from parity.core.results import Report
from parity.core.runners import build_huggingface, build_ours
from parity.faults.forward import inject
from reference.published import Golden, Goldens
from scratch_gpt import GPT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def surrogate() -> Weights:
    return load_weights("surrogate")


@pytest.fixture(scope="module")
def model(surrogate: Weights) -> GPT:
    return build_ours(surrogate)


@pytest.fixture(scope="module")
def full(
    recorder: Callable[[OpenAIGPTLMHeadModel], Callable[[], list[Golden]]],
    surrogate: Weights,
) -> Goldens:
    rows = tuple(recorder(build_huggingface(surrogate))())
    return Goldens(about="the surrogate", rows=rows, sha256=surrogate.provenance.sha256)


@pytest.fixture(scope="module")
def from_a_file(surrogate: Weights, provenance: Callable[..., Provenance]) -> Provenance:
    return dataclasses.replace(surrogate.provenance, files=provenance().files)


def failing(report: Report) -> set[str]:
    return {row.tap for row in report.results if row.status.value != "pass"}


def test_right_code_passes(model: GPT, full: Goldens, from_a_file: Provenance) -> None:
    report = golden(model, from_a_file, full)
    assert report.exit_code == 0
    assert failing(report) == set()
    assert report.plan.compared == len(full.rows) - 1


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


def test_the_surrogate_has_none_of_the_published_numbers(
    model: GPT, surrogate: Weights, provenance: Callable[..., Provenance]
) -> None:
    files = provenance(Standing.UNKNOWN).files
    report = golden(model, dataclasses.replace(surrogate.provenance, files=files))
    met = {row.tap for row in report.results} - failing(report)
    assert report.exit_code == 4
    assert report.verdict.value == "error"
    assert met == {"rust-bert/shape", "params/count"}
    assert report.plan.compared == 354
