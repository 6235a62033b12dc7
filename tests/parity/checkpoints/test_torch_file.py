"""Files of torch.save: tensors or nothing, and never a program."""

import argparse
import io
import os
import pickle
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from parity.checkpoints import torch_file
from parity.errors import ExitCode, InputRejectedError
from reference import compat
from reference.errors import RejectedError

SAFE_TORCH = pytest.mark.skipif(
    not compat.unpickles_safely(), reason="on this torch every such file is refused"
)


class Command:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.marker}'",)


@pytest.fixture
def tensors() -> dict[str, Tensor]:
    return {
        "a": torch.tensor([[1.5, -0.0], [1e-45, 3.0]]),
        "b": torch.arange(3, dtype=torch.int64),
        "c": torch.tensor([2.0], dtype=torch.bfloat16),
    }


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
    found, digest = torch_file.read_torch_file(path)
    assert list(found) == list(tensors)
    for name, tensor in tensors.items():
        assert found[name].dtype is tensor.dtype
        assert (
            found[name].numpy(force=True).tobytes() == tensor.numpy().tobytes()
            if (tensor.dtype is not torch.bfloat16)
            else bool(found[name].view(torch.int16).equal(tensor.view(torch.int16)))
        )
    assert digest.size == path.stat().st_size


@pytest.mark.parametrize("variable", ["0", "1"])
@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
def test_a_command_is_not_run(
    variable: str, *, archive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", variable)
    path, marker = tmp_path / "model.bin", tmp_path / "was run"
    torch.save({"a": Command(marker)}, path, _use_new_zipfile_serialization=archive)
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


def raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"a": 1}))


def script(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/constants.pkl", pickle.dumps(()))
        archive.writestr("model/data.pkl", pickle.dumps({}))


def bomb(path: Path) -> None:
    """Write an archive of a few kilobytes that unpacks to four megabytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", pickle.dumps({}))
        archive.writestr("model/data/0", bytes(4 << 20))


def half(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def legacy_half(path: Path) -> None:
    torch.save({"a": torch.zeros(1000)}, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@SAFE_TORCH
@pytest.mark.parametrize(
    ("write", "why"),
    [
        (tar, "torch.save did not write it"),
        (raw_pickle, "torch.save did not write it"),
        (lambda path: path.write_bytes(b""), "torch.save did not write it"),
        (lambda path: path.write_bytes(b"PK\x03\x04"), "no whole archive"),
        (script, "TorchScript"),
        (bomb, "unpacks to"),
        (half, "no whole archive"),
        (legacy_half, "damaged"),
        (lambda path: torch.save([torch.zeros(1)], path), "holds a list"),
        (lambda path: torch.save({0: torch.zeros(1)}, path), "not tensors by name"),
        (lambda path: torch.save({"a": 1.0}, path), "'a' is a float"),
        (lambda path: torch.save({"a": {"b": torch.zeros(1)}}, path), "'a' is a dict"),
        (lambda path: torch.save({"a": argparse.Namespace()}, path), "more than tensors"),
        (lambda path: torch.save(nn.Linear(1, 1), path), "more than tensors"),
        (lambda path: torch.save({"a": np.float64(1)}, path), "more than tensors"),
        (lambda path: torch.save({"a": torch.zeros(2, 2).to_sparse()}, path), "no plain tensor"),
        (lambda path: torch.save({"a": torch.zeros(1).expand(10**12)}, path), "claims more"),
        (lambda path: torch.save({300_000 * ".": torch.zeros(1)}, path), "the name '....."),
        (lambda path: torch.save({"\x1b[31m": torch.zeros(1)}, path), r"the name '\x1b[31m'"),
        (lambda path: torch.save({"a": torch.tensor([1, torch.nan])}, path), "1 values that are"),
        (lambda path: torch.save({"a": torch.tensor([-torch.inf])}, path), "1 values that are"),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
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
def test_a_view_has_memory_of_its_own(tmp_path: Path) -> None:
    torch.save({"a": torch.arange(6.0).reshape(2, 3).T}, tmp_path / "model.bin")
    found, _ = torch_file.read_torch_file(tmp_path / "model.bin")
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
