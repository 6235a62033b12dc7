"""Tokenizers that give other ids, or use more than one thread, get no time."""

import contextlib
import functools
import io
import os
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from bench import tokens
from bench.attempt import NoTimeError
from bench.contest import Contest, held
from bench.held import ROWS
from bench.measurement import Measurement
from bench.outcome import Status
from bench.proof import WrongKernelError

TEXTS = ["The cat sat on the mat. The cats sat.\n", "Mats, cats and the rest!", "A that."]


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Let the corpus be a few lines, and the vocabulary be trained on them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv(tokens.VOCABULARY, raising=False)
        patch.setattr(tokens, "MERGES", 30)
        patch.setattr(tokens, "corpus", lambda: 4 * TEXTS)
        for name in ("tokenizer", "peer", "right_ids"):
            patch.setattr(tokens, name, functools.cache(getattr(tokens, name).__wrapped__))
        patch.setattr(tokens, "_THREADED", 100.0)  # so little text is over before a clock ticks
        yield


@pytest.mark.parametrize("cache", ["warm", "cold"])
@pytest.mark.parametrize("name", tokens.SIDES)
def test_each_side_is_ready(name: str, cache: str) -> None:
    """Its ids are right before and after; a cold cache is emptied outside of the clock."""
    ready = tokens.prove(name, cache)
    assert ready.check is not None
    assert (ready.error, ready.check()) == (0.0, 0.0)
    assert (ready.before is not None) == (cache == "cold")
    assert "trained here" in ready.remark
    assert ready.run() == tokens.right_ids()


def test_a_cold_cache_has_met_no_words() -> None:
    """Ours is a new tokenizer of the same vocabulary; Hugging Face's is told to forget."""
    side = tokens.Ours()
    side.encode(tokens.corpus())
    before = side._tokenizer
    side.forget()
    assert side._tokenizer is not before
    assert side._tokenizer.vocabulary is before.vocabulary
    assert before._pieces
    assert not side._tokenizer._pieces


def changed(ids: list[list[int]]) -> list[list[int]]:
    """Return the ids with the last one off by one."""
    return [*ids[:-1], [*ids[-1][:-1], ids[-1][-1] + 1]]


@pytest.mark.parametrize(
    "fault", [changed, lambda ids: ids[:-1], lambda ids: [*ids, []], lambda ids: ids[::-1]]
)
@pytest.mark.parametrize("side", [tokens.Ours, tokens.HuggingFaces])
def test_other_ids_get_no_time(
    side: type, fault: Callable[[list[list[int]]], list[list[int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them is enough, and so is a document more or less."""
    encode = side.encode
    monkeypatch.setattr(side, "encode", lambda self, texts: fault(encode(self, texts)))
    name = next(name for name, its in tokens.SIDES.items() if its is side)
    with pytest.raises(WrongKernelError, match=r"other ids in \d+ of 12 documents"):
        tokens.prove(name, "warm")


def test_work_of_another_thread_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it does is in no clock of the calling thread."""
    monkeypatch.setattr(tokens, "_THREADED", 1.2)

    def encode(_texts: list[str]) -> list[list[int]]:
        worker = threading.Thread(target=lambda: sum(range(3_000_000)))
        worker.start()
        worker.join()
        return []

    with pytest.raises(NoTimeError, match="threads worked") as refusal:
        tokens.check_one_thread(encode)
    assert refusal.value.status is Status.INCONCLUSIVE
    tokens.check_one_thread(lambda _texts: [[sum(range(3_000_000))]])


@pytest.mark.parametrize("before", [None, "true"])
def test_rusts_threads_are_as_they_were(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched off within, and left alone elsewhere."""
    monkeypatch.delenv(tokens._PARALLEL, raising=False)
    if before is not None:
        monkeypatch.setenv(tokens._PARALLEL, before)
    with tokens.one_thread_of_rust():
        assert os.environ[tokens._PARALLEL] == "false"
    assert os.environ.get(tokens._PARALLEL) == before


def test_the_corpus_is_a_megabyte(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole documents, until there is enough."""
    documents = [
        SimpleNamespace(opened=lambda: contextlib.nullcontext(io.BytesIO(b"x" * 700_000)))
        for _ in range(4)
    ]
    monkeypatch.setattr(tokens, "documents", lambda: documents)
    assert [len(text) for text in _corpus()] == [700_000, 700_000]


_corpus = tokens.corpus.__wrapped__


@pytest.mark.parametrize(("power", "status"), [(1.0, Status.MET), (2.0, Status.MISSED)])
def test_growth_is_a_power_of_the_length(
    power: float, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fitted through the time of words of five lengths, three times."""
    rows = [row for row in ROWS if row.task.room == "tokens" and row.figure == "exponent"]
    monkeypatch.setattr(
        tokens,
        "_seconds",
        lambda run: 1e-6 * len(run.args[0]) ** power,
    )
    for row in rows:
        outcome = tokens.growth(row, Measurement(None, lambda *_: None))
        assert outcome.ratio is not None
        assert (outcome.status, outcome.ratio.count) == (status, tokens.REPEATS)
        assert outcome.ratio.median == pytest.approx(power)


def test_words_are_as_long_as_they_say() -> None:
    """Of letters alone: anything else would split them."""
    for word in tokens.WORDS.values():
        assert len(word(1000)) == 1000
        assert word(1000).isalpha()


def test_a_contest_of_tokenizers() -> None:
    """From proof to times, cold ones too."""
    contest = Contest()
    for name in tokens.SIDES:
        contest.enter(name, functools.partial(tokens.prove, name, "cold"), ours=tokens.ours(name))
    held(contest, tokens.torch.device("cpu"), 2)
    assert {name: len(taken) for name, taken in contest.taken.items()} == {
        "bert": 2,
        "huggingface": 2,
    }
