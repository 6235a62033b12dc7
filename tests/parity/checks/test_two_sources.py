"""Two sources of weights compared with each other, in every form."""

import json
import shutil
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import parity.report
from parity.checkpoints import load
from parity.checkpoints.export import FORMS, export
from parity.checkpoints.tensor_files import TensorFiles, open_tensors
from parity.checkpoints.weights import Weights
from parity.checks import two_sources as module
from parity.checks.two_sources import compare_sources
from parity.core.comparison import no_progress
from parity.core.results import Report
from parity.errors import InputRejectedError, UsageError
from reference import compat
from reference.errors import RejectedError
from scratch_gpt import GPT, GPTConfig

State = dict[str, Tensor]

UNPICKLES = pytest.mark.skipif(
    not compat.unpickles_safely(), reason="on this torch no file of torch.save is read"
)


def compare(first: Path | str, second: Path | str) -> Report:
    return compare_sources(str(first), str(second), {})


def differing(report: Report) -> dict[str, str]:
    return {row.tap: row.status.value for row in report.results if row.status.value != "pass"}


@pytest.fixture(scope="module")
def folders(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of the tiny weights in Hugging Face's form, the release's, and our own."""
    home = tmp_path_factory.mktemp("forms")
    for name, form in FORMS.items():
        export(weights, home / name, form, overwrite=False, progress=no_progress)
    model = GPT(GPTConfig.from_huggingface(weights.config))
    model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in weights.tensors.items()})
    model.save_pretrained(home / "ours")
    return home


@pytest.mark.parametrize(
    ("first", "second"),
    [("huggingface", "openai"), ("openai", "ours"), ("tiny", "openai"), ("ours", "tiny")],
)
def test_one_model_in_two_forms_passes(first: str, second: str, folders: Path) -> None:
    one, other = (name if name == "tiny" else str(folders / name) for name in (first, second))
    report = compare(one, other)
    assert (report.exit_code, differing(report)) == (0, {})
    assert report.plan.per_backend == {"B": (146, 146)}
    assert (report.inputs["names"], report.appendix) == ("ours", [])


# A state dict of another program, under its own names.


def state() -> State:
    """Return a small model's tensors, with a name of two digits and two square matrices."""
    draw = torch.Generator().manual_seed(3)
    shapes: dict[str, tuple[int, ...]] = {
        "wte.weight": (7, 4),
        "blocks.2.proj.weight": (4, 4),
        "blocks.2.fc.weight": (4, 12),
        "blocks.2.fc.bias": (12,),
        "blocks.10.proj.weight": (4, 4),
        "blocks.10.fc.bias": (12,),
    }
    return {name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}


def saved(folder: Path, name: str, tensors: State) -> Path:
    """Return a file of the tensors; its suffix decides the form."""
    path = folder / name
    if path.suffix == ".safetensors":
        save_file({key: tensor.clone() for key, tensor in tensors.items()}, path)
    elif path.suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})  # type: ignore[arg-type]
    else:
        torch.save(tensors, path)
    return path


PROJ, FC, BIAS = "blocks.2.proj.weight", "blocks.2.fc.weight", "blocks.10.fc.bias"


def edit(**changes: Callable[[Tensor], Tensor]) -> Callable[[State], None]:
    """Return a change of some tensors, by keyword."""
    names = {"proj": PROJ, "fc": FC, "bias": BIAS}

    def apply(tensors: State) -> None:
        for key, change in changes.items():
            tensors[names[key]] = change(tensors[names[key]].clone()).contiguous()

    return apply


def rename(tensors: State) -> None:
    tensors["h.2.linear"] = tensors.pop(FC)


def rename_transposed(tensors: State) -> None:
    tensors["h.2.linear"] = tensors.pop(FC).T.contiguous()


def rename_rounded(tensors: State) -> None:
    tensors["h.2.linear"] = tensors.pop(FC).half()


