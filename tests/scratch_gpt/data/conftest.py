"""Fixtures of the data tests: prepared text, a tokenizer, documents."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from scratch_gpt.data import dataset, preparation
from scratch_gpt.data.dataset import FORMAT, Manifest, Recipe, Source
from scratch_gpt.tokenizer.tokenizer import Tokenizer


@pytest.fixture
def recipe() -> Recipe:
    return Recipe(
        vocabulary="5eed" * 16,
        pretokenizer="huggingface",
        vocab_size=300,
        errors="strict",
        validation_fraction=0.2,
    )


@pytest.fixture
def prepared(tmp_path: Path, recipe: Recipe) -> Callable[..., Path]:
    """Return a function that writes a folder of prepared text, without preparing any."""

    def write(ids: Sequence[int] = range(100, 123)) -> Path:
        folder = tmp_path / "prepared"
        folder.mkdir()
        path = folder / dataset.TOKENS_FILE
        path.write_bytes(np.array(ids, "<u2").tobytes())
        manifest = Manifest(
            format=FORMAT,
            recipe=recipe,
            tokens=len(ids),
            validation=recipe.validation_tokens(len(ids)),
            unknown=1,
            characters=90,
            replaced=2,
            sha256=dataset.sha256(path),
            sampled_sha256=dataset.sampled_sha256(path),
            sources=(Source(name="corpus/a.txt", length=91, sha256="ab" * 32),),
        )
        (folder / "manifest.json").write_text(manifest.text, "utf-8")
        return folder

    return write


@pytest.fixture(scope="session")
def tokenizer(small_vocabulary: Path) -> Tokenizer:
    return Tokenizer.from_pretrained(small_vocabulary)


@pytest.fixture
def books(tmp_path: Path, small_text: str) -> Path:
    """Return a folder of five documents, one of them empty, one without a line break."""
    folder = tmp_path / "books"
    folder.mkdir()
    texts = (small_text, "", "  \n\n", " ".join(small_text.split()), small_text[:500].upper())
    for name, text in zip("abcde", texts, strict=True):
        (folder / f"{name}.txt").write_text(text, "utf-8")
    return folder


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Make pieces so small that a page of text has several; return their size in bytes."""
    size = 200
    monkeypatch.setattr(preparation, "SIZE", size)
    return size


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    return lambda folder: {path.name: path.read_bytes() for path in folder.iterdir()}
