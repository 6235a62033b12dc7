"""The full-size surrogate in every form that weights are published in, there and back."""

import gc
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

from parity.checkpoints.export import Form, export
from parity.checkpoints.load import load_weights
from parity.checkpoints.weights import Weights
from reference import compat, surrogate
from reference.openai_release import SHARDS
from scratch_gpt import GPT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


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


def assert_same_bits(found: Weights, expected: Weights) -> None:
    assert len(found.tensors) == len(expected.tensors) == 146
    for name, array in expected.tensors.items():
        assert np.array_equal(array.view(np.uint32), found.tensors[name].view(np.uint32)), name
    assert found.provenance.sha256 == expected.provenance.sha256


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
def test_the_hubs_forms(form: str, full: Weights, tmp_path: Path) -> None:
    """The published files have 478,722,048 bytes of numbers: 146 tensors and masks."""
    write_published(full, tmp_path / "hub", form)
    found = load_weights(str(tmp_path / "hub"))
    assert (tmp_path / "hub" / form).stat().st_size > 478_722_048
    assert_same_bits(found, full)


def test_the_release_and_back(full: Weights, tmp_path: Path) -> None:
    first, second, third = (tmp_path / name for name in ("1", "2", "3"))
    for source, folder, form in (
        (full, first, Form.OPENAI),
        (first, second, Form.HUGGINGFACE),
        (second, third, Form.OPENAI),
    ):
        weights = source if isinstance(source, Weights) else load_weights(str(source))
        assert_same_bits(weights, full)
        export(weights, folder, form, overwrite=False, progress=lambda *_: None)
    for name in (*SHARDS, "params_shapes.json", "config.json"):
        assert (first / name).read_bytes() == (third / name).read_bytes(), name


def test_our_own_folder(full: Weights, tmp_path: Path) -> None:
    config = {**surrogate.SIZES["surrogate"]}
    export(full, tmp_path / "new", Form.HUGGINGFACE, overwrite=False, progress=lambda *_: None)
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