def swap(tensors: State) -> None:
    other = "blocks.10.proj.weight"
    tensors[PROJ], tensors[other] = tensors[other], tensors[PROJ]


def drop(tensors: State) -> None:
    del tensors[BIAS]


def add(tensors: State) -> None:
    tensors["alpha"] = torch.tensor([0.3, 0.7])


def flip(tensor: Tensor) -> Tensor:
    tensor.view(torch.int32).view(-1)[-1] ^= 1
    return tensor


def negative_zero(tensor: Tensor) -> Tensor:
    """Return the tensor with the sign of its zero changed; `zeroed` made that zero."""
    tensor[5] = -0.0
    return tensor


def other_nan(tensor: Tensor) -> Tensor:
    tensor.view(torch.int32)[3] ^= 1
    return tensor


CHANGES: dict[str, tuple[Callable[[State], None], dict[str, str], tuple[str, ...]]] = {
    "transposed, square": (edit(proj=lambda t: t.T), {PROJ: "fail"}, ("transposed",)),
    "transposed": (edit(fc=lambda t: t.T), {FC: "shape"}, ("transposed",)),
    "swapped": (
        swap,
        {PROJ: "fail", "blocks.10.proj.weight": "fail"},
        ("under each other's names",),
    ),
    "renamed": (rename, {FC: "missing"}, ("under another name",)),
    "renamed and transposed": (
        rename_transposed,
        {FC: "missing"},
        ("under another name", "transposed"),
    ),
    "renamed and rounded": (
        rename_rounded,
        {FC: "missing"},
        ("under another name", "rounded", "of another dtype"),
    ),
    "rounded": (edit(fc=lambda t: t.bfloat16().float()), {FC: "fail"}, ("rounded",)),
    "half": (edit(fc=lambda t: t.half()), {FC: "dtype"}, ("rounded", "of another dtype")),
    "wider": (edit(fc=lambda t: t.double()), {FC: "dtype"}, ("of another dtype",)),
    "integers": (
        edit(fc=lambda t: (9 * t).int()),
        {FC: "dtype"},
        ("of another dtype", "of other values"),
    ),
    "one bit": (edit(fc=flip), {FC: "fail"}, ("of other values",)),
    "sign of zero": (edit(bias=negative_zero), {BIAS: "fail"}, ("of other values",)),
    "payload of NaN": (edit(bias=other_nan), {BIAS: "fail"}, ("of other values",)),
    "missing": (drop, {BIAS: "missing"}, ("only in A",)),
    "extra": (add, {"alpha": "extra"}, ("only in B",)),
    "an axis more": (edit(fc=lambda t: t[None]), {FC: "shape"}, ("of another shape",)),
    "cut": (edit(fc=lambda t: t[:1]), {FC: "shape"}, ("of another shape",)),
}
"""For each change of B: status of the tensors that differ, and the kinds reported."""


def first_state() -> State:
    """Return A's tensors: with a zero and a NaN, whose bits are compared too."""
    tensors = state()
    tensors[BIAS][5] = 0.0
    tensors[BIAS][3] = float("nan")
    return tensors


@pytest.mark.parametrize("change", CHANGES)
def test_every_kind_of_difference_is_found(change: str, tmp_path: Path) -> None:
    apply, statuses, kinds = CHANGES[change]
    a = saved(tmp_path, "a.safetensors", first_state())
    changed = first_state()
    apply(changed)
    b = saved(tmp_path, "b.safetensors", changed)
    report = compare(a, b)
    assert (report.exit_code, report.verdict.value) == (1, "fail")
    assert differing(report) == statuses
    assert tuple(report.details["kinds"]) == kinds
    assert report.first_divergence is not None
    assert report.first_divergence.tap == next(iter(statuses))
    assert report.first_divergence.suspects
    compared, planned = report.plan.compared, report.plan.planned
    assert planned - compared == (change in ("missing", "extra"))
    reverse = compare(b, a)
    assert reverse.exit_code == 1
    mirrored = {"missing": "extra", "extra": "missing"}
    renamed = "under another name" in kinds
    expected = {"h.2.linear": "missing"} if renamed else statuses
    assert differing(reverse) == {
        name: status if renamed else mirrored.get(status, status)
        for name, status in expected.items()
    }
    swapped_kinds = {"only in A": "only in B", "only in B": "only in A"}
    assert tuple(reverse.details["kinds"]) == tuple(swapped_kinds.get(k, k) for k in kinds)
    for form in parity.report.FORMS:
        assert parity.report.rendered(report, form)
        assert parity.report.rendered(reverse, form)


