"""By no way that leads to a file of torch.save is a program in it run, on whichever torch."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from typer.testing import CliRunner

from parity.checkpoints import load, torch_file
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import Weights
from parity.convert import app
from reference import compat
from reference.files import digest_path
from reference.hub import FetchedFolder
from scratch_gpt import GPT
from scratch_gpt.errors import CheckpointError

Check = Callable[..., Any]
COMMIT = "1e0d4f3028acbffb47fe933cea64619c5ec1a002"


class Program:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "was run"


@pytest.fixture
def folder(tmp_path: Path, weights: Weights, marker: Path) -> Path:
    """A model's folder in which every file of torch.save would write the marker."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(dict(weights.config)), encoding="utf-8")
    for name in ("pytorch_model.bin", "model.pt", "model.pth", "part-1.bin"):
        torch.save({"tokens_embed.weight": Program(marker)}, folder / name)
    return folder


def only_a_file(folder: Path) -> None:
    for name in ("model.pt", "model.pth", "part-1.bin"):
        (folder / name).unlink()


def shards(folder: Path) -> None:
    (folder / "pytorch_model.bin").unlink()
    index = {"weight_map": {"tokens_embed.weight": "part-1.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index), encoding="utf-8")


WAYS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "a folder": ("", only_a_file),
    "a folder of shards": ("", shards),
    "an index": ("pytorch_model.bin.index.json", shards),
    "a file.bin": ("pytorch_model.bin", lambda _folder: None),
    "a file.pt": ("model.pt", lambda _folder: None),
    "a file.pth": ("model.pth", lambda _folder: None),
}
"""What is named, and what is done to the folder before."""

TORCHES = ["as installed", "2.6.0+cu124", "2.9.1"]


@pytest.fixture(params=TORCHES)
def refusing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a refusal says, on this torch or on one that reads no such file."""
    if request.param != "as installed":
        told = compat.describe
        versions = {"torch": request.param}
        monkeypatch.setattr(compat, "describe", lambda name: versions.get(name) or told(name))
    if compat.unpickles_safely():
        return "holds more than tensors"
    monkeypatch.setattr(torch_file, "open_plain", lambda _path: pytest.fail("it was opened"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    return f"not read with torch {compat.describe('torch')}"


def assert_refused(result: Any, said: str, marker: Path) -> None:  # noqa: ANN401 - typer's own
    error = " ".join(result.stderr.split())
    assert result.exit_code == 4, error
    assert said in error
    assert "safetensors" in error
    assert not marker.exists()


@pytest.fixture(params=WAYS)
def named(request: pytest.FixtureRequest, folder: Path) -> Path:
    name, prepare = WAYS[request.param]
    prepare(folder)
    return folder / name


@pytest.mark.parametrize("verb", ["weights", "layerwise", "doctor"])
def test_no_check_runs_it(
    verb: str, named: Path, marker: Path, refusing: str, check: Check
) -> None:
    assert_refused(check(verb, "--weights", str(named)), refusing, marker)


def test_no_conversion_runs_it(named: Path, folder: Path, marker: Path, refusing: str) -> None:
    result = CliRunner().invoke(app, [str(named), str(folder / "new")])
    assert_refused(result, refusing, marker)
    assert not (folder / "new").exists()


def test_no_repository_on_the_hub_runs_it(
    folder: Path, marker: Path, refusing: str, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    only_a_file(folder)
    paths = {path.name: path for path in folder.iterdir()}
    fetched = FetchedFolder(
        repository="some/body",
        commit=COMMIT,
        paths=paths,
        digests={name: digest_path(path) for name, path in paths.items()},
        from_cache=True,
        unfinished=(),
    )
    monkeypatch.setattr(load.hub, "fetch", lambda *_, **__: fetched)
    assert_refused(check("weights", "--weights", "some/body"), refusing, marker)


def test_a_candidate_is_not_run_either(
    folder: Path, marker: Path, refusing: str, check: Check, tmp_path: Path
) -> None:
    candidate = tmp_path / "candidate.py"
    candidate.write_text(f"open({str(marker)!r}, 'w').close()\n", encoding="utf-8")
    asked = ("--weights", str(folder), "--candidate", str(candidate))
    assert_refused(check("layerwise", *asked), refusing, marker)


@pytest.mark.usefixtures("refusing")
def test_beside_safetensors_it_is_not_looked_at(
    folder: Path, marker: Path, weights: Weights, check: Check
) -> None:
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.HUGGINGFACE)
    tensors = {name: torch.from_numpy(array.copy()) for name, array in named.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    result = check("weights", "--weights", str(folder))
    assert result.exit_code == 0, result.stderr
    assert not marker.exists()


def test_the_model_itself_knows_no_such_file(folder: Path, marker: Path) -> None:
    with pytest.raises(CheckpointError, match="safetensors"):
        GPT.from_pretrained(folder)
    assert not marker.exists()


def test_the_program_would_have_run(folder: Path, marker: Path) -> None:
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists()
