"""The pytest plugin, in projects of its own."""

import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

import parity.api  # before a project's run in this process, which forgets what it imports
import parity.report.html
import parity.report.junit  # noqa: F401
from parity import read_report
from parity.check import VERBS
from parity.core.results import Verdict
from parity.pytest_plugin import file_name
from parity.report import form_of
from scratch_gpt.options import options_of

pytestmark = pytest.mark.once

pytest_plugins = ["pytester"]

HOME = Path(__file__).parents[2]

CONFTEST = """
import pytest, torch
from parity.faults.forward import inject
from scratch_gpt import GPT, GPTConfig

@pytest.fixture(scope="session")
def right():
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=61, n_positions=32, n_embd=24, n_layer=2, n_head=3)).eval()
    with torch.no_grad():
        for one in model.parameters():
            one.add_(torch.randn_like(one) * (0.6 if one.ndim > 1 else 0.2))
    return model

@pytest.fixture(scope="session")
def wrong(right):
    return inject(right, "erf-gelu", 1)
"""

MARK = "@pytest.mark.parity(dtype='float64', seq_len=7)\n"


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    pytester.makeconftest(CONFTEST)
    return pytester


def run(project: pytest.Pytester, test: str, *options: str) -> pytest.RunResult:
    project.makepyfile(f"import pytest\nfrom parity.pytest_plugin import assert_parity\n{test}")
    plugin = ("-p", "parity.pytest_plugin", "-p", "no:cacheprovider")
    return project.runpytest_inprocess(*plugin, *options)


def test_a_right_model_passes_and_a_wrong_one_fails_with_the_report(
    project: pytest.Pytester,
) -> None:
    found = run(
        project,
        f"{MARK}def test_green(parity_check, right):\n"
        "    report = parity_check(right)\n"
        "    assert report.plan.compared == report.plan.planned == 33\n"
        "    assert {row.dtype for row in report.results} == {'float64'}\n"
        f"{MARK}def test_red(parity_check, wrong):\n"
        "    parity_check(wrong)\n"
        f"{MARK}def test_helper(wrong):\n"
        "    with pytest.raises(AssertionError, match='h.1.mlp.gelu'):\n"
        "        assert_parity(wrong)\n",
    )
    found.assert_outcomes(passed=2, failed=1)
    text = found.stdout.str()
    assert ">       parity_check(wrong)" in text
    assert "ParityFailedError: fail: compared 33 of 33 taps on plain; first divergence at" in text
    assert "E       first divergence: h.1.mlp.gelu" in text
    assert "testing.py" not in text  # the plugin's own frames are hidden


@pytest.mark.parametrize(
    "test",
    [
        "def test_it(parity_check):\n    pass",
        "@pytest.mark.parity\ndef test_it():\n    pass",
        "class TestIt:\n    pytestmark = pytest.mark.parity\n    def test_it(self):\n        pass",
        """import unittest
@pytest.mark.parity
class It(unittest.TestCase):
    def test_it(self):
        pass""",
    ],
    ids=["fixture", "marker", "class", "unittest"],
)
def test_nothing_compared_is_a_failure(test: str, project: pytest.Pytester) -> None:
    found = run(project, test)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["*nothing was compared: the test called neither parity_check nor*"])


def test_other_outcomes_stay(project: pytest.Pytester) -> None:
    found = run(
        project,
        "def test_skips(parity_check):\n    pytest.skip('no GPU')\n"
        "def test_fails(parity_check):\n    assert 1 == 2\n"
        "@pytest.mark.xfail(strict=True)\n"
        f"{MARK}def test_known(parity_check, wrong):\n    parity_check(wrong)\n"
        "def test_other():\n    pass\n",
    )
    found.assert_outcomes(skipped=1, failed=1, xfailed=1, passed=1)
    assert "nothing was compared" not in found.stdout.str()


def test_an_inconclusive_check_fails_with_its_reasons(project: pytest.Pytester) -> None:
    found = run(
        project,
        "import copy, torch\n"
        f"{MARK}def test_gains_of_1(parity_check, right):\n"
        "    model = copy.deepcopy(right)\n"
        "    with torch.no_grad():\n"
        "        model.h[0].ln_1.weight.fill_(1.0)\n"
        "    parity_check(model)\n"
        f"{MARK}def test_no_tap(right):\n    assert_parity(right, taps='h.7.*')\n"
        "def test_no_weights(parity_check):\n    parity_check('my_gpt.py', weights='./tin')\n",
    )
    found.assert_outcomes(failed=3)
    text = found.stdout.str()
    assert "1 tensors hold one value throughout" in text
    assert "no tap was selected" in text
    assert "there is nothing at that path" in text
    assert text.count("ParityFailedError: inconclusive") >= 2


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("dtyp='float64'", "no setting dtyp; it takes dtype"),
        ("'float64'", "no setting 'float64'; it takes"),
        ("colour=1", "it takes check, weights, seq_len"),
    ],
)
def test_a_wrong_marker_is_an_error(marker: str, words: str, project: pytest.Pytester) -> None:
    found = run(project, f"@pytest.mark.parity({marker})\ndef test_it():\n    pass")
    found.assert_outcomes(errors=1)
    assert words in found.stdout.str()


