"""Text to ids, ours and Hugging Face's Rust tokenizer, on one thread. Run it with `make bench`."""

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.contest import NoTimeError, attempted
from bench.results import Status
from bench.workloads import tokenizer

ROUNDS = 5
WORDS = {"smoke": (1_000,), "default": (10_000, 100_000), "whole": tokenizer.LENGTHS}
"""Characters of the long words."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give the long words the lengths of the grid asked for."""
    if "length" in metafunc.fixturenames:
        metafunc.parametrize("length", WORDS[metafunc.config.getoption("--grid")])


@pytest.mark.timeout(600)
@pytest.mark.parametrize("cache", ["warm", "cold"])
@pytest.mark.parametrize("name", tokenizer.SIDES)
def test_english(benchmark: BenchmarkFixture, name: str, cache: str) -> None:
    """Every id of a megabyte is right; so is every one after the clock has stopped."""
    benchmark.group = f"encoding English, {cache} cache"
    try:
        with attempted(ours=tokenizer.ours(name)):
            ready = tokenizer.prove(name, cache)
    except NoTimeError as refusal:
        (pytest.fail if refusal.status is Status.WRONG else pytest.skip)(str(refusal))
    benchmark.pedantic(ready.run, setup=ready.before, rounds=ROUNDS, warmup_rounds=1)  # type: ignore[no-untyped-call]
    assert ready.check is not None
    ready.check()
    characters = sum(map(len, tokenizer.corpus()))
    benchmark.extra_info.update(characters=characters, vocabulary=ready.remark or "released")


@pytest.mark.parametrize("word", tokenizer.WORDS)
def test_long_word(benchmark: BenchmarkFixture, word: str, length: int) -> None:
    """One word; its tokens are the word again."""
    text = tokenizer.WORDS[word](length)
    mine, _ = tokenizer.tokenizer()
    benchmark.group = f"encoding a {word} of {length}"
    ids = benchmark.pedantic(mine.encode, args=(text,), rounds=ROUNDS)  # type: ignore[no-untyped-call]
    assert mine.decode(ids) == text
    benchmark.extra_info.update(characters=length)
