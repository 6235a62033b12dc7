"""Each row of the table of versions holds within its bounds and in the installed packages."""

import inspect
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from types import ModuleType

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
    return lambda package, version: monkeypatch.setattr(
        metadata, "version", lambda name: {package: version}[name]
    )


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
    assert compat.parse_version(text) == version


@pytest.mark.parametrize("text", ["", "main", "+cpu", "not installed"])
def test_other_text_is_no_version(text: str) -> None:
    with pytest.raises(ValueError, match="is no version"):
        compat.parse_version(text)


ON_EITHER_SIDE = {
    "dtype keyword": (["4.56.0.dev0", "4.56.0", "5.0.0rc1", "5.23.0"], ["4.30.2", "4.55.4"]),
    "head of the last tokens": (["5.0.0rc1", "5.0.0", "5.23.0"], ["4.57.6", "4.57.0"]),
    "normalizer of three": (["5.0.0rc1", "5.0.0", "5.2.0"], ["4.57.6", "5.3.0", "5.10.0"]),
    "merges by place": (["4.57.6", "4.30.2"], ["5.0.0rc1", "5.0.0", "5.23.0"]),
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


def skips_the_first_line() -> bool:
    with tempfile.TemporaryDirectory() as name:
        ids = {"<unk>": 0, "a": 1, "b</w>": 2, "ab</w>": 3}
        (Path(name) / "vocab.json").write_text(json.dumps(ids), encoding="utf-8")
        (Path(name) / "merges.txt").write_text("a b</w>\n", encoding="utf-8")
        with quiet():
            tokenizer = OpenAIGPTTokenizerFast.from_pretrained(name, local_files_only=True)
    return tokenizer("ab")["input_ids"] == [1, 2]


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
    "merges by place": skips_the_first_line,
    "precision of oneDNN": lambda: hasattr(torch.backends.mkldnn, "matmul"),
    "connections left open": lambda: hasattr(huggingface_hub.utils, "reset_sessions"),
}
"""Whether the installed packages have each difference, found out without their versions."""

NOT_PROBED = {"safe unpickling"}  # a probe would open a file that corrupts memory


@pytest.mark.parametrize("name", PROBES)
def test_the_installed_packages_agree_with_the_table(name: str) -> None:
    """Each row of the tox matrix tests the table for its own versions."""
    assert PROBES[name]() is DIFFERENCES[name].holds()


def test_every_difference_is_tried() -> None:
    assert set(DIFFERENCES) == set(ON_EITHER_SIDE) == PROBES.keys() | NOT_PROBED


def keyword() -> str:
    ((name, dtype),) = compat.dtype_keyword(torch.bfloat16).items()
    assert dtype is torch.bfloat16
    return name


@pytest.mark.parametrize(
    ("function", "version", "expected"),
    [
        (keyword, "4.55.4", "torch_dtype"),
        (keyword, "4.56.0", "dtype"),
        (keyword, "5.23.0", "dtype"),
        (compat.tokenizer_normalizer, "4.57.6", "BertNormalizer"),
        (compat.tokenizer_normalizer, "5.2.0", "Sequence"),
        (compat.tokenizer_normalizer, "5.3.0", "BertNormalizer"),
        (compat.reads_merges_by_place, "4.57.6", True),
        (compat.reads_merges_by_place, "5.0.0", False),
        (compat.last_logits_keyword, "4.57.6", {}),
        (compat.last_logits_keyword, "5.0.0", {"logits_to_keep": 1}),
    ],
)
def test_an_answer_follows_the_version_of_transformers(
    function: Callable[[], object], version: str, expected: object, installed: Installed
) -> None:
    installed("transformers", version)
    assert function() == expected


@pytest.mark.parametrize("recorded", [None, "main"])
def test_an_unknown_torch_opens_no_untrusted_file(
    recorded: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def version(name: str) -> str:
        if recorded is None:
            raise metadata.PackageNotFoundError(name)
        return recorded

    monkeypatch.setattr(metadata, "version", version)
    assert compat.installed_version("torch") is None
    assert compat.describe("torch") == (recorded or "not installed")
    assert not compat.unpickles_safely()
    assert not compat.sets_precision_of_onednn()
    assert not compat.leaves_connections_open()


@pytest.mark.parametrize("package", [torch, transformers])
def test_the_recorded_version_is_the_imported_one(package: ModuleType) -> None:
    found = compat.installed_version(package.__name__)
    assert compat.parse_version(package.__version__) == found


def test_a_query_loads_no_package() -> None:
    source = "import sys; from reference import compat; compat.unpickles_safely(); "
    source += "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    command = [sys.executable, "-c", source]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
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
