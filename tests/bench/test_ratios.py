"""The command `python -m bench.ratios`: its output, errors and exit codes."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench import baseline, report, runner, timing
from bench import ratios as command
from bench.kernels import ATTENTION_KERNELS
from bench.ratios import BenchOptions, run, selected
from bench.results import Outcome, Spread, Status
from bench.targets import KERNEL_TARGETS, PEERS, TARGETS, Target
from parity.errors import EnvironmentUnfitError, ExitCode, InputRejectedError, UsageError

Found = Callable[..., None]
Python = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def python(home_of: Callable[[str], Path]) -> Python:
    """Return the function that runs Python with some arguments in the project's folder."""
    home = home_of("bench").parent
    return lambda *arguments: subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=home
    )


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    def outcome(row: Target, ratio: float | None) -> Outcome:
        spread = None if ratio is None else Spread(ratio, ratio, ratio, 3)
        status = Status.OOM if ratio is None else Status.REPORTED
        return Outcome(name=row.name, work="w", against="p", status=status, ratio=spread)

    def decide(ratio: float | None) -> None:
        monkeypatch.setattr(
            runner, "measure", lambda rows, _: [outcome(row, ratio) for row in rows]
        )

    monkeypatch.setattr(timing, "copy_bandwidth", lambda _device: 1e9)
    return decide


def test_help_needs_no_torch(python: Python) -> None:
    source = """
import sys
sys.modules["torch"] = sys.modules["numpy"] = None
sys.argv = ["ratios", "--help"]
from bench.ratios import main
main()
"""
    done = python("-c", source)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: python -m bench.ratios" in done.stdout


def test_rows_are_listed_with_their_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BenchOptions(list=True)) == ExitCode.PASS
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == sum(not row.compiles for row in TARGETS)
    assert "core/forward/1x512/tiled:huggingface  ≤ 0.30" in lines


def test_rows_are_chosen_by_pattern() -> None:
    assert {row.task.workload for row in selected(BenchOptions(rows="core/*"))} == {"core"}
    assert {row.quick for row in selected(BenchOptions(quick=True))} == {True}
    with pytest.raises(UsageError, match="no row matches"):
        selected(BenchOptions(rows="none"))


def test_compiled_peers_are_asked_for() -> None:
    """They take minutes."""
    row = "model/forward/1x512/fused:torch.compile(textbook)"
    assert row not in [one.name for one in selected(BenchOptions())]
    assert row in [one.name for one in selected(BenchOptions(compile=True))]
    with pytest.raises(UsageError, match="no row matches") as caught:
        selected(BenchOptions(rows="*torch.compile*"))
    assert caught.value.fix == "add --compile"


EXAMPLE = Path(__file__).parents[2] / "examples" / "my_attention.py"


def test_a_kernel_of_ones_own_has_rows_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    """They need no kernel until they are measured, and no other row is among them."""
    rows = selected(BenchOptions(kernel="no_such.py:attention"))
    assert rows == list(KERNEL_TARGETS)
    assert {row.ours for row in rows} == {"kernel"}
    assert {row.against for row in rows} == {*PEERS} < {*ATTENTION_KERNELS}
    assert 0 < len(selected(BenchOptions(kernel="k", quick=True))) < len(rows)
    assert run(BenchOptions(kernel="no_such.py:attention", list=True)) == ExitCode.PASS
    assert "core/both/4x512/kernel:sdpa" in capsys.readouterr().out.splitlines()


def measured_kernel(
    path: Path, source: str, capsys: pytest.CaptureFixture[str]
) -> tuple[ExitCode, str]:
    path.write_text(source, encoding="utf-8")
    kernel, rows = f"{path}:attention", "core/forward/1x1/kernel:sdpa"
    code = run(BenchOptions(kernel=kernel, rows=rows, rounds=2))
    return code, " ".join(capsys.readouterr().out.split())