def test_a_difference_of_unsigned_numbers_does_not_wrap(tmp_path: Path) -> None:
    """In 8 bits 0 - 255 is 1."""
    one, other = state(), state()
    one[FC] = torch.zeros_like(one[FC], dtype=torch.uint8)
    other[FC] = torch.full_like(one[FC], 255)
    report = compare(saved(tmp_path, "a.safetensors", one), saved(tmp_path, "b.safetensors", other))
    (row,) = [row for row in report.results if row.tap == FC]
    assert row.status.value == "fail"
    assert row.value_ours is not None
    assert row.value_against is not None
    assert abs(row.value_ours - row.value_against) == 255.0


def test_the_words_have_names_and_numbers(tmp_path: Path) -> None:
    a = saved(tmp_path, "a.safetensors", first_state())
    changed = first_state()
    rename(changed)
    changed[PROJ] = changed[PROJ].half().float()
    changed["blocks.10.proj.weight"][1, 2] += 0.5
    report = compare(a, saved(tmp_path, "b.safetensors", changed))
    found = {row.tap: row for row in report.results}
    assert found[FC].detail == "B has its values as 'h.2.linear'"
    assert "B is rounded to float16: values change by up to " in found[PROJ].detail
    other = found["blocks.10.proj.weight"]
    assert other.detail == "1 of 16 elements differ"
    assert (other.error_ours, other.worst_index) == (1.0, (1, 2))
    assert other.value_ours is not None
    assert other.value_against is not None
    assert other.value_ours - other.value_against == pytest.approx(0.5)
    assert [row[:2] for row in report.appendix[0].rows] == [
        ("under another name", "1"),
        ("rounded", "1"),
        ("of other values", "1"),
    ]


def test_the_narrow_side_is_named(tmp_path: Path) -> None:
    wide, narrow = state(), state()
    narrow[FC] = narrow[FC].bfloat16()
    a = saved(tmp_path, "a.safetensors", narrow)
    report = compare(a, saved(tmp_path, "b.safetensors", wide))
    assert {r.tap: r.detail.split(":")[0] for r in report.results if r.tap == FC} == {
        FC: "A is rounded to bfloat16"
    }


def test_equal_constants_are_no_swap(tmp_path: Path) -> None:
    one, other = state(), state()
    for tensors, zero in ((one, "blocks.2.fc.bias"), (other, BIAS)):
        tensors[zero] = torch.zeros(12)
    one["blocks.2.fc.bias"], other["blocks.2.fc.bias"] = torch.zeros(12), torch.full((12,), 0.3)
    a = saved(tmp_path, "a.safetensors", one)
    report = compare(a, saved(tmp_path, "b.safetensors", other))
    assert tuple(report.details["kinds"]) == ("of other values",)


def test_renamed_constants_are_paired_in_order(tmp_path: Path) -> None:
    one = state() | {f"ln.{i}.weight": torch.ones(4) for i in (2, 10)}
    other = state() | {f"norm.{i}.scale": torch.ones(4) for i in (2, 10)}
    a = saved(tmp_path, "a.safetensors", one)
    report = compare(a, saved(tmp_path, "b.safetensors", other))
    found = {row.tap: row.detail for row in report.results if row.detail}
    assert found == {f"ln.{i}.weight": f"B has its values as 'norm.{i}.scale'" for i in (2, 10)}


