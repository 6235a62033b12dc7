"""What differs between versions of the packages that this stands on, in one place.

Each line of the table is one difference with the versions that it is for, the reason, and what
follows from it here; the functions below answer from it. Nothing else asks for a version, and
`docs/versions.md` shows the same table, with what is not asked and why.

Versions are read from what the installer wrote down: to ask loads no package.
"""

import dataclasses
import re
from collections.abc import Mapping
from importlib import metadata
from types import MappingProxyType
from typing import Any

Version = tuple[int, ...]
"""Major, minor and micro, and 0 for a final release or -1 for what came before it."""

FINAL = 0
"""Last of four: a bound with it is reached by the final release, one without by previews too."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference:
    """What some versions of a package have, and others have not.

    Attributes:
        package: Its name where it is published.
        since: The first version that has it; None: every one before `before`.
        before: The first that no longer has it; None: it stayed.
        why: What those versions do.
        so: What follows from it here.
    """

    package: str
    since: Version | None = None
    before: Version | None = None
    why: str
    so: str

    @property
    def versions(self) -> str:
        """The versions that have it, in words."""
        bounds = {"from": self.since, "before": self.before}
        return " ".join(
            f"{word} {format_version(bound)}" for word, bound in bounds.items() if bound
        )

    def holds(self) -> bool:
        """Return whether the installed version has it; of what is not installed, none does."""
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
            so="the dtype is given under the version's name: 5.x would take the file's unasked",
        ),
        "head of the last tokens": Difference(
            package="transformers",
            since=(5, 0),
            why="GPT-1's forward has `logits_to_keep`, and `generate` asks for one position",
            so="the step that is timed asks for what the version's own `generate` asks for",
        ),
        "normalizer of three": Difference(
            package="transformers",
            since=(5, 0),
            before=(5, 3),
            why="GPT-1's tokenizer decomposes, lowers and strips accents; BERT's, before and "
            "after, also drops control characters and parts Chinese ones",
            so="the witness is given BERT's normalizer, and the report of `check tokens` says so",
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
            so="tests close them, lest another test be warned of them",
        ),
    }
)
"""Every difference that anything here depends on, by name."""


def format_version(version: Version) -> str:
    """Return a bound as people write it: two numbers, and the third where it says something."""
    return ".".join(map(str, version[: 3 if any(version[2:3]) else 2]))


def parse_version(text: str) -> Version:
    """Return a version as numbers: `2.10.0+cu128` is (2, 10, 0, 0), `5.0.0rc1` (5, 0, 0, -1).

    Raises:
        ValueError: It does not begin with a number.
    """
    public = text.strip().partition("+")[0]  # what stands behind it says how it was built
    found = re.match(r"v?(\d+(?:\.\d+)*)(.*)", public)
    if found is None:
        message = f"{text!r} is no version"
        raise ValueError(message)
    numbers = [int(part) for part in found[1].split(".")]
    final = re.fullmatch(r"([.-]?post\d*)?", found[2].lower())
    major, minor, micro, *_ = [*numbers, 0, 0]
    return (major, minor, micro, FINAL if final else -1)


def describe(package: str) -> str:
    """Return a package's version as it was written down, for people to read."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def installed_version(package: str) -> Version | None:
    """Return the version of a package, None where it is not installed or has none that is known."""
    try:
        return parse_version(describe(package))
    except ValueError:
        return None


def dtype_keyword(dtype: object) -> dict[str, Any]:
    """Return the keyword that states a dtype to `from_pretrained`."""
    spelled_out = DIFFERENCES["dtype keyword"].holds()
    return {"dtype" if spelled_out else "torch_dtype": dtype}


def last_logits_keyword() -> dict[str, int]:
    """Return the keyword that asks Hugging Face's GPT-1 for the last logits alone, if it can."""
    return {"logits_to_keep": 1} if DIFFERENCES["head of the last tokens"].holds() else {}


def tokenizer_normalizer() -> str:
    """Return the type of what prepares text in the version's own tokenizer."""
    return "Sequence" if DIFFERENCES["normalizer of three"].holds() else "BertNormalizer"


def unpickles_safely() -> bool:
    """Return whether torch may be given a file of torch.save that comes from others."""
    return DIFFERENCES["safe unpickling"].holds()


def sets_precision_of_onednn() -> bool:
    """Return whether torch has a setting of its own for oneDNN's products of float32."""
    return DIFFERENCES["precision of oneDNN"].holds()


def leaves_connections_open() -> bool:
    """Return whether the hub's client has to be told to close its connections."""
    return DIFFERENCES["connections left open"].holds()
