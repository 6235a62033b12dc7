"""Weights written in either form: the bits, the files beside them, and what is not overwritten."""

import dataclasses
import errno
import gc
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from parity.checkpoints.export import FORMS, HUGGINGFACE, OPENAI, Form, export
from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from parity.core.runners import build_ours
from parity.errors import ParityError, UsageError
from reference import compat, openai_release, surrogate
from reference.openai_release import SHARDS
from scratch_gpt import GPT
from scratch_gpt.errors import CheckpointError, WriteError

SameBits = Callable[[Weights, Weights], None]


def write(weights: Weights, folder: Path, form: Form, *, overwrite: bool = False) -> Path:
    export(weights, folder, form, overwrite=overwrite, progress=lambda *_: None)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_what_is_written_reads_back_to_the_bit(
    form: Form, weights: Weights, tmp_path: Path, assert_same_bits: SameBits
) -> None:
    first = write(weights, tmp_path / "1", form)
    found = load_weights(str(first))
    assert len(found.tensors) == 146
    assert_same_bits(found, weights)
    assert contents(first) == contents(write(weights, tmp_path / "2", form))


def test_hugging_face_loads_it_whole(weights: Weights, tmp_path: Path) -> None:
    folder = write(weights, tmp_path / "new", HUGGINGFACE)
    _, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not [kind for kind, names in report.items() if names]


def header_of_2018(length: int) -> str:
    """Return a header as NumPy wrote it then: padded to 16 bytes, and now to 64."""
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({length},), }}"
    text += " " * (-(len(text) + 11) % 16) + "\n"
    return f"\x93NUMPY\x01\x00{chr(len(text) % 256)}{chr(len(text) // 256)}{text}"


@pytest.mark.parametrize("lengths", [None, [40_000, 1, 2, 3, 4, 5, 6, 7, 8, 39_344]], ids=str)
def test_there_and_back_gives_the_same_bytes(
    lengths: list[int] | None, weights: Weights, tmp_path: Path
) -> None:
    """The shards are cut where the source's were, and the vocabulary goes along."""
    first = write(weights, tmp_path / "1", OPENAI)
    if lengths is not None:
        release = openai_release.read_release(first)
        headers = [header_of_2018(length) for length in lengths]
        openai_release.write_release(
            first, release.tensors, config=release.config, lengths=lengths, headers=headers
        )
        assert (first / "params_1.npy").stat().st_size == 80 + 4
        (first / "conversion.json").unlink()
    tokens = json.dumps({f"t{number}": number for number in range(211)})
    (first / "encoder_bpe_40000.json").write_text(tokens, encoding="utf-8")
    (first / "vocab_40000.bpe").write_text("#version: 0.2\nt h\n", encoding="utf-8")
    second = write(load_weights(str(first)), tmp_path / "2", HUGGINGFACE)
    assert (second / "vocab.json").read_text(encoding="utf-8") == tokens
    assert (second / "merges.txt").exists()
    third = write(load_weights(str(second)), tmp_path / "3", OPENAI)
    before, after = contents(first), contents(third)
    after.pop("conversion.json")
    before.pop("conversion.json", None)
    assert after == before


def test_the_manifest_says_what_was_written_from_what(weights: Weights, tmp_path: Path) -> None:
    folder = write(weights, tmp_path / "new", HUGGINGFACE)
    manifest = json.loads((folder / "conversion.json").read_text(encoding="utf-8"))
    assert manifest["form"] == "huggingface"
    assert manifest["source"]["sha256"] == weights.provenance.sha256
    assert set(manifest["files"]) == {"config.json", "model.safetensors"}
    size = (folder / "model.safetensors").stat().st_size
    assert manifest["files"]["model.safetensors"]["size"] == size
    assert manifest["tensors"]["h.0.mlp.c_fc.weight"] == [21, 84]
    assert set(manifest["versions"]) == {"gpt1-parity", "torch", "numpy", "safetensors"}
    assert manifest["shards"] is None