SUFFIXES = ["npz", pytest.param("pt", marks=UNPICKLES), pytest.param("bin", marks=UNPICKLES)]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_form_of_the_file_makes_no_difference(suffix: str, tmp_path: Path) -> None:
    a = saved(tmp_path, "a.safetensors", first_state())
    b = saved(tmp_path, f"b.{suffix}", first_state())
    report = compare(a, b)
    assert (report.exit_code, report.plan.per_backend) == (0, {"B": (6, 6)})
    assert [file["name"] for file in report.identity["weights"]["files"]] == [
        "A: a.safetensors",
        f"B: b.{suffix}",
    ]


@UNPICKLES
def test_a_state_within_a_training_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save({"model": state(), "step": 3}, tmp_path / "b.pt")
    report = compare(saved(tmp_path, "a.npz", state()), tmp_path / "b.pt")
    assert report.exit_code == 0
    assert any("'model'" in note for note in report.identity["weights"]["notes"])


def test_shards_are_one_model(tmp_path: Path) -> None:
    whole = state()
    folder = tmp_path / "sharded"
    folder.mkdir()
    names = sorted(whole)
    index = {}
    for place, part in enumerate((names[:2], names[2:])):
        file = f"part-{place}.safetensors"
        saved(folder, file, {name: whole[name] for name in part})
        index |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    report = compare(saved(tmp_path, "a.safetensors", whole), folder)
    assert (report.exit_code, report.plan.compared) == (0, 6)


def test_a_tied_head_and_masks_are_left_out(tmp_path: Path) -> None:
    one, other = state(), state()
    other["lm_head.weight"] = other["wte.weight"].clone()
    other["blocks.2.bias"] = torch.ones(1, 1, 5, 5).tril()
    one["blocks.2.masked"] = torch.ones(1, 1, 5, 5, dtype=torch.bool).tril()
    a = saved(tmp_path, "a.safetensors", one)
    report = compare(a, saved(tmp_path, "b.safetensors", other))
    assert (report.exit_code, report.plan.per_backend) == (0, {"B": (6, 6)})
    assert sorted(report.identity["weights"]["notes"]) == [
        "A: 'blocks.2.masked' is a causal mask, left out",
        "B: 'blocks.2.bias' is a causal mask, left out",
        "B: 'lm_head.weight' repeats 'wte.weight' to the bit, left out",
    ]


@pytest.mark.parametrize("what", ["head", "mask"])
def test_another_head_or_mask_is_not_left_out(what: str, tmp_path: Path) -> None:
    other = state()
    name = "lm_head.weight" if what == "head" else "blocks.2.bias"
    extra = other["wte.weight"].clone() if what == "head" else torch.ones(1, 1, 5, 5).tril()
    extra.view(-1)[2] += 0.5
    a = saved(tmp_path, "a.safetensors", state())
    report = compare(a, saved(tmp_path, "b.safetensors", other | {name: extra}))
    assert differing(report) == {name: "extra"}


@pytest.mark.parametrize(
    ("name", "extra"),
    [
        ("scale", torch.ones(1, 1, 1, 1)),
        ("lm_head.weight", torch.zeros(12)),  # as a bias
        ("lm_head.weight", torch.tensor([0.25])),
        ("lm_head.weight", torch.zeros(0, 4)),
    ],
)
def test_one_number_throughout_is_no_mask_and_no_tied_head(
    name: str, extra: Tensor, tmp_path: Path
) -> None:
    other = state() | {BIAS: torch.zeros(12), "gain": torch.tensor([0.25]), "empty": extra[:0]}
    a = saved(tmp_path, "a.safetensors", other)
    b = saved(tmp_path, "b.safetensors", other | {name: extra})
    for order, status in (((a, b), "extra"), ((b, a), "missing")):
        report = compare(*order)
        assert (report.exit_code, differing(report)) == (1, {name: status})


