"""The command `python -m parity.convert`: what it prints, and what it exits with."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest
import torch
from typer.testing import CliRunner, Result

from parity.checkpoints import huggingface_files
from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.convert import app
from scratch_gpt import GPTConfig
from scratch_gpt.checkpoint.checkpoint import write_checkpoint

Command = Callable[..., subprocess.CompletedProcess[str]]


def convert(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    assert convert("tiny", tmp_path / "source").exit_code == 0
    return tmp_path / "source"


@pytest.fixture
def sources(tmp_path: Path, weights: Weights) -> list[Path]:
    """Return two folders with the tiny model's shape, and other weights and epsilons."""
    generator = torch.Generator().manual_seed(20180611)
    folders = [tmp_path / "one", tmp_path / "two"]
    for place, folder in enumerate(folders):
        folder.mkdir()
        fields = {**weights.config, "layer_norm_epsilon": (place + 1) * 1e-5}
        drawn = {
            name: torch.randn(array.shape, generator=generator)
            for name, array in weights.tensors.items()
        }
        write_checkpoint(folder, GPTConfig.from_huggingface(fields), drawn)
    return folders


def test_it_prints_every_tensor_and_every_file(tmp_path: Path, weights: Weights) -> None:
    result = convert("tiny", tmp_path / "new", "--to", "openai")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].split() == ["positions_embed.weight", "model/we[positions]", "[389,", "21]"]
    assert ["h.7.mlp.c_fc.weight", "model/h7/mlp/c_fc/w", "[1,", "21,", "84]"] in [
        line.split() for line in lines
    ]
    assert "146 tensors, 79,380 parameters, float32" in result.stdout
    assert weights.provenance.sha256[:16] in result.stdout
    assert f"{tmp_path / 'new'}, read back and equal to the bit" in result.stdout
    written = {path.name for path in (tmp_path / "new").iterdir()}
    assert {name for name in written if name not in result.stdout} == {"conversion.json"}


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    result = convert("tiny", tmp_path / "new", "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.count("transformer.h.") == 144
    assert result.stdout.endswith("nothing was written\n")
    assert not list(tmp_path.iterdir())


def test_quiet_prints_nothing(tmp_path: Path) -> None:
    result = convert("tiny", tmp_path / "new", "--quiet")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "new" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["nonsense", "new"], 2, "names no weights"),
        (["tiny"], 2, "DESTINATION"),
        (["tiny", "new", "--to", "onnx"], 2, "onnx"),
        (["./missing", "new"], 2, "nothing at that path"),
        (["tiny", "source"], 2, "not empty"),
        (["tiny", "source", "--to", "openai", "--force"], 2, "beside the new ones"),
        (["tiny", "source/config.json"], 2, "there is a file of that name"),
        (["tiny", "source/config.json", "--dry-run"], 2, "there is a file of that name"),
        (["tiny", "source/config.json/new"], 5, "a part of the path is no folder"),
        (["tiny", ""], 2, "the path is empty"),
        (["tiny", " "], 2, "the path is empty"),
        (["tiny", ".", "--force"], 2, "it is the working folder"),
        (["./source", "..", "--force"], 2, "no plain file"),
        (["tiny", "/proc/new"], 5, "/proc/new"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_an_error_has_its_code_and_three_lines(
    arguments: list[str], code: int, words: str, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    before = (source / "model.safetensors").read_bytes()
    result = convert(*arguments)
    assert result.exit_code == code, result.stderr
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    if code != 2 or "names no" in words:
        assert [line.split()[0] for line in result.stderr.splitlines()] == [
            "error:",
            "where",
            "fix",
        ]
    assert (source / "model.safetensors").read_bytes() == before


def test_the_notes_of_the_weights_are_printed(source: Path, tmp_path: Path) -> None:
    """Bytes from outside the folder are in the copy, and its owner may publish that."""
    config = json.loads((source / "config.json").read_bytes())
    (source / "config.json").write_text(json.dumps(config | {"colour": "red"}), encoding="utf-8")
    (tmp_path / "secret").write_text("{}", encoding="utf-8")
    (source / "tokenizer.json").symlink_to(tmp_path / "secret")
    (source / "merges.txt").symlink_to("config.json")
    for option in ("--dry-run", "--force"):
        result = convert(source, tmp_path / "new", option)
        notes = [line for line in result.stdout.splitlines() if line.startswith("note ")]
        assert notes == [
            "note      config.json: colour ignored",
            f"note      tokenizer.json is a link to {tmp_path / 'secret'}, outside the folder",
        ]
    rejected = convert(source, tmp_path / "other", "--strict")
    assert (rejected.exit_code, (tmp_path / "other").exists()) == (4, False)
    assert "strict reading rejects it: config.json: colour ignored" in rejected.stderr


def test_a_hub_caches_own_links_are_no_note(source: Path, tmp_path: Path) -> None:
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "blob").write_text("{}", encoding="utf-8")
    (source / "tokenizer.json").symlink_to("../../blob")
    source.rename(tmp_path / "snapshots" / "commit")
    result = convert(tmp_path / "snapshots" / "commit", tmp_path / "new")
    assert "note " not in result.stdout
    assert (tmp_path / "new" / "tokenizer.json").read_text(encoding="utf-8") == "{}"


def test_forced_it_replaces_weights_of_the_same_form(sources: list[Path], weights: Weights) -> None:
    folder = sources[1]
    assert load_weights(str(folder)).provenance.sha256 != weights.provenance.sha256
    assert convert("tiny", folder, "--force").exit_code == 0
    found = load_weights(str(folder))
    assert found.provenance.sha256 == weights.provenance.sha256
    assert found.config["layer_norm_epsilon"] == weights.config["layer_norm_epsilon"] != 2e-5


def test_a_link_stays_and_its_folder_is_written(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    assert convert("tiny", tmp_path / "link").exit_code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "there" / "model.safetensors").exists()


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o007])
def test_modes_follow_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        assert convert("tiny", tmp_path / "new").exit_code == 0
    finally:
        os.umask(before)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o777 & ~umask


