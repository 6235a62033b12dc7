"""Nobody asks for a version but `reference.compat`: what differs stands there, or nowhere."""

import inspect
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from reference import compat
from tests.version_questions import ANSWERS, COMPAT, OTHERS, questions

HomeOf = Callable[[str], Path | None]

PACKAGES = ("scratch_gpt", "reference", "parity", "bench", "tests")

MAY_ASK = {
    "reference/compat.py": "the table",
    "tests/reference/test_compat.py": "holds it against what is installed, without its help",
    "tests/packaging/": "the metadata that are asked for are those of this project's own wheel",
    "tests/test_rows.py": "holds what is installed against the name of the row that runs",
    "tests/version_questions.py": "what is looked for is written there",
    "tests/test_version_questions.py": "what is planted is written there",
    "tests/test_versions.py": "what is listed is written there",
}
"""Files and folders in which anything may be asked, and why."""

TOLD = f"{COMPAT}.describe"

RECORDED: dict[str, tuple[set[str], str]] = {
    "bench/baseline.py": (
        {"importlib.metadata", "platform.python_version", "torch.__version__"},
        "ratios of two installations are not compared",
    ),
    "parity/core/code.py": ({"importlib.metadata"}, "a report names this project's own version"),
    "parity/core/environment.py": (
        {"platform.python_version", "torch.__version__", TOLD},
        "a report says what it was made on",
    ),
    "parity/checkpoints/load.py": ({"numpy.__version__"}, "a refusal names the NumPy that drew"),
    "parity/checkpoints/huggingface_files.py": (
        {TOLD},
        "written weights say what they were written with",
    ),
    "parity/checkpoints/torch_file.py": ({TOLD}, "a refusal names the torch that does not read"),
    "parity/checks/tokens/check.py": ({TOLD}, "a report says what it was made on"),
    "parity/checks/tokens/sides.py": (
        {TOLD, f"{COMPAT}.DIFFERENCES"},
        "a report says, in the table's words, whose normalizer was replaced",
    ),
    "reference/huggingface_tokenizer.py": (
        {"importlib.metadata"},
        "its file says whose answers it has",
    ),
    "scratch_gpt/training/reproducibility.py": (
        {"torch.__version__"},
        "a run says what it was made on",
    ),
    "tests/parity/core/test_code.py": ({"importlib.metadata"}, "held against what a report says"),
    "tests/parity/checks/test_doctor.py": (
        {"numpy.__version__", "torch.__version__"},
        "held against what a report says",
    ),
    "tests/parity/core/test_environment.py": (
        {"torch.__version__", f"{COMPAT}.metadata"},
        "held against what a report says, also where nothing is installed",
    ),
    "tests/parity/checks/tokens/test_command.py": ({TOLD}, "held against what a report says"),
}
"""Who writes a version down, and decides nothing by it."""

POSED: dict[str, tuple[set[str], str]] = {
    "tests/parity/test_foreign_pickles.py": ({COMPAT, TOLD}, "another torch is posed"),
    "tests/parity/test_torch_file.py": ({COMPAT}, "another torch is posed"),
    "tests/reference/test_huggingface_tokenizer.py": ({COMPAT}, "another answer is posed"),
}
"""Who puts something else in the table's place, to see what follows."""

ASKS_ITSELF: dict[str, tuple[set[str], str]] = {
    "scratch_gpt/kernels/triton_attention.py": (
        {"triton.__version__"},
        "the model's package imports nothing of ours: see docs/versions.md",
    ),
}
"""Who decides by a version elsewhere, and why it cannot be in the table."""


OTHERWISE: dict[str, tuple[set[str], str]] = {
    "reference/huggingface_generation.py": (
        {"hasattr(transformers.GenerationConfig())"},
        "a setting that would be ignored is refused, whatever the version",
    ),
    "scratch_gpt/errors.py": (
        {"getattr(sys.modules.get())"},
        "an error of a module of ours that is not loaded was not raised",
    ),
    "scratch_gpt/data/corpus.py": ({"sysconfig"}, "where the standard library lies"),
    "tests/test_from_scratch.py": (
        {"hasattr(torch.Tensor)", "'__version__'"},
        "what a tensor has is what the model may not use unlisted; the list has the floor's name",
    ),
}
"""Whose question looks like one about versions, and is another."""

LISTS = (RECORDED, POSED, ASKS_ITSELF, OTHERWISE)
LISTED = {path: line for listed in LISTS for path, line in listed.items()}


def sources(home_of: HomeOf) -> Iterator[tuple[str, str]]:
    """Give path and text of every module, the tests' too."""
    for package in PACKAGES:
        home = Path(__file__).parent if package == "tests" else home_of(package)
        if home is None:
            continue
        for file in sorted(home.rglob("*.py")):
            path = f"{package}/{file.relative_to(home).as_posix()}"
            yield path, file.read_text(encoding="utf-8")


def test_nobody_else_asks_for_a_version(home_of: HomeOf) -> None:
    """Who writes one down is listed with what it is and why, and no list is longer than it must."""
    free = tuple(MAY_ASK)
    asked = {path: questions(text) for path, text in sources(home_of) if not path.startswith(free)}
    assert len(asked) > 300, "nearly nothing was looked at"
    expected = {path: names for path, (names, _why) in LISTED.items()}
    assert {path: names for path, names in asked.items() if names} == expected
    assert len(LISTED) == sum(map(len, LISTS))


def test_the_table_does_ask(home_of: HomeOf) -> None:
    """The one place is one where the search finds something."""
    asking = [path for path, text in sources(home_of) if questions(text)]
    assert not [free for free in MAY_ASK if not any(path.startswith(free) for path in asking)]


@pytest.mark.parametrize(
    ("path", "planted"),
    [
        ("parity/core/environment.py", "if hasattr(torch.backends.mkldnn, 'matmul'): ..."),
        ("parity/checkpoints/torch_file.py", "int(torch.__version__.split('.')[1]) < 10"),
        ("reference/huggingface.py", "import transformers\ntransformers.__version__ < '5'"),
        ("parity/checkpoints/huggingface_files.py", "old = compat.describe('torch') < '2.9'"),
        ("parity/checks/tokens/sides.py", "if compat.DIFFERENCES['safe unpickling'].holds(): ..."),
        ("bench/workloads/decoding.py", "from reference.compat import installed_version"),
    ],
)
def test_a_question_planted_into_a_module_is_found(
    path: str, planted: str, home_of: HomeOf
) -> None:
    """Behind all that stands there: the list no longer fits."""
    text = dict(sources(home_of))[path]
    allowed = LISTED.get(path, (set(), ""))[0]
    assert questions(text) == allowed
    assert questions(f"{text}\n{planted}\n") > allowed


def test_what_everybody_may_have_is_an_answer() -> None:
    """Each answers from the table, and whatever else gives a version is not among them."""
    for name in ANSWERS:
        assert "DIFFERENCES" in getattr(compat, name).__code__.co_names
    functions = {name for name, _ in inspect.getmembers(compat, inspect.isfunction)}
    assert functions - ANSWERS == {
        "installed_version",
        "parse_version",
        "format_version",
        "describe",
    }


def test_every_package_that_is_depended_on_may_differ() -> None:
    """None that an install brings is felt for unseen."""
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    lines = [
        *project["project"]["dependencies"],
        *(
            line
            for extra in ("triton", "original-text", "plot")
            for line in project["project"]["optional-dependencies"][extra]
        ),
    ]
    assert {line.partition(">")[0] for line in lines} == OTHERS - {"sys"}