@pytest.mark.parametrize(
    "text",
    [
        *("{", "[]", '{"shards": 3}', '{"shards": [1]}', '{"shards": [{"length": 1}]}'),
        '{"shards": [{"length": true, "header": ""}]}',
        '{"shards": [{"length": 1, "header": 1}]}',
    ],
)
def test_a_damaged_manifest_is_refused(text: str, weights: Weights, tmp_path: Path) -> None:
    folder = write(weights, tmp_path / "new", HUGGINGFACE)
    (folder / "conversion.json").write_text(text, encoding="utf-8")
    with pytest.raises(ParityError, match=r"conversion\.json"):
        load_weights(str(folder))


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_what_is_there_is_not_replaced_unasked(
    form: Form, weights: Weights, tmp_path: Path
) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UsageError, match="not empty") as refusal:
        write(weights, folder, form)
    assert "--force" in refusal.value.fix
    assert contents(folder) == {"notes.txt": b"mine"}
    write(weights, folder, form, overwrite=True)
    assert contents(folder)["notes.txt"] == b"mine"
    before = contents(folder)
    assert contents(write(weights, folder, form, overwrite=True)) == before


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
@pytest.mark.parametrize("name", ["pytorch_model.bin", "model-00001-of-00002.safetensors", "a.npy"])
def test_weights_are_never_laid_beside_others(
    form: Form, name: str, weights: Weights, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UsageError, match="beside the new ones"):
        write(weights, tmp_path, form, overwrite=True)
    assert contents(tmp_path) == {name: b"x"}


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
@pytest.mark.parametrize("at", ["config.json", "conversion.json"])
def test_a_failure_leaves_the_old_folder(
    form: Form, at: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(weights, tmp_path / "new", form)
    before = contents(folder)
    write_text = Path.write_text

    def full(path: Path, text: str, **options: str) -> int:
        if path.name == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return write_text(path, text, **options)

    def full_writer(source: Weights, staging: Path) -> None:
        form.write(source, staging)
        full(staging / "config.json", "")

    failing = dataclasses.replace(form, write=full_writer) if at == "config.json" else form
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(WriteError, match="the disk is full"):
        write(weights, folder, failing, overwrite=True)
    monkeypatch.undo()
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_what_reads_back_as_other_numbers_is_not_kept(
    form: Form, weights: Weights, tmp_path: Path
) -> None:
    """One bit of one number is enough; the folder does not appear."""

    def damaged(source: Weights, staging: Path) -> None:
        form.write(source, staging)
        file = staging / ("params_4.npy" if form is OPENAI else "model.safetensors")
        data = bytearray(file.read_bytes())
        data[-4_001] ^= 1
        file.write_bytes(data)

    with pytest.raises(ParityError, match="reads back as other weights"):
        write(weights, tmp_path / "new", dataclasses.replace(form, write=damaged))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", FORMS.values(), ids=str)
def test_what_does_not_read_back_names_no_folder_that_is_gone(
    form: Form, weights: Weights, tmp_path: Path
) -> None:
    silent = dataclasses.replace(form, write=lambda _weights, _folder: None)
    with pytest.raises(ParityError, match="does not read back") as caught:
        write(weights, tmp_path / "new", silent)
    assert ".partial" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_another_form_that_came_meanwhile_is_not_mixed_in(weights: Weights, tmp_path: Path) -> None:
    """The folder is examined again once no other process can write there."""
    folder = tmp_path / "both"

    def overtaken(source: Weights, staging: Path) -> None:
        HUGGINGFACE.write(source, staging)
        write(weights, folder, OPENAI)

    with pytest.raises(UsageError, match="beside the new ones"):
        write(weights, folder, dataclasses.replace(HUGGINGFACE, write=overtaken), overwrite=True)
    assert len(load_weights(str(folder)).tensors) == 146
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("folder", "a folder"),
        ("pipe", "a named pipe"),
        ("endless", "device"),
        ("dangling", "link"),
        ("large", "more than 16,777,216 bytes"),
    ],
)
def test_a_vocabulary_that_is_none_is_refused(
    kind: str, words: str, weights: Weights, tmp_path: Path
) -> None:
    source = write(weights, tmp_path / "source", HUGGINGFACE)
    path = source / "merges.txt"
    {
        "folder": path.mkdir,
        "pipe": lambda: os.mkfifo(path),
        "endless": lambda: path.symlink_to("/dev/zero"),
        "dangling": lambda: path.symlink_to("nothing"),
        "large": lambda: path.write_bytes(bytes((16 << 20) + 1)),
    }[kind]()
    with pytest.raises((ParityError, CheckpointError), match=words):
        write(load_weights(str(source)), tmp_path / "new", HUGGINGFACE)
    assert not (tmp_path / "new").exists()