def test_the_nearest_setting_counts(project: pytest.Pytester) -> None:
    found = run(
        project,
        "@pytest.mark.parity(dtype='float64', seq_len=5)\n"
        "class TestIt:\n"
        "    @pytest.mark.parity(seq_len=9)\n"
        "    def test_it(self, parity_check, right):\n"
        "        assert parity_check(right).inputs['time'] == 9\n"
        "        assert parity_check(right, seq_len=3).inputs['time'] == 3\n"
        "    def test_other(self, parity_check, right):\n"
        "        report = parity_check(right, dtype='bfloat16')\n"
        "        assert report.inputs['time'] == 5\n"
        "        assert 'bfloat16' in {row.dtype for row in report.results}\n"
        "    @pytest.mark.parity(seq_len=None)\n"
        "    def test_ids(self, parity_check, right):\n"
        "        assert parity_check(right, None, [[1, 2]]).inputs['time'] == 2\n"
        "    def test_unused(self, parity_check, right):\n"
        "        with pytest.raises(AssertionError, match='seq_len with ids'):\n"
        "            parity_check(right, None, [[1, 2]])\n",
        "--strict-markers",
    )
    found.assert_outcomes(passed=4)


NAMES = ["a/b", "a-b", "../x", "<script>", "A", "a", "é" * 300]


def test_reports_are_written(project: pytest.Pytester) -> None:
    test = (
        f"{MARK}def test_two(parity_check, right, wrong):\n"
        "    parity_check(right)\n    parity_check(wrong)\n"
        f"@pytest.mark.parametrize('name', {NAMES})\n"
        f"{MARK}def test_names(name, parity_check, right):\n"
        "    parity_check(right, taps='logits')\n"
        "def test_broken(parity_check):\n    parity_check(3)\n"
    )
    for _ in range(2):  # an older report is replaced
        found = run(project, test, "--parity-report", "new/reports")
        found.assert_outcomes(passed=7, failed=2)
    folder = project.path / "new" / "reports"
    found.stdout.fnmatch_lines([f"parity reports: {folder}"])
    files = list(folder.iterdir())
    assert len(files) == 3 * 10
    assert {file.suffix for file in files} == {".html", ".json", ".xml"}
    assert all(file.name.isascii() and len(file.name) < 130 for file in files)
    reports = [read_report(file) for file in files if file.suffix == ".json"]
    verdicts = [report.verdict for report in reports]
    assert verdicts.count(Verdict.PASS) == 8
    assert sorted({*verdicts} - {Verdict.PASS}) == [Verdict.ERROR, Verdict.FAIL]
    (two,) = folder.glob("*test_two*-2.xml")
    assert ET.parse(two).getroot().find(".//failure") is not None  # noqa: S314 - our own


def reports(project: pytest.Pytester, test: str) -> list[str]:
    files = project.path.joinpath("out").glob(f"*{test}*")
    return sorted(file.name.partition(test)[2][9:] for file in files)  # without the digest


def test_a_test_that_fails_before_its_check_keeps_no_older_report(
    project: pytest.Pytester,
) -> None:
    test = (
        "{before}{mark}def test_it(parity_check, right):\n"
        "    {first}\n"
        "    parity_check(right)\n    parity_check(right)\n"
        "{mark}def test_other(parity_check, right):\n    parity_check(right)\n"
    )
    both = [f"{number}.{form}" for number in ("", "-2") for form in ("html", "json", "xml")]
    one = [".html", ".json", ".xml"]
    mistakes = [
        ("assert 1 == 2", "", "failed"),
        ("pass", "@pytest.mark.parity(dtyp='float64')\n", "errors"),
        ("pass", "@pytest.mark.skip\n", "skipped"),
        ("pass", "@pytest.mark.usefixtures('absent')\n", "errors"),
    ]
    for first, before, outcome in mistakes:
        run(project, test.format(before="", first="pass", mark=MARK), "--parity-report=out")
        assert reports(project, "test_it") == sorted(both)
        found = run(
            project, test.format(before=before, first=first, mark=MARK), "--parity-report=out"
        )
        found.assert_outcomes(passed=1, **{outcome: 1})
        assert reports(project, "test_it") == []
        assert reports(project, "test_other") == one