def test_help_is_quick_and_teaches(command: Command) -> None:
    done = command("--help", python=("-X", "importtime", "-m", "parity.convert"))
    assert done.returncode == 0
    for word in (
        "SOURCE",
        "DESTINATION",
        "huggingface|openai",
        "--dry-run",
        "--force",
        "Exit codes",
    ):
        assert word in done.stdout
    assert "torch" not in done.stderr


def test_a_full_disk_is_an_environments_error(tmp_path: Path, command: Command) -> None:
    """A limit on a file's size replaces the full disk."""
    folder = tmp_path / "new"
    assert convert("tiny", folder).exit_code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limited = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000)); "
        "from parity.convert import main; main()"
    )
    done = command("tiny", str(folder), "--force", python=("-c", limited))
    assert done.returncode == 5, done.stderr
    assert "larger than is allowed" in done.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "new"] == []


@pytest.mark.once
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=str)
def test_an_interrupted_conversion_leaves_the_old_folder(
    number: signal.Signals, tmp_path: Path
) -> None:
    folder = tmp_path / "new"
    assert convert("tiny", folder).exit_code == 0
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    source = (
        "import signal, sys, time; from parity.convert import main\n"
        # A shell starts what runs in its background deaf to SIGINT, and nohup to SIGHUP.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "from parity.checkpoints import export\n"
        "check = export._check\n"
        "def slow(*args):\n    print('go', flush=True, file=sys.__stderr__); time.sleep(30)\n"
        "export._check = slow\nmain()"
    )
    arguments = [sys.executable, "-c", source, "tiny", str(folder), "--force"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) as running:
        stderr: IO[str] = running.stderr  # type: ignore[assignment]
        assert stderr.readline() == "go\n"
        running.send_signal(number)
        assert running.wait(60) == 130
        assert "interrupted" in stderr.read()
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_two_at_once_are_never_mixed(
    tmp_path: Path, sources: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one begins and ends while the first one has written a part of its files."""
    first, second = sources
    folder, alone = tmp_path / "both", tmp_path / "alone"
    manifest = huggingface_files.index_text
    codes = []

    def interrupted(*given: Any, **named: Any) -> str:  # noqa: ANN401 - handed on
        arguments = [sys.executable, "-m", "parity.convert", second, folder, "--force", "--quiet"]
        codes.append(subprocess.run(arguments, check=False, timeout=120).returncode)
        return manifest(*given, **named)

    monkeypatch.setattr(huggingface_files, "index_text", interrupted)
    codes.append(convert(first, folder, "--force").exit_code)
    monkeypatch.undo()
    assert codes in ([0, 0], [0, 2])  # one that finds another's files may give up
    last = first if codes == [0, 0] else second
    assert convert(last, alone).exit_code == 0
    assert contents(folder) == contents(alone)
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "both", "alone"}
