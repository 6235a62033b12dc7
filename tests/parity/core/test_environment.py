"""Settings of torch that change numbers, versions, and the digest of the code."""

import contextlib
import copy
import getpass
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import OpenAIGPTLMHeadModel

from parity import layerwise
from parity.core import environment as module
from parity.core.environment import (
    PACKAGES,
    SETTINGS,
    assert_settings_pinned,
    code_digest,
    digest,
    environment,
    package_folders,
    pinned_settings,
)
from parity.core.lockstep import TapFunction
from parity.core.results import Mode, Report
from parity.errors import EnvironmentUnfitError, ExitCode
from reference import compat
from scratch_gpt import GPT

HAS_FP32_PRECISION = compat.sets_precision_of_onednn()
"""Where a precision can be set for each library, and under several names."""

MOVES: dict[str, Callable[[], object]] = {
    "torch.default_dtype": lambda: torch.set_default_dtype(torch.float64),
    "torch.float32_matmul_precision": lambda: torch.set_float32_matmul_precision("high"),
    "torch.deterministic_algorithms": lambda: torch.use_deterministic_algorithms(mode=False),
    "autocast(cpu)": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast(cuda)": lambda: torch.set_autocast_enabled("cuda", True),
    "torch.backends.cuda.matmul.allow_tf32": lambda: setattr(
        torch.backends.cuda.matmul, "allow_tf32", True
    ),
    "torch.backends.cudnn.allow_tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", True),
}
OTHER_STATES: dict[str, Callable[[], object]] = {
    "as torch comes": lambda: None,
    "float64 by default": lambda: torch.set_default_dtype(torch.float64),
    "matmul high": lambda: torch.set_float32_matmul_precision("high"),
    "matmul medium": lambda: torch.set_float32_matmul_precision("medium"),
    "matmul tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "convolutions without tf32": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "deterministic": lambda: torch.use_deterministic_algorithms(mode=True),
    "deterministic, warning only": lambda: torch.use_deterministic_algorithms(
        mode=True, warn_only=True
    ),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
}
MIXED: dict[str, Callable[[], object]] = {}

if HAS_FP32_PRECISION:

    def _set_onednn(value: str) -> None:
        torch.backends.mkldnn.matmul.fp32_precision = value

    MOVES["torch.backends.mkldnn.matmul.fp32_precision"] = lambda: _set_onednn("bf16")
    MIXED["oneDNN alone"] = lambda: _set_onednn("tf32")
    MIXED["CUDA alone"] = lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "tf32")


def settings() -> dict[str, object]:
    read: dict[str, Callable[[], object]] = {
        "dtype": torch.get_default_dtype,
        "precision": torch.get_float32_matmul_precision,
        "deterministic": torch.are_deterministic_algorithms_enabled,
        "warning only": torch.is_deterministic_algorithms_warn_only_enabled,
        "autocast cpu": lambda: torch.is_autocast_enabled("cpu"),
        "autocast cuda": lambda: torch.is_autocast_enabled("cuda"),
        "matmul": lambda: torch.backends.cuda.matmul.allow_tf32,
        "convolution": lambda: torch.backends.cudnn.allow_tf32,
    }
    if HAS_FP32_PRECISION:
        read["onednn"] = lambda: torch.backends.mkldnn.matmul.fp32_precision
    return {key: function() for key, function in read.items()}


@pytest.fixture(autouse=True)
def _torch_as_it_comes() -> Iterator[None]:
    before = settings()
    yield
    torch.set_default_dtype(before["dtype"])
    if HAS_FP32_PRECISION:
        torch.backends.cuda.matmul.fp32_precision = "none"
    torch.set_float32_matmul_precision(before["precision"])
    if HAS_FP32_PRECISION:
        torch.backends.mkldnn.matmul.fp32_precision = before["onednn"]
    torch.use_deterministic_algorithms(before["deterministic"], warn_only=before["warning only"])
    torch.set_autocast_enabled("cpu", before["autocast cpu"])
    torch.set_autocast_enabled("cuda", before["autocast cuda"])
    torch.backends.cudnn.allow_tf32 = before["convolution"]
    assert before == settings()


def test_every_setting_is_listed_with_its_reason() -> None:
    assert sorted(MOVES) == sorted(setting.name for setting in SETTINGS)
    assert all(setting.why for setting in SETTINGS)


