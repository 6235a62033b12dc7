"""`tokens`, from its options to a report."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from parity.checks.tokens import tokens
from parity.errors import UsageError
from parity.refusals import coded
from parity.results import Report
from parity.shell import Options, identity
from parity.tokens import vocabularies
from parity.tokens.comparison import words_of_tokens
from parity.tokens.faults import FAULTS, planted
from parity.tokens.generated import generated
from parity.tokens.sides import HuggingFace, Ours, Transcription, Witness
from parity.tokens.strings import HAND_PICKED
from parity.tokens.vocabularies import Found
from reference import compat, published
from reference.published_token_ids import PUBLISHED
from scratch_gpt.command.progress import Progress
from scratch_gpt.data import corpus, docstrings
from scratch_gpt.tokenization.byte_pairs import END
from scratch_gpt.tokenizer import Tokenizer

_ENOUGH = 1_000_000
"""Characters of the standard library's words that are compared where no corpus is given."""

_LEARNED_FROM = 300_000
"""Characters that a vocabulary is learned from."""

PACKAGES = {"bert": ("transformers", "tokenizers"), "original": ("ftfy", "spacy")}
"""What prepares text on one side or both, for each splitting: its version matters."""


def run(options: Options, progress: Progress) -> Report:
    """Compare two tokenizers as the options say."""
    _check_plant(options)
    _check_text(options)
    progress("vocabulary", 0, 1)
    learned_from = _first(_library(), _LEARNED_FROM)
    with (
        coded(),
        vocabularies.chosen(options.vocabulary, options.weights, learned_from) as found,
    ):
        return _compared(options, found, progress)


def _compared(options: Options, found: Found, progress: Progress) -> Report:
    right = Tokenizer.from_pretrained(found.folder, splitting=options.splitting)
    ours = Ours(right)
    if options.plant is not None:
        ours = planted(right, ours.splitting, options.plant)
    return tokens(
        ours,
        _witness(found, right, options.splitting),
        _sources(options, right),
        published=PUBLISHED if _released(found) and options.text is None else (),
        identity=_identity(found, right),
        fingerprints=options.fingerprints,
        inputs=_inputs(options),
        progress=progress,
    )


def _check_plant(options: Options) -> None:
    """Require a fault that can be planted into this splitting."""
    fault = FAULTS.get(str(options.plant))
    if options.plant is None or (fault is not None and options.splitting in fault.of):
        return
    known = "; ".join(
        f"{name} ({fault.what})" for name, fault in FAULTS.items() if options.splitting in fault.of
    )
    raise UsageError(
        f"no fault of this splitting is called {options.plant!r}",
        where=f"--plant with --splitting {options.splitting}",
        fix=f"use {known}",
    )


def _check_text(options: Options) -> None:
    """Require that either a text is asked for or a corpus."""
    if options.text is not None and options.corpus:
        raise UsageError(
            "a text is compared alone, so the corpus would not be read",
            where="--text with --corpus",
            fix="give one of the two",
        )


def _witness(found: Found, ours: Tokenizer, splitting: str) -> Witness:
    if splitting == "original":
        return Transcription(found.vocabulary, found.merges)
    return HuggingFace(found.vocabulary, found.merges, size=ours.vocab_size)


def _sources(options: Options, tokenizer: Tokenizer) -> dict[str, list[str]]:
    """Return the strings to compare, by where they come from."""
    if options.text is not None:
        return {"--text": [options.text]}
    drawn = list(generated(options.count, seed=options.seed))
    return {
        "hand-picked": list(HAND_PICKED),
        "tokens as words": words_of_tokens(tokenizer.vocabulary.tokens, END),
        **({"generated": drawn} if drawn else {}),
        "corpus": list(_paragraphs(options.corpus)),
    }


def _paragraphs(paths: tuple[Path, ...]) -> Iterator[str]:
    """Yield a corpus a paragraph at a time: of files, or of the standard library."""
    texts = corpus.texts(corpus.documents(paths)) if paths else _first(_library(), _ENOUGH)
    for text in texts:
        yield from (part for part in text.split("\n\n") if part)


def _library() -> Iterator[str]:
    """Yield the words that the standard library says about itself."""
    yield from corpus.texts(_documents())


@functools.cache
def _documents() -> list[corpus.Document]:
    """Return the standard library's documents; to read it takes seconds."""
    return docstrings.documents()


def _first(texts: Iterator[str], characters: int) -> Iterator[str]:
    """Yield texts until they have so many characters."""
    total = 0
    for text in texts:
        yield text
        total += len(text)
        if total >= characters:
            return


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _released(found: Found) -> bool:
    """Return whether these are the released vocabulary's bytes."""
    wanted = published.SHA256["vocab.json"], published.SHA256["merges.txt"]
    return wanted == (_digest(found.vocabulary), _digest(found.merges))


def _identity(found: Found, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what the verdict says about the vocabulary, what prepares text, and the code."""
    return identity({}, {}) | {
        "vocabulary": {
            "source": found.source,
            "tokens": tokenizer.vocab_size,
            "merges": len(tokenizer.vocabulary.merges),
            "digest": tokenizer.digest,
            "sha256": {path.name: _digest(path) for path in (found.vocabulary, found.merges)},
            "released": _released(found),
        },
        "splitting": tokenizer.splitting,
        "packages": {name: compat.told(name) for name in PACKAGES[tokenizer.splitting]},
    }


def _inputs(options: Options) -> dict[str, Any]:
    """Return what the report says about its strings."""
    said: dict[str, Any] = {"splitting": options.splitting}
    if options.text is not None:
        said["text"] = ascii(options.text)
    else:
        said |= {"generated": options.count, "seed": options.seed}
        said["corpus"] = ", ".join(map(str, options.corpus)) or "the standard library's words"
    return said | ({"plant": options.plant} if options.plant else {})
