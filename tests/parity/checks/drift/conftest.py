"""Reports made up by hand, rows of them in folders, and the drift of these."""

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from parity.checks.drift.check import drift
from parity.checks.drift.reading import gather_reports
from parity.core.fingerprints import BUCKETS, DIGITS, encoded
from parity.core.results import Report

Document = dict[str, Any]
Run = tuple[str, str, str]


class Made:
    ORACLE: ClassVar[Run] = ("oracle", "float64", "float64")
    THEIRS: ClassVar[Run] = ("huggingface", "float32", "end-to-end")
    OURS: ClassVar[Run] = ("ours/plain", "float32", "end-to-end")
    TILED: ClassVar[Run] = ("ours/tiled", "float32", "end-to-end")
    ALONE: ClassVar[Run] = ("huggingface/plain", "float32", "per-op")
    GIVEN: ClassVar[Run] = ("oracle/plain", "float32", "per-op")
    IDS: ClassVar[Run] = ("huggingface", "ids", "exact")
    RUNS: ClassVar[list[Run]] = [ORACLE, THEIRS, OURS, TILED, GIVEN, ALONE]
    TAPS: ClassVar[list[str]] = [
        "embeddings",
        *(f"h.{block}.{kind}" for block in range(2) for kind in ("attn.query", "mlp.gelu")),
        "logits",
    ]
    CODES: ClassVar[dict[str, int]] = {"pass": 0, "fail": 1, "error": 4, "inconclusive": 3}
    ENVIRONMENT: ClassVar[dict[str, str]] = {
        "python": "3.11.7",
        "torch": "2.6.0",
        "cpu_capability": "AVX2",
        "threads": "1",
        "transformers": "4.57.6",
    }

    @staticmethod
    def sketch(*values: float) -> str:
        sums = np.zeros(BUCKETS)
        sums[: len(values)] = values
        return encoded(sums)

    @staticmethod
    def digest(of: object) -> str:
        return hashlib.sha256(repr(of).encode()).hexdigest()[:DIGITS]

    @classmethod
    def fingerprint(cls, run: Run, tap: str, **other: object) -> Document:
        subject, dtype, mode = run
        known = {"shape": [1, 3], "digest": "0" * DIGITS, "norm": 2.0, "sketch": cls.sketch(2.0)}
        return {"subject": subject, "dtype": dtype, "mode": mode, "tap": tap} | known | other

    @staticmethod
    def row(tap: str, **other: object) -> Document:
        known = {"tap": tap, "mode": "float64", "bound": 1e-9, "error_ours": 2e-12, "ratio": None}
        return known | {"status": "pass"} | other

    @classmethod
    def report(cls, check: str = "layerwise", **other: object) -> Document:
        known = {
            "schema_version": 2,
            "check": check,
            "verdict": "pass",
            "identity": {
                "weights": {"source": "somewhere", "sha256": "0" * 64},
                "config": {"n_layer": 2},
                "code": "gpt1-parity 0.1.0, sha256 0123456789abcdef",
            },
            "environment": dict(cls.ENVIRONMENT),
            "plan": cls.plan(plain=6),
            "inputs": {"batch": 1, "time": 5},
            "first_divergence": None,
            "reasons": [],
            "results": [
                cls.row("h.0.mlp.gelu", error_ours=3e-12),
                cls.row("logits"),
                cls.row("direction", bound=1e-6, error_ours=5e-7),
                cls.row("logits", mode="end-to-end", bound=4.0, error_ours=1e-7, ratio=1.25),
            ],
            "fingerprints": [cls.fingerprint(run, tap) for tap in cls.TAPS for run in cls.RUNS],
        }
        found = known | other
        return {"exit_code": cls.CODES.get(str(found["verdict"]), 0)} | found

    @staticmethod
    def plan(**taps: int) -> Document:
        count = sum(taps.values())
        per_backend = {path: [number, number] for path, number in taps.items()}
        return {"planned": count, "compared": count, "per_backend": per_backend, "exempt": []}

    @classmethod
    def ids(cls, check: str = "tokens", taps: tuple[str, ...] = ("corpus",)) -> Document:
        taken = [cls.fingerprint(cls.IDS, tap, norm=None, sketch="") for tap in taps]
        return cls.report(check, fingerprints=taken)

    @classmethod
    def on(cls, document: Document, **environment: str) -> Document:
        return document | {"environment": cls.ENVIRONMENT | environment}

    @classmethod
    def moved(cls, document: Document, run: Run, tap: str, by: float) -> Document:
        found = copy.deepcopy(document)
        for entry in found["fingerprints"]:
            if (entry["subject"], entry["dtype"], entry["mode"], entry["tap"]) == (*run, tap):
                entry["digest"] = cls.digest(by)
                if entry["norm"] is not None:
                    entry["sketch"] = cls.sketch(2.0, by * 2.0)
        return found


@pytest.fixture(scope="session")
def made() -> type[Made]:
    return Made


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def put(name: str, *documents: Document) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True, exist_ok=True)
        for document in documents:
            file = folder / f"{document['check']}.json"
            file.write_text(json.dumps(document), encoding="utf-8")
        return folder

    return put


@pytest.fixture
def compare(write: Callable[..., Path]) -> Callable[..., Report]:
    """Return the drift of runs: of one report each, called a, b, c, ..., or of lists by name."""

    def run(*reports: Document, expect: tuple[str, ...] = (), **rows: list[Document]) -> Report:
        named = {name: [report] for name, report in zip("abcd", reports, strict=False)} | rows
        paths = [write(name, *documents) for name, documents in named.items()]
        return drift(gather_reports(paths, expect, lambda *_: None))

    return run
