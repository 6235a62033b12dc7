"""Differences between versions of the required packages, in one table.

Each row has the versions, the reason and the consequence here; the functions below read the table.
No other module asks for a version. `docs/versions.md` shows the same table.

Versions come from the installer's metadata, which loads no package.
"""

import dataclasses
import re
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any

Version = tuple[int, ...]
"""Major, minor and micro, then 0 for a final release or -1 for a preview."""

FINAL = 0
"""Fourth number of a bound that previews do not reach; a bound of three includes them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """A property of the versions of a package from `since` on, and before `before`."""

    package: str
    since: Version | None = None
    before: Version | None = None
    why: str  # the behaviour of those versions
    so: str  # the consequence here

    @property
    def versions(self) -> str:
        """The versions that have it, in words."""
        bounds = {"from": self.since, "before": self.before}
        return " ".join(f"{word} {format_version(b)}" for word, b in bounds.items() if b)

    def holds(self) -> bool:
        """Return whether a version is installed and has the property."""
        found = installed_version(self.package)
        if found is None:
            return False
        return (self.since or ()) <= found and (self.before is None or found < self.before)


DIFFERENCES: Mapping[str, Difference] = MappingProxyType(
    {
        "dtype keyword": Difference(
            package="transformers",
            since=(4, 56),
            why="`from_pretrained` calls the dtype `dtype`; older ones call it `torch_dtype`",
            so="the dtype is passed under the version's name; without it 5.x takes the file's",
        ),
        "head of the last tokens": Difference(
            package="transformers",
            since=(5, 0),
            why="GPT-1's forward has `logits_to_keep`, and `generate` asks for one position",
            so="the timed step computes what the version's own `generate` computes",
        ),
        "normalizer of three": Difference(
            package="transformers",
            since=(5, 0),
            before=(5, 3),
            why="GPT-1's tokenizer decomposes, lowers and strips accents; BERT's, before and "
            "after, also drops control characters and parts Chinese ones",
            so="the reference gets BERT's normalizer, and the report of `check tokens` names it",
        ),
        "merges by place": Difference(
            package="transformers",
            before=(5, 0),
            why="GPT-1's tokenizer skips the first line of `merges.txt`, and what follows the last "
            "line end; of files that contradict each other it takes others",
            so="the reference gets the file with a header and a last line end",
        ),
        "safe unpickling": Difference(
            package="torch",
            since=(2, 10, 0, FINAL),
            why="`weights_only=True` withstands the prepared files that are known "
            "(CVE-2025-32434 until 2.5, CVE-2026-24747 until 2.9)",
            so="files of torch.save are read; with any other torch none is opened",
        ),
        "precision of oneDNN": Difference(
            package="torch",
            since=(2, 9),
            why="`torch.backends.mkldnn.matmul.fp32_precision` can round float32 products",
            so="the setting is pinned, watched and recorded like every other",
        ),
        "connections left open": Difference(
            package="huggingface_hub",
            before=(1, 0),
            why="the client leaves the connections of its sessions to Python's collector",
            so="tests close them, or a later test gets the warning",
        ),
    }
)
"""Every difference that the code depends on, by name."""


def format_version(version: Version) -> str:
    """Return a bound as text: two numbers, and the third if it is not 0."""
    return ".".join(map(str, version[: 3 if any(version[2:3]) else 2]))


def parse_version(text: str) -> Version:
    """Return a version as numbers: `2.10.0+cu128` is (2, 10, 0, 0), `5.0.0rc1` (5, 0, 0, -1).

    Raises:
        ValueError: It does not begin with a number.
    """
    public = text.strip().partition("+")[0]  # the local part names the build
    found = re.match(r"v?(\d+(?:\.\d+)*)(.*)", public)
    if found is None:
        message = f"{text!r} is no version"
        raise ValueError(message)
    numbers = [int(part) for part in found[1].split(".")]
    final = re.fullmatch(r"([.-]?post\d*)?", found[2].lower())
    major, minor, micro, *_ = [*numbers, 0, 0]
    return (major, minor, micro, FINAL if final else -1)


def describe(package: str) -> str:
    """Return a package's version as the installer recorded it, or "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def installed_version(package: str) -> Version | None:
    """Return a package's version, None if it is not installed or its version cannot be parsed."""
    try:
        return parse_version(describe(package))
    except ValueError:
        return None


def dtype_keyword(dtype: object) -> dict[str, Any]:
    """Return the keyword argument for the dtype of `from_pretrained`."""
    spelled_out = DIFFERENCES["dtype keyword"].holds()
    return {"dtype" if spelled_out else "torch_dtype": dtype}


def last_logits_keyword() -> dict[str, int]:
    """Return the keyword argument for the last logits alone, empty if GPT-1 has none."""
    return {"logits_to_keep": 1} if DIFFERENCES["head of the last tokens"].holds() else {}


def tokenizer_normalizer() -> str:
    """Return the type of the normalizer of the version's own tokenizer."""
    return "Sequence" if DIFFERENCES["normalizer of three"].holds() else "BertNormalizer"


def reads_merges_by_place() -> bool:
    """Return whether the first line of `merges.txt` is taken for a header."""
    return DIFFERENCES["merges by place"].holds()


def unpickles_safely() -> bool:
    """Return whether torch can read an untrusted file of torch.save safely."""
    return DIFFERENCES["safe unpickling"].holds()


def sets_precision_of_onednn() -> bool:
    """Return whether torch has a setting for the precision of oneDNN's float32 products."""
    return DIFFERENCES["precision of oneDNN"].holds()


def leaves_connections_open() -> bool:
    """Return whether the hub's client leaves its connections open."""
    return DIFFERENCES["connections left open"].holds()
