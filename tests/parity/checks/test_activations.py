"""Activations in a file: judged, and written by our own check."""

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from parity.core.inputs import Inputs, parse
from parity.core.lockstep import capture
from parity.core.runners import candidate_run
from parity.faults.forward import inject
from scratch_gpt import GPT

Check = Callable[..., Any]
Arrays = dict[str, np.ndarray]

JUDGE = ("layerwise", "--weights", "tiny", "--format", "json", "--activations")
SAVE = ("layerwise", "--weights", "tiny", "--format", "json", "--backend", "plain")


@pytest.fixture(scope="module")
def ids(ours: GPT) -> Tensor:
    draw = torch.Generator().manual_seed(5)
    return torch.randint(ours.config.vocab_size, (2, 19), generator=draw)


def taken(model: GPT, ids: Tensor) -> Arrays:
    """Return every tap of a model in float64, and the ids, as a NumPy model would save them."""
    found = capture(candidate_run(model.double(), Inputs(token_ids=ids)))
    return {name: tensor.numpy() for name, tensor in found.items()} | {"token_ids": ids.numpy()}


@pytest.fixture(scope="module")
def right(ours: GPT, ids: Tensor) -> Arrays:
    return taken(copy.deepcopy(ours), ids)


def written(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        save_file({k: torch.from_numpy(np.ascontiguousarray(v)) for k, v in arrays.items()}, path)
    return path


@pytest.fixture
def judged(check: Check, tmp_path: Path, strictly: Callable[[str], Any]) -> Callable[..., Any]:
    """Return a function that judges arrays in a file: exit code, and the report."""

    def judge(arrays: Mapping[str, np.ndarray], *options: str, name: str = "a.npz") -> Any:  # noqa: ANN401
        path = written(tmp_path / name, arrays)
        before = path.read_bytes()
        result = check(*JUDGE, str(path), *options)
        assert result.stderr == "" or result.exit_code in (2, 4, 5), result.stderr
        assert path.read_bytes() == before
        return strictly(result.stdout)

    return judge


def statuses(report: Any) -> dict[str, str]:  # noqa: ANN401
    return {row["tap"]: row["status"] for row in report["results"] if row["status"] != "pass"}


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_a_right_dump_passes(name: str, judged: Callable[..., Any], right: Arrays) -> None:
    report = judged(right, name=name)
    assert (report["verdict"], report["exit_code"], statuses(report)) == ("pass", 0, {})
    assert report["plan"]["per_backend"] == {"candidate": [173, 173]}
    assert {row["mode"] for row in report["results"]} == {"float64"}
    assert {row["against"] for row in report["results"]} == {"oracle", "huggingface"}
    assert report["inputs"]["activations"].startswith(f"{name}, float64, sha256 ")


# What our check writes, it passes.


@pytest.mark.parametrize(
    ("name", "dtype", "mode"),
    [
        ("a.npz", "float64", "float64"),
        ("a.safetensors", "float64", "float64"),
        ("a.npz", "float32", "end-to-end"),
        ("a.safetensors", "float32", "end-to-end"),
        ("a.safetensors", "bfloat16", "end-to-end"),
        ("a.npz", "float16", "end-to-end"),
    ],
)
def test_a_saved_file_passes(  # noqa: PLR0913 - a table and its fixtures
    name: str, dtype: str, mode: str, check: Check, tmp_path: Path, strictly: Callable[[str], Any]
) -> None:
    path = tmp_path / name
    options = ("--dtype", dtype, "--seq-len", "23", "--save-activations", str(path))
    first = check(*SAVE, *options)
    assert first.exit_code == 0, first.output
    saved = strictly(first.stdout)
    assert saved["inputs"]["saved"] == f"{name}: plain, {dtype}"
    report = strictly(check(*JUDGE, str(path)).stdout)
    assert (report["verdict"], report["plan"]["compared"]) == ("pass", 173)
    assert {(row["mode"], row["dtype"]) for row in report["results"]} == {(mode, dtype)}
    assert report["inputs"]["ids"] == saved["inputs"]["ids"]
    own = {row["tap"]: row["error_ours"] for row in saved["results"] if row["mode"] == mode}
    assert {r["tap"]: r["error_ours"] for r in report["results"]} == own
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_padded_batch_passes(
    check: Check, tmp_path: Path, strictly: Callable[[str], Any]
) -> None:
    path = tmp_path / "a.npz"
    row = ",".join(map(str, range(3, 40)))
    options = ("--token-ids", f"{row};5,9,17,4", "--dtype", "float64")
    assert check(*SAVE, *options, "--save-activations", str(path)).exit_code == 0
    report = strictly(check(*JUDGE, str(path)).stdout)
    assert (report["verdict"], report["inputs"]["padded_positions"]) == ("pass", 33)


def test_a_candidate_without_taps_is_saved(
    check: Check, tmp_path: Path, strictly: Callable[[str], Any]
) -> None:
    path = tmp_path / "a.safetensors"
    arguments = ("--candidate", "examples/textbook_gpt.py", "--dtype", "float64")
    saved = check(
        *(a for a in SAVE if a not in ("--backend", "plain")),
        *(*arguments, "--seq-len", "23", "--save-activations", str(path)),
    )
    assert saved.exit_code == 0, saved.output
    report = strictly(check(*JUDGE, str(path)).stdout)
    assert (report["verdict"], report["plan"]["compared"]) == ("pass", 173)


def test_metadata_give_dtype_backend_and_weights(check: Check, tmp_path: Path) -> None:
    for name in ("a.npz", "a.safetensors"):
        path = tmp_path / name
        check(*SAVE, "--seq-len", "5", "--save-activations", str(path))
        if path.suffix == ".npz":
            metadata = json.loads(np.load(path)["metadata"].tobytes())
        else:
            with safe_open(path, "pt") as file:
                metadata = file.metadata()
        assert (metadata["dtype"], metadata["backend"]) == ("float32", "plain")
        assert len(metadata["weights"]) == 64


def test_other_weights_are_rejected(check: Check, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    check(*SAVE, "--seq-len", "5", "--save-activations", str(path))
    tensors = load_file(path)
    save_file(tensors, path, {"weights": "0" * 64})
    result = check(*JUDGE, str(path))
    assert (result.exit_code, "written with other weights" in result.stderr) == (2, True)


# Files that are partly there.


def test_the_logits_alone_are_judged(judged: Callable[..., Any], right: Arrays) -> None:
    report = judged({name: right[name] for name in ("logits", "token_ids")})
    assert (report["verdict"], report["plan"]["per_backend"]) == ("pass", {"candidate": [2, 2]})
    assert len(report["plan"]["exempt"]) == 171


def test_ids_of_the_options_are_used(
    check: Check, tmp_path: Path, ours: GPT, strictly: Callable[[str], Any]
) -> None:
    inputs = parse("5,9,17,4,30,2,77,101,33,12;81,2,3,4,5,6,7,8,9,10")
    arrays = taken(copy.deepcopy(ours), inputs.token_ids)
    del arrays["token_ids"]
    path = written(tmp_path / "a.npz", arrays)
    text = ";".join(",".join(map(str, row)) for row in inputs.token_ids.tolist())
    report = strictly(check(*JUDGE, str(path), "--token-ids", text).stdout)
    assert report["verdict"] == "pass"
    other = strictly(check(*JUDGE, str(path), "--seq-len", "10", "--batch-size", "2").stdout)
    assert (other["verdict"], other["first_divergence"]["tap"]) == ("fail", "embeddings.tokens")


def test_a_loss_in_the_file_is_judged(judged: Callable[..., Any], right: Arrays) -> None:
    wrong = right | {"loss": right["loss"] * 1.001}
    assert statuses(judged(wrong)) == {"loss": "fail"}
    mean = right | {"loss": right["loss"].mean()}
    assert statuses(judged(mean)) == {"loss": "shape"}


# Wrong ones.


QUERY, GELU = "h.3.attn.query", "h.3.mlp.gelu"


def spoiled(value: np.ndarray, number: float) -> np.ndarray:
    value = value.copy()
    value[0, 1, 2] = number
    return value


WRONG: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray], str, str]] = {
    "not a number": (GELU, lambda x: spoiled(x, np.nan), "nonfinite", ""),
    "infinite": (GELU, lambda x: spoiled(x, np.inf), "nonfinite", ""),
    "one element": (GELU, lambda x: spoiled(x, 9.0), "fail", ""),
    "another dtype": (GELU, lambda x: x.astype(np.float32), "dtype", ""),
    "whole numbers": (GELU, lambda x: (100 * x).astype(np.int64), "dtype", ""),
    "time before heads": (
        QUERY,
        lambda x: np.transpose(x, (0, 2, 1, 3)),
        "shape",
        "save x.transpose(0, 2, 1, 3), in NumPy's words",
    ),
    "heads merged": (
        QUERY,
        lambda x: np.transpose(x, (0, 2, 1, 3)).reshape(2, 19, -1),
        "shape",
        "save x.reshape(batch, time, 3, -1).transpose(0, 2, 1, 3)",
    ),
    "batch and time exchanged": (
        GELU,
        lambda x: np.transpose(x, (1, 0, 2)),
        "shape",
        "save x.transpose(1, 0, 2), in NumPy's words",
    ),
    "cut": (GELU, lambda x: x[:, :-1], "shape", ""),
    "a number": (GELU, lambda x: x.mean(), "shape", ""),
    "queries and keys exchanged": (
        "h.3.attn.weights",
        lambda x: np.transpose(x, (0, 1, 3, 2)),
        "fail",
        "save x.transpose(0, 1, 3, 2), in NumPy's words",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_array_is_named(case: str, judged: Callable[..., Any], right: Arrays) -> None:
    tap, change, status, fix = WRONG[case]
    report = judged(right | {tap: np.asarray(change(right[tap]))})
    assert (report["verdict"], statuses(report)) == ("fail", {tap: status})
    assert report["first_divergence"]["tap"] == tap
    assert [wrong["fix"] for wrong in report["wrong"]] == ([fix] if fix else [])


FAULTS = ("erf-gelu", "query-key-swapped", "no-mlp-residual", "untied-head")


@pytest.mark.fault
@pytest.mark.parametrize(
    ("fault", "dtype"),
    # An epsilon is smaller than float32's rounding here.
    [("epsilon", np.float64), *((fault, d) for fault in FAULTS for d in (np.float64, np.float32))],
)
def test_a_known_mistake_is_named(
    fault: str, dtype: type, judged: Callable[..., Any], ours: GPT, ids: Tensor
) -> None:
    """From the file's own numbers."""
    arrays = taken(inject(copy.deepcopy(ours).double(), fault, 3), ids)
    arrays = {k: v.astype(dtype) if v.dtype == np.float64 else v for k, v in arrays.items()}
    report = judged(arrays)
    assert report["verdict"] == "fail"
    found = report["wrong"][0]
    assert (found["tap"], found["fault"]) == (report["first_divergence"]["tap"], fault)
    assert "with this mistake the numbers agree to" in found["diagnosis"]
    assert found["fix"]


def test_a_mistake_at_a_tap_that_is_not_shown_is_named(
    judged: Callable[..., Any], ours: GPT, ids: Tensor
) -> None:
    arrays = taken(inject(copy.deepcopy(ours).double(), "scale-missing", 2), ids)
    kept = {n: v for n, v in arrays.items() if "attn.scores" not in n and "weights" not in n}
    report = judged(kept)
    assert report["first_divergence"]["tap"] == "h.2.attn.context"
    assert report["wrong"][0]["fault"] == "scale-missing"


def test_an_unknown_name_gets_a_proposal(judged: Callable[..., Any], right: Arrays) -> None:
    arrays = dict(right)
    arrays["h.3.mlp.gleu"] = arrays.pop(GELU)
    report = judged(arrays)
    assert statuses(report) == {"h.3.mlp.gleu": "extra"}
    assert "did you mean h.3.mlp.gelu?" in report["results"][-1]["detail"]


def test_float16_that_overflows_is_found(judged: Callable[..., Any], right: Arrays) -> None:
    arrays = {k: v.astype(np.float16) if k != "token_ids" else v for k, v in right.items()}
    with np.errstate(over="ignore"):
        arrays[GELU] = (right[GELU] * 1e5).astype(np.float16)
    report = judged(arrays)
    assert (report["verdict"], statuses(report)) == ("fail", {GELU: "nonfinite"})


@pytest.mark.parametrize(("wide", "narrow"), [("float64", "float32"), ("float32", "bfloat16")])
def test_a_dtype_that_was_widened_is_judged_as_what_it_was(
    wide: str, narrow: str, check: Check, tmp_path: Path, strictly: Callable[[str], Any]
) -> None:
    """NumPy has no bfloat16."""
    saved = tmp_path / "own.safetensors"
    check(*SAVE, "--seq-len", "23", "--dtype", narrow, "--save-activations", str(saved))
    arrays = {
        name: tensor.to(getattr(torch, wide)).numpy() if tensor.is_floating_point() else tensor
        for name, tensor in load_file(saved).items()
    }
    path = written(tmp_path / "a.npz", {name: np.asarray(array) for name, array in arrays.items()})
    report = strictly(check(*JUDGE, str(path)).stdout)
    assert (report["verdict"], {row["dtype"] for row in report["results"]}) == ("pass", {narrow})
    assert f"saved as {wide} and hold {narrow}" in report["reasons"][0]["what"]


# Files that are rejected, each with a fix.


def no_logits(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name != "logits"}


def no_ids(arrays: Arrays) -> Arrays:
    return {name: array for name, array in arrays.items() if name != "token_ids"}


def changed(**arrays: Any) -> Callable[[Arrays], Arrays]:  # noqa: ANN401
    return lambda before: before | arrays


@pytest.mark.parametrize(
    ("change", "code", "what"),
    [
        (no_logits, 4, "it has no logits"),
        (no_ids, 2, "seeded ones are --batch-size 2 --seq-len 19"),
        (changed(logits=np.ones((2, 19, 211), np.int64)), 4, "its logits are int64"),
        (changed(token_ids=np.ones((2, 19))), 4, "its token_ids are float64"),
        (changed(token_ids=np.arange(19)), 4, "its token_ids are int64 of shape [19]"),
        (changed(token_ids=np.full((2, 19), 10**6)), 2, "an id is outside the vocabulary"),
        (changed(token_ids=np.ones((1, 4000), np.int64)), 2, "4000 tokens in a row"),
        (changed(attention_mask=np.full((2, 19), 3)), 4, "is no mask of its token_ids"),
        (changed(attention_mask=np.ones((2, 18))), 4, "is no mask of its token_ids"),
        (changed(logits=np.array([{}], dtype=object)), 4, "allow_pickle=False"),
    ],
)
def test_a_file_that_cannot_be_judged_is_rejected(  # noqa: PLR0913
    change: Callable[[Arrays], Arrays],
    code: int,
    what: str,
    right: Arrays,
    check: Check,
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **change(right))  # type: ignore[arg-type]
    result = check("layerwise", "--weights", "tiny", "--activations", str(path))
    assert (result.exit_code, what in result.stderr) == (code, True), result.stderr
    assert "\n  fix " in result.stderr


def test_an_array_that_cannot_be_read_is_rejected(
    right: Arrays, check: Check, tmp_path: Path
) -> None:
    """The error comes in the middle of the run."""
    path = tmp_path / "a.npz"
    np.savez(path, **right | {GELU: np.array([{}], dtype=object)})  # type: ignore[arg-type]
    pickled = check(*JUDGE, str(path))
    assert (pickled.exit_code, "allow_pickle=False" in pickled.stderr) == (4, True)
    np.savez(path, **right)  # type: ignore[arg-type]
    data = path.read_bytes()
    place = data.index(right[GELU].tobytes()[:64])
    path.write_bytes(data[:place] + b"\x55" + data[place + 1 :])
    damaged = check(*JUDGE, str(path))
    assert (damaged.exit_code, f"the array '{GELU}'" in damaged.stderr) == (4, True)


@pytest.mark.parametrize(
    "metadata", [np.array("made by hand"), np.frombuffer(b"[" * 200_000, np.uint8)], ids=str
)
def test_metadata_of_another_program_are_ignored(
    metadata: np.ndarray, judged: Callable[..., Any], right: Arrays
) -> None:
    assert judged(right | {"metadata": metadata})["verdict"] == "pass"


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors"])
def test_a_damaged_file_is_rejected(name: str, right: Arrays, check: Check, tmp_path: Path) -> None:
    path = written(tmp_path / name, right)
    path.write_bytes(path.read_bytes()[:-99])
    result = check(*JUDGE, str(path))
    assert (result.exit_code, "\n  fix " in result.stderr) == (4, True)


def test_a_path_without_a_file_is_rejected(check: Check, tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "a.txt").write_text("no arrays")
    for name, code, what in (
        ("no.npz", 2, "there is no such file"),
        ("folder.npz", 4, "it is no file"),
        ("a.txt", 2, "end in .safetensors or .npz"),
    ):
        result = check(*JUDGE, str(tmp_path / name))
        assert (result.exit_code, what in result.stderr) == (code, True), result.stderr


@pytest.mark.parametrize(
    "options",
    [
        ("--candidate", "mine.py"),
        ("--inject-fault", "erf-gelu"),
        ("--backend", "plain"),
        ("--device", "cuda"),
        ("--call", "model(ids)"),
        ("--save-activations", "b.npz"),
        ("--dtype", "bfloat16"),
        ("--token-ids", "1,2"),
        ("--seq-len", "19"),
        ("--seed", "3"),
    ],
)
def test_an_option_without_a_meaning_is_rejected(
    options: tuple[str, ...], right: Arrays, check: Check, tmp_path: Path
) -> None:
    path = written(tmp_path / "a.npz", right)
    result = check(*JUDGE, str(path), *options)
    assert (result.exit_code, options[0] in result.stderr) == (2, True), result.stderr


# Files that are not written.


@pytest.mark.parametrize(
    ("name", "options", "code", "what"),
    [
        ("a.npz", ("--dtype", "bfloat16"), 2, ".npz cannot hold bfloat16"),
        ("a.pt", (), 2, "end in .safetensors or .npz"),
        ("nowhere/a.npz", (), 5, "no file can be written there"),
        ("a.npz", ("--taps", "h.*"), 2, "only the selected taps"),
        ("folder.npz", (), 5, "no file can be written there"),
        ("mine.npz", (), 2, "would be lost"),
        ("mine.safetensors", (), 2, "would be lost"),
        ("behind.npz", (), 2, "would be lost"),
    ],
)
def test_a_place_that_cannot_be_written_is_rejected(  # noqa: PLR0913
    name: str, options: tuple[str, ...], code: int, what: str, check: Check, tmp_path: Path
) -> None:
    (tmp_path / "folder.npz").mkdir()
    np.savez(tmp_path / "mine.npz", a=np.arange(3))
    (tmp_path / "mine.safetensors").write_text("a letter")
    (tmp_path / "behind.npz").write_bytes(b"a letter" + (tmp_path / "mine.npz").read_bytes())
    before = {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    result = check(*SAVE, "--seq-len", "5", *options, "--save-activations", str(tmp_path / name))
    assert (result.exit_code, what in result.stderr) == (code, True), result.stderr
    assert {p: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before


def test_a_former_file_is_replaced_and_survives_a_failure(
    check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, link = tmp_path / "a.npz", tmp_path / "link.npz"
    link.symlink_to(path)
    for length in ("5", "7"):
        assert check(*SAVE, "--seq-len", length, "--save-activations", str(link)).exit_code == 0
        assert (link.is_symlink(), np.load(path)["token_ids"].shape) == (True, (1, int(length)))

    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    result = check(*SAVE, "--seq-len", "6", "--save-activations", str(path))
    assert (result.exit_code, "No space left" in result.stderr) == (5, True)
    assert np.load(path)["token_ids"].shape == (1, 7)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.npz", "link.npz"]
