"""Fingerprints of gradients: of every one that is compared, at its own size."""

import dataclasses
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity.checks.gradients.check import gradients
from parity.checks.gradients.taps import gradient_names, is_parameter
from parity.core import inputs
from parity.core.fingerprints import Fingerprint
from parity.core.inputs import Inputs
from parity.core.results import Report
from parity.faults.backward import inject
from scratch_gpt import GPT

Key = tuple[str, str, str]
Of = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]


GRADIENTS = {place.name for place in gradient_names(12)}


@pytest.fixture(scope="module")
def padded(ours: GPT) -> Inputs:
    chosen = inputs.seeded(batch=2, time=40, vocab_size=ours.config.vocab_size, seed=0)
    mask = torch.ones(2, 40, dtype=torch.bool)
    mask[1, 33:] = False
    return dataclasses.replace(chosen, attention_mask=mask)


def paths(ours: GPT) -> dict[str, GPT]:
    return {path: ours.with_backend(path) for path in ("plain", "tiled")}


def test_every_gradient_has_one(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, padded: Inputs, fingerprints_of: Of
) -> None:
    given = {"attention_mask": padded.attention_mask}
    report = gradients(paths(ours), theirs, padded.token_ids, **given, fingerprints=True)
    sides = {key: len(found) for key, found in fingerprints_of(report).items()}
    assert sides == {
        ("huggingface", "float64", "float64"): 318,
        ("ours/plain", "float64", "float64"): 318,
        ("ours/tiled", "float64", "float64"): 294,
        ("huggingface", "float32", "end-to-end"): 318,
        ("ours/plain", "float32", "end-to-end"): 318,
        ("ours/tiled", "float32", "end-to-end"): 294,
    }
    for found in fingerprints_of(report).values():
        assert next(iter(found)) == "logits"
        assert set(found) <= GRADIENTS
        assert any(map(is_parameter, found))
    without = gradients(paths(ours), theirs, padded.token_ids, **given)
    assert repr(without.results) == repr(report.results)


def test_gradients_are_at_their_own_size(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, padded: Inputs, fingerprints_of: Of
) -> None:
    """In float16 the backward pass begins with a large number, which is divided out."""
    report = gradients(
        ours, theirs, padded.token_ids, dtype="float16", select="h.5.*", fingerprints=True
    )
    found = fingerprints_of(report)
    for side in ("ours/plain", "huggingface"):
        narrow, wide = found[side, "float16", "end-to-end"], found[side, "float64", "float64"]
        assert list(narrow) == list(wide)
        for tap, entry in wide.items():
            assert 0.9 < (narrow[tap].norm or 0.0) / (entry.norm or 1.0) < 1.1


def test_a_fault_behind_moves_no_gradient_before_it(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor, fingerprints_of: Of
) -> None:
    right, wrong = (
        fingerprints_of(gradients(model, theirs, token_ids, dtype="float64", fingerprints=True))
        for model in (ours, inject(ours, "erf-derivative", 3))
    )
    key = ("huggingface", "float64", "float64")
    assert right[key] == wrong[key]
    key = ("ours/plain", "float64", "float64")
    changed = [tap for tap in right[key] if right[key][tap] != wrong[key][tap]]
    assert changed[0] == "h.3.mlp.c_fc"
    assert list(right[key])[-len(changed) :] == changed
