"""Files of torch.save: tensors or nothing, and never a program."""

import argparse
import io
import json
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from parity.checkpoints import load, torch_file
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import Weights
from parity.convert import app
from parity.errors import ExitCode, InputRejectedError
from reference import compat
from reference.errors import RejectedError
from reference.files import digest_path
from reference.hub import FetchedFolder
from scratch_gpt import GPT
from scratch_gpt.errors import CheckpointError

SAFE_TORCH = pytest.mark.skipif(
    not compat.unpickles_safely(), reason="on this torch every such file is refused"
)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {
        "a": torch.tensor([[1.5, -0.0], [1e-45, 3.0]]),
        "b": torch.arange(3, dtype=torch.int64),
        "c": torch.tensor([2.0], dtype=torch.bfloat16),
    }


class Program:
    """Writes the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


def refused(path: Path) -> str:
    with pytest.raises(InputRejectedError) as refusal:
        torch_file.read_torch_file(path)
    assert refusal.value.exit_code is ExitCode.REFUSED
    assert str(path) in refusal.value.where
    return refusal.value.what


@SAFE_TORCH
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_both_forms_are_read_bit_for_bit(
    *, archive: bool, tensors: dict[str, Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "model.bin"
    torch.save(tensors, path, _use_new_zipfile_serialization=archive)
    found, digest, notes = torch_file.read_torch_file(path)
    assert notes == []
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype is tensor.dtype
        assert (
            found[name].numpy(force=True).tobytes() == tensor.numpy().tobytes()
            if (tensor.dtype is not torch.bfloat16)
            else bool(found[name].view(torch.int16).equal(tensor.view(torch.int16)))
        )
    assert digest.size == path.stat().st_size


class Buffer:
    """Makes a buffer of 8 GB when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[int]]:
        return bytearray, (1 << 33,)


