"""Fingerprints of what is generated: logits and ids of every text, of both sides."""

from collections.abc import Callable, Mapping

import pytest
import torch
from transformers import OpenAIGPTLMHeadModel

from parity.checks.generation.beams import SETTINGS
from parity.checks.generation.check import GenerationInputs, generation
from parity.checks.generation.continuations import WAYS, draw_prompts
from parity.checks.generation.rows import BACKEND
from parity.core.fingerprints import Fingerprint
from parity.core.results import Report
from scratch_gpt import GPT

Key = tuple[str, str, str]
Of = Callable[[Report], Mapping[Key, Mapping[str, Fingerprint]]]
Check = Callable[..., Report]

NEW, PROMPTS = 4, 2


@pytest.fixture(scope="module")
def check(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> Check:
    """Return the check of two short prompts, with a fault or none."""

    def run(plant: str | None = None, *, fingerprints: bool = True) -> Report:
        asked = GenerationInputs(
            prompts=draw_prompts(PROMPTS, longest=7, vocab_size=211, seed=0),
            new=NEW,
            searched=torch.tensor([[17, 4, 210, 0, 33], [90, 90, 5, 61, 2]]),
            inject_fault=plant,
        )
        return generation(ours, theirs, asked, fingerprints=fingerprints)

    return run


@pytest.fixture(scope="module")
def right(check: Check) -> Report:
    """Return the run of the right generator."""
    return check()


def texts(*, drawn: bool) -> list[str]:
    """Return the names of all texts, those that are drawn among them or not."""
    ways = [way.name for way in WAYS if drawn or not way.rules.sampled]
    return [f"{way}.{at}" for way in ways for at in range(PROMPTS)]


def test_every_text_has_one(right: Report, fingerprints_of: Of) -> None:
    """Ours and Hugging Face's in both dtypes; it draws, and searches by itself, in neither."""
    found = fingerprints_of(right)
    beams = [f"beams.{setting.name}" for setting in SETTINGS]
    said = {
        (f"ours/{BACKEND}", "float64", "float64"): (texts(drawn=True), beams),
        ("huggingface", "float64", "float64"): (texts(drawn=True), []),
        (f"ours/{BACKEND}", "float32", "end-to-end"): (texts(drawn=False), beams),
        ("huggingface", "float32", "end-to-end"): (texts(drawn=False), beams),
    }
    for (side, dtype, mode), (written, searched) in said.items():
        tensors = [
            *(f"{text}.logits" for text in written),
            *(f"{text}.scores" for text in searched),
        ]
        ids = [*(f"{text}.ids" for text in written), *(f"{text}.texts" for text in searched)]
        assert tensors == list(found[side, dtype, mode])
        assert ids == list(found[side, dtype, "exact"])
    assert len(found) == 2 * len(said)


def test_logits_are_of_every_step(right: Report, fingerprints_of: Of) -> None:
    """Of as many steps as there are new tokens, and of the whole vocabulary."""
    for key, found in fingerprints_of(right).items():
        for tap, entry in found.items():
            if tap.endswith(".logits"):
                assert entry.shape == (NEW, 211)
                assert entry.norm is not None
            if tap.endswith(".ids"):
                assert (entry.shape, entry.norm, entry.sketch) == ((NEW,), None, "")
            assert (key[2] == "exact") == (entry.norm is None)


def test_the_same_ids_have_the_same_digest(right: Report, fingerprints_of: Of) -> None:
    """Whoever wrote them, in whatever dtype: this run has no ties. Their logits differ in bits."""
    found = fingerprints_of(right)
    mine, its = f"ours/{BACKEND}", "huggingface"
    for text in texts(drawn=False):
        digests = {found[side, "float64", "exact"][f"{text}.ids"].digest for side in (mine, its)}
        assert digests == {found[its, "float32", "exact"][f"{text}.ids"].digest}
        logits = f"{text}.logits"
        assert found[mine, "float64", "float64"][logits] != found[its, "float64", "float64"][logits]


def test_watching_changes_nothing(right: Report, check: Check) -> None:
    """Rows are what they are without fingerprints, to the bit."""
    without = check(fingerprints=False)
    assert (repr(right.results), right.verdict) == (repr(without.results), without.verdict)
    assert list(without.fingerprints) == []


def test_a_fault_moves_ours_alone(right: Report, check: Check, fingerprints_of: Of) -> None:
    """A stale cache: our logits are others from the second text on, to which the first left it.

    What Hugging Face wrote is as it was; in float64 its logits are those of our texts.
    """
    before, after = fingerprints_of(right), fingerprints_of(check("cache-stale"))
    for key, found in before.items():
        changed = [tap for tap, entry in found.items() if entry != after[key][tap]]
        if key[:2] == ("huggingface", "float32"):
            assert changed == []
        if key[0].startswith("ours") and key[2] != "exact":
            assert changed[0] == "greedy.1.logits"