@pytest.mark.parametrize("strict", [False, True])
def test_another_file_of_a_report_s_name_stays(
    strict: bool,  # noqa: FBT001 - a parameter
    project: pytest.Pytester,
) -> None:
    folder = project.path / "out"
    folder.mkdir()
    name = file_name("test_another_file_of_a_report_s_name_stays.py::test_red", 1)
    mine = [folder / f"{name}{end}" for end in (".html", ".json", "-2.xml")]
    for file in mine:
        file.write_text("mine", encoding="utf-8")
    (folder / f"{name}.xml").mkdir()
    test = f"{MARK}def test_red(parity_check, wrong):\n    parity_check(wrong)\n"
    found = run(project, test, "--parity-report=out", "-W", "error" if strict else "default")
    found.assert_outcomes(failed=1, errors=1 if strict else 0, warnings=0 if strict else 4)
    text = found.stdout.str()
    assert "E       first divergence: h.1.mlp.gelu" in text
    assert "no parity report: " in text
    assert "the file is no report, and would be lost" in text
    assert [file.read_text(encoding="utf-8") for file in mine] == ["mine"] * 3


def test_a_file_is_no_folder_for_reports(project: pytest.Pytester) -> None:
    project.path.joinpath("taken").write_text("mine", encoding="utf-8")
    found = run(project, "def test_it():\n    pass", "--parity-report=taken")
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    found.stderr.fnmatch_lines(["*--parity-report taken: no such folder can be made: File exists*"])
    assert project.path.joinpath("taken").read_text(encoding="utf-8") == "mine"


def test_it_works_with_several_workers(project: pytest.Pytester) -> None:
    project.makepyfile(
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(3))\n"
        f"{MARK}def test_it(number, parity_check, right):\n    parity_check(right, seed=number)\n"
        f"{MARK}def test_red(parity_check, wrong):\n    parity_check(wrong)\n"
    )
    options = (
        "-p",
        "xdist",
        "-n",
        "2",
        "-W",
        "error",
        "-p",
        "no:cacheprovider",
        "--parity-report=out",
    )
    found = project.runpytest_subprocess("-p", "parity.pytest_plugin", *options, "--junitxml=j.xml")
    found.assert_outcomes(passed=3, failed=1)
    assert len(list(project.path.joinpath("out").iterdir())) == 3 * 4
    assert "first divergence: h.1.mlp.gelu" in project.path.joinpath("j.xml").read_text("utf-8")


STARTED = """
import sys, pytest
code = pytest.main(["-q", "-p", "parity.pytest_plugin", "-p", "no:cacheprovider", *sys.argv[1:]])
heavy = {"torch", "transformers", "numpy", "safetensors", "rich", "typer", "jinja2", "pydantic"}
print("LOADED", sorted((heavy | {"scratch_gpt", "reference"}) & set(sys.modules)), int(code))
"""


def test_a_session_without_a_check_loads_nothing(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it():\n    pass\n", encoding="utf-8")
    for options in (("--parity-report=r",), ("--markers",), ("--help",)):
        ran = subprocess.run(
            [sys.executable, "-c", STARTED, *options],
            cwd=tmp_path,
            env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "LOADED [] 0" in ran.stdout, ran.stdout
        if options == ("--markers",):
            assert "@pytest.mark.parity(weights, dtype, seq_len, ...)" in ran.stdout
        if options == ("--help",):
            assert "--parity-report=DIR" in ran.stdout


def test_names_of_files_differ() -> None:
    tests = ["t.py::test_a[x/y]", "t.py::test_a[x-y]", "t.py::test_A[x-y]", "t/py::test_a[x-y]"]
    made = {file_name(test, number).lower() for test in tests for number in (1, 2)}
    assert len(made) == 8
    assert file_name("t.py::test_a", 1) == "t-py-test_a-" + file_name("t.py::test_a", 1)[-8:]


EXAMPLES = HOME / "examples"


def test_the_example_passes(tmp_path: Path) -> None:
    for name in ("test_my_gpt.py", "textbook_gpt.py"):
        shutil.copy(EXAMPLES / name, tmp_path)
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "parity.pytest_plugin", "test_my_gpt.py"],
        cwd=tmp_path,
        env=os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "3 passed" in ran.stdout, ran.stdout + ran.stderr


def test_the_workflow_runs_what_exists() -> None:
    """GitHub's parser is another; the keys, the commands and their options are checked."""
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((EXAMPLES / "ci-workflow.yml").read_text(encoding="utf-8"))
    assert set(workflow) == {"name", True, "permissions", "jobs"}  # True is `on` to this parser
    (job,) = workflow["jobs"].values()
    assert all(("uses" in step) != ("run" in step) for step in job["steps"])
    commands = " ".join(" ".join(step.get("run", "") for step in job["steps"]).split())
    check = re.search(r"python -m parity\.check (\w+) (--.*?) python -m", commands)
    assert check is not None
    known = {field.name for field in options_of(VERBS[check[1]].options)}
    asked = re.findall(r"--([\w-]+)", check[2])
    assert {name.replace("-", "_") for name in asked} <= known
    forms = {form_of(Path(file)) for file in re.findall(r"--output (\S+)", check[2])}
    assert {*forms, *re.findall(r"--format (\w+)", check[2])} == {"html", "junit", "github"}
    assert "--parity-report=parity-reports" in commands
    kept = next(step["with"]["path"] for step in job["steps"] if "path" in step.get("with", {}))
    assert kept.split() == ["report.html", "report.xml", "tests.xml", "parity-reports/"]
