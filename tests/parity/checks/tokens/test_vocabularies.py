"""Which vocabulary a run is about: asked for, beside weights, in the cache, learned, or none."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parity.checkpoints.huggingface_files import VOCABULARY_FILES
from parity.checks.tokens import check as run
from parity.checks.tokens import sides
from reference import hub, published
from reference.huggingface_tokenizer import HuggingFaceTokenizer
from scratch_gpt import Tokenizer

Check = Callable[..., Any]


@pytest.fixture
def short(check: Check, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return the verb with a short table, a short corpus and a small vocabulary to be learned."""
    monkeypatch.setattr(run, "HAND_PICKED", ("Café, don't", "<unk>"))
    monkeypatch.setattr(run, "_library", lambda: iter(["Some text.\n\nAnd more."]))
    monkeypatch.setattr(sides, "MERGES", 9)
    return lambda *arguments: check("tokens", "--num-strings", "5", *arguments)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the hub's cache, which is empty."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache: Path, commit: str) -> Path:
    """Return where a commit of the released repository would lie in the cache."""
    home = hub.storage(cache, published.REPOSITORIES[1])
    return home / "snapshots" / commit


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("weights", ["tiny", "surrogate", "auto"])
def test_a_vocabulary_is_learned_where_there_is_none(weights: str, short: Check) -> None:
    """Weights without a vocabulary are compared on one of the run's own, and it says so."""
    result = short("--weights", weights)
    assert (result.exit_code, "learned for this run: 9 merges" in result.stdout) == (0, True)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("there", [False, True], ids=["no such path", "no vocabulary"])
def test_weights_without_a_vocabulary_are_refused(
    there: bool,  # noqa: FBT001 - a table's column
    short: Check,
    tmp_path: Path,
) -> None:
    """A slip of the pen, or weights that stand alone, are no pass on another vocabulary."""
    weights = tmp_path / "weights" / "model.safetensors"
    if there:
        weights.parent.mkdir()
        weights.touch()
    result = short("--weights", weights)
    expected = "there is no vocabulary in the folder" if there else "no such file or folder"
    assert (result.exit_code, expected in result.stderr) == (4, True)
    assert f"--weights {weights}" in " ".join(result.stderr.split())


def test_the_vocabulary_beside_weights_is_taken(
    short: Check, small_vocabulary: Path, tmp_path: Path
) -> None:
    """Under OpenAI's names too; a file's folder counts as the file's place."""
    for name, release in VOCABULARY_FILES.items():
        shutil.copy(small_vocabulary / name, tmp_path / release)
    weights = tmp_path / "model.safetensors"
    weights.touch()
    result = short("--weights", weights)
    assert (result.exit_code, "beside" in result.stdout) == (0, True)


def test_a_single_file_is_taken(short: Check, small_vocabulary: Path, tmp_path: Path) -> None:
    """What Hugging Face saves, without the two that version 4 adds; a broken one is refused."""
    size = Tokenizer.from_pretrained(small_vocabulary).vocab_size
    files = small_vocabulary / "vocab.json", small_vocabulary / "merges.txt"
    HuggingFaceTokenizer(*files, size=size).tokenizer.save_pretrained(tmp_path / "saved")
    for file in files:
        (tmp_path / "saved" / file.name).unlink(missing_ok=True)
    result = short("--vocabulary", tmp_path / "saved")
    told = " ".join(result.stdout.split())  # long lines are cut
    assert (result.exit_code, "tokenizer.json as we read it" in told) == (0, True)
    (tmp_path / "saved" / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert short("--vocabulary", tmp_path / "saved").exit_code == 4


def test_the_released_vocabulary_is_looked_for_in_the_cache(
    short: Check, small_vocabulary: Path, cache: Path
) -> None:
    """It is used from there; asked for by name and not there, it is the environment's fault."""
    name = published.REPOSITORIES[1]
    assert short("--weights", name).exit_code == 5
    shutil.copytree(small_vocabulary, snapshot(cache, "0" * 40))
    result = short("--weights", name)
    assert (result.exit_code, f"the hub's cache, {name}" in result.stdout) == (0, True)


def test_the_branch_says_which_snapshot_is_taken(small_vocabulary: Path, cache: Path) -> None:
    """Not whichever name comes first; without a branch, the one that weights are taken of."""
    name = published.REPOSITORIES[1]
    commits = "0" * 40, "f" * 40, published.REVISION
    for commit in commits:
        shutil.copytree(small_vocabulary, snapshot(cache, commit))

    def taken() -> str:
        with sides.choose_vocabulary(None, name, []) as found:
            return found.folder.name

    assert taken() == published.REVISION
    branch = hub.storage(cache, name) / "refs" / "main"
    branch.parent.mkdir()
    branch.write_text(commits[1], encoding="ascii")
    assert taken() == commits[1]
