"""The choice of a vocabulary, and both sides on arbitrary texts."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from parity.checkpoints.huggingface_files import VOCABULARY_FILES
from parity.checks.tokens import runners, strings
from parity.checks.tokens.diagnosis import part
from parity.checks.tokens.faults import inject
from parity.checks.tokens.runners import CandidateTokenizer, ReferenceTokenizer
from reference import hub, published
from reference.huggingface_tokenizer import HuggingFaceTokenizer
from scratch_gpt import Tokenizer

Check = Callable[..., Any]


@pytest.fixture
def short(check: Check, monkeypatch: pytest.MonkeyPatch) -> Check:
    monkeypatch.setattr(strings, "HAND_PICKED", ("Café, don't", "<unk>"))
    monkeypatch.setattr(strings, "_library", lambda: iter(["Some text.\n\nAnd more."]))
    monkeypatch.setattr(strings, "many_words", lambda: ["few words"])
    monkeypatch.setattr(runners, "MERGES", 9)
    return lambda *arguments: check("tokens", "--num-strings", "5", *arguments)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def snapshot(cache: Path, commit: str) -> Path:
    home = hub.storage(cache, published.REPOSITORIES[1])
    return home / "snapshots" / commit


@pytest.mark.once
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("weights", ["tiny", "surrogate", "auto"])
def test_a_vocabulary_is_learned_where_there_is_none(weights: str, short: Check) -> None:
    result = short("--weights", weights)
    assert (result.exit_code, "trained for this run: 9 merges" in result.stdout) == (0, True)


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("there", [False, True], ids=["no such path", "no vocabulary"])
def test_weights_without_a_vocabulary_are_refused(
    there: bool,  # noqa: FBT001 - a table's column
    short: Check,
    tmp_path: Path,
) -> None:
    weights = tmp_path / "weights" / "model.safetensors"
    if there:
        weights.parent.mkdir()
        weights.touch()
    result = short("--weights", weights)
    expected = "there is no vocabulary in the folder" if there else "nothing at that path"
    assert (result.exit_code, expected in result.stderr) == (4 if there else 2, True)
    assert f"--weights {weights}" in " ".join(result.stderr.split())


def test_the_vocabulary_beside_weights_is_taken(
    short: Check, small_vocabulary: Path, tmp_path: Path
) -> None:
    for name, release in VOCABULARY_FILES.items():
        shutil.copy(small_vocabulary / name, tmp_path / release)
    weights = tmp_path / "model.safetensors"
    weights.touch()
    result = short("--weights", weights)
    assert (result.exit_code, "beside" in result.stdout) == (0, True)


def test_a_single_file_is_taken(short: Check, small_vocabulary: Path, tmp_path: Path) -> None:
    size = Tokenizer.from_pretrained(small_vocabulary).vocab_size
    files = small_vocabulary / "vocab.json", small_vocabulary / "merges.txt"
    HuggingFaceTokenizer(small_vocabulary, size=size).tokenizer.save_pretrained(tmp_path / "saved")
    for file in files:
        (tmp_path / "saved" / file.name).unlink(missing_ok=True)
    result = short("--vocabulary", tmp_path / "saved")
    text = " ".join(result.stdout.split())  # long lines are cut
    assert (result.exit_code, "read from tokenizer.json" in text) == (0, True)
    (tmp_path / "saved" / "tokenizer.json").write_text("{}", encoding="utf-8")
    assert short("--vocabulary", tmp_path / "saved").exit_code == 4


def test_the_released_vocabulary_is_looked_for_in_the_cache(
    short: Check, small_vocabulary: Path, cache: Path
) -> None:
    name = published.REPOSITORIES[1]
    assert short("--weights", name).exit_code == 5
    shutil.copytree(small_vocabulary, snapshot(cache, "0" * 40))
    result = short("--weights", name)
    assert (result.exit_code, f"the hub's cache, {name}" in result.stdout) == (0, True)


def test_the_branch_says_which_snapshot_is_taken(small_vocabulary: Path, cache: Path) -> None:
    name = published.REPOSITORIES[1]
    commits = "0" * 40, "f" * 40, published.REVISION
    for commit in commits:
        shutil.copytree(small_vocabulary, snapshot(cache, commit))

    def taken() -> str:
        with runners.choose_vocabulary(None, name, []) as found:
            return found.folder.name

    assert taken() == published.REVISION
    branch = hub.storage(cache, name) / "refs" / "main"
    branch.parent.mkdir()
    branch.write_text(commits[1], encoding="ascii")
    assert taken() == commits[1]


TEXT = st.text(max_size=60)
MANY = settings(
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def differing(ours: CandidateTokenizer, theirs: ReferenceTokenizer, text: str) -> bool:
    return part(ours.encode_batch([text])[0], theirs.encode_batch([text])[0])


@pytest.mark.slow
@pytest.mark.parametrize(("sides", "examples"), [("huggingface", 10_000), ("original", 2_000)])
def test_any_text_is_encoded_alike(
    sides: str, examples: int, request: pytest.FixtureRequest
) -> None:
    ours, theirs = request.getfixturevalue(sides)

    @settings(MANY, max_examples=examples)
    @given(TEXT)
    def alike(text: str) -> None:
        assert not differing(ours, theirs, text)

    alike()


@pytest.mark.parametrize("name", ["accents-kept", "unknown-fused", "places-in-bytes"])
def test_few_texts_find_a_fault(
    name: str, ours: CandidateTokenizer, theirs: ReferenceTokenizer
) -> None:
    wrong = inject(ours.tokenizer, name)

    @settings(MANY, max_examples=300)
    @given(TEXT)
    def alike(text: str) -> None:
        assert not differing(wrong, theirs, text)

    with pytest.raises(AssertionError):
        alike()


@pytest.mark.slow
@pytest.mark.parametrize("pretokenizer", ["huggingface", "original"])
def test_the_default_run_passes(pretokenizer: str, check: Callable[..., Any]) -> None:
    folder = os.environ.get("GPT1_VOCABULARY")
    if not folder:
        pytest.skip("not run: GPT1_VOCABULARY does not name the released vocabulary's folder")
    if pretokenizer == "original":
        for package in ("ftfy", "spacy"):
            pytest.importorskip(package, reason="not run: no extra original-text")
    result = check("tokens", "--vocabulary", folder, "--pretokenizer", pretokenizer)
    assert (result.exit_code, "published" in " ".join(result.stdout.splitlines()[-2:])) == (0, True)
