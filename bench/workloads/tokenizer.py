"""Encoding: a megabyte of English compared with Hugging Face's Rust tokenizer, and long words.

Both tokenizers use one thread and encode the same documents in one call; the Rust tokenizer uses
`encode_batch_fast`, its fastest method here. Both cache words. A `cold` cache is empty when the
clock starts; a `warm` one has the words of these texts.
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
"""Environment variable with the folder of the released vocabulary."""

CHARACTERS = 1 << 20
MERGES = 2_000
"""Merges of the vocabulary that is trained if the released one is not available."""

_PARALLEL = "TOKENIZERS_PARALLELISM"
_MAX_CPU_RATIO = 1.2
"""Largest processor time of all threads over the calling thread's, if only that one works."""

Encode = Callable[[list[str]], list[list[int]]]


@functools.cache
def corpus() -> list[str]:
    """Return a megabyte of English documents."""
    texts: list[str] = []
    for document in docstring_documents():
        with document.opened() as file:
            texts.append(file.read().decode("utf-8"))
        if sum(map(len, texts)) >= CHARACTERS:
            break
    return texts


@functools.cache
def tokenizer() -> tuple[Tokenizer, str]:
    """Return our tokenizer, and a remark on its vocabulary."""
    folder = os.environ.get(VOCABULARY)
    if folder:
        return Tokenizer.from_pretrained(folder), ""
    some = corpus()[: len(corpus()) // 4]
    return Tokenizer.train(some, merges=MERGES), f"vocabulary trained here: {VOCABULARY} is not set"


@functools.cache
def rust_tokenizer() -> Any:  # noqa: ANN401 - the Rust tokenizer, which has no types
    """Return Hugging Face's tokenizer with the same vocabulary."""
    mine, _ = tokenizer()
    with tempfile.TemporaryDirectory() as name:
        mine.save_pretrained(name)
        its = HuggingFaceTokenizer(Path(name), size=mine.vocab_size)
    return its.tokenizer.backend_tokenizer


@contextlib.contextmanager
def one_thread_of_rust() -> Iterator[None]:
    """Run the Rust tokenizer on the calling thread only."""
    before = os.environ.get(_PARALLEL)
    os.environ[_PARALLEL] = "false"
    try:
        yield
    finally:
        os.environ.pop(_PARALLEL)
        if before is not None:
            os.environ[_PARALLEL] = before


class OurTokenizer:
    """Our tokenizer, with a word cache that can be cleared."""

    def __init__(self) -> None:
        self.clear_cache()

    def clear_cache(self) -> None:
        """Empty the word cache."""
        self._tokenizer = Tokenizer(tokenizer()[0].vocabulary)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return every text's ids."""
        return self._tokenizer.encode_batch(texts)


class RustTokenizer:
    """Hugging Face's tokenizer, on one thread."""

    def clear_cache(self) -> None:
        """Empty the word cache."""
        rust_tokenizer().model._clear_cache()  # noqa: SLF001 - the only way

    @one_thread_of_rust()
    def encode(self, texts: list[str]) -> list[list[int]]:
        """Return every text's ids."""
        found = rust_tokenizer().encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in found]


TOKENIZERS: dict[str, Callable[[], OurTokenizer | RustTokenizer]] = {
    "scratch_gpt": OurTokenizer,
    "huggingface": RustTokenizer,
}


@functools.cache
def expected_ids() -> list[list[int]]:
    """Return the ids of every document from Hugging Face's tokenizer, encoded one by one."""
    return [rust_tokenizer().encode(text, add_special_tokens=False).ids for text in corpus()]


def check_ids(encode: Encode) -> float:
    """Require the expected ids of the whole corpus; return 0.

    Raises:
        WrongKernelError: An id differs; the message names the document.
    """
    found, right = encode(corpus()), expected_ids()
    wrong = [at for at, ids in enumerate(right) if at >= len(found) or found[at] != ids]
    if wrong or len(found) != len(right):
        message = f"wrong ids in {len(wrong)} of {len(right)} documents, first in {wrong[:1]}"
        raise WrongKernelError(message)
    return 0.0


def check_one_thread(encode: Encode) -> None:
    """Require that encoding uses only the calling thread.

    Raises:
        NotTimedError: Other threads worked too.
    """
    own, every = time.thread_time(), time.process_time()
    encode(corpus())
    own, every = time.thread_time() - own, time.process_time() - every
    # Written so that NaN is refused.
    if not every <= _MAX_CPU_RATIO * own:
        raise NotTimedError(Status.INCONCLUSIVE, f"{every / own:.1f} threads worked instead of one")


def make(name: str, task: Task, _device: torch.device, _run: Measurement) -> Contender:
    """Return a verified tokenizer; the task's label is `cold` or `warm`.

    Raises:
        WrongKernelError: An id differs.
        NotTimedError: More than one thread worked.
    """
    side = TOKENIZERS[name]()
    side.encode(corpus()[::-1])
    check_ids(side.encode)
    check_one_thread(side.encode)
    return Contender(
        lambda: side.encode(corpus()),
        check=lambda: check_ids(side.encode),
        setup=side.clear_cache if task.label == "cold" else None,
        remark=tokenizer()[1],
    )


LENGTHS = (10_000, 31_623, 100_000, 316_228, 1_000_000)
REPEATS = 3

WORDS: dict[str, Callable[[int], str]] = {
    "drawn-word": lambda n: "".join(random.Random(n).choices(string.ascii_lowercase, k=n)),  # noqa: S311 - no secret
    "one-letter-word": lambda n: "a" * n,
}
"""Words of a length: of random letters, and of one letter, where every pair is the same."""


def time_growth(row: Target, run: Measurement) -> Outcome:
    """Return the exponent with which the time of encoding a word grows with its length."""
    encode, word = tokenizer()[0].encode, WORDS[row.task.label]
    fitted, longest = [], []
    for repeat in range(REPEATS):
        run.progress(row.name, repeat, REPEATS)
        taken = [_seconds(functools.partial(encode, word(length))) for length in LENGTHS]
        fitted.append(exponent(LENGTHS, taken))
        longest.append(taken[-1])
    return measured_outcome(row, spread(fitted), spread(longest), None)


def _seconds(run: Callable[[], object]) -> float:
    """Return the least processor time of three calls, because other processes share the cores."""
    taken = []
    for _ in range(REPEATS):
        start = time.process_time()
        run()
        taken.append(time.process_time() - start)
    return min(taken)
