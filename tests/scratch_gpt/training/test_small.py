"""The small recipe without other options: it learns, and writes English-looking text."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scratch_gpt import GPT, Tokenizer
from scratch_gpt.data import TokenData, corpus
from scratch_gpt.data.dataset import unigram_loss
from scratch_gpt.training.recipe import RECIPES

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1_800)]

PROMPTS = ("returns the", "if the file is", "this function")


@pytest.fixture(scope="module")
def trained(python: Callable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("small") / "run"
    python("-m", "scratch_gpt.train", "--output", output, "--recipe", "small", "--quiet")
    return output


def test_the_loss_is_far_below_the_unigram_loss(trained: Path) -> None:
    lines = [json.loads(line) for line in (trained / "log.jsonl").read_text("utf-8").splitlines()]
    assert [line["step"] for line in lines] == list(range(1, RECIPES["small"].steps + 1))
    data = TokenData.open(trained / "tokens")
    vocab_size = data.manifest.recipe.vocab_size
    unigram = unigram_loss(data.train, data.validation, vocab_size=vocab_size)
    assert lines[-1]["validation_loss"] <= 0.8 * unigram
    assert lines[-1]["sample"]


def test_generated_text_looks_english(trained: Path, python: Callable) -> None:
    text = " ".join(corpus.texts(corpus.docstring_documents(), errors="strict"))
    known = set(re.findall(r"[a-z]+", text.lower()))
    arguments = ("--prompt", PROMPTS[0], "--max-new-tokens", "60", "--temperature", "0.7")
    result = python("-m", "scratch_gpt.generate", "--weights", trained / "model", *arguments)
    words = re.findall(r"[a-z]+", result.stdout.lower())
    assert len(words) >= 20
    assert len(set(words)) >= 8
    assert sum(word in known for word in words) >= 0.8 * len(words)


@pytest.mark.reference
def test_hugging_face_generates_the_same(trained: Path) -> None:
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(trained / "model").double().eval()
    reference_tokenizer = transformers.AutoTokenizer.from_pretrained(trained / "model")
    model = GPT.from_pretrained(trained / "model").double()
    tokenizer = Tokenizer.from_pretrained(trained / "model")
    for prompt in PROMPTS:
        start = tokenizer.encode(prompt)
        assert start == reference_tokenizer.encode(prompt)
        token_ids = torch.tensor([start])
        expected = reference.generate(token_ids, max_new_tokens=40, do_sample=False)
        actual = model.generate(token_ids, max_new_tokens=40)
        assert expected.tolist() == actual.tolist()
        assert tokenizer.decode(actual[0].tolist()) == reference_tokenizer.decode(actual[0])
