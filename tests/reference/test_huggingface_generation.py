"""Hugging Face's `generate` as a reference: explicit settings, its own order of rules."""

import logging
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import OpenAIGPTLMHeadModel
from transformers.utils import logging as transformers_logging

from reference import huggingface, surrogate
from reference.huggingface_generation import PROCESSORS, beam_search, continue_text, process_logits

PROMPTS = torch.tensor([[17, 4, 210, 0], [5, 5, 90, 61]])
RULES = {
    "repetition_penalty": 1.3,
    "no_repeat_ngram_size": 2,
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.8,
}


@pytest.fixture(scope="module")
def model() -> Iterator[OpenAIGPTLMHeadModel]:
    drawn = surrogate.load("tiny")
    state = {f"transformer.{name}": torch.from_numpy(x) for name, x in drawn.tensors.items()}
    built = huggingface.build(drawn.config, {name: x.clone() for name, x in state.items()})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield built
    torch.set_num_threads(threads)


@pytest.fixture
def misled(model: OpenAIGPTLMHeadModel) -> Iterator[OpenAIGPTLMHeadModel]:
    """Return the model with defaults of its own that would change every text."""
    wrong = {"max_new_tokens": 1, "repetition_penalty": 5.0, "num_beams": 3, "top_k": 1}
    wrong |= {"do_sample": True, "temperature": 9.0, "eos_token_id": 101, "no_repeat_ngram_size": 1}
    right = {name: getattr(model.generation_config, name) for name in wrong}
    for name, value in wrong.items():
        setattr(model.generation_config, name, value)
    yield model
    for name, value in right.items():
        setattr(model.generation_config, name, value)


def greedy(model: OpenAIGPTLMHeadModel, count: int) -> Tensor:
    """Return greedy texts by running each anew, without the library's generate."""
    text = PROMPTS
    for _ in range(count):
        with torch.no_grad():
            chosen = huggingface.logits(model, text)[:, -1].argmax(-1)
        text = torch.cat([text, chosen[:, None]], dim=1)
    return text


def test_greedy_texts_are_the_likeliest_tokens(model: OpenAIGPTLMHeadModel) -> None:
    made = continue_text(model, PROMPTS, max_new_tokens=6)
    assert torch.equal(greedy(model, 6), made.token_ids)
    assert torch.equal(made.logits, made.processed)
    assert made.logits.shape == (6, 2, 211)


def test_a_models_own_defaults_are_ignored(
    model: OpenAIGPTLMHeadModel, misled: OpenAIGPTLMHeadModel
) -> None:
    made = continue_text(misled, PROMPTS, max_new_tokens=6)
    assert torch.equal(greedy(model, 6), made.token_ids)
    with torch.random.fork_rng():
        drawn = continue_text(misled, PROMPTS, max_new_tokens=2, sampled=True)
    assert torch.equal(drawn.logits, drawn.processed)
    assert beam_search(misled, PROMPTS, beams=2, max_new_tokens=6).token_ids.shape == (2, 10)


def test_no_warning_is_logged(
    model: OpenAIGPTLMHeadModel, caplog: pytest.LogCaptureFixture
) -> None:
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity(logging.INFO)
    transformers_logging.enable_propagation()
    with caplog.at_level(logging.INFO), torch.random.fork_rng():
        transformers_logging.get_logger("transformers").warning("heard")
        continue_text(model, PROMPTS, max_new_tokens=2, sampled=True, rules=RULES)
        continue_text(model, PROMPTS, max_new_tokens=2)
        beam_search(model, PROMPTS, beams=2, max_new_tokens=2, end_id=7)
    transformers_logging.disable_propagation()
    transformers_logging.set_verbosity(level)
    assert set(caplog.messages) == {"heard"}


def test_rules_are_applied_in_the_order_of_the_table(model: OpenAIGPTLMHeadModel) -> None:
    with torch.random.fork_rng():
        made = continue_text(model, PROMPTS, max_new_tokens=1, sampled=True, rules=RULES)

    def applied(names: list[str]) -> Tensor:
        logits = made.logits[0]
        for name in names:
            logits = process_logits(name, RULES[name], logits, PROMPTS)
        return logits

    assert list(PROCESSORS) == list(RULES)
    assert torch.equal(applied(list(RULES)), made.processed[0])
    assert not torch.equal(applied(list(reversed(RULES))), made.processed[0])


def test_a_setting_that_would_be_ignored_is_refused(model: OpenAIGPTLMHeadModel) -> None:
    with pytest.raises(ValueError, match=r"no setting \['no_repeat_ngrams'\]"):
        continue_text(model, PROMPTS, max_new_tokens=1, rules={"no_repeat_ngrams": 2})


def test_logits_given_to_a_rule_are_not_changed() -> None:
    logits = torch.randn(2, 211, dtype=torch.float64)
    before = logits.clone()
    for name, value in RULES.items():
        assert not torch.equal(before, process_logits(name, value, logits, PROMPTS.repeat(1, 3)))
        assert torch.equal(before, logits)


def test_a_finished_text_is_padded_with_its_end_token(model: OpenAIGPTLMHeadModel) -> None:
    plain = beam_search(model, PROMPTS, beams=3, max_new_tokens=6, returned=3)
    end_id = int(plain.token_ids[0, 6])
    ended = beam_search(model, PROMPTS, beams=3, max_new_tokens=6, returned=3, end_id=end_id)
    rows = [row[4:] for row in ended.token_ids.tolist() if end_id in row[4:]]
    assert rows
    assert all(set(row[row.index(end_id) :]) == {end_id} for row in rows)
