"""What else decides a number: torch's settings (pinned, asserted, recorded), versions, the code.

A setting with another value is an error and never a tolerance.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import platform
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch

from parity.core.fingerprints import DIGITS
from parity.errors import EnvironmentUnfitError
from reference import compat
from scratch_gpt.kernels import onednn


@dataclasses.dataclass(frozen=True)
class Setting:
    """A setting of torch: its name, the value under which verdicts are given, and its effect."""

    name: str
    wanted: object
    read: Callable[[], object]
    write: Callable[[object], object]
    why: str


def _attribute(path: str, wanted: object, why: str) -> Setting:
    """Return a setting that is an attribute under `torch`, given by its dotted path."""
    *parents, last = path.split(".")
    owner: object = torch
    for parent in parents:
        owner = getattr(owner, parent)
    return Setting(
        f"torch.{path}",
        wanted,
        lambda: getattr(owner, last),
        lambda value: setattr(owner, last, value),
        why,
    )


def _autocast(device: str) -> Setting:
    return Setting(
        f"autocast({device})",
        False,
        lambda: torch.is_autocast_enabled(device),
        lambda value: torch.set_autocast_enabled(device, bool(value)),
        "would run matrix products in half precision",
    )


def _onednn() -> list[Setting]:
    if not compat.sets_precision_of_onednn():
        return []
    why = "'bf16' and 'tf32' round the inputs of float32 products"
    return [_attribute("backends.mkldnn.matmul.fp32_precision", "ieee", why)]


SETTINGS = (
    Setting(
        "torch.default_dtype",
        torch.float32,
        torch.get_default_dtype,
        torch.set_default_dtype,  # type: ignore[arg-type]
        "constants made inside a model take it",
    ),
    Setting(
        "torch.float32_matmul_precision",
        "highest",
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,  # type: ignore[arg-type]
        "'high' and 'medium' multiply in TF32 or bfloat16",
    ),
    *_onednn(),
    Setting(
        "torch.deterministic_algorithms",
        "error",
        lambda: ("default", "warn", "error")[torch.get_deterministic_debug_mode()],
        torch.set_deterministic_debug_mode,  # type: ignore[arg-type]
        "some kernels sum in an order that varies",
    ),
    _autocast("cpu"),
    _autocast("cuda"),
    _attribute("backends.cuda.matmul.allow_tf32", False, "TF32 keeps 10 bits of 23"),
    _attribute("backends.cudnn.allow_tf32", False, "TF32 keeps 10 bits of 23"),
)
"""Every setting that is pinned; general ones come before the special ones that they overwrite."""


_PINNING = threading.RLock()


@contextlib.contextmanager
def pinned_settings() -> Iterator[None]:
    """Pin every setting for a context, assert that none was changed in it, and restore all.

    The settings are the process's: a second thread waits until the first has left its context.

    Raises:
        EnvironmentUnfitError: A setting was changed in the context, or cannot be read and so not
            be restored.
    """
    with _PINNING:
        before = [(setting, _read(setting)) for setting in SETTINGS]
        _refuse([f"{setting.name} was {old}" for setting, old in before if old is _UNREADABLE])
        try:
            for setting in SETTINGS:
                setting.write(setting.wanted)
            yield
            assert_settings_pinned()
        finally:
            for setting, value in before:
                if _read(setting) != value:  # an unneeded write of a special one changes others
                    setting.write(value)


def assert_settings_pinned() -> None:
    """Require every setting to have its value.

    Raises:
        EnvironmentUnfitError: Names each setting that does not, and its effect.
    """
    _refuse(
        [
            f"{setting.name} is {value!r}, not {setting.wanted!r} ({setting.why})"
            for setting in SETTINGS
            if (value := _read(setting)) != setting.wanted
        ]
    )


def _refuse(changed: list[str]) -> None:
    if changed:
        raise EnvironmentUnfitError(
            f"a setting that moves numbers was changed: {'; '.join(changed)}",
            where="torch's global settings",
            fix="keep the model's code from changing them while it is checked",
        )


_UNREADABLE = "set through another of torch's names"


def _read(setting: Setting) -> object:
    """Return a setting's value; torch refuses to read some that were set through another name."""
    try:
        return setting.read()
    except RuntimeError:
        return _UNREADABLE


def environment() -> dict[str, str]:
    """Return what a reader needs to run the same numbers again; no name of user or host."""
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "torch": torch.__version__,
        "cpu_capability": onednn.processor(),
        "threads": str(torch.get_num_threads()),
        "cores": str(os.cpu_count()),
        **{name: compat.describe(name) for name in ("transformers", "numpy", "safetensors")},
    }


# The code.

PACKAGES = ("bench", "parity", "reference", "scratch_gpt")
"""Everything that is installed as `gpt1-parity`."""


def code_digest() -> str:
    """Return the installed version, and a digest of the source of the four packages."""
    found = package_folders()
    source = "source not known" if found is None else f"sha256 {digest(found)}"
    return f"gpt1-parity {compat.describe('gpt1-parity')}, {source}"


@functools.cache
def commit() -> str:
    """Return the checkout's commit, with `-dirty` behind it if files changed; "" without one."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():  # a package installed inside another repository is not in it
        return ""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--match="]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return ""
    return ran.stdout.strip()


def package_folders() -> dict[str, Path] | None:
    """Return the folder of each package; None if one has none, as in a zip file.

    They are beside this file's own package. Python's search path may have another project's
    package of the same name first.
    """
    beside = Path(__file__).parents[2]
    found = {name: beside / name for name in PACKAGES}
    return found if all(home.is_dir() for home in found.values()) else None


def digest(packages: Mapping[str, Path]) -> str:
    """Return 16 hexadecimal digits of SHA-256 over every Python file's name and bytes.

    Files are in the order of their names, which begin with the package and have slashes: the digest
    is the same for a checkout, an editable install and a wheel.
    """
    files = {
        f"{package}/{path.relative_to(home).as_posix()}": path
        for package, home in packages.items()
        for path in home.rglob("*.py")
    }
    whole = hashlib.sha256()
    for name in sorted(files):
        content = files[name].read_bytes()
        whole.update(f"{name}\n{len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()[:DIGITS]
