"""Which code gave a verdict: the version, and a digest of the four packages' source."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("bench", "parity", "reference", "scratch_gpt")
"""Everything that is installed as `gpt1-parity`."""

DIGITS = 16
"""Hexadecimal digits of a SHA-256 that are said."""


def code_digest() -> str:
    """Return version and digest in words; what is not known is said to be so."""
    try:
        installed = version("gpt1-parity")
    except PackageNotFoundError:
        installed = "not installed"
    found = package_folders()
    source = "source not known" if found is None else f"sha256 {digest(found)}"
    return f"gpt1-parity {installed}, {source}"


def package_folders() -> dict[str, Path] | None:
    """Return the folder of each package; None where one has none, as in a zip file.

    They lie beside this file's own package: what Python finds under their names may be another
    project's, in the folder that the command is run in.
    """
    beside = Path(__file__).parents[2]
    found = {name: beside / name for name in PACKAGES}
    return found if all(home.is_dir() for home in found.values()) else None


def digest(packages: Mapping[str, Path]) -> str:
    """Return 16 hexadecimal digits of SHA-256 over every Python file's name and bytes.

    Files come in the order of their names, each written with slashes and from the package on: the
    same for a checkout, an editable install and a wheel.

    Args:
        packages: The folder of each package.
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
