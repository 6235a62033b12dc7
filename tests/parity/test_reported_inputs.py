"""Every check that runs models reports a digest of its ids."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel

from parity import layerwise
from parity.checks.training.runners import batches
from parity.core.inputs import Inputs, digest, parse
from parity.core.results import Mode
from scratch_gpt import GPT

Check = Callable[..., Any]
Strictly = Callable[[str], Any]

GIVEN = "5,210,0,17;12,7"
JSON = ("--weights", "tiny", "--dtype", "float64", "--format", "json")


@pytest.mark.parametrize("verb", ["layerwise", "gradients"])
def test_ids_and_mask_are_reported(verb: str, check: Check, strictly: Strictly) -> None:
    result = check(verb, *JSON, "--backend", "plain", "--token-ids", GIVEN)
    inputs = strictly(result.stdout)["inputs"]
    expected = parse(GIVEN).digests()
    assert set(expected) == {"ids", "attention_mask"}
    assert expected == {name: inputs[name] for name in expected}
    assert "positions" not in inputs


def test_positions_are_reported(ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor) -> None:
    places = torch.arange(token_ids.shape[1])[None] + 2
    report = layerwise(
        ours, theirs, token_ids, positions=places, modes=[Mode.FLOAT64], select="loss"
    )
    expected = Inputs(token_ids=token_ids, positions=places).digests()
    assert expected == {name: report.inputs[name] for name in expected}


def test_every_batch_of_training_is_reported(check: Check, strictly: Strictly) -> None:
    result = check("training", *JSON, "--backend", "plain", "--steps", "2", "--seq-len", "3")
    made = batches(steps=2, parts=2, batch=1, time=3, vocab_size=211, seed=0)
    assert strictly(result.stdout)["inputs"]["ids"] == digest(made) != digest(made[:1])


def test_prompts_and_searched_prompts_are_reported(
    check: Check, strictly: Strictly, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The prompts of the beam searches are drawn, whatever prompts are given."""
    searched = torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]])
    monkeypatch.setattr("parity.checks.generation.check._searched", lambda *_: searched)
    result = check("generation", *JSON, "--token-ids", "210;5,9,5", "--max-new-tokens", "3")
    prompts = [torch.tensor([[210]]), torch.tensor([[5, 9, 5]])]
    assert strictly(result.stdout)["inputs"]["ids"] == digest([*prompts, searched])


def test_another_seed_is_other_ids(check: Check, strictly: Strictly) -> None:
    short = ("--backend", "plain", "--seq-len", "5", "--taps", "loss")
    found = [
        strictly(check("layerwise", *JSON, *short, "--seed", seed).stdout)["inputs"]["ids"]
        for seed in ("0", "0", "1")
    ]
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize("verb", ["layerwise", "gradients", "training"])
def test_a_candidates_file_is_reported(
    verb: str, check: Check, strictly: Strictly, candidate: Callable[..., str]
) -> None:
    name = candidate()
    short = {"training": ("--steps", "2", "--seq-len", "3")}.get(verb, ("--seq-len", "5"))
    inputs = strictly(check(verb, *JSON, *short, "--candidate", name).stdout)["inputs"]
    sha = hashlib.sha256(Path(name).read_bytes()).hexdigest()[:16]
    assert (inputs["candidate"], inputs["candidate_file"]) == (name, f"sha256 {sha}")
