"""Which code gave a verdict: the version, and a digest of the four packages' source."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

PACKAGES = ("bench", "parity", "reference", "scratch_gpt")
"""Everything that is installed as `gpt1-parity`."""

DIGITS = 16
"""Hexadecimal digits of a SHA-256 that are said."""


def stated() -> str:
    """Return version and digest in words; what is not known is said to be so."""
    try:
        installed = version("gpt1-parity")
    except PackageNotFoundError:
        installed = "not installed"
    found = homes()
    source = "source not known" if found is None else f"sha256 {digest(found)}"
    return f"gpt1-parity {installed}, {source}"


def homes() -> dict[str, Path] | None:
    """Return the folder of each package; None where one has none, as in a zip file."""
    found = {name: _home(name) for name in PACKAGES}
    known = {name: home for name, home in found.items() if home is not None}
    return known if known.keys() == found.keys() else None


def _home(package: str) -> Path | None:
    """Return a package's folder without importing it."""
    spec = find_spec(package)
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    return next((Path(place) for place in places if Path(place).is_dir()), None)


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