@pytest.mark.parametrize("state", OTHER_STATES)
def test_while_pinned_every_setting_has_its_value(state: str) -> None:
    OTHER_STATES[state]()
    with pinned_settings():
        found = settings()
        assert_settings_pinned()
    assert found.get("onednn", "ieee") == "ieee"
    assert (
        *(found["dtype"], found["precision"], found["deterministic"], found["warning only"]),
        *(found["autocast cpu"], found["autocast cuda"], found["matmul"], found["convolution"]),
    ) == (torch.float32, "highest", True, False, False, False, False, False)


@pytest.mark.parametrize("fails", [False, True], ids=["to the end", "broken off"])
@pytest.mark.parametrize("state", OTHER_STATES)
def test_afterwards_every_setting_is_where_it_was(state: str, fails: bool) -> None:  # noqa: FBT001
    OTHER_STATES[state]()
    expected = settings()
    with (
        pytest.raises(KeyError, match="mine") if fails else contextlib.nullcontext(),
        pinned_settings(),
    ):
        if fails:
            raise KeyError("mine")
    assert expected == settings()


@pytest.mark.parametrize("moved", [[name] for name in MOVES] + [list(MOVES)], ids=" ".join)
def test_a_setting_that_is_changed_in_the_context_is_an_error(moved: list[str]) -> None:
    before = settings()
    with pytest.raises(EnvironmentUnfitError) as refusal, pinned_settings():
        [MOVES[name]() for name in moved]
    for setting in SETTINGS:
        if setting.name in moved:
            assert f"{setting.name} is " in refusal.value.what
            assert f"not {setting.wanted!r} ({setting.why})" in refusal.value.what
    assert ExitCode.ENVIRONMENT is refusal.value.exit_code
    assert before == settings()


def test_a_setting_may_be_changed_and_put_back() -> None:
    with pinned_settings():
        torch.set_default_dtype(torch.float64)
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("state", MIXED)
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_setting_that_torch_will_not_read_is_an_error_of_the_environment(
    state: str, when: str
) -> None:
    """Set through another of torch's names, a setting cannot be asserted."""

    def mix() -> None:
        assert when == "meanwhile", "nothing is begun where a setting could not be given back"
        MIXED[state]()

    if when == "before":
        MIXED[state]()
    with pytest.raises(EnvironmentUnfitError, match="float32_matmul_precision"), pinned_settings():
        mix()


def test_a_missing_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise compat.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(compat.metadata, "version", unknown)
    assert environment()["safetensors"] == "not installed"
    assert code_digest().startswith("gpt1-parity not installed, ")


def test_the_environment_has_what_is_needed_to_run_it_again() -> None:
    found = environment()
    assert set(found) == {
        *("python", "platform", "cpu_capability", "threads", "cores"),
        *("torch", "transformers", "numpy", "safetensors"),
    }
    assert torch.__version__ == found["torch"]
    assert str(torch.get_num_threads()) == found["threads"]
    text = " ".join(found.values())
    assert not [name for name in (platform.node(), getpass.getuser()) if name and name in text]


# The digest of the code.


@pytest.fixture
def copies(tmp_path: Path) -> dict[str, Path]:
    made = {}
    for name in ("one", "two"):
        made[name] = tmp_path / name
        (made[name] / "inner").mkdir(parents=True)
        (made[name] / "__init__.py").write_bytes(b"")
        (made[name] / "inner" / "part.py").write_bytes(f"NAME = {name!r}\n".encode())
        (made[name] / "inner.py").write_bytes(b"# beside it\n")
    return made


def test_a_copy_elsewhere_is_the_same_code(tmp_path: Path) -> None:
    """Byte code and markers that an installer writes beside the source do not count."""
    found = package_folders()
    assert found is not None
    moved = {}
    for name, home in found.items():
        moved[name] = tmp_path / name
        shutil.copytree(home, moved[name], ignore=shutil.ignore_patterns("__pycache__"))
        (moved[name] / "__pycache__").mkdir()
        (moved[name] / "__pycache__" / "taps.cpython-311.pyc").write_bytes(b"compiled")
        (moved[name] / "py.typed").touch()
    backwards = dict(reversed(moved.items()))
    assert digest(found) == digest(moved) == digest(backwards)