def test_a_kernel_of_ones_own_is_verified_and_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One token shows no wrong scale or mask: the ragged shape does."""
    monkeypatch.setattr(timing, "copy_bandwidth", lambda _device: 1e9)
    monkeypatch.setitem(ATTENTION_KERNELS, "kernel", None)  # it goes after the test
    file, right = tmp_path / "mine.py", EXAMPLE.read_text(encoding="utf-8")
    code, shown = measured_kernel(file, right, capsys)
    assert (code, "kernel:sdpa" in shown, "reported" in shown) == (ExitCode.PASS, True, True)
    changes = {
        "(query, key, value, seen, dropout_probability)": "(query, key, value, seen, scale=0.1)",
        "keys <= own": "keys <= own + 1",
    }
    for old, new in changes.items():
        assert old in right
        code, shown = measured_kernel(file, right.replace(old, new), capsys)
        assert (code, "times the yardstick's" in shown) == (ExitCode.FAIL, True)


def test_what_is_no_kernel_is_rejected_before_anything_is_timed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "measure", lambda *_: pytest.fail("it ran"))
    right = EXAMPLE.read_text(encoding="utf-8")
    for old, new in {"return scaled": "scaled", "    if mask": "    key *= 2\n    if mask"}.items():
        with pytest.raises(InputRejectedError, match=r"returns None|writes into its inputs"):
            measured_kernel(tmp_path / "mine.py", right.replace(old, new), capsys)
    with pytest.raises(UsageError, match="did you mean"):
        run(BenchOptions(kernel=f"{EXAMPLE}:atention"))


def test_the_exit_code_follows_from_the_rows(
    found: Found, capsys: pytest.CaptureFixture[str]
) -> None:
    found(0.5)
    assert run(BenchOptions(rows="core/*")) == ExitCode.PASS
    found(None)
    assert run(BenchOptions(rows="core/*")) == ExitCode.INCONCLUSIVE
    assert "OOM" in capsys.readouterr().out


def test_a_worse_ratio_than_the_baseline_fails(
    found: Found, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.json"
    found(0.5)
    assert run(BenchOptions(rows="core/*", json=path)) == ExitCode.PASS
    codes = {}
    for ratio in (0.5, 1.0, 0.25, None):
        found(ratio)
        codes[ratio] = run(BenchOptions(rows="core/*", baseline=path))
    assert codes == {0.5: 0, 1.0: 1, 0.25: 0, None: 3}
    out = capsys.readouterr().out
    assert all(word in out for word in ("same", "worse", "better", "gone"))


def test_another_machines_baseline_is_rejected_before_anything_runs(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.json"
    found(0.5)
    run(BenchOptions(rows="core/*", json=path))
    here = baseline.describe_machine()
    monkeypatch.setattr(baseline, "describe_machine", lambda: here | {"cores": "7"})
    monkeypatch.setattr(runner, "measure", lambda *_: pytest.fail("it ran"))
    with pytest.raises(InputRejectedError, match="another machine: cores"):
        run(BenchOptions(rows="core/*", baseline=path))
    with pytest.raises(InputRejectedError, match="there is no such file"):
        run(BenchOptions(rows="core/*", baseline=tmp_path / "none.json"))
    found(0.5)
    assert run(BenchOptions(rows="core/*", baseline=path, force=True)) == ExitCode.PASS


def test_a_file_that_cannot_be_written_is_rejected_at_once(tmp_path: Path) -> None:
    for option in ("json", "picture"):
        for path in (tmp_path, tmp_path / "none" / "file"):
            with pytest.raises(EnvironmentUnfitError, match="cannot be written"):
                run(dataclasses.replace(BenchOptions(), **{option: path}))


def test_a_file_that_would_be_lost_is_rejected_at_once(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="would be lost"):
        run(BenchOptions(json=tmp_path / "notes.json"))
    os.mkfifo(tmp_path / "pipe.svg")
    for option in ("json", "picture"):
        with pytest.raises(EnvironmentUnfitError, match="a pipe or a device"):
            run(dataclasses.replace(BenchOptions(), **{option: tmp_path / "pipe.svg"}))
    with pytest.raises(InputRejectedError, match="a named pipe"):
        run(BenchOptions(baseline=tmp_path / "pipe.svg"))


def test_a_picture_of_an_unknown_suffix_is_rejected_at_once(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no picture has that suffix"):
        run(BenchOptions(picture=tmp_path / "picture.xyz"))


def test_a_picture_without_matplotlib_is_rejected_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(EnvironmentUnfitError, match="matplotlib is not installed") as refusal:
        run(BenchOptions(picture=tmp_path / "picture.svg"))
    assert "gpt1-parity[plot]" in refusal.value.fix


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(EnvironmentUnfitError, match="nothing to draw"):
        report.figure([])


def test_errors_are_three_lines_and_a_code(python: Python) -> None:
    done = python("-m", "bench.ratios", "--rows", "none")
    assert (done.returncode, done.stdout) == (ExitCode.USAGE, "")
    assert len(done.stderr.strip().splitlines()) == 3
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_it_measures(python: Python, tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    options = ["--rows", "core/forward/1x1/*", "--rounds", "2", "--json", str(path)]
    done = python("-m", "bench.ratios", *options)
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(path.read_text(encoding="utf-8"))
    subjects = {point["subject"] for point in document["series"]}
    assert subjects == {"huggingface", "sdpa", "products", "tiled"}
    assert document["outcomes"]
    assert all(row["ratio"]["median"] > 0 for row in document["outcomes"])
    assert document["limits"]["matrix rate, cpu-float32"] > 0
    assert command.QUICK_ROUNDS > 1