@SAFE_TORCH
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("bomb", ["buffer", "lists"])
def test_a_pickle_that_grows_is_not_loaded(
    bomb: str, *, archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte of it can make an object of 56 bytes, a few a buffer of any size."""
    monkeypatch.setattr(torch, "load", lambda *_all, **_named: pytest.fail("it was loaded"))
    path = tmp_path / "model.bin"
    held = Buffer() if bomb == "buffer" else [[] for _ in range(600_000)]
    torch.save({"a": held}, path, _use_new_zipfile_serialization=archive)
    wanted = "it holds a bytearray" if bomb == "buffer" else "has more than 1,000,000 operations"
    assert wanted in refused(path)


@pytest.mark.parametrize("variable", ["0", "1"])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_a_command_is_not_run(
    variable: str, *, archive: bool, tmp_path: Path, marker: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", variable)
    path = tmp_path / "model.bin"
    torch.save({"a": Program(marker)}, path, _use_new_zipfile_serialization=archive)
    refused(path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "the file would have run its command"


@pytest.mark.parametrize("version", ["2.6.0+cu124", "2.9.1", "1.13.0", "2.10.0a0+git"])
def test_before_torch_2_10_every_such_file_is_refused(
    version: str, tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sound one too; it is not even opened."""
    torch.save(tensors, tmp_path / "model.bin")
    monkeypatch.setattr(compat, "describe", lambda package: {"torch": version}[package])
    monkeypatch.setattr(torch_file, "open_plain", lambda _path: pytest.fail("it was opened"))
    assert re.search(re.escape(version), refused(tmp_path / "model.bin"))


def tar(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())


def archive(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(f"model/{name}", content)


def half(path: Path, *, archive: bool) -> None:
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=archive)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


EMPTY = pickle.dumps({})


@SAFE_TORCH
@pytest.mark.parametrize(
    ("write", "why"),
    [
        (tar, "torch.save did not write it"),
        (lambda path: path.write_bytes(pickle.dumps({"a": 1})), "torch.save did not write it"),
        (lambda path: path.write_bytes(b""), "torch.save did not write it"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "no whole archive"),
        (lambda path: archive(path, **{"constants.pkl": EMPTY, "data.pkl": EMPTY}), "TorchScript"),
        (lambda path: archive(path, **{"data.pkl": EMPTY, "data/0": bytes(4 << 20)}), "unpacks to"),
        (lambda path: half(path, archive=True), "no whole archive"),
        (lambda path: half(path, archive=False), "damaged"),
        *(
            (lambda path, state=state: torch.save(state, path), why)
            for state, why in (
                ([torch.zeros(1)], "holds a list"),
                ({0: torch.zeros(1)}, "no tensor by name, but 0: Tensor"),
                ({"a": 1.0}, "no tensor by name, but 'a': float"),
                ({"a": {"b": torch.zeros(1)}}, "no tensor by name, but 'a': dict"),
                ({}, "no tensor by name, but nothing"),
                ({"a": argparse.Namespace()}, "more than tensors"),
                (nn.Linear(1, 1), "more than tensors"),
                ({"a": np.float64(1)}, "more than tensors"),
                ({"a": torch.zeros(2, 2).to_sparse()}, "no plain tensor"),
                ({"a": torch.zeros(2, device="meta")}, "no plain tensor"),
                ({"a": torch.zeros(1).expand(10**12)}, "claims more"),
                ({300_000 * ".": torch.zeros(1)}, "the name '....."),
                ({"\x1b[31m": torch.zeros(1)}, r"the name '\x1b[31m'"),
                ({"a": torch.tensor([1, torch.nan])}, "1 values that are"),
                ({"a": torch.tensor([-torch.inf])}, "1 values that are"),
            )
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_no_file_of_tensors_is_refused(
    write: Callable[[Path], None], why: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.bin"
    write(path)
    found = refused(path)
    assert why in found
    assert "\n" not in found


@SAFE_TORCH
@pytest.mark.filterwarnings("ignore:.*quantized tensor creation:UserWarning")
def test_a_quantized_tensor_is_refused(tmp_path: Path) -> None:
    quantized = torch.quantize_per_tensor(torch.tensor([0.3, -1.7]), 0.1, 0, torch.qint8)
    torch.save({"a": quantized}, tmp_path / "model.bin")
    assert "no plain tensor (torch.strided, quantized: True" in refused(tmp_path / "model.bin")


@SAFE_TORCH
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_a_file_saved_on_a_gpu_is_read_without_one(
    *, archive: bool, tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    with monkeypatch.context() as on_a_gpu:
        on_a_gpu.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        torch.save(tensors, path, _use_new_zipfile_serialization=archive)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)  # the file does name a GPU
    found, *_ = torch_file.read_torch_file(path)
    assert {tensor.device.type for tensor in found.values()} == {"cpu"}
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


@SAFE_TORCH
def test_a_view_has_memory_of_its_own(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "model.bin")
    found, *_ = torch_file.read_torch_file(tmp_path / "model.bin")
    assert found["a"].is_contiguous()
    assert found["a"].tolist() == [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]


@SAFE_TORCH
def test_a_file_that_changes_while_it_is_read_is_refused(
    tensors: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "model.bin"
    torch.save(tensors, path)
    load = torch.load

    def meddled(*args: object, **options: object) -> object:
        loaded = load(*args, **options)
        torch.save({"a": torch.zeros(9)}, path)
        return loaded

    monkeypatch.setattr(torch, "load", meddled)
    assert "changed while it was read" in refused(path)


@SAFE_TORCH
@pytest.mark.parametrize("kind", ["folder", "pipe", "nothing"])
def test_what_is_no_file_is_refused_at_once(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "model.bin"
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "nothing": lambda: None}[kind]()
    with pytest.raises(RejectedError, match=r"model\.bin"):
        torch_file.read_torch_file(path)


# No program in a file is run.


Check = Callable[..., Any]
COMMIT = "1e0d4f3028acbffb47fe933cea64619c5ec1a002"


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
    """The words of a refusal, on this torch or on one that reads no such file."""
    if request.param != "as installed":
        describe = compat.describe
        versions = {"torch": request.param}
        monkeypatch.setattr(compat, "describe", lambda name: versions.get(name) or describe(name))
    if compat.unpickles_safely():
        return "holds more than tensors"
    monkeypatch.setattr(torch_file, "open_plain", lambda _path: pytest.fail("it was opened"))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("it was unpickled"))
    return f"not read with torch {compat.describe('torch')}"


def assert_refused(result: Any, words: str, marker: Path) -> None:  # noqa: ANN401 - typer's own
    error = " ".join(result.stderr.split())
    assert result.exit_code == 4, error
    assert words in error
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
    arguments = ("--weights", str(folder), "--candidate", str(candidate))
    assert_refused(check("layerwise", *arguments), refusing, marker)


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


def test_our_model_reads_no_such_file(folder: Path, marker: Path) -> None:
    with pytest.raises(CheckpointError, match="safetensors"):
        GPT.from_pretrained(folder)
    assert not marker.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)
    assert marker.exists(), "the file would have run its command"
