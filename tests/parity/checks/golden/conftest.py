"""Goldens of every kind, recorded from Hugging Face's model.

They are computed by transformers' generation and forward pass, PyTorch's softmax and
cross-entropy, and `torch.linalg`, not by the code under test. Tolerances are the published ones.
"""

import dataclasses
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import GenerationConfig, OpenAIGPTLMHeadModel

from parity.checkpoints.weights import FileDigest, Provenance, Standing, Weights
from parity.checks.golden.check import golden
from parity.core.results import Report
from reference.published import (
    QUANTITIES,
    Golden,
    Goldens,
    Grade,
    Kind,
    Symptom,
    Tolerance,
    published,
)
from scratch_gpt import GPT

UNSHIFTED = "targets that are not shifted"
FILE = b"the bytes of a file that the recorded weights were published in"


@dataclasses.dataclass(frozen=True)
class Recorder:
    model: OpenAIGPTLMHeadModel
    tolerances: dict[tuple[Kind, str], Tolerance]
    prefixes: int = 40

    def __call__(self) -> Iterator[Golden]:
        generator = np.random.Generator(np.random.Philox(20180611))
        vocab = self.model.config.vocab_size

        def ids(length: int) -> list[int]:
            return [int(number) for number in generator.integers(vocab, size=length)]

        yield from self.continuations(ids(3), ids(7))
        yield from self.last(ids(6))
        yield from (self.loss(f"loss/{at}", ids(7 + at)) for at in range(3))
        lengths = generator.permutation(np.arange(self.prefixes)) + 1
        for at, length in enumerate(map(int, lengths)):
            yield self.words(f"words/{at:03d}", ids(length), [at % vocab, vocab - 1 - at])
        yield self.golden("words/median", Kind.MEDIAN_DIFFERENCE, {"group": "words"}, 0.0)
        yield from self.matrices()
        yield from self.file()

    def golden(
        self,
        key: str,
        kind: Kind,
        inputs: dict[str, Any],
        expected: object,
        *symptoms: Symptom,
        of: str = "",
    ) -> Golden:
        return Golden(
            key=key,
            kind=kind,
            grade=Grade.HARD,
            inputs=inputs,
            expected=expected,
            tolerance=self.tolerances[kind, of],
            source="recorded from transformers",
            symptoms=symptoms,
        )

    def logits(self, token_ids: Sequence[int]) -> Tensor:
        with torch.no_grad():
            found: Tensor = self.model(input_ids=torch.tensor([list(token_ids)])).logits
        return found

    def continuations(self, prompt: list[int], other: list[int]) -> Iterator[Golden]:
        for key, ids, total, ban in (("greedy", prompt, 12, 0), ("no-repeat", other, 18, 1)):
            config = GenerationConfig(
                do_sample=False,
                max_length=total,
                no_repeat_ngram_size=ban,
                pad_token_id=0,
                use_cache=False,  # GPT-1 has none; 5.2 would run the last token alone
            )
            given = torch.tensor([ids])
            made = self.model.generate(
                given, attention_mask=torch.ones_like(given), generation_config=config
            )
            inputs = {"token_ids": ids, "total_length": total, "no_repeat_ngram_size": ban}
            yield self.golden(f"generate/{key}", Kind.GREEDY_IDS, inputs, made[0].tolist())
        yield self.golden("generate/beam", Kind.BEAM_TEXTS, {"prompt": "the dog"}, ["the dog"])

    def last(self, ids: list[int]) -> Iterator[Golden]:
        logits = self.logits(ids)
        first = int(logits[0, -1].argmax())
        given = {"token_ids": ids}
        yield self.golden("last/shape", Kind.LOGITS_SHAPE, given, list(logits.shape))
        yield self.golden("last/argmax", Kind.ARGMAX, given, first)
        value = float(logits[0, -1, first])
        yield self.golden("last/logit", Kind.LOGIT, given | {"id": first}, value)

    def words(self, key: str, ids: list[int], words: list[int]) -> Golden:
        probabilities = torch.softmax(self.logits(ids)[0, -1], dim=-1)[words]
        inputs = {"token_ids": ids, "words": words}
        return self.golden(key, Kind.WORD_PROBABILITIES, inputs, probabilities.tolist())

    def loss(self, key: str, ids: list[int]) -> Golden:
        logits, targets = self.logits(ids)[0], torch.tensor(ids)
        shifted = functional.cross_entropy(logits[:-1], targets[1:]).exp()
        unshifted = functional.cross_entropy(logits, targets).exp()
        symptom = Symptom(got=float(unshifted), means=UNSHIFTED)
        return self.golden(key, Kind.EXP_LOSS, {"token_ids": ids}, float(shifted), symptom)

    def matrices(self) -> Iterator[Golden]:
        own = {n: p.detach() for n, p in self.model.named_parameters()}
        wide = [p.double() for p in own.values() if p.ndim == 2]
        norms = [float(torch.linalg.matrix_norm(w)) for w in wide]
        spectral = [float(torch.linalg.matrix_norm(w, ord=2)) for w in wide]
        values = {
            "rms": [n / math.sqrt(w.numel()) for n, w in zip(norms, wide, strict=True)],
            "frobenius_over_sqrt2": [n / math.sqrt(2.0) for n in norms],
            "half_sigma_max_squared": [s**2 / 2.0 for s in spectral],
            "stable_rank": [(n / s) ** 2 for n, s in zip(norms, spectral, strict=True)],
        }
        for name in QUANTITIES:
            found = {"least": np.min, "largest": np.max, "mean": np.mean}
            for how, function in found.items():
                inputs = {"matrices": len(wide), "quantity": name, "statistic": how}
                value = float(function(values[name]))
                key = f"norms/{name}-{how}"
                yield self.golden(key, Kind.MATRIX_NORMS, inputs, value, of=name)
        for name in ("positions_embed.weight", "tokens_embed.weight"):
            first = own[f"transformer.{name}"].flatten()[:4].tolist()
            yield self.golden(f"first/{name}", Kind.FIRST_PARAMETERS, {"tensor": name}, first)
        count = sum(p.numel() for p in own.values())
        yield self.golden("parameters/count", Kind.PARAMETER_COUNT, {}, count)

    def file(self) -> Iterator[Golden]:
        inputs = {"file": "recorded.bin", "algorithm": "sha256"}
        digest = hashlib.sha256(FILE).hexdigest()
        yield self.golden("file/recorded.bin", Kind.FILE_DIGEST, inputs, digest)


