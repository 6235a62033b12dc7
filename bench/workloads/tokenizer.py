"""Text to ids: a megabyte of English against Hugging Face's Rust tokenizer, and very long words.

Both sides use one thread and take the same documents in one call: Hugging Face's by
`encode_batch_fast`, the quickest of its ways here. Both keep words that they met; with a `cold`
cache they have met none when the clock starts, with a `warm` one they have met these very texts.
"""

import contextlib
import functools
import os
import random
import string
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.contest import Contender, NotTimedError, measured_outcome
from bench.models import Measurement
from bench.results import Outcome, Status, exponent, spread
from bench.targets import Target, Task
from bench.verify import WrongKernelError
from reference.huggingface_tokenizer import HuggingFaceTokenizer
from scratch_gpt.data.corpus import docstring_documents
from scratch_gpt.tokenizer.tokenizer import Tokenizer

VOCABULARY = "GPT1_VOCABULARY"
"""The environment variable that names the folder of the released vocabulary."""

CHARACTERS = 1 << 20
MERGES = 2_000
"""Of the vocabulary that is trained on the spot where there is no released one."""

_PARALLEL = "TOKENIZERS_PARALLELISM"
_THREADED = 1.2
"""Processor time of all threads over that of the calling one, above which others worked too."""

Encode = Callable[[list[str]], list[list[int]]]


def ours(name: str) -> bool:
    """Return whether a tokenizer is this project's."""
    return name != "huggingface"


@functools.cache
def corpus() -> list[str]:
    """Return a megabyte of English, as the documents that it is."""
    texts: list[str] = []
    for document in docstring_documents():
        with document.opened() as file:
            texts.append(file.read().decode("utf-8"))
        if sum(map(len, texts)) >= CHARACTERS:
            break
    return texts


@functools.cache
def tokenizer() -> tuple[Tokenizer, str]:
    """Return ours, and what there is to say of its vocabulary."""
    folder = os.environ.get(VOCABULARY)
    if folder:
        return Tokenizer.from_pretrained(folder), ""
    some = corpus()[: len(corpus()) // 4]
    return Tokenizer.train(some, merges=MERGES), f"a vocabulary trained here, no {VOCABULARY}"


@functools.cache
def peer() -> Any:  # noqa: ANN401 - the Rust tokenizer, which has no types
    """Return Hugging Face's with the same vocabulary."""
    mine, _ = tokenizer()
    with tempfile.TemporaryDirectory() as name:
        mine.save_pretrained(name)
        files = (Path(name, "vocab.json"), Path(name, "merges.txt"))
        its = HuggingFaceTokenizer(*files, size=mine.vocab_size)
    return its.tokenizer.backend_tokenizer


@contextlib.contextmanager
def one_thread_of_rust() -> Iterator[None]:
    """Have the Rust tokenizer work on the calling thread alone."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


class OurTokenizer:
    """Our tokenizer, which can be made to forget the words that it met."""

    def __init__(self) -> None:
        self.clear_cache()

    def clear_cache(self) -> None:
        """Begin with no words."""
        self._tokenizer = Tokenizer(tokenizer()[0].vocabulary)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return every text's ids."""
        return self._tokenizer.encode_batch(texts)


class RustTokenizer:
    """Hugging Face's tokenizer, on one thread."""

    def clear_cache(self) -> None:
        """Begin with no words."""
        peer().model._clear_cache()  # noqa: SLF001 - the only way

    @one_thread_of_rust()
    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return every text's ids."""
        found = peer().encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]


TOKENIZERS: dict[str, Callable[[], OurTokenizer | RustTokenizer]] = {
    "scratch_gpt": OurTokenizer,
    "huggingface": RustTokenizer,
}


@functools.cache
def expected_ids() -> list[list[int]]:
    """Return the ids of every document, as Hugging Face's has them one at a time."""
    return [peer().encode(text, add_special_tokens=False).ids for text in corpus()]


def check_ids(encode: Encode) -> float:
    """Require the ids of the whole corpus, not one of them different; return no error.

    Raises:
        WrongKernelError: One is; the message says in which document.
    """
    found, right = encode(corpus()), expected_ids()
    wrong = [at for at, ids in enumerate(right) if at >= len(found) or found[at] != ids]
    if wrong or len(found) != len(right):
        message = f"other ids in {len(wrong)} of {len(right)} documents, first in {wrong[:1]}"
        raise WrongKernelError(message)
    return 0.0


def check_one_thread(encode: Encode) -> None:
    """Require that encoding works on the calling thread alone.

    Raises:
        NotTimedError: Others worked too.
    """
    own, every = time.thread_time(), time.process_time()
    encode(corpus())
    own, every = time.thread_time() - own, time.process_time() - every
    # Written so that NaN is refused.
    if not every <= _THREADED * own:
        raise NotTimedError(Status.INCONCLUSIVE, f"{every / own:.1f} threads worked, not one")


def verified(name: str, cache: str) -> Contender:
    """Return a tokenizer that gives the right ids, ready to be timed.

    Args:
        name: A key of `TOKENIZERS`.
        cache: `cold` or `warm`.

    Raises:
        WrongKernelError: It gives other ids.
        NotTimedError: More than one thread worked.
    """
    side = TOKENIZERS[name]()
    side.encode(corpus()[::-1])
    check_ids(side.encode)
    check_one_thread(side.encode)
    return Contender(
        lambda: side.encode(corpus()),
        check=lambda: check_ids(side.encode),
        setup=side.clear_cache if cache == "cold" else None,
        remark=tokenizer()[1],
    )


def make(name: str, task: Task, _device: torch.device, _run: Measurement) -> Contender:
    """Return a tokenizer, proved."""
    return verified(name, task.label)


LENGTHS = (10_000, 31_623, 100_000, 316_228, 1_000_000)
REPEATS = 3

WORDS: dict[str, Callable[[int], str]] = {
    "drawn-word": lambda n: "".join(random.Random(n).choices(string.ascii_lowercase, k=n)),  # noqa: S311 - no secret
    "one-letter-word": lambda n: "a" * n,
}
"""Words of a length: of drawn letters, and of one letter, every pair of which is alike."""


def time_growth(row: Target, run: Measurement) -> Outcome:
    """Return how the time of one word grows with its length, as a power of it."""
    encode, word = tokenizer()[0].encode, WORDS[row.task.label]
    fitted, longest = [], []
    for repeat in range(REPEATS):
        run.progress(row.name, repeat, REPEATS)
        taken = [_seconds(functools.partial(encode, word(length))) for length in LENGTHS]
        fitted.append(exponent(LENGTHS, taken))
        longest.append(taken[-1])
    return measured_outcome(row, spread(fitted), spread(longest), None)


def _seconds(run: Callable[[], object]) -> float:
    """Return the processor time of a call: the least of some, for others share the cores."""
    return min(_processor_time(run) for _ in range(REPEATS))


def _processor_time(run: Callable[[], object]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start
