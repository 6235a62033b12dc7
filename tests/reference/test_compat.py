"""What differs between versions: each line holds where it says, and is so in what is installed."""

import inspect
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import huggingface_hub
import pytest
import torch
import transformers
from tokenizers import normalizers
from transformers import OpenAIGPTConfig, OpenAIGPTLMHeadModel, OpenAIGPTTokenizerFast

from reference import compat
from reference.compat import DIFFERENCES, Version
from reference.huggingface import quiet

Installed = Callable[[str, str], None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Installed:
    def change(package: str, version: str) -> None:
        versions = {package: version}
        monkeypatch.setattr(metadata, "version", lambda name: versions[name])

    return change


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("5.23.0", (5, 23, 0, 0)),
        ("5.23", (5, 23, 0, 0)),
        ("2.6.0+cu124", (2, 6, 0, 0)),
        ("2.13.0+cpu", (2, 13, 0, 0)),
        ("2.10.0a0+b4e4ee81d3.nv25.12", (2, 10, 0, -1)),
        ("2.10.0.dev20251101+cpu", (2, 10, 0, -1)),
        ("5.0.0rc1", (5, 0, 0, -1)),
        ("4.57.0.dev0", (4, 57, 0, -1)),
        ("4.57.1.post1", (4, 57, 1, 0)),
        ("2.10.0-unknown", (2, 10, 0, -1)),
        ("5.10.0.1", (5, 10, 0, 0)),
    ],
)
def test_a_version_is_numbers(text: str, version: Version) -> None:
    expected = version
    assert expected == compat.parse_version(text)


@pytest.mark.parametrize("text", ["", "main", "+cpu", "not installed"])
def test_what_is_no_version_is_refused(text: str) -> None:
    """And a package with such a one has none that is known."""
    with pytest.raises(ValueError, match="is no version"):
        compat.parse_version(text)


ON_EITHER_SIDE = {
    "dtype keyword": (["4.56.0.dev0", "4.56.0", "5.0.0rc1", "5.23.0"], ["4.30.2", "4.55.4"]),
    "head of the last tokens": (["5.0.0rc1", "5.0.0", "5.23.0"], ["4.57.6", "4.57.0"]),
    "normalizer of three": (["5.0.0rc1", "5.0.0", "5.2.0"], ["4.57.6", "5.3.0", "5.10.0"]),
    "safe unpickling": (
        ["2.10.0", "2.10.0+cu128", "2.13.0+cpu", "3.0.0"],
        ["2.6.0+cu124", "2.9.1", "2.10.0a0+git", "2.10.0rc3", "1.13.0"],
    ),
    "precision of oneDNN": (["2.9.0", "2.9.0.dev1", "2.15.0"], ["2.8.0+cu128", "2.6.0"]),
    "connections left open": (["0.34.0", "0.36.2"], ["1.0.0", "1.0.0rc5", "2.4.0"]),
}


@pytest.mark.parametrize(
    ("name", "version", "holds"),
    [
        (name, version, side == 0)
        for name, sides in ON_EITHER_SIDE.items()
        for side, versions in enumerate(sides)
        for version in versions
    ],
)
def test_a_difference_holds_within_its_bounds(
    name: str, version: str, *, holds: bool, installed: Installed
) -> None:
    installed(DIFFERENCES[name].package, version)
    assert DIFFERENCES[name].holds() is holds