def test_nothing_in_common_is_inconclusive(tmp_path: Path) -> None:
    a = saved(tmp_path, "a.safetensors", {"x": torch.tensor([0.3, 1.5])})
    b = saved(tmp_path, "b.npz", {"y": torch.tensor([0.7, 2.5])})
    report = compare(a, b)
    assert (report.exit_code, report.verdict.value) == (3, "inconclusive")
    assert [reason.what for reason in report.reasons] == [
        "no tensor is on both sides, under any name"
    ]


def test_two_tensors_are_in_memory_at_once() -> None:
    """All of one side in float64 would be too much."""
    tensors = {f"h.{i}.w": torch.randn(4, 3) for i in range(20)}
    alive: list[weakref.ref[Tensor]] = []
    most = 0

    def read(name: str, change: float) -> Tensor:
        nonlocal most
        made = tensors[name] + change
        alive.append(weakref.ref(made))
        most = max(most, sum(one() is not None for one in alive))
        return made

    sides = [
        TensorFiles(names=list(tensors), read=lambda name, by=by: read(name, by))  # type: ignore[misc]
        for by in (0.0, 0.25)
    ]
    found = list(module._compare(*sides, no_progress))
    assert (len(found), all(one.kinds for one in found)) == (20, True)
    assert most <= 4


# A GPT-1 with something wrong.


def copied(folders: Path, tmp_path: Path, change: Callable[[State], None]) -> Path:
    """Return a folder in Hugging Face's form with changed tensors."""
    folder = tmp_path / "changed"
    shutil.copytree(folders / "huggingface", folder)
    tensors = dict(load_file(folder / "model.safetensors"))
    change(tensors)
    save_file(tensors, folder / "model.safetensors")
    return folder


def test_a_whole_model_of_half_precision_is_rounded(folders: Path, tmp_path: Path) -> None:
    def halve(tensors: State) -> None:
        tensors |= {name: tensor.half() for name, tensor in tensors.items()}

    report = compare(folders / "openai", copied(folders, tmp_path, halve))
    assert (report.exit_code, report.inputs["names"]) == (1, "ours")
    assert set(report.details["kinds"]) == {"rounded"}
    assert "B: stored as float16, compared in float32" in report.identity["weights"]["notes"]


def test_a_folder_without_a_tensor_is_compared_all_the_same(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, tmp_path, lambda t: t.pop("transformer.h.4.ln_1.bias"))
    report = compare(folders / "huggingface", folder)
    assert differing(report) == {"transformer.h.4.ln_1.bias": "missing"}
    assert any("its tensors are not this model's" in n for n in report.identity["weights"]["notes"])
    other = compare(folders / "openai", folder)  # under the names in the folder
    assert differing(other) == {"transformer.h.4.ln_1.bias": "missing"}


@pytest.mark.parametrize(
    ("field", "value", "code"), [("n_head", 1, 1), ("initializer_range", 0.5, 0)]
)
def test_another_config_is_listed(
    field: str, value: float, code: int, folders: Path, tmp_path: Path
) -> None:
    """One that changes the function is a difference, though every tensor is equal."""
    folder = copied(folders, tmp_path, lambda _: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    report = compare(folders / "openai", folder)
    assert (report.exit_code, differing(report)) == (code, {})
    assert report.details["config"] == {field: {"a": config.get(field, 0.02), "b": value}}
    assert [row[0] for row in report.appendix[0].rows] == [field]
    assert [field in reason.what for reason in report.reasons] == [True] * code


def test_configs_of_models_that_are_not_whole_are_compared(folders: Path, tmp_path: Path) -> None:
    folder = copied(folders, tmp_path, lambda t: t.pop("transformer.h.4.ln_1.bias"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"n_head": 1, "made_by": "hand"}))
    report = compare(folders / "huggingface", folder)
    assert [reason.what for reason in report.reasons] == [
        "the configs give different functions: n_head"
    ]
    assert report.details["config"]["made_by"] == {"a": "absent", "b": "hand"}


