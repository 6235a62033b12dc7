"""Tokenizers with wrong ids or several threads are rejected."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from bench.contest import Contender, NotTimedError
from bench.models import Measurement
from bench.results import Status
from bench.targets import TARGETS, tokens
from bench.verify import WrongKernelError
from bench.workloads import tokenizer

CORPUS = tokenizer.corpus.__wrapped__
TEXTS = ["The cat sat on the mat. The cats sat.\n", "Mats, cats and the rest!", "A that."]


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tokenizer.VOCABULARY, raising=False)
        patch.setattr(tokenizer, "MERGES", 30)
        patch.setattr(tokenizer, "corpus", lambda: 4 * TEXTS)
        for name in ("tokenizer", "rust_tokenizer", "expected_ids"):
            patch.setattr(tokenizer, name, functools.cache(getattr(tokenizer, name).__wrapped__))
        # So little text is encoded before a clock ticks.
        patch.setattr(tokenizer, "_MAX_CPU_RATIO", 100.0)
        yield


def make(name: str, cache: str) -> Contender:
    run = Measurement(None, lambda *_: None)
    return tokenizer.make(name, tokens(cache), tokenizer.torch.device("cpu"), run)


@pytest.mark.parametrize("cache", ["warm", "cold"])
@pytest.mark.parametrize("name", tokenizer.TOKENIZERS)
def test_each_tokenizer_is_verified(name: str, cache: str) -> None:
    ready = make(name, cache)
    assert ready.check is not None
    assert (ready.error, ready.check()) == (0.0, 0.0)
    assert (ready.setup is not None) == (cache == "cold")
    assert "trained here" in ready.remark
    if ready.setup is not None:
        ready.setup()
    assert ready.run() == tokenizer.expected_ids()


def test_clearing_empties_the_word_cache() -> None:
    side = tokenizer.OurTokenizer()
    side.encode(tokenizer.corpus())
    before = side._tokenizer
    side.clear_cache()
    assert side._tokenizer is not before
    assert side._tokenizer.vocabulary is before.vocabulary
    assert before._pieces
    assert not side._tokenizer._pieces


def changed(ids: list[list[int]]) -> list[list[int]]:
    return [*ids[:-1], [*ids[-1][:-1], ids[-1][-1] + 1]]


@pytest.mark.parametrize(
    "fault", [changed, lambda ids: ids[:-1], lambda ids: [*ids, []], lambda ids: ids[::-1]]
)
@pytest.mark.parametrize("side", [tokenizer.OurTokenizer, tokenizer.RustTokenizer])
def test_wrong_ids_are_rejected(
    side: type, fault: Callable[[list[list[int]]], list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    encode = side.encode
    monkeypatch.setattr(side, "encode", lambda self, texts: fault(encode(self, texts)))
    name = next(name for name, its in tokenizer.TOKENIZERS.items() if its is side)
    with pytest.raises(WrongKernelError, match=r"wrong ids in \d+ of 12 documents"):
        make(name, "warm")


def test_work_in_another_thread_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenizer, "_MAX_CPU_RATIO", 1.2)

    def encode(_texts: list[str]) -> list[list[int]]:
        worker = threading.Thread(target=lambda: sum(range(3_000_000)))
        worker.start()
        worker.join()
        return []

    with pytest.raises(NotTimedError, match="threads worked") as refusal:
        tokenizer.check_one_thread(encode)
    assert refusal.value.status is Status.INCONCLUSIVE
    tokenizer.check_one_thread(lambda _texts: [[sum(range(3_000_000))]])


@pytest.mark.parametrize("before", [None, "true"])
def test_the_thread_setting_is_restored(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(tokenizer._PARALLEL, raising=False)
    if before is not None:
        monkeypatch.setenv(tokenizer._PARALLEL, before)
    with tokenizer.one_thread_of_rust():
        assert os.environ[tokenizer._PARALLEL] == "false"
    assert os.environ.get(tokenizer._PARALLEL) == before


def test_the_corpus_is_a_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    text = SimpleNamespace(opened=lambda: contextlib.nullcontext(io.BytesIO(b"x" * 700_000)))
    monkeypatch.setattr(tokenizer, "docstring_documents", lambda: [text] * 4)
    assert [len(text) for text in CORPUS()] == [700_000, 700_000]


@pytest.mark.parametrize(("power", "status"), [(1.0, Status.MET), (2.0, Status.MISSED)])
def test_growth_is_a_power_of_the_length(
    power: float, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [row for row in TARGETS if row.task.workload == "tokens" and row.figure == "exponent"]
    assert rows
    monkeypatch.setattr(tokenizer, "_seconds", lambda run: 1e-6 * len(run.args[0]) ** power)
    for row in rows:
        outcome = tokenizer.time_growth(row, Measurement(None, lambda *_: None))
        assert outcome.ratio is not None
        assert (outcome.status, outcome.ratio.count) == (status, tokenizer.REPEATS)
        assert outcome.ratio.median == pytest.approx(power)


def test_words_have_the_given_length() -> None:
    """They are of letters only, because other characters would split them."""
    for word in tokenizer.WORDS.values():
        assert len(word(1000)) == 1000
        assert word(1000).isalpha()