def own_normalizer() -> object:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "vocab.json").write_text('{"<unk>": 0}', encoding="utf-8")
        (Path(name) / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        with quiet():
            tokenizer = OpenAIGPTTokenizerFast.from_pretrained(name, local_files_only=True)
    return tokenizer.backend_tokenizer.normalizer


def takes_dtype() -> bool:
    config = OpenAIGPTConfig(vocab_size=7, n_positions=5, n_embd=4, n_layer=1, n_head=1)
    state = OpenAIGPTLMHeadModel(config).state_dict()
    asked = {"config": config, "state_dict": state, "dtype": torch.float64}
    try:
        with quiet():
            model = OpenAIGPTLMHeadModel.from_pretrained(None, **asked)
    except TypeError:
        return False
    return model.dtype is torch.float64


PROBES: dict[str, Callable[[], bool]] = {
    "dtype keyword": takes_dtype,
    "head of the last tokens": lambda: (
        "logits_to_keep" in inspect.signature(OpenAIGPTLMHeadModel.forward).parameters
    ),
    "normalizer of three": lambda: isinstance(own_normalizer(), normalizers.Sequence),
    "precision of oneDNN": lambda: hasattr(torch.backends.mkldnn, "matmul"),
    "connections left open": lambda: hasattr(huggingface_hub.utils, "reset_sessions"),
}
"""How it shows in what is installed that a difference is there, asked without its version."""

NOT_PROBED = {"safe unpickling": "to try a file that corrupts memory is no test"}


@pytest.mark.parametrize("name", PROBES)
def test_what_is_installed_is_as_the_table_says(name: str) -> None:
    """So every row of the matrix proves the table for its own versions."""
    assert PROBES[name]() is DIFFERENCES[name].holds()


def test_every_difference_is_tried() -> None:
    assert set(DIFFERENCES) == set(ON_EITHER_SIDE) == {*PROBES, *NOT_PROBED}


@pytest.mark.parametrize(
    ("version", "keyword"), [("4.55.4", "torch_dtype"), ("4.56.0", "dtype"), ("5.23.0", "dtype")]
)
def test_the_dtype_is_stated_under_the_versions_name(
    version: str, keyword: str, installed: Installed
) -> None:
    """Until 4.55 the keyword is `torch_dtype`, from 4.56 on it is `dtype`."""
    installed("transformers", version)
    expected = {keyword: torch.bfloat16}
    assert expected == compat.dtype_keyword(torch.bfloat16)


@pytest.mark.parametrize(
    ("version", "normalizer"),
    [("4.57.6", "BertNormalizer"), ("5.2.0", "Sequence"), ("5.3.0", "BertNormalizer")],
)
def test_the_tokenizers_normalizer_is_the_versions(
    version: str, normalizer: str, installed: Installed
) -> None:
    """From 5.0 to 5.2 it was a sequence of three, and BERT's before and after."""
    installed("transformers", version)
    expected = normalizer
    assert expected == compat.tokenizer_normalizer()


@pytest.mark.parametrize(("version", "asked"), [("4.57.6", {}), ("5.0.0", {"logits_to_keep": 1})])
def test_the_last_logits_are_asked_for_where_they_can_be(
    version: str, asked: dict[str, int], installed: Installed
) -> None:
    installed("transformers", version)
    expected = asked
    assert expected == compat.last_logits_keyword()


@pytest.mark.parametrize("known", ["nothing is written down", "main"])
def test_an_unknown_torch_is_given_no_foreign_file(
    known: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if known == "main":
            return known
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    assert compat.installed_version("torch") is None
    assert compat.describe("torch") == ("main" if known == "main" else "not installed")
    assert not compat.unpickles_safely()
    assert not compat.sets_precision_of_onednn()
    assert not compat.leaves_connections_open()


def test_what_is_read_is_what_is_imported() -> None:
    assert compat.parse_version(torch.__version__) == compat.installed_version("torch")
    assert compat.parse_version(transformers.__version__) == compat.installed_version(
        "transformers"
    )


def test_to_ask_loads_no_package() -> None:
    asked = "import sys; from reference import compat; compat.unpickles_safely()"
    shown = f"{asked}; print({{'torch', 'transformers', 'numpy'}} & set(sys.modules))"
    found = subprocess.run(
        [sys.executable, "-c", shown], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


PAGE = Path(__file__).parents[2] / "docs" / "versions.md"


def rows(text: str) -> list[list[str]]:
    section = text.split("\n## Differences between versions\n")[1].split("\n## ", maxsplit=1)[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[1:]]


def test_the_page_shows_the_table() -> None:
    expected = [
        [name, line.package, line.versions, line.why, line.so] for name, line in DIFFERENCES.items()
    ]
    text = PAGE.read_text(encoding="utf-8")
    assert rows(text) == expected
    assert rows(text.replace("from 5.0 before 5.3", "from 5.0 before 5.6")) != expected
