"""Weights in Hugging Face's forms: one file or shards, sound or not at all."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from parity.checkpoints import huggingface_files
from parity.checkpoints.load import load_weights
from parity.checkpoints.mapping import Side, convert
from parity.checkpoints.weights import FileDigest, Shard, Weights
from parity.errors import ExitCode, InconclusiveError, ParityError
from reference import compat

State = dict[str, Tensor]
SameBits = Callable[[Weights, Weights], None]
Write = Callable[..., Path]

needs_safe_torch = pytest.mark.skipif(
    not compat.unpickles_safely(), reason="on this torch no file of torch.save is read"
)


@pytest.fixture(scope="module")
def state(weights: Weights) -> State:
    named = convert(weights.tensors, weights.config, source=Side.OURS, target=Side.HUGGINGFACE)
    return {name: torch.from_numpy(array.copy()) for name, array in named.items()}


@pytest.fixture(scope="module")
def fields(weights: Weights) -> dict[str, Any]:
    return dict(weights.config)


@pytest.fixture
def write(tmp_path: Path, state: State, fields: dict[str, Any]) -> Write:
    """Write a folder in one of the four forms."""

    def write(
        form: str = "model.safetensors", tensors: State = state, config: object = fields
    ) -> Path:
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        save = save_file if "safetensors" in form else torch.save
        if not form.endswith(".index.json"):
            save(tensors, tmp_path / form)
            return tmp_path
        suffix = "safetensors" if "safetensors" in form else "bin"
        weight_map = {}
        for number, names in enumerate(np.array_split(list(tensors), 3)):
            shard = f"part-{number}.{suffix}"
            save({str(name): tensors[name] for name in names}, tmp_path / shard)
            weight_map |= dict.fromkeys(map(str, names), shard)
        index = {"metadata": {}, "weight_map": weight_map}
        (tmp_path / form).write_text(json.dumps(index), encoding="utf-8")
        return tmp_path

    return write


FC = "transformer.h.3.mlp.c_fc.weight"


def refusal(path: Path, code: ExitCode = ExitCode.REFUSED) -> ParityError:
    with pytest.raises(ParityError) as caught:
        load_weights(str(path))
    assert caught.value.exit_code is code, caught.value
    assert "\n" not in caught.value.what + caught.value.fix
    return caught.value


FORMS = [
    "model.safetensors",
    "model.safetensors.index.json",
    pytest.param("pytorch_model.bin", marks=needs_safe_torch),
    pytest.param("pytorch_model.bin.index.json", marks=needs_safe_torch),
]


@pytest.mark.parametrize("given", ["folder", "file"])
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_to_the_bit(
    form: str, given: str, write: Write, weights: Weights, assert_same_bits: SameBits
) -> None:
    folder = write(form)
    found = load_weights(str(folder if given == "folder" else folder / form))
    assert_same_bits(found, weights)
    files = {file.name: file.size for file in found.provenance.files}
    assert files == {p.name: p.stat().st_size for p in folder.iterdir()}
    parts = [name for name in files if name.startswith("part-")]
    assert parts == sorted(parts)
    assert found.provenance.standing == "unknown"


def bare(state: State) -> State:
    """Return the names of a model without a head, as the published file has them."""
    return {name.removeprefix("transformer."): tensor for name, tensor in state.items()}


def with_buffers(state: State) -> State:
    """Add what old versions saved: causal masks, positions and the head."""
    extra = {f"h.{i}.attn.bias": torch.ones(1, 1, 3, 3).tril() for i in range(12)}
    head = {"lm_head.weight": state["tokens_embed.weight"].clone()}
    return state | extra | {"position_ids": torch.arange(3)} | head


@pytest.mark.parametrize(
    "change", [bare, lambda state: with_buffers(bare(state))], ids=["bare", "with buffers"]
)
def test_older_names_are_the_same_weights(
    change: Callable[[State], State],
    write: Write,
    state: State,
    weights: Weights,
    assert_same_bits: SameBits,
) -> None:
    assert_same_bits(load_weights(str(write(tensors=change(state)))), weights)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened_exactly_and_said(
    dtype: torch.dtype, write: Write, state: State
) -> None:
    narrow = {name: tensor.to(dtype) for name, tensor in state.items()}
    found = load_weights(str(write(tensors=narrow)))
    name = "h.3.mlp.c_fc.weight"
    assert np.array_equal(found.tensors[name], narrow[f"transformer.{name}"].float().numpy())
    assert found.provenance.dtype == str(dtype).removeprefix("torch.")


def test_every_dtype_of_a_mixed_file_is_said(write: Write, state: State) -> None:
    dtypes = dict(zip(state, 50 * [torch.float16, torch.float32, torch.bfloat16], strict=False))
    mixed = {name: tensor.to(dtypes[name]) for name, tensor in state.items()}
    found = load_weights(str(write(tensors=mixed)))
    assert found.provenance.dtype == "bfloat16, float16, float32"
    for name, tensor in mixed.items():
        read = found.tensors[name.removeprefix("transformer.")]
        assert np.array_equal(read, tensor.float().numpy()), name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"transformer.h.3.ln_1.bias": None}, ["missing", "'h.3.ln_1.bias'"]),
        ({"transformer.tokens_embed.weight": None}, ["missing", "tokens_embed"]),
        ({FC: lambda t: t.T}, ["'h.3.mlp.c_fc.weight'", "[84, 21]", "expected [21, 84]"]),
        ({FC: lambda t: t.double() * 1e300}, ["h.3.mlp.c_fc.weight", "float64"]),
        ({FC: lambda t: t.index_fill(0, torch.tensor([1]), torch.nan)}, ["84", "c_fc"]),
        ({"lm_head.weight": torch.ones(211, 21)}, ["lm_head"]),
    ],
    ids=["layer", "embedding", "turned", "too large", "nan", "untied"],
)
def test_tensors_that_are_not_the_models_are_refused(
    change: dict[str, Any], words: list[str], write: Write, state: State
) -> None:
    """A tensor is left out, added or changed."""
    changed = dict(state)
    for name, new in change.items():
        old = changed.pop(name, None)
        if new is not None:
            changed[name] = (new(old) if callable(new) else new).contiguous()
    what = refusal(write(tensors=changed)).what
    assert not [word for word in words if word not in what], what


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ([], "not a JSON object"),
        ({"n_layer": 13}, "missing"),
        ({"n_head": 5}, "multiple of n_head"),
        ({"vocab_size": 212}, "tokens_embed"),
        ({"n_embd": 10**30}, "n_embd"),
        ({"afn": "relu"}, "afn"),
        ({"layer_norm_epsilon": -1.0}, "layer_norm_epsilon"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_config_that_is_not_the_weights_is_refused(
    config: object, words: str, write: Write, fields: dict[str, Any]
) -> None:
    folder = write(config=(fields | config) if isinstance(config, dict) else config)
    what = refusal(folder).what
    assert words in what, what


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "there is no config.json beside the weights"),
        ("", "config.json: Expecting value"),
        ('{"n_layer": 12', "config.json: Expecting"),
        ('{"n_layer": 12, "n_layer": 12}', "twice"),
        ('{"layer_norm_epsilon": NaN}', "NaN"),
        ("[" * 100_000, "nested too deeply"),
    ],
    ids=["missing", "empty", "cut", "twice", "NaN", "deep"],
)
def test_a_config_that_is_no_json_is_refused(text: str | None, words: str, write: Write) -> None:
    path = write() / "config.json"
    path.unlink() if text is None else path.write_text(text, encoding="utf-8")
    assert words in refusal(path.parent).what


def test_transformers_and_we_must_read_one_model(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Other(huggingface_files.OpenAIGPTConfig):
        @classmethod
        def from_dict(cls, fields: dict[str, Any], **_: object) -> object:
            return stock(**{**fields, "n_head": 7})

    stock = huggingface_files.OpenAIGPTConfig
    monkeypatch.setattr(huggingface_files, "OpenAIGPTConfig", Other)
    assert "n_head: 7 and 3" in refusal(write()).what


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda m: m | {"x": "part-9.safetensors"}, "no such file"),
        (lambda m: m | {"x": "../part-0.safetensors"}, "plain file"),
        (lambda m: m | {"x": ".."}, "plain file"),
        (lambda m: m | {"x": 3}, "plain file"),
        (lambda _: {}, "plain file"),
        (lambda _: [], "plain file"),
    ],
    ids=["no shard", "outside", "parent", "number", "empty", "list"],
)
def test_an_index_that_is_not_its_shards_is_refused(
    change: Callable[[Any], Any], words: str, write: Write
) -> None:
    path = write("model.safetensors.index.json") / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    path.write_text(json.dumps({"weight_map": change(weight_map)}), encoding="utf-8")
    assert words in refusal(path).what


@pytest.mark.parametrize(
    ("change", "note"),
    [
        (
            lambda m: m | {"transformer.h.0.ln_1.bias": "part-2.safetensors"},
            ": 'transformer.h.0.ln_1.bias' not listed",
        ),
        (
            lambda m: {n: f for n, f in m.items() if n != "transformer.h.0.ln_1.bias"},
            ": 'transformer.h.0.ln_1.bias' not listed",
        ),
        (
            lambda m: {n: f for n, f in m.items() if ".h.3." not in n},
            "'transformer.h.3.attn.c_proj.weight' and 8 more not listed",
        ),
        (lambda m: m | {"lm_head.weight": "part-0.safetensors"}, "does not hold it"),
    ],
    ids=["wrong", "unnamed", "block", "tied"],
)
def test_what_the_shards_hold_is_read_whatever_the_index_lists(
    change: Callable[[Any], Any],
    note: str,
    write: Write,
    weights: Weights,
    assert_same_bits: SameBits,
) -> None:
    """As transformers does."""
    path = write("model.safetensors.index.json") / "model.safetensors.index.json"
    weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
    path.write_text(json.dumps({"weight_map": change(weight_map)}), encoding="utf-8")
    found = load_weights(str(path))
    assert_same_bits(found, weights)
    assert any(note in one for one in found.provenance.notes)


def test_safetensors_is_taken_before_torch_save(
    write: Write, weights: Weights, assert_same_bits: SameBits
) -> None:
    """As transformers does; the pickle is not even opened. Of a folder that is noted."""
    folder = write()
    (folder / "pytorch_model.bin").write_bytes(b"not looked at")
    notes = ["pytorch_model.bin: beside model.safetensors, not read"]
    for path, expected in ((folder, notes), (folder / "model.safetensors", [])):
        found = load_weights(str(path))
        assert_same_bits(found, weights)
        assert list(found.provenance.notes) == expected


@pytest.mark.parametrize("swapped", [True, False])
def test_a_form_under_another_forms_name_is_refused(*, swapped: bool, write: Write) -> None:
    folder = write("pytorch_model.bin" if swapped else "model.safetensors")
    wrong = ("pytorch_model.bin", "model.safetensors")[:: 1 if swapped else -1]
    (folder / wrong[0]).rename(folder / wrong[1])
    refusal(folder)


def test_nothing_in_a_file_is_inconclusive(write: Write) -> None:
    folder = write(tensors={})
    assert refusal(folder, ExitCode.INCONCLUSIVE).exit_code is InconclusiveError.exit_code


@pytest.mark.parametrize("name", ["notes.txt", ".metadata", None])
def test_a_folder_without_weights_is_refused(name: str | None, tmp_path: Path) -> None:
    if name is not None:
        (tmp_path / name).write_bytes(b"x")
    error = refusal(tmp_path)
    assert ("would run as a program" in error.what) is (name == ".metadata")
    if name != ".metadata":
        assert error.where == f"{tmp_path}: {'it is empty' if name is None else repr(name)}"


VOCABULARIES = {
    **{f"{n}": (range(n), f"has {n} tokens, the token embedding 211 rows") for n in (210, 212)},
    **{str(ids): (ids, "each once") for ids in ([0, 0], [1, 2], [0, 2], [0, "1"], [0, True])},
}


@pytest.mark.parametrize("case", VOCABULARIES)
def test_another_vocabulary_is_noted(
    case: str, write: Write, weights: Weights, assert_same_bits: SameBits
) -> None:
    ids, words = VOCABULARIES[case]
    folder = write()
    text = json.dumps({f"t{place}": number for place, number in enumerate(ids)})
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    found = load_weights(str(folder))
    assert_same_bits(found, weights)
    (note,) = found.provenance.notes
    assert words in note


def test_a_vocabulary_that_is_no_json_is_noted(write: Write) -> None:
    folder = write()
    (folder / "vocab.json").write_text("{", encoding="utf-8")
    (note,) = load_weights(str(folder)).provenance.notes
    assert note.startswith("vocab.json is not used: vocab.json: it is no JSON")


def test_the_right_vocabulary_is_taken(
    write: Write, weights: Weights, assert_same_bits: SameBits
) -> None:
    folder = write()
    text = json.dumps({f"t{number}": number for number in range(211)})
    (folder / "vocab.json").write_text(text, encoding="utf-8")
    found = load_weights(str(folder))
    assert_same_bits(found, weights)
    assert list(found.provenance.notes) == []


@pytest.fixture
def manifest(weights: Weights, tmp_path: Path) -> Callable[..., Path]:
    """Write the manifest of a conversion of one file, with some keys changed."""

    def written(shards: list[Shard] | None, /, **changed: object) -> Path:
        made = dataclasses.replace(weights, shards=shards)
        text = huggingface_files.index_text(made, form="huggingface", files=[FILE])
        content = json.loads(text) | changed
        (tmp_path / "conversion.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return written


FILE = FileDigest(name="a.bin", size=7, sha256="0" * 64)
SHARDS = [Shard(5, "{'a': 1}"), Shard(2, "")]


@pytest.mark.parametrize("shards", [SHARDS, None])
def test_the_manifest_keeps_the_shards(
    shards: list[Shard] | None, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    assert huggingface_files.index_shards(tmp_path, [FILE]) is None
    assert huggingface_files.index_shards(manifest(shards), [FILE]) == shards


def test_the_manifest_describes_the_conversion(
    manifest: Callable[..., Path], weights: Weights
) -> None:
    found = json.loads((manifest(None) / "conversion.json").read_text(encoding="utf-8"))
    assert set(found.pop("versions")) == {"gpt1-parity", "torch", "numpy", "safetensors"}
    assert found == {
        "form": "huggingface",
        "source": json.loads(json.dumps(weights.identity)),
        "files": {"a.bin": {"size": 7, "sha256": "0" * 64}},
        "tensors": {name: list(array.shape) for name, array in weights.tensors.items()},
        "shards": None,
    }


@pytest.mark.parametrize(
    "changed",
    [
        {"files": {}},
        {"files": [7]},
        {"files": {"a.bin": {"size": 8, "sha256": "0" * 64}}},
        {"files": {"a.bin": {"size": 7, "sha256": "1" * 64}}},
    ],
    ids=str,
)
def test_the_manifest_of_other_files_is_out_of_date(
    changed: dict[str, Any], manifest: Callable[..., Path]
) -> None:
    assert huggingface_files.index_shards(manifest(SHARDS, **changed), [FILE]) is None


@pytest.mark.parametrize(
    "shards",
    [
        7,
        [7],
        [{"length": 5}],
        [{"length": "5", "header": ""}],
        [{"length": True, "header": ""}],
        [{"length": 5, "header": 3}],
        [{"length": 5, "header": "", "more": 1}],
    ],
    ids=str,
)
def test_shards_of_another_form_are_refused(shards: object, manifest: Callable[..., Path]) -> None:
    with pytest.raises(ParityError, match="its shards are no lengths and headers"):
        huggingface_files.index_shards(manifest(SHARDS, shards=shards), [FILE])


@pytest.mark.parametrize("name", ["weights.npz", "tf_model.h5", "rust_model.ot", "params_0.npy"])
def test_a_file_of_another_form_is_refused_with_those_there_are(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"x")
    caught = refusal(tmp_path / name)
    assert name in caught.what
    assert ".safetensors" in caught.fix