def test_equal_configs_with_nan_are_equal(folders: Path, tmp_path: Path) -> None:
    one = copied(folders, tmp_path, lambda _: None)
    config = json.loads((one / "config.json").read_text())
    changed = config | {"layer_norm_epsilon": float("nan"), "scales": [float("nan"), 0.25]}
    (one / "config.json").write_text(json.dumps(changed))
    other = Path(shutil.copytree(one, tmp_path / "other"))
    assert compare(one, other).exit_code == 0
    (other / "config.json").write_text(json.dumps(changed | {"layer_norm_epsilon": 1e-5}))
    report = compare(one, other)
    assert (report.exit_code, list(report.details["config"])) == (1, ["layer_norm_epsilon"])
    assert report.details["config"]["layer_norm_epsilon"] == {"a": "NaN", "b": 1e-5}


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 200_000, ""),
        ("[1]", "no JSON object"),
        ('{"n_head": ', "Expecting value"),
        ("folder", "it is a folder"),
    ],
)
def test_an_unsound_config_is_noted(text: str, what: str, tmp_path: Path) -> None:
    path = saved(tmp_path, "a.safetensors", state())
    config = tmp_path / "config.json"
    config.mkdir() if text == "folder" else config.write_text(text)
    report = compare(path, saved(tmp_path, "b.npz", state()))
    assert report.exit_code == 0
    notes = [n for n in report.identity["weights"]["notes"] if "config.json was not compared" in n]
    assert [what in note for note in notes] == [True, True]


@pytest.mark.parametrize(
    "text", ['{"a": %s}' % ("[" * 600 + "]" * 600), '{"a": "\\ud800", "b": 1e999}']
)
def test_a_strange_config_is_reported_in_every_form(text: str, tmp_path: Path) -> None:
    a = saved(tmp_path, "a.safetensors", state())
    (tmp_path / "config.json").write_text(text)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "config.json").write_text('{"a": 1, "b": 2}')
    report = compare(a, saved(tmp_path / "b", "b.npz", state()))
    assert "a" in report.details["config"]
    for form in parity.report.FORMS:
        assert parity.report.rendered(report, form).encode()


# Names and paths.


