"""Fingerprints of whole runs: of everything that was compared, and of nothing else."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity import layerwise
from parity.core import inputs
from parity.core.fingerprints import Fingerprint, distance
from parity.core.inputs import Inputs
from parity.core.results import Report
from parity.core.taps import never_formed, taps
from parity.faults.forward import inject
from parity.report.json import render
from parity.report.text import render as render_text
from scratch_gpt import GPT
from scratch_gpt.cli import render_rich

Key = tuple[str, str, str]
Of = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]

LAYERS = 12
NAMES = [tap.name for tap in taps(LAYERS)]


@pytest.fixture(scope="module")
def padded(ours: GPT) -> Inputs:
    chosen = inputs.seeded(batch=2, time=40, vocab_size=ours.config.vocab_size, seed=0)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 33:] = False
    return dataclasses.replace(chosen, attention_mask=mask)


def moved(one: Mapping[str, Fingerprint], other: Mapping[str, Fingerprint]) -> list[str]:
    assert list(one) == list(other)
    return [tap for tap in one if one[tap] != other[tap]]


def paths(ours: GPT) -> dict[str, GPT]:
    return {path: ours.with_backend(path) for path in ("plain", "tiled")}


@pytest.fixture(scope="module")
def tiny(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> Report:
    return layerwise(paths(ours), theirs, token_ids, fingerprints=True)


def test_watching_changes_nothing(
    tiny: Report, ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor
) -> None:
    without = layerwise(paths(ours), theirs, token_ids)
    assert list(without.fingerprints) == []
    assert repr(without) == repr(dataclasses.replace(tiny, fingerprints=without.fingerprints))


def test_every_tap_of_every_run_has_one(tiny: Report, fingerprints_of: Of) -> None:
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
    assert planned == {key: list(found) for key, found in fingerprints_of(tiny).items()}
    assert len(tiny.fingerprints) == 8 * 173 + 5 * 149
    assert all(entry.norm is not None and entry.sketch for entry in tiny.fingerprints)


def test_what_operations_are_given_is_the_truth_rounded(tiny: Report, fingerprints_of: Of) -> None:
    """Rows of float32 tables are equal in all modes; a sum is not."""
    found = fingerprints_of(tiny)
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


def test_shapes_are_the_rows(tiny: Report, fingerprints_of: Of) -> None:
    found = fingerprints_of(tiny)
    for row in tiny.results:
        if row.mode != "per-op":
            key = (f"ours/{row.backend}", row.dtype, str(row.mode))
            assert row.shape == found[key][row.tap].shape


def test_only_selected_taps_have_one(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor, fingerprints_of: Of
) -> None:
    report = layerwise(ours, theirs, token_ids, select="h.3.mlp*", fingerprints=True)
    names = ["h.3.mlp.c_fc", "h.3.mlp.gelu", "h.3.mlp"]
    assert [names] * 8 == [list(found) for found in fingerprints_of(report).values()]


@pytest.fixture(scope="module")
def faulty(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> Report:
    models = {path: inject(model, "erf-gelu", 3) for path, model in paths(ours).items()}
    return layerwise(models, theirs, token_ids, fingerprints=True)


FAULT = "h.3.mlp.gelu"


def test_a_fault_moves_its_tap_and_none_before(
    tiny: Report, faulty: Report, fingerprints_of: Of
) -> None:
    right, wrong = fingerprints_of(tiny), fingerprints_of(faulty)
    behind = NAMES[NAMES.index(FAULT) :]
    for key, found in right.items():
        changed = moved(found, wrong[key])
        if not key[0].startswith("ours"):
            assert changed == []
        elif key[2] == "per-op":
            assert changed == [FAULT]
        else:
            assert changed == [name for name in behind if name in found]


def test_the_estimate_is_what_the_rows_say(faulty: Report, fingerprints_of: Of) -> None:
    found = fingerprints_of(faulty)
    mine, true = (found[side, "float64", "float64"] for side in ("ours/plain", "oracle"))
    wanted = ("plain", FAULT, "end-to-end")
    rows = {(row.backend, row.tap, str(row.mode)): row for row in faulty.results}
    told = distance(mine[FAULT].sketch, true[FAULT].sketch) / (true[FAULT].norm or 0.0)
    assert 0.7 < told / (rows[wanted].error_ours or 0.0) < 1.3


def test_what_does_not_count_is_not_in_it(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, padded: Inputs, fingerprints_of: Of
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


def test_a_report_holds_them_in_json_alone(tiny: Report, strictly: Callable[[str], Any]) -> None:
    written = strictly(render(tiny))["fingerprints"]
    expected = [dataclasses.asdict(entry) for entry in tiny.fingerprints]
    assert [{**entry, "shape": list(entry["shape"])} for entry in expected] == written
    without = dataclasses.replace(tiny, fingerprints=())
    one, other = (
        render_rich(lambda console, report=report: render_text(report, console), None)
        for report in (tiny, without)
    )
    assert one == other
