"""What could hide a fault of generation keeps a run from being a pass."""

import dataclasses

import pytest
import torch
from torch import nn
from transformers import OpenAIGPTLMHeadModel

from parity.checkpoints.weights import Weights
from parity.checks.generation import check, continuations, rules
from parity.checks.generation.check import GenerationInputs, generation
from parity.core.results import Verdict
from parity.core.runners import build_huggingface, build_ours
from parity.errors import ExitCode, UsageError
from scratch_gpt import GPT

ALIVE = [[1, 2], [3, 2]]


def said(texts: list[list[int]], model: nn.Module) -> list[str]:
    """Return what keeps texts of a model from being a ground for a pass."""
    return [
        reason.what for reason in check.degenerate_reasons(model, texts, vocab_size=211, seed=0)
    ]


def test_what_is_alive_is_not_complained_of(theirs: OpenAIGPTLMHeadModel) -> None:
    """Different texts, of different tokens, by weights that vary."""
    assert said(ALIVE, theirs) == []


@pytest.mark.parametrize(
    ("texts", "why"),
    [([[4, 4], [4, 4]], "one token over and over"), ([[1, 2], [1, 2]], "continued alike")],
)
def test_texts_that_could_not_differ_are_none(
    texts: list[list[int]], why: str, theirs: OpenAIGPTLMHeadModel
) -> None:
    """A loop of one token, or one text whatever came before."""
    assert any(why in what for what in said(texts, theirs))


def test_an_idle_rule_is_named(
    theirs: OpenAIGPTLMHeadModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that changes nothing on the logits drawn has not been compared."""
    idle = rules.Case(name="never", fields={"no_repeat_ngram_size": 40})
    monkeypatch.setattr(rules, "CASES", (*rules.CASES, idle))
    found = list(check.degenerate_reasons(theirs, ALIVE, vocab_size=211, seed=0))
    assert [(reason.what, reason.where) for reason in found] == [
        ("1 rules change nothing on the logits drawn", "never")
    ]


def test_dead_weights_give_no_verdict(weights: Weights) -> None:
    """Biases of 0 everywhere: the comparison agrees, and is inconclusive."""
    dead = {n: x * 0 if n.endswith("bias") else x for n, x in weights.tensors.items()}
    flat = dataclasses.replace(weights, tensors=dead)
    asked = GenerationInputs(
        prompts=[torch.tensor([[1, 2, 3]]), torch.tensor([[9]])],
        new=3,
        searched=torch.tensor([[5, 6]]),
    )
    report = generation(build_ours(flat), build_huggingface(flat), asked, dtype="float64")
    assert (report.verdict, report.exit_code) == (Verdict.INCONCLUSIVE, ExitCode.INCONCLUSIVE)
    assert "hold one value throughout" in report.reasons[0].what
    assert report.first_divergence is None


def test_no_prompt_is_a_usage_error(ours: GPT, theirs: OpenAIGPTLMHeadModel) -> None:
    """Nothing compared is never a pass."""
    asked = GenerationInputs(prompts=[], new=3, searched=torch.tensor([[5, 6]]))
    with pytest.raises(UsageError, match="there is no prompt"):
        generation(ours, theirs, asked)


def test_prompts_are_of_every_length() -> None:
    """From one token to the longest, no two of them alike, the same for a seed."""
    made = continuations.draw_prompts(5, longest=300, vocab_size=211, seed=3)
    again = continuations.draw_prompts(5, longest=300, vocab_size=211, seed=3)
    lengths = [prompt.shape[1] for prompt in made]
    assert (lengths[0], lengths[-1], len(set(lengths))) == (1, 300, 5)
    assert all(torch.equal(a, b) for a, b in zip(made, again, strict=True))
    (only,) = continuations.draw_prompts(1, longest=300, vocab_size=211, seed=3)
    assert only.shape == (1, 300)