@pytest.fixture(scope="session")
def recorder() -> Callable[[OpenAIGPTLMHeadModel], Recorder]:
    tolerances = {
        (row.kind, of): row.tolerance
        for row in published().rows
        for of in {"", row.inputs.get("quantity", "")}
    }
    return lambda model: Recorder(model, tolerances)


@pytest.fixture(scope="session")
def recorded(
    recorder: Callable[[OpenAIGPTLMHeadModel], Recorder],
    theirs: OpenAIGPTLMHeadModel,
    weights: Weights,
) -> Goldens:
    rows = tuple(recorder(theirs)())
    return Goldens(about="the tiny weights", rows=rows, sha256=weights.provenance.sha256)


@pytest.fixture(scope="session")
def provenance(weights: Weights) -> Callable[..., Provenance]:
    def made(
        standing: Standing = Standing.KNOWN, name: str = "recorded.bin", data: bytes = FILE
    ) -> Provenance:
        digest = hashlib.sha256(data).hexdigest()
        file = FileDigest(name=name, size=len(data), sha256=digest, standing=standing)
        return dataclasses.replace(weights.provenance, files=(file,))

    return made


@pytest.fixture(scope="session")
def ask(
    ours: GPT, recorded: Goldens, provenance: Callable[..., Provenance]
) -> Callable[..., Report]:
    def asked(*groups: str, model: GPT = ours, goldens: Goldens = recorded) -> Report:
        rows = tuple(row for row in goldens.rows if not groups or row.group in groups)
        return golden(model, provenance(), dataclasses.replace(goldens, rows=rows))

    return asked


@pytest.fixture(scope="session")
def altered(recorded: Goldens) -> Callable[..., Goldens]:
    def changed(key: str, **fields: object) -> Goldens:
        rows = tuple(
            dataclasses.replace(row, **fields) if row.key == key else row  # type: ignore[arg-type]
            for row in recorded.rows
        )
        assert rows != recorded.rows
        return dataclasses.replace(recorded, rows=rows)

    return changed


@pytest.fixture(scope="session")
def passed(ask: Callable[..., Report]) -> Report:
    """Return the report of right code on right weights."""
    return ask()