CHANGES: dict[str, Callable[[Path], object]] = {
    "a byte": lambda home: (home / "inner" / "part.py").write_bytes(b"NAME = 'onf'\n"),
    "a line end": lambda home: (home / "inner" / "part.py").write_bytes(b"NAME = 'one'\r\n"),
    "a name": lambda home: (home / "inner.py").rename(home / "outer.py"),
    "another place": lambda home: (home / "inner.py").rename(home / "inner" / "inner.py"),
    "an empty file more": lambda home: (home / "inner" / "__init__.py").touch(),
    "a file less": lambda home: (home / "inner.py").unlink(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_any_change_is_another_code(change: str, copies: dict[str, Path]) -> None:
    before = digest(copies)
    CHANGES[change](copies["one"])
    assert before != digest(copies)


def test_what_moves_from_file_to_file_is_a_change(tmp_path: Path) -> None:
    found = set()
    for number, (first, second) in enumerate([("ab", "c"), ("a", "bc"), ("", "abc")]):
        home = tmp_path / str(number)
        home.mkdir()
        (home / "a.py").write_text(first, encoding="utf-8")
        (home / "b.py").write_text(second, encoding="utf-8")
        found.add(digest({"package": home}))
    assert len(found) == 3


def test_a_name_in_a_file_is_no_file(tmp_path: Path) -> None:
    """Lengths are hashed too: contents that look like the next file's name change the digest."""
    (tmp_path / "a.py").write_text("1", encoding="utf-8")
    (tmp_path / "b.py").write_text("2", encoding="utf-8")
    two = digest({"package": tmp_path})
    (tmp_path / "b.py").unlink()
    for between in ("package/b.py\n", "package/b.py\n1\n"):
        (tmp_path / "a.py").write_text(f"1{between}2", encoding="utf-8")
        assert digest({"package": tmp_path}) != two


def test_all_four_packages_count(monkeypatch: pytest.MonkeyPatch) -> None:
    found = package_folders()
    assert found is not None
    assert ("bench", "parity", "reference", "scratch_gpt") == PACKAGES == tuple(found)
    without = [{n: home for n, home in found.items() if n != name} for name in found]
    assert len({digest(found), *map(digest, without)}) == 5
    monkeypatch.setattr(module, "PACKAGES", (*PACKAGES, "no_such_package"))
    assert package_folders() is None
    assert code_digest().endswith(", source not known")


def test_packages_are_read_and_not_imported(tmp_path: Path) -> None:
    """A folder `bench` in the working directory is not read."""
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "__init__.py").write_text("OTHER = 1\n", encoding="utf-8")
    program = (
        "import sys; sys.path.append(sys.argv[1])\n"
        "from parity.core.environment import code_digest\n"
        "print(code_digest(), 'bench' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program, str(Path(module.__file__).parents[2])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert ran.stdout.strip() == f"{code_digest()} False"


def test_the_digest_has_the_version_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = package_folders()
    assert found is not None
    monkeypatch.setattr(compat.metadata, "version", lambda _name: "1.2.3")
    assert code_digest() == f"gpt1-parity 1.2.3, sha256 {digest(found)}"


class Slow(nn.Module):
    """Our model, which calls a function first."""

    def __init__(self, model: GPT, begin: Callable[[], object]) -> None:
        super().__init__()
        self.model, self.begin = model, begin

    def forward(self, token_ids: Tensor, tap: TapFunction) -> Tensor:
        self.begin()
        return self.model(token_ids, tap=tap)


@pytest.mark.once
def test_two_checks_at_once_do_not_disturb_each_other(
    ours: GPT, theirs: OpenAIGPTLMHeadModel, token_ids: Tensor
) -> None:
    """Without an order the first would restore the settings while the second computes."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    settings = [setting.read() for setting in SETTINGS]
    began, other = threading.Event(), threading.Event()

    def check(mine: threading.Event, others: threading.Event) -> Report:
        model = Slow(copy.deepcopy(ours), lambda: (mine.set(), others.wait(0.3)))
        return layerwise(model, theirs, token_ids, modes=[Mode.FLOAT64])

    try:
        with ThreadPoolExecutor() as pool:
            first = pool.submit(check, began, other)
            assert began.wait(60)
            second = pool.submit(check, other, threading.Event())
            reports = [first.result(), second.result()]
        assert [report.verdict for report in reports] == ["pass", "pass"]
        assert settings == [setting.read() for setting in SETTINGS]
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_commit_is_that_of_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]

    def run(*arguments: str) -> str:
        done = subprocess.run([*git, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    file = tmp_path / "parity" / "core" / "environment.py"
    file.parent.mkdir(parents=True)
    file.write_text("1", encoding="utf-8")
    monkeypatch.setattr(module, "__file__", str(file))
    assert module.commit.__wrapped__() == ""
    run("init", "-q")
    run("add", ".")
    run("commit", "-q", "-m", "one")
    assert module.commit.__wrapped__() == run("rev-parse", "HEAD")
    file.write_text("2", encoding="utf-8")
    assert module.commit.__wrapped__() == f"{run('rev-parse', 'HEAD')}-dirty"