def test_a_folder_does_not_replace_a_name(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the name of drawn weights nor of released ones that cannot be read."""
    monkeypatch.chdir(tmp_path)
    for name in ("tiny", "openai-gpt"):
        shutil.copytree(folders / "huggingface", tmp_path / name)
        tensors = dict(load_file(tmp_path / name / "model.safetensors"))
        tensors["transformer.h.4.ln_1.bias"] += 1
        save_file(tensors, tmp_path / name / "model.safetensors")
    saved(tmp_path, "other.npz", tensors)
    expected = {"transformer.h.4.ln_1.bias": "fail"}
    assert differing(compare("tiny", "other.npz")) == expected
    assert set(differing(compare("tiny", "./tiny"))) == {"h.4.ln_1.bias"}

    def damaged(*_arguments: object, **_named: object) -> None:
        raise RejectedError("damaged", where="the cache", fix="fetch it again")

    monkeypatch.setattr(load.hub, "fetch", damaged)
    with pytest.raises(InputRejectedError, match="damaged"):
        compare("openai-gpt", "other.npz")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("{}", "{}/model.safetensors"),
        ("{}/model.safetensors", "{}"),
        ("{}", "{}/../link"),
        ("{}/b.npz", "{}/hard.npz"),
    ],
)
@pytest.mark.parametrize("left_out", ["none", "transformer.h.4.ln_1.bias"])
def test_one_file_by_two_paths_is_rejected(
    first: str, second: str, left_out: str, folders: Path, tmp_path: Path
) -> None:
    """Of a whole GPT-1, and of one without a tensor."""
    folder = copied(folders, tmp_path, lambda tensors: tensors.pop(left_out, None))
    (tmp_path / "link").symlink_to(folder)
    saved(folder, "b.npz", state())
    (folder / "hard.npz").hardlink_to(folder / "b.npz")
    with pytest.raises(UsageError, match="both are the same"):
        compare(first.format(folder), second.format(folder))


def test_one_draw_by_two_names_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = load.load_surrogate
    monkeypatch.setattr(module, "load_weights", lambda *_, **_named: draw("tiny"))
    with pytest.raises(UsageError, match="both are the same"):
        compare("auto", "surrogate")


# Bad files: an error with a fix, and the files as they were.


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def page(path: Path) -> None:
    path.write_text("<!doctype html><html>not here</html>")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def objects(path: Path) -> None:
    np.savez(path, a=np.array([{"a": 1}], dtype=object))


def words(path: Path) -> None:
    np.savez(path, a=np.array(["one", "two"]))


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes(40 << 20))


def huge(path: Path) -> None:
    """Write an array whose header claims 40 TB."""
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (5000000000000,), }"
    body = b"\x93NUMPY\x01\x00" + (len(header) + 1).to_bytes(2, "little") + header + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", body + bytes(64))


def twice(path: Path) -> None:
    np.savez(path, a=np.arange(3.0))
    data = zipfile.ZipFile(path).read("a.npy")
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as archive:
        archive.writestr("a.npy", data)


def raw(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"hello")


def behind_others(path: Path) -> None:
    """Write an archive with bytes before it, which zipfile reads."""
    np.savez(path, a=np.arange(3.0))
    path.write_bytes(b"bytes before it" + path.read_bytes())


def behind_an_array(path: Path) -> None:
    np.savez(path, a=np.arange(3.0))
    found = path.read_bytes()
    with path.open("wb") as file:
        np.save(file, np.arange(5.0))
        file.write(found)


def trailing(path: Path) -> None:
    np.savez(path, a=np.arange(3.0))
    data = zipfile.ZipFile(path).read("a.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", data + b"more")


def hostile_name(path: Path) -> None:
    np.savez(path, **{"a\x1b[31m": np.arange(3.0)})  # type: ignore[arg-type]


def raw_bfloat16(path: Path) -> None:
    np.savez(path, a=np.arange(6, dtype=np.uint16).view("V2"))


@pytest.mark.parametrize(
    ("name", "damage", "words_of_it"),
    [
        ("b.safetensors", truncated, "truncated"),
        ("b.safetensors", page, "HTML"),
        ("b.safetensors", empty, "too few"),
        ("b.npz", truncated, "no whole .npz archive"),
        ("b.npz", page, "HTML"),
        ("b.npz", empty, "no whole .npz archive"),
        ("b.npz", objects, "allow_pickle=False"),
        ("b.npz", words, "not of numbers"),
        ("b.npz", bomb, "unpacks to"),
        ("b.npz", huge, "cannot be read"),
        ("b.npz", twice, "arrays of different names"),
        ("b.npz", raw, "cannot be read"),
        ("b.npz", behind_others, "no whole .npz archive"),
        ("b.npz", behind_an_array, "a NumPy array"),
        ("b.npz", trailing, "other bytes follow"),
        ("b.npz", hostile_name, "printable name"),
        ("b.npz", raw_bfloat16, "cannot hold bfloat16"),
        ("b.txt", page, "names"),
    ],
)
def test_a_bad_file_is_an_error_with_a_fix(
    name: str,
    damage: Callable[[Path], None],
    words_of_it: str,
    tmp_path: Path,
    check: Callable[..., Any],
) -> None:
    a = saved(tmp_path, "a.npz", {"a": torch.arange(3.0)})
    b = tmp_path / name
    if b.suffix != ".txt":
        saved(tmp_path, name, state())
    damage(b)
    before = {path: path.read_bytes() for path in (a, b)}
    for order in ((a, b), (b, a)):
        result = check("weights", *map(str, order))
        assert result.exit_code == 4, result.output
        assert words_of_it in result.stderr
        assert "\n  fix " in result.stderr
        assert "\x1b" not in result.stderr
    assert {path: path.read_bytes() for path in (a, b)} == before


def test_arrays_are_read_by_their_exact_names(tmp_path: Path) -> None:
    arrays = {name: torch.tensor([number]) for name, number in {"a": 0.5, "a.npy": 0.7}.items()}
    found = open_tensors(saved(tmp_path, "a.npz", arrays))
    assert {name: found.read(name) for name in found.names} == arrays


@UNPICKLES
@pytest.mark.parametrize("dtype", [torch.complex128, torch.complex64, torch.float8_e5m2])
def test_a_dtype_that_is_not_read_is_rejected(dtype: torch.dtype, tmp_path: Path) -> None:
    b = saved(tmp_path, "b.pt", state() | {"odd": torch.ones(3).to(dtype)})
    a = saved(tmp_path, "a.npz", state())
    with pytest.raises(InputRejectedError, match=rf"'odd' is of {dtype}"):
        compare(a, b)


@UNPICKLES
def test_no_code_in_a_file_is_run(tmp_path: Path, check: Callable[..., Any]) -> None:
    class Evil:
        def __reduce__(self) -> Any:  # noqa: ANN401
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"a": Evil()}, tmp_path / "b.pt")
    result = check("weights", "tiny", str(tmp_path / "b.pt"))
    assert (result.exit_code, (tmp_path / "ran").exists()) == (4, False)


def test_a_file_that_changes_while_it_is_read_is_rejected(tmp_path: Path) -> None:
    for name in ("a.safetensors", "a.npz"):
        path = saved(tmp_path, name, state())
        opened = open_tensors(path)
        saved(tmp_path, name, {key: tensor + 1 for key, tensor in state().items()} | {"c": BYTE})
        with pytest.raises(InputRejectedError, match=r"changed|cannot be read"):
            opened.read(PROJ)


BYTE = torch.tensor([1], dtype=torch.uint8)


def test_an_array_of_another_byte_order_is_equal(tmp_path: Path) -> None:
    whole = {name: tensor.numpy() for name, tensor in state().items()}
    np.savez(tmp_path / "b.npz", **{k: v.astype(">f4") for k, v in whole.items()})  # type: ignore[arg-type]
    report = compare(saved(tmp_path, "a.safetensors", state()), tmp_path / "b.npz")
    assert report.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["tiny"], "two sources are compared"),
        (["tiny", "surrogate", "auto"], "two sources are compared"),
        (["tiny", "tiny"], "both are the same"),
        (["tiny", "surrogate", "--weights", "tiny"], "--weights tiny"),
        (["tiny", "nonsense"], "names no weights"),
    ],
)
def test_wrong_arguments(arguments: list[str], what: str, check: Callable[..., Any]) -> None:
    result = check("weights", *arguments)
    assert (result.exit_code, what in result.stderr, "\n  fix " in result.stderr) == (
        2,
        True,
        True,
    ), result.stderr


def test_the_same_file_by_another_path_is_rejected(
    tmp_path: Path, check: Callable[..., Any]
) -> None:
    path = saved(tmp_path, "a.npz", state())
    (tmp_path / "link.npz").symlink_to(path)
    result = check("weights", str(path), str(tmp_path / "link.npz"))
    assert (result.exit_code, "both are the same" in result.stderr) == (2, True)


@pytest.mark.parametrize("form", ["text", "json"])
def test_the_command_reports_the_differences(
    form: str, tmp_path: Path, check: Callable[..., Any]
) -> None:
    changed = state()
    rename_transposed(changed)
    a = saved(tmp_path, "a.safetensors", state())
    b = saved(tmp_path, "b.npz", changed)
    result = check("weights", str(a), str(b), "--format", form)
    assert (result.exit_code, result.stderr) == (1, "")
    for word in ("h.2.linear", "under another name", "transposed", FC):
        assert word in result.stdout