def test_a_manifest_of_other_files_is_not_believed(weights: Weights, tmp_path: Path) -> None:
    first = write(weights, tmp_path / "1", OPENAI)
    second = write(load_weights(str(first)), tmp_path / "2", HUGGINGFACE)
    assert load_weights(str(second)).shards is not None
    build_ours(weights).save_pretrained(second)
    (second / "config.json").write_text(json.dumps(dict(weights.config)), encoding="utf-8")
    assert load_weights(str(second)).shards is None


# The full-size surrogate in every form that weights are published in.


@pytest.fixture(scope="module")
def full() -> Iterator[Weights]:
    yield load_weights("surrogate")
    gc.collect()


def write_published(weights: Weights, folder: Path, form: str) -> None:
    """Write weights as the hub has them: bare names, causal masks among them, no head."""
    tensors = {name: torch.from_numpy(array) for name, array in weights.tensors.items()}
    mask = torch.ones(512, 512).tril()[None, None]
    masks = {f"h.{index}.attn.bias": mask.clone() for index in range(12)}
    folder.mkdir()
    # As the hub's config of 2019: no dtype, and the length under its first name too.
    config = dict(weights.config) | {"n_ctx": 512, "n_special": 0, "predict_special_tokens": True}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    if form.endswith(".bin"):
        torch.save(tensors | masks, folder / form)
    else:
        save_file(tensors | masks, folder / form, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "form",
    [
        "model.safetensors",
        pytest.param(
            "pytorch_model.bin",
            marks=pytest.mark.skipif(
                not compat.unpickles_safely(),
                reason="on this torch no file of torch.save is read",
            ),
        ),
    ],
)
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_hubs_forms(
    form: str, full: Weights, tmp_path: Path, assert_same_bits: SameBits
) -> None:
    """The published files have 478,722,048 bytes of numbers: 146 tensors and masks."""
    write_published(full, tmp_path / "hub", form)
    found = load_weights(str(tmp_path / "hub"))
    assert (tmp_path / "hub" / form).stat().st_size > 478_722_048
    assert_same_bits(found, full)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_release_and_back(full: Weights, tmp_path: Path, assert_same_bits: SameBits) -> None:
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    for source, folder, form in (
        (full, first, OPENAI),
        (first, second, HUGGINGFACE),
        (second, third, OPENAI),
    ):
        weights = source if isinstance(source, Weights) else load_weights(str(source))
        assert_same_bits(weights, full)
        write(weights, folder, form)
    for name in (*SHARDS, "params_shapes.json", "config.json"):
        assert (first / name).read_bytes() == (third / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_our_own_folder(full: Weights, tmp_path: Path) -> None:
    config = {**surrogate.SIZES["surrogate"]}
    write(full, tmp_path / "new", HUGGINGFACE)
    ours = GPT.from_pretrained(tmp_path / "new", backend="plain")
    ours.save_pretrained(tmp_path / "again")
    written = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("new", "again")]
    assert written[0] == written[1]
    assert ours.config.n_layer == config["n_layer"]
    theirs, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "again", output_loading_info=True
    )
    assert not [kind for kind, names in report.items() if names]
    ids = torch.arange(7)[None] * 5_000
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs.eval()(ids).logits, rtol=1e-4, atol=1e-4)
